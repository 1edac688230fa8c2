"""A teacher that reads its answers from a script: for what must be deterministic, above all tests.

The script is a JSON object, in a file or in the teacher's options: `answers` maps a prompt's last user text to an
answer or a list of answers (one is drawn by the request's seed), `default` is the answer to all others (`{prompt}` stands for
the prompt), `delay` is seconds a request, `errors` maps a text to the failure of that request, `cut` lists prompts
whose answer ends at the token limit.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Capabilities, Completion, Request
from kdstudio.teachers.signals import SparseSignal

_KEYS = {"answers", "default", "delay", "errors", "cut"}


class ScriptedTeacher:
    """Answers as its script says."""

    def __init__(self, spec: TeacherSpec) -> None:
        """Read the script. Raises `BadInput` when it is missing or not such an object."""
        script: Any = spec.options.get("script")
        if script is None:
            try:
                script = json.loads(Path(spec.path).read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise BadInput("The script cannot be read", f"{spec.path}: {error}.", "Give a JSON file.") from error
        if not isinstance(script, dict) or not set(script) <= _KEYS:
            raise BadInput(
                "This is not a script", f"{spec.path or spec.name}.", f"Its keys: {', '.join(sorted(_KEYS))}."
            )
        self._script = script
        self.notes: list[str] = []
        self.capabilities = Capabilities(fingerprint=f"scripted:{spec.name}", context_tokens=1 << 20)

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Completion]:
        """Answer one request after the other."""
        for request in requests:
            if stop():
                return
            time.sleep(float(self._script.get("delay", 0)))
            yield self._answer(request)

    def _answer(self, request: Request) -> Completion:
        users = [str(message.get("content")) for message in request.messages if message.get("role") == "user"]
        prompt = users[-1] if users else ""
        failure = self._script.get("errors", {}).get(prompt)
        if failure:
            return Completion(request.key, "", "error", error=str(failure))
        answer = self._script.get("answers", {}).get(prompt, self._script.get("default", "An answer to {prompt}."))
        if isinstance(answer, list):
            answer = random.Random(request.sampling.seed).choice(answer)
        text = str(answer).replace("{prompt}", prompt)
        reason = "length" if prompt in self._script.get("cut", ()) else "stop"
        return Completion(request.key, text, reason, len(prompt.split()), len(text.split()))  # type: ignore[arg-type]

    def score(
        self,
        sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
        top_k: int,
        *,
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, SparseSignal]]:
        """A script has no distributions. Raises `KnownError`."""
        del sequences, top_k, stop
        raise KnownError(
            "This teacher gives no log-probs", "It reads its answers from a script.", "Choose a local GGUF teacher."
        )
        yield

    def close(self) -> None:
        """Nothing to free."""
