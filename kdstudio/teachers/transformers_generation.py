"""Answers many requests at once with a torch network: batches that shrink as answers end.

What the prompts of a batch begin with is read once, and kept as long as the next batch begins alike; a prompt that is
asked several times is read once too. The sampling is llama.cpp's teacher's own (`llama_logits.choose`), so that a seed
means the same draw of the same distribution here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from kdstudio.errors import KnownError
from kdstudio.models.conversation import Tokenizer, encode_prompt
from kdstudio.networks.reading import Reader, rows_at_once
from kdstudio.teachers.base import Completion, FinishReason, Request, TokenLogProb
from kdstudio.teachers.llama_logits import choose, signal_of
from kdstudio.teachers.llama_text import AnswerText

OnText = Callable[[str, str], None]
Rows = npt.NDArray[np.float32]


@dataclass
class Answering:
    """A request being answered. `limit`: how many tokens it may answer with."""

    request: Request
    prompt: list[int]
    limit: int
    text: AnswerText
    random: np.random.Generator
    answered: int = 0
    log_probs: list[TokenLogProb] = field(default_factory=list)

    def finished(self, reason: FinishReason) -> Completion:
        """What the caller gets."""
        key, text = self.request.key, self.text.text
        return Completion(key, text, reason, len(self.prompt), self.answered, log_probs=tuple(self.log_probs))


@dataclass
class TorchGeneration:
    """Runs over streams of requests. `free_bytes` says how much a batch's keys and values may take now."""

    network: PreTrainedModel
    tokenizer: Tokenizer
    context_tokens: int
    at_once: int
    device: torch.device
    free_bytes: Callable[[], int]
    reader: Reader | None = None
    prefix: list[int] = field(default_factory=list)

    def run(
        self, requests: Iterable[Request], stop: Callable[[], bool], on_text: OnText | None = None
    ) -> Iterator[Completion]:
        """Yield completions as they finish; refused requests at once, as errors."""
        source = iter(requests)
        while not stop() and (taken := list(islice(source, self.at_once))):
            group: list[Answering] = []
            for request in taken:
                try:
                    group.append(self._checked(request))
                except KnownError as error:
                    yield Completion(request.key, "", "error", error=str(error))
            while group and not stop():
                size = rows_at_once([self.network], max(_cells(item) for item in group), self.free_bytes())
                yield from self._answer(group[:size], stop, on_text)
                del group[:size]

    def _checked(self, request: Request) -> Answering:
        prompt = encode_prompt(self.tokenizer, request.messages)
        room = self.context_tokens - len(prompt)
        if room < 1 or not prompt:
            raise KnownError(
                "The prompt does not fit the teacher",
                f"It has {len(prompt):,} tokens; the teacher reads {self.context_tokens:,} with its answer.",
                "Shorten the prompt, or choose a teacher with a larger context.",
            )
        sampling = request.sampling
        limit, random = max(1, min(sampling.max_tokens, room)), np.random.default_rng(sampling.seed % (1 << 64))
        return Answering(request, prompt, limit, AnswerText(sampling.stop), random)

    def _answer(
        self, group: Sequence[Answering], stop: Callable[[], bool], on_text: OnText | None
    ) -> Iterator[Completion]:
        rows, logits = list(group), self._begin(group)
        while not stop():
            tokens = choose(logits, [row.request.sampling for row in rows], [row.random for row in rows])
            going: list[int] = []
            for place, (row, token) in enumerate(zip(rows, tokens, strict=True)):
                reason = self._take(row, token, logits[place])
                if on_text is not None and (shown := row.text.fresh(final=reason is not None)):
                    on_text(row.request.key, shown)
                if reason is None:
                    going.append(place)
                else:
                    yield row.finished(reason)
            if not going:
                return
            logits = self._next(going, len(rows), [tokens[place] for place in going])
            rows = [rows[place] for place in going]

    def _take(self, row: Answering, token: int, logits: Rows) -> FinishReason | None:
        row.answered += 1
        if token in self.tokenizer.end_ids:
            return "stop"
        if row.request.sampling.log_probs:
            row.log_probs.append(self._log_prob(token, logits, row.request.sampling.log_probs))
        if row.text.add(self.tokenizer.piece(token)):
            return "stop"
        return "length" if row.answered >= row.limit else None

    def _log_prob(self, token: int, logits: Rows, count: int) -> TokenLogProb:
        signal = signal_of(logits[None, :], np.array([token]), count)
        likeliest = zip(signal.ids[0].tolist(), signal.log_probs[0].tolist(), strict=True)
        alternatives = tuple((self._text(other), value) for other, value in likeliest)
        return TokenLogProb(self._text(token), float(signal.label_log_prob[0]), alternatives)

    def _text(self, token: int) -> str:
        return self.tokenizer.piece(token).decode("utf-8", "replace")

    @torch.no_grad()
    def _begin(self, group: Sequence[Answering]) -> Rows:
        """Read the prompts; the logits [B, V] of each row's first token."""
        prompts = [item.prompt for item in group]
        reader = self._reader(prompts)
        suffixes = [tuple(prompt[len(self.prefix) :]) for prompt in prompts]
        distinct = {suffix: place for place, suffix in enumerate(dict.fromkeys(suffixes))}
        owners = torch.tensor([distinct[suffix] for suffix in suffixes], device=self.device)
        return _numbers(reader.begin(list(distinct), owners))

    def _reader(self, prompts: Sequence[list[int]]) -> Reader:
        """The reader at hand if what it has read is most of what all prompts share, else a new one that has read that.

        The last token of each prompt stays its own.
        """
        shared = prompts[0][: min(len(prompt) for prompt in prompts) - 1]
        for prompt in prompts:
            shared = shared[: _alike(shared, prompt)]
        held = self.prefix == shared[: len(self.prefix)] and len(shared) <= 2 * len(self.prefix)
        if self.reader is None or not held:
            self.reader, self.prefix = Reader(self.network, shared, self.device), shared
        return self.reader

    @torch.no_grad()
    def _next(self, going: Sequence[int], before: int, tokens: Sequence[int]) -> Rows:
        """Go on with the rows at `going`, of `before`, whose last tokens were these; the logits of the next ones."""
        if self.reader is None:
            raise KnownError("The teacher was closed", "Its model was freed while it answered.", "Start again.")
        if len(going) < before:
            self.reader.keep(torch.tensor(going, device=self.device))
        return _numbers(self.reader.read(torch.tensor(tokens, device=self.device)))


def _cells(item: Answering) -> int:
    return len(item.prompt) + item.limit


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _numbers(logits: Tensor) -> Rows:
    numbers: Rows = logits.cpu().numpy()
    return numbers
