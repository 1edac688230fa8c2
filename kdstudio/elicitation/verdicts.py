"""What a judge leans to, read from the probabilities of its answer instead of the answer alone.

A small judge says the same letter in both orders, or the same number of everything; what it thinks of the texts shows
only in how sure it was. Preferences by log-odds are those of RLAIF (Lee et al. 2023, https://arxiv.org/abs/2309.00267),
scores by expectation those of G-Eval (Liu et al. 2023, https://arxiv.org/abs/2303.16634).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from kdstudio.catalogue.steps import RankStep, ScoreStep
from kdstudio.elicitation.judging import Scale, UnjudgedError, read_scores, said
from kdstudio.elicitation.passage import FallenError
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, TokenLogProb

ALTERNATIVES = 100
"""So many likeliest tokens are read at each place; hosted models list 20 of them at most."""
MOST_DIGIT = 9
"""The best score of a scale whose numbers are one token each with every tokenizer."""
Weighing = Literal["here", "listed", "none"]
"""Whose log-probs an answer has: a model's on this machine, those that an endpoint may list, or nobody's."""
_WAYS: dict[type[ScoreStep | RankStep], tuple[str, str]] = {
    ScoreStep: ("number", "expected"),
    RankStep: ("letter", "log_odds"),
}
_ROUND = " \t\r\n\"'`*_{}[]():,.▁Ġ"
_LETTERS = ("A", "B")


# ------------------------------------------------------------------------------------------------------ who can, how
def weighing_of(specs: Sequence[TeacherSpec], known: Mapping[str, Mapping[str, Any]]) -> Weighing:
    """What all of these give with their answers; `known`: name -> capabilities that were found when it was tested."""
    found = [_weighing(spec, known.get(spec.name, {})) for spec in specs]
    return next((way for way in ("none", "listed") if way in found), "here")


def _weighing(spec: TeacherSpec, known: Mapping[str, Any]) -> Weighing:
    if spec.kind == "scripted":
        from kdstudio.teachers.scripted import ScriptedTeacher

        return "here" if ScriptedTeacher(spec).capabilities.answer_log_probs else "none"
    if spec.kind in ("gguf", "huggingface"):
        return "here"
    return "none" if spec.kind == "anthropic" or known.get("answer_log_probs") is False else "listed"


def with_verdict(
    step: ScoreStep | RankStep, values: Mapping[str, Any], weighing: Mapping[str, Weighing], where: str
) -> ScoreStep | RankStep:
    """The step with its verdict decided (`way_of`); `weighing` is by speaker; who is not in it may do all.

    Raises `BadInput` for a way that is none, and where the judge gives no log-probs to weigh.
    """
    plain, weighed = _WAYS[type(step)]
    verdict, given = str(values.get(step.verdict, step.verdict)), weighing.get(step.speaker, "")
    single = not isinstance(step, ScoreStep) or step.highest <= MOST_DIGIT
    if verdict == "auto":
        verdict = weighed if given == "here" and single else plain
    if verdict not in (plain, weighed) or (verdict == weighed and not single):
        why = f"verdict is {verdict!r}" if single else f"expected scores are single digits up to {MOST_DIGIT}"
        raise BadInput("A judge cannot judge so", f"{where}: {why}.", f"Known: {plain}, {weighed}, auto.")
    if verdict == weighed and given == "none" and not (isinstance(step, RankStep) and step.method != "pairwise"):
        raise BadInput(
            "The judge gives no log-probs",
            f"{where}: verdict {weighed} weighs the tokens of its answers, and the {step.speaker} of this run sends "
            "none.",
            f"Let a local model judge, or set verdict to {plain}.",
        )
    return step.model_copy(update={"verdict": f"{verdict} {given}".strip()})


def way_of(step: ScoreStep | RankStep) -> str:
    """How a step that was decided judges: number, expected, letter or log_odds."""
    return step.verdict.partition(" ")[0]


def weighed(request: Request, step: ScoreStep | RankStep) -> Request:
    """The request with the log-probs of its answer where the step weighs them.

    A model on this machine is held to one spelling of its answer: a blank more or less before the verdict shifts small
    models by more than the texts do, and would not cancel out.
    """
    if way_of(step) not in ("expected", "log_odds"):
        return request
    sampling = replace(request.sampling, log_probs=ALTERNATIVES)
    if step.verdict.endswith(" here"):
        sampling = replace(sampling, json_schema="", grammar=_one_form(sampling.json_schema))
    return replace(request, sampling=sampling)


def _one_form(schema: str) -> str:
    """A grammar for the one spelling of an object whose values are enumerated."""
    parts: list[str] = []
    for name, values in json.loads(schema)["properties"].items():
        choices = " | ".join(_literal(json.dumps(value, ensure_ascii=False)) for value in values["enum"])
        parts += [_literal(f"{', ' if parts else '{'}{json.dumps(name, ensure_ascii=False)}: "), f"({choices})"]
    return f"root ::= {' '.join(parts)} {_literal('}')}"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------------------- reading
def log_odds(one: Completion, other: Completion) -> float:
    """By how much, in nats, the first answer is thought the better one: the mean over both orders of log p(A)/p(B).

    A lean to whatever stands first adds to one order what it takes from the other: the mean is free of it. (RLAIF takes
    the mean of the probabilities; that of the log-odds cancels such a lean exactly.) Raises `UnjudgedError` when an
    order gives neither letter any weight, and `FallenError` for an answer without log-probs.
    """
    return (_lean(one) - _lean(other)) / 2


def _lean(completion: Completion) -> float:
    """Log-odds of answer A against answer B in one order."""
    token = _at(completion, r"better\W{1,4}?:\W{0,3}")
    found = _weights(token, _LETTERS)
    if not found:
        raise UnjudgedError("it gives neither of the two any weight")
    least = min(log_prob for _, log_prob in _listed(token))  # whatever is not listed is no likelier than the last
    return found.get("A", least) - found.get("B", least)


def win_share(odds: float, margin: float) -> float:
    """The first answer's share of a comparison, 0 to 1: its probability, and a half for what is within the margin."""
    if abs(odds) <= margin:
        return 0.5
    return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


def expected_scores(completion: Completion, aspects: Sequence[str], scale: Scale) -> dict[str, float]:
    """Score by aspect: the mean of the scale's digits, each by its probability where the judge wrote its own.

    Raises `UnjudgedError` as `read_scores` does, and where no digit has weight; `FallenError` without log-probs.
    """
    read_scores(completion, aspects, scale)
    return {name: _expected(_at(completion, rf"{re.escape(name)}\W{{0,4}}?:\W{{0,3}}"), scale) for name in aspects}


def _expected(token: TokenLogProb, scale: Scale) -> float:
    found = _weights(token, [str(digit) for digit in range(scale[0], scale[1] + 1)])
    if not found:
        raise UnjudgedError("it gives no number any weight")
    highest = max(found.values())
    shares = {int(digit): math.exp(log_prob - highest) for digit, log_prob in found.items()}
    return sum(digit * share for digit, share in shares.items()) / sum(shares.values())


def _at(completion: Completion, before: str) -> TokenLogProb:
    """The token with which the judge gives its verdict: after the last `before`, else the first that says something."""
    said(completion)
    tokens = completion.log_probs
    if not tokens:
        raise FallenError("the judge gave no log-probs with its answer; set verdict to the plain way for it")
    text = "".join(token.text for token in tokens)
    places = [match.end() for match in re.finditer(before, text, re.IGNORECASE)]
    place = places[-1] if places else len(text) - len(text.lstrip(_ROUND))
    for token in tokens:
        place -= len(token.text)
        if place < 0:
            return token
    raise UnjudgedError("it ends before its verdict")


def _weights(token: TokenLogProb, wanted: Sequence[str]) -> dict[str, float]:
    """Word -> log of the mass of all tokens that spell it, with whatever signs around it; only words with any."""
    found: dict[str, float] = {}
    for text, log_prob in _listed(token):
        word = text.strip(_ROUND)
        if word in wanted:
            found[word] = _added(found[word], log_prob) if word in found else log_prob
    return found


def _listed(token: TokenLogProb) -> list[tuple[str, float]]:
    """The tokens at a place with the one that was taken, each once."""
    return list(dict(((token.text, token.log_prob), *token.alternatives)).items())


def _added(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))
