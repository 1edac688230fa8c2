"""Log-probs of generated tokens equal the signals of the same text."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from kdstudio.teachers.llama import LlamaTeacher
from tests.tiny import tiny_model
from tests.unit.teachers.test_llama import PROMPTS, answers, ask, teacher_of


@pytest.fixture(scope="module")
def teacher() -> Iterator[LlamaTeacher]:
    opened = teacher_of(tiny_model(layers=2), precise=True)
    yield opened
    opened.close()


def test_they_are_those_of_scoring_the_answer(teacher: LlamaTeacher) -> None:
    assert teacher.capabilities.answer_log_probs
    requests = [ask(text, text, temperature=0.7, seed=4, log_probs=5) for text in PROMPTS]
    found = answers(teacher, requests)
    for text, completion in found.items():
        assert "".join(item.text for item in completion.log_probs) == completion.text
        ended = completion.finish_reason == "stop"
        assert len(completion.log_probs) == completion.tokens - ended
        prompt = teacher.tokenizer.encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n", special=True)
        ids = [_id(teacher, item.text) for item in completion.log_probs]
        if not ids:
            continue  # it ended at once
        ((_, signal),) = teacher.score([(prompt, ids)], 5)
        assert np.allclose([item.log_prob for item in completion.log_probs], signal.label_log_prob, atol=2e-4)
        for place, item in enumerate(completion.log_probs):
            assert np.allclose([log_prob for _, log_prob in item.alternatives], signal.log_probs[place], atol=2e-4)
            assert item.alternatives[0][0] == teacher.tokenizer.shown(int(signal.ids[place, 0]))


def _id(teacher: LlamaTeacher, text: str) -> int:
    (found,) = {n for n in range(414) if teacher.tokenizer.piece(n).decode("utf-8", "replace") == text}
    return found


def test_only_those_who_ask_get_them_and_as_many_as_they_ask_for(teacher: LlamaTeacher) -> None:
    found = answers(
        teacher, [ask("none", "hello"), ask("two", "hello", log_probs=2), ask("all", "hello", log_probs=999)]
    )
    assert found["none"].log_probs == ()
    assert found["none"].text == found["two"].text == found["all"].text
    assert {len(item.alternatives) for item in found["two"].log_probs} == {2}
    assert {len(item.alternatives) for item in found["all"].log_probs} == {414}
    two, every = ([item.log_prob for item in found[key].log_probs] for key in ("two", "all"))
    assert np.allclose(two, every, atol=1e-4)
    mass = sum(np.exp(log_prob) for _, log_prob in found["all"].log_probs[0].alternatives)
    assert mass == pytest.approx(1, abs=1e-4)


def test_the_end_of_a_turn_is_written_out_among_the_alternatives(teacher: LlamaTeacher) -> None:
    (item, *_) = answers(teacher, [ask("all", "hello", log_probs=999)])["all"].log_probs
    assert "<|im_end|>" in [text for text, _ in item.alternatives]


def test_what_a_stop_string_takes_away_has_none(teacher: LlamaTeacher) -> None:
    whole = answers(teacher, [ask("a", "two robots", max_tokens=40)])["a"].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    found = answers(teacher, [ask("a", "two robots", max_tokens=40, stop=(stop,), log_probs=1)])["a"]
    said = "".join(item.text for item in found.log_probs)
    assert said.startswith(found.text)
    assert len(said) - len(found.log_probs[-1].text) < len(found.text)


def test_with_a_form_they_are_the_teachers_own(teacher: LlamaTeacher) -> None:
    grammar = 'root ::= "zq" [a-z]+'
    bound = answers(teacher, [ask("a", "hello", grammar=grammar, max_tokens=4, log_probs=3)])["a"]
    free = answers(teacher, [ask("a", "hello", max_tokens=4, log_probs=3)])["a"]
    assert bound.log_probs[0].text == "z"
    assert bound.log_probs[0].alternatives == free.log_probs[0].alternatives
    assert bound.log_probs[0].log_prob < free.log_probs[0].log_prob
