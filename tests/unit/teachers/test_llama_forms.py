"""Answers bound to a form keep it, and no grammar, however hostile, ends the teacher's process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.teachers import llama_form
from kdstudio.teachers.base import Sampling
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.llama_form import AnswerForm
from tests.tiny import tiny_model
from tests.unit.teachers.test_llama import PROMPTS, answers, ask, teacher_of

SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["good", "bad"]},
        "score": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["verdict", "score", "tags"],
}
WORDS = 'root ::= ("the " | "fox " | "river ")+ "."'


@pytest.fixture(scope="module")
def teacher() -> Iterator[LlamaTeacher]:
    opened = teacher_of(tiny_model(layers=2), precise=True, requests_at_once=8)
    yield opened
    opened.close()


def test_says_so(teacher: LlamaTeacher) -> None:
    assert teacher.capabilities.grammar
    assert teacher.capabilities.json_schema


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "top_p": 0.9, "top_k": 20}])
def test_a_schema_is_kept(teacher: LlamaTeacher, sampling: dict[str, Any]) -> None:
    schema = json.dumps(SCHEMA)
    requests = [ask(text, text, seed=1, max_tokens=160, json_schema=schema, **sampling) for text in PROMPTS]
    found = answers(teacher, requests)
    whole = [json.loads(item.text) for item in found.values() if item.finish_reason == "stop"]
    assert len(whole) >= 8
    for item in whole:
        assert item["verdict"] in ("good", "bad")
        assert isinstance(item["score"], int)
        assert len(item["tags"]) <= 2


def test_a_grammar_is_kept_beside_answers_without_one(teacher: LlamaTeacher) -> None:
    plain = [ask(f"plain {text}", text, temperature=1.0, seed=3) for text in PROMPTS]
    bound = [ask(f"bound {text}", text, temperature=1.0, seed=3, max_tokens=60, grammar=WORDS) for text in PROMPTS]
    alone, mixed = answers(teacher, plain), answers(teacher, [*plain, *bound])
    assert {key: item.text for key, item in alone.items()} == {
        key: item.text for key, item in mixed.items() if key.startswith("plain")
    }
    said = [item for key, item in mixed.items() if key.startswith("bound")]
    assert all(re.fullmatch(r"((the|fox|river) )*(the|fox|river)? ?\.?|[a-z ]*", item.text) for item in said)
    assert all(re.fullmatch(r"((the|fox|river) )+\.", item.text) for item in said if item.finish_reason == "stop")
    assert len({item.text for item in said}) > 1


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "stop": ("er",)}])
def test_with_a_form_too_the_answer_does_not_depend_on_the_batch(sampling: dict[str, Any]) -> None:
    requests = [ask(f"{n}", text, seed=n, max_tokens=30, grammar=WORDS, **sampling) for n, text in enumerate(PROMPTS)]
    found = []
    for at_once in (1, 7, 32):
        opened = teacher_of(tiny_model(layers=2), precise=True, requests_at_once=at_once)
        found.append({key: item.text for key, item in answers(opened, requests).items()})
        opened.close()
    assert found[0] == found[1] == found[2]


def test_a_form_is_drawn_from_what_the_teacher_thinks_of_the_allowed(teacher: LlamaTeacher) -> None:
    prompt = teacher.tokenizer.encode("<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n", special=True)
    first = [teacher.tokenizer.encode(letter, special=False)[0] for letter in "abc"]
    ((_, signal),) = teacher.score([(prompt, [0])], 500)
    log_probs = dict(zip(signal.ids[0].tolist(), signal.log_probs[0].tolist(), strict=True))
    weights = np.exp([log_probs[token] for token in first])
    grammar = 'root ::= "a" | "b" | "c"'
    requests = [ask(f"{n}", "hello", temperature=1.0, seed=n, max_tokens=1, grammar=grammar) for n in range(600)]
    said = [item.text for item in answers(teacher, requests).values()]
    shares = np.array([said.count(letter) for letter in "abc"]) / len(said)
    assert np.allclose(shares, weights / weights.sum(), atol=0.07)


HOSTILE = {
    "blank": "\n\n",
    "no root": 'x ::= "a"',
    "unknown rule": "root ::= foo",
    "left-recursive": 'root ::= root "a" | "b"',
    "left-recursive behind an empty rule": 'root ::= e root "a" | "b"\ne ::= "x"?',
    "itself": "root ::= root",
    "deep": "root ::= " + "(" * 60_000 + '"a"' + ")" * 60_000,
    "a long chain": "root ::= r0\n" + "\n".join(f"r{n} ::= r{n + 1}" for n in range(90_000)) + '\nr90000 ::= "a"',
    "repeated too often": 'root ::= "a"{100000}',
    "not closed": 'root ::= "abc',
    "a null character": 'root ::= "a\0b"',
    "unknown token": "root ::= <[99999999]>",
    "too long": "root ::= " + '"a" ' * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_grammar_is_a_failed_request(teacher: LlamaTeacher, name: str) -> None:
    found = answers(teacher, [ask("bad", "hello", grammar=HOSTILE[name]), ask("good", "hello")])
    assert found["bad"].finish_reason == "error"
    assert "form" in found["bad"].error
    assert found["good"].text


@pytest.mark.slow
@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" root "b" | "a" root "c" | "d"',
        "root ::= " + " | ".join(f'"x{n}"' for n in range(20_000)),
        'root ::= "a"{5,2}',
        "root ::= r0\n" + "\n".join(f"r{n} ::= r{n + 1} | r{n + 1}" for n in range(40)) + '\nr40 ::= "a"',
    ],
)
def test_a_grammar_that_takes_for_ever_is_refused_or_kept(teacher: LlamaTeacher, grammar: str) -> None:
    found = answers(teacher, [ask("odd", "hello", grammar=grammar), ask("good", "hello")])
    assert found["good"].text
    assert found["odd"].finish_reason in ("error", "stop", "length")


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "[]",
        "7",
        "true",
        '{"type": "unicorn"}',
        '{"$ref": "#/nowhere"}',
        '{"$ref": "https://example.com/schema.json"}',
        '{"type": "string", "pattern": "no anchors"}',
        '{"type": "string", "pattern": "^(?=a)$"}',
        '{"type": "array", "items": ' * 400 + "{}" + "}" * 400,
        '{"type": "string", "minLength": 999999999, "maxLength": 9999999999}',
    ],
)
def test_a_bad_schema_is_a_failed_request(teacher: LlamaTeacher, schema: str) -> None:
    found = answers(teacher, [ask("bad", "hello", json_schema=schema), ask("good", "hello")])
    assert found["bad"].finish_reason == "error"
    assert "form" in found["bad"].error
    assert found["good"].text


def test_two_forms_are_refused(teacher: LlamaTeacher) -> None:
    found = answers(teacher, [ask("both", "hello", grammar=WORDS, json_schema="{}")])
    assert "two forms" in found["both"].error


def test_a_form_is_tried_once(teacher: LlamaTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    forms = teacher._forms
    grammar = forms.gbnf(Sampling(grammar=WORDS))
    assert grammar == WORDS
    monkeypatch.setattr(forms, "_tried", lambda _: pytest.fail("tried again"))
    assert forms.gbnf(Sampling(grammar=WORDS)) == WORDS
    assert forms.gbnf(Sampling()) == ""


def test_a_form_follows_what_was_taken_and_says_where_it_leads_nowhere(teacher: LlamaTeacher) -> None:
    form = AnswerForm(teacher.tokenizer.vocabulary, 'root ::= "a"')
    a, b = (teacher.tokenizer.encode(letter, special=False)[0] for letter in "ab")
    assert form.allows(a)
    assert not form.allows(b)
    assert np.isneginf(form.filtered(np.zeros(414, np.float32))[b])
    form.take(a)
    assert form.allowed(414).tolist() == [teacher.tokenizer.ends(token) for token in range(414)]
    form.close()
    form.close()
    with pytest.raises(BadInput, match="not a grammar"):
        AnswerForm(teacher.tokenizer.vocabulary, "root :")
    with pytest.raises(KnownError, match="leads nowhere"):
        AnswerForm(teacher.tokenizer.vocabulary, "root ::= <[99999999]>").filtered(np.zeros(414, np.float32))


def test_a_form_that_slows_down_is_given_up(teacher: LlamaTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_form, "_STEP_SECONDS", -1.0)
    found = answers(teacher, [ask("slow", "hello", grammar=WORDS), ask("good", "hello")])
    assert "too ambiguous" in found["slow"].error
    assert found["good"].text
    with pytest.raises(KnownError, match="too ambiguous"):
        AnswerForm(teacher.tokenizer.vocabulary, WORDS).allows(5)


def test_an_abandoned_run_frees_its_forms(teacher: LlamaTeacher) -> None:
    requests = [ask(f"{n}", text, max_tokens=40, grammar=WORDS) for n, text in enumerate(PROMPTS)]
    running = teacher.generate([*requests, ask("quick", "hello", max_tokens=1)])
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert len(answers(teacher, requests)) == len(PROMPTS)
