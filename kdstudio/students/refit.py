"""A better start for a cut student, without gradients: each kept layer takes over the work of those left out after it.

Let x be the input of a kept layer's down projection W [H, F] at a token, y the layer's output (a residual stream, so y
is W x plus what does not depend on W), and t the teacher's residual stream where the next kept layer reads it. The
change D of W that makes

    sum over tokens |(t - y) - D x|^2 / |t|^2  +  r |D|^2

smallest is the solution of a weighted ridge regression (Hoerl & Kennard 1970), in closed form:

    D^T = (X^T X + r I)^-1 X^T (T - Y),    each row of X and T - Y divided by its |t|

A token's error counts relative to its stream's length, because a norm follows. Layers go in order, each fed by the
student as refitted so far; the architecture stays what it was. That a linear map found by least squares on a few rows
can stand for left-out layers, and be merged into the weights that are there, is from ReplaceMe (Shopkhoev et al. 2025,
https://arxiv.org/abs/2505.02819), which does it for one run of layers and after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdstudio.errors import KnownError, Stopped
from kdstudio.students.streams import CalibrationRows, Precision, ResidualStream

RIDGE = 0.03
"""r as a share of the mean of X^T X's diagonal."""

GoingOn = Callable[[int, int], bool]


@dataclass(frozen=True)
class Refitted:
    """`errors`: each layer's root mean square relative error before and after; `hidden`: as from `teacher_hidden`."""

    errors: list[tuple[float, float]]
    hidden: list[Tensor]


@torch.no_grad()
def refit(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    layers: Sequence[int],
    rows: CalibrationRows,
    precision: Precision,
    *,
    going_on: GoingOn,
) -> Refitted:
    """Refit `student`, which holds the teacher's `layers` (rising), in place.

    `going_on(layers done, of the teacher's)` may stop it (`Stopped`); the student is of no use then. Raises
    `KnownError` when the regression has no solution.
    """
    ours, theirs = ResidualStream(student, rows, precision), ResidualStream(teacher, rows, precision)
    errors: list[tuple[float, float]] = []
    passed = 0
    for place, layer in enumerate(ours.layers):
        last = layers[place + 1] if place + 1 < len(layers) else len(theirs.layers)
        passed = _advance(theirs, passed, last, going_on)
        errors.append(_refit_layer(layer, ours, theirs.states, rows))
    return Refitted(errors, theirs.final())


@torch.no_grad()
def teacher_hidden(
    teacher: PreTrainedModel, rows: CalibrationRows, precision: Precision, *, going_on: GoingOn
) -> list[Tensor]:
    """The teacher's last hidden states [B, L, H] of each batch: bit by bit what a refit over the same rows returns."""
    stream = ResidualStream(teacher, rows, precision)
    _advance(stream, 0, len(stream.layers), going_on)
    return stream.final()


def _advance(stream: ResidualStream, first: int, last: int, going_on: GoingOn) -> int:
    for number in range(first, last):
        stream.advance(stream.layers[number])
        if not going_on(number + 1, len(stream.layers)):
            raise Stopped("The teacher was still reading the rows.")
    return last


def _refit_layer(
    layer: nn.Module, ours: ResidualStream, goals: Sequence[Tensor], rows: CalibrationRows
) -> tuple[float, float]:
    """Solve for one layer's down projection, and move `ours` behind the layer; returns its errors before and after."""
    down = _down_projection(layer)
    inputs: list[Tensor] = []
    hook = down.register_forward_pre_hook(lambda _, received: inputs.append(received[0]))
    try:
        ours.advance(layer)
    finally:
        hook.remove()
    if not len(rows.prefix):
        inputs.insert(0, ours.states[0].new_zeros(1, 0, down.in_features))
    change, before, after = _solve(inputs, ours.states, goals, rows)
    down.weight += change.to(down.weight.dtype)
    ours.states = [state + given.float() @ change.t() for state, given in zip(ours.states, inputs, strict=True)]
    return before, after


def _solve(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], goals: Sequence[Tensor], rows: CalibrationRows
) -> tuple[Tensor, float, float]:
    """The change D [H, F] of the weight, and the error without and with it. Sums are kept in float64."""
    width, hidden, device = inputs[0].shape[-1], outputs[0].shape[-1], inputs[0].device
    gram = torch.zeros(width, width, dtype=torch.float64)
    moment = torch.zeros(width, hidden, dtype=torch.float64)
    total, count = 0.0, 0
    for given, output, goal, counted in zip(inputs, outputs, goals, _counted(rows), strict=True):
        expected = goal[counted]
        weight = expected.norm(dim=-1, keepdim=True).clamp_min(1e-6).reciprocal()
        x, residual = given[counted].float() * weight, (expected - output[counted]) * weight
        gram += (x.t() @ x).cpu()
        moment += (x.t() @ residual).cpu()
        total, count = total + float(residual.square().sum()), count + len(x)
    change = _ridge(gram, moment)
    # |R - X D|^2 = |R|^2 - 2 <D, X^T R> + <D, X^T X D>
    left = total - 2 * float((change * moment).sum()) + float((change * (gram @ change)).sum())
    errors = ((max(0.0, value) / max(1, count)) ** 0.5 for value in (total, left))
    return (change.t().float().to(device), *errors)


def _ridge(gram: Tensor, moment: Tensor) -> Tensor:
    """(gram + r I)^-1 moment."""
    scale = float(gram.diagonal().mean())
    if scale == 0:  # nothing ever reaches this projection
        return torch.zeros_like(moment)
    damped = gram.clone()
    damped.diagonal().add_(RIDGE * scale)
    factor, fault = torch.linalg.cholesky_ex(damped)
    if int(fault) or not bool(torch.isfinite(moment).all()):
        raise KnownError(
            "The kept layers could not be refitted",
            "The models' states on these rows are no usable numbers.",
            "Set student.refit = false, or keep other layers.",
        )
    return torch.cholesky_solve(moment, factor)


def _counted(rows: CalibrationRows) -> list[Tensor]:
    """Which tokens count, for the prefix and each batch: all but padding and the very first.

    That one stands apart: it gathers attention, and its state is far longer than any other (Sun et al. 2024, "Massive
    activations", https://arxiv.org/abs/2402.17762).
    """
    first = torch.arange(len(rows.prefix), device=rows.prefix.device) > 0
    masks = [first.unsqueeze(0)]
    for ids, lengths in zip(rows.batches, rows.lengths, strict=True):
        places = torch.arange(ids.shape[1], device=ids.device)
        masks.append((places < lengths.unsqueeze(1)) & (places >= (0 if len(rows.prefix) else 1)))
    return masks


def _down_projection(layer: nn.Module) -> nn.Linear:
    """The projection itself, also where LoRA stands beside it (which starts at zero)."""
    found = layer.get_submodule("mlp.down_proj")
    base = getattr(found, "base_layer", found)
    if not isinstance(base, nn.Linear):
        raise TypeError("the layer has no down projection")
    return base
