"""Says before training whether the student could be exported, so that nobody trains for hours towards nothing."""

from __future__ import annotations

from pathlib import Path

from kdstudio.export import architecture, tokenizer
from kdstudio.models.architectures import TOKENIZER_MODELS, student_obstacle
from kdstudio.models.gguf_header import GGUFHeader, read_header
from kdstudio.models.model_folder import read_config


def exportable(source: Path | GGUFHeader) -> str | None:
    """Why a student made from `source` could not become a GGUF file, as a sentence; None if it can.

    `source` is a Hugging Face style folder, a GGUF file, or a header already read. Raises `BadInput` when it cannot be
    read at all.
    """
    if isinstance(source, GGUFHeader):
        return _header_refusal(source)
    if source.is_dir():
        return architecture.refusal(read_config(source)) or _tokenizer_refusal(source)
    return _header_refusal(read_header(source))


def _header_refusal(header: GGUFHeader) -> str | None:
    obstacle = student_obstacle(header)
    scaling = header.of_architecture("rope.scaling.type", "none")
    if not obstacle and scaling not in ("none", "linear"):
        return f"Its rotary scaling is {scaling!r}; only linear scaling can be exported."
    return obstacle or None


def _tokenizer_refusal(folder: Path) -> str | None:
    if (folder / "tokenizer.gguf").exists():
        model = read_header(folder / "tokenizer.gguf").metadata.get("tokenizer.ggml.model")
        known = " and ".join(TOKENIZER_MODELS.values())
        return None if model in TOKENIZER_MODELS else f"Its tokenizer is of type {model!r}; {known} can be exported."
    return tokenizer.refusal(tokenizer.load_json(folder)[0])
