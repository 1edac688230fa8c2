"""Starting a child for a run folder: on this machine, in its own session, with a clean environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from kdstudio import settings
from kdstudio.jobs.folder import LOG_NAME

_children: list[subprocess.Popen[bytes]] = []  # kept beyond their supervisor, so that each is reaped when it ends
_SECRET_NAME = re.compile(r"(API_?KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)", re.IGNORECASE)


def child_environment() -> dict[str, str]:
    """The caller's environment without anything that looks like a key, and with every hub client offline."""
    environment = {name: value for name, value in os.environ.items() if not _SECRET_NAME.search(name)}
    threads = str(settings.thread_count())
    environment.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        TOKENIZERS_PARALLELISM="false",
        PYTHONUNBUFFERED="1",
        PYTHONIOENCODING="utf-8",
        # Waiting threads must not spin: on a shared machine each barrier would otherwise cost a time slice.
        OMP_WAIT_POLICY=environment.get("OMP_WAIT_POLICY", "PASSIVE"),
        OMP_NUM_THREADS=environment.get("OMP_NUM_THREADS", threads),
        MKL_NUM_THREADS=environment.get("MKL_NUM_THREADS", threads),
    )
    return environment


def launch(run_folder: Path, secrets: dict[str, str], *, attached: bool) -> subprocess.Popen[bytes]:
    """Start `python -m kdstudio job RUN_FOLDER`.

    Secrets go over standard input, never argv or the environment. An attached child ends when its caller does; a
    detached one has its own session and goes on.
    """
    command = [settings.load().interpreter or sys.executable, "-m", "kdstudio", "job", str(run_folder)]
    command += ["--secrets"] if secrets else []
    command += ["--attached"] if attached else []
    flags = 0
    if os.name == "nt":
        flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW  # type: ignore[attr-defined]
    secret_values = set(secrets.values())  # one may have come from a variable whose name does not tell
    environment = {name: value for name, value in child_environment().items() if value not in secret_values}
    with (run_folder / LOG_NAME).open("ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=os.name != "nt",
            creationflags=flags,
            close_fds=True,
        )
    _children[:] = [*(child for child in _children if child.poll() is None), process]
    if process.stdin is not None:
        process.stdin.write(json.dumps(secrets).encode() + b"\n" if secrets else b"")
        process.stdin.flush()
        if not attached:
            process.stdin.close()
    return process
