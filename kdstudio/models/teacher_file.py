"""What a project keeps about a teacher that is a GGUF file: read from its header, before anything loads it."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kdstudio.models.architectures import student_obstacle
from kdstudio.models.gguf_header import GGUFHeader, fingerprint, read_header
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import joined, parts_of, single

TERMS_KEY = "kdstudio.terms"
_MOST_PARTS = 20
_QUANTIZATION = re.compile(r"[.\-_](I?Q\d\w*|B?F16|F32)$", re.IGNORECASE)


def name_of(path: Path) -> str:
    """What to call a model file: its name without the ending that says how it is quantized."""
    return _QUANTIZATION.sub("", path.stem) or path.stem


def free_name(name: str, taken: Collection[str]) -> str:
    """The name, or the first of `name (2)`, `name (3)`, ... that is not taken."""
    return next(one for one in (name, *(f"{name} ({number})" for number in range(2, 10_000))) if one not in taken)


def describe(header: GGUFHeader) -> dict[str, Any]:
    """What the header says, as plain values for the database.

    `terms`: the stamp of its licence, or of all that a student of ours was made under. `chat_template`: whether there
    is one. `student_obstacle`: why no student can be made from it; "" when one can.
    """
    return {
        "architecture": header.architecture,
        "parameters": header.parameters,
        "context_tokens": header.context,
        "vocabulary_size": header.vocabulary_size,
        "quantization": header.quantization,
        "license": header.license,
        "terms": header_terms(header),
        "bytes": header.bytes,
        "layers": header.layers,
        "chat_template": bool(header.template),
        "student_obstacle": student_obstacle(header),
    }


def header_terms(header: GGUFHeader) -> str:
    """The stamp of a file's terms: a student of ours carries those of all its teachers, others name their licence."""
    stated = header.metadata.get(TERMS_KEY)
    parts = parts_of(stated) if isinstance(stated, str) else ()
    return joined(single(part) for part in parts[:_MOST_PARTS]) or single(header.license)


def gguf_teacher(name: str, path: Path) -> tuple[TeacherSpec, dict[str, Any]]:
    """A teacher's spec and capabilities from its file; an empty name is made from the file's. Raises `BadInput`."""
    header = read_header(path)
    spec = TeacherSpec(name or name_of(path), "gguf", path=str(path.resolve()))
    return spec, {**describe(header), "fingerprint": fingerprint(path)}
