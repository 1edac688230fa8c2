"""The chat server as the window sees it: a child process that speaks JSON lines on its standard input and output.

The models are loaded there, never here. Keys go to it on standard input. When it dies, the open answers fail with an
error and the next message starts a new one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PySide6.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from kdstudio import secrets
from kdstudio.errors import KnownError

_MAXIMUM_BUFFER = 8 << 20
_STDERR_TAIL = 2000
_GOODBYE_MILLISECONDS = 500


class ChatProcess(QObject):
    """One server with its models.

    `delta(id, text)` while an answer grows, `done(id, reply)` or `failed(id, KnownError)` at its end,
    `died(KnownError)` when the process ended by itself while nothing was asked, `ready(model)` when one is loaded.
    """

    delta = Signal(str, str)
    done = Signal(str, dict)
    failed = Signal(str, object)
    died = Signal(object)
    ready = Signal(str)

    def __init__(self, parent: QObject | None = None, *, command: list[str] | None = None) -> None:
        super().__init__(parent)
        self._command = command or [sys.executable, "-m", "kdstudio", "chat-server"]
        self._process: QProcess | None = None
        self._buffer = b""
        self._errors = ""
        self._open: set[str] = set()

    @property
    def running(self) -> bool:
        """Whether a server process exists."""
        return self._process is not None

    def start(self, models: list[dict[str, Any]], keys: dict[str, str], project: Path | None = None) -> None:
        """Start a server with these models (`{"id", "gguf"}` or `{"id", "teacher"}`), in place of the one that runs.

        What teachers cost is counted in the `project` folder, which also keeps the pictures that they are shown.
        """
        self.stop()
        process = QProcess(self)
        environment = QProcessEnvironment.systemEnvironment()
        environment.insert("HF_HUB_OFFLINE", "1")
        environment.insert("PYTHONUNBUFFERED", "1")
        process.setProcessEnvironment(environment)
        process.readyReadStandardOutput.connect(self._read)
        process.readyReadStandardError.connect(self._read_errors)
        process.errorOccurred.connect(self._broke)
        process.finished.connect(self._ended)
        self._process, self._buffer, self._errors = process, b"", ""
        process.start(self._command[0], self._command[1:])
        self._write({"models": models, "secrets": keys, **({"project": str(project)} if project else {})})

    def send(self, request_id: str, model: str, messages: list[dict[str, Any]], sampling: dict[str, Any]) -> None:
        """Ask a model; the answer comes by signals under `request_id`."""
        self._open.add(request_id)
        self._write({"id": request_id, "model": model, "messages": messages, "sampling": sampling})

    def cancel(self, request_id: str) -> None:
        """Ask the server to end an answer; its `done` still comes."""
        if request_id in self._open:
            self._write({"cancel": request_id})

    def stop(self) -> None:
        """End the server: it leaves when its input closes, and is killed after half a second."""
        process, self._process = self._process, None
        self._open.clear()
        if process is None:
            return
        process.closeWriteChannel()
        if not process.waitForFinished(_GOODBYE_MILLISECONDS):
            process.kill()
            process.waitForFinished(_GOODBYE_MILLISECONDS)
        process.deleteLater()

    # ------------------------------------------------------------------------------------------------ the pipe
    def _write(self, message: dict[str, Any]) -> None:
        if self._process is not None:
            self._process.write(json.dumps(message).encode() + b"\n")

    def _read(self) -> None:
        if self._process is None:
            return
        self._buffer += bytes(self._process.readAllStandardOutput().data())
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > _MAXIMUM_BUFFER:
            self._buffer = b""  # no answer is that long: whatever prints this is not our server
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            return  # a library that prints to standard output
        if not isinstance(message, dict):
            return
        request = str(message.get("id", ""))
        if isinstance(message.get("ready"), str):
            self.ready.emit(message["ready"])
        elif "error" in message:
            self._fail(request, message["error"])
        elif request not in self._open:
            return
        elif message.get("done"):
            self._open.discard(request)
            self.done.emit(request, message)
        elif isinstance(message.get("delta"), str):
            self.delta.emit(request, message["delta"])

    def _fail(self, request: str, fields: Any) -> None:
        """An error of one answer, or (without an id) of the server: then every open answer failed."""
        if not isinstance(fields, dict):
            fields = {"title": "The chat failed", "detail": str(fields)}
        error = KnownError(*(str(fields.get(name, "")) for name in ("title", "detail", "hint")))
        failed = [request] if request in self._open else sorted(self._open)
        for one in failed:
            self._open.discard(one)
            self.failed.emit(one, error)
        if not failed:
            self.died.emit(error)

    def _read_errors(self) -> None:
        if self._process is not None:
            text = bytes(self._process.readAllStandardError().data()).decode("utf-8", "replace")
            self._errors = (self._errors + text)[-_STDERR_TAIL:]

    def _broke(self, kind: QProcess.ProcessError) -> None:
        if self._process is not None and kind == QProcess.ProcessError.FailedToStart:
            self._leave(
                KnownError("The chat could not start", f"{self._command[0]} could not be run.", "Reinstall it.")
            )

    def _ended(self, code: int, status: QProcess.ExitStatus) -> None:
        if self._process is None:
            return  # we ended it
        self._read()
        self._read_errors()
        tail = secrets.redact(self._errors.strip().splitlines()[-1] if self._errors.strip() else "")
        crashed = status == QProcess.ExitStatus.CrashExit
        how = f"Its process {'crashed' if crashed else f'ended with code {code}'}. {tail}".strip()
        hint = "Send the message again: the model is loaded anew. If it happens again, try a smaller model."
        self._leave(KnownError("The chat ended unexpectedly", how, hint))

    def _leave(self, error: KnownError) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.deleteLater()
        if self._open:
            self._fail("", error.as_dict())
        else:
            self.died.emit(error)
