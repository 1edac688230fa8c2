"""Sharing a prefix, padding and leaving prompts out change no number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.distillation.forward import Embedded, head_logits, head_weight, response_hidden
from kdstudio.distillation.rows import TrainingRows
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from tests.tiny import tiny_model
from tests.unit.distillation.setting import training_rows, whole_batch

ARCHITECTURES = pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])


def network(architecture: str = "llama", *, tied: bool = False) -> PreTrainedModel:
    path = tiny_model(architecture=architecture, layers=2, tied=tied)
    return assemble(*load_gguf(path), path.name).double()


def logits_of(model: PreTrainedModel, rows: TrainingRows, chosen: range) -> tuple[Tensor, Embedded]:
    batch = whole_batch(rows, chosen)
    embedded = Embedded(model, batch, rows.prefix)
    return response_hidden(model, batch, embedded) @ head_weight(model).t(), embedded


@ARCHITECTURES
@pytest.mark.parametrize("share", [False, True])
def test_logits_are_those_of_each_whole_conversation_alone(architecture: str, share: bool) -> None:
    model, rows = network(architecture), training_rows(6, share_prefix=share)
    assert (len(rows.prefix) > 0) is share
    ours, _ = logits_of(model, rows, range(6))
    expected = []
    for example in rows.examples:
        ids = torch.tensor([[*example.prompt_ids.tolist(), *example.response_ids.tolist()]])
        expected.append(model(ids).logits[0, len(example.prompt_ids) - 1 : -1])
    torch.testing.assert_close(ours, torch.cat(expected), atol=1e-9, rtol=0)


@ARCHITECTURES
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_those_of_the_plain_forward_pass(architecture: str, tied: bool) -> None:
    rows, gradients = training_rows(5), []
    weights = torch.randn(rows.response_tokens(range(5)), 1, generator=torch.Generator().manual_seed(0)).double()
    for ours in (True, False):
        model = network(architecture, tied=tied)
        if ours:
            logits, embedded = logits_of(model, rows, range(5))
            torch.autograd.backward((logits.log_softmax(-1)[:, :50] * weights).sum())
            embedded.backward()
        else:
            whole = []
            for example in rows.examples:
                ids = torch.tensor([[*example.prompt_ids.tolist(), *example.response_ids.tolist()]])
                whole.append(model(ids).logits[0, len(example.prompt_ids) - 1 : -1])
            torch.autograd.backward((torch.cat(whole).log_softmax(-1)[:, :50] * weights).sum())
        gradients.append({name: item.grad for name, item in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6 * scale, rtol=0, msg=name)


def test_padding_changes_nothing() -> None:
    model, rows = network(), training_rows(8)
    together, _ = logits_of(model, rows, range(8))
    alone = torch.cat([logits_of(model, rows, range(row, row + 1))[0] for row in range(8)])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)


def test_the_head_stays_in_float32_under_autocast() -> None:
    hidden, head = torch.randn(3, 8, dtype=torch.bfloat16), torch.randn(5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head_logits(hidden, head)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ head.t())
