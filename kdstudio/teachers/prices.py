"""What a hosted model costs, and what a run will cost: a sample of rows gives the mean and its interval.

The user's own prices come before the shipped ones, and a teacher's `price` option before both.
"""

from __future__ import annotations

import fnmatch
import math
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdstudio import settings
from kdstudio.errors import BadInput
from kdstudio.models.endpoint import is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion

FILE_NAME = "prices.toml"
_MILLION = 1e6


class Price(BaseModel):
    """US dollars for a million tokens. `cached`: for prompt tokens that the provider had cached (else as `input`).

    `batch`: the share of all three that is paid for what is asked in a batch; None where it is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str = "*"
    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)
    cached: float | None = Field(None, ge=0, allow_inf_nan=False)
    batch: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)

    def in_batch(self) -> Price:
        """The price of what is asked in a batch; the full one where no other is known."""
        share = 1.0 if self.batch is None else self.batch
        cached = None if self.cached is None else self.cached * share
        return Price(pattern=self.pattern, input=self.input * share, output=self.output * share, cached=cached)

    def cost(self, prompt_tokens: int, tokens: int, cached_tokens: int = 0) -> float:
        """US dollars for one answer; `cached_tokens` are part of `prompt_tokens`."""
        cached = min(cached_tokens, prompt_tokens)
        dear = (prompt_tokens - cached) * self.input + tokens * self.output
        return (dear + cached * (self.input if self.cached is None else self.cached)) / _MILLION


def in_words(dollars: float) -> str:
    """An amount of money, with as many digits as it needs."""
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:,.4f}"


FREE = Price(input=0, output=0)


class PriceList(BaseModel):
    """A prices file. `written` is the day on which the figures were noted, `note` what to keep in mind about them."""

    model_config = ConfigDict(extra="forbid")

    version: int = Field(1, ge=1, le=1)
    written: date | None = None
    note: str = ""
    price: list[Price] = Field(default_factory=list)

    def find(self, model: str) -> Price | None:
        """The price whose pattern fits a model best."""
        name = model.rsplit("/", 1)[-1].lower()
        fitting = [item for item in self.price if fnmatch.fnmatchcase(name, item.pattern.lower())]
        return max(fitting, key=lambda item: len(item.pattern), default=None)


def shipped() -> PriceList:
    """The prices that came with the program; they must be checked."""
    text = resources.files("kdstudio").joinpath("resources", FILE_NAME).read_text("utf-8")
    return PriceList.model_validate(tomllib.loads(text))


def own() -> PriceList:
    """The person's own prices, from the settings folder. Raises `BadInput` naming the file when it cannot be read."""
    path = settings.config_folder() / FILE_NAME
    try:
        return PriceList.model_validate(tomllib.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return PriceList()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BadInput(
            "Your price list cannot be read", f"{path}: {reason}", "Mend it, or remove it to use the shipped prices."
        ) from error


def price_of(spec: TeacherSpec) -> Price | None:
    """What a teacher costs: its `price` option, the person's own list, the shipped one; free on this machine.

    Where a price of the person's own does not say what a batch costs, the shipped one's share counts.
    None: it is not known. Raises `BadInput` for an option or a list that cannot be read.
    """
    given: Any = spec.options.get("price")
    if isinstance(given, Mapping):
        try:
            return _with_batch(Price.model_validate(dict(given)), spec)
        except ValidationError as error:
            raise _no_price(spec, given) from error
    if given is not None:
        raise _no_price(spec, given)
    if spec.kind not in ("openai", "anthropic"):
        return FREE
    found = own().find(spec.model)
    if found is None and spec.url and is_local(spec.url):
        return FREE
    return _with_batch(found, spec) if found else shipped().find(spec.model)


def _with_batch(price: Price, spec: TeacherSpec) -> Price:
    listed = shipped().find(spec.model) if price.batch is None and spec.kind in ("openai", "anthropic") else None
    return price.model_copy(update={"batch": listed.batch}) if listed else price


def _no_price(spec: TeacherSpec, given: Any) -> BadInput:
    return BadInput(
        "A teacher's price cannot be used",
        f"The price of {spec.name!r} is {str(given)[:200]}.",
        "Give US dollars for a million tokens, for example { input = 1.25, output = 10.0 }.",
    )


@dataclass(frozen=True)
class Forecast:
    """What `rows` rows will cost in US dollars, from a `sample` of them: the mean and a 95 % prediction interval.

    `spent` is what the sample itself cost, which is part of all three.
    """

    rows: int
    sample: int
    spent: float
    mean: float
    low: float
    high: float

    def with_more(self, dollars: float) -> Forecast:
        """The same, where the sample cost so much more than the rest will."""
        more = {name: getattr(self, name) + dollars for name in ("spent", "mean", "low", "high")}
        return replace(self, **more)

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows: {in_words(self.mean)} (95 %: {in_words(self.low)} to {in_words(self.high)}),"
            f" from {self.sample:,} rows that cost {in_words(self.spent)}"
        )


def forecast(sample: Sequence[Completion], rows: int, price: Price | None = None) -> Forecast:
    """What `rows` rows will cost, the `sample` among them. Without a `price`, each completion's own cost counts.

    The rest of N - n rows costs (N - n) times the mean, give or take t(n - 1) s sqrt((N - n)^2 / n + (N - n)): the mean
    is uncertain, and so is each row. Raises `BadInput` for fewer than two rows, which say nothing about the spread.
    """
    costs = [price.cost(item.prompt_tokens, item.tokens) if price else item.cost for item in sample]
    count, rest = len(costs), max(0, rows - len(costs))
    if count < 2:
        raise BadInput(
            "The sample is too small for a forecast", f"It has {count} answered rows.", "Ask 20 rows or more."
        )
    spent, mean, spread = sum(costs), statistics.fmean(costs), statistics.stdev(costs)
    whole = spent + rest * mean
    margin = student_t(count - 1) * spread * math.sqrt(rest * rest / count + rest)
    return Forecast(rows, count, spent, whole, max(spent, whole - margin), whole + margin)


def student_t(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with `freedom` degrees, within 1 % from 3 degrees on, exact for 1 and 2.

    The Cornish-Fisher expansion around the normal quantile, Abramowitz and Stegun 26.7.5
    (https://personal.math.ubc.ca/~cbm/aands/page_949.htm).
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    z = statistics.NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
