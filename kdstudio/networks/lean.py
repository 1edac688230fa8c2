"""Blocks that keep little for their backward pass: what costs no matrix product is formed again instead of kept.

For every token a decoder layer as it comes keeps some 13 numbers for each of its width, a third of them normalised
copies and gated products that a handful of operations give back. Values are those of the ordinary modules, bit for bit.
Gradient checkpointing goes further and pays a whole forward pass for it; both go together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel


def keep_little(network: PreTrainedModel) -> None:
    """Let the norms and feed-forward blocks of a Llama, Qwen 2 or Qwen 3 network keep little. Changes it in place."""
    for module in network.modules():
        if hasattr(module, "variance_epsilon") and isinstance(getattr(module, "weight", None), nn.Parameter):
            module.forward = _Norm(module)
        elif isinstance(getattr(module, "act_fn", None), nn.Module) and hasattr(module, "down_proj"):
            module.forward = _FeedForward(module)


class _Norm:
    """The forward pass of a module with `weight` [H] and `variance_epsilon`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, hidden_states: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        module: Any = self._module
        result: Tensor = _RootMeanSquare.apply(hidden_states, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
        return result


class _FeedForward:
    """The forward pass of a module with `gate_proj`, `up_proj`, `act_fn` (SiLU) and `down_proj`."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        module: Any = self._module
        gate, up, down = module.gate_proj(x), module.up_proj(x), module.down_proj
        if torch.is_grad_enabled() and _is_bare(down):
            result: Tensor = _GatedDown.apply(gate, up, down.weight)  # type: ignore[no-untyped-call]
            return result
        wrapped: Tensor = down(_Gated.apply(gate, up))  # type: ignore[no-untyped-call]
        return wrapped


def _is_bare(module: nn.Module) -> bool:
    """Whether a module is a product with its weight and nothing more: no bias, no adapter, nobody watching."""
    watched = module._forward_hooks or module._forward_pre_hooks
    return type(module) is nn.Linear and module.bias is None and not watched


class _RootMeanSquare(torch.autograd.Function):
    """weight * x / sqrt(mean x^2 + epsilon), the statistics in float32 at least. Keeps x and one number a row.

    Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467, equation 4.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        exact = _exact(hidden)
        scale = torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(hidden, weight, scale)
        return weight * (exact * scale).to(hidden.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden, weight, scale = ctx.saved_tensors
        normed = _exact(hidden) * scale
        for_weight = for_hidden = None
        if ctx.needs_input_grad[1]:
            for_weight = (upstream * normed.to(hidden.dtype)).flatten(0, -2).sum(dim=0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            inner = (upstream * weight).to(normed.dtype)
            along = (inner * normed).mean(-1, keepdim=True)
            for_hidden = inner.sub_(normed.mul_(along)).mul_(scale).to(hidden.dtype)
        return for_hidden, for_weight, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up. Keeps gate and up.

    Shazeer 2020, https://arxiv.org/abs/2002.05202, equation 6.
    """

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate) * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return _gated_backward(gate, up, upstream)


class _GatedDown(torch.autograd.Function):
    """(silu(gate) * up) W^T for W [H, F]. Keeps gate and up, but not what is between them and W."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        kind = gate.device.type
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        return functional.linear(functional.silu(gate) * up, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        gate, up, weight = ctx.saved_tensors
        kind, dtype, enabled = ctx.autocast
        for_gate = for_up = for_weight = None
        with torch.autocast(kind, dtype=dtype, enabled=enabled):
            if ctx.needs_input_grad[2]:
                product = (functional.silu(gate) * up).flatten(0, -2)
                for_weight = (upstream.flatten(0, -2).t() @ product).to(weight.dtype)
                del product
            if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
                inner = (upstream @ weight).to(gate.dtype)
                for_gate, for_up = _gated_backward(gate, up, inner)
        return for_gate, for_up, for_weight


def _gated_backward(gate: Tensor, up: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of silu(gate) * up to both."""
    share = torch.sigmoid(gate)
    active = gate * share
    for_up = upstream * active
    slope = active.mul_(1 - share).add_(share)  # of silu
    return slope.mul_(upstream).mul_(up), for_up


def _exact(numbers: Tensor) -> Tensor:
    return numbers if numbers.dtype == torch.float64 else numbers.to(torch.float32)
