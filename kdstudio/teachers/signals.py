"""The teacher signal: what the teacher thinks of each response token.

Dense and sparse carry one meaning: a distribution over the vocabulary at each of N tokens. The sparse form keeps
the k likeliest ids with their log-probs, the log of the mass of all others (the tail) and the label's log-prob; with a
shaped tail also how that mass is spread, in a few numbers. The drawn form keeps what came out when n tokens were drawn
from the whole distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint32]
Counts = npt.NDArray[np.uint16]
Shape = npt.NDArray[np.uint8]


SHAPE_BYTES = 16
"""What the shape of a tail takes at a token."""


@dataclass(frozen=True)
class Draws:
    """The rule by which a signal is drawn: so many draws a token, from a seed."""

    count: int
    seed: int = 0


@dataclass(frozen=True)
class ShapedTail:
    """The rule by which the k likeliest tokens are kept with the tail's place among the forms that `shape` names."""

    top_k: int
    shape: str


Rule = int | ShapedTail | Draws
"""What is kept of a distribution: the k likeliest tokens, these with a shaped tail, or draws from it."""


def rule_name(rule: Rule) -> str:
    """The rule in words that keys and records hold."""
    if isinstance(rule, ShapedTail):
        return f"top-k {rule.top_k} with a tail shaped by {rule.shape}"
    return f"draws {rule.count} seed {rule.seed}" if isinstance(rule, Draws) else f"top-k {rule}"


@dataclass(frozen=True)
class SparseSignal:
    """Top-k teacher signal of N tokens.

    `ids` [N, k] uint32, `log_probs` [N, k] float32 (nats, normalised over the whole vocabulary, descending),
    `tail_log_prob` [N] float32 (log of the mass outside `ids`; -inf if none), `label_log_prob` [N] float32.

    `shape` [N, 16] uint8: the tail's coordinates in its teacher's `tail_shape.TailShape`; None where the tail is one
    bucket.
    """

    ids: Ids
    log_probs: Float
    tail_log_prob: Float
    label_log_prob: Float
    shape: Shape | None = None

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def captured_mass(self) -> Float:
        """[N] the share of the teacher's mass that the k ids hold, in 0..1."""
        mass: Float = np.minimum(np.exp(self.log_probs.astype(np.float64)).sum(axis=1), 1.0).astype(np.float32)
        return mass

    def __getitem__(self, rows: slice) -> SparseSignal:
        shape = None if self.shape is None else self.shape[rows]
        ids, log_probs, tail, label = self.ids, self.log_probs, self.tail_log_prob, self.label_log_prob
        return SparseSignal(ids[rows], log_probs[rows], tail[rows], label[rows], shape)


@dataclass(frozen=True)
class DrawnSignal:
    """Draws from the teacher's whole distribution at N tokens, n at each (RS-KD, https://arxiv.org/abs/2503.16870).

    `ids` [N, m] uint32, rising and distinct in a row, `counts` [N, m] uint16 (0 pads a row; each sums to n),
    `label_log_prob` [N] float32, exact.
    """

    ids: Ids
    counts: Counts
    label_log_prob: Float

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def draws(self) -> int:
        """n, the draws at each token; 0 without a token."""
        return int(self.counts[0].sum()) if len(self) else 0

    @property
    def captured_mass(self) -> Float:
        """[N] about the share of the teacher's mass that the drawn ids hold: draws of ids that were drawn again.

        What was never drawn has the mass f1 / n, of f1 ids drawn once (Good 1953, https://doi.org/10.2307/2333344).
        """
        singles = (self.counts == 1).sum(axis=1)
        mass: Float = (1 - singles / max(self.draws, 1)).astype(np.float32)
        return mass

    def __getitem__(self, rows: slice) -> DrawnSignal:
        return DrawnSignal(self.ids[rows], self.counts[rows], self.label_log_prob[rows])


Signal = SparseSignal | DrawnSignal


def concatenate(signals: list[SparseSignal]) -> SparseSignal:
    """Join signals along the token axis; all must be of one rule."""
    if len(signals) == 1:
        return signals[0]
    shapes = [signal.shape for signal in signals if signal.shape is not None]
    return SparseSignal(
        np.concatenate([signal.ids for signal in signals]),
        np.concatenate([signal.log_probs for signal in signals]),
        np.concatenate([signal.tail_log_prob for signal in signals]),
        np.concatenate([signal.label_log_prob for signal in signals]),
        np.concatenate(shapes) if shapes else None,
    )


def concatenate_draws(signals: list[DrawnSignal]) -> DrawnSignal:
    """Join signals along the token axis; all must have the same n. Narrow ones are padded."""
    width = max(signal.ids.shape[1] for signal in signals)

    def widened(part: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.pad(part, ((0, 0), (0, width - part.shape[1])))

    return DrawnSignal(
        np.concatenate([widened(signal.ids) for signal in signals]).astype(np.uint32),
        np.concatenate([widened(signal.counts) for signal in signals]).astype(np.uint16),
        np.concatenate([signal.label_log_prob for signal in signals]),
    )
