"""Answers many requests at once with one model (continuous batching).

What all waiting prompts begin with is read once into sequence 0 and shared; a request that ends makes room for the
next in the very next decode, so that the batch stays full. Memory is reserved before a request starts: no answer fails
midway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from kdstudio.errors import KnownError
from kdstudio.models.conversation import encode_prompt
from kdstudio.teachers.base import Completion, FinishReason, Request
from kdstudio.teachers.llama_logits import choose
from kdstudio.teachers.llama_native import Logits, NativeContext, shared_length
from kdstudio.teachers.llama_text import AnswerText
from kdstudio.teachers.llama_vocab import LlamaTokenizer

_BASE = 0  # the sequence that keeps what the prompts share
OnText = Callable[[str, str], None]
OpenContext = Callable[[int, int], NativeContext]


@dataclass
class Waiting:
    """A request that was checked and tokenised. `limit`: how many tokens it may answer with."""

    request: Request
    prompt: list[int]
    limit: int

    @property
    def cells(self) -> int:
        """Tokens of memory it may need when it shares nothing."""
        return len(self.prompt) + self.limit


@dataclass
class Slot:
    """A request being answered. `pending`: tokens not yet read; the rest of its state follows from them."""

    waiting: Waiting
    sequence: int
    reserved: int
    position: int
    pending: list[int]
    text: AnswerText
    random: np.random.Generator
    answered: int = 0

    def finished(self, reason: FinishReason) -> Completion:
        """What the caller gets."""
        request, prompt = self.waiting.request, self.waiting.prompt
        return Completion(request.key, self.text.text, reason, len(prompt), self.answered)


@dataclass
class Generation:
    """Runs over streams of requests, one at a time; what the last prompts shared is kept for the next run.

    `context_tokens` is what one prompt and its answer may take. `open_context(cells, sequences)` gives at least that
    much room, or as much as there is. `shares` is false for models whose memory cannot be cut at a token (recurrent).
    """

    tokenizer: LlamaTokenizer
    context_tokens: int
    at_once: int
    shares: bool
    open_context: OpenContext
    base: list[int] = field(default_factory=list)
    context: NativeContext | None = None

    def run(
        self, requests: Iterable[Request], stop: Callable[[], bool], on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """Yield completions as they finish; refused requests at once, as errors."""
        source = iter(requests)
        waiting: deque[Waiting] = deque()
        running: dict[int, Slot] = {}
        try:
            while not stop():
                yield from self._look_ahead(source, waiting)
                if not running:
                    if not waiting:
                        return
                    self._make_room(waiting)
                self._start(waiting, running)
                logits, order = self._read_on(running)
                yield from self._advance(logits, order, running, on_text)
        finally:
            for sequence in running:
                self._open().forget(sequence)

    def _look_ahead(self, source: Iterator[Request], waiting: deque[Waiting]) -> Iterator[Completion]:
        while len(waiting) < 2 * self.at_once and (request := next(source, None)) is not None:
            try:
                waiting.append(self._checked(request))
            except KnownError as error:
                yield Completion(request.key, "", "error", error=str(error))

    def _checked(self, request: Request) -> Waiting:
        prompt = encode_prompt(self.tokenizer, request.messages)
        room = self.context_tokens - len(prompt)
        if room < 1 or not prompt:
            raise KnownError(
                "The prompt does not fit the teacher",
                f"It has {len(prompt):,} tokens; the teacher reads {self.context_tokens:,} with its answer.",
                "Shorten the prompt, or choose a teacher with a larger context.",
            )
        return Waiting(request, prompt, max(1, min(request.sampling.max_tokens, room)))

    def _make_room(self, waiting: deque[Waiting]) -> None:
        """With nothing running: enough memory for what waits, and its shared beginning read."""
        shared = self._shared(waiting)
        group = list(waiting)[: self.at_once]
        alone = max(item.cells for item in waiting)
        together = len(shared) + sum(item.cells - len(shared) for item in group)
        context = self.open_context(max(alone, together), len(group) + 1)
        if context is not self.context:
            self.context, self.base = context, []
            context.clear()
        kept = shared_length(self.base, shared)
        context.forget(_BASE, kept)
        self.base = shared
        for first in range(kept, len(shared), context.batch.size):
            context.batch.clear()
            context.batch.add(shared[first : first + context.batch.size], first, _BASE, 0)
            context.decode()

    def _shared(self, waiting: deque[Waiting]) -> list[int]:
        """The beginning that all waiting prompts have in common; the last token of each stays its own."""
        if not self.shares:
            return []
        shared = waiting[0].prompt[:-1]
        for item in waiting:
            shared = shared[: shared_length(shared, item.prompt[:-1])]
        return shared

    def _start(self, waiting: deque[Waiting], running: dict[int, Slot]) -> None:
        context = self._open()
        free = context.cells - len(self.base) - sum(slot.reserved for slot in running.values())
        sequences = [number for number in range(1, context.sequences) if number not in running]
        while waiting and sequences:
            item = waiting[0]
            shared = min(shared_length(self.base, item.prompt), len(item.prompt) - 1)
            needed = item.cells - shared
            if needed > free:
                return
            waiting.popleft()
            free -= needed
            sequence = sequences.pop(0)
            context.share(_BASE, sequence, shared)
            sampling = item.request.sampling
            random = np.random.default_rng(sampling.seed % (1 << 64))
            text = AnswerText(sampling.stop)
            running[sequence] = Slot(item, sequence, needed, shared, item.prompt[shared:], text, random)

    def _read_on(self, running: dict[int, Slot]) -> tuple[Logits, list[Slot]]:
        """One decode: the last token of each answer first, then as much of the new prompts as fits."""
        context = self._open()
        batch, order = context.batch, []
        batch.clear()
        for slot in sorted(running.values(), key=lambda slot: len(slot.pending)):
            part = slot.pending[: batch.room]
            if not part:
                break
            whole = len(part) == len(slot.pending)
            batch.add(part, slot.position, slot.sequence, 1 if whole else 0)
            slot.position += len(part)
            slot.pending = slot.pending[len(part) :]
            if whole:
                order.append(slot)
        return context.decode(), order

    def _advance(
        self, logits: Logits, order: list[Slot], running: dict[int, Slot], on_text: OnText | None
    ) -> Iterator[Completion]:
        samplings = [slot.waiting.request.sampling for slot in order]
        tokens = choose(logits, samplings, [slot.random for slot in order]) if order else []
        for slot, token in zip(order, tokens, strict=True):
            reason = self._take(slot, token)
            if on_text is not None and (shown := slot.text.fresh(final=reason is not None)):
                on_text(slot.waiting.request.key, shown)
            if reason is not None:
                del running[slot.sequence]
                self._open().forget(slot.sequence)
                yield slot.finished(reason)

    def _take(self, slot: Slot, token: int) -> FinishReason | None:
        slot.answered += 1
        if self.tokenizer.ends(token) or slot.text.add(self.tokenizer.piece(token)):
            return "stop"
        if slot.answered >= slot.waiting.limit:
            return "length"
        slot.pending = [token]
        return None

    def _open(self) -> NativeContext:
        if self.context is None:
            raise KnownError("The teacher was closed", "Its model was freed while it answered.", "Start again.")
        return self.context
