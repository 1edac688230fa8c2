"""The verb that lets a student learn from itself, round by round."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kdstudio import recipe as recipes
from kdstudio import secrets
from kdstudio.cli.output import JsonFlag, ProjectPath, counted, follow, opened, say, show
from kdstudio.cli.teachers_asked import Keys, teacher_of
from kdstudio.errors import BadInput
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.project import Project
from kdstudio.rounds.chain import Chain, Finish, Part, bring_to_end
from kdstudio.rounds.plan import FOLDER_NAME, PLAN_NAME, Plan, planned, read_plan

_DOING: dict[Part, str] = {
    "elicit": "asking",
    "train": "training",
    "start": "measuring the student as it began",
    "evaluate": "measuring",
}


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("rounds")(rounds)


def rounds(
    project: ProjectPath,
    recipe: Annotated[
        str,
        typer.Argument(help="A recipe with rounds by id, a .toml file, or the id of rounds that were begun before."),
    ],
    teacher: Annotated[str, typer.Option(help="Name of the teacher.")] = "",
    student: Annotated[
        str, typer.Option(help="The student to begin with: a run's id, a GGUF file or a folder; else the recipe's.")
    ] = "",
    judge: Annotated[str, typer.Option(help="Name of the teacher that judges.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling and of the held-out rows.")] = 0,
    reason: Annotated[str, typer.Option(help="Why you may train on rows whose terms of use restrict it.")] = "",
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one key, as rounds.count=2.")] = None,
    json: JsonFlag = False,
) -> None:
    """Let the student learn from its own answers: elicit, train, measure, and again until it gains no more.

    Each part is a run of its own. The same command again goes on where it was broken off.
    """
    with opened(project) as target:
        plan, keys = _begun(target, recipe) or _planned(target, recipe, set_ or [], teacher, judge, student, seed)
        chosen = plan.recipe
        held_out = counted(len(plan.held_out), "held-out prompt")
        say(
            f"{chosen.recipe.title}: {plan.id}, at most {counted(chosen.rounds.count, 'round')}, measured on {held_out}"
        )
        try:
            finish = _finishing(target, keys, as_json=json)
            result = Chain(target, plan, finish, tuple(keys), reason).run()
        except BadInput as error:
            if error.title == "These rows have terms of use":
                raise BadInput(error.title, error.detail, f"{error.hint} Add --reason TEXT.") from None
            raise
    show({"event": "finished", **result}, as_json=json, text=in_words(result))


def _planned(
    project: Project, recipe: str, changes: list[str], teacher: str, judge: str, student: str, seed: int
) -> tuple[Plan, Keys]:
    chosen = recipes.override(recipes.find_rounds_recipe(recipe), changes)
    spec, keys = teacher_of(project, teacher)
    judging, own = teacher_of(project, judge) if judge else (None, {})
    return planned(project, chosen, spec, judge=judging, student=student, seed=seed), keys | own


def _begun(project: Project, plan_id: str) -> tuple[Plan, Keys] | None:
    """Rounds that were begun before, here or in the window, with the secrets of who speaks in them."""
    folder = project.folder / FOLDER_NAME / Path(plan_id).name
    if not (folder / PLAN_NAME).is_file():
        return None
    plan = read_plan(folder)
    names = [str((spec or {}).get("key_name") or "") for spec in (plan.teacher, plan.judge)]
    return plan, {name: key for name in names if name and (key := secrets.find(name))}


def _finishing(project: Project, keys: dict[str, str], *, as_json: bool) -> Finish:
    supervisor = Supervisor(project)

    def finish(run_id: str, number: int, part: Part) -> None:
        say(f"Round {number}: {_DOING[part]} (run {run_id})")
        labels = {"run": run_id, "round": number, "part": part}
        if as_json:
            show({"event": "round", **labels}, as_json=True)
        watch = partial(follow, supervisor, project, run_id, as_json=as_json, labels=labels)
        bring_to_end(supervisor, project, run_id, keys, watch)

    return finish


def in_words(result: dict[str, Any]) -> str:
    """A line for the start and each round, why they ended, and where the best student is."""
    figure = str(result["figure"]).replace("_", " ")
    lines = [] if result["start"] is None else [f"Start: {figure} {result['start']:.4f}"]
    for item in result["rounds"]:
        learnt = f"trained on {counted(item['rows'], 'row')} (run {item['train']})"
        lines.append(f"Round {item['number']}: {figure} {item['value']:.4f}, {learnt}")
    lines.append(str(result["ended"]))
    if result["best_round"]:
        lines.append(f"The best student is that of round {result['best_round']}: {result['student']}")
    else:
        lines.append("No round made a better student than the one it began with.")
    return "\n".join(lines)
