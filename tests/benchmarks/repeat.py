"""Same seed, same text: how many answers change with the number of requests that are read at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Message, Request, Sampling
from kdstudio.teachers.llama import LlamaTeacher
from tests.benchmarks.figures import Figure
from tests.benchmarks.teachers import THINGS, messages, sample_path

AT_ONCE = (1, 7, 32)
_WORDS = 'root ::= [A-Z] [a-z ,]+ "." | [A-Z] [a-z ,]+ "!"'
_KINDS: dict[str, tuple[bool, Mapping[str, Any]]] = {
    "greedy": (False, {}),
    "sampled": (False, {"temperature": 0.8}),
    "sampled, with a shared beginning and stop strings": (True, {"temperature": 0.8, "stop": ("\n\n", "The end")}),
    "sampled, in a grammar": (False, {"temperature": 0.8, "grammar": _WORDS}),
}


def _prompt(thing: str, shared: bool) -> tuple[Message, ...]:
    return messages(thing) if shared else ({"role": "user", "content": f"Write a sentence about {thing}."},)


def answers(at_once: int, *, precise: bool) -> dict[tuple[str, str], str]:
    """(kind, thing) -> text: 32 prompts of each kind, up to 64 tokens each, a seed for each prompt."""
    options = {"requests_at_once": at_once, "precise": precise}
    teacher = LlamaTeacher(TeacherSpec("repeat", "gguf", str(sample_path()), options=options))
    found: dict[tuple[str, str], str] = {}
    for kind, (shared, sampling) in _KINDS.items():
        requests = [
            Request(thing, _prompt(thing, shared), Sampling(max_tokens=64, seed=number, **sampling))
            for number, thing in enumerate(THINGS)
        ]
        found |= {(kind, completion.key): completion.text for completion in teacher.generate(requests)}
    teacher.close()
    return found


def repeat() -> Iterator[Figure]:
    """Answers, of 32 of each kind, that are not the same at 1, 7 and 32 requests at once."""
    for name, precise in (("precise", True), ("as it runs by default", False)):
        first, *others = [answers(at_once, precise=precise) for at_once in AT_ONCE]
        for kind in _KINDS:
            keys = [key for key in first if key[0] == kind]
            changed = sum(any(other[key] != first[key] for other in others) for key in keys)
            bar = "0" if precise else ""
            yield Figure(f"answers of {len(keys)} that depend on the batch, {name}, {kind}", changed, "answers", bar)
