"""Several teachers as one whose distribution is the weighted mean of theirs: log sum w_i p_i.

Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 1. The mean is taken over the whole vocabulary before
anything is cut to the likeliest tokens, so that the top k, the tail and the label are the mixture's own, exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import joined
from kdstudio.models.vocabulary_map import compare_vocabularies, vocabulary_of
from kdstudio.teachers.base import Capabilities, Completion, Request, Teacher
from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.llama_scoring import Pair, Part, Reduce
from kdstudio.teachers.opening import open_teacher, tokenizer_of
from kdstudio.teachers.signals import SparseSignal, concatenate

Rows = npt.NDArray[np.float32]
MIXTURE_BYTES = 256 << 20  # of the mean's log-probs held at once; the longest response is cut into pieces of this size
_SAMPLE = "The quick brown fox doesn't jump 1,234 times over naïve “dogs”\n\n\tfor x in range(10): print(x) 🐳"


@runtime_checkable
class ReadsWhole(Protocol):
    """A teacher whose whole distributions can be had while it reads text."""

    capabilities: Capabilities
    notes: list[str]

    def read(
        self, sequences: Sequence[Pair], reduce: Reduce[Part], *, stop: Callable[[], bool] = ...
    ) -> Iterator[tuple[int, list[Part]]]:
        """For each pair yield (index, what `reduce` made of its [n, V] logits, in parts)."""
        ...

    def close(self) -> None:
        """Free the model."""
        ...


def _never() -> bool:
    return False


def open_signal_teacher(parameters: Mapping[str, Any], secrets: dict[str, str]) -> Teacher:
    """Who scores text in a job: its `teacher`, or all of its `teachers` (specs), weighed by `weights` (equal if none).

    Raises `KnownError` or `BadInput` when one cannot be used, or when they do not go together.
    """
    specs = [TeacherSpec(**spec) for spec in parameters.get("teachers") or [parameters["teacher"]]]
    if len(specs) == 1:
        return open_teacher(specs[0], secrets)
    return EnsembleTeacher(specs, parameters.get("weights") or [1.0] * len(specs), secrets)


def shares_of(count: int, weights: Sequence[float]) -> list[float]:
    """The weights of `count` teachers, made to sum to 1. Raises `BadInput` unless there is one above 0 for each."""
    sound = all(math.isfinite(weight) and weight > 0 for weight in weights)
    if not count or len(weights) != count or not sound:
        given = ", ".join(f"{weight:g}" for weight in weights) or "none"
        raise BadInput(
            "This ensemble has no mean",
            f"{count} {'teacher' if count == 1 else 'teachers'} with weights {given}.",
            "Give each teacher one weight above 0.",
        )
    return [weight / math.fsum(weights) for weight in weights]


def mixture_fingerprint(fingerprints: Sequence[str], weights: Sequence[float]) -> str:
    """Name a mixture, in hex: by its teachers' fingerprints and shares, in whatever order; one alone is itself."""
    shares = shares_of(len(fingerprints), weights)
    if len(fingerprints) == 1:
        return fingerprints[0]
    named = sorted(f"{one} {share:.9f}" for one, share in zip(fingerprints, shares, strict=True))
    return hashlib.blake2b(f"mixture 1 {' '.join(named)}".encode(), digest_size=16).hexdigest()


def mixture_name(names: Sequence[str], weights: Sequence[float]) -> str:
    """What a person calls a mixture: its teachers with their shares; one alone keeps its name."""
    if len(names) == 1:
        return names[0]
    return " + ".join(f"{share:.4g} {name}" for name, share in zip(names, shares_of(len(names), weights), strict=True))


class EnsembleTeacher:
    """Implements `base.Teacher.score` for the mean of several local teachers of one vocabulary; it answers nothing.

    Raises `BadInput` when one gives no whole distributions, when the vocabularies differ in more than padding, or when
    the weights have no mean.
    """

    def __init__(self, specs: Sequence[TeacherSpec], weights: Sequence[float], secrets: dict[str, str]) -> None:
        self.shares = shares_of(len(specs), weights)
        self._members: list[ReadsWhole] = []
        with ExitStack() as opened:  # what is open is closed again when a later one fails
            tokenizers: list[Tokenizer] = []
            for spec in specs:
                teacher = opened.enter_context(closing(open_teacher(spec, secrets)))
                if not isinstance(teacher, ReadsWhole):
                    raise _no_distributions(spec.name)
                self._members.append(teacher)
                tokenizers.append(tokenizer_of(teacher))
                _require_one_vocabulary(specs[0].name, tokenizers[0], spec.name, tokenizers[-1])
            opened.pop_all()
        self.tokenizer = tokenizers[0]
        self.notes = [
            f"{spec.name}: {note}" for spec, member in zip(specs, self._members, strict=True) for note in member.notes
        ]
        self.capabilities = self._capabilities()

    def _capabilities(self) -> Capabilities:
        known = [member.capabilities for member in self._members]
        return Capabilities(
            generate=False,
            top_k_log_probs=True,
            full_distributions=True,
            context_tokens=min((one.context_tokens for one in known if one.context_tokens), default=0),
            vocabulary_size=min(one.vocabulary_size for one in known),
            fingerprint=mixture_fingerprint([one.fingerprint for one in known], self.shares),
            tokenizer=known[0].tokenizer,
            terms=joined(one.terms for one in known),
        )

    def generate(self, requests: Iterable[Request], *, stop: Callable[[], bool] = _never) -> Iterator[Completion]:
        """A mean of distributions writes nothing here. Raises `KnownError`."""
        del requests, stop
        raise KnownError(
            "An ensemble does not answer",
            "It weighs what its teachers think of given text.",
            "Ask one of its teachers, or several side by side.",
        )

    def score(
        self, sequences: Sequence[Pair], top_k: int, *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, SparseSignal]]:
        """As `base.Teacher.score`, of the mixture."""
        kept = self.read(sequences, lambda logits, labels, *_: signal_of(logits, labels, top_k), stop=stop)
        return ((index, concatenate(parts)) for index, parts in kept)

    def read(
        self, sequences: Sequence[Pair], reduce: Reduce[Part], *, stop: Callable[[], bool] = _never
    ) -> Iterator[tuple[int, list[Part]]]:
        """As the members' `read`: `reduce` sees the mixture's log-probs [n, V]. They are gone after the call."""
        width = self.capabilities.vocabulary_size
        parts: dict[int, list[Part]] = {}
        for pieces in _portions(sequences, max(1, MIXTURE_BYTES // (4 * width))):
            mixed = self._mixed(pieces, width, stop)
            if mixed is None:
                return
            for piece, log_probs in zip(pieces, mixed, strict=True):
                labels = np.asarray(piece.pair[1], np.int64)
                parts.setdefault(piece.index, []).append(reduce(log_probs, labels, piece.index, piece.first))
                if piece.last:
                    yield piece.index, parts.pop(piece.index)

    def _mixed(self, pieces: Sequence[_Piece], width: int, stop: Callable[[], bool]) -> list[Rows] | None:
        """log sum w_i p_i [n, V] of each piece; None when a stop was asked for before all was read."""
        sums = [_Mean(np.full((len(piece.pair[1]), width), -np.inf, np.float32)) for piece in pieces]
        for member, share in zip(self._members, self.shares, strict=True):
            adding = _Adding(sums, share)
            read = sum(1 for _ in member.read([piece.pair for piece in pieces], adding, stop=stop))
            if read < len(pieces):
                return None
        return [one.log_probs for one in sums]

    def close(self) -> None:
        """Free all models."""
        for member in self._members:
            member.close()


@dataclass(frozen=True)
class _Piece:
    """A part of a response, behind all that stands before it. `first`: of its tokens in the response."""

    index: int
    first: int
    pair: tuple[list[int], list[int]]
    last: bool


@dataclass
class _Mean:
    """The weighted sum of probabilities of one piece, as logs."""

    log_probs: Rows

    def add(self, logits: Rows, share: float, first: int) -> None:
        """Add softmax(logits) [n, V or wider] times `share`, row by row so that it stays in the cache."""
        for place, row in enumerate(logits[:, : self.log_probs.shape[1]], first):
            high = row.max()
            if not np.isfinite(high):
                raise KnownError(
                    "A teacher computed no numbers",
                    "Its logits are not finite: the file may be damaged, or too coarsely quantized.",
                    "Try another file of the same model.",
                )
            shift = high + np.log(np.exp(row - high).sum(dtype=np.float64)) - math.log(share)
            self.log_probs[place] = np.logaddexp(self.log_probs[place], row - np.float32(shift))


@dataclass
class _Adding:
    """The `reduce` of a member: adds what it thinks, and keeps nothing else."""

    sums: Sequence[_Mean]
    share: float

    def __call__(self, logits: Rows, labels: npt.NDArray[np.int64], index: int, first: int) -> None:
        del labels
        self.sums[index].add(logits, self.share, first)


def _portions(sequences: Sequence[Pair], tokens: int) -> Iterator[list[_Piece]]:
    """All sequences in portions of at most so many response tokens; neighbours begin alike."""
    portion: list[_Piece] = []
    held = 0
    for index in sorted(range(len(sequences)), key=lambda index: list(sequences[index][0])):
        prompt, response = list(sequences[index][0]), list(sequences[index][1])
        for first in range(0, max(len(response), 1), tokens):
            labels = response[first : first + tokens]
            if held + len(labels) > tokens:
                yield portion
                portion, held = [], 0
            last = first + tokens >= len(response)
            portion.append(_Piece(index, first, (prompt + response[:first], labels), last))
            held += len(labels)
    if portion:
        yield portion


def _require_one_vocabulary(first_name: str, first: Tokenizer, name: str, other: Tokenizer) -> None:
    """Raises `BadInput` naming the difference. Further ids that stand for nothing, padding, are no difference."""
    if first is other:
        return
    difference = ""
    if first.fingerprint != other.fingerprint:
        found = compare_vocabularies(vocabulary_of(first), vocabulary_of(other))
        if found.relation == "different":
            at = found.first_difference
            difference = f"They differ from token {at:,} on." if at is not None else "They number other tokens."
    if not difference and first.encode(_SAMPLE, special=False) != other.encode(_SAMPLE, special=False):
        difference = "They cut the same text into different tokens."
    if difference:
        sizes = f"{first_name} has {first.vocabulary_size:,} tokens, {name} {other.vocabulary_size:,}."
        raise BadInput(
            "These teachers have different vocabularies",
            f"{sizes} {difference} An ensemble weighs probabilities token by token.",
            "Take teachers of one family; or let each answer, and vote among their answers.",
        )


def _no_distributions(name: str) -> BadInput:
    return BadInput(
        "This teacher shows no distributions",
        f"{name} cannot be weighed with others: the log-probs of its whole vocabulary are not to be had.",
        "Use local teachers (GGUF files or folders); or let each answer, and vote among their answers.",
    )
