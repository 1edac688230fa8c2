"""The student's folder: a Hugging Face folder with the tokenizer it was trained with and where it comes from.

`config.json`, `model.safetensors`, `chat_template.jinja`, `student.json` (provenance), and either `tokenizer.gguf` (the
source GGUF's metadata without weights: llama.cpp reads the vocabulary from it, exporters the rest) or `tokenizer.json`.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from kdstudio import files
from kdstudio.errors import BugError
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.gguf_header import GGUFHeader, read_header
from kdstudio.models.model_folder import CONFIG_NAME, WEIGHTS_NAME
from kdstudio.networks.folder import load_folder
from kdstudio.networks.hf_tokenizer import SETTINGS_NAME, TEMPLATE_NAME, TOKENIZER_NAME, FolderTokenizer
from kdstudio.networks.network import Config, assemble
from kdstudio.students.tensor_file import write_tensors
from kdstudio.teachers.tokenizers import VOCABULARY_NAME, open_tokenizer

__all__ = [
    "PROVENANCE_NAME",
    "VOCABULARY_NAME",
    "copy_tokenizer",
    "open_student",
    "open_tokenizer",
    "save_student",
    "student_bytes",
    "vocabulary_only",
]
PROVENANCE_NAME = "student.json"


def student_bytes(parameters: int) -> int:
    """About what a saved student of so many parameters takes on the disk, its tokenizer included."""
    return parameters * 4 + (32 << 20)


def save_student(
    folder: Path, network: PreTrainedModel, config: Config, tokenizer_source: Path, provenance: dict[str, Any]
) -> None:
    """Write the folder atomically; it takes the place of an earlier one.

    `tokenizer_source`: the GGUF file or folder that the student's vocabulary comes from. Weights are stored in float32.
    """
    needed = student_bytes(sum(item.numel() for item in network.parameters()))
    files.require_space(folder, needed, "The student")
    with files.atomic_folder(folder, needed=needed) as temporary:
        state = {name: item.detach().float().cpu().contiguous() for name, item in network.named_parameters()}
        write_tensors(state, temporary / WEIGHTS_NAME)
        (temporary / CONFIG_NAME).write_text(json.dumps({**config, "dtype": "float32"}, indent=2), "utf-8")
        template = copy_tokenizer(tokenizer_source, temporary)
        if template:
            (temporary / TEMPLATE_NAME).write_text(template, "utf-8")
        text = json.dumps({"format": 1, **provenance}, indent=2, ensure_ascii=False)
        (temporary / PROVENANCE_NAME).write_text(text, "utf-8")


def open_student(folder: Path) -> tuple[PreTrainedModel, Tokenizer, Config]:
    """A saved student in float32, its tokenizer and config. Raises `BadInput` when a part is missing or damaged."""
    config, state = load_folder(folder)
    return assemble(config, state, folder.name), open_tokenizer(folder, config["vocab_size"]), config


def copy_tokenizer(source: Path, target: Path) -> str:
    """Put `source`'s vocabulary into the folder `target`; returns the chat template ("" if it has none)."""
    vocabulary = source / VOCABULARY_NAME if source.is_dir() else source
    if vocabulary.is_file():
        header = read_header(vocabulary)
        (target / VOCABULARY_NAME).write_bytes(vocabulary_only(header))
        return header.template
    for name in (TOKENIZER_NAME, SETTINGS_NAME):
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    return FolderTokenizer(source).template


def vocabulary_only(header: GGUFHeader) -> bytes:
    """A GGUF file with all of `header`'s metadata and no tensors, byte for byte as in the original."""
    with header.path.open("rb") as stream:
        data = bytearray(stream.read(header.data_offset))
    end = _metadata_end(header, bytes(data))
    struct.pack_into("<Q", data, 8, 0)  # the count of tensors stands after magic and version
    return bytes(data[:end])


def _metadata_end(header: GGUFHeader, data: bytes) -> int:
    """Where the tensor table begins: its size is known, and it ends within one alignment of the weights."""
    if not header.tensors:
        return header.data_offset
    names = [tensor.name.encode() for tensor in header.tensors]
    table = sum(
        8 + len(name) + 4 + 8 * len(tensor.shape) + 4 + 8 for name, tensor in zip(names, header.tensors, strict=True)
    )
    first = struct.pack("<Q", len(names[0])) + names[0] + struct.pack("<I", len(header.tensors[0].shape))
    alignment = int(header.metadata.get("general.alignment", 32))
    for padding in range(alignment):
        start = header.data_offset - padding - table
        if data[start : start + len(first)] == first:
            return start
    raise BugError(f"the tensor table of {header.path.name} was not found")
