"""The estimates follow the arithmetic of training, and activations what autograd really keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from kdstudio.models.gguf_header import read_header
from kdstudio.models.memory import RunSize, estimate_memory, estimate_seconds, lora_parameters, processor_speed
from kdstudio.models.shape import ModelShape, parameter_count, shape_of_config, shape_of_header
from tests.tiny import tiny_model

SHAPE = ModelShape("llama", 15, 576, 1536, 9, 3, 64, 49152, 8192, tied=True)
SIZE = RunSize(63, 8, 58, 32, all_rows=204, longest=90, held_out=24, measurements=8)
TEACHER = SHAPE.with_layers(30)


def test_the_parts_add_up_and_follow_the_arithmetic() -> None:
    estimate = estimate_memory(SHAPE, SIZE)
    exact = 4 * parameter_count(SHAPE)
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (exact, exact, 2 * exact)
    assert estimate.teacher == 0
    assert estimate.total == sum(estimate.parts().values())
    assert next(iter(estimate.parts())) == "weights"


def test_a_dense_teacher_lora_and_larger_batches_show() -> None:
    base = estimate_memory(SHAPE, SIZE)
    assert estimate_memory(SHAPE, SIZE, teacher=TEACHER).teacher >= 4 * parameter_count(TEACHER)
    two = estimate_memory(SHAPE, SIZE, teacher=TEACHER, further=[TEACHER])
    assert two.teacher == 2 * estimate_memory(SHAPE, SIZE, teacher=TEACHER).teacher
    assert two.logits > estimate_memory(SHAPE, SIZE, teacher=TEACHER).logits
    adapters = lora_parameters(SHAPE, 16)
    lora = estimate_memory(SHAPE, SIZE, trained=adapters)
    assert lora.optimizer == 8 * adapters < base.optimizer / 20
    assert lora.weights == 4 * (parameter_count(SHAPE) + adapters)
    assert estimate_memory(SHAPE, replace(SIZE, rows=32)).activations == 4 * base.activations


def test_a_large_vocabulary_is_worked_on_in_pieces() -> None:
    wide = ModelShape("qwen2", 24, 896, 4864, 14, 2, 64, 151936, 32768, tied=True)
    assert estimate_memory(wide, RunSize(100, 16, 900, 800), teacher=wide).logits <= 5 * 4 * (1 << 25)


def kept_bytes(model: LlamaForCausalLM, ids: torch.Tensor) -> int:
    """Bytes that autograd holds for the backward pass, weights left out."""
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.model(input_ids=ids).last_hidden_state
    total = sum(kept.values())
    output.sum().backward()
    return total


@pytest.mark.parametrize("hidden", [128, 192])
def test_activations_are_what_autograd_keeps(hidden: int) -> None:
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    rows, length = 4, 96
    kept = kept_bytes(LlamaForCausalLM(config), torch.randint(0, 300, (rows, length)))
    shape = shape_of_config(config.to_dict())
    estimate = estimate_memory(shape, RunSize(1, rows, length, 40)).activations
    assert 0.7 < estimate / kept < 1.5


def test_lora_counts_what_peft_adds() -> None:
    from peft import LoraConfig, get_peft_model

    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=8, target_modules=names))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert lora_parameters(shape_of_config(config.to_dict()), 8) == trained


def seconds(size: RunSize, **options: Any) -> float:
    return estimate_seconds(SHAPE, size, threads=2, flops_per_second=2e11, **options)


def test_time_grows_with_the_work() -> None:
    base = seconds(SIZE)
    assert 60 < base < 400
    assert seconds(replace(SIZE, steps=126)) > 1.7 * base
    assert seconds(SIZE, teacher=TEACHER) > base
    assert seconds(SIZE, trained_share=0.0) < base
    assert seconds(replace(SIZE, bf16=True)) < base


def test_the_processor_has_a_speed() -> None:
    assert processor_speed(1) > 1e8


@pytest.mark.parametrize("options", [{}, {"architecture": "qwen2"}, {"architecture": "qwen3"}, {"tied": True}])
def test_parameters_are_counted_exactly(options: dict[str, object]) -> None:
    header = read_header(tiny_model(**options))
    assert parameter_count(shape_of_header(header)) == header.parameters
