"""Divergence and head, forward and backward, as the peers compute them.

    python -m tests.benchmarks.peers.heads FOLDER METHOD BETA RUNS

BETA 0 is the forward KL, 0.5 the Jensen-Shannon divergence.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from tests.benchmarks.peers.measured import Inputs, Loss, forward_and_backward


def trl_chunked(beta: float) -> Loss:
    """TRL 1.16's stable trainer: tiles of both models' logits over the response, formed again in the backward pass."""
    function = import_module("trl.kernels.chunked_divergence").ChunkedDivergenceFunction

    def loss(inputs: Inputs) -> Tensor:
        hidden, teacher = inputs.hidden[inputs.rows], inputs.teacher_hidden[inputs.rows]
        divergence: Tensor = function.apply(hidden, inputs.head, None, teacher, inputs.teacher_head, None, beta)[0]
        return divergence.sum() / inputs.responses

    return loss


def trl_dense(beta: float) -> Loss:
    """TRL 1.16's GKD trainer: both models' logits in full, prompt included, which a mask leaves out at the end."""
    divergence = import_module("trl.experimental.gkd").GKDTrainer.generalized_jsd_loss

    def loss(inputs: Inputs) -> Tensor:
        student = (inputs.hidden @ inputs.head.t()).unsqueeze(0)[:, :-1]
        with torch.no_grad():
            teacher = (inputs.teacher_hidden @ inputs.teacher_head.t()).unsqueeze(0)[:, :-1]
        labels = inputs.labels.unsqueeze(0)[:, 1:]
        found: Tensor = divergence(student, teacher, labels, beta=beta, num_items_in_batch=inputs.responses)
        return found

    return loss


def liger(beta: float) -> Loss:
    """Liger 0.8.5 in torch: chunks of 1,024 tokens, gradients in the forward pass; the prompt masked, not dropped."""
    whole = import_module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss(0.0, 1.0, beta, compiled=False)

    def loss(inputs: Inputs) -> Tensor:
        labels = torch.nn.functional.pad(inputs.labels[1:], (0, 1), value=-100)
        found: Tensor = whole(inputs.hidden, inputs.head, inputs.teacher_hidden, inputs.teacher_head, labels)
        return found

    return loss


def liger_response(beta: float) -> Loss:
    """The same, if the caller drops the prompt first."""
    whole = import_module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss(0.0, 1.0, beta, compiled=False)

    def loss(inputs: Inputs) -> Tensor:
        rows, labels = inputs.rows, inputs.labels[-inputs.responses :]
        found: Tensor = whole(
            inputs.hidden[rows], inputs.head, inputs.teacher_hidden[rows], inputs.teacher_head, labels
        )
        return found

    return loss


def cross_entropy(_: float) -> Loss:
    """Plain torch over the response: what learning from text alone costs."""

    def loss(inputs: Inputs) -> Tensor:
        logits = inputs.hidden[inputs.rows] @ inputs.head.t()
        return torch.nn.functional.cross_entropy(logits, inputs.labels[-inputs.responses :])

    return loss


def products(_: float) -> Loss:
    """The four matrix products without which there is no such gradient, into buffers that are there already."""
    buffers: dict[int, list[Tensor]] = {}

    def loss(inputs: Inputs) -> Tensor:
        n, (vocabulary, width) = inputs.responses, inputs.head.shape
        shapes = ((n, vocabulary), (n, vocabulary), (n, width), (vocabulary, width))
        student, teacher, hidden_gradient, head_gradient = buffers.setdefault(
            vocabulary, [torch.zeros(shape) for shape in shapes]
        )
        with torch.no_grad():
            hidden = inputs.hidden[inputs.rows]
            torch.mm(hidden, inputs.head.t(), out=student)
            torch.mm(inputs.teacher_hidden[inputs.rows], inputs.teacher_head.t(), out=teacher)
            torch.mm(student, inputs.head, out=hidden_gradient)
            torch.mm(student.t(), hidden, out=head_gradient)
        return inputs.hidden[0, 0] * 0  # something to go backward from

    return loss


METHODS: dict[str, Callable[[float], Loss]] = {
    method.__name__: method for method in (trl_chunked, trl_dense, liger, liger_response, cross_entropy, products)
}


if __name__ == "__main__":
    folder, method, beta, runs = sys.argv[1:]
    forward_and_backward(METHODS[method](float(beta)), Path(folder), f"{method}-{beta}", int(runs))
