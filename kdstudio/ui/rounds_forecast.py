"""What rounds will take, said before they start: counted from rows and headers, in a background task. No widgets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdstudio import settings
from kdstudio.catalogue.cost import questions, rows_made
from kdstudio.catalogue.steps import SampleStep
from kdstudio.models.memory import RunSize, estimate_seconds, lora_parameters
from kdstudio.models.shape import parameter_count
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms_summary import TermsSummary, TermsUse
from kdstudio.project.row_terms import reads_preferences, terms_of_rows
from kdstudio.recipe import RoundsRecipe, recipe_hash
from kdstudio.rounds.plan import PLAN_NAME, Changed, Plan, foreseen, planned
from kdstudio.rounds.speakers import terms_of
from kdstudio.ui.recipe_offer import Counted, Wanted, count_rows
from kdstudio.ui.training_student import read_pair

if TYPE_CHECKING:
    from kdstudio.models.shape import ModelShape
    from kdstudio.project import Project

_MOST = 20_000
_CHARACTERS_A_TOKEN = 4.0
_HOSTED = ("openai", "anthropic")


@dataclass(frozen=True)
class RoundsWork:
    """What a person asks for. `student`: a training run's id, a GGUF file or a folder; "" for the teacher itself."""

    recipe: RoundsRecipe
    teacher: Mapping[str, Any]
    judge: Mapping[str, Any] | None = None
    student: str = ""
    changed: Changed = field(default_factory=Changed)

    def foreseen(self, project: Project) -> Plan:
        """The plan that would be made. Raises `BadInput` for what cannot run."""
        return foreseen(
            project, self.recipe, self.teacher, judge=self.judge, student=self.student, changed=self.changed
        )

    def planned(self, project: Project) -> Plan:
        """The plan, written. Raises `BadInput` for what cannot run."""
        return planned(project, self.recipe, self.teacher, judge=self.judge, student=self.student, changed=self.changed)


@dataclass(frozen=True)
class RoundsForecast:
    """Figures of one round. `tokens` and `learnt` are the most there can be; `asking` is None where nothing tells."""

    plan: Plan
    continues: bool
    asked: Counted
    questions: int
    tokens: int
    learnt: int
    steps: int
    parameters: int
    trained: int
    training: float
    asking: float | None
    hosted: tuple[str, ...]
    terms: TermsSummary


def foretell_rounds(project: Project, work: RoundsWork) -> RoundsForecast:
    """Count one round. Raises `BadInput` for what could not even begin."""
    plan = work.foreseen(project)
    asked = _asked(project, plan)
    steps = plan.elicitation.step
    tokens = asked.rows * _longest(plan)
    accepted = project.rows.counts().get(("response", "accepted"), 0) if plan.recipe.train.with_accepted else 0
    learnt = asked.rows * rows_made(steps) + accepted
    shape = read_pair(plan.training, TeacherSpec(**plan.teacher), needs_signals=False).student
    size = _size(plan, learnt)
    table = plan.training.student
    trained = lora_parameters(shape, table.lora_rank) if table.adapter != "full" else parameter_count(shape)
    speed = _speed(project, plan)
    return RoundsForecast(
        plan,
        (plan.folder / PLAN_NAME).is_file(),
        asked,
        asked.rows * questions(steps),
        tokens,
        learnt,
        math.ceil(size.steps / plan.training.run.accumulation),
        parameter_count(shape),
        trained,
        _training_seconds(shape, size, trained),
        tokens / speed if speed else None,
        _hosted(plan),
        _terms(project, plan),
    )


def _asked(project: Project, plan: Plan) -> Counted:
    """How many rows a round asks about: what is held out never is."""
    recipe, table = plan.elicitation, plan.recipe.elicit
    if recipe.input.source not in ("prompts", "responses"):
        return count_rows(project, Wanted(recipe, recipe_hash(recipe), "", limit=table.limit))
    fit = itertools.islice(_fitting(project, plan), table.limit or _MOST + 1)
    found = sum(1 for _ in fit)
    noun = recipe.input.source.removesuffix("s")
    nothing = "" if found else f"No {noun} is left to ask about: all are held out, or none matches."
    return Counted(min(found, _MOST), found > _MOST, nothing, noun)


def _fitting(project: Project, plan: Plan) -> Iterator[int]:
    table = plan.elicitation.input
    tag, held_out = plan.recipe.elicit.tag or table.tag, plan.held_out_prompts
    if table.source == "prompts":
        for prompt in project.rows.prompts(status=table.status, tag=tag):
            if prompt.status != "rejected" and prompt.id not in held_out:
                yield prompt.id
        return
    for prompt, response in project.rows.pairs(status=table.status):
        if response.status != "rejected" and (not tag or tag in prompt.tags) and prompt.id not in held_out:
            yield prompt.id


def _longest(plan: Plan) -> int:
    """The most tokens that the answers to one row can have, without a judge's."""
    count, tokens = 1, 0
    for step in plan.elicitation.step:
        if isinstance(step, SampleStep):
            count *= step.samples
            tokens += count * step.max_tokens
    return tokens


def _size(plan: Plan, learnt: int) -> RunSize:
    """Passes of a round's training; a preference is two texts. Lengths are those of the held-out rows."""
    run = plan.training.run
    texts = learnt * (2 if reads_preferences(plan.training) else 1)
    passes = run.accumulation
    steps = run.steps or max(1, math.ceil(texts / (run.rows_per_batch * passes) * run.epochs))
    rows = plan.held_out
    answer = sum(len(row["text"]) for row in rows) / len(rows) / _CHARACTERS_A_TOKEN
    asked = sum(len(str(turn.get("content") or "")) for row in rows for turn in row["messages"]) / len(rows)
    return RunSize(steps * passes, run.rows_per_batch, asked / _CHARACTERS_A_TOKEN + answer, max(1.0, answer), texts)


def _training_seconds(shape: ModelShape, size: RunSize, trained: int) -> float:
    share = min(1.0, trained / parameter_count(shape))
    return estimate_seconds(shape, size, threads=settings.thread_count(), trained_share=share)


def _speed(project: Project, plan: Plan) -> float:
    """Tokens a second of the newest run in which the same model answered; 0 where there is none."""
    path = plan.start.path if plan.start is not None else str(plan.teacher.get("path") or "")
    for run in project.runs.list("elicit"):
        spoke = run.parameters.get("student") or run.parameters.get("teacher") or {}
        if run.state == "finished" and path and spoke.get("path") == path and not run.parameters.get("trial"):
            return float(run.result.get("tokens_per_second") or 0.0)
    return 0.0


def _hosted(plan: Plan) -> tuple[str, ...]:
    """Who is asked over the network, and may cost money."""
    asked = [plan.teacher] if plan.elicits_from_teacher else []
    asked += [plan.judge] if plan.judge is not None else []
    return tuple(str(spec["name"]) for spec in asked if spec["kind"] in _HOSTED)


def _terms(project: Project, plan: Plan) -> TermsSummary:
    """Under which terms the student will learn, as far as it is known before anything is asked."""
    speakers = [plan.start or TeacherSpec(**plan.teacher)]
    speakers += [TeacherSpec(**plan.teacher)] if plan.elicits_from_teacher else []
    stamps = {stamp: spec.name for spec in speakers if (stamp := terms_of(project, spec))}
    uses = [TermsUse(stamp, 0, (name,)) for stamp, name in stamps.items()]
    if plan.elicitation.input.source == "responses" or plan.recipe.train.with_accepted:
        uses += terms_of_rows(project).uses
    return TermsSummary(tuple(uses))
