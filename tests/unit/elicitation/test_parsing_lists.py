"""Lists as models write them: four forms, nested, fenced, with remarks, cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.elicitation.parsing import UnparsableError, parse_list


def entries(answer: str, finished: bool = True) -> list[str]:
    found: list[str] = parse_list(answer, ("items",), finished)["items"]
    return found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("1. a\n2. b\n3. c", ["a", "b", "c"]),
        ("Here are three:\n\n1) a\n\n2) b\n\nLet me know if you need more!", ["a", "b"]),
        ("**1.** a\n**2.** b", ["a", "b"]),
        ("**1. Name**: text\n**2. Other**: more", ["Name**: text".replace("**", ""), "Other: more"]),
        ("1. **Name**: text\n2. **Other**: more", ["**Name**: text", "**Other**: more"]),
        ("### 1. a\ntext\n\n### 2. b\ntext", ["a\ntext", "b\ntext"]),
        ("(1) a\n(2) b", ["a", "b"]),
        ("[1] a\n[2] b", ["a", "b"]),
        ("#1: a\n#2: b", ["a", "b"]),
        ("Question 1: Who?\nQuestion 2: When?", ["Who?", "When?"]),
        ("Q1. Who?\nQ2. When?", ["Who?", "When?"]),
        ("- a\n- b", ["a", "b"]),
        ("• a\n• b", ["a", "b"]),
        ("* **a** is\n* b", ["**a** is", "b"]),
        ("1. a\n   - x\n   - y\n2. b", ["a\n   - x\n   - y", "b"]),
        ("1. a\n- x\n2. b", ["a\n- x", "b"]),
        ("- a\n  1. x\n- b", ["a\n  1. x", "b"]),
        ("1. Title\n\nText of one.\n\n2. Other\n\nText of two.", ["Title\n\nText of one.", "Other\n\nText of two."]),
        ("1. run\n```\n1. not an entry\n- nor this\n```\n2. b", ["run\n```\n1. not an entry\n- nor this\n```", "b"]),
        ("```\n1. a\n2. b\n```", ["a", "b"]),
        ('1. "quoted"\n2. “curly”\n3. "a" and "b"', ["quoted", "curly", '"a" and "b"']),
        ("1. It costs\n3.50 a piece\n2. b", ["It costs\n3.50 a piece", "b"]),
        ('["a", "b", 3]', ["a", "b", "3"]),
        ('Sure:\n```json\n["a",\n "b"]\n```\nEnjoy.', ["a", "b"]),
        ('{"items": ["a", "b"], "other": ["c"]}', ["a", "b"]),
        ('{"questions": ["a", {"b": 1}]}', ["a", '{"b": 1}']),
        ('```json\n{"questions": ["a"]}\n```', ["a"]),
        ('["a line\nbroken", "b"]', ["a line\nbroken", "b"]),
        ("One paragraph\nof two lines.\n\nAnother.", ["One paragraph\nof two lines.", "Another."]),
        ("Here they are:\n\nFirst.\n\n---\n\nSecond.", ["First.", "Second."]),
        ("Who?\nWhen?\nWhere?", ["Who?", "When?", "Where?"]),
        ("only this", ["only this"]),
        ("1. 一つ目\n2. 二つ目", ["一つ目", "二つ目"]),
    ],
)
def test_forms(answer: str, found: list[str]) -> None:
    assert entries(answer) == found


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("1. a\n2. b\n3. half an ent", ["a", "b"]),
        ("1. a\n2. b\n3.", ["a", "b"]),
        ("1. a\n2. b\n", ["a", "b"]),
        ("1. a\n2. b\n\nI hope that thes", ["a", "b"]),
        ('["a", "b", "hal', ["a", "b"]),
        ('["a", "b",', ["a", "b"]),
        ('["a", "b"', ["a", "b"]),
        ("[1, 23", ["1"]),
        ('```json\n[{"q": "a"}, {"q": "b', ['{"q": "a"}']),
        ("First.\n\nSecond.\n\nThi", ["First.", "Second."]),
    ],
)
def test_of_a_cut_list_what_is_whole_stays(answer: str, found: list[str]) -> None:
    assert entries(answer, finished=False) == found


@pytest.mark.parametrize(("answer", "finished"), [("", True), (" \n ", True), ("1. half", False), ("half", False)])
def test_no_list(answer: str, finished: bool) -> None:
    with pytest.raises(UnparsableError, match="holds no"):
        entries(answer, finished)


words = st.lists(st.text("abcé猫", min_size=1, max_size=6), min_size=1, max_size=5).map(" ".join)


@given(st.lists(words, min_size=1, max_size=8), st.sampled_from(["{n}. {e}", "- {e}", "**{n}.** {e}", "{n}) {e}"]))
def test_what_was_written_as_a_list_is_read_as_one(wanted: list[str], form: str) -> None:
    written = "\n".join(form.format(n=number, e=entry) for number, entry in enumerate(wanted, start=1))
    assert entries(written) == wanted
    assert entries(f"{written}\n{form.format(n=99, e='cut')}", finished=False) == wanted


@given(st.lists(words, min_size=1, max_size=8), st.integers(0, 200))
def test_any_beginning_of_a_json_array_gives_the_first_of_its_entries(wanted: list[str], end: int) -> None:
    written = json.dumps(wanted, ensure_ascii=False)[:end]
    try:
        found = entries(written, finished=False)
    except UnparsableError:
        return
    assert found == wanted[: len(found)]
