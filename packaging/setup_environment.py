"""Makes `.venv` with everything KD Studio needs, as `make setup` does; run again it does nothing until the pins change.

    python3.11 packaging/setup_environment.py [--torch auto|cpu|default]

`auto` takes the CPU build of torch on Linux without an NVIDIA card: PyPI's own build there is the CUDA one, gigabytes
of it. Standard library only, since it runs before anything is installed. Exit code 2: the machine lacks something.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import qt_libraries
import requirements_check

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "packaging" / "constraints.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
ENGINE = "torch, transformers, peft, llama_cpp, gguf, kdstudio"
WINDOW = "PySide6.QtWidgets, PySide6.QtSvg, PySide6.QtNetwork, pyqtgraph"


def say(text: str) -> None:
    """One line to the person, at once."""
    print(f"setup: {text}", flush=True)


def python_of(environment: Path) -> Path:
    """The interpreter inside a virtual environment."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def fingerprint(torch_build: str) -> str:
    """Changes whenever set-up would have something to do: the requirements, the pins, the interpreter, this script."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    requirements = text[text.index("[build-system]") : text.index("[tool.hatch.version]")]
    digest = hashlib.sha256(requirements.encode() + CONSTRAINTS.read_bytes() + Path(__file__).read_bytes())
    digest.update(f"{sys.version_info[:3]} {ROOT} {torch_build}".encode())
    return digest.hexdigest()


def choose_torch(wanted: str) -> str:
    """Resolves `auto`: "cpu" on Linux without an NVIDIA card, else whatever the package index offers."""
    if wanted != "auto":
        return wanted
    return "cpu" if sys.platform.startswith("linux") and shutil.which("nvidia-smi") is None else "default"


def pip(environment: Path, *arguments: str, quiet: bool = False) -> int:
    """Runs the environment's own `pip install` and returns its exit code; `quiet` hides even its errors."""
    command = [str(python_of(environment)), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, capture_output=quiet).returncode


def install_cpu_torch(environment: Path) -> None:
    """Installs the pinned torch's CPU build: from the configured indexes if they have it, else from PyTorch's."""
    found = re.search(r"^torch==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        say(f"{CONSTRAINTS} pins no torch.")
        raise SystemExit(1)
    arguments = ["-c", str(CONSTRAINTS), f"torch=={found[1]}+cpu"]
    say(f"Installing {arguments[-1]}.")
    if pip(environment, "-q", *arguments, quiet=True) == 0:
        return
    if pip(environment, *arguments, "--extra-index-url", CPU_INDEX, "--retries", "1") != 0:
        say(f"No CPU build of torch at {CPU_INDEX}: taking the index's larger one, which runs on CPUs too.")


def prepare(environment: Path) -> None:
    """Creates the virtual environment if there is none."""
    if not python_of(environment).exists():
        say(f"Creating {environment}.")
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)


def starts(environment: Path, modules: str) -> bool:
    """Whether these modules can be imported in the environment, Qt offscreen; says why if they cannot."""
    variables = dict(os.environ, QT_QPA_PLATFORM="offscreen")
    unpacked = environment / qt_libraries.FOLDER
    if unpacked.is_dir():
        variables["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [str(unpacked), os.environ.get("LD_LIBRARY_PATH")]))
    command = [str(python_of(environment)), "-W", "ignore", "-c", f"import {modules}"]
    outcome = subprocess.run(command, env=variables, cwd=environment, check=False, capture_output=True, text=True)
    if outcome.returncode:
        say(f"Installed, but it does not start: {(outcome.stderr.strip().splitlines() or ['it was killed'])[-1]}")
    return outcome.returncode == 0


def install(environment: Path, torch_build: str) -> int:
    """Fills the environment; the exit code for `main`."""
    prepare(environment)
    if torch_build == "cpu":
        install_cpu_torch(environment)
    say("Installing the rest. llama.cpp is compiled for this machine: 4 to 15 minutes the first time.")
    if pip(environment, "-c", str(CONSTRAINTS), "-e", f"{ROOT}[local,dev]") != 0:
        say("pip could not install everything; its message is above. What is installed stays: run this again to go on.")
        return 1
    return 0 if starts(environment, ENGINE) else 1


def check_window(environment: Path) -> None:
    """Sees to it that Qt can start; where that cannot be had, says so, since the command line works without."""
    if not qt_libraries.bring(environment, say):
        say("The command line is ready, the window is not:")
        print(requirements_check.report(requirements_check.qt_missing(environment / qt_libraries.FOLDER)))


def main() -> int:
    """The whole set-up."""
    parser = argparse.ArgumentParser(description="Make .venv with everything KD Studio needs.")
    parser.add_argument("--torch", choices=("auto", "cpu", "default"), default="auto", help="which build of torch")
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv", help="where (default: .venv)")
    arguments = parser.parse_args()
    environment = arguments.environment.resolve()
    torch_build = choose_torch(arguments.torch)
    stamp, wanted = environment / "kdstudio-setup.txt", fingerprint(torch_build)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        check_window(environment)
        return 0
    found = requirements_check.python_missing() + requirements_check.compiler_missing()
    if found:
        print(requirements_check.report(found))
        return 2
    started = time.monotonic()
    code = install(environment, torch_build)
    if code:
        return code
    check_window(environment)
    starts(environment, WINDOW)
    stamp.write_text(wanted, encoding="utf-8")
    say(f"Done in {time.monotonic() - started:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
