"""Blocks that keep little: the same numbers as the ordinary ones, the same gradients, and less kept between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from transformers import LlamaConfig, PreTrainedModel, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaMLP, LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

from kdstudio.networks.lean import keep_little

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
IDS = torch.arange(24).reshape(2, 12) * 7 % 61
Forward = Callable[..., Tensor]


def network(kind: str, *, lean: bool) -> PreTrainedModel:
    torch.manual_seed(5)
    made: PreTrainedModel
    made = LlamaForCausalLM(LlamaConfig(**SIZES)) if kind == "llama" else Qwen3ForCausalLM(Qwen3Config(**SIZES))
    for name, parameter in made.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, mean=1.0, std=0.3)
    if lean:
        keep_little(made)
    return made


def kept_bytes(work: Callable[[], object]) -> int:
    """What autograd keeps while `work` runs forward, each memory once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = work()
    del result
    return sum(kept.values())


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_network_gives_the_same_loss_and_gradients(kind: str, checkpointing: bool) -> None:
    losses, gradients = [], []
    for lean in (False, True):
        made = network(kind, lean=lean)
        made.train()
        if checkpointing:
            made.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
        loss = made(input_ids=IDS, labels=IDS).loss
        loss.backward()
        losses.append(loss.item())
        gradients.append({name: parameter.grad for name, parameter in made.named_parameters()})
    assert losses[0] == losses[1]
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_the_values_are_those_of_the_ordinary_modules_bit_for_bit(
    dtype: torch.dtype, weight_dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    norm = LlamaRMSNorm(32, 1e-5).to(weight_dtype)
    nn.init.normal_(norm.weight)
    hidden = (torch.randn(3, 5, 32) * 40).to(dtype)
    expected = norm(hidden)
    keep_little(nn.ModuleDict({"norm": norm}))  # type: ignore[arg-type]
    assert torch.equal(norm(hidden), expected)
    assert norm(hidden).dtype == expected.dtype


def test_gradients_match_finite_differences() -> None:
    torch.manual_seed(2)
    norm, block = LlamaRMSNorm(8, 1e-5).double(), LlamaMLP(LlamaConfig(**SIZES | {"hidden_size": 8})).double()  # type: ignore[no-untyped-call]
    keep_little(nn.ModuleDict({"norm": norm, "mlp": block}))  # type: ignore[arg-type]
    hidden = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    leaves = [hidden, *norm.parameters(), *block.parameters()]
    assert torch.autograd.gradcheck(lambda *_: norm(block(norm(hidden))), leaves, atol=1e-6)


def test_a_norm_by_hand() -> None:
    norm = LlamaRMSNorm(2, 0.0)
    keep_little(nn.ModuleDict({"norm": norm}))  # type: ignore[arg-type]
    hidden = torch.tensor([[3.0, 4.0]], requires_grad=True)
    out = norm(hidden)
    out[0, 0].backward()
    size = 12.5**0.5  # the root of the mean of 9 and 16
    torch.testing.assert_close(out.detach(), torch.tensor([[3 / size, 4 / size]]))
    assert hidden.grad is not None
    # The size depends on both: d(x / size)/dx = (1 - x^2 / 25) / size, d(x / size)/dy = -x y / 25 / size
    torch.testing.assert_close(hidden.grad, torch.tensor([[16 / 25, -12 / 25]]) / size)


def test_an_adapter_around_the_last_product_is_asked_as_a_module() -> None:
    losses = []
    for lean in (False, True):
        made = network("llama", lean=lean)
        inject_adapter_in_model(LoraConfig(r=2, target_modules=["down_proj", "gate_proj"]), made)
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                nn.init.ones_(parameter)
        loss = made(input_ids=IDS, labels=IDS).loss
        loss.backward()
        found = [p.grad.norm() for name, p in made.named_parameters() if "lora" in name and p.grad is not None]
        losses.append([loss.item(), *(float(size) for size in found)])
        assert len(found) == 8
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_autocast_gives_the_same_and_gradients_of_the_weights_own_type() -> None:
    found = []
    for lean in (False, True):
        made = network("llama", lean=lean)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = made(input_ids=IDS, labels=IDS).loss
        loss.backward()
        weight = made.get_submodule("model.layers.0.mlp.down_proj").weight
        assert isinstance(weight, nn.Parameter)
        assert weight.grad is not None
        assert weight.grad.dtype == torch.float32
        found.append((loss.item(), weight.grad))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0.05, atol=1e-3)


def test_much_less_is_kept() -> None:
    def kept(made: PreTrainedModel) -> int:
        return kept_bytes(lambda: made.get_submodule("model")(input_ids=IDS))

    assert kept(network("llama", lean=True)) < 0.8 * kept(network("llama", lean=False))
