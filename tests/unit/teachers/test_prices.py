"""Prices: whose counts, what an answer costs, and what a sample foretells."""

from __future__ import annotations

import math
import random

import pytest

from kdstudio import settings
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion
from kdstudio.teachers.prices import Price, forecast, price_of, shipped, student_t

HOSTED = "https://api.example.org/v1"


def spec(model: str = "gpt-4o-mini", url: str = HOSTED, **options: object) -> TeacherSpec:
    return TeacherSpec("api", "openai", url=url, model=model, options=dict(options))


def own_prices(text: str) -> None:
    settings.config_folder().mkdir(parents=True, exist_ok=True)
    (settings.config_folder() / "prices.toml").write_text(text, "utf-8")


def test_an_answer_costs_its_tokens_and_cached_ones_less() -> None:
    price = Price(input=2.0, output=8.0, cached=0.5)
    assert price.cost(1_000_000, 1_000_000) == pytest.approx(10.0)
    assert price.cost(1_000_000, 0, 400_000) == pytest.approx(0.6 * 2 + 0.4 * 0.5)
    assert Price(input=2.0, output=8.0).cost(1000, 0, 1000) == pytest.approx(0.002)


def test_the_longest_fitting_pattern_counts_whatever_stands_before_the_name() -> None:
    listed = shipped()
    small, large = listed.find("openai/gpt-4o-mini-2024-07-18"), listed.find("GPT-4o")
    assert small is not None
    assert large is not None
    assert small.input < large.input
    assert listed.find("a-model-of-nobody") is None
    assert listed.written is not None
    assert "check" in listed.note


def test_the_option_comes_before_ones_own_list_and_that_before_the_shipped_one() -> None:
    assert price_of(spec()) == shipped().find("gpt-4o-mini")
    own_prices('[[price]]\npattern = "gpt-4o-mini"\ninput = 7\noutput = 9\n')
    found = price_of(spec())
    assert found is not None
    assert found.input == 7
    given = price_of(spec(price={"input": 1, "output": 2}))
    assert given is not None
    assert given.output == 2


def test_this_machine_is_free_unless_a_person_says_otherwise() -> None:
    found = price_of(spec("anything", "http://localhost:11434/v1"))
    assert found is not None
    assert found.cost(10**6, 10**6) == 0
    own_prices('[[price]]\npattern = "any*"\ninput = 1\noutput = 1\n')
    found = price_of(spec("anything", "http://localhost:11434/v1"))
    assert found is not None
    assert found.input == 1
    assert price_of(spec("a-model-of-nobody")) is None


@pytest.mark.parametrize("price", [5, "cheap", {"input": 1}, {"input": -1, "output": 1}, {"input": "x", "output": 1}])
def test_a_price_that_is_none_is_refused(price: object) -> None:
    with pytest.raises(BadInput, match="price"):
        price_of(spec(price=price))


@pytest.mark.parametrize("text", ["[[price", "[[price]]\npattern = 3\n", "version = 9\n", "surprise = 1\n"])
def test_a_broken_list_is_named(text: str) -> None:
    own_prices(text)
    with pytest.raises(BadInput, match="price list") as caught:
        price_of(spec())
    assert "prices.toml" in caught.value.detail


def test_students_t_is_that_of_the_tables() -> None:
    known = {1: 12.70620, 2: 4.30265, 3: 3.18245, 5: 2.57058, 10: 2.22814, 30: 2.04227, 100: 1.98397}
    for freedom, value in known.items():
        assert student_t(freedom) == pytest.approx(value, rel=2e-3)


def test_the_interval_holds_the_true_cost_95_times_of_100() -> None:
    chance, held = random.Random(3), 0
    for _ in range(400):
        costs = [chance.gauss(0.01, 0.003) for _ in range(500)]
        sample = [Completion(str(index), "", "stop", cost=cost) for index, cost in enumerate(costs[:25])]
        found = forecast(sample, len(costs))
        held += found.low <= sum(costs) <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_forecast_knows_what_it_has_already_spent() -> None:
    sample = [Completion(str(index), "", "stop", prompt_tokens=100, tokens=50) for index in range(4)]
    found = forecast(sample, 4, Price(input=1, output=2))
    assert found.spent == found.mean == found.low == found.high == pytest.approx(4 * 200 / 1e6)
    whole = forecast(sample, 1000, Price(input=1, output=2))
    assert whole.mean == pytest.approx(1000 * 200 / 1e6)
    assert math.isclose(whole.low, whole.high)
    assert "1,000 rows" in str(whole)


def test_one_row_foretells_nothing() -> None:
    with pytest.raises(BadInput, match="too small"):
        forecast([Completion("a", "", "stop", cost=1.0)], 10)
