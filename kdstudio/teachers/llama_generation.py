"""Answers many requests at once with one model (continuous batching).

What all waiting prompts begin with is read once into sequence 0 and shared, and what a prompt has in common with one
that is being answered, such as another sample of the same, is taken from there. A request that ends makes room for the
next in the very next decode, so that the batch stays full. Memory is reserved before a request starts: no answer fails
midway for want of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from kdstudio.errors import KnownError
from kdstudio.models.conversation import encode_prompt
from kdstudio.teachers.base import Completion, FinishReason, Request, TokenLogProb
from kdstudio.teachers.llama_form import AnswerForm
from kdstudio.teachers.llama_forms import AnswerForms
from kdstudio.teachers.llama_logits import choose, signal_of
from kdstudio.teachers.llama_native import Logits, NativeContext, shared_length
from kdstudio.teachers.llama_text import AnswerText
from kdstudio.teachers.llama_vocab import LlamaTokenizer

_BASE = 0  # the sequence that keeps what the prompts share
_WORTH_WAITING = 8  # tokens that a prompt need not read again, for which it waits until another has read them
OnText = Callable[[str, str], None]
OpenContext = Callable[[int, int], NativeContext]


@dataclass
class Waiting:
    """A request that was checked and tokenised. `limit`: how many tokens it may answer with; `gbnf`: in which form."""

    request: Request
    prompt: list[int]
    limit: int
    gbnf: str = ""

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
    form: AnswerForm | None = None
    answered: int = 0
    log_probs: list[tuple[int, TokenLogProb]] = field(default_factory=list)

    def finished(self, reason: FinishReason, error: str = "") -> Completion:
        """What the caller gets; the log-probs of tokens that a stop string took away go with them."""
        self.close()
        kept = tuple(item for start, item in self.log_probs if start < self.text.size)
        request, prompt = self.waiting.request, self.waiting.prompt
        return Completion(request.key, self.text.text, reason, len(prompt), self.answered, error=error, log_probs=kept)

    def close(self) -> None:
        """Free what llama.cpp holds of its form."""
        if self.form is not None:
            self.form.close()


@dataclass
class Generation:
    """Runs over streams of requests, one at a time; what the last prompts shared is kept for the next run.

    `context_tokens` is what one prompt and its answer may take. `open_context(cells, sequences)` gives at least that
    much room, or as much as there is. `shares` is false for models whose memory cannot be cut at a token (recurrent).
    """

    tokenizer: LlamaTokenizer
    forms: AnswerForms
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
            for sequence, slot in running.items():
                slot.close()
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
        limit = max(1, min(request.sampling.max_tokens, room))
        return Waiting(request, prompt, limit, self.forms.gbnf(request.sampling))

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
        held: list[Waiting] = []
        while waiting and sequences:
            item = waiting.popleft()
            # What comes from a running answer is reserved too: it stays when that answer ends.
            needed = item.cells - self._of_base(item)
            source, shared, soon = self._nearest(item, running)
            if needed > free or soon - shared >= _WORTH_WAITING:
                held.append(item)
                if needed > free:
                    break
                continue
            free -= needed
            sequence = sequences.pop(0)
            context.share(source, sequence, shared)
            sampling = item.request.sampling
            random = np.random.default_rng(sampling.seed % (1 << 64))
            text = AnswerText(sampling.stop)
            form = AnswerForm(self.tokenizer.vocabulary, item.gbnf) if item.gbnf else None
            running[sequence] = Slot(item, sequence, needed, shared, item.prompt[shared:], text, random, form)
        waiting.extendleft(reversed(held))

    def _of_base(self, item: Waiting) -> int:
        """How many of a prompt's tokens sequence 0 keeps; the last is always its own."""
        return min(shared_length(self.base, item.prompt), len(item.prompt) - 1)

    def _nearest(self, item: Waiting, running: dict[int, Slot]) -> tuple[int, int, int]:
        """The sequence with the most of a prompt, how much that has read, and how much any will have read soon."""
        source, shared = _BASE, self._of_base(item)
        soon = shared
        if not self.shares:
            return source, shared, soon
        start = shared
        for slot in running.values():
            if slot.waiting.prompt[:start] == item.prompt[:start]:
                common = start + shared_length(slot.waiting.prompt[start:], item.prompt[start:-1])
                soon = max(soon, common)
                if min(common, slot.position) > shared:
                    source, shared = slot.sequence, min(common, slot.position)
        return source, shared, soon

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
        found = self._chosen(logits, order)
        self._note_log_probs(logits, order, found)
        for slot, token in zip(order, found, strict=True):
            reason = self._take(slot, token) if isinstance(token, int) else "error"
            if on_text is not None and (shown := slot.text.fresh(final=reason is not None)):
                on_text(slot.waiting.request.key, shown)
            if reason is not None:
                del running[slot.sequence]
                self._open().forget(slot.sequence)
                yield slot.finished(reason, "" if isinstance(token, int) else str(token))

    def _chosen(self, logits: Logits, order: list[Slot]) -> list[int | KnownError]:
        """Each answer's next token, or why it has none. Only a row with a form pays for one."""
        if not order:
            return []
        states = [slot.random.bit_generator.state if slot.form else None for slot in order]
        samplings = [slot.waiting.request.sampling for slot in order]
        free = choose(logits, samplings, [slot.random for slot in order])
        found: list[int | KnownError] = list(free)
        for index, (slot, state) in enumerate(zip(order, states, strict=True)):
            if slot.form is not None and state is not None:
                try:
                    found[index] = self._formed(slot, slot.form, logits[index], free[index], state)
                except KnownError as error:
                    found[index] = error
        return found

    def _formed(
        self, slot: Slot, form: AnswerForm, row: npt.NDArray[np.float32], token: int, state: Mapping[str, Any]
    ) -> int:
        """The token that a form allows: the freely chosen one, else one drawn with the same noise from what it allows.

        The winner of a race among all that is allowed too also wins among the allowed, so that the answer is drawn from
        the teacher's distribution under the form (unless top-k or top-p cut it before).
        """
        if not form.allows(token):
            slot.random.bit_generator.state = state
            (token,) = choose(form.filtered(row)[None, :], [slot.waiting.request.sampling], [slot.random])
        if not self.tokenizer.ends(token):
            form.take(token)
        return token

    def _note_log_probs(self, logits: Logits, order: list[Slot], found: Sequence[int | KnownError]) -> None:
        """Keep the log-probs of answers that ask for them: of the whole vocabulary, before temperature and form."""
        asking = [
            (index, slot, token)
            for index, (slot, token) in enumerate(zip(order, found, strict=True))
            if slot.waiting.request.sampling.log_probs > 0 and isinstance(token, int) and not self.tokenizer.ends(token)
        ]
        if not asking:
            return
        most = max(slot.waiting.request.sampling.log_probs for _, slot, _ in asking)
        rows, tokens = [index for index, _, _ in asking], np.array([token for _, _, token in asking])
        signal = signal_of(logits[rows], tokens, most)
        for number, (_, slot, token) in enumerate(asking):
            wanted = slot.waiting.request.sampling.log_probs
            pairs = zip(signal.ids[number, :wanted].tolist(), signal.log_probs[number, :wanted].tolist(), strict=True)
            others = tuple((self.tokenizer.shown(other), log_prob) for other, log_prob in pairs)
            item = TokenLogProb(self.tokenizer.shown(token), float(signal.label_log_prob[number]), others)
            slot.log_probs.append((slot.text.size, item))

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
