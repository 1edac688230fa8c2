"""The frozen parameters of the three jobs of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdstudio.catalogue.objectives import OBJECTIVES, TEACHER_SIGNALS
from kdstudio.catalogue.rounds import ANSWER_FIGURES
from kdstudio.jobs.requests import elicitation_parameters
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import joined
from kdstudio.project import Project
from kdstudio.project.content import Kind
from kdstudio.project.row_terms import reads_preferences, recorded_terms, terms_of_rows
from kdstudio.recipe import TrainingRecipe, recipe_hash
from kdstudio.rounds.plan import Plan
from kdstudio.rounds.rows import HELD_OUT_TAG, RowTable
from kdstudio.rounds.speakers import as_table, of_run, terms_of, trained_speaker

_COMPARED = 4  # answers side by side where no figure is made of them


def eliciting(project: Project, plan: Plan, number: int, last: str) -> dict[str, Any]:
    """What the elicitation of a round needs; `last` is the training run of the round before."""
    table = plan.recipe.elicit
    teacher = TeacherSpec(**plan.teacher)
    student = speaker(project, plan, number, last)
    asked = teacher if plan.elicits_from_teacher else student
    specs = [asked, student]
    parameters = elicitation_parameters(
        plan.elicitation, as_table(asked), tag=table.tag, limit=table.limit, seed=plan.seed + number - 1
    )
    parameters |= {"values": dict(table.values), "only_unanswered": False, "student": as_table(student)}
    if plan.judge is not None or table.judge == "student":
        judge = TeacherSpec(**plan.judge) if plan.judge and table.judge == "judge" else student
        parameters["judge"] = as_table(judge)
        specs.append(judge)
    parameters["leave_out"] = sorted(plan.held_out_prompts)
    parameters["terms"] = {spec.name: terms_of(project, spec) for spec in specs}
    return parameters


def speaker(project: Project, plan: Plan, number: int, last: str) -> TeacherSpec:
    """Who speaks as the student in a round."""
    if number > 1:
        return trained_speaker(project, last, number - 1)
    if plan.start is None or plan.recipe.elicit.first == "teacher":
        return TeacherSpec(**plan.teacher)
    return plan.start


def training(
    project: Project, plan: Plan, last: str, rows: Sequence[RowTable], reason: str
) -> tuple[dict[str, Any], TrainingRecipe]:
    """What the training of a round needs, on these rows.

    Raises `BadInput` when some of them have restricted terms of use and no reason is given.
    """
    recipe = plan.training
    student, before = recipe.student, plan.start
    if last and plan.recipe.rounds.start == "last":
        before = trained_speaker(project, last, 0)
        student = of_run(student, project.runs_folder / last / "student")
    data = recipe.data.model_copy(update={"held_out_tag": HELD_OUT_TAG, "exclude_tags": ()})
    signals = {signal for table in recipe.objective for signal in OBJECTIVES[table.name].needs} & TEACHER_SIGNALS
    name = recipe.teacher.name or (str(plan.teacher["name"]) if signals else "")
    teacher = recipe.teacher.model_copy(update={"name": name})
    recipe = recipe.model_copy(update={"student": student, "data": data, "teacher": teacher})
    needed = bool(name) or (student.source != "folder" and not student.path)
    parameters: dict[str, Any] = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_hash": recipe_hash(recipe),
        "teacher": dict(plan.teacher) if needed else {},
        "student_terms": joined([terms_of(project, before)]) if before else "",
    }
    ids = sorted({int(row["response_id"]) for row in rows})
    kind: Kind = "preference" if reads_preferences(recipe) else "response"
    summary = terms_of_rows(project, kind=kind, ids=ids, teacher=parameters["teacher"] or None)
    return parameters | recorded_terms(project, parameters, summary, reason), recipe


def measuring(plan: Plan, what: Mapping[str, str]) -> dict[str, Any]:
    """What an evaluation needs: `what` is {"run": ...}, or a file or folder with {"rows_of": run}."""
    figure = plan.recipe.stop.figure
    compared = len(plan.held_out) if figure in ANSWER_FIGURES else _COMPARED
    return {
        **what,
        "teacher": dict(plan.teacher),
        "limit": 0,
        "samples": 0 if figure == "accuracy" else compared,
        "max_tokens": plan.recipe.measure.max_tokens,
        "accuracy": figure == "accuracy",
    }
