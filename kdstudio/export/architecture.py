"""What a student's `config.json` means in GGUF: architecture, hyperparameters, and which head rows are reordered.

llama.cpp keeps Llama's rotary pairs next to each other and Hugging Face keeps them half a head apart, so that Llama's
query and key rows are reordered (llama.cpp, conversion of LlamaModel); Qwen2 and Qwen3 are stored as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput
from kdstudio.export.metadata import Metadata, real, text, unsigned
from kdstudio.models.architectures import ARCHITECTURES

_REORDERED = ("q_proj.weight", "k_proj.weight", "q_proj.bias", "k_proj.bias")


@dataclass(frozen=True)
class Shape:
    """What a GGUF file needs to know of a decoder, from `config.json` in either spelling of rotary settings."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dimension: int
    vocabulary: int
    context: int
    norm_epsilon: float
    tied: bool
    rope: dict[str, Any]

    @staticmethod
    def of(config: dict[str, Any]) -> Shape:
        """Read a parsed `config.json`. Raises `BadInput` when a needed number is missing."""
        try:
            heads = int(config["num_attention_heads"])
            hidden = int(config["hidden_size"])
            rope = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
            rope.setdefault("rope_theta", config.get("rope_theta", 10000.0))
            return Shape(
                architecture=str(config.get("model_type")),
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                feed_forward=int(config["intermediate_size"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dimension=int(config.get("head_dim") or hidden // heads),
                vocabulary=int(config["vocab_size"]),
                context=int(config["max_position_embeddings"]),
                norm_epsilon=float(config.get("rms_norm_eps", 1e-6)),
                tied=bool(config.get("tie_word_embeddings", False)),
                rope=rope,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise BadInput(
                "The model's config.json is incomplete", f"It lacks or garbles {error}.", "Copy it again."
            ) from error

    @property
    def rope_type(self) -> str:
        """default, linear, llama3, yarn, ... (older files say `type`)."""
        return str(self.rope.get("rope_type") or self.rope.get("type") or "default")


def refusal(config: dict[str, Any]) -> str | None:
    """Why a model with this `config.json` cannot become a GGUF file; None if it can."""
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        return f"Its architecture is {kind!r}; {', '.join(ARCHITECTURES)} can be exported."
    if config.get("hidden_act", "silu") != "silu":
        return f"Its activation is {config['hidden_act']!r}; only 'silu' can be exported."
    if config.get("use_sliding_window"):
        return "It uses sliding-window attention, which cannot be exported."
    if kind == "qwen3" and config.get("attention_bias"):
        return "Its attention has biases, which llama.cpp's qwen3 does not."
    shape = Shape.of(config)
    if shape.rope_type not in ("default", "linear", "llama3"):
        return f"Its rotary scaling is {shape.rope_type!r}; default, linear and llama3 can be exported."
    if float(shape.rope.get("partial_rotary_factor", 1.0) or 1.0) != 1.0:
        return "It rotates only part of each head, which cannot be exported."
    return None


def shape_metadata(shape: Shape) -> Metadata:
    """The `<architecture>.*` values."""
    arch = shape.architecture
    found: Metadata = {
        f"{arch}.block_count": unsigned(shape.layers),
        f"{arch}.context_length": unsigned(shape.context),
        f"{arch}.embedding_length": unsigned(shape.hidden),
        f"{arch}.feed_forward_length": unsigned(shape.feed_forward),
        f"{arch}.attention.head_count": unsigned(shape.heads),
        f"{arch}.attention.head_count_kv": unsigned(shape.kv_heads),
        f"{arch}.attention.key_length": unsigned(shape.head_dimension),
        f"{arch}.attention.value_length": unsigned(shape.head_dimension),
        f"{arch}.attention.layer_norm_rms_epsilon": real(shape.norm_epsilon),
        f"{arch}.rope.freq_base": real(shape.rope["rope_theta"]),
        f"{arch}.rope.dimension_count": unsigned(shape.head_dimension),
        f"{arch}.vocab_size": unsigned(shape.vocabulary),
    }
    if shape.rope_type == "linear":
        found[f"{arch}.rope.scaling.type"] = text(shape.rope_type)
        found[f"{arch}.rope.scaling.factor"] = real(shape.rope["factor"])
    return found


def rope_factors(shape: Shape) -> npt.NDArray[np.float32] | None:
    """Per-frequency divisors of Llama 3's long-context rule, [head dimension / 2]; None where the model has none.

    The rule: transformers, `modeling_rope_utils._compute_llama3_parameters`.
    """
    if shape.rope_type != "llama3":
        return None
    rope, size = shape.rope, shape.head_dimension
    factor, low, high = (float(rope.get(key, default)) for key, default in _LLAMA3_DEFAULTS)
    original = float(rope.get("original_max_position_embeddings", 8192))
    divisors = []
    for index in range(0, size, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (index / size)
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, np.float32)


_LLAMA3_DEFAULTS = (("factor", 8.0), ("low_freq_factor", 1.0), ("high_freq_factor", 4.0))


def reordered(name: str, tensor: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """Put Llama's query and key rows into llama.cpp's rotary order; every other tensor comes back as it is."""
    if shape.architecture != "llama" or not name.endswith(_REORDERED):
        return tensor
    heads = shape.heads if ".q_proj." in name else shape.kv_heads
    halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)
