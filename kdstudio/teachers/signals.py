"""The teacher signal: what the teacher thinks of each response token.

Dense and sparse carry one meaning: a distribution over the vocabulary at each of N tokens. The sparse form keeps
the k likeliest ids with their log-probs, the log of the mass of all others (the tail) and the label's log-prob.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class SparseSignal:
    """Top-k teacher signal of N tokens.

    `ids` [N, k] uint32, `log_probs` [N, k] float32 (nats, normalised over the whole vocabulary, descending),
    `tail_log_prob` [N] float32 (log of the mass outside `ids`; -inf if none), `label_log_prob` [N] float32.
    """

    ids: Ids
    log_probs: Float
    tail_log_prob: Float
    label_log_prob: Float

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    @property
    def captured_mass(self) -> Float:
        """[N] the share of the teacher's mass that the k ids hold, in 0..1."""
        mass: Float = np.minimum(np.exp(self.log_probs.astype(np.float64)).sum(axis=1), 1.0).astype(np.float32)
        return mass

    def __getitem__(self, rows: slice) -> SparseSignal:
        return SparseSignal(self.ids[rows], self.log_probs[rows], self.tail_log_prob[rows], self.label_log_prob[rows])


def concatenate(signals: list[SparseSignal]) -> SparseSignal:
    """Join signals along the token axis; all must have the same k."""
    return SparseSignal(
        np.concatenate([signal.ids for signal in signals]),
        np.concatenate([signal.log_probs for signal in signals]),
        np.concatenate([signal.tail_log_prob for signal in signals]),
        np.concatenate([signal.label_log_prob for signal in signals]),
    )
