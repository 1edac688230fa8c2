"""What llama.cpp says while it works: kept for error messages instead of printed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import llama_cpp
from llama_cpp import _logger

_WARNING_LEVEL, _ERROR_LEVEL, _CONTINUED = 3, 4, 5  # ggml_log_level
_logger.set_verbose(False)  # the package prints every line of llama.cpp until told otherwise


@contextmanager
def captured_log() -> Iterator[list[str]]:
    """Collect llama.cpp's error lines instead of printing them; the package's own callback comes back afterwards."""
    said: list[str] = []
    level = 0

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def collect(now: int, words: bytes, _data: ctypes.c_void_p) -> None:
        nonlocal level
        level = level if now == _CONTINUED else now
        if level == _ERROR_LEVEL or (level == _WARNING_LEVEL and b"fail" in words):
            said.append(words.decode("utf-8", "replace"))

    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    try:
        yield said
    finally:
        llama_cpp.llama_log_set(_logger.llama_log_callback, ctypes.c_void_p(0))
