"""Running a stranger's Python: in a child that has a folder, a few seconds and some memory, and nothing else.

What a system cannot keep the code from is said by `protects`. Code and tests share a process: a test that passes shows
that the code did what was asked unless the code was written to deceive this very program.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import psutil

import kdstudio
from kdstudio.elicitation import confinement
from kdstudio.errors import KnownError

MAXIMUM_CODE_CHARACTERS = 1 << 20
_TICK_SECONDS = 0.02
_MAXIMUM_MESSAGE_BYTES = 8192
_START = (
    "import sys; sys.path.append({folder!r}); from kdstudio.elicitation.execution_child import main; "
    "del sys.path[-1]; main()"
)


@dataclass(frozen=True)
class Limits:
    """What one run may use: `seconds` of the clock, `processor_seconds` of a core (0: as many), memory beside Python's.

    `open_files` is at least 64, for Python itself.
    """

    seconds: float = 10.0
    processor_seconds: float = 0.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 16 << 20
    folder_bytes: int = 64 << 20
    folder_entries: int = 1000
    open_files: int = 64
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class Executed:
    """How a run ended. `passed`: the code and its tests ended by themselves, without an error.

    `output` is what it printed; `error` says why it did not pass, and `stopped` which limit ended it ("" if none did).
    """

    passed: bool
    output: str
    error: str
    seconds: float
    stopped: str


@dataclass(frozen=True)
class Protection:
    """What holds on this machine and what does not, as sentences for people."""

    protected: tuple[str, ...]
    not_protected: tuple[str, ...]

    def __str__(self) -> str:
        lines = ["Protected:", *(f"- {line}" for line in self.protected)]
        return "\n".join([*lines, "Not protected:", *(f"- {line}" for line in self.not_protected)])


def run_python(code: str, tests: str = "", stdin: str = "", limits: Limits | None = None) -> Executed:
    """Run `code` as a program, then `tests` (asserts) among its names. Only the standard library is there.

    Raises `KnownError` when this machine cannot start a Python of its own for it.
    """
    limits = limits or Limits()
    if len(code) + len(tests) + len(stdin) > MAXIMUM_CODE_CHARACTERS:
        return Executed(False, "", f"It has more than {MAXIMUM_CODE_CHARACTERS:,} characters.", 0.0, "")
    with _folder() as folder:
        run = _Run(folder, code, tests, stdin, limits)
        try:
            return run.finish()
        finally:
            run.close()


class _Run:
    """One child, the thread that talks with it and the one that reads what it prints."""

    def __init__(self, folder: Path, code: str, tests: str, stdin: str, limits: Limits) -> None:
        limits = replace(limits, processor_seconds=limits.processor_seconds or limits.seconds)
        self._folder, self._limits, self._tests = folder, limits, tests
        task = {"folder": str(folder), "limits": asdict(limits), "code": code, "stdin": stdin, "parent": os.getpid()}
        self._task = json.dumps(task).encode()
        self.held: frozenset[str] | None = None
        self._verdict: tuple[bytes, bytes] = (b"", b"")
        self._output, self._too_much = b"", False
        self._word = secrets.token_hex(16).encode()
        self._began = time.monotonic()
        self._process = _start(folder)
        self._threads = [
            threading.Thread(target=target, name="execution", daemon=True) for target in (self._talk, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> Executed:
        """Wait for the verdict or a limit, and end the child either way."""
        stopped = self._watch()
        self.close()
        seconds = time.monotonic() - self._began
        output = self._output.decode("utf-8", "replace")
        if stopped:
            return Executed(False, output, stopped, seconds, stopped)
        kind, payload = self._verdict
        if kind == b"P" and secrets.compare_digest(payload, self._word):
            return Executed(True, output, "", seconds, "")
        if self.held is None:
            raise KnownError(
                "Code cannot be run on this machine",
                f"The Python that should run it ended at once: {output[-500:].strip() or 'it said nothing'}.",
                "Run `kdstudio doctor`; a filter that executes code cannot be used here.",
            )
        if kind == b"F":
            return Executed(False, output, payload.decode("utf-8", "replace"), seconds, "")
        said, stopped = _end_in_words(self._process.returncode, self._limits)
        return Executed(False, output, said, seconds, stopped)

    def close(self) -> None:
        """Kill the whole process group, and wait until it is gone."""
        _kill(self._process)
        for thread in self._threads:
            thread.join(1.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not any(thread.is_alive() for thread in self._threads):
                with contextlib.suppress(OSError):
                    stream.close()

    def _watch(self) -> str:
        """Why the child had to be stopped; "" when it ended by itself."""
        end, talk = self._began + self._limits.seconds, self._threads[0]
        while talk.is_alive():
            talk.join(_TICK_SECONDS)
            if self._too_much:
                return f"It printed more than {self._limits.output_bytes:,} bytes."
            if time.monotonic() > end:
                return f"It ran longer than {self._limits.seconds:g} s."
            if talk.is_alive() and (excess := self._excess()):
                return excess
        self._threads[1].join(0.2)
        return f"It printed more than {self._limits.output_bytes:,} bytes." if self._too_much else ""

    def _excess(self) -> str:
        """What the system itself may not limit: the folder as a whole and, outside Linux, memory."""
        size, entries = _usage(self._folder, self._limits.folder_entries)
        if size > self._limits.folder_bytes:
            return f"It wrote more than {self._limits.folder_bytes:,} bytes into its folder."
        if entries > self._limits.folder_entries:
            return f"It made more than {self._limits.folder_entries:,} files."
        if sys.platform != "linux":
            with contextlib.suppress(psutil.Error):
                if psutil.Process(self._process.pid).memory_info().rss > self._limits.memory_bytes:
                    return f"It took more than {self._limits.memory_bytes:,} bytes of memory."
        return ""

    def _talk(self) -> None:
        requests, replies = self._process.stdin, self._process.stdout
        if requests is None or replies is None:
            return
        try:
            _send(requests, self._task)
            kind, payload = _reply(replies)
            self.held = frozenset(json.loads(payload)) if kind == b"H" else None
            kind, payload = _reply(replies)
            if kind == b"R":
                _send(requests, self._word + self._tests.encode("utf-8", "replace"))
                kind, payload = _reply(replies)
            self._verdict = (kind, payload)
        except (OSError, ValueError):
            return  # it ended in between: no verdict

    def _listen(self) -> None:
        stream, room = self._process.stderr, self._limits.output_bytes
        while stream is not None:
            try:
                piece = os.read(stream.fileno(), 1 << 16)
            except (OSError, ValueError):
                return
            if not piece:
                return
            self._too_much = len(self._output) + len(piece) > room
            self._output = (self._output + piece)[:room]
            if self._too_much:
                return  # unread, the pipe fills and the child waits for its end


def _start(folder: Path) -> subprocess.Popen[bytes]:
    # -P -s -S with this environment is -I -S with an empty one, except that sets keep one order in every run
    start = _START.format(folder=str(Path(kdstudio.__file__).parents[1]))
    kept = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    try:
        return subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", "-W", "ignore", "-X", "utf8", "-c", start],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env={**kept, "PYTHONHASHSEED": "0"},
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            bufsize=0,
        )
    except OSError as error:
        raise KnownError(
            "Code cannot be run on this machine", f"{sys.executable}: {error.strerror}.", "Run `kdstudio doctor`."
        ) from error


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is not None:
        return
    offspring: list[psutil.Process] = []
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error):
            offspring = psutil.Process(process.pid).children(recursive=True)
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
    for child in offspring:
        with contextlib.suppress(psutil.Error):
            child.kill()


def _send(stream: IO[bytes], message: bytes) -> None:
    rest = memoryview(len(message).to_bytes(8, "big") + message)
    while rest:
        rest = rest[stream.write(rest) :]


def _reply(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """One message of the child; raises `ValueError` for what is none."""
    head = _exactly(stream, 9)
    size = int.from_bytes(head[1:], "big")
    if size > _MAXIMUM_MESSAGE_BYTES:
        raise ValueError("too long")
    return head[:1], _exactly(stream, size)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    pieces = b""
    while len(pieces) < size:
        piece = stream.read(size - len(pieces))
        if not piece:
            raise ValueError("cut short")
        pieces += piece
    return pieces


def _end_in_words(code: int, limits: Limits) -> tuple[str, str]:
    """What an end without a verdict means: (why it did not pass, the limit that ended it or "")."""
    if sys.platform != "win32" and code == -signal.SIGXCPU:
        said = f"It used more than {limits.processor_seconds:g} s of processor time."
        return said, said
    if code < 0:
        name = next((sign.name for sign in signal.Signals if sign == -code), str(-code))
        return f"It crashed ({name}).", ""
    return "It ended itself before it was done.", ""


# ------------------------------------------------------------------------------------------------------- the folder
@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="kdstudio-code-")).resolve()
    try:
        yield folder
    finally:
        _remove(folder)


def _usage(folder: Path, most: int) -> tuple[int, int]:
    """(bytes on disk, entries) below `folder`; stops counting soon after `most` entries."""
    size, count, waiting = 0, 0, [str(folder)]
    while waiting and count <= most:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_size
                    if count > most:
                        break
        except OSError:
            continue  # it went meanwhile, or its name is too long: then the entries tell
    return size, count


def _remove(folder: Path) -> None:
    """Delete the folder, however deep the code nested it: what lies deeper is moved up first, one storey a round."""
    number = 0
    with contextlib.suppress(OSError):
        while inner := [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]:
            for entry in inner:
                Path(entry.path).chmod(0o700)
                for deeper in list(os.scandir(entry.path)):
                    number += 1
                    Path(deeper.path).rename(folder / f"{secrets.token_hex(4)}-{number}")
                Path(entry.path).rmdir()
        for entry in list(os.scandir(folder)):
            Path(entry.path).unlink()
        folder.rmdir()


# ------------------------------------------------------------------------------------------------ what is protected
@functools.cache
def protects() -> Protection:
    """What code that is run here cannot do on this machine, and what it can; found by trying once."""
    with _folder() as folder:
        run = _Run(folder, "", "", "", Limits())
        try:
            run.finish()
        finally:
            run.close()
    return _in_sentences(run.held or frozenset())


def _in_sentences(held: frozenset[str]) -> Protection:
    limits = Limits()
    always = (
        f"Time and output: a run ends after {limits.seconds:g} s, or when it prints {limits.output_bytes >> 10} KiB.",
        "Your keys: the code gets no environment, no arguments and no open files of this program.",
    )
    rules = [
        (confinement.LIMITS, "Processor time, memory and the size of files are limited by the system."),
        (confinement.FILES, "Files: it writes only into a folder of its own and reads nothing but Python itself."),
        (confinement.CALLS, "Programs and processes: it can start none, and send signals to none but itself."),
        (confinement.CALLS, "Rights and times of files are not changed, whatever the code asks."),
        (confinement.NAMESPACES, "Network: there is none in its surroundings."),
        (confinement.FOLDER_DISK, "The disk: its folder is a small one in memory, which vanishes with it."),
    ]
    weak = {
        confinement.LIMITS: "Memory is only watched from outside, fifty times a second.",
        confinement.FILES: "Files are guarded by Python's own audit hooks alone, which expert code gets round.",
        confinement.CALLS: "Processes and foreign code are refused by Python's audit hooks alone.",
        confinement.NAMESPACES: "The network is refused, but is there.",
        confinement.FOLDER_DISK: "The folder is on your disk: it is watched, and may be over its limit for a moment.",
    }
    missing = [weak[lock] for lock in weak if lock not in held]
    return Protection(
        (*always, *(said for lock, said in rules if lock in held)),
        (
            *missing,
            "It can see that a file exists and how large it is, though not what is in it.",
            "It can use a whole core until its time is over.",
            "A fault in the system's kernel or in Python would open every door here.",
            "Code written to deceive the tests in its own process can: passing is evidence, not proof.",
        ),
    )
