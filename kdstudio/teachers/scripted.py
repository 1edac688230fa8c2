"""A teacher that reads its answers from a script: for what must be deterministic, above all tests.

The script is a JSON object in a file (`spec.path`) or in `options.script`; its keys are those of `Script`. The same
script and the same requests always give the same answers, in the same order.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.registry import Params
from kdstudio.teachers.base import Capabilities, Completion, FinishReason, Request, TokenLogProb
from kdstudio.teachers.signals import SparseSignal

_SLEEP_SECONDS = 0.05
MAXIMUM_SCRIPT_BYTES = 64 << 20
Answer = str | Annotated[tuple[str, ...], Field(min_length=1)]


class Rule(Params):
    """What is answered to prompts in which the regular expression `match` is found."""

    match: str = Field(description="Regular expression; the first rule that fits counts.")
    text: Answer = Field("", description="The answer, as in `Script.answers`.")
    finish_reason: Literal["stop", "length", "incomplete"] = "stop"
    error: str = Field("", description="The request fails with these words.")
    chances: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field(
        default_factory=dict, description="Word -> its probability wherever the answer has one of these words."
    )
    delay: float = Field(0, ge=0, le=3600, description="Seconds, on top of the script's own delay.")

    @field_validator("match")
    @classmethod
    def _pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(str(error)) from error
        return value


class Script(Params):
    """How a scripted teacher answers; `{prompt}` in a text stands for the prompt's last user turn.

    An answer that is a list is drawn from by the request's seed. Order of precedence: errors, answers, rules, function,
    default.
    """

    answers: dict[str, Answer] = Field(default_factory=dict, description="Prompt -> its answer.")
    errors: dict[str, str] = Field(default_factory=dict, description="Prompt -> the words its request fails with.")
    cut: tuple[str, ...] = Field((), description="Prompts whose answer ends at the token limit.")
    rules: tuple[Rule, ...] = ()
    function: Literal["", "echo", "reverse", "upper", "digest"] = Field("", description="A function of the prompt.")
    default: Answer = "An answer to {prompt}."
    delay: float = Field(0, ge=0, le=3600, description="Seconds a request.")
    context_tokens: int = Field(1 << 20, ge=1, description="Longer prompts (in words) fail.")
    out_of_order: int = Field(1, ge=1, le=1024, description="Answers come in reverse within groups of this many.")


_FUNCTIONS: dict[str, Callable[[str], str]] = {
    "echo": lambda prompt: prompt,
    "reverse": lambda prompt: prompt[::-1],
    "upper": str.upper,
    "digest": lambda prompt: hashlib.blake2b(prompt.encode("utf-8", "replace"), digest_size=16).hexdigest(),
}


def _never() -> bool:
    return False


class ScriptedTeacher:
    """Answers as its script says. Raises `BadInput` when the script is missing, no JSON, or has other keys."""

    def __init__(self, spec: TeacherSpec) -> None:
        self._script = _read(spec)
        self.notes: list[str] = []
        self.capabilities = Capabilities(
            fingerprint=f"scripted:{spec.name}",
            context_tokens=self._script.context_tokens,
            answer_log_probs=any(rule.chances for rule in self._script.rules),
        )

    def generate(self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never) -> Iterator[Completion]:
        """As `base.Teacher.generate`; one request after the other."""
        source = iter(requests)
        while group := list(islice(source, self._script.out_of_order)):
            for request in reversed(group):
                if stop():
                    return
                completion, delay = self._answer(request)
                if not _slept(delay, stop):
                    return
                yield completion

    def _answer(self, request: Request) -> tuple[Completion, float]:
        script, prompt = self._script, _last_user_text(request)
        words = len(prompt.split())
        if words > script.context_tokens:
            said = f"The prompt does not fit the teacher: {words:,} tokens; it reads {script.context_tokens:,}."
            return Completion(request.key, "", "error", error=said), script.delay
        rule = next((rule for rule in script.rules if re.search(rule.match, prompt)), None)
        rule = None if prompt in script.answers else rule
        delay = script.delay + (rule.delay if rule else 0)
        failure = script.errors.get(prompt) or (rule.error if rule else "")
        if failure:
            return Completion(request.key, "", "error", error=failure), delay
        reason: FinishReason = "length" if prompt in script.cut else rule.finish_reason if rule else "stop"
        text = self._text(prompt, rule, request.sampling.seed)
        weighed = _log_probs(text, rule.chances, request.sampling.log_probs) if rule else ()
        return Completion(request.key, text, reason, words, len(text.split()), log_probs=weighed), delay

    def _text(self, prompt: str, rule: Rule | None, seed: int) -> str:
        script = self._script
        if rule is None and prompt not in script.answers and script.function:
            return _FUNCTIONS[script.function](prompt)
        answer = rule.text if rule else script.answers.get(prompt, script.default)
        text = answer if isinstance(answer, str) else random.Random(seed).choice(answer)
        return text.replace("{prompt}", prompt)

    def score(
        self,
        sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
        top_k: int,
        *,
        stop: Callable[[], bool] = _never,
    ) -> Iterator[tuple[int, SparseSignal]]:
        """A script has no distributions. Raises `KnownError`."""
        del sequences, top_k, stop
        raise KnownError(
            "This teacher gives no log-probs", "It reads its answers from a script.", "Choose a local GGUF teacher."
        )

    def close(self) -> None:
        """Nothing to free."""


def _read(spec: TeacherSpec) -> Script:
    tables: Any = spec.options.get("script")
    if tables is None:
        path = Path(spec.path)
        try:
            if path.stat().st_size > MAXIMUM_SCRIPT_BYTES:
                raise ValueError(f"it is larger than {MAXIMUM_SCRIPT_BYTES:,} bytes")
            tables = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadInput("The script cannot be read", f"{spec.path}: {error}.", "Give a JSON file.") from error
    try:
        return Script.model_validate(tables)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, item['loc'])) or 'the script'}: {item['msg']}" for item in error.errors()]
        raise BadInput(
            "This is not a script",
            f"{spec.path or spec.name}: {'; '.join(faults[:5])}.",
            f"Its keys: {', '.join(sorted(Script.model_fields))}.",
        ) from error


def _log_probs(text: str, chances: Mapping[str, float], count: int) -> tuple[TokenLogProb, ...]:
    """Words and what stands between them as tokens; where the script gives chances these, else a certainty."""
    if not count or not chances:
        return ()
    listed = tuple(sorted(((word, math.log(chance)) for word, chance in chances.items()), key=lambda one: -one[1]))
    return tuple(
        TokenLogProb(token, dict(listed).get(token, 0.0), listed[:count] if token in chances else ((token, 0.0),))
        for token in re.findall(r"\w+|\W+", text)
    )


def _last_user_text(request: Request) -> str:
    contents = [message.get("content") for message in request.messages if message.get("role") == "user"]
    content = contents[-1] if contents else ""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _slept(seconds: float, stop: Callable[[], bool]) -> bool:
    """Wait; False when a stop was asked for meanwhile."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _SLEEP_SECONDS))
        if left > _SLEEP_SECONDS and stop():
            return False
    return True
