"""A GGUF file's weights as a torch state dict: dequantised once, in the layout of transformers.

Reading them with `from_pretrained(gguf_file=...)` takes ten times as long and cannot leave layers out. The header comes
from our own bounded reader; the `gguf` package only dequantises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch
from gguf.quants import dequantize

from kdstudio.errors import BadInput
from kdstudio.models.gguf_header import GGUFHeader, read_header
from kdstudio.models.gguf_reader import TensorInfo
from kdstudio.networks.network import Config, State, clean_config

_TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"
_PERMUTED = "llama"  # the architecture whose query and key rows llama.cpp stores interleaved
_PLAIN: dict[str, npt.DTypeLike] = {"F32": np.float32, "F16": np.float16, "F64": np.float64}
_REFUSED = {
    "expert_count": "a mixture of experts",
    "attention.sliding_window": "sliding-window attention",
    "logit_scale": "scaled logits",
}


def load_gguf(
    path: Path, dtype: torch.dtype = torch.float32, *, layers: Sequence[int] | None = None
) -> tuple[Config, State]:
    """Config (as in `config.json`) and weights of a llama, qwen2 or qwen3 GGUF; `layers` keeps only those, in order.

    Left-out layers are never read. Raises `BadInput` for other architectures and for files that do not hold what their
    header promises.
    """
    header = read_header(path)
    kept = tuple(range(header.layers)) if layers is None else tuple(layers)
    config = gguf_config(header, kept)
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    state: State = {}
    for tensor in header.tensors:
        target = _target(tensor.name, kept)
        if not target:
            continue
        weight = read_tensor(path, tensor)
        if header.architecture == _PERMUTED and ".attn_q." in tensor.name:
            weight = _unpermute(weight, heads[0])
        elif header.architecture == _PERMUTED and ".attn_k." in tensor.name:
            weight = _unpermute(weight, heads[1])
        state[target] = torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32)).to(dtype)
    return config, state


def _target(name: str, kept: Sequence[int]) -> str:
    """Where a tensor goes in the network; "" if it is left out."""
    if name in _TOP:
        return _TOP[name]
    if name == _ROPE_FACTORS:
        return ""
    parts = name.split(".")
    if len(parts) == 4 and parts[0] == "blk" and parts[1].isdigit() and parts[2] in _BLOCK:
        number = int(parts[1])
        return f"model.layers.{kept.index(number)}.{_BLOCK[parts[2]]}.{parts[3]}" if number in kept else ""
    raise BadInput("This model cannot be trained here", f"Its tensor {name!r} has no place in the network we know.")


def read_tensor(path: Path, tensor: TensorInfo) -> npt.NDArray[np.float32]:
    """One tensor, dequantised: rows first, as numpy and torch write shapes."""
    shape = tuple(reversed(tensor.shape))
    try:
        if tensor.type in _PLAIN:
            plain = np.fromfile(path, _PLAIN[tensor.type], math.prod(shape), offset=tensor.offset)
            return plain.reshape(shape).astype(np.float32, copy=False)
        raw = np.fromfile(path, np.uint8, tensor.bytes, offset=tensor.offset)
        rows = raw.reshape(*shape[:-1], tensor.bytes // math.prod(shape[:-1]))
        return dequantize(rows, gguf.GGMLQuantizationType[tensor.type]).reshape(shape)
    except (NotImplementedError, KeyError) as error:
        raise BadInput(
            "This quantization cannot be read",
            f"{path.name} stores {tensor.name} as {tensor.type}.",
            "Get the same model as F16, Q8_0 or Q4_K_M.",
        ) from error


def _unpermute(weight: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of a query or key matrix (or bias) from llama.cpp's interleaved rotary order to transformers' halves."""
    rows = weight.shape[0]
    return weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def gguf_config(header: GGUFHeader, kept: Sequence[int]) -> Config:
    """What `config.json` would say of this file, with the layers `kept`."""
    where = header.path.name
    for key, what in _REFUSED.items():
        if header.of_architecture(key):
            raise BadInput("This model cannot be trained here", f"{where} has {what}.", "Choose a dense Llama or Qwen.")
    head = int(header.of_architecture("attention.key_length", 0)) or header.hidden // max(1, header.heads)
    rotated = int(header.of_architecture("rope.dimension_count", head))
    if rotated != head or int(header.of_architecture("attention.value_length", head)) != head:
        raise BadInput("This model cannot be trained here", f"{where} rotates {rotated} of a head's {head} dimensions.")
    raw: dict[str, Any] = {
        "model_type": header.architecture,
        "vocab_size": header.vocabulary_size,
        "hidden_size": header.hidden,
        "intermediate_size": header.of_architecture("feed_forward_length"),
        "num_hidden_layers": len(kept),
        "num_attention_heads": header.heads,
        "num_key_value_heads": header.kv_heads,
        "head_dim": head,
        "max_position_embeddings": header.context,
        "rms_norm_eps": header.of_architecture("attention.layer_norm_rms_epsilon", 1e-5),
        "tie_word_embeddings": header.tensor("output.weight") is None,
        "bos_token_id": header.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": header.metadata.get("tokenizer.ggml.eos_token_id"),
        "pad_token_id": header.metadata.get("tokenizer.ggml.padding_token_id"),
        "rope_parameters": _rope(header),
    }
    if header.architecture != "qwen2":  # there biases are part of the architecture
        raw["attention_bias"] = header.tensor("blk.0.attn_q.bias") is not None
    if header.architecture == "llama":
        raw["mlp_bias"] = header.tensor("blk.0.ffn_up.bias") is not None
    return clean_config(raw, where)


def _rope(header: GGUFHeader) -> dict[str, Any]:
    base = float(header.of_architecture("rope.freq_base", 10000.0))
    kind = header.of_architecture("rope.scaling.type", "none")
    factors = header.tensor(_ROPE_FACTORS)
    if factors is not None:
        return _llama3_rope(base, read_tensor(header.path, factors), header.path.name)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": base}
    return {"rope_type": kind, "rope_theta": base, "factor": float(header.of_architecture("rope.scaling.factor", 1.0))}


def _llama3_rope(base: float, factors: npt.NDArray[np.float32], where: str) -> dict[str, Any]:
    """The settings behind a file's table of frequency factors: every Llama 3.1 to 3.3 differs in `factor` alone."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": base,
        "factor": float(factors.max()),
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    if not np.allclose(llama3_factors(rope, 2 * len(factors)), factors, rtol=1e-4):
        raise BadInput("This rotary scaling is not supported", f"{where} has a table of factors that is not Llama 3's.")
    return rope


def llama3_factors(rope: dict[str, Any], head: int) -> npt.NDArray[np.float64]:
    """[head / 2] by what Llama 3 divides each rotary frequency (Llama 3.1's scaling, as in llama.cpp's converter)."""
    wavelength = 2 * math.pi * rope["rope_theta"] ** (np.arange(0, head, 2) / head)
    context, low, high = rope["original_max_position_embeddings"], rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    factors: npt.NDArray[np.float64] = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return factors
