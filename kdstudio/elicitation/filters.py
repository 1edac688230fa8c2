"""What a text must be to be let through: the tests of the steps filter and deduplicate."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from kdstudio.catalogue.steps import DeduplicateStep, FilterStep
from kdstudio.catalogue.templates import in_words
from kdstudio.elicitation.conditions import compile_expression
from kdstudio.elicitation.passage import Passage
from kdstudio.elicitation.pools import Pools
from kdstudio.elicitation.time_limit import TimeLimitError, time_limit
from kdstudio.errors import BadInput, KnownError

PATTERN_SECONDS = 2.0

# Why a row falls, or "".
Test = Callable[[Passage, str], str]


def bind_filter(
    step: FilterStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Callable[[Passage], None]:
    """Mark a row as rejected, with the reason, so that a person can look and disagree; or drop it."""
    del index
    tests = [_lengths(step), *_patterns(step, where), *_readings(step), *_others(step, values, where)]
    pool = (pools or Pools()).rouge(step) if step.rouge_below else None

    def execute(passage: Passage) -> None:
        if passage.rejected:
            return
        text = str(passage.columns.get(step.column, ""))
        reason = next((said for test in tests if (said := test(passage, text))), "")
        if not reason and pool is not None:
            score, nearest = pool.nearest(text)
            if score >= step.rouge_below:
                reason = f"too like what is there “{nearest[:120]}”"
            else:
                pool.add(text)
        if step.into:
            passage.columns[step.into] = 0 if reason else 1
        elif reason:
            passage.fail(reason, step.otherwise)

    return execute


def bind_deduplicate(
    step: DeduplicateStep, values: Mapping[str, Any], where: str, *, index: int = 0, pools: Pools | None = None
) -> Callable[[Passage], None]:
    """Let the first of texts that say the same through."""
    del values, where, index
    pool = (pools or Pools()).duplicates(step)

    def execute(passage: Passage) -> None:
        text = str(passage.columns.get(step.column, ""))
        if pool.find(text):
            passage.fail("says what an earlier row says", step.otherwise)
        else:
            pool.add(passage.key, text)

    return execute


def _lengths(step: FilterStep) -> Test:
    only_expression = bool(step.expression) and step.column == "response"

    def test(passage: Passage, text: str) -> str:
        if only_expression and step.column not in passage.columns:
            return ""
        return _unfit(step, text, passage.finish_reason)

    return test


def _unfit(step: FilterStep, text: str, finish_reason: str) -> str:
    if step.finished and finish_reason == "length":
        return "cut off by the token limit"
    if step.finished and finish_reason not in ("stop", ""):
        return f"did not end by itself ({finish_reason})"
    if step.minimum_characters and not text:
        return f"{step.column} is empty"
    if len(text) < step.minimum_characters:
        return f"shorter than {step.minimum_characters:,} characters"
    if len(text) > step.maximum_characters:
        return f"longer than {step.maximum_characters:,} characters"
    words = len(text.split()) if step.minimum_words or step.maximum_words else 0
    if words < step.minimum_words:
        return f"fewer than {step.minimum_words} words"
    if step.maximum_words and words > step.maximum_words:
        return f"more than {step.maximum_words:,} words"
    return ""


def _patterns(step: FilterStep, where: str) -> list[Test]:
    tests: list[Test] = []
    if refuse := _pattern(step.refuse_pattern, where):
        tests.append(lambda _, text: "matches the refusing pattern" if _found(refuse, text, where) else "")
    if require := _pattern(step.require_pattern, where):
        tests.append(lambda _, text: "" if _found(require, text, where) else "lacks the required pattern")
    return tests


def _readings(step: FilterStep) -> list[Test]:
    """Tests that read the text: whether it declines, its language, its answer."""
    tests: list[Test] = []
    if step.refuse_refusals:
        from kdstudio.quality.refusals import is_refusal

        tests.append(lambda _, text: "declines to answer" if is_refusal(text) else "")
    if step.language:
        from kdstudio.quality.language import language_of

        def foreign(_: Passage, text: str) -> str:
            language = language_of(text)[0]
            return f"is in another language ({language})" if language not in ("", step.language) else ""

        tests.append(foreign)
    if step.reference:
        from kdstudio.quality.answer_check import same_answer

        def wrong(passage: Passage, text: str) -> str:
            right = str(passage.columns.get(step.reference, ""))
            if not right.strip():
                return "has no answer to compare with"
            return "" if same_answer(text, right) else "is not the right answer"

        tests.append(wrong)
    return tests


def _others(step: FilterStep, values: Mapping[str, Any], where: str) -> list[Test]:
    if not step.expression:
        return []
    expression = compile_expression(step.expression, values, f"{where}, expression")
    reason = step.reason.strip() or f"{in_words(step.expression)} does not hold"
    return [lambda passage, _: "" if expression.holds(passage) else reason]


def _pattern(text: str, where: str) -> re.Pattern[str] | None:
    try:
        return re.compile(text) if text else None
    except (re.error, RecursionError, OverflowError) as error:
        raise BadInput("A pattern cannot be read", f"{where}: {text!r}: {error}.", "Correct the expression.") from error


def _found(pattern: re.Pattern[str], text: str, where: str) -> bool:
    """Search, but not for ever: some patterns take exponential time on some texts."""
    try:
        with time_limit(PATTERN_SECONDS):
            return pattern.search(text) is not None
    except TimeLimitError as error:
        raise KnownError(
            "A pattern takes too long",
            f"{where}: {pattern.pattern!r} was not done with a text of {len(text):,} characters after "
            f"{PATTERN_SECONDS:g} s.",
            "Avoid repetitions inside repetitions, such as (a+)+.",
        ) from error
