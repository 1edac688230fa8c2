"""A recipe made executable: rows advance from step to step until one asks the teacher, falls, or is written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kdstudio.catalogue.steps import EmitStep, SampleStep
from kdstudio.elicitation.steps import BINDERS, Executor, FallenError, Passage, emit_row
from kdstudio.project import Prompt
from kdstudio.recipe import ElicitationRecipe
from kdstudio.teachers.base import Completion, Request, Sampling


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
    """The row fell in a step and has nothing to write."""

    prompt_id: int
    step: str
    reason: str


Outcome = Ask | Written | Fallen


class Pipeline:
    """The steps of one recipe, bound to their parameters."""

    def __init__(
        self, recipe: ElicitationRecipe, *, recipe_hash: str, teacher: str, seed: int, values: Mapping[str, Any]
    ) -> None:
        """Compile the recipe. Raises `BadInput` naming the step whose template or pattern cannot be read."""
        self._recipe_hash, self._teacher, self._seed = recipe_hash, teacher, seed
        parameters = {name: table.default for name, table in recipe.parameters.items()} | dict(values)
        self._steps = recipe.step
        self._executors: dict[int, Executor] = {}
        for index, step in enumerate(recipe.step):
            if type(step) in BINDERS:
                where = f"{recipe.recipe.id}, step {index + 1} ({step.type})"
                self._executors[index] = BINDERS[type(step)](step, parameters, where)

    def begin(self, prompt: Prompt) -> Iterator[Outcome]:
        """Send a prompt through the steps up to its first questions."""
        columns: dict[str, Any] = {
            "messages": list(prompt.messages),
            "prompt": prompt.text,
            "reference": prompt.reference,
            "tags": list(prompt.tags),
        }
        yield from self._advance(Passage(prompt.id, str(prompt.id), columns), 0)

    def answered(self, ask: Ask, completion: Completion) -> Iterator[Outcome]:
        """Go on with a row whose question was answered."""
        if completion.finish_reason == "error":
            yield Fallen(ask.passage.prompt_id, "sample", completion.error or "the teacher failed")
            return
        step = self._steps[ask.index]
        passage = ask.passage
        passage.columns[step.into if isinstance(step, SampleStep) else "answer"] = completion.text
        passage.finish_reason = completion.finish_reason
        passage.prompt_tokens += completion.prompt_tokens
        passage.tokens += completion.tokens
        yield from self._advance(passage, ask.index + 1)

    def _advance(self, passage: Passage, start: int) -> Iterator[Outcome]:
        for index in range(start, len(self._steps)):
            step = self._steps[index]
            if isinstance(step, SampleStep):
                yield from self._asks(step, passage, index)
                return
            if isinstance(step, EmitStep):
                yield Written(emit_row(step, passage, teacher=self._teacher, recipe_hash=self._recipe_hash))
                continue
            try:
                self._executors[index](passage)
            except FallenError as error:
                yield Fallen(passage.prompt_id, step.type, str(error))
                return

    def _asks(self, step: SampleStep, passage: Passage, index: int) -> Iterator[Ask]:
        messages = passage.columns.get(step.request) or passage.columns["messages"]
        for sample in range(step.samples):
            key = f"{passage.key}:{index}:{sample}"
            seed = request_seed(self._seed, key)
            sampling = Sampling(step.max_tokens, step.temperature, step.top_p, step.top_k, seed, tuple(step.stop))
            own = replace(passage, key=key, columns=dict(passage.columns), seed=seed)
            own.sampling = {"temperature": step.temperature, "top_p": step.top_p, "max_tokens": step.max_tokens}
            yield Ask(own, index, Request(key, tuple(messages), sampling))


def request_seed(run_seed: int, key: str) -> int:
    """A request's own seed, 31 bits, from the run's seed and the stream "sampling": independent of order and batch."""
    digest = hashlib.blake2b(f"{run_seed}/sampling/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF
