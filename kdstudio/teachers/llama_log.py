"""What llama.cpp says while it works: kept for error messages, never printed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp
from llama_cpp import _logger

_WARNING, _ERROR, _CONTINUED = 3, 4, 5  # ggml_log_level
_KEPT_LINES = 20
_logger.set_verbose(False)  # the package prints every line of llama.cpp until told otherwise


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect llama.cpp's last error and warning lines; the package's own silent callback comes back afterwards."""
    said: list[str] = []
    level = 0

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def collect(now: int, words: bytes, _data: ctypes.c_void_p) -> None:
        nonlocal level
        level = level if now == _CONTINUED else now
        if level in (_WARNING, _ERROR):
            said.append(words.decode("utf-8", "replace").strip())
            del said[:-_KEPT_LINES]

    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))
