"""Pairs of answers that are the same and that are not, and SymPy's verdict on expressions made at random."""

from __future__ import annotations

import time

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from kdstudio.quality.answer_check import same_answer
from kdstudio.quality.expressions import NotMathError, read_expression, same_value
from kdstudio.quality.final_answer import final_answer

SAME = [
    ("1,000", "1000.0"),
    ("1000", "10^3"),
    ("1/2", "0.5"),
    ("0.5", "50 %"),
    ("50%", "50"),
    (r"\boxed{\frac{1}{2}}", "0.5"),
    ("(B)", "B"),
    ("b)", "(B)"),
    ("B.", "B"),
    ("**B**", "b"),
    ("Answer: B", "(B)"),
    ("(B) Paris", "B"),
    ("(B) Paris", "Paris"),
    ("The answer is 42.", "42"),
    ("#### 1,234", "1234"),
    (r"So \boxed{x^2+2x+1}", "(x+1)^2"),
    ("5 cm", "5"),
    ("5 cm", "5 centimeters"),
    ("$5", "5 dollars"),
    ("$5$", "5"),
    (r"\$5.00", "$5"),
    (r"90^\circ", "90 degrees"),
    (r"\frac12", "1/2"),
    ("1 1/2", "3/2"),
    (r"1\frac{1}{2}", "1.5"),
    (r"\sqrt{2}", "2^{1/2}"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("0.333333", "1/3"),
    ("3.14159265", r"\pi"),
    (r"2\pi", "2*pi"),
    ("(1, 2)", "(1,2)"),
    ("{1,2}", "{2,1}"),
    (r"\{1,2\}", r"\{2, 1\}"),
    ("x = 5", "5"),
    ("x>5", "x > 5"),
    (r"x \le 3", "x ≤ 3"),
    ("the Eiffel Tower", "Eiffel tower!"),
    ("yes", "Yes."),
    ("3 million", "3,000,000"),
    ("$3 million", "3000000 dollars"),
    ("1e5", "100000"),
    ("1.5e-3", "0.0015"),
    ("5 apples", "5"),
    ("5 apples", "5 apple"),
    ("cm^2", "cm^2"),
    ("12 cm^2", "12 square centimeters"),
    ("60 km/h", "60"),
    (r"\text{Tuesday}", "tuesday"),
    (r"\dfrac{3}{4}", r"75\%"),
    ("-3", "\u22123"),
    ("2x+2", "2(x+1)"),
    (r"\log_2 8", "3"),
    ("5!", "120"),
    ("sin^2(x)+cos^2(x)", "1"),
    ("[2,5)", "[2, 5)"),
    ("Final Answer: The final answer is $7$. I hope it is correct.", "7"),
    ("well-known", "well known"),
    ("1/2", "2/4"),
    ("0.50", "1/2"),
    ("5m/s", "5 m/s"),
    ("naïve", "nai\u0308ve"),
    ("2^{10}", "1024"),
    (r"\left(1, 2\right)", "(1,2)"),
    ("f(x) = 2x", "2x"),
    (r"10\%", "0.1"),
    ("12.5%", "1/8"),
]
DIFFERENT = [
    ("1", "2"),
    ("", ""),
    ("0.33", "1/3"),
    ("5 cm", "5 m"),
    ("$5", "5 euros"),
    ("cat", "act"),
    ("no", "on"),
    ("-5", "5"),
    ("(B)", "(C)"),
    ("(B) Paris", "(B) London"),
    ("(1,2)", "(2,1)"),
    ("[2,5)", "(2,5)"),
    ("x=5", "y=5"),
    ("5 million", "5"),
    ("10 degrees below zero", "10"),
    ("x", "y"),
    ("x-1", "1-x"),
    ("5x", "5"),
    ("5m", "5"),
    ("sqrt(x^2)", "x"),
    ("C++", "C"),
    ("5!", "5"),
    ("10", "10^2"),
    ("1,2", "1,2,3"),
    ("A", "Apple"),
    ("9^9^9^9", "9^9^9^8"),
    ("1/0", "2/0"),
    ("x>5", "x<5"),
    ("AB", "BA"),
    ("yes", "no"),
    ("+", "-"),
    ("2", "2.0000001"),
    ("1e400", "1e399"),
    ("10^20+1", "10^20"),
    ("5 apples", "5 oranges"),
    ("50%", "5"),
    ("50%", "50 cm"),
    ("B12", "12B"),
    ("2xy", "2"),
    ("June 5", "5"),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_the_same(first: str, second: str) -> None:
    assert same_answer(first, second)
    assert same_answer(second, first)


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_not_the_same(first: str, second: str) -> None:
    assert not same_answer(first, second)
    assert not same_answer(second, first)


@pytest.mark.parametrize(
    ("answer", "final"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ never closed, \boxed{2}", "2"),
        (r"set \boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("steps\n#### 12", "12"),
        ("The answer is: **3.5**. Good.", "3.5**"),
        ("The final answer is (B) because of that.", "(B) because of that"),
        ("  only this ", "only this"),
        (r"\boxed{", r"\boxed{"),
        ("", ""),
    ],
)
def test_where_the_answer_is(answer: str, final: str) -> None:
    assert final_answer(answer) == final


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_are_compared_the_same_way_round_or_not(first: str, second: str) -> None:
    assert same_answer(first, second) == same_answer(second, first)
    assert same_answer(first, first) == same_answer(f" {first} ", first)


@given(st.text("0123456789^/*+-().x{}\\frac sqrt,%$!e_", max_size=40))
def test_what_looks_like_mathematics_ends_without_a_failure(text: str) -> None:
    same_answer(text, "1")
    same_answer(text, text + "+0")


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6))
def test_numbers_by_value(over: int, under: int) -> None:
    assert same_answer(f"{over:,}", f"{over}.0")
    assert same_answer(f"{over}/{under}", rf"\frac{{{2 * over}}}{{{2 * under}}}")
    assert not same_answer(f"{over}/{under}", f"{over + 1}/{under}")


leaves = st.sampled_from(["x", "y", "1", "2", "3"])
expressions = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda three: f"({''.join(three)})")
        | inner.map(lambda base: f"({base})^2")
    ),
    max_leaves=5,
)


@given(expressions, expressions)
@settings(max_examples=60, deadline=None)
def test_polynomials_are_the_same_when_sympy_says_so(first: str, second: str) -> None:
    ours = sympy.sympify(first.replace("^", "**"))
    theirs = sympy.sympify(second.replace("^", "**"))
    assert same_value(read_expression(first), read_expression(second)) == (sympy.expand(ours - theirs) == 0)
    assert same_value(read_expression(first), read_expression(str(sympy.expand(ours))))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "9^9^9^9^9",
            "2^(2^(2^100))",
            "1/0",
            "0^(-1)",
            "(((" * 100,
            "-" * 399 + "1",
            "x" * 400,
            "1e999",
            "5!!!!!!",
            "300!",
        ),
        *("sqrt" * 90, "sin " * 99 + "1", "{" * 300 + "}" * 300, "^" * 50, "1" * 400, "1+" * 199 + "1", r"\frac" * 60),
        *(
            "x^" * 199 + "x",
            "__import__('os').system('true')",
            "lambda: 0",
            "().__class__",
            "\ud800",
            "_" * 300,
            "1,000," * 60,
        ),
        *(
            "(1^9999)" * 40,
            "9999999^999999" + "^9" * 100,
            "sin^",
            "log_",
            "sqrt[",
            "x_{",
            "x_",
            "[1]",
            "{}",
            "()",
            "%",
            "$",
            "5 /",
        ),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_expressions_take_no_time(text: str) -> None:
    began = time.perf_counter()
    same_answer(text, "7")
    assert same_answer(text, "7" + text) is False or text.strip(" ") == ""
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize(
    "piece", ["\\boxed{", "the answer is ", "{", "x+1 ", "#### 1\n", "\\text{", "$", "**", "a-", "1,", "("]
)
def test_long_answers_take_no_time(piece: str) -> None:
    answer = piece * (100_000 // len(piece))
    began = time.perf_counter()
    same_answer(answer, answer + "b")
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize("text", ["cat", "no", "", "x2", "2 3", "(1", "1)", "|x|", "a=b", "x_", r"\alph"])
def test_what_is_no_expression(text: str) -> None:
    with pytest.raises(NotMathError):
        read_expression(text)
