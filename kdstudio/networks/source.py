"""A network from wherever its weights are: a Hugging Face folder, or a GGUF file dequantised once."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from kdstudio.networks.folder import load_folder
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import Config, assemble


def load_network(source: Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Config]:
    """The whole network of a folder or GGUF file on the CPU, and its config. Raises `BadInput` when it cannot be."""
    config, state = load_folder(source, dtype) if source.is_dir() else load_gguf(source, dtype)
    return assemble(config, state, source.name), config
