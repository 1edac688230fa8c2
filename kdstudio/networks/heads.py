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


def head_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """[N, V] logits in float32: in bf16 their rounding alone would be a divergence of its own."""
    with torch.autocast(hidden.device.type, enabled=False):
        return hidden.to(torch.float32) @ head.to(torch.float32).t()
