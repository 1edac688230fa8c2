"""The student's own answers as examples: when they are made, by whom, what they are worth, and which are kept.

Four shapes, by what the objectives read: answers alone (GKD, MiniLLM, on-policy rewards); several to a prompt, scored,
as a group (GRPO, PPO, online preferences); each beside the stored response as the worse of two (SPIN), written by the
student as it began; or beside it as its equal (DistiLLM-2).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.catalogue.training import RolloutTable
from kdstudio.distillation import on_policy
from kdstudio.distillation.batches import Batch, pad
from kdstudio.distillation.examples import Example
from kdstudio.distillation.randomness import stream
from kdstudio.distillation.reference import Reference
from kdstudio.distillation.rewards import Judged, Reward
from kdstudio.distillation.rollouts import Answer, generate
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.samples import text_of
from kdstudio.distillation.teacher_signals import Precision
from kdstudio.models.conversation import Tokenizer

Shape = Literal["alone", "beside", "against"]
Source = Literal["data", "fresh", "replay"]


@dataclass
class OwnAnswers:
    """Makes the rounds. `opponent` writes in the student's place where the shape is "against"."""

    table: RolloutTable
    shape: Shape
    seed: int
    rows: TrainingRows
    network: PreTrainedModel
    tokenizer: Tokenizer
    device: torch.device
    precision: Precision
    teacher: PreTrainedModel | None = None
    reward: Reward | None = None
    opponent: Reference | None = None
    always: bool = False

    def __post_init__(self) -> None:
        self._replay = on_policy.AdaptiveReplay(share=self.table.share if self.table.replay == "adaptive" else 0.0)
        self._kept: list[tuple[int, list[int]]] = []  # (training row, answer), in the buffer's slots
        self.written = 0

    @property
    def steps_each(self) -> int:
        """Optimiser steps on each round."""
        return self.table.steps_each

    def source(self, begin: int, total: int) -> Source:
        """What the round that begins at this step learns from."""
        if self.table.replay == "adaptive":
            return on_policy.replay_source(self._replay, self.seed, begin, total, capacity=self.table.capacity)
        share = 1.0 if self.always and not self.table.share else self.table.share
        return "fresh" if on_policy.takes_rollout(self.seed, begin, share) else "data"

    def after_validation(self, loss: float) -> None:
        """DistiLLM's schedule: own answers come more often when the validation loss rises."""
        self._replay = self._replay.after_validation(loss)

    def make(self, source: Source, begin: int, passes: Sequence[Sequence[Sequence[int]]]) -> list[Batch]:
        """The passes of a round, each a list of units; the prompts are those of the units' first rows."""
        if source == "replay":
            return self._replayed(begin, passes)
        prompts = [unit[0] for units in passes for unit in units]
        asked = [row for row in prompts for _ in range(self.table.samples)]
        answers = self._written(asked, begin)
        self.written += len(answers)
        if self.table.replay == "adaptive":
            self._keep(asked, answers)
        examples = self._examples(asked, answers)
        if self.reward is not None:
            examples = self._scored(examples, answers)
        stream_of = iter(examples)
        made = []
        for units in passes:
            chosen: list[Example] = []
            for unit in units:
                own = list(itertools.islice(stream_of, self.table.samples))
                chosen += self._shaped(unit[0], own)
            made.append(pad(chosen, (-1,) * len(chosen), len(self.rows.prefix)))
        return made

    def _shaped(self, row: int, own: list[Example]) -> list[Example]:
        stored = self.rows.examples[row]
        if self.shape == "against":
            return [replace(stored, group=row + 1, score=1.0), *(replace(one, score=0.0) for one in own)]
        return [replace(stored, group=0), *own] if self.shape == "beside" else own

    def _written(self, asked: Sequence[int], begin: int) -> list[Answer]:
        width = self.table.max_tokens
        numbers = stream(self.seed, "rollout", begin).random((len(asked), width), dtype=np.float32)
        prompts = [self.rows.examples[row].prompt_ids.tolist() for row in asked]
        random = torch.from_numpy(numbers)
        if self.opponent is not None:
            with self.opponent.network() as network:
                return self._generate(network, prompts, random)
        return self._generate(self.network, prompts, random)

    def _generate(self, network: PreTrainedModel, prompts: list[list[int]], random: Tensor) -> list[Answer]:
        return generate(
            network,
            prompts,
            self.table,
            random,
            self.tokenizer.end_ids,
            self.device,
            precision=self.precision,
            teacher=self.teacher,
        )

    def _examples(self, asked: Sequence[int], answers: Sequence[Answer]) -> list[Example]:
        return [self._example(row, answer.ids) for row, answer in zip(asked, answers, strict=True)]

    def _example(self, row: int, ids: Sequence[int]) -> Example:
        stored = self.rows.examples[row]
        grouped = self.reward is not None or self.shape == "against"
        return replace(
            stored,
            response_ids=np.asarray(ids, np.int32),
            response=text_of(self.tokenizer, [token for token in ids if token not in self.tokenizer.end_ids]),
            group=row + 1 if grouped else 0,
            rationale=0,
            own=True,
            spans=(),
        )

    def _scored(self, examples: Sequence[Example], answers: Sequence[Answer]) -> list[Example]:
        judged = [
            Judged(
                example.prompt_ids.tolist(),
                example.prompt,
                example.response_ids.tolist(),
                example.response,
                self._reference_of(example),
                answer.finished,
            )
            for example, answer in zip(examples, answers, strict=True)
        ]
        scores = self.reward(judged) if self.reward is not None else []
        return [replace(example, score=float(score)) for example, score in zip(examples, scores, strict=True)]

    def _reference_of(self, example: Example) -> str:
        """The reference answer of the prompt, or the stored response."""
        return example.reference or self.rows.examples[example.group - 1].response

    # ---------------------------------------------------------------------------------------------- replay
    def _keep(self, asked: Sequence[int], answers: Sequence[Answer]) -> None:
        slots = on_policy.replaced_slots(self._replay.stored, len(answers), capacity=self.table.capacity)
        for slot, row, answer in zip(slots, asked, answers, strict=True):
            entry = (row, answer.ids)
            if slot < len(self._kept):
                self._kept[slot] = entry
            else:
                self._kept.append(entry)
        self._replay = self._replay.after_storing(len(answers))

    def _replayed(self, begin: int, passes: Sequence[Sequence[Sequence[int]]]) -> list[Batch]:
        count = sum(len(units) for units in passes)
        slots = on_policy.replayed_slots(self.seed, begin, self._replay.stored, count, capacity=self.table.capacity)
        examples = iter([self._example(*self._kept[slot]) for slot in slots])
        made = []
        for units in passes:
            chosen = list(itertools.islice(examples, len(units)))
            if chosen:
                made.append(pad(chosen, (-1,) * len(chosen), len(self.rows.prefix)))
        return made

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What a checkpoint needs of the replay: numbers for JSON, and the kept answers as tensors."""
        lengths = [len(ids) for _, ids in self._kept]
        flat = [token for _, ids in self._kept for token in ids]
        tensors = {
            "replay.rows": torch.tensor([row for row, _ in self._kept], dtype=torch.int64),
            "replay.lengths": torch.tensor(lengths, dtype=torch.int64),
            "replay.tokens": torch.tensor(flat, dtype=torch.int64),
        }
        return {"replay": self._replay.as_dict(), "written": self.written}, tensors if self._kept else {}

    def restore(self, numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        self._replay = on_policy.AdaptiveReplay.from_dict(numbers["replay"])
        self.written = int(numbers["written"])
        if "replay.rows" in tensors:
            parts = torch.split(tensors["replay.tokens"], tensors["replay.lengths"].tolist())
            rows = tensors["replay.rows"].tolist()
            self._kept = [(row, part.tolist()) for row, part in zip(rows, parts, strict=True)]
