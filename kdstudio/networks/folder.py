"""Reading a local Hugging Face folder: safetensors only, and no code from the folder ever runs."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from kdstudio.errors import BadInput
from kdstudio.models.model_folder import read_config, weight_files
from kdstudio.networks.network import Config, State, clean_config

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_BUFFER = ".rotary_emb.inv_freq"  # older folders store what the config already says


def load_folder(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Config, State]:
    """Config (allow-listed keys) and weights of a folder.

    Raises `BadInput` for a missing or unreadable part, for weights that exist only as pickles (opening one can run a
    program hidden in it), for quantized weights, and for architectures that cannot be trained.
    """
    config = folder_config(folder)
    state: State = {}
    for path in weight_files(folder):
        state.update(_tensors(path, dtype))
    return config, state


def folder_config(folder: Path) -> Config:
    """The allow-listed config of a folder; the weights stay unread."""
    return clean_config(read_config(folder), folder.name)


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
