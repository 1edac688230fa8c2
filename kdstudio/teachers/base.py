"""The teacher's protocol: what any source of knowledge offers to elicitation and training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.signals import SparseSignal

__all__ = [
    "Capabilities",
    "Completion",
    "FinishReason",
    "Message",
    "Request",
    "Sampling",
    "Teacher",
    "TeacherSpec",
    "TokenLogProb",
]

Message = dict[str, Any]
FinishReason = Literal["stop", "length", "error", "incomplete"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` 0 means all; `seed` belongs to one request.

    `grammar` (GBNF) or `json_schema` (a JSON Schema as JSON text) bind the answer's form where the teacher can; at most
    one of them is given. `log_probs`: how many likeliest tokens are reported beside each chosen one; 0 reports none.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    stop: tuple[str, ...] = ()
    grammar: str = ""
    json_schema: str = ""
    log_probs: int = 0


@dataclass(frozen=True)
class Request:
    """One thing to ask. `key` names it in the journal: the same key is never asked twice in a run.

    `speaker` says who is meant where several may answer: "teacher", "judge" or "student". `tags` are the prompt's, by
    which a request can be routed.
    """

    key: str
    messages: tuple[Message, ...]
    sampling: Sampling = field(default_factory=Sampling)
    speaker: str = "teacher"
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenLogProb:
    """A token of an answer: its text, its log-prob in nats, and the likeliest tokens at its place, likeliest first."""

    text: str
    log_prob: float
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Completion:
    """One answer. `finish_reason` is "stop" only when the teacher ended by itself; `error` is set with "error".

    `reasoning` is what a thinking teacher gave apart from its answer; most give none. `teacher` names who answered
    where several might have; `cost` is what the answer cost, in US dollars (0 when nothing or not known).
    """

    key: str
    text: str
    finish_reason: FinishReason
    prompt_tokens: int = 0
    tokens: int = 0
    error: str = ""
    reasoning: str = ""
    log_probs: tuple[TokenLogProb, ...] = ()
    teacher: str = ""
    cost: float = 0.0


@dataclass(frozen=True)
class Capabilities:
    """What a teacher can do. `fingerprint` names the weights, `tokenizer` the vocabulary ("" if unknown).

    `answer_log_probs`: log-probs of the tokens it generates; `grammar`, `json_schema`: answers in a given form;
    `images`: prompts with pictures; `hidden_states` (with attention): what feature distillation reads.
    """

    generate: bool = True
    top_k_log_probs: bool = False
    full_distributions: bool = False
    hidden_states: bool = False
    answer_log_probs: bool = False
    grammar: bool = False
    json_schema: bool = False
    images: bool = False
    context_tokens: int = 0
    vocabulary_size: int = 0
    fingerprint: str = ""
    tokenizer: str = ""
    terms: str = ""


class Teacher(Protocol):
    """A source of knowledge. Lives in a child process; closing it frees its memory.

    `notes` say what a person should know about how it is run, for example that its weights were dequantised once.
    """

    capabilities: Capabilities
    notes: list[str]

    def generate(self, requests: Iterable[Request], *, stop: Callable[[], bool] = ...) -> Iterator[Completion]:
        """Yield completions as they finish, in any order. A failed request yields `finish_reason="error"`.

        `stop` is asked between tokens; once true, nothing new is begun and unfinished requests are not yielded.
        """
        ...

    def score(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], top_k: int, *, stop: Callable[[], bool] = ...
    ) -> Iterator[tuple[int, SparseSignal]]:
        """For (prompt ids, response ids) pairs yield (index, signal at each response token) as they are done.

        Raises `KnownError` where `capabilities.top_k_log_probs` is false.
        """
        ...

    def close(self) -> None:
        """Free the model or connection."""
        ...
