"""The teacher's signals from the project's vault: what was paid for once teaches every later student.

All rows are looked at before the first step: what is missing, damaged, or of an earlier file of the teacher is said
then, and nothing is trained on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdstudio.distillation.batches import Batch
from kdstudio.distillation.examples import Example
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.shaped_target import TailFamily, shaped_target
from kdstudio.distillation.targets import SparseTarget, sparse_target, within
from kdstudio.errors import BugError, KnownError
from kdstudio.teachers.signals import DrawnSignal, Draws, Rule, ShapedTail, Signal, SparseSignal, rule_name
from kdstudio.teachers.tail_shape import known_shape
from kdstudio.teachers.vault import Vault
from kdstudio.teachers.vault_teachers import Origin, earlier_signals


@dataclass(frozen=True)
class DrawnTarget:
    """Stored draws from the teacher as tensors: `ids` [N, m] int64, `counts` [N, m] (0 pads), the labels' [N]."""

    ids: Tensor
    counts: Tensor
    label_log_prob: Tensor

    def label_log_probs(self, labels: Tensor) -> Tensor:  # noqa: ARG002 - the dense signal reads it
        """[N] log p(label), as it was stored for these very labels."""
        return self.label_log_prob


class StoredRows:
    """The signals of all `rows` by one rule. Raises `KnownError` at once if any is missing or damaged.

    `captured_mass` is the mean over all their tokens, in 0..1. `name` and `path` are the teacher's: by them an earlier
    file of it is known.
    """

    def __init__(
        self, vault: Vault, rows: TrainingRows, fingerprint: str, rule: Rule, *, name: str = "", path: str = ""
    ) -> None:
        self._vault = vault
        self._keys = [vault.key(fingerprint, rule, *_pair(example)) for example in rows.examples]
        found = [vault.look(key) for key in self._keys]
        without = [example for example, one in zip(rows.examples, found, strict=True) if one is None]
        if without:
            earlier = earlier_signals(vault, Origin(name, path, fingerprint), map(_pair, without))
            raise _missing(without, len(found), rule, earlier, vault.damaged)
        tokens = sum(one.tokens for one in found if one is not None)
        self.captured_mass = sum(one.mass for one in found if one is not None) / tokens if tokens else 0.0

    def read(self, batch: Batch) -> Signal:
        """The batch's N tokens, from the memory-mapped vault; only these rows' bytes are touched."""
        signal = self._vault.get_joined([self._keys[row] for row in batch.rows])
        if signal is None:
            raise KnownError(
                "A teacher signal has gone", "The vault lost a row while it was read.", "Run kdstudio signals again."
            )
        return signal


class StoredSignals(StoredRows):
    """Top-k signals. `outcomes`: the student's; further ids of a padded vocabulary join the tail.

    Each `tail` is one bucket, or it is spread as the vault's family of this teacher's tails says.
    """

    kind: Literal["dense", "stored"] = "stored"

    def __init__(
        self,
        vault: Vault,
        rows: TrainingRows,
        fingerprint: str,
        top_k: int,
        *,
        tail: Literal["bucket", "shaped"] = "bucket",
        outcomes: int | None = None,
        name: str = "",
        path: str = "",
    ) -> None:
        shape = known_shape(vault.folder, fingerprint, top_k) if tail == "shaped" else None
        rule = ShapedTail(top_k, shape.name if shape else "nothing yet") if tail == "shaped" else top_k
        super().__init__(vault, rows, fingerprint, rule, name=name, path=path)
        self._outcomes = outcomes
        self._shape = shape
        self._families: dict[torch.device, TailFamily] = {}

    def target(self, batch: Batch) -> SparseTarget:
        """The top-k of the batch's tokens, on its device."""
        signal = self.read(batch)
        if not isinstance(signal, SparseSignal):
            raise BugError("a top-k's key led to another signal")
        if self._outcomes is not None:
            signal = within(signal, self._outcomes)
        return self._on(signal, batch.labels.device)

    def _on(self, signal: SparseSignal, device: torch.device) -> SparseTarget:
        if self._shape is None:
            return sparse_target(signal, device)
        if device not in self._families:
            self._families[device] = TailFamily.of(self._shape, self._outcomes, device)
        return shaped_target(signal, self._families[device], device)


class StoredDraws(StoredRows):
    """Random draws. `outcomes`: the student's; draws of further ids of a padded vocabulary are left out."""

    def __init__(
        self,
        vault: Vault,
        rows: TrainingRows,
        fingerprint: str,
        rule: Draws,
        *,
        outcomes: int | None = None,
        name: str = "",
        path: str = "",
    ) -> None:
        super().__init__(vault, rows, fingerprint, rule, name=name, path=path)
        self._outcomes = outcomes

    def target(self, batch: Batch) -> DrawnTarget:
        """The draws at the batch's tokens, on its device."""
        signal, device = self.read(batch), batch.labels.device
        if not isinstance(signal, DrawnSignal):
            raise BugError("a draw's key led to another signal")
        inside = True if self._outcomes is None else signal.ids < self._outcomes
        ids, counts = np.where(inside, signal.ids, 0).astype("int64"), np.where(inside, signal.counts, 0)
        return DrawnTarget(
            torch.from_numpy(ids).to(device),
            torch.from_numpy(counts.astype("int64")).to(device),
            torch.from_numpy(signal.label_log_prob.astype("float32")).to(device),
        )


def has_draws(vault: Vault, rows: TrainingRows, fingerprint: str, rule: Draws) -> bool:
    """Whether every row has sound draws by this rule."""
    keys = (vault.key(fingerprint, rule, *_pair(example)) for example in rows.examples)
    return all(vault.look(key) is not None for key in keys)


def _pair(example: Example) -> tuple[list[int], list[int]]:
    return example.prompt_ids.tolist(), example.response_ids.tolist()


def _missing(without: list[Example], total: int, rule: Rule, earlier: int, damaged: int) -> KnownError:
    """What to say of rows without a signal, by the likeliest reason."""
    named = ", ".join(str(example.response_id) for example in without[:10]) + (", ..." if len(without) > 10 else "")
    shaped = " --tail shaped" if isinstance(rule, ShapedTail) else ""
    store = f'Store them first: kdstudio signals PROJECT --teacher NAME{shaped}, or choose teacher.signals = "dense".'
    if earlier:
        detail = f"{earlier:,} stored signals belong to the earlier one; nothing was trained on them: {named}."
        return KnownError("The teacher's file changed", detail, f"Put the earlier file back. {store}")
    if damaged:
        detail = f"{damaged} of {total} responses have signals without the checksum they were written with: {named}."
        return KnownError("Stored teacher signals are damaged", detail, "Run kdstudio signals again: it mends them.")
    detail = f"{len(without)} of {total} responses have none of this teacher with {rule_name(rule)}: {named}."
    return KnownError("Teacher signals are missing", detail, store)
