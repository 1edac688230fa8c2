"""From a config and weights to a torch network, with nothing of either trusted.

A config from a folder may name code to run (`auto_map`, `_attn_implementation`: CVE-2026-4372), so only known keys of
known architectures pass, and the network's class comes from our own table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from kdstudio.errors import BadInput
from kdstudio.networks.lean import keep_little

Config = dict[str, Any]
State = dict[str, Tensor]

NETWORKS: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
"""The architectures that can be trained and exported, by `model_type`."""

_SIZES = {
    "vocab_size": 1 << 22,
    "hidden_size": 1 << 17,
    "intermediate_size": 1 << 19,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 4096,
    "max_position_embeddings": 1 << 27,
}
_OPTIONAL_SIZES = ("num_key_value_heads", "head_dim", "max_position_embeddings")
_NUMBERS = ("rms_norm_eps", "initializer_range", "rope_theta", "attention_dropout")
_FLAGS = ("tie_word_embeddings", "attention_bias", "mlp_bias")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")
_ROPE_KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "rope_theta")
_ROPE_TYPES = ("default", "linear", "llama3")


def clean_config(raw: Mapping[str, Any], where: str) -> Config:
    """The keys of a `config.json` that describe the network; everything else is left behind.

    Raises `BadInput` for an architecture that cannot be trained and exported, and for sizes that make no sense.
    """
    kind = raw.get("model_type")
    if kind not in NETWORKS:
        raise BadInput(
            "This architecture is not supported",
            f"{where} is of type {str(kind)[:60]!r}; students can be {', '.join(NETWORKS)}.",
            "Choose a Llama-, Qwen2- or Qwen3-shaped model.",
        )
    _refuse_special(raw, where)
    config: Config = {"model_type": kind, "architectures": [NETWORKS[str(kind)][1].__name__], "hidden_act": "silu"}
    config.update(_sizes(raw, where))
    config.update({key: float(raw[key]) for key in _NUMBERS if _is_number(raw.get(key))})
    config.update({key: raw[key] for key in _FLAGS if isinstance(raw.get(key), bool)})
    config.update({key: raw[key] for key in _TOKENS if _is_token(raw.get(key))})
    config["rope_parameters"] = _rope(raw, where)
    config.pop("rope_theta", None)
    return config


def _refuse_special(raw: Mapping[str, Any], where: str) -> None:
    if raw.get("quantization_config"):
        raise BadInput(
            "Quantized weights cannot be trained", f"{where} holds quantized weights.", "Use the original ones."
        )
    if raw.get("hidden_act", "silu") != "silu":
        found = str(raw["hidden_act"])[:40]
        raise BadInput("This activation is not supported", f"{where} uses {found!r}; llama.cpp computes SiLU here.")
    if raw.get("use_sliding_window"):
        raise BadInput("Sliding-window attention is not supported", f"{where} asks for it.", "Choose another student.")


def _sizes(raw: Mapping[str, Any], where: str) -> Config:
    sizes: Config = {}
    for key, maximum in _SIZES.items():
        value = raw.get(key)
        if value is None and key in _OPTIONAL_SIZES:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= maximum:
            raise BadInput("The model's config makes no sense", f"{where}: {key} is {str(value)[:40]!r}.")
        sizes[key] = value
    return sizes


def _rope(raw: Mapping[str, Any], where: str) -> Config:
    found: Any = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(found, dict):
        found = {}
    kind = found.get("rope_type", found.get("type", "default")) or "default"
    if kind not in _ROPE_TYPES:
        raise BadInput("This rotary scaling is not supported", f"{where} uses {str(kind)[:40]!r}.", _ROPE_HINT)
    rope: Config = {"rope_type": kind, "rope_theta": raw.get("rope_theta", 10000.0)}
    rope.update({key: found[key] for key in _ROPE_KEYS if _is_number(found.get(key))})
    if not _is_number(rope["rope_theta"]) or rope["rope_theta"] <= 0:
        raise BadInput("The model's config makes no sense", f"{where}: rope_theta is {str(rope['rope_theta'])[:40]!r}.")
    return rope


_ROPE_HINT = f"Known: {', '.join(_ROPE_TYPES)}."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_token(value: object) -> bool:
    items = value if isinstance(value, list) and value else [value]
    return all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items)


def new_config(config: Config) -> PretrainedConfig:
    """The config as transformers holds it."""
    return NETWORKS[config["model_type"]][0](**{key: value for key, value in config.items() if key != "model_type"})


def assemble(config: Config, state: State, where: str) -> PreTrainedModel:
    """The network of `config` holding the tensors of `state` themselves (no copy), in evaluation mode.

    Raises `BadInput` when a tensor is missing, has another shape, or has no place.
    """
    settings = new_config(config)
    with torch.device("meta"):
        network = NETWORKS[config["model_type"]][1](settings)
    if config.get("tie_word_embeddings"):
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    wanted = {name: parameter.shape for name, parameter in network.named_parameters()}
    _check_tensors(wanted, state, where)
    network.load_state_dict(state, strict=False, assign=True)
    network.tie_weights()
    # Rotary frequencies are in no state dict: make them anew, off the meta device.
    rotary = network.get_submodule("model.rotary_emb")
    network.set_submodule("model.rotary_emb", type(rotary)(settings))
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    network.train(False)
    keep_little(network)
    return network


def _check_tensors(wanted: Mapping[str, torch.Size], state: State, where: str) -> None:
    missing = sorted(set(wanted) - set(state))
    strange = sorted(set(state) - set(wanted))
    if missing or strange:
        parts = [f"lacks {_some(missing)}"] if missing else []
        parts += [f"holds {_some(strange)}, which have no place in it"] if strange else []
        raise BadInput(
            "The weights do not fit the architecture", f"{where} {' and '.join(parts)}.", "Get the model again."
        )
    for name, shape in wanted.items():
        if state[name].shape != shape:
            found, expected = tuple(state[name].shape), tuple(shape)
            raise BadInput("The weights do not fit the config", f"{where}: {name} is {found}, expected {expected}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
