"""Which forms a teacher's answers may be bound to: grammars and JSON Schemas, each tried once in a process apart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import kdstudio
from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers.base import Sampling

WALL_SECONDS = 60.0  # the process itself ends after some seconds of processor time where the system can count it
_KEPT = 512
_BROKE = {
    "title": "The answer's form cannot be used",
    "detail": "Trying it took too long, asked for too much memory or broke llama.cpp: it is too deep, too large, too "
    "ambiguous, or begins with itself.",
    "hint": "Simplify the grammar or the schema.",
}


class AnswerForms:
    """The forms of one teacher's answers, by their text. `model` lends the vocabulary. Not safe in several threads."""

    def __init__(self, model: Path) -> None:
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None
        self._known: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()

    def gbnf(self, sampling: Sampling) -> str:
        """The grammar that a request is bound to, "" for none. Raises `BadInput` for one that cannot be followed."""
        asked = (sampling.grammar, sampling.json_schema)
        if not any(asked):
            return ""
        if all(asked):
            raise BadInput("A request has two forms", "It has a grammar and a JSON Schema.", "Give it one of them.")
        if asked not in self._known:
            self._known[asked] = self._tried({"grammar": asked[0], "json_schema": asked[1]})
        self._known.move_to_end(asked)
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        found = self._known[asked]
        if "gbnf" not in found:
            raise BadInput(found["title"], found.get("detail", ""), found.get("hint", ""))
        return str(found["gbnf"])

    def close(self) -> None:
        """End the process in which forms are tried; a second call does nothing."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    continue  # what was not yet written went with the process

    def _tried(self, request: dict[str, str]) -> dict[str, Any]:
        process = self._started()
        patience = threading.Timer(WALL_SECONDS, process.kill)
        patience.start()
        try:
            reply = self._asked(process, json.dumps(request).encode() + b"\n")
        finally:
            patience.cancel()
        if not reply:
            self.close()
            return dict(_BROKE)
        decoded: dict[str, Any] = json.loads(reply)
        return decoded

    @staticmethod
    def _asked(process: subprocess.Popen[bytes], line: bytes) -> bytes:
        if process.stdin is None or process.stdout is None:
            raise KnownError("A form cannot be tried", "Its process has no pipes.", "Start again.")
        try:
            process.stdin.write(line)
            process.stdin.flush()
            return process.stdout.readline()
        except OSError:
            return b""

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
            source = str(Path(kdstudio.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kdstudio.teachers.llama_form_trial", str(self._model)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        return self._process
