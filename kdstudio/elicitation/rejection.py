"""What of a rejected row can still be written, for a person to look at: nothing that a question left unasked changes.

A rejected row passes by every step but `emit`. It is asked nothing more; so a text that such a question would have
written, or changed, is not written in its old form. A row of which nothing can be written is listed as fallen.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdstudio.catalogue.columns import flows
from kdstudio.catalogue.steps import EmitStep, SampleStep
from kdstudio.elicitation.passage import Passage
from kdstudio.recipe import ElicitationRecipe


class Remains:
    """The emit steps of one recipe, and what they need."""

    def __init__(self, recipe: ElicitationRecipe) -> None:
        self._steps = recipe.step
        self._writes = [set(flow.writes) for flow in flows(recipe.step, recipe.input, recipe.parameters)]

    def writes(self, passage: Passage, index: int) -> bool:
        """Whether the emit step at `index` can write of a rejected row what it would have written of a good one."""
        step = self._steps[index]
        if not isinstance(step, EmitStep) or passage.orphan:
            return False
        asked = next(
            (place for place in range(passage.rejected_at + 1, index) if isinstance(self._steps[place], SampleStep)),
            index,
        )
        changed: set[str] = set().union(*self._written(range(asked, index)))
        return not changed & set(_texts(step))

    def _written(self, places: Sequence[int]) -> list[set[str]]:
        return [self._writes[place] for place in places if not isinstance(self._steps[place], EmitStep)]


def _texts(step: EmitStep) -> tuple[str, ...]:
    """The columns without which an emit step has nothing to write."""
    match step.kind:
        case "prompt":
            return (step.messages or step.text,)
        case "preference":
            return (step.chosen, step.rejected) if step.chosen or step.rejected else (step.candidates, step.scores)
    return (step.text, step.tool_calls)
