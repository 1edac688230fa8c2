"""What a Hugging Face folder holds, without opening its weights: none of its code runs, pickles are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models.shape import parameter_count, shape_of_folder
from kdstudio.models.spec import TeacherSpec

CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_NAMES = ("tokenizer.json", "tokenizer.gguf")
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_MAXIMUM_JSON = 16 << 20


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


def folder_teacher(name: str, folder: Path) -> tuple[TeacherSpec, dict[str, Any]]:
    """A teacher's spec and capabilities from its folder; an empty name is the folder's. Raises `BadInput`."""
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
    }
