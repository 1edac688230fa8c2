"""The gap between teacher and student: divergences, agreement and likelihood at response positions of held-out rows.

Both models walk the same token ids in step, a block of positions at a time, so that memory never grows with the set.
Formulas come from `distillation.divergences`: there is one function for each, and the trainer uses the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import torch

from kdstudio.distillation.divergences import forward_kl
from kdstudio.errors import KnownError
from kdstudio.evaluation.logits import Logits, LogitSource, Pair


@dataclass(frozen=True)
class Gap:
    """Means over all compared positions, in nats where they are not shares.

    `forward_kl` KL(teacher || student), `reverse_kl` KL(student || teacher), `top1_agreement` the share of positions at
    which both find the same token likeliest, `teacher_nll`, `student_nll` minus the log-likelihood of the response.
    """

    forward_kl: float
    reverse_kl: float
    top1_agreement: float
    teacher_nll: float
    student_nll: float
    positions: int
    rows: int

    def as_dict(self) -> dict[str, float | int]:
        """The figures by name, as the journal carries them."""
        return asdict(self)


_FIGURES = ("forward_kl", "reverse_kl", "top1_agreement", "teacher_nll", "student_nll")


class GapMeter:
    """Adds up blocks of positions in float64; `largest_kl` is the worst single position."""

    def __init__(self) -> None:
        self._sums = torch.zeros(5, dtype=torch.float64)
        self.positions = 0
        self.rows = 0
        self.largest_kl = 0.0
        self.each_row: list[dict[str, float]] = []
        self._told = torch.zeros(6, dtype=torch.float64)

    @torch.inference_mode()
    def add(self, teacher: Logits, student: Logits, labels: list[int]) -> None:
        """Take in the logits [n, V] of both and n response tokens. Vocabularies may differ only in padding."""
        width = min(teacher.shape[1], student.shape[1])
        p, q = torch.from_numpy(teacher[:, :width]), torch.from_numpy(student[:, :width])
        forward = forward_kl(q, p).double()
        picked = torch.tensor(labels).unsqueeze(1)
        self._sums += torch.stack(
            [
                forward.sum(),
                forward_kl(p, q).double().sum(),
                (p.argmax(dim=1) == q.argmax(dim=1)).double().sum(),
                (p.logsumexp(dim=1) - p.gather(1, picked).squeeze(1)).double().sum(),
                (q.logsumexp(dim=1) - q.gather(1, picked).squeeze(1)).double().sum(),
            ]
        )
        self.positions += len(labels)
        self.largest_kl = max(self.largest_kl, float(forward.max()))

    def end_row(self) -> None:
        """Count a row, and keep its sums apart: `positions` and the figures of `Gap` by name."""
        self.rows += 1
        so_far = torch.cat([torch.tensor([self.positions], dtype=torch.float64), self._sums])
        self.each_row.append(dict(zip(("positions", *_FIGURES), (so_far - self._told).tolist(), strict=True)))
        self._told = so_far

    def result(self) -> Gap:
        """The means so far. Raises `KnownError` when nothing was compared."""
        if self.positions == 0:
            raise _nothing()
        forward, reverse, agreed, teacher, student = (self._sums / self.positions).tolist()
        return Gap(forward, reverse, agreed, teacher, student, self.positions, self.rows)


def measure(
    teacher: LogitSource,
    student: LogitSource,
    pairs: Iterable[Pair],
    *,
    maximum_positions: int = 0,
    continues: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GapMeter:
    """Compare two models over token `pairs`, up to `maximum_positions` (0: all); `progress` gets rows and positions.

    `continues` is asked between rows; once false, what was measured so far is returned. Raises `KnownError` when the
    vocabularies differ by more than padding rows can explain.
    """
    _require_same_vocabulary(teacher, student)
    meter = GapMeter()
    for prompt, response in pairs:
        left = maximum_positions - meter.positions if maximum_positions else len(response)
        if left <= 0 or (continues is not None and not continues()):
            break
        labels = list(response[:left])
        done = 0
        for p, q in zip(teacher.at(prompt, labels), student.at(prompt, labels), strict=True):
            meter.add(p, q, labels[done : done + len(p)])
            done += len(p)
        meter.end_row()
        if progress is not None:
            progress(meter.rows, meter.positions)
    return meter


def likelihood(
    student: LogitSource,
    pairs: Iterable[Pair],
    *,
    continues: Callable[[], bool] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, float]]:
    """Of each row its `positions`, and over them the sum of `student_nll`, the response's negative log-likelihood.

    For a teacher whose distribution cannot be seen. Arguments as in `measure`. Raises `KnownError` without a position.
    """
    found: list[dict[str, float]] = []
    positions = 0
    for rows, (prompt, response) in enumerate(pairs, start=1):
        if continues is not None and not continues():
            break
        done, total = 0, 0.0
        for block in student.at(prompt, response):
            logits = torch.from_numpy(block)
            labels = torch.tensor(list(response[done : done + len(block)])).unsqueeze(1)
            total += float((logits.logsumexp(dim=1) - logits.gather(1, labels).squeeze(1)).double().sum())
            done += len(block)
        positions += done
        found.append({"positions": done, "student_nll": total})
        if progress is not None:
            progress(rows, positions)
    if positions == 0:
        raise _nothing()
    return found


def _nothing() -> KnownError:
    return KnownError(
        "Nothing to compare",
        "There is no row with a response that was measured.",
        "Accept some responses, or hold some rows out.",
    )


def _require_same_vocabulary(teacher: LogitSource, student: LogitSource) -> None:
    sizes = sorted((teacher.vocabulary_size, student.vocabulary_size))
    if sizes[1] - sizes[0] > 1024:
        raise KnownError(
            "Teacher and student speak in different tokens",
            f"The teacher knows {teacher.vocabulary_size:,} tokens, the student {student.vocabulary_size:,}.",
            "A divergence needs the same vocabulary; compare their answers instead.",
        )
