"""The rows of a run: which are trained on, which are held out, and what all their prompts begin with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdstudio.catalogue.training import DataTable
from kdstudio.distillation.batches import Batch, collate, held_out_prompts, shared_prefix
from kdstudio.distillation.examples import Example
from kdstudio.errors import BadInput

_GROUP_ROWS = 16


@dataclass(frozen=True)
class TrainingRows:
    """`examples`, of which the first `count` are trained on and the others held out; `prefix` [P] all prompts share."""

    examples: tuple[Example, ...]
    count: int
    prefix: Tensor

    @property
    def training(self) -> range:
        """Indices of the rows that are trained on."""
        return range(self.count)

    @property
    def held_out(self) -> range:
        """Indices of the rows that only measure."""
        return range(self.count, len(self.examples))

    def batch(self, rows: Sequence[int], device: torch.device) -> Batch:
        """One forward pass over `rows`."""
        return collate(self.examples, rows, len(self.prefix)).to(device)

    def response_tokens(self, rows: Sequence[int]) -> int:
        """Tokens that `rows` are learnt from."""
        return sum(len(self.examples[row].response_ids) for row in rows)

    def tokens(self, rows: Sequence[int]) -> int:
        """All tokens of `rows`."""
        return sum(self.examples[row].tokens for row in rows)

    def groups(self, rows: Sequence[int]) -> list[tuple[int, ...]]:
        """`rows` in groups of similar length, the same in every attempt of a run: bits depend on who pads whom."""
        ordered = sorted(rows, key=lambda row: (self.examples[row].tokens, row))
        return [tuple(ordered[first : first + _GROUP_ROWS]) for first in range(0, len(ordered), _GROUP_ROWS)]


def split_rows(examples: Sequence[Example], table: DataTable, seed: int) -> TrainingRows:
    """Divide examples as the recipe says. Raises `BadInput` when nothing is left to train on or no row has the tag."""
    if table.held_out_tag:
        held = [example for example in examples if table.held_out_tag in example.tags]
        rest = [example for example in examples if table.held_out_tag not in example.tags]
        if not held:
            raise BadInput(
                "No row is held out",
                f"No row that could be used has the tag {table.held_out_tag!r}.",
                "Correct data.held_out_tag, or leave it empty to draw held-out rows at random.",
            )
    else:
        drawn = held_out_prompts([example.prompt_id for example in examples], table.held_out, seed)
        held = [example for example in examples if example.prompt_id in drawn]
        rest = [example for example in examples if example.prompt_id not in drawn]
    rest = rest[: table.limit] if table.limit else rest
    if not rest:
        raise BadInput(
            "There is nothing to train on",
            f"{len(held)} rows are held out and none is left for training.",
            "Accept more responses, or hold out fewer.",
        )
    chosen = (*rest, *held)
    prefix = torch.from_numpy(chosen[0].prompt_ids[: shared_prefix(chosen)].astype("int64"))
    return TrainingRows(chosen, len(rest), prefix)
