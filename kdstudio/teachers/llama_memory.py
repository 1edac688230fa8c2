"""What a GGUF teacher takes, counted before it is loaded: how long a context fits, and how many layers a GPU holds.

Several teachers of one process share its memory. A mapped file's pages count as free to the system, so that what the
others were promised is kept here and taken off.
"""

from __future__ import annotations

import ctypes
import threading
from dataclasses import dataclass
from typing import Any

import llama_cpp
import psutil

from kdstudio.errors import KnownError
from kdstudio.files import readable_bytes
from kdstudio.models.gguf_header import GGUFHeader

CELL_STEP = 256  # llama.cpp rounds a context up to this
ALL_LAYERS = -1
_CONTEXT_SHARE = 4  # keys and values may take a quarter of what the weights leave: other work needs memory too
_FIXED_BYTES = 192 << 20  # activations of a batch and llama.cpp's own buffers
_GPU_MARGIN_BYTES, _GPU_MARGIN_SHARE = 256 << 20, 10
_GPU_KINDS = frozenset({1, 2})  # ggml_backend_dev_type: with memory of its own, or sharing the computer's


@dataclass(frozen=True)
class MemoryNeed:
    """Bytes of one teacher: `weights`, `fixed` (buffers and logits) and for each token of context (`cell`)."""

    weights: int
    fixed: int
    cell: int

    def total(self, cells: int) -> int:
        """With a context of so many tokens."""
        return self.weights + self.fixed + cells * self.cell


def need_of(header: GGUFHeader, outputs: int, *, precise: bool = False) -> MemoryNeed:
    """What a file needs with `outputs` rows of logits in one decode; keys and values take 16 bits, 32 if `precise`."""
    head = header.hidden // max(header.heads, 1)
    key, value = (_size(header.of_architecture(f"attention.{name}_length"), head) for name in ("key", "value"))
    cell = max(1, header.layers * header.kv_heads * (key + value) * (4 if precise else 2))
    logits = 4 * outputs * header.vocabulary_size
    return MemoryNeed(sum(tensor.bytes for tensor in header.tensors), _FIXED_BYTES + logits, cell)


def cells_that_fit(available: int, need: MemoryNeed, wanted: int) -> int:
    """How many tokens of context: `wanted`, or what fits a quarter of what the weights leave; 0 if none do.

    `available`: bytes. At least one step of 256 tokens is given when it fits at all.
    """
    rest = available - need.weights - need.fixed
    least = min(wanted, CELL_STEP)
    if rest < least * need.cell:
        return 0
    return min(wanted, max(least, rest // _CONTEXT_SHARE // need.cell))


def gpu_layers(free_bytes: int, layer_bytes: int, context_bytes: int, layers: int) -> int:
    """How many of a model's `layers` a GPU with `free_bytes` holds; one more than `layers` puts the head there too.

    `context_bytes`: keys and values of all layers; each layer on the GPU brings its share. A tenth of the memory, at
    least 256 MiB, stays free for what is computed. The head is taken to be as large as a layer.
    """
    usable = free_bytes - max(_GPU_MARGIN_BYTES, free_bytes // _GPU_MARGIN_SHARE)
    each = layer_bytes + -(-context_bytes // max(layers, 1))
    return max(0, min(layers + 1, usable // max(each, 1)))


def chosen_gpu_layers(header: GGUFHeader, context_bytes: int, option: Any) -> int:
    """The option `n_gpu_layers` if given, else what free GPU memory allows; 0 without a GPU build of llama.cpp."""
    if option is not None:
        return int(option)
    if not llama_cpp.llama_supports_gpu_offload():
        return 0
    free = free_gpu_bytes()
    if free is None:
        return ALL_LAYERS  # llama.cpp then decides
    inside = sum(tensor.bytes for tensor in header.tensors if tensor.name.startswith("blk."))
    outside = sum(tensor.bytes for tensor in header.tensors) - inside
    layers = max(header.layers, 1)
    return gpu_layers(free, max(inside // layers, outside // 2), context_bytes, layers)


def free_gpu_bytes() -> int | None:
    """Free memory of the largest GPU that llama.cpp sees; None when it cannot be asked."""
    try:
        from llama_cpp._ctypes_extensions import load_shared_library
        from llama_cpp._ggml import libggml, libggml_base_path

        base = load_shared_library("ggml-base", libggml_base_path)
        libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
        libggml.ggml_backend_dev_get.restype = ctypes.c_void_p
        libggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
        base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
        base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, *[ctypes.POINTER(ctypes.c_size_t)] * 2]
        base.ggml_backend_dev_memory.restype = None
        devices = [libggml.ggml_backend_dev_get(index) for index in range(libggml.ggml_backend_dev_count())]
        return max((_free(base, item) for item in devices if base.ggml_backend_dev_type(item) in _GPU_KINDS), default=0)
    except (ImportError, AttributeError, OSError):
        return None


def _free(base: ctypes.CDLL, device: int) -> int:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    return int(free.value)


class MemoryBudget:
    """What the teachers of this process were promised. Safe from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._promised: dict[int, int] = {}

    def claim(self, owner: object, name: str, need: MemoryNeed, wanted: int) -> int:
        """Promise `owner` its weights and up to `wanted` tokens of context; returns how many.

        Raises `KnownError` with both sizes when not even the smallest context fits beside what the others hold.
        """
        with self._lock:
            others = sum(size for key, size in self._promised.items() if key != id(owner))
            available = int(psutil.virtual_memory().available) - others
            cells = cells_that_fit(available, need, wanted)
            if not cells:
                least = need.total(min(wanted, CELL_STEP))
                free = readable_bytes(max(available, 0))
                beside = f" beside {len(self._promised)} other teachers" if self._promised else ""
                raise KnownError(
                    "There is not enough memory for this teacher",
                    f"{name} takes at least {readable_bytes(least)}; {free} are free{beside}.",
                    "Close other programs or teachers, or choose a smaller or more coarsely quantized file.",
                )
            self._promised[id(owner)] = need.total(cells)
            return cells

    def release(self, owner: object) -> None:
        """Take the promise back; a second call does nothing."""
        with self._lock:
            self._promised.pop(id(owner), None)


BUDGET = MemoryBudget()


def _size(stated: Any, fallback: int) -> int:
    return stated if isinstance(stated, int) and stated > 0 else fallback
