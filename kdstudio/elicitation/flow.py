"""Which columns flow where: a recipe that reads what nothing wrote is refused before a question costs anything."""

from __future__ import annotations

from collections.abc import Iterable

from kdstudio.catalogue.steps import EmitStep, FilterStep, ParseStep, PromptStep, SampleStep, Step
from kdstudio.elicitation.sandbox import compile_template
from kdstudio.elicitation.steps import START_COLUMNS
from kdstudio.errors import BadInput
from kdstudio.recipe import ElicitationRecipe


def check_flow(recipe: ElicitationRecipe) -> None:
    """Raise `BadInput` for a step that reads a column, or a template a name, that is not there at that point."""
    taken = sorted(set(recipe.parameters) & {*START_COLUMNS})
    if taken:
        raise BadInput(
            "A parameter has a column's name", f"{recipe.recipe.id}: {', '.join(taken)}.", "Give it another name."
        )
    there = set(START_COLUMNS)
    for index, step in enumerate(recipe.step):
        where = place_of(recipe, index)
        for name in sorted(_reads(step, where) - there):
            if name in recipe.parameters and isinstance(step, PromptStep):
                continue
            known = there | set(recipe.parameters) if isinstance(step, PromptStep) else there
            raise BadInput(
                "The recipe reads what is not there",
                f"{where} reads {name!r}, which nothing before it wrote.",
                f"There are: {', '.join(sorted(known))}.",
            )
        there |= set(_writes(step))


def place_of(recipe: ElicitationRecipe, index: int) -> str:
    """How a step is named to a person."""
    return f"{recipe.recipe.id}, step {index + 1} ({recipe.step[index].type})"


def asks_for(step: SampleStep, columns: Iterable[str]) -> str:
    """The column with the messages to send: a recipe without a prompt step sends the prompt as it stands."""
    return "messages" if step.request == "request" and "request" not in columns else step.request


def _reads(step: Step, where: str) -> set[str]:
    match step:
        case PromptStep():
            texts = {"system": step.system, "user": step.user}
            return {name for key, text in texts.items() for name in compile_template(text, f"{where}, {key}").names}
        case SampleStep():
            return set() if step.request == "request" else {step.request}
        case ParseStep():
            if not step.into:
                raise BadInput("A parse step has no columns", f"{where}: `into` is empty.", "Name at least one.")
            return {step.source}
        case FilterStep():
            return {step.column}
        case EmitStep():
            return {step.text, step.reasoning} - {""}


def _writes(step: Step) -> tuple[str, ...]:
    match step:
        case ParseStep():
            return step.into
        case PromptStep() | SampleStep():
            return (step.into,)
        case _:
            return ()
