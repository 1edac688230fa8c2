"""A GGUF file that is larger than any memory, and takes a few kilobytes of disk: its weights are a hole in the file."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np

from tests.tiny import CHATML, _write_header, _write_tokenizer, vocabulary

_HIDDEN, _MERGES = 64, 160


def huge_gguf(path: Path, size: int) -> Path:
    """Write a sound header over at least `size` bytes of weights that are all zero."""
    writer = gguf.GGUFWriter(str(path), "llama")
    _write_header(writer, 2, _HIDDEN, 4, 2, 512)
    tokens = vocabulary(_MERGES)
    _write_tokenizer(writer, tokens, _MERGES, CHATML)
    shapes = {
        "token_embd.weight": (len(tokens), _HIDDEN),
        "output.weight": (len(tokens), _HIDDEN),
        "blk.0.ffn_up.weight": (size // (4 * _HIDDEN), _HIDDEN),
    }
    for name, shape in shapes.items():
        rows, columns = shape
        writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * rows * columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + size + (1 << 20))
    return path
