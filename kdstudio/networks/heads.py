"""The head of a network: the matrix behind its last hidden state."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel


def weight_of(network: PreTrainedModel, module: str) -> Tensor:
    """The weight of a submodule."""
    weight = network.get_submodule(module).weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{module} has no weight")
    return weight


def head_weight(network: PreTrainedModel) -> Tensor:
    """[V, H] the matrix that turns a hidden state into logits."""
    return weight_of(network, "lm_head")


def head_logits(hidden: Tensor, head: Tensor, out: Tensor | None = None) -> Tensor:
    """[N, V] logits in float32 at least: in bf16 their rounding alone would be a divergence of its own.

    `out` is written into, where nothing is to be learnt through them.
    """
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    with torch.autocast(hidden.device.type, enabled=False):
        return torch.mm(hidden.to(exact), head.to(exact).t(), out=out)
