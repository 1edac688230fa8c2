"""Writes a student folder as a GGUF file in F32, F16 or BF16.

Tensors go from the mapped safetensors to the file block by block: torch is not needed and memory stays small. The
names and the container come from the `gguf` package (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import IO

import gguf
import numpy as np

from kdstudio import files
from kdstudio.errors import BadInput
from kdstudio.export import architecture, weights
from kdstudio.export.metadata import Kind, Metadata, array, text, unsigned
from kdstudio.export.tokenizer import tokenizer_metadata
from kdstudio.export.weights import FloatType, StoredTensor
from kdstudio.models.model_folder import read_config

_FILE_TYPES: dict[FloatType, gguf.LlamaFileType] = {
    "F32": gguf.LlamaFileType.ALL_F32,
    "F16": gguf.LlamaFileType.MOSTLY_F16,
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
}
_RAW_TYPES: dict[FloatType, gguf.GGMLQuantizationType] = {
    "F32": gguf.GGMLQuantizationType.F32,
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
}
_SUFFIXES = (".weight", ".bias")
DERIVED = ("rotary_emb.inv_freq",)  # follows from the config; old folders store it all the same


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who a file is, for its `general.*` metadata. `base`: (name, organization, repository) of each origin."""

    name: str
    license: str = ""
    license_link: str = ""
    description: str = ""
    base: tuple[tuple[str, str, str], ...] = ()
    languages: tuple[str, ...] = ()
    extra: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class _Planned:
    """A tensor as it will lie in the file: `store` is the type of its numbers there."""

    name: str
    tensor: StoredTensor
    store: FloatType

    @property
    def bytes(self) -> int:
        return int(self.tensor.data.size) * weights.ITEM_BYTES[self.store]


def estimated_bytes(folder: Path, file_type: FloatType) -> int:
    """Size of the file that `write_gguf` makes, a little above rather than below."""
    numbers = sum(tensor.data.size for tensor in weights.read_weights(folder).values())
    return int(numbers * weights.ITEM_BYTES[file_type] * 1.01) + (16 << 20)


def write_gguf(
    folder: Path,
    out: Path,
    file_type: FloatType,
    identity: Identity,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write the student in `folder` to `out` (atomically) and return its size in bytes.

    Matrices are stored as `file_type`, vectors always as F32, as llama.cpp expects. `progress`: bytes done, total.
    Raises `BadInput` when the model cannot be expressed in GGUF, `KnownError` when the disk is full.
    """
    config = read_config(folder)
    reason = architecture.refusal(config)
    if reason is not None:
        raise BadInput("This model cannot be exported to GGUF", f"{folder}: {reason}", "Train a student that can be.")
    shape = architecture.Shape.of(config)
    plan = _plan(weights.read_weights(folder), shape, file_type, folder)
    rows = next(item.tensor.shape[0] for item in plan if item.name == "token_embd.weight")
    shape = dataclasses.replace(shape, vocabulary=rows)
    parameters = sum(item.tensor.data.size for item in plan)
    metadata = _general(identity, file_type, parameters) | architecture.shape_metadata(shape)
    metadata |= tokenizer_metadata(folder, rows)
    with files.atomic_file(out) as stream:
        _write(stream, shape, metadata, plan, progress)
    return out.stat().st_size


def _plan(
    tensors: dict[str, StoredTensor], shape: architecture.Shape, file_type: FloatType, folder: Path
) -> list[_Planned]:
    names = gguf.get_tensor_name_map(_MODEL_ARCH[shape.architecture], shape.layers)
    plan: list[_Planned] = []
    for source, tensor in tensors.items():
        if source.endswith(DERIVED) or (shape.tied and source == "lm_head.weight"):
            continue
        name = names.get_name(source, try_suffixes=_SUFFIXES)
        if name is None:
            raise BadInput(
                "This model cannot be exported to GGUF",
                f"{folder}: llama.cpp's {shape.architecture!r} has no place for the tensor {source!r}.",
                "Merge adapters into the weights first; other extra tensors cannot be exported.",
            )
        store: FloatType = "F32" if len(tensor.shape) == 1 else file_type
        plan.append(_Planned(name, tensor, store))
    factors = architecture.rope_factors(shape)
    if factors is not None:
        plan.append(_Planned("rope_freqs.weight", StoredTensor("rope_freqs", "F32", factors), "F32"))
    _require_all({item.name for item in plan}, shape, folder)
    return sorted(plan, key=lambda item: _place(item.name))


_MODEL_ARCH = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


def _require_all(present: set[str], shape: architecture.Shape, folder: Path) -> None:
    blocks = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    needed = {f"blk.{layer}.{part}.weight" for layer in range(shape.layers) for part in blocks}
    needed |= {"token_embd.weight", "output_norm.weight"} | (set() if shape.tied else {"output.weight"})
    missing = sorted(needed - present)
    if missing:
        raise BadInput(
            "The weights are incomplete",
            f"{folder} lacks {len(missing)} tensors, the first is {missing[0]} (GGUF name).",
            "Copy the folder again.",
        )


def _place(name: str) -> tuple[int, int, str]:
    """Embedding first, then the blocks in order, then what follows them."""
    if name.startswith("blk."):
        return 1, int(name.split(".")[1]), name
    return (0 if name.startswith(("token_embd", "rope")) else 2), 0, name


def _general(identity: Identity, file_type: FloatType, parameters: int) -> Metadata:
    found: Metadata = {
        "general.type": text("model"),
        "general.name": text(identity.name),
        "general.size_label": text(size_label(parameters)),
        "general.license": text(identity.license),
        "general.license.link": text(identity.license_link),
        "general.description": text(identity.description),
        "general.file_type": unsigned(int(_FILE_TYPES[file_type])),
        "general.quantization_version": unsigned(gguf.GGML_QUANT_VERSION),
    }
    if identity.languages:
        found["general.languages"] = array(list(identity.languages), Kind.STRING)
    if identity.base:
        found["general.base_model.count"] = unsigned(len(identity.base))
    for number, (name, organization, repository) in enumerate(identity.base):
        found[f"general.base_model.{number}.name"] = text(name)
        found[f"general.base_model.{number}.organization"] = text(organization)
        found[f"general.base_model.{number}.repo_url"] = text(repository)
    found |= {key: text(value) for key, value in identity.extra}
    return {key: value for key, value in found.items() if value.value != ""}


def size_label(parameters: int) -> str:
    """`134515008` -> `135M`, as model names write it."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6)):
        if parameters >= size:
            scaled = parameters / size
            return f"{scaled:.1f}{unit}" if scaled < 10 and unit != "M" else f"{scaled:.0f}{unit}"
    return f"{max(1, round(parameters / 1000))}K"


def _write(
    stream: IO[bytes],
    shape: architecture.Shape,
    metadata: Metadata,
    plan: list[_Planned],
    progress: Callable[[int, int], None] | None,
) -> None:
    writer = gguf.GGUFWriter(None, shape.architecture)
    for key, value in metadata.items():
        writer.add_key_value(key, value.value, value.type, sub_type=value.item)
    for item in plan:
        raw = _RAW_TYPES[item.store]
        writer.add_tensor_info(item.name, item.tensor.shape, np.dtype(np.uint16), item.bytes, raw_dtype=raw)
    # The writer gets our stream, so that the file appears under its name only when it is complete.
    writer.fout, writer.state = [stream], gguf.WriterState.EMPTY  # type: ignore[list-item]
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.write_padding(stream, stream.tell())
    done, total = 0, sum(item.bytes for item in plan)
    for item in plan:
        data = architecture.reordered(item.tensor.name, item.tensor.data, shape)
        for block in weights.converted(dataclasses.replace(item.tensor, data=data), item.store):
            stream.write(block)  # not ndarray.tofile: that hides the operating system's reason when the disk is full
            done += len(block)
            if progress is not None:
                progress(done, total)
        writer.write_padding(stream, item.bytes)
