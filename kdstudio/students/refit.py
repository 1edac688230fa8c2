"""A better start for a cut student, without gradients: each kept layer takes over the work of those left out after it.

The down projection of every kept layer is refitted by weighted ridge regression, so that the layer's output comes
nearest to the teacher's residual stream where the next kept layer reads it. Layers go in order, each fed by the student
as refitted so far; the architecture stays what it was. LLM-Streamline (Chen et al. 2024, https://arxiv.org/abs/2403.19135)
and ReplaceMe (Shopkhoev et al. 2025, https://arxiv.org/abs/2505.02819) train or fit a replacement for left-out layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudio.errors import KnownError, Stopped

RIDGE = 0.03
"""Pull towards the weight as it was, as a share of the mean squared activation."""

CALIBRATION_BYTES = 256 << 20

Precision = Callable[[], AbstractContextManager[object]]


@dataclass
class Streams:
    """Residual streams of calibration batches, as they stand in front of some layer: [B, T, H] each."""

    states: list[Tensor]
    keep: list[Tensor]

    def kept(self) -> Tensor:
        """[M, H] of the tokens that count."""
        return torch.cat([state[mask] for state, mask in zip(self.states, self.keep, strict=True)])


@torch.no_grad()
def refit(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    layers: Sequence[int],
    batches: Sequence[tuple[Tensor, Tensor]],
    precision: Precision,
    *,
    going_on: Callable[[int, int], bool],
) -> list[tuple[float, float]]:
    """Refit `student`, which holds the teacher's `layers`, in place; returns each layer's relative error, old and new.

    `batches`: token ids [B, T], padded on the right, and which tokens count [B, T]. `going_on(done, total)` hears of
    each layer and may stop it (`Stopped`). Raises `KnownError` when the regression has no solution.
    """
    masks = [keep for _, keep in batches]
    ours = Streams([_embedding(student)(ids) for ids, _ in batches], masks)
    theirs = Streams([_embedding(teacher)(ids) for ids, _ in batches], masks)
    teacher_layers, student_layers = _layers(teacher), _layers(student)
    errors: list[tuple[float, float]] = []
    for place, layer in enumerate(student_layers):
        first = layers[place] if place else 0
        last = layers[place + 1] if place + 1 < len(layers) else len(teacher_layers)
        for passed in range(first, last):
            theirs.states = [_run(teacher, teacher_layers[passed], state, precision) for state in theirs.states]
        errors.append(_refit_layer(student, layer, ours, theirs.kept(), precision))
        if not going_on(place + 1, len(student_layers)):
            raise Stopped("The kept layers were still being refitted.")
    return errors


def _refit_layer(
    student: PreTrainedModel, layer: nn.Module, ours: Streams, goal: Tensor, precision: Precision
) -> tuple[float, float]:
    """Solve for one layer's down projection, and move `ours` behind the layer."""
    down = _down(layer)
    inputs: list[Tensor] = []
    hook = down.register_forward_pre_hook(lambda _, received: inputs.append(received[0].float()))
    outputs = [_run(student, layer, state, precision) for state in ours.states]
    hook.remove()
    activation = torch.cat([state[mask] for state, mask in zip(inputs, ours.keep, strict=True)])
    output = torch.cat([state[mask] for state, mask in zip(outputs, ours.keep, strict=True)])
    weight = goal.norm(dim=-1, keepdim=True).clamp_min(1e-6).reciprocal()  # relative error: a norm follows
    residual = (goal - output) * weight
    change = _ridge(activation * weight, residual)
    down.weight += change.to(down.weight.dtype)
    ours.states = [state + given @ change.t() for state, given in zip(outputs, inputs, strict=True)]
    left = residual - (activation * weight) @ change.t()
    count = len(residual) ** 0.5
    return float(residual.norm()) / count, float(left.norm()) / count


def _ridge(inputs: Tensor, residual: Tensor) -> Tensor:
    """[H, F] the W that makes |residual - inputs W^T|^2 + ridge |W|^2 smallest; inputs [M, F], residual [M, H]."""
    gram = inputs.t() @ inputs
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-12)
    factor, fault = torch.linalg.cholesky_ex(gram)
    if int(fault):
        raise KnownError(
            "The kept layers could not be refitted",
            "The rows do not determine a solution.",
            "Use more rows, or set student.refit = false.",
        )
    return torch.cholesky_solve(inputs.t() @ residual, factor).t()


def calibration_batches(
    rows: Sequence[Sequence[int]], prefix: int, width: int, device: torch.device, size: int = 16
) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of similar length in batches; the first `prefix` tokens, which all share, count in the first row alone.

    All their inputs of a down projection, `width` numbers a token, lie in memory at once: of many rows an even choice
    that fits `CALIBRATION_BYTES` is taken. The very first token gathers attention and stands apart: it does not count.
    """
    maximum_tokens = CALIBRATION_BYTES // (4 * width)
    ordered = sorted(rows, key=len)
    share = min(1.0, maximum_tokens / max(1, sum(map(len, ordered))))
    chosen = [ordered[int(index / share)] for index in range(max(1, int(len(ordered) * share)))]
    for first in range(0, len(chosen), size):
        part = chosen[first : first + size]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.int64)
        keep = torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(part):
            ids[place, : len(row)] = torch.tensor(list(row))
            keep[place, (1 if first + place == 0 else max(1, prefix)) : len(row)] = True
        yield ids.to(device), keep.to(device)


def _run(network: PreTrainedModel, layer: nn.Module, state: Tensor, precision: Precision) -> Tensor:
    """[B, T, H] behind one layer, in float32. Without a mask attention is causal, and padding stands on the right."""
    positions = torch.arange(state.shape[1], device=state.device).unsqueeze(0)
    rotary = network.get_submodule("model.rotary_emb")(state, positions)
    with precision():
        given = layer(state, position_embeddings=rotary, attention_mask=None, position_ids=positions)
    output: Tensor = given[0] if isinstance(given, tuple) else given
    return output.float()


def _embedding(network: PreTrainedModel) -> nn.Module:
    return network.get_submodule("model.embed_tokens")


def _layers(network: PreTrainedModel) -> list[nn.Module]:
    return list(network.get_submodule("model.layers").children())


def _down(layer: nn.Module) -> nn.Linear:
    """The down projection itself, also where LoRA stands beside it (which starts at zero)."""
    found = layer.get_submodule("mlp.down_proj")
    base = getattr(found, "base_layer", found)
    if not isinstance(base, nn.Linear):
        raise TypeError("the layer has no down projection")
    return base
