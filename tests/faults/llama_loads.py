"""Loads model files with llama.cpp, each in a process of its own: `python -m tests.faults.llama_loads`.

A path a line on standard input, a JSON object a line on standard output: how the process ended. llama.cpp is imported
once and each file gets a fork of that, with limits of memory and time.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

import llama_cpp

MEMORY_BYTES, CPU_SECONDS, WALL_SECONDS = 4 << 30, 10, 20


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        sys.stdout.write(json.dumps(ending(Path(line.strip()))) + "\n")
        sys.stdout.flush()


def ending(path: Path) -> dict[str, object]:
    """How the child that loaded `path` ended: loaded, refused, or the signal that ended it."""
    child = os.fork()
    if child == 0:
        load(path)
    deadline = time.monotonic() + WALL_SECONDS
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    if os.WIFSIGNALED(done[1]):
        return {"how": f"ended by {signal.Signals(os.WTERMSIG(done[1])).name}"}
    return {"how": {0: "loaded", 1: "refused"}.get(os.WEXITSTATUS(done[1]), "ended oddly")}


def load(path: Path) -> None:
    """Load, write two tokens, and end the process: 0 when that went well, 1 when llama.cpp refused."""
    silence = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(silence, number)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    try:
        model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False)
        model.create_completion("the fox", max_tokens=2)
    except BaseException:  # noqa: BLE001 - whatever it is, it is an orderly refusal
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
