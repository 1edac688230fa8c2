"""Which rows make which step: a pure function of (seed, step), so that a resumed run meets the same batches.

Rows of similar length share a step, every row comes once an epoch, and a step's rows do not depend on how they are cut
into forward passes: 8 rows once and 1 row 8 times are the same step.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdstudio.distillation.examples import Example
from kdstudio.distillation.randomness import stream
from kdstudio.errors import BugError

_WINDOW_STEPS = 8  # rows are sorted by length within so many steps: little padding, and epochs still differ


@dataclass(frozen=True)
class Batch:
    """One forward pass of B rows and N response tokens in all.

    `input_ids` [B, L] padded on the right, without the shared prefix; `where` [N] the places in the flattened [B * L]
    whose hidden state predicts a response token; `labels` [N] those tokens; `owner` [N] which of the B rows each
    belongs to; `rows` the examples' indices (-1 for answers made in this run), `examples` themselves.
    """

    input_ids: Tensor
    where: Tensor
    labels: Tensor
    owner: Tensor
    rows: tuple[int, ...]
    examples: tuple[Example, ...]

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        input_ids, where, labels, owner = (
            part.to(device) for part in (self.input_ids, self.where, self.labels, self.owner)
        )
        return Batch(input_ids, where, labels, owner, self.rows, self.examples)

    def of_rows(self, values: Sequence[float]) -> Tensor:
        """[B] one number for each row, on the batch's device."""
        return torch.tensor(list(values), dtype=torch.float32, device=self.labels.device)

    def mean_of_rows(self, values: Tensor) -> Tensor:
        """[B] the mean of [N] values over each row's tokens."""
        return self.sum_of_rows(values) / self.sum_of_rows(torch.ones_like(values))

    def sum_of_rows(self, values: Tensor) -> Tensor:
        """[B] the sum of [N] values over each row's tokens."""
        return values.new_zeros(len(self.examples)).index_add(0, self.owner, values)


class BatchPlan:
    """The steps over units of the given `lengths` (tokens): rows, or the responses of a preference together."""

    def __init__(self, lengths: Sequence[int], *, rows_per_batch: int, accumulation: int, seed: int) -> None:
        self._lengths = np.asarray(lengths, np.int64)
        self._rows_per_batch = rows_per_batch
        self._rows_per_step = rows_per_batch * accumulation
        self._seed = seed
        self.steps_per_epoch = math.ceil(len(lengths) / self._rows_per_step)
        self._epoch = functools.lru_cache(maxsize=2)(self._arrange)

    def step(self, step: int) -> list[tuple[int, ...]]:
        """The forward passes of a step (from 0): rows of each. The last step of an epoch may be short."""
        epoch, place = divmod(step, self.steps_per_epoch)
        rows = self._epoch(epoch)[place]
        return [rows[first : first + self._rows_per_batch] for first in range(0, len(rows), self._rows_per_batch)]

    def _arrange(self, epoch: int) -> list[tuple[int, ...]]:
        generator = stream(self._seed, "data", epoch)
        order = generator.permutation(len(self._lengths))
        window = self._rows_per_step * _WINDOW_STEPS
        steps: list[tuple[int, ...]] = []
        for first in range(0, len(order), window):
            part = order[first : first + window]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            steps += [
                tuple(part[start : start + self._rows_per_step].tolist())
                for start in range(0, len(part), self._rows_per_step)
            ]
        return [steps[place] for place in generator.permutation(len(steps))]


def collate(examples: Sequence[Example], rows: Sequence[int], prefix: int = 0) -> Batch:
    """Pad the examples `rows` into one batch, leaving out their first `prefix` tokens."""
    return pad([examples[row] for row in rows], tuple(rows), prefix)


def pad(chosen: Sequence[Example], rows: tuple[int, ...], prefix: int = 0) -> Batch:
    """Pad examples into one batch. The last response token is a label only: nothing is predicted from it."""
    width = max(example.tokens - 1 - prefix for example in chosen)
    input_ids = np.zeros((len(chosen), width), np.int64)
    where: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for place, example in enumerate(chosen):
        ids = np.concatenate([example.prompt_ids, example.response_ids])[prefix:-1]
        input_ids[place, : len(ids)] = ids
        first = place * width + len(example.prompt_ids) - 1 - prefix
        where.append(np.arange(first, first + len(example.response_ids), dtype=np.int64))
    labels = np.concatenate([example.response_ids for example in chosen]).astype(np.int64)
    if not len(labels):
        raise BugError("a batch has nothing to learn: its mask is empty")
    owner = np.repeat(np.arange(len(chosen)), [len(example.response_ids) for example in chosen])
    places, tokens = torch.from_numpy(np.concatenate(where)), torch.from_numpy(labels)
    return Batch(torch.from_numpy(input_ids), places, tokens, torch.from_numpy(owner), rows, tuple(chosen))


def shared_prefix(examples: Sequence[Example]) -> int:
    """How many tokens all prompts begin with alike (a system prompt), short of any prompt's last token.

    It is computed once for a whole batch: the last token of a prompt already predicts, so it stays with its row.
    """
    if len(examples) < 2:
        return 0
    first = examples[0].prompt_ids
    shared = len(first) - 1
    for example in examples[1:]:
        shared = min(shared, len(example.prompt_ids) - 1)
        differ = np.flatnonzero(first[:shared] != example.prompt_ids[:shared])
        if len(differ):
            shared = int(differ[0])
    return max(0, shared)


def held_out_prompts(prompts: Sequence[int], share: float, seed: int) -> set[int]:
    """The prompts (ids) drawn by `seed` to be held out: `share` of them, at least one.

    Each prompt draws its own lot, so that rows added later hardly move anybody. All responses of a prompt go together.
    """
    distinct = sorted(set(prompts))
    if share <= 0 or len(distinct) < 2:
        return set()

    def lot(prompt: int) -> bytes:
        return hashlib.blake2b(f"{seed} held out {prompt}".encode(), digest_size=8).digest()

    count = min(len(distinct) - 1, max(1, round(share * len(distinct))))
    return set(sorted(distinct, key=lot)[:count])
