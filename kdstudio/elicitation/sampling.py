"""The sample step: which questions a row asks, of whom, and what its answers become."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudio.catalogue.columns import asks_for
from kdstudio.catalogue.steps import SampleStep
from kdstudio.elicitation.passage import Passage
from kdstudio.elicitation.seeds import request_seed
from kdstudio.elicitation.steps import choices_of, messages_of, require_question
from kdstudio.teachers.base import Completion, Request, Sampling


class Asking:
    """One sample step, bound."""

    def __init__(
        self,
        step: SampleStep,
        index: int,
        seed: int,
        values: Mapping[str, Any],
        teachers: Sequence[str],
        names: Mapping[str, str],
        *,
        faithful: bool = False,
    ) -> None:
        self._faithful = set(teachers) if faithful and step.speaker == "teacher" else set()
        self._step, self._index, self._seed, self._values = step, index, seed, values
        self._everyone = tuple(teachers) if step.teachers == "all" else ()
        self._name = "" if step.speaker == "teacher" else names.get(step.speaker, "")
        self._provenance = _provenance(step)

    def rows(self, passage: Passage) -> list[tuple[Passage, Request]]:
        """A row of its own for each answer that is asked for. Raises `FallenError`."""
        step = self._step
        messages = tuple(messages_of(asks_for(step, passage.columns), passage.columns))
        require_question(messages)
        grammar = step.grammar
        if step.choices or step.choices_from:
            grammar = grammar_of(choices_of(step, passage.columns, self._values))
        tags = passage.columns.get("tags")
        own_tags = tuple(str(tag) for tag in tags) if isinstance(tags, list) else ()
        found = []
        for sample in range(step.samples):
            for place, name in enumerate(self._everyone or ("",)):
                number = sample * max(1, len(self._everyone)) + place
                own = passage.split(self._index, number if not name else sample, f"@{name}" if name else "")
                own.order = (*passage.order, number)
                same = passage.teacher if passage.teacher in self._faithful else ""
                own.seed = request_seed(self._seed, own.key)
                own.sampling, own.teacher = self._provenance, name or same or self._name
                sampling = Sampling(
                    step.max_tokens,
                    step.temperature,
                    step.top_p,
                    step.top_k,
                    own.seed,
                    step.stop,
                    grammar,
                    step.json_schema,
                )
                speaker = f"teacher:{name or same}" if name or same else step.speaker
                found.append((own, Request(own.key, messages, sampling, speaker, own_tags)))
        return found


def answer_into(passage: Passage, step: SampleStep, completion: Completion) -> None:
    """Put an answer into its row."""
    passage.columns[step.into] = completion.text
    passage.finish_reason = completion.finish_reason
    passage.reasoning = completion.reasoning
    passage.prompt_tokens += completion.prompt_tokens
    passage.tokens += completion.tokens
    passage.teacher = completion.teacher or passage.teacher
    if step.teachers == "all":
        passage.columns["teacher"] = passage.teacher


def grammar_of(choices: Sequence[str]) -> str:
    """A GBNF grammar that allows these answers and no other."""
    return "root ::= " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)


def _provenance(step: SampleStep) -> dict[str, Any]:
    """How an answer was sampled, as its row keeps it; what was not used is left out."""
    sampling: dict[str, Any] = {"temperature": step.temperature, "top_p": step.top_p, "max_tokens": step.max_tokens}
    extras: dict[str, Any] = {"top_k": step.top_k, "stop": list(step.stop)}
    if step.speaker != "teacher":
        extras["speaker"] = step.speaker
    return sampling | {name: value for name, value in extras.items() if value}
