"""Steps that need the samples of one row together: they vote, or are put in order by a number they carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from kdstudio.catalogue.steps import RankStep, VoteStep
from kdstudio.elicitation.passage import Passage


@dataclass
class Gathered:
    """What became of a group: rows that go on, members that fell with the reason; the rest is part of a row now."""

    kept: list[Passage] = field(default_factory=list)
    fallen: list[tuple[Passage, str]] = field(default_factory=list)


def vote_of(step: VoteStep, group: Sequence[Passage], splits: int) -> Gathered:
    """Let a group vote; `splits` is how many splits the row had gone through before it became this group."""
    from kdstudio.quality.answer_check import same_answer
    from kdstudio.quality.voting import vote

    same: Callable[[str, str], bool] | None = same_answer if step.same == "answer" else None
    outcome = vote([str(passage.columns.get(step.column, "")) for passage in group], same=same)
    members = set(outcome.members)
    if outcome.share < step.minimum_share:
        reason = f"no majority: {len(members)} of {len(group)} agree"
        return Gathered([], [(passage, reason) for passage in group])
    others = [(passage, "was outvoted") for place, passage in enumerate(group) if place not in members]
    agreeing = [passage for place, passage in enumerate(group) if place in members]
    for passage in agreeing:
        passage.columns[step.into] = outcome.share
    if step.keep == "agreeing":
        return Gathered(agreeing, others)
    return Gathered([together(group[outcome.winner], group, splits)], others)


def together(best: Passage, group: Sequence[Passage], splits: int) -> Passage:
    """One row again: the best one's columns, under the name the row had, with the tokens of all."""
    key, prompt_tokens, tokens = best.trail[splits]
    return replace(
        best,
        key=key,
        order=best.order[: splits + 1],
        trail=best.trail[:splits],
        columns=dict(best.columns),
        prompt_tokens=prompt_tokens + sum(passage.prompt_tokens - prompt_tokens for passage in group),
        tokens=tokens + sum(passage.tokens - tokens for passage in group),
    )


def ranked(step: RankStep, best: Passage, candidates: Sequence[str], scores: Sequence[float]) -> None:
    """Write the order into the row that remains: best first, of equals the earlier one."""
    order = sorted(range(len(scores)), key=lambda place: -scores[place])
    best.columns[step.into] = [candidates[place] for place in order]
    best.columns[step.scores] = [float(scores[place]) for place in order]


def best_of(scores: Sequence[float]) -> int:
    """The place of the highest, of equals the earliest."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))
