"""What teacher and student answer to the same prompts, side by side, and how alike it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from kdstudio.evaluation.scores import exact_match
from kdstudio.quality.answer_check import same_answer
from kdstudio.quality.final_answer import final_answer
from kdstudio.quality.rouge import rouge_l
from kdstudio.teachers.base import Message, Request, Sampling, Teacher

Prompt = tuple[str, Sequence[Message]]
"""(what is shown, messages)."""


@dataclass(frozen=True)
class SideBySide:
    """Two greedy answers to one prompt. `exact_match` and `rouge_l` compare the student's with the teacher's."""

    prompt: str
    teacher: str
    student: str
    exact_match: bool
    rouge_l: float


def answers_of(
    model: Teacher, prompts: Sequence[Prompt], maximum_tokens: int, stop: Callable[[], bool]
) -> dict[int, str]:
    """Greedy answers by index of the prompt. One that failed is missing; after a stop, so are those not begun."""
    sampling = Sampling(max_tokens=maximum_tokens)
    requests = [Request(str(number), tuple(messages), sampling) for number, (_, messages) in enumerate(prompts)]
    return {
        int(completion.key): completion.text
        for completion in model.generate(requests, stop=stop)
        if completion.finish_reason != "error"
    }


def side_by_side(
    prompts: Sequence[Prompt], teacher_answers: dict[int, str], student_answers: dict[int, str]
) -> list[SideBySide]:
    """Join the answers of both, for every prompt that both answered, in order."""
    return [
        SideBySide(
            shown,
            teacher_answers[number],
            student_answers[number],
            exact_match(student_answers[number], teacher_answers[number]),
            rouge_l(student_answers[number], teacher_answers[number]),
        )
        for number, (shown, _) in enumerate(prompts)
        if number in teacher_answers and number in student_answers
    ]


def share_right(references: Sequence[str], answers: Mapping[int, str]) -> float:
    """Share of the references that the answers, by index, agree with; one that is missing is wrong.

    Only what follows a model's reasoning between <think> tags is its answer, nothing if they are not closed. Where the
    reference is a number and the answer does not say which of its numbers is meant, the last one is.
    """
    right = [same_answer(_meant(answers.get(place, ""), text), text) for place, text in enumerate(references)]
    return sum(right) / len(right) if right else 0.0


_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def _meant(text: str, reference: str) -> str:
    before, _, said = text.rpartition("</think>")
    said = "" if not before and "<think>" in said else said.strip()
    numbers = _NUMBER.findall(said)
    unmarked = final_answer(said) == said
    return numbers[-1] if numbers and unmarked and _NUMBER.fullmatch(reference.strip()) else said
