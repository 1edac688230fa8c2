"""The verb that compares training recipes fairly, or runs that are done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kdstudio.cli.output import JsonFlag, ProjectPath, opened, show
from kdstudio.errors import BadInput
from kdstudio.recipe import TrainingRecipe, load_recipe

_DEFAULT_SEEDS = 3


def register(app: typer.Typer) -> None:
    """Add this verb to the command line."""
    app.command("compare")(compare)


def compare(
    project: ProjectPath,
    recipes: Annotated[list[Path] | None, typer.Argument(help="Training recipes, .toml files.")] = None,
    seeds: Annotated[
        int,
        typer.Option(min=1, max=1000, help="Runs of each recipe; with one, nothing is known of chance in training."),
    ] = _DEFAULT_SEEDS,
    limit_tokens: Annotated[int, typer.Option(min=0, help="Training tokens of each run at most; 0: no limit.")] = 0,
    run: Annotated[list[str] | None, typer.Option("--run", help="Compare finished runs instead, by id.")] = None,
    json: JsonFlag = False,
) -> None:
    """Train recipes and a supervised baseline on the same rows and tokens, and say which is closer to the teacher.

    The same command again continues a comparison that was broken off. `--run` trains nothing: it compares runs.
    """
    if run and recipes:
        raise BadInput("Recipes or runs?", "Both were named.", "Name recipes to train them, or --run for runs.")
    report = _of_runs(project, run) if run else _of_recipes(project, recipes or [], seeds, limit_tokens)
    show(report, as_json=json, text=in_words(report))


def _of_recipes(path: Path, recipes: list[Path], seeds: int, limit_tokens: int) -> dict[str, Any]:
    from kdstudio.cli.compare_runs import compare_recipes

    chosen = [load_recipe(recipe, TrainingRecipe) for recipe in recipes]
    with opened(path) as project:
        return compare_recipes(project, chosen, seeds=seeds, limit_tokens=limit_tokens)


def _of_runs(path: Path, chosen: list[str]) -> dict[str, Any]:
    """Read-only, so that the window can ask for it while it holds the project."""
    from kdstudio.evaluation.comparison_report import make_report, require_fair, runs_identity, sides_of

    with opened(path, read_only=True) as project:
        runs = [run for run in project.runs.list() if run.id in chosen]
        for missing in set(chosen) - {run.id for run in runs}:
            project.runs.get(missing)
        sides = sides_of(runs)
        require_fair(sides)
        return make_report(runs_identity(runs), project.folder, sides)


def in_words(report: dict[str, Any]) -> str:
    """The report as a small table, the pairs below it, and the verdict last."""
    head = ("Recipe", report["metric_label"], "By seed", "Tokens a run")
    rows = [head, *(_line(recipe) for recipe in report["recipes"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    several = report["pairs"] if len(report["pairs"]) > 1 else []
    pairs = [f"{pair['a']} / {pair['b']}: {pair['verdict']}." for pair in several]
    notes = [f"Note: {note}" for note in report["notes"]]
    measured = f"{report['rows']:,} held-out rows of {report['prompts']:,} prompts; {report['correction']}."
    parts = ["\n".join(table), "\n".join(pairs), "\n".join([measured, *notes]), f"{report['verdict']}."]
    return "\n\n".join(part for part in parts if part)


def _line(recipe: dict[str, Any]) -> tuple[str, str, str, str]:
    name = f"{recipe['name']} (baseline)" if recipe["baseline"] else str(recipe["name"])
    tokens = sorted(set(recipe["tokens"]))
    told = f"{tokens[0]:,}" if len(tokens) == 1 else f"{tokens[0]:,} to {tokens[-1]:,}"
    return name, f"{recipe['value']:.4f}", " ".join(f"{value:.4f}" for value in recipe["by_seed"]), told
