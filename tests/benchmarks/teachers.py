"""Generation and scoring with the sample teacher, against llama-cpp-python's own high-level calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from kdstudio.errors import KnownError
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.discovery import sample_teacher
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Request, Sampling
from tests.benchmarks.figures import Figure

SYSTEM = "Write one short sentence that starts a story about it. " + "Keep it kind, plain and vivid. " * 24
THINGS = [
    f"a {adjective} {noun}"
    for adjective in ("brave", "lost")
    for noun in ["owl", "bear", "clock", "ship", "fox", "king", "door", "frog"]
]


def _teacher() -> Path:
    path = sample_teacher()
    if path is None:
        raise KnownError("The sample teacher is missing", "The benchmark needs it.", "Run: kdstudio demo")
    return path


def _messages(thing: str) -> tuple[dict[str, str], ...]:
    return ({"role": "system", "content": SYSTEM}, {"role": "user", "content": thing})


def generation() -> Iterator[Figure]:
    """Answers to prompts that share a prefix of about 200 tokens; the peer answers a few of them one by one."""
    from llama_cpp import Llama

    from kdstudio.teachers.llama import LlamaTeacher

    teacher = LlamaTeacher(TeacherSpec("bench", "gguf", path=str(_teacher())))
    requests = [
        Request(f"{n}:{sample}", _messages(thing), Sampling(max_tokens=64, temperature=0.8, seed=sample))
        for n, thing in enumerate(THINGS * 2)
        for sample in range(4)
    ]
    began = time.perf_counter()
    tokens = sum(completion.tokens for completion in teacher.generate(requests))
    ours = tokens / (time.perf_counter() - began)
    teacher.close()
    peer = Llama(str(_teacher()), n_ctx=1024, verbose=False, n_threads=2)
    began, theirs = time.perf_counter(), 0
    for thing in THINGS[:6]:
        answer = peer.create_chat_completion(list(_messages(thing)), max_tokens=64, temperature=0.8)  # type: ignore[arg-type]
        theirs += answer["usage"]["completion_tokens"]  # type: ignore[index]
    rate = theirs / (time.perf_counter() - began)
    peer.close()
    name = "Llama.create_chat_completion"
    yield Figure("generate 128 answers", ours, "tokens/s", ">= 4x", rate, name, smaller_is_better=False)


def scoring() -> Iterator[Figure]:
    """Top-50 log-probs of given text; the peer echoes with logprobs=50."""
    from llama_cpp import Llama

    from kdstudio.teachers.llama import LlamaTeacher

    text = " ".join(["The lost clock stood in the abandoned mansion and nobody knew what time it was."] * 24)
    teacher = LlamaTeacher(TeacherSpec("bench", "gguf", path=str(_teacher())))
    pairs = []
    for number in range(8):
        conversation = encode_conversation(teacher.tokenizer, list(_messages(f"a clock {number}")), text)
        pairs.append((conversation.prompt_ids, conversation.response_ids))
    began = time.perf_counter()
    tokens = sum(len(signal) for _, signal in teacher.score(pairs, 50))
    ours = tokens / (time.perf_counter() - began)
    teacher.close()
    peer = Llama(str(_teacher()), n_ctx=1024, verbose=False, n_threads=2, logits_all=True)
    short = text[: len(text) // 6]
    began = time.perf_counter()
    answer = peer.create_completion(short, echo=True, logprobs=50, max_tokens=1)
    seconds = time.perf_counter() - began
    rate = answer["usage"]["prompt_tokens"] / seconds  # type: ignore[index]
    peer.close()
    name = "create_completion(echo=True, logprobs=50)"
    yield Figure("score given text, top 50", ours, "tokens/s", ">= 25x", rate, name, smaller_is_better=False)
