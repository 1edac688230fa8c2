"""LoRA: train low-rank updates of the blocks' matrices, and fold them in at the end.

Hu et al. 2021, https://arxiv.org/abs/2106.09685.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from kdstudio.errors import BugError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def add_lora(network: PreTrainedModel, *, rank: int, alpha: float, dropout: float, seed: int) -> PeftModel:
    """Freeze `network` and put a trainable update B A * alpha / rank beside every matrix of its blocks.

    B starts at zero, so that the student starts as it was. The layers are replaced inside `network` itself, which stays
    the thing to run; the returned wrapper is needed for `merge_lora`. A is drawn from `seed`.
    """
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # only ever divided by the rank
        lora_dropout=dropout,
        target_modules=list(TARGETS),
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(network, settings)
    if not isinstance(wrapped, PeftModel):
        raise BugError("peft wrapped the network in something else")
    return wrapped


def merge_lora(wrapped: PeftModel) -> PreTrainedModel:
    """The plain network with the updates added into its matrices; `wrapped` is of no use afterwards."""
    merged = wrapped.merge_and_unload()
    if not isinstance(merged, PreTrainedModel):
        raise BugError("peft gave something else than the network back")
    return merged
