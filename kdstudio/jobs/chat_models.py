"""Models that answer a conversation token by token: a GGUF file through llama.cpp, or any other teacher.

A conversation grows at its end. The context keeps every token it has read and written, so that a turn costs only what
is new since the last one.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import llama_cpp
import numpy as np

from kdstudio import settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.conversation import encode_prompt
from kdstudio.models.gguf_header import read_header
from kdstudio.teachers.base import Completion, FinishReason, Message, Request, Sampling, Teacher, TokenLogProb
from kdstudio.teachers.llama_logits import choose, signal_of
from kdstudio.teachers.llama_memory import BUDGET, CELL_STEP, need_of
from kdstudio.teachers.llama_native import Logits, NativeContext, NativeModel, shared_length
from kdstudio.teachers.llama_text import AnswerText
from kdstudio.teachers.llama_vocab import LlamaTokenizer

FIRST_CONTEXT, BATCH_TOKENS = 4096, 256
OnText = Callable[[str], None]
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Turn:
    """An answer that is over. `reused`: prompt tokens that did not have to be read again."""

    completion: Completion
    tokens_per_second: float
    reused: int = 0


class ChatModel(Protocol):
    """Something one can talk to."""

    def answer(self, messages: Sequence[Message], sampling: Sampling, on_text: OnText, stop: Stop) -> Turn:
        """Answer a conversation; `on_text` gets the text as it grows, `stop` is asked between tokens.

        An answer that was stopped ends with the reason "incomplete". Raises `KnownError` when it cannot be given.
        """
        ...

    def close(self) -> None:
        """Free the model."""
        ...


class LlamaChat:
    """A GGUF file. `threads` is asked at each turn, so that two models side by side share the cores."""

    def __init__(self, path: Path, *, context_tokens: int = 0, threads: Callable[[], int] | None = None) -> None:
        """Load `path`; `context_tokens` 0 allows what the model was trained on.

        Raises `BadInput` for a file that is not a sound GGUF, `KnownError` when llama.cpp cannot load it or there is
        not enough memory for it.
        """
        header = read_header(path)
        if not header.tensors:
            raise BadInput("This file has no weights", f"{path} holds a vocabulary only.", "Choose the model itself.")
        BUDGET.claim(self, path.name, need_of(header, 1), CELL_STEP)
        try:
            self._model = NativeModel(path)
        except BaseException:
            BUDGET.release(self)
            raise
        self._tokenizer = LlamaTokenizer(path, model=self._model, header=header)
        self._limit = context_tokens or header.context or FIRST_CONTEXT
        self._threads = threads or settings.thread_count
        pointer = self._model.pointer
        recurrent = llama_cpp.llama_model_is_recurrent(pointer) or llama_cpp.llama_model_is_hybrid(pointer)
        self._rolls_back = not recurrent and not llama_cpp.llama_model_n_swa(pointer)
        self._context: NativeContext | None = None
        self._read: list[int] = []

    def answer(self, messages: Sequence[Message], sampling: Sampling, on_text: OnText, stop: Stop) -> Turn:
        """As `ChatModel.answer`. Raises `BadInput` when the conversation is longer than the context."""
        prompt = encode_prompt(self._tokenizer, messages)
        room = self._limit - len(prompt)
        if room < 1:
            raise BadInput(
                "The conversation is longer than the model can read",
                f"It has {len(prompt):,} tokens; {self._limit:,} fit with the answer.",
                "Begin a new conversation, or shorten the last message.",
            )
        count = min(sampling.max_tokens, room)
        context = self._open(len(prompt) + count)
        threads = self._threads()
        llama_cpp.llama_set_n_threads(context.pointer, threads, threads)
        reused = self._keep(context, min(shared_length(self._read, prompt), len(prompt) - 1))
        logits = self._read_prompt(context, prompt, reused, stop)
        text, made = AnswerText(sampling.stop), 0
        said: tuple[TokenLogProb, ...] = ()
        reason: FinishReason = "incomplete"
        began = time.perf_counter()
        if logits is not None:
            reason, made, said = self._speak(context, logits, sampling, text, count, on_text, stop)
        seconds = time.perf_counter() - began
        completion = Completion("", text.text, reason, len(prompt), made, log_probs=said)
        return Turn(completion, made / seconds if made and seconds > 0 else 0.0, reused)

    def _open(self, tokens: int) -> NativeContext:
        """A context with room for `tokens`. It starts small and doubles: most conversations are short."""
        if self._context is None or self._context.cells < tokens:
            if self._context is not None:
                self._context.close()
            cells = FIRST_CONTEXT
            while cells < tokens:
                cells *= 2
            self._read = []
            self._context = NativeContext(
                self._model,
                cells=min(cells, max(self._limit, BATCH_TOKENS)),
                sequences=1,
                batch_tokens=BATCH_TOKENS,
                outputs=1,
                threads=self._threads(),
            )
        return self._context

    def _keep(self, context: NativeContext, wanted: int) -> int:
        """Drop what was read after the first `wanted` tokens; returns how many stay.

        Recurrent memory and sliding windows cannot go back by a part: there everything is dropped instead.
        """
        if wanted < len(self._read):
            if not self._rolls_back:
                wanted = 0
                context.clear()
            context.forget(0, wanted)
            del self._read[wanted:]
        return wanted

    def _read_prompt(self, context: NativeContext, prompt: list[int], start: int, stop: Stop) -> Logits | None:
        """Logits after the prompt; None when a stop was asked for (what was read stays read)."""
        logits: Logits | None = None
        for first in range(start, len(prompt), BATCH_TOKENS):
            if stop():
                return None
            part = prompt[first : first + BATCH_TOKENS]
            logits = self._step(context, part, outputs=first + len(part) == len(prompt))
        return logits

    def _step(self, context: NativeContext, tokens: list[int], *, outputs: bool) -> Logits:
        context.batch.clear()
        context.batch.add(tokens, len(self._read), 0, int(outputs))
        logits = context.decode()
        self._read.extend(tokens)
        return logits

    def _speak(
        self,
        context: NativeContext,
        logits: Logits,
        sampling: Sampling,
        text: AnswerText,
        count: int,
        on_text: OnText,
        stop: Stop,
    ) -> tuple[FinishReason, int, tuple[TokenLogProb, ...]]:
        """Answer until the end; how it ended, the tokens made, and the log-probs of those that its text keeps."""
        random = np.random.Generator(np.random.Philox(key=sampling.seed % (1 << 64)))
        reason: FinishReason | None = None
        made = 0
        noted: list[tuple[int, TokenLogProb]] = []
        while reason is None:
            token = choose(logits, [sampling], [random])[0]
            made += 1
            if sampling.log_probs and not self._tokenizer.ends(token):
                noted.append((text.size, self._log_prob(logits, token, sampling.log_probs)))
            if self._tokenizer.ends(token) or text.add(self._tokenizer.piece(token)):
                reason = "stop"
            elif made >= count:
                reason = "length"
            elif stop():
                reason = "incomplete"
            if shown := text.fresh(final=reason is not None):
                on_text(shown)
            if reason is None:
                logits = self._step(context, [token], outputs=True)
        return reason, made, tuple(item for start, item in noted if start < text.size)

    def _log_prob(self, logits: Logits, token: int, count: int) -> TokenLogProb:
        """A chosen token's log-prob and the likeliest ones', of the whole vocabulary and before temperature."""
        signal = signal_of(logits, np.array([token]), count)
        likeliest = zip(signal.ids[0].tolist(), signal.log_probs[0].tolist(), strict=True)
        others = tuple((self._tokenizer.shown(other), log_prob) for other, log_prob in likeliest)
        return TokenLogProb(self._tokenizer.shown(token), float(signal.label_log_prob[0]), others)

    def close(self) -> None:
        """Free the context and the model."""
        BUDGET.release(self)
        if self._context is not None:
            self._context.close()
            self._context = None
        self._model.close()


class TeacherChat:
    """Any other teacher. One that can stream (`generate(..., on_text=...)`) does; else the answer comes whole."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def answer(self, messages: Sequence[Message], sampling: Sampling, on_text: OnText, stop: Stop) -> Turn:
        """As `ChatModel.answer`."""
        began = time.perf_counter()
        request = Request("chat", tuple(messages), sampling)
        pieces: list[str] = []

        def show(_key: str, text: str) -> None:
            pieces.append(text)
            on_text(text)

        completion = next(iter(_generate(self._teacher, request, stop, show)), None)
        if completion is None:  # stopped: what was shown is all there is
            return Turn(Completion("", "".join(pieces), "incomplete"), 0.0)
        if completion.finish_reason == "error":
            title, _, rest = completion.error.partition("\n")
            raise KnownError(title or "The teacher gave no answer", rest, "Test the teacher's connection.")
        if not pieces and completion.text:
            on_text(completion.text)
        seconds = time.perf_counter() - began
        return Turn(completion, completion.tokens / seconds if seconds > 0 else 0.0)

    def close(self) -> None:
        """Close the connection."""
        self._teacher.close()


def _generate(teacher: Teacher, request: Request, stop: Stop, show: Callable[[str, str], None]) -> Iterator[Completion]:
    if "on_text" in inspect.signature(teacher.generate).parameters:
        streaming = cast("StreamingTeacher", teacher)
        return streaming.generate([request], stop=stop, on_text=show)
    return teacher.generate([request], stop=stop)


class StreamingTeacher(Protocol):
    """A teacher whose `generate` also gives the text while it grows."""

    def generate(
        self, requests: Iterable[Request], *, stop: Stop = ..., on_text: Callable[[str, str], None] | None = ...
    ) -> Iterator[Completion]:
        """As `Teacher.generate`; `on_text(key, piece)` gets each new piece."""
        ...
