"""Reading a local Hugging Face folder: safetensors only, and no code from the folder ever runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from kdstudio.errors import BadInput
from kdstudio.students.network import Config, State, clean_config

CONFIG_NAME, WEIGHTS_NAME, INDEX_NAME = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_MAXIMUM_JSON = 16 << 20
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_BUFFER = ".rotary_emb.inv_freq"  # older folders store what the config already says


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Config, State]:
    """Config (allow-listed keys) and weights of a folder.

    Raises `BadInput` for a missing or unreadable part, for weights that exist only as pickles (opening one can run a
    program hidden in it), for quantized weights, and for architectures that cannot be trained.
    """
    config = folder_config(folder)
    state: State = {}
    for path in _weight_files(folder):
        state.update(_tensors(path, dtype))
    return config, state


def folder_config(folder: Path) -> Config:
    """The allow-listed config of a folder; the weights stay unread."""
    if not folder.is_dir():
        raise BadInput("There is no such folder", str(folder), "Choose the folder that holds config.json.")
    raw = _json(folder / CONFIG_NAME, "The folder has no config", "Choose the folder that holds config.json.")
    return clean_config(raw, folder.name)


def _json(path: Path, title: str, hint: str) -> dict[str, Any]:
    if not path.is_file():
        raise BadInput(title, f"{path} does not exist.", hint)
    if path.stat().st_size > _MAXIMUM_JSON:
        raise BadInput("The model's files make no sense", f"{path} has {path.stat().st_size:,} bytes.", hint)
    try:
        read = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput("The model's files cannot be read", f"{path}: {error}", "Get the model again.") from error
    if not isinstance(read, dict):
        raise BadInput("The model's files make no sense", f"{path} holds no object.", "Get the model again.")
    return read


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    if (folder / INDEX_NAME).is_file():
        index = _json(folder / INDEX_NAME, "", "")
        placed = index.get("weight_map")
        names = sorted({str(name) for name in placed.values()}) if isinstance(placed, dict) else []
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise BadInput("The model's index makes no sense", f"{folder / INDEX_NAME} names {name[:80]!r}.")
            if not (folder / name).is_file():
                raise BadInput("The model is incomplete", f"{folder / name} does not exist.", "Get the model again.")
        if names:
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


def _tensors(path: Path, dtype: torch.dtype) -> State:
    state: State = {}
    try:
        with safe_open(path, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - not a dict: it has no iterator
                if name.endswith(_BUFFER):
                    continue
                tensor = stored.get_tensor(name)
                if tensor.dtype not in _FLOATS:
                    found = str(tensor.dtype).removeprefix("torch.")
                    raise BadInput(
                        "Quantized weights cannot be trained",
                        f"{path.name} stores {name} as {found}.",
                        "Use the originals.",
                    )
                state[name] = tensor.to(dtype)
    except (SafetensorError, OSError) as error:
        raise BadInput("The weights cannot be read", f"{path}: {error}", "Get the model again.") from error
    return state
