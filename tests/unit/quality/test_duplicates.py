"""Exact and near duplicates, the near ones against Jaccard by hand and against comparing with all."""

from __future__ import annotations

import random
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdstudio.errors import BadInput
from kdstudio.quality.duplicates import Duplicates, Method, similarity


def test_exact_is_the_same_text_but_for_form_case_and_spaces() -> None:
    known = Duplicates("exact")
    known.add("1", "Caf\u00e9  au lait\n")
    known.add("2", "caf\u00e9 au lait")
    assert known.find("cafe\u0301 AU lait") == "1"
    assert known.find("caf\u00e9 au lait!") == ""


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("a b c d", "a b c d", 1.0),
        ("a b c d", "a b c e", 1 / 3),  # abc bcd, abc bce
        ("a b c d e", "b c d e", 2 / 3),  # abc bcd cde, bcd cde
        ("a b", "a b", 1.0),
        ("a b", "b a", 0.0),
        ("?!", "?!", 1.0),
        ("?!", "!?", 0.0),
        ("", "", 1.0),
        ("猫が好き", "猫が好きだ", 2 / 3),
    ],
)
def test_jaccard_by_hand(first: str, second: str, value: float) -> None:
    assert similarity(first, second) == pytest.approx(value, abs=1e-12)


def test_jaccard_of_characters_by_hand() -> None:
    assert similarity("abcdef", "abcdeg", "characters") == pytest.approx(1 / 3)  # abcde bcdef, abcde bcdeg


def test_near_finds_the_most_alike() -> None:
    known = Duplicates("near", 0.5)
    known.add("far", "one two three four five six seven zero zero zero")
    known.add("near", "one two three four five six seven eight nine zero")
    known.add("near", "never stored under this key")
    assert known.find("One two three four five six seven eight nine ten") == "near"
    assert known.find("never stored under this key") == ""
    assert known.find("") == ""


def variant(words: list[str], changes: int, draw: random.Random) -> str:
    changed = list(words)
    for place in draw.sample(range(len(words)), changes):
        changed[place] = f"new{draw.random()}"
    return " ".join(changed)


def test_what_is_found_is_alike_and_what_is_alike_is_found() -> None:
    draw, known, hits, due = random.Random(3), Duplicates("near", 0.7), 0, 0
    originals = [[f"w{draw.randint(0, 5000)}" for _ in range(60)] for _ in range(150)]
    for number, words in enumerate(originals):
        known.add(str(number), " ".join(words))
    for number, words in enumerate(originals):
        text = variant(words, number % 5, draw)
        alike = similarity(text, " ".join(words))
        found = known.find(text)
        assert found in ("", str(number))
        assert not found or alike >= 0.7
        due += alike >= 0.75
        hits += bool(found) and alike >= 0.75
    assert due > 60
    assert hits == due


@given(
    st.lists(st.text("ab ", max_size=12), max_size=6), st.text("ab ", max_size=12), st.sampled_from(["exact", "near"])
)
@settings(max_examples=30, deadline=None)
def test_a_text_that_is_there_is_always_found(others: list[str], text: str, method: Method) -> None:
    known = Duplicates(method, 0.9)
    for number, other in enumerate(others):
        known.add(str(number), other)
    known.add("mine", text)
    assert known.find(text) != ""


def test_strange_texts_and_wrong_settings() -> None:
    known = Duplicates("near", 0.8, "characters")
    known.add("long", "x y " * 25_000)
    known.add("lone", "\ud800\0")
    assert known.find("x y " * 25_000) == "long"
    assert known.find("\ud800\0") == "lone"
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(BadInput):
            Duplicates("near", threshold)
    with pytest.raises(BadInput, match="way to compare"):
        Duplicates(cast("Method", "fuzzy"))
