"""Makes `.venv-peers`: the libraries that `make bench` compares with, apart from ours because they pin others.

    python packaging/peers_environment.py

The benchmarks run this at their first use; run again it does nothing until the pins change. Standard library only.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys

from setup_environment import ROOT, choose_torch, install_cpu_torch, pip, prepare, python_of, say

ENVIRONMENT = ROOT / ".venv-peers"
PEERS = (
    "torch==2.13.0",
    "trl==1.16.0",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "datasets==5.2.0",
    "psutil==7.2.2",
)
ALONE = ("liger-kernel==0.8.5",)
"""Without what it requires: that is triton, gigabytes that its torch losses never touch."""
MODULES = "trl.kernels.chunked_divergence, trl.experimental.gkd, liger_kernel.chunked_loss"


def fingerprint() -> str:
    """Changes with the pins and with the interpreter."""
    return hashlib.sha256(f"{PEERS} {ALONE} {sys.version_info[:3]} {ROOT}".encode()).hexdigest()


def main() -> int:
    """Make the environment if it is not there as pinned."""
    stamp = ENVIRONMENT / "kdstudio-peers.txt"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == fingerprint():
        return 0
    prepare(ENVIRONMENT)
    if choose_torch("auto") == "cpu":
        install_cpu_torch(ENVIRONMENT)
    say("Installing what we are compared with: about 1.5 GB, once.")
    if pip(ENVIRONMENT, "-q", *PEERS) or pip(ENVIRONMENT, "-q", "--no-deps", *ALONE):
        say("pip could not install the peers; its message is above.")
        return 1
    command = [str(python_of(ENVIRONMENT)), "-W", "ignore", "-c", f"import {MODULES}"]
    if subprocess.run(command, cwd=ENVIRONMENT, check=False).returncode:
        return 1
    stamp.write_text(fingerprint(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
