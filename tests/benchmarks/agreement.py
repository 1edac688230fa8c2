"""Whether a GGUF teacher's signals are those of its weights in torch, and of llama-cpp-python where that is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import Llama

from kdstudio.models.conversation import encode_conversation
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.dequantised import f16_copy, f32_copy
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.llama_scoring import Pair
from kdstudio.teachers.transformers_local import TransformersTeacher
from tests.benchmarks.figures import Figure
from tests.benchmarks.teachers import THINGS, sample_path

TOKENS = 10_000
_ANSWER_TOKENS = 160
_ROWS_AT_ONCE = 8
_KINDS = ("a story", "a letter", "an advertisement", "a news report", "a dialogue", "a list of questions")
_PEER_ROWS, _PEER_TOKENS = 3, 60
Values = npt.NDArray[np.float64]


@dataclass
class Agreement:
    """Per token: KL(torch || llama.cpp) over all of V, whether both prefer the same, how far apart the labels are."""

    divergence: list[Values] = field(default_factory=list)
    same_best: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    label_distance: list[Values] = field(default_factory=list)

    def add(self, ours: npt.NDArray[np.float32], other: Values, labels: npt.NDArray[np.int64]) -> None:
        """Take in [n, V] logits of ours and [n, V] log-probs of the other."""
        log_probs = _log_softmax(ours)
        rows = np.arange(len(labels))
        self.divergence.append((np.exp(other) * (other - log_probs)).sum(axis=1))
        self.same_best.append(log_probs.argmax(axis=1) == other.argmax(axis=1))
        self.label_distance.append(np.abs(log_probs[rows, labels] - other[rows, labels]))

    @property
    def tokens(self) -> int:
        """Compared so far."""
        return sum(map(len, self.divergence))


def _log_softmax(logits: npt.NDArray[np.float32]) -> Values:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: Values = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def compare(path: Path, pairs: Sequence[Pair], **options: Any) -> Agreement:
    """Signals of one file through llama.cpp, many rows in a decode, and through torch in 32 bits."""
    ours = LlamaTeacher(TeacherSpec("ours", "gguf", str(path), options={"dequantise": False, **options}))
    torch = TransformersTeacher(TeacherSpec("torch", "gguf", str(path), options={"device": "cpu", "precision": "fp32"}))
    found = Agreement()
    try:
        for start in range(0, len(pairs), _ROWS_AT_ONCE):
            rows = pairs[start : start + _ROWS_AT_ONCE]
            kept = torch.read(rows, lambda logits, *_: _log_softmax(logits))
            expected = {index: np.concatenate(parts) for index, parts in kept}

            def look(
                logits: npt.NDArray[np.float32],
                labels: npt.NDArray[np.int64],
                index: int,
                first: int,
                expected: dict[int, Values] = expected,
            ) -> None:
                found.add(logits, expected[index][first : first + len(labels)], labels)

            for _ in ours.read(rows, look):
                pass
    finally:
        ours.close()
        torch.close()
    return found


def own_answers(teacher: LlamaTeacher, tokens: int) -> list[Pair]:
    """At least so many tokens of what the teacher itself says to made-up prompts, at temperature 1."""
    prompts = {
        f"{kind} {thing}": ({"role": "user", "content": f"Write {kind} about {thing}."},)
        for kind in _KINDS
        for thing in THINGS
    }
    sampling = Sampling(max_tokens=_ANSWER_TOKENS, temperature=1.0, seed=1)
    found: list[Pair] = []
    for completion in teacher.generate(Request(key, prompt, sampling) for key, prompt in prompts.items()):
        if completion.text.strip():
            row = encode_conversation(teacher.tokenizer, prompts[completion.key], completion.text)
            found.append((row.prompt_ids, row.response_ids))
        if sum(len(response) for _, response in found) >= tokens:
            break
    return found


def label_distance(path: Path, texts: Sequence[str], **peer_options: Any) -> float:
    """The largest distance of label log-probs from `create_completion`'s, for texts that begin with that of a text.

    Only for those it is right: without that token it pairs each token with the prediction of the next one
    (abetlen/llama-cpp-python#1983). Later ones equal to it are left out, as it leaves them out.
    """
    precise = bool(peer_options)
    ours = LlamaTeacher(TeacherSpec("ours", "gguf", str(path), options={"dequantise": False, "precise": precise}))
    peer = Llama(str(path), n_ctx=512, verbose=False, n_threads=ours.threads, logits_all=True, **peer_options)
    found = 0.0
    rows = [ours.tokenizer.encode(ours.tokenizer.bos_token + text, special=True) for text in texts]
    signals = dict(ours.score([(row[:1], row[1:]) for row in rows], 1))
    for index, (text, row) in enumerate(zip(texts, rows, strict=True)):
        answer = peer.create_completion(ours.tokenizer.bos_token + text, echo=True, logprobs=1, max_tokens=1)
        theirs = answer["choices"][0]["logprobs"]["token_logprobs"]  # type: ignore[index]
        kept = [place for place, token in enumerate(row[1:]) if token != row[0]]
        expected = np.array(theirs[1 : len(kept)], np.float64)  # the first of them is None
        labels = signals[index].label_log_prob[kept[1:]]
        found = max(found, float(np.abs(labels - expected).max()))
    ours.close()
    peer.close()
    return found


def agreement() -> Iterator[Figure]:
    """The sample teacher's 16-bit copy through llama.cpp, torch and `create_completion`."""
    path = f16_copy(sample_path())
    teacher = LlamaTeacher(TeacherSpec("teacher", "gguf", str(path)))
    pairs = own_answers(teacher, TOKENS)
    answers = (response[:_PEER_TOKENS] for _, response in pairs[:_PEER_ROWS])
    texts = [b"".join(map(teacher.tokenizer.piece, answer)).decode("utf-8", "ignore") for answer in answers]
    teacher.close()
    for name, options in (("as it runs", {}), ("precise", {"precise": True})):
        found = compare(path, pairs, **options)
        work = f"signals against torch over {found.tokens:,} tokens, {name}"
        yield Figure(f"{work}: mean KL", float(np.concatenate(found.divergence).mean()), "nats", "<= 1e-3")
        best = 100 * float(np.concatenate(found.same_best).mean())
        yield Figure(f"{work}: same first choice", best, "%", ">= 99.5", smaller_is_better=False)
    exact = label_distance(f32_copy(sample_path()), texts, type_k=0, type_v=0)
    yield Figure("label log-probs against create_completion, all in 32 bits", exact, "nats", "<= 1e-4")
    yield Figure("the same with 16-bit weights, keys and values in both", label_distance(path, texts), "nats")
