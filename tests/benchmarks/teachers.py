"""Generation and scoring with the sample teacher, against llama-cpp-python's own high-level calls.

Ours and the peers take turns, so that a busy minute of the machine meets both; the medians are compared.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llama_cpp import Llama

from kdstudio.errors import KnownError
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.discovery import sample_teacher
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.llama_scoring import Pair
from tests.benchmarks.figures import Figure

ROUNDS = 3
SYSTEM = "Write one short sentence that starts a story about it. " + "Keep it kind, plain and vivid. " * 24
THINGS = [
    f"a {adjective} {noun}"
    for adjective in ("brave", "lost", "tiny", "old")
    for noun in ["owl", "bear", "clock", "ship", "fox", "king", "door", "frog"]
]
_PEER_ANSWERS = 6
_TEXT = " ".join(["The lost clock stood in the abandoned mansion and nobody knew what time it was."] * 24)


def sample_path() -> Path:
    """The sample teacher's file. Raises `KnownError` when it is not there."""
    path = sample_teacher()
    if path is None:
        raise KnownError("The sample teacher is missing", "The benchmark needs it.", "Run: kdstudio demo")
    return path


def messages(thing: str) -> tuple[dict[str, str], ...]:
    """A prompt whose first 200 tokens all prompts share."""
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": thing})


def _peer(teacher: LlamaTeacher, *, logits_all: bool = False) -> Llama:
    """llama-cpp-python's own class on the same file, with as many threads."""
    count = teacher.threads
    path = str(sample_path())
    return Llama(path, n_ctx=1024, verbose=False, logits_all=logits_all, n_threads=count, n_threads_batch=count)


def rates_in_turns(*works: Callable[[], int], rounds: int = ROUNDS) -> list[float]:
    """Tokens a second of each work (which returns its tokens): medians over rounds, the works turn by turn."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for rates, work in zip(found, works, strict=True):
            began = time.perf_counter()
            tokens = work()
            rates.append(tokens / (time.perf_counter() - began))
    return [statistics.median(rates) for rates in found]


def generation() -> Iterator[Figure]:
    """32 prompts with a shared prefix of about 200 tokens x 4 samples x 64 tokens; the peer answers some one by one."""
    teacher = LlamaTeacher(TeacherSpec("bench", "gguf", path=str(sample_path())))
    peer = _peer(teacher)
    requests = [
        Request(f"{thing}:{sample}", messages(thing), Sampling(max_tokens=64, temperature=0.8, seed=sample))
        for thing in THINGS
        for sample in range(4)
    ]

    def ours() -> int:
        return sum(completion.tokens for completion in teacher.generate(requests))

    def theirs() -> int:
        return sum(_answer_tokens(peer, thing) for thing in THINGS[:_PEER_ANSWERS])

    rate, peer_rate = rates_in_turns(ours, theirs)
    teacher.close()
    peer.close()
    name = "Llama.create_chat_completion"
    yield Figure("generate 128 answers", rate, "tokens/s", ">= 4x", peer_rate, name, smaller_is_better=False)


def _answer_tokens(peer: Llama, thing: str) -> int:
    answer = peer.create_chat_completion(list(messages(thing)), max_tokens=64, temperature=0.8)  # type: ignore[arg-type]
    return int(answer["usage"]["completion_tokens"])  # type: ignore[index]


def scoring() -> Iterator[Figure]:
    """Top-50 log-probs of 8 texts against an echo of one with logprobs=50, and against the same prefill, not read."""
    teacher = LlamaTeacher(TeacherSpec("bench", "gguf", path=str(sample_path())))
    peer = _peer(teacher, logits_all=True)
    pairs: list[Pair] = []
    for number in range(8):
        conversation = encode_conversation(teacher.tokenizer, list(messages(f"a clock {number}")), _TEXT)
        pairs.append((conversation.prompt_ids, conversation.response_ids))
    responses = sum(len(response) for _, response in pairs)

    def scored() -> int:
        return sum(len(signal) for _, signal in teacher.score(pairs, 50))

    def prefilled() -> int:
        return responses * bool(list(teacher.read(pairs, lambda *_: None)))

    def echoed() -> int:
        answer = peer.create_completion(_TEXT, echo=True, logprobs=50, max_tokens=1)
        return int(answer["usage"]["prompt_tokens"])  # type: ignore[index]

    prefilled()  # warms up
    rate, bare, peer_rate = rates_in_turns(scored, prefilled, echoed)
    teacher.close()
    peer.close()
    name = "create_completion(echo=True, logprobs=50)"
    yield Figure("score given text, top 50", rate, "tokens/s", ">= 25x", peer_rate, name, smaller_is_better=False)
    yield Figure("score given text, of a bare prefill's time", bare / rate, "x", "<= 1.15")
