"""The rows of a run: which are trained on, which are held out, and what all their prompts begin with."""

from __future__ import annotations

import functools
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
    """`examples`, of which the first `count` are trained on and the others held out; `prefix` [P] all prompts share.

    `units` are what a step counts: a training row each, or the responses of one preference.
    """

    examples: tuple[Example, ...]
    count: int
    prefix: Tensor

    @functools.cached_property
    def units(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the training rows by unit."""
        units: dict[int, list[int]] = {}
        for row in self.training:
            units.setdefault(self.examples[row].group or -row - 1, []).append(row)
        return tuple(map(tuple, units.values()))

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


def split_rows(examples: Sequence[Example], table: DataTable, seed: int, *, share_prefix: bool = True) -> TrainingRows:
    """Divide examples as the recipe says. Raises `BadInput` when nothing is left to train on or no row has the tag.

    `share_prefix` false: every row is read whole, as whatever looks at the prompt's own tokens needs.
    """
    examples = _whole_groups(examples)
    apart = [example for example in examples if set(example.tags) & set(table.exclude_tags)]
    others = [example for example in examples if not set(example.tags) & set(table.exclude_tags)]
    if table.held_out_tag:
        held = [example for example in others if table.held_out_tag in example.tags]
        rest = [example for example in others if table.held_out_tag not in example.tags]
        if not any(table.held_out_tag in example.tags for example in examples):
            raise BadInput(
                "No row is held out",
                f"No row that could be used has the tag {table.held_out_tag!r}.",
                "Correct data.held_out_tag, or leave it empty to draw held-out rows at random.",
            )
    else:
        drawn = held_out_prompts([example.prompt_id for example in others], table.held_out, seed)
        held = [example for example in others if example.prompt_id in drawn]
        rest = [example for example in others if example.prompt_id not in drawn]
    held += apart
    rest = _whole_groups(rest[: table.limit]) if table.limit else rest
    if not rest:
        raise BadInput(
            "There is nothing to train on",
            f"{len(held)} rows are held out and none is left for training.",
            "Accept more responses, or hold out fewer.",
        )
    chosen = (*rest, *held)
    shared = shared_prefix(chosen) if share_prefix else 0
    return TrainingRows(chosen, len(rest), torch.from_numpy(chosen[0].prompt_ids[:shared].astype("int64")))


def _whole_groups(examples: Sequence[Example]) -> list[Example]:
    """Without preferences of which too little is left to compare: a response was too long, or behind the limit."""
    scores: dict[int, set[float]] = {}
    for example in examples:
        scores.setdefault(example.group, set()).add(example.score)
    return [example for example in examples if not example.group or len(scores[example.group]) > 1]
