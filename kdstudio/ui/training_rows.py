"""How many rows a recipe takes and how long they are: counted by the index, measured on a few hundred. No widgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdstudio.project.table import RowQuery, RowTable
from kdstudio.ui.training_choice import reads_preferences

if TYPE_CHECKING:
    from kdstudio.project import Project
    from kdstudio.project.content import Kind
    from kdstudio.recipe import TrainingRecipe

_CHARACTERS_A_TOKEN = 4.0
_TEMPLATE_TOKENS = 12
_SAMPLED_ROWS = 300


@dataclass(frozen=True)
class RowSizes:
    """Rows trained on and held out; mean tokens of prompt and response, and tokens of the longest row looked at.

    A preference counts as one row, with the mean of its responses.
    """

    training: int
    held_out: int
    prompt_tokens: float
    response_tokens: float
    longest: int
    tagged: bool = True


def row_sizes(project: Project, recipe: TrainingRecipe) -> RowSizes:
    """Look at the rows of a recipe: responses, or preferences where these are read.

    The time does not grow with the texts: a million rows take a second or two. Tokens are the teacher's own counts
    where a row carries them, else estimated from the letters.
    """
    data = recipe.data
    status = "" if data.status == "any" else data.status
    ranked = reads_preferences((table.name for table in recipe.objective), recipe.rollout.model_dump())
    kind: Kind = "preference" if ranked else "response"
    table = RowTable(project.folder)
    try:
        ids = table.ids(RowQuery(kind, status=status))
        total = len(ids)
        tag = data.held_out_tag
        apart = {row for name in data.exclude_tags for row in table.ids(RowQuery(kind, status=status, tag=name))}
        tagged = set(table.ids(RowQuery(kind, status=status, tag=tag))) if tag else set[int]()
        held = len(apart | tagged) if tag else len(apart) + round((total - len(apart)) * data.held_out)
    finally:
        table.close()
    training = total - held
    if data.limit:
        training = min(training, data.limit)
    step = max(1, total // _SAMPLED_ROWS)
    prompts, responses, longest = 0.0, 0.0, 0
    chosen = list(ids[::step][:_SAMPLED_ROWS])
    for row_id in chosen:
        prompt, answer = (_preference_tokens if ranked else _response_tokens)(project, row_id)
        prompts, responses = prompts + prompt, responses + answer
        longest = max(longest, round(prompt + answer))
    seen = max(1, len(chosen))
    return RowSizes(
        training,
        held,
        prompts / seen,
        responses / seen,
        min(longest, data.maximum_tokens),
        tagged=not tag or bool(tagged),
    )


def _response_tokens(project: Project, row_id: int) -> tuple[float, float]:
    response = project.rows.response(row_id)
    prompt = response.prompt_tokens or _prompt_tokens(project, response.prompt_id)
    return prompt, response.tokens or len(response.text) / _CHARACTERS_A_TOKEN


def _preference_tokens(project: Project, row_id: int) -> tuple[float, float]:
    preference = project.rows.preference(row_id)
    letters = sum(map(len, preference.candidates)) / len(preference.candidates)
    return _prompt_tokens(project, preference.prompt_id), letters / _CHARACTERS_A_TOKEN


def _prompt_tokens(project: Project, prompt_id: int) -> float:
    messages = project.rows.prompt(prompt_id).messages
    letters = sum(len(str(message.get("content") or "")) for message in messages)
    return letters / _CHARACTERS_A_TOKEN + _TEMPLATE_TOKENS
