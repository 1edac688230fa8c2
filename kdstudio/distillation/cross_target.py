"""A teacher with another tokenizer: its own tokens of the same text, and which of them stand for the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.alignment import aligned_groups
from kdstudio.distillation.batches import Batch, pad
from kdstudio.distillation.examples import Example, SourceRow, encode_rows
from kdstudio.distillation.forward import Embedded, head_weight, response_hidden
from kdstudio.distillation.head_terms import Room
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.teacher_signals import Precision
from kdstudio.errors import BadInput
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.vocabulary_map import compare_vocabularies, vocabulary_of


@dataclass(frozen=True)
class CrossTarget:
    """What a teacher says of the batch's text in its own M tokens: `hidden` [M, H'], `head` [V', H'], `labels` [M].

    `student` and `teacher` [G, 2] are first and last token of each group of the same bytes, among the batch's N and
    these M tokens; `matched` [K, 2] the ids of both vocabularies that mean the same. `places` [N]: the teacher's token
    at the same place of the same row, -1 behind the end of its text.
    """

    hidden: Tensor
    head: Tensor
    labels: Tensor
    student: Tensor
    teacher: Tensor
    matched: Tensor
    places: Tensor

    def logits_at(self, rows: slice, room: Room) -> Tensor:
        """[n, V'] at the places that go with some of the batch's tokens; the first token's where there is none."""
        return room.logits(self, self.hidden[self.places[rows].clamp(min=0)], self.head)


class CrossTeacher:
    """Runs a teacher on its own tokens of the training rows. Raises `BadInput` when a row cannot be read by it."""

    kind: Literal["dense"] = "dense"

    def __init__(
        self,
        network: PreTrainedModel,
        tokenizer: Tokenizer,
        student: Tokenizer,
        rows: TrainingRows,
        sources: Sequence[SourceRow],
        device: torch.device,
        precision: Precision,
    ) -> None:
        self._network = network.to(device).requires_grad_(False).eval()  # type: ignore[arg-type]
        self._device, self._precision = device, precision
        by_place = {(row.response_id, row.text): row for row in sources}
        wanted = [by_place[example.response_id, example.response] for example in rows.examples]
        limit = int(getattr(network.config, "max_position_embeddings", 0) or 1 << 30)
        self._examples, too_long = encode_rows(tokenizer, wanted, limit)
        if too_long:
            raise BadInput(
                "A row does not fit the teacher",
                f"Response {too_long[0]} passes its {limit:,} tokens.",
                "Lower data.maximum_tokens.",
            )
        matched = compare_vocabularies(vocabulary_of(student), vocabulary_of(tokenizer)).matched
        self._matched = torch.from_numpy(np.ascontiguousarray(matched)).to(device)
        pairs = zip(rows.examples, self._examples, strict=True)
        self._groups = [aligned_groups(ours.spans, theirs.spans) for ours, theirs in pairs]

    def aligned_share(self) -> float:
        """The share of all rows' bytes that lies in groups."""
        whole = sum(groups.text_bytes for groups in self._groups)
        return sum(groups.grouped_bytes for groups in self._groups) / max(1, whole)

    def target(self, batch: Batch) -> CrossTarget:
        """The teacher's view of stored rows."""
        theirs = pad([self._examples[row] for row in batch.rows], batch.rows).to(self._device)
        nothing = torch.zeros(0, dtype=torch.int64, device=self._device)
        with torch.no_grad(), self._precision():
            hidden = response_hidden(self._network, theirs, Embedded(self._network, theirs, nothing)).float()
        groups = [self._groups[row] for row in batch.rows]
        return CrossTarget(
            hidden,
            head_weight(self._network).detach(),
            theirs.labels,
            _shifted([one.student for one in groups], batch.examples).to(self._device),
            _shifted([one.teacher for one in groups], theirs.examples).to(self._device),
            self._matched,
            _places(batch.examples, theirs.examples).to(self._device),
        )


def _starts(examples: Sequence[Example]) -> list[int]:
    lengths = [len(example.response_ids) for example in examples]
    return [0, *np.cumsum(lengths).tolist()][:-1]


def _shifted(groups: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int32]]], examples: Sequence[Example]) -> Tensor:
    parts = [group.astype(np.int64) + start for group, start in zip(groups, _starts(examples), strict=True)]
    return torch.from_numpy(np.concatenate(parts))


def _places(ours: Sequence[Example], theirs: Sequence[Example]) -> Tensor:
    parts = []
    for mine, other, start in zip(ours, theirs, _starts(theirs), strict=True):
        place = np.arange(len(mine.response_ids))
        parts.append(np.where(place < len(other.response_ids), place + start, -1))
    return torch.from_numpy(np.concatenate(parts))
