"""Numbers, code, choices and rankings in what models write."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.elicitation.parsing import UnparsableError, parse_choice, parse_code, parse_number, parse_permutation


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("3 + 4 = 7, so she has 7 apples.", "7"),
        (r"So \boxed{42}, not 43.", "42"),
        (r"\boxed{\frac{3}{4}} of 100", "3/4"),
        (r"\boxed{-\frac12}", "-1/2"),
        ("The answer is 1,234,567.", "1234567"),
        ("The answer is 42. See section 3.", "42"),
        ("work 1 2 3\n#### 1,000", "1000"),
        ("about 50 %", "50%"),
        (r"\boxed{12.5\%}", "12.5%"),
        ("It costs $3.50.", "3.50"),
        ("between 5-10", "10"),
        ("It was -5 degrees", "-5"),
        ("It was −5 degrees", "-5"),
        ("2 1/2 cups", "5/2"),
        ("2½ cups", "5/2"),
        ("3/4 of it", "3/4"),
        ("1.5e-3 m", "1.5e-3"),
        (r"1.5 \times 10^{8}", "1.5e8"),
        ("10 000 and 20\u202f000", "20000"),
        ("1, 2, 3", "3"),
        ("GPT-4", "4"),
        ("12,00,000 rupees", "1200000"),
        (r"1{,}000", "1000"),
        ("\uff14\uff12", "42"),
        (".5", ".5"),
    ],
)
def test_numbers(answer: str, number: str) -> None:
    assert parse_number(answer, ("n",)) == {"n": number}


@pytest.mark.parametrize("answer", ["", "none at all", "H2O", r"\boxed{x}", "1" * 1000])
def test_no_number(answer: str) -> None:
    with pytest.raises(UnparsableError, match="no number"):
        parse_number(answer, ("n",))


def test_a_number_at_the_end_of_a_cut_answer_may_be_half() -> None:
    assert parse_number("first 12, then 34", ("n",), finished=False) == {"n": "12"}
    assert parse_number("first 12, then 34 apples", ("n",), finished=False) == {"n": "34"}


@given(st.integers(-(10**12), 10**12))
def test_every_whole_number_is_found_with_and_without_separators(number: int) -> None:
    assert parse_number(f"That makes {number:,} in all.", ("n",)) == {"n": str(number)}
    assert parse_number(f"That makes {number} in all.", ("n",)) == {"n": str(number)}


@pytest.mark.parametrize(
    ("answer", "names", "code"),
    [
        ("First:\n```python\nx = 1\n```\nbetter:\n```python\nx = 2\n```\nDone.", ("c",), "x = 2"),
        ("```python\nx = 1\n```\nrun it:\n```bash\npython x.py\n```", ("c", "python"), "x = 1"),
        ("```py\nx = 1\n```\noutput:\n```\n1\n```", ("c", "python"), "x = 1"),
        ("```\nx = 1\n```\n```json\n{}\n```", ("c", "python"), "x = 1"),
        ("```rust\nfn f() {}\n```", ("c", "python"), "fn f() {}"),
        ("~~~\nx = 1\n~~~", ("c",), "x = 1"),
        ("````\n```\ninner\n```\n````", ("c",), "```\ninner\n```"),
        ("1. do\n   ```python\n   if x:\n       y\n   ```", ("c",), "if x:\n    y"),
        ("def f():\n    return 1", ("c",), "def f():\n    return 1"),
        ("print('hi')", ("c",), "print('hi')"),
        ("```python\nx = 1", ("c",), "x = 1"),
        ('```python\ns = """\n```"""\n```', ("c",), 's = """\n```"""'),
    ],
)
def test_code(answer: str, names: tuple[str, ...], code: str) -> None:
    assert parse_code(answer, names) == {"c": code}


@pytest.mark.parametrize(
    "answer", ["", "Sorry", "I cannot do that.", "```\n\n```", "x" * 30_000, "-" * 19_999 + "1", "(" * 15_000, "a\0b"]
)
def test_no_code(answer: str) -> None:
    with pytest.raises(UnparsableError, match="no code"):
        parse_code(answer, ("c",))


def test_code_that_was_cut_is_none() -> None:
    with pytest.raises(UnparsableError, match="cut off"):
        parse_code("```python\nx = 1\n```\nfinal:\n```python\nx = ", ("c",), finished=False)
    assert parse_code("```python\nx = 1\n```\nand the", ("c",), finished=False) == {"c": "x = 1"}


@pytest.mark.parametrize(
    ("answer", "choices", "choice"),
    [
        ("B", ("A", "B", "C"), "B"),
        ("**(B)**", ("A", "B", "C"), "B"),
        ("B) because it is", ("A", "B", "C"), "B"),
        ("A good question. The answer is (C).", ("A", "B", "C"), "C"),
        ("The answer is C because A is wrong.", ("A", "B", "C"), "C"),
        (r"Thinking of (A) and (B)... \boxed{A}", ("A", "B"), "A"),
        ("A is tempting.\n\nB", ("A", "B"), "B"),
        ("Not relevant.", ("relevant", "not relevant"), "not relevant"),
        ("I would say that it is not relevant here.", ("relevant", "not relevant"), "not relevant"),
        ("Verdict: [[A>B]]", ("[[A>B]]", "[[B>A]]", "[[A=B]]"), "[[A>B]]"),
        ("positive", ("Positive", "Negative"), "Positive"),
        ("正しい", ("正しい", "間違い"), "正しい"),
        ("+", ("+", "-"), "+"),
    ],
)
def test_choices(answer: str, choices: tuple[str, ...], choice: str) -> None:
    assert parse_choice(answer, choices) == {"choice": choice}


@pytest.mark.parametrize(
    ("answer", "choices", "reason"),
    [
        ("yes and no", ("yes", "no"), "several of yes, no"),
        ("A good answer to a bad question", ("A", "B"), "none of A, B"),
        ("", ("A",), "empty"),
        ("A", (), "nothing to choose"),
        ("northern", ("north", "south"), "none"),
    ],
)
def test_what_chooses_nothing_says_so(answer: str, choices: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UnparsableError, match=reason):
        parse_choice(answer, choices)


@pytest.mark.parametrize(
    ("answer", "order"),
    [
        ("[3] > [1] > [2] > [4]", [3, 1, 2, 4]),
        ("3 > 1 > 2 > 4", [3, 1, 2, 4]),
        ("[3]>[1]", [3, 1, 2, 4]),
        ("[3] > [3] > [9] > [0] > [1]", [3, 1, 2, 4]),
        ("At first [1] > [2], but on reflection:\n[4] > [2] > [1] > [3]", [4, 2, 1, 3]),
        ("[2, 4, 1, 3]", [2, 4, 1, 3]),
        ('{"ranking": [2, 4, 1, 3]}', [2, 4, 1, 3]),
        ("1. [2]\n2. [4]\n3. [1]", [2, 4, 1, 3]),
        ("1. Passage 2\n2. Passage 4", [2, 4, 1, 3]),
        ("2, 4", [2, 4, 1, 3]),
        ("2", [2, 1, 3, 4]),
    ],
)
def test_rankings(answer: str, order: list[int]) -> None:
    assert parse_permutation(answer, ("r", "a", "b", "c", "d")) == {"r": order}
    assert parse_permutation(answer, ("r", "4")) == {"r": order}


def test_a_ranking_without_a_count_is_what_was_named() -> None:
    assert parse_permutation("[12] > [3] > [12]", ("r",)) == {"r": [12, 3]}
    assert parse_permutation("[2] > [1", ("r", "12"), finished=False)["r"][:2] == [2, 1]
    with pytest.raises(UnparsableError, match="ranks nothing"):
        parse_permutation("they are all good", ("r", "3"))
    with pytest.raises(UnparsableError, match="ranks nothing"):
        parse_permutation("[7] > [8]", ("r", "3"))


@given(st.integers(1, 30), st.integers(0, 2**32), st.sampled_from(["[{}]", "{}"]), st.sampled_from([" > ", ">", ", "]))
def test_every_ranking_is_read_back(count: int, seed: int, one: str, between: str) -> None:
    order = random.Random(seed).sample(range(1, count + 1), count)
    assert parse_permutation(between.join(map(one.format, order)), ("r", str(count))) == {"r": order}


@given(st.text("0123456789[]>, \n.", max_size=60), st.integers(1, 9))
def test_a_ranking_is_always_of_all_things(answer: str, count: int) -> None:
    try:
        order = parse_permutation(answer, ("r", str(count)))["r"]
    except UnparsableError:
        return
    assert sorted(order) == list(range(1, count + 1))
