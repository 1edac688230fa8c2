"""Low-rank adapters: train small updates of the blocks' matrices, and fold them in at the end.

LoRA: Hu et al. 2021, https://arxiv.org/abs/2106.09685. DoRA trains each row's length beside its direction: Liu et al.
2024, https://arxiv.org/abs/2402.09353. QLoRA keeps the matrices beneath in 4 bits: Dettmers et al. 2023,
https://arxiv.org/abs/2305.14314.
"""

from __future__ import annotations

from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from kdstudio.errors import BadInput, BugError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
Adapter = Literal["lora", "dora", "qlora"]


def add_adapters(
    network: PreTrainedModel, *, kind: Adapter, rank: int, alpha: float, dropout: float, seed: int
) -> PeftModel:
    """Freeze `network` and put a trainable update B A * alpha / rank beside every matrix of its blocks.

    B starts at zero, so that the student starts as it was. The layers are replaced inside `network` itself, which stays
    the thing to run; the returned wrapper is needed for `merge_adapters`. A is drawn from `seed`. Raises `BadInput` for
    QLoRA on a machine without CUDA or bitsandbytes.
    """
    if kind == "qlora":
        _to_four_bits(network)
    if kind == "dora":
        _refuse_empty_rows(network)
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=dropout,
        target_modules=list(TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
        use_dora=kind == "dora",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(network, settings)
    if not isinstance(wrapped, PeftModel):
        raise BugError("peft wrapped the network in something else")
    return wrapped


def merge_adapters(wrapped: PeftModel) -> PreTrainedModel:
    """The plain network with the updates added into its matrices; `wrapped` is of no use afterwards."""
    merged = wrapped.merge_and_unload()
    if not isinstance(merged, PreTrainedModel):
        raise BugError("peft gave something else than the network back")
    _from_four_bits(merged)
    return merged


def _refuse_empty_rows(network: PreTrainedModel) -> None:
    """DoRA divides by each row's length."""
    for name, module in _matrices(network):
        if not bool(module.weight.any(dim=1).all()):
            raise BadInput(
                "DoRA cannot train this student", f"{name} has a row of zeros.", 'Set student.adapter = "lora".'
            )


def _to_four_bits(network: PreTrainedModel) -> None:
    """Put 4-bit NormalFloat matrices in the place of the blocks' own; they are rounded when they reach the GPU."""
    if not torch.cuda.is_available():
        raise BadInput(
            "QLoRA needs an NVIDIA GPU",
            "Its 4-bit matrices exist for CUDA alone, and torch finds no such device here.",
            'Set student.adapter = "lora".',
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise BadInput(
            "QLoRA needs bitsandbytes", "The package is not installed.", "pip install bitsandbytes, or use LoRA."
        ) from error
    for name, old in _matrices(network):
        new = bitsandbytes.nn.Linear4bit(
            old.in_features, old.out_features, old.bias is not None, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        new.weight = bitsandbytes.nn.Params4bit(old.weight.detach(), requires_grad=False, quant_type="nf4")
        if old.bias is not None:
            new.bias = old.bias
        network.set_submodule(name, new)


def _from_four_bits(network: PreTrainedModel) -> None:
    """Plain matrices again, as an export needs them; nothing where none has 4 bits."""
    for name, old in _matrices(network):
        state = getattr(old.weight, "quant_state", None)
        if state is None:
            continue
        import bitsandbytes

        new = nn.Linear(old.in_features, old.out_features, bias=old.bias is not None)
        new.weight = nn.Parameter(bitsandbytes.functional.dequantize_4bit(old.weight.data, state).float())
        new.bias = old.bias
        network.set_submodule(name, new)


def _matrices(network: PreTrainedModel) -> list[tuple[str, nn.Linear]]:
    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in TARGETS
    ]
