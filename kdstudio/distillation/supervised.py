"""Sequence-level distillation: the student learns to write what the teacher wrote."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cross_entropy(student_logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """-log q(label), [N] nats from logits [N, V] and labels [N] (int64).

    Kim & Rush 2016, https://arxiv.org/abs/1606.07947, equation 8, where the teacher's own text stands for its whole
    distribution over sequences. With smoothing e the target is (1 - e) at the label plus e / V everywhere
    (Szegedy et al. 2016, https://arxiv.org/abs/1512.00567, section 7).
    """
    return functional.cross_entropy(student_logits, labels, reduction="none", label_smoothing=label_smoothing)
