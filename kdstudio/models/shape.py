"""The shape of a decoder, from a GGUF header or a Hugging Face `config.json`: what counting and estimating need."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models.gguf_header import GGUFHeader

MAXIMUM_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a Llama-shaped decoder. `feed_forward`: width inside an MLP; `tied`: one matrix embeds and predicts."""

    architecture: str
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dimension: int
    vocabulary: int
    context: int
    tied: bool

    def with_layers(self, layers: int) -> ModelShape:
        """The same model cut to, or built with, `layers` blocks."""
        return replace(self, layers=layers)


def shape_of_header(header: GGUFHeader) -> ModelShape:
    """Raises `BadInput` when the file does not say one of the sizes."""
    hidden, heads = header.hidden, header.heads
    key_length = header.of_architecture("attention.key_length", 0)
    return _checked(
        ModelShape(
            architecture=header.architecture,
            layers=header.layers,
            hidden=hidden,
            feed_forward=_number(header.of_architecture("feed_forward_length", 0)),
            heads=heads,
            kv_heads=header.kv_heads,
            head_dimension=_number(key_length) or (hidden // heads if heads else 0),
            vocabulary=header.vocabulary_size,
            context=header.context,
            tied=header.tensor("output.weight") is None,
        ),
        header.path.name,
    )


def shape_of_config(config: dict[str, Any], source: str = "config.json") -> ModelShape:
    """From a parsed `config.json`. Raises `BadInput` when a size is missing or no number."""
    heads, hidden = _number(config.get("num_attention_heads")), _number(config.get("hidden_size"))
    return _checked(
        ModelShape(
            architecture=str(config.get("model_type", "")),
            layers=_number(config.get("num_hidden_layers")),
            hidden=hidden,
            feed_forward=_number(config.get("intermediate_size")),
            heads=heads,
            kv_heads=_number(config.get("num_key_value_heads")) or heads,
            head_dimension=_number(config.get("head_dim")) or (hidden // heads if heads else 0),
            vocabulary=_number(config.get("vocab_size")),
            context=_number(config.get("max_position_embeddings")),
            tied=config.get("tie_word_embeddings") is True,
        ),
        source,
    )


def shape_of_folder(folder: Path) -> ModelShape:
    """From a Hugging Face model folder. Raises `BadInput` when `config.json` is missing or unreadable."""
    path = folder / "config.json"
    try:
        if path.stat().st_size > MAXIMUM_CONFIG_BYTES:
            raise BadInput(
                "This config.json is too large", str(path), "Choose a model folder as transformers saves it."
            )
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("This folder is no model", f"{path}: {error}", "Choose a folder with a config.json.") from error
    if not isinstance(config, dict):
        raise BadInput("This folder is no model", f"{path} holds no object.", "Choose a folder with a config.json.")
    return shape_of_config(config, str(path))


def parameter_count(shape: ModelShape, *, layers: int | None = None) -> int:
    """Weights of the whole model, or of one cut to `layers` blocks; norms and biases included."""
    return embedding_parameters(shape) + (shape.layers if layers is None else layers) * layer_parameters(shape)


def layer_parameters(shape: ModelShape) -> int:
    """Weights of one block: attention, gated MLP, two norms, and what Qwen adds (biases; norms of queries and keys)."""
    queries, keys = shape.heads * shape.head_dimension, shape.kv_heads * shape.head_dimension
    attention = shape.hidden * (2 * queries + 2 * keys)
    if shape.architecture == "qwen2":
        attention += queries + 2 * keys
    if shape.architecture == "qwen3":
        attention += 2 * shape.head_dimension
    return attention + 3 * shape.hidden * shape.feed_forward + 2 * shape.hidden


def embedding_parameters(shape: ModelShape) -> int:
    """Weights outside the blocks: token embedding, output head unless tied, last norm."""
    return shape.vocabulary * shape.hidden * (1 if shape.tied else 2) + shape.hidden


def _number(value: object) -> int:
    if isinstance(value, list):  # some GGUF files give one number for each layer
        value = max((item for item in value if type(item) is int), default=0)
    return value if type(value) is int and 0 <= value < 1 << 40 else 0


def _checked(shape: ModelShape, source: str) -> ModelShape:
    sizes = {name: getattr(shape, name) for name in ("layers", "hidden", "feed_forward", "heads", "vocabulary")}
    missing = [name.replace("_", " ") for name, value in sizes.items() if value <= 0]
    if missing:
        raise BadInput(
            "This model does not say its size", f"{source} lacks: {', '.join(missing)}.", "Get the file again."
        )
    return shape
