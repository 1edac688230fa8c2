"""How many rows a recipe takes and how long they are: counted by the index, measured on a few hundred. No widgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdstudio.project.table import RowQuery, RowTable

if TYPE_CHECKING:
    from kdstudio.project import Project
    from kdstudio.recipe import TrainingRecipe

_CHARACTERS_A_TOKEN = 4.0
_TEMPLATE_TOKENS = 12
_SAMPLED_ROWS = 300


@dataclass(frozen=True)
class RowSizes:
    """Rows trained on and held out; mean tokens of prompt and response, and tokens of the longest row looked at."""

    training: int
    held_out: int
    prompt_tokens: float
    response_tokens: float
    longest: int
    tagged: bool = True


def row_sizes(project: Project, recipe: TrainingRecipe) -> RowSizes:
    """Look at the rows of a recipe. The time does not grow with the texts: a million rows take a second or two.

    Tokens are the teacher's own counts where a row carries them, else estimated from the letters.
    """
    data = recipe.data
    status = "" if data.status == "any" else data.status
    table = RowTable(project.folder)
    try:
        ids = table.ids(RowQuery("response", status=status))
        total = len(ids)
        tag = data.held_out_tag
        held = table.count(RowQuery("response", status=status, tag=tag)) if tag else round(total * data.held_out)
    finally:
        table.close()
    training = total - held
    if data.limit:
        training = min(training, data.limit)
    step = max(1, total // _SAMPLED_ROWS)
    prompts, responses, longest = 0.0, 0.0, 0
    chosen = list(ids[::step][:_SAMPLED_ROWS])
    for row_id in chosen:
        response = project.rows.response(row_id)
        prompt = response.prompt_tokens or _prompt_tokens(project, response.prompt_id)
        answer = response.tokens or len(response.text) / _CHARACTERS_A_TOKEN
        prompts, responses = prompts + prompt, responses + answer
        longest = max(longest, round(prompt + answer))
    seen = max(1, len(chosen))
    return RowSizes(
        training, held, prompts / seen, responses / seen, min(longest, data.maximum_tokens), tagged=not tag or held > 0
    )


def _prompt_tokens(project: Project, prompt_id: int) -> float:
    messages = project.rows.prompt(prompt_id).messages
    letters = sum(len(str(message.get("content") or "")) for message in messages)
    return letters / _CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS
