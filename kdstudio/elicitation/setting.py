"""Who takes part in a run, from a job's parameters: teachers, judge and student, and their terms of use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.catalogue.steps import SampleStep
from kdstudio.elicitation.pools import Pools
from kdstudio.elicitation.verdicts import Weighing, weighing_of
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms_stamp import terms_stamp
from kdstudio.project import Project
from kdstudio.recipe import ElicitationRecipe


@dataclass(frozen=True)
class Setting:
    """What a pipeline is given beside its recipe.

    `teachers`: all of the run; `faithful`: whoever answered a row's first question answers its others; `names`: of
    judge and student; `trace`: show what each step does; `weighing`: speaker -> the log-probs its answers have.
    """

    pools: Pools = field(default_factory=Pools)
    teachers: tuple[str, ...] = ()
    faithful: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    trace: bool = False
    weighing: Mapping[str, Weighing] = field(default_factory=dict)


def setting_of(project: Project, parameters: Mapping[str, Any], pools: Pools) -> Setting:
    """The pipeline's setting. `share` "all": each teacher answers, and goes on with the rows that it answered."""
    specs = [TeacherSpec(**spec) for spec in parameters.get("teachers") or (parameters["teacher"],)]
    others = {name: TeacherSpec(**spec) for name in ("judge", "student") if (spec := parameters.get(name))}
    return Setting(
        pools,
        tuple(spec.name for spec in specs),
        parameters.get("share") == "all" and len(specs) > 1,
        {role: spec.name for role, spec in others.items()},
        _terms(project, parameters.get("terms"), [*specs, *others.values()]),
        trace=bool(parameters.get("trial")),
        weighing=_weighing(project, specs, others),
    )


def _weighing(project: Project, specs: list[TeacherSpec], others: Mapping[str, TeacherSpec]) -> dict[str, Weighing]:
    """By speaker. Any teacher may have to speak for the others, and all of them for a judge that is not named."""
    speakers = {"teacher": specs, "judge": specs, **{role: [spec] for role, spec in others.items()}}
    known = {spec.name: _capabilities(project, spec.name) for spec in [*specs, *others.values()]}
    return {role: weighing_of(spoken, known) for role, spoken in speakers.items()}


def _terms(project: Project, given: Any, specs: list[TeacherSpec]) -> dict[str, str]:
    """Teacher -> stamp: as the job gives it (one for all, or a table), else what is known of each teacher."""
    if isinstance(given, str) and given:
        return dict.fromkeys((spec.name for spec in specs), given)
    known = dict(given) if isinstance(given, Mapping) else {}
    for spec in specs:
        if spec.name not in known:
            known[spec.name] = terms_stamp(spec, _capabilities(project, spec.name))
    return known


def _capabilities(project: Project, name: str) -> dict[str, Any]:
    try:
        return project.teachers.get(name).capabilities
    except BadInput:
        return {}  # a teacher that the project does not keep


def asking_everyone(recipe: ElicitationRecipe) -> ElicitationRecipe:
    """The recipe with its first question to a teacher put to all of them."""
    steps = list(recipe.step)
    for index, step in enumerate(steps):
        if isinstance(step, SampleStep) and step.speaker == "teacher":
            steps[index] = step.model_copy(update={"teachers": "all"})
            break
    return recipe.model_copy(update={"step": tuple(steps)})
