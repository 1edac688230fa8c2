"""A recipe made executable: rows advance from step to step until one asks the teacher, falls, or is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kdstudio.catalogue.steps import EmitStep, SampleStep
from kdstudio.elicitation.flow import asks_for, check_flow, place_of
from kdstudio.elicitation.steps import BINDERS, Executor, FallenError, Passage, emit_row, require_question
from kdstudio.errors import in_one_line
from kdstudio.project import Prompt
from kdstudio.recipe import ElicitationRecipe
from kdstudio.teachers.base import Completion, Request, Sampling

MAXIMUM_REASON = 500  # characters


@dataclass(frozen=True)
class Ask:
    """The row waits for an answer to `request`; it goes on after the step at `index`."""

    passage: Passage
    index: int
    request: Request


@dataclass(frozen=True)
class Written:
    """The row reached the end; `row` is what the journal carries."""

    row: dict[str, Any]


@dataclass(frozen=True)
class Fallen:
    """The row fell in a step and has nothing to write; `unasked` questions that it might have led to are not asked."""

    prompt_id: int
    step: str
    reason: str
    unasked: int = 0


Outcome = Ask | Written | Fallen


class Pipeline:
    """The steps of one recipe, bound to its parameters' values."""

    def __init__(self, recipe: ElicitationRecipe, *, recipe_hash: str, teacher: str, seed: int) -> None:
        """Compile the recipe. Raises `BadInput` naming the step whose template, pattern or column is wrong."""
        check_flow(recipe)
        self._recipe_hash, self._teacher, self._seed = recipe_hash, teacher, seed
        self._steps = recipe.step
        values = {name: table.default for name, table in recipe.parameters.items()}
        self._executors: dict[int, Executor] = {
            index: BINDERS[type(step)](step, values, place_of(recipe, index))
            for index, step in enumerate(recipe.step)
            if type(step) in BINDERS
        }

    def questions_from(self, start: int) -> int:
        """How many questions a row that enters the step at `start` leads to when nothing falls."""
        count = 0
        for step in reversed(self._steps[start:]):
            if isinstance(step, SampleStep):
                count = step.samples * (1 + count)
        return count

    def begin(self, prompt: Prompt) -> Iterator[Outcome]:
        """Send a prompt through the steps up to its first questions."""
        columns: dict[str, Any] = {
            "messages": [dict(message) for message in prompt.messages],
            "prompt": prompt.text,
            "reference": prompt.reference,
            "tags": list(prompt.tags),
        }
        try:
            require_question(columns["messages"])
        except FallenError as error:
            yield self._fallen(prompt.id, "prompt", str(error), 0)
            return
        yield from self._advance(Passage(prompt.id, str(prompt.id), columns), 0)

    def answered(self, ask: Ask, completion: Completion) -> Iterator[Outcome]:
        """Go on with a row whose question was answered."""
        passage, step = ask.passage, self._steps[ask.index]
        if completion.finish_reason == "error":
            reason = in_one_line(completion.error) or "the teacher failed"
            yield self._fallen(passage.prompt_id, step.type, reason, ask.index + 1)
            return
        if isinstance(step, SampleStep):
            passage.columns[step.into] = completion.text
        passage.finish_reason = completion.finish_reason
        passage.reasoning = completion.reasoning
        passage.prompt_tokens += completion.prompt_tokens
        passage.tokens += completion.tokens
        yield from self._advance(passage, ask.index + 1)

    def _advance(self, passage: Passage, start: int) -> Iterator[Outcome]:
        for index in range(start, len(self._steps)):
            step = self._steps[index]
            try:
                if isinstance(step, SampleStep):
                    yield from self._asks(step, passage, index)
                    return
                if isinstance(step, EmitStep):
                    yield self._written(step, passage, index)
                else:
                    self._executors[index](passage)
            except FallenError as error:
                yield self._fallen(passage.prompt_id, step.type, str(error), index)
                return

    def _asks(self, step: SampleStep, passage: Passage, index: int) -> Iterator[Ask]:
        if passage.rejected:  # a filter before the question: asking would cost, and the answer would be thrown away
            raise FallenError(f"rejected before it was asked: {passage.rejected}")
        messages = passage.columns[asks_for(step, passage.columns)]
        require_question(messages)
        for sample in range(step.samples):
            key = f"{passage.key}:{index}:{sample}"
            seed = request_seed(self._seed, key)
            sampling = Sampling(step.max_tokens, step.temperature, step.top_p, step.top_k, seed, tuple(step.stop))
            own = replace(passage, key=key, columns=dict(passage.columns), seed=seed, sampling=_provenance(step))
            yield Ask(own, index, Request(key, tuple(messages), sampling))

    def _written(self, step: EmitStep, passage: Passage, index: int) -> Written:
        row = emit_row(step, passage, teacher=self._teacher, recipe_hash=self._recipe_hash)
        if index + 1 < len(self._steps):  # one passage may write several rows; each has its own key
            row["key"] = f"{passage.key}:{index}"
        return Written(row)

    def _fallen(self, prompt_id: int, step: str, reason: str, start: int) -> Fallen:
        return Fallen(prompt_id, step, reason[:MAXIMUM_REASON], self.questions_from(start))


def _provenance(step: SampleStep) -> dict[str, Any]:
    """How an answer was sampled, as its row keeps it; what was not used is left out."""
    sampling: dict[str, Any] = {"temperature": step.temperature, "top_p": step.top_p, "max_tokens": step.max_tokens}
    extras: dict[str, Any] = {"top_k": step.top_k, "stop": list(step.stop)}
    return sampling | {name: value for name, value in extras.items() if value}


def request_seed(run_seed: int, key: str) -> int:
    """A request's own seed, 31 bits, from the run's seed and the stream "sampling": independent of order and batch."""
    digest = hashlib.blake2b(f"{run_seed}/sampling/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF
