"""What a Hugging Face folder holds, without opening its weights: none of its code runs, pickles are refused."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models import gguf_header
from kdstudio.models.shape import parameter_count, shape_of_folder
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.teacher_file import describe, name_of

CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.gguf")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_MAXIMUM_JSON = 16 << 20
_MAXIMUM_CARD = 64 << 10
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)
_SAMPLES, _SAMPLE_BYTES = 64, 4096


def read_json(path: Path, title: str, hint: str) -> dict[str, Any]:
    """A JSON object of the folder. Raises `BadInput`: with `title` and `hint` when the file is not there."""
    if not path.is_file():
        raise BadInput(title, f"{path} does not exist.", hint)
    if path.stat().st_size > _MAXIMUM_JSON:
        raise BadInput("The model's files make no sense", f"{path} has {path.stat().st_size:,} bytes.", hint)
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("The model's files cannot be read", f"{path}: {error}.", "Get the model again.") from error
    if not isinstance(read, dict):
        raise BadInput("The model's files make no sense", f"{path} holds no object.", "Get the model again.")
    return read


def read_config(folder: Path) -> dict[str, Any]:
    """The whole `config.json` of a folder, unjudged. Raises `BadInput` when there is no folder or no such file."""
    if not folder.is_dir():
        raise BadInput("There is no such folder", str(folder), f"Choose the folder that holds {CONFIG_NAME}.")
    return read_json(
        folder / CONFIG_NAME, "The folder has no config", f"Choose the folder that holds {CONFIG_NAME} and the weights."
    )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder. Raises `BadInput` when there are none, or weights only as pickles.

    Opening a pickle can run a program hidden in it, so that none is ever opened.
    """
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).is_file() and (names := _indexed(folder)):
        return [folder / name for name in names]
    if any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise BadInput(
            "Pickled weights are refused",
            f"{folder} holds weights only as pickle files, and opening one can run a program hidden in it.",
            "Get the model as safetensors, or convert it on a machine you can lose.",
        )
    raise BadInput(
        "The folder has no weights", f"{folder} holds no {WEIGHTS_NAME}.", "Choose a folder with safetensors weights."
    )


def _indexed(folder: Path) -> list[str]:
    placed = read_json(folder / INDEX_NAME, "", "").get("weight_map")
    names = sorted({str(name) for name in placed.values()}) if isinstance(placed, dict) else []
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BadInput(
                "The model's index makes no sense",
                f"{folder / INDEX_NAME} names {name[:80]!r}.",
                "Get the model again.",
            )
        if not (folder / name).is_file():
            raise BadInput("The model is incomplete", f"{folder / name} does not exist.", "Get the model again.")
    return names


def require_tokenizer(folder: Path) -> None:
    """Raise `BadInput` when a folder holds no tokenizer that we read."""
    if not any((folder / name).is_file() for name in TOKENIZER_NAMES):
        raise BadInput(
            "The folder has no tokenizer",
            f"{folder} holds no {TOKENIZER_NAMES[0]}.",
            "Save the model with its tokenizer: tokenizer.save_pretrained(folder).",
        )


def weights_fingerprint(source: Path) -> str:
    """Name the exact weights of a GGUF file or of a folder, in hex; moving or copying them changes nothing.

    Of a folder: blake2b-128 of its config's values, and of each weight file's size, header and 64 spread samples.
    Raises `BadInput` where there are no weights that can be read.
    """
    if not source.is_dir():
        return gguf_header.fingerprint(source)
    digest = hashlib.blake2b(b"safetensors 1 ", digest_size=16)
    digest.update(json.dumps(read_config(source), sort_keys=True).encode())
    for path in weight_files(source):
        try:
            _add_file(digest, path)
        except OSError as error:
            raise BadInput("The weights cannot be read", f"{path}: {error}", "Get the model again.") from error
    return digest.hexdigest()


def _add_file(digest: hashlib.blake2b, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")  # of the JSON header that follows
        header = stream.read(min(length, _MAXIMUM_JSON))
        digest.update(f"{size} {length} ".encode() + header)
        first, last = min(8 + length, size), max(size - _SAMPLE_BYTES, 0)
        for number in range(_SAMPLES):
            stream.seek(first + max(last - first, 0) * number // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))


def stated_license(source: Path) -> str:
    """The licence that a GGUF file or a folder's model card (the front matter of README.md) states; "" for none."""
    if not source.is_dir():
        return gguf_header.read_header(source).license
    card = front_matter(source)
    license_, name = _card_value(card, "license"), _card_value(card, "license_name")
    return name or license_ if license_ in ("", "other") else license_


def front_matter(folder: Path) -> str:
    """The YAML at the head of a folder's README.md; "" without one."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as stream:
            found = _FRONT_MATTER.match(stream.read(_MAXIMUM_CARD))
    except OSError:
        return ""
    return found[1] if found else ""


def _card_value(card: str, key: str) -> str:
    """A plain value at the card's top level: what YAML can do besides is of no use here."""
    found = re.search(rf"^{key}:[ \t]*(?:\n[ \t]*-[ \t]+)?([^\s#][^#\n]*)", card, re.MULTILINE)
    return found[1].strip().strip("'\"").strip()[:100] if found else ""


def folder_teacher(name: str, folder: Path) -> tuple[TeacherSpec, dict[str, Any]]:
    """A teacher that runs through transformers: its spec and capabilities from its folder, or from a GGUF file.

    An empty name is the folder's or the file's. Raises `BadInput`.
    """
    if folder.is_file():
        header = gguf_header.read_header(folder)
        spec = TeacherSpec(name or name_of(folder), "huggingface", path=str(folder.resolve()))
        return spec, {**describe(header), "fingerprint": weights_fingerprint(folder)}
    read_config(folder)
    weights = weight_files(folder)
    require_tokenizer(folder)
    shape = shape_of_folder(folder)
    spec = TeacherSpec(name or folder.resolve().name, "huggingface", path=str(folder.resolve()))
    return spec, {
        "architecture": shape.architecture,
        "parameters": parameter_count(shape),
        "context_tokens": shape.context,
        "vocabulary_size": shape.vocabulary,
        "bytes": sum(path.stat().st_size for path in weights),
        "layers": shape.layers,
        "license": stated_license(folder),
        "fingerprint": weights_fingerprint(folder),
    }
