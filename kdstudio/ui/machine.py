"""What this machine offers, for Home's card: read without importing anything heavy."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import dataclass
from importlib import util
from pathlib import Path

LOCAL_PACKAGES = (
    ("torch", "torch"),
    ("transformers", "transformers"),
    ("llama_cpp", "llama-cpp-python"),
    ("gguf", "gguf"),
)
_GPU_SECONDS = 4


@dataclass(frozen=True)
class Machine:
    """`cpu` in words, `cores` usable, memory in bytes, `gpus` as (name, memory MiB), `missing` packages of `local`."""

    cpu: str
    cores: int
    memory: int
    free_memory: int
    gpus: tuple[tuple[str, int], ...]
    missing: tuple[str, ...]


def read_machine() -> Machine:
    """Measure. Takes up to a few seconds where nvidia-smi is slow: call it in the background."""
    import psutil

    memory = psutil.virtual_memory()
    missing = tuple(label for module, label in LOCAL_PACKAGES if util.find_spec(module) is None)
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count() or 1
    return Machine(_cpu_name(), cores, memory.total, memory.available, _gpus(), missing)


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for row in cpuinfo.read_text("utf-8", "replace").splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpus() -> tuple[tuple[str, int], ...]:
    """NVIDIA cards as the driver's tool lists them; none where it is missing or fails. Apple's GPU by its CPU."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return (("Apple GPU (shared memory)", 0),)
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = []
    for row in listed.splitlines():
        name, _, mebibytes = row.rpartition(",")
        if name and mebibytes.strip().isdigit():
            found.append((name.strip(), int(mebibytes)))
    return tuple(found)
