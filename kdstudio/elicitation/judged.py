"""Steps that ask several questions about one row before it goes on: score, rank, and execute, which asks a child.

Each is a generator: it yields requests, is sent their completions in the same order, and ends when the row may go on.
Their answers are journalled like any other, so that a continued run neither asks a judge nor runs code twice.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from kdstudio.catalogue.steps import ExecuteStep, RankStep, ScoreStep
from kdstudio.elicitation.company import best_of, ranked
from kdstudio.elicitation.passage import PYTHON, FallenError, Passage
from kdstudio.elicitation.seeds import request_seed
from kdstudio.errors import BadInput
from kdstudio.teachers.base import Completion, Request, Sampling

Conversation = Generator[list[Request], list[Completion], None]


@dataclass
class Talk:
    """A row's open questions of one step."""

    conversation: Conversation
    passage: Passage
    keys: list[str] = field(default_factory=list)
    answers: dict[str, Completion] = field(default_factory=dict)

    def begin(self) -> list[Request]:
        """The first questions; none when the row may go on. Raises `FallenError`."""
        return self._asked(next(self.conversation, None))

    def answered(self, completion: Completion) -> list[Request] | None:
        """The next questions; an empty list when the row may go on, None while answers are missing."""
        self.answers[completion.key] = completion
        if len(self.answers) < len(self.keys):
            return None
        completions = [self.answers[key] for key in self.keys]
        for answer in completions:
            if answer.finish_reason == "error":
                raise FallenError(answer.error or "nobody answered")
            self.passage.prompt_tokens += answer.prompt_tokens
            self.passage.tokens += answer.tokens
        try:
            return self._asked(self.conversation.send(completions))
        except StopIteration:
            return []

    def _asked(self, requests: list[Request] | None) -> list[Request]:
        self.keys, self.answers = [request.key for request in requests or ()], {}
        return requests or []


def judging_by(
    step: ScoreStep | RankStep, values: Mapping[str, Any], where: str, weighing: Mapping[str, Any]
) -> ScoreStep | RankStep:
    """The step with rubric and verdict in place of the parameters it names; `weighing`: as `with_verdict` takes it.

    Raises `BadInput` for a rubric or a verdict that is not there, and for one that this run's judge cannot give.
    """
    from kdstudio.elicitation.rubrics import rubric_of
    from kdstudio.elicitation.verdicts import with_verdict

    rubric = str(values.get(step.rubric, step.rubric))
    try:
        rubric_of(rubric)
    except BadInput as error:
        raise BadInput(error.title, f"{where}: {error.detail}", error.hint) from None
    return with_verdict(step.model_copy(update={"rubric": rubric}), values, weighing, where)


def _spoken(request: Request, step: ScoreStep | RankStep) -> Request:
    """To the one the step names, with its limit, and with log-probs where they are what is read."""
    from kdstudio.elicitation.verdicts import weighed

    sampling = replace(request.sampling, max_tokens=step.max_tokens) if step.max_tokens else request.sampling
    asked = replace(request, speaker=step.speaker, sampling=sampling)
    return weighed(asked, step)


def _text(passage: Passage, column: str) -> str:
    value = passage.columns.get(column, "") if column else ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def scoring(step: ScoreStep, passage: Passage, index: int, run_seed: int) -> Conversation:
    """Ask a judge about one row."""
    from kdstudio.elicitation.judging import UnjudgedError, asked_aspects, read_scores, score_request
    from kdstudio.elicitation.verdicts import expected_scores, way_of

    key, scale = f"{passage.key}:{index}:score", (step.lowest, step.highest)
    aspects = asked_aspects(step.rubric, step.aspects)
    request = score_request(
        key,
        step.rubric,
        aspects,
        scale,
        _text(passage, step.question),
        _text(passage, step.column),
        request_seed(run_seed, key),
    )
    (completion,) = yield [_spoken(request, step)]
    try:
        read = expected_scores if way_of(step) == "expected" else read_scores
        scores = read(completion, aspects, scale)
    except UnjudgedError as error:
        raise FallenError(f"the judge's answer cannot be used: {error}") from error
    mean = sum(scores.values()) / len(scores)
    passage.columns |= {step.into: scores, step.mean: mean}
    if mean < step.minimum:
        passage.fail(f"scored {mean:.1f}, less than {step.minimum:g}", step.otherwise)


def ranking(step: RankStep, passage: Passage, group: Sequence[Passage], index: int, run_seed: int) -> Conversation:
    """Put the samples of a row, or a list column's entries (no `group`), in order."""
    if group:
        candidates = [_text(member, step.column) for member in group]
    else:
        found = passage.columns.get(step.items)
        candidates = [str(entry) for entry in found] if isinstance(found, list) else []
    if len(candidates) < (step.minimum if group else 1):
        raise FallenError(f"only {len(candidates)} to compare, {step.minimum} are needed")
    if step.method == "scores":
        scores = [_number(member, step.by) for member in group] if group else [0.0] * len(candidates)
    elif len(candidates) == 1:
        scores = [0.0]
    elif step.method == "pairwise":
        scores = yield from _pairwise(step, passage, candidates, index, run_seed)
    else:
        scores = yield from _listwise(step, passage, candidates, index, run_seed)
    if group:
        best = group[best_of(scores)]
        passage.columns = dict(best.columns)
        passage.finish_reason, passage.reasoning, passage.teacher = best.finish_reason, best.reasoning, best.teacher
        passage.seed, passage.sampling = best.seed, best.sampling
    ranked(step, passage, candidates, scores)


def _number(passage: Passage, column: str) -> float:
    try:
        return float(passage.columns.get(column, ""))
    except (TypeError, ValueError):
        raise FallenError(f"{column} is no number") from None


Scores = Generator[list[Request], list[Completion], list[float]]


def _pairwise(step: RankStep, passage: Passage, candidates: list[str], index: int, run_seed: int) -> Scores:
    """Each with each in both orders: a win counts 1 (by log-odds its probability), a tie a half; the mean of them.

    A judge that names neither of two, whatever it says instead, has not preferred one: a tie.
    """
    from kdstudio.elicitation.judging import pair_requests
    from kdstudio.elicitation.verdicts import way_of

    question, pairs = _text(passage, step.question), list(itertools.combinations(range(len(candidates)), 2))
    requests: list[Request] = []
    for first, second in pairs:
        key = f"{passage.key}:{index}:{first}-{second}"
        both = pair_requests(
            key,
            step.rubric,
            question,
            candidates[first],
            candidates[second],
            request_seed(run_seed, key),
            ties=way_of(step) != "log_odds",
        )
        requests += [_spoken(request, step) for request in both]
    completions = yield requests
    points = [0.0] * len(candidates)
    for number, (first, second) in enumerate(pairs):
        share = _share(step, completions[2 * number], completions[2 * number + 1])
        points[first] += share
        points[second] += 1 - share
    return [value / (len(candidates) - 1) for value in points]


def _share(step: RankStep, one: Completion, other: Completion) -> float:
    """What the first of two gets of their comparison, 0 to 1."""
    from kdstudio.elicitation.judging import UnjudgedError, read_pair
    from kdstudio.elicitation.verdicts import log_odds, way_of, win_share

    try:
        if way_of(step) == "log_odds":
            return win_share(log_odds(one, other), step.margin)
        return {"first": 1.0, "second": 0.0}.get(read_pair(one, other), 0.5)
    except UnjudgedError:
        return 0.5


def _listwise(step: RankStep, passage: Passage, candidates: list[str], index: int, run_seed: int) -> Scores:
    """Windows from the end of the list to its beginning, as RankGPT does (https://arxiv.org/abs/2304.09542)."""
    from kdstudio.elicitation.judging import UnjudgedError, list_request, read_list, windows

    order, question = list(range(len(candidates))), _text(passage, step.question)
    for number, (start, end) in enumerate(windows(len(candidates), step.window)):
        key = f"{passage.key}:{index}:list{number}"
        shown = [candidates[place] for place in order[start:end]]
        request = list_request(key, step.rubric, question, shown, request_seed(run_seed, key))
        (completion,) = yield [_spoken(request, step)]
        try:
            places = read_list(completion, len(shown))
        except UnjudgedError as error:
            raise FallenError(f"the judge's answer cannot be used: {error}") from error
        order[start:end] = [order[start + place] for place in places]
    scores = [0.0] * len(candidates)
    for rank, place in enumerate(order):
        scores[place] = 1 - rank / max(1, len(order) - 1)
    return scores


def executing(step: ExecuteStep, passage: Passage, index: int) -> Conversation:
    """Run the row's code in a child."""
    texts = {name: _text(passage, column) for name, column in (("tests", step.tests), ("stdin", step.stdin))}
    limits = {"seconds": step.seconds, "memory_mb": step.memory_mb}
    message: dict[str, Any] = {"role": "user", "content": _text(passage, step.column), **texts, **limits}
    (completion,) = yield [Request(f"{passage.key}:{index}:run", (message,), Sampling(), PYTHON)]
    outcome = json.loads(completion.text)
    passage.columns |= {step.into: outcome["output"], "passed": outcome["passed"], "error": outcome["error"]}
    if step.require == "passed" and not outcome["passed"]:
        passage.fail(_failure(outcome), step.otherwise)


def _failure(outcome: dict[str, Any]) -> str:
    if outcome["stopped"]:
        return f"the code was stopped: {outcome['stopped']}"
    last = (str(outcome["error"]).strip().splitlines() or ["it did not say why"])[-1]
    return f"the code failed: {last[:120]}"


def run_here(request: Request) -> Completion:
    """The answer to a request whose speaker is `PYTHON`."""
    from kdstudio.elicitation.execution import Limits, run_python

    message = request.messages[0]
    limits = Limits(seconds=float(message["seconds"]), memory_bytes=int(message["memory_mb"]) << 20)
    done = run_python(str(message["content"]), str(message["tests"]), str(message["stdin"]), limits)
    outcome = {"passed": done.passed, "output": done.output, "error": done.error, "stopped": done.stopped}
    return Completion(request.key, json.dumps(outcome), "stop")
