"""Majorities, ties, weights and abstentions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.errors import BugError
from kdstudio.quality.answer_check import same_answer
from kdstudio.quality.voting import Vote, vote


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        (["a", "b", "a"], Vote(0, (0, 2), 2 / 3)),
        (["b", "a", "A ", "b"], Vote(0, (0, 3), 0.5)),
        (["x", "y"], Vote(0, (0,), 0.5)),
        (["", " ", "y", ""], Vote(2, (2,), 0.25)),
        (["", ""], Vote(-1, (), 0.0)),
        ([], Vote(-1, (), 0.0)),
    ],
)
def test_majorities(answers: list[str], outcome: Vote) -> None:
    assert vote(answers) == outcome


def test_answers_that_mean_the_same_vote_together() -> None:
    assert vote(["7", "0.5", "1/2", "50 %", "8"], same=same_answer) == Vote(1, (1, 2, 3), 0.6)


def test_weights_decide() -> None:
    assert vote(["a", "b", "b"], weights=[3, 1, 1]) == Vote(0, (0,), 0.6)
    assert vote(["a", "b"], weights=[0, 0]) == Vote(0, (0,), 0.0)
    for weights in ([1.0], [1.0, -1.0], [1.0, float("nan")]):
        with pytest.raises(BugError):
            vote(["a", "b"], weights=weights)


@given(st.lists(st.sampled_from(["a", "b", "c", ""]), max_size=12))
def test_the_winner_has_most_and_came_first(answers: list[str]) -> None:
    outcome = vote(answers)
    said = [answer for answer in answers if answer]
    if not said:
        assert outcome == Vote(-1, (), 0.0)
        return
    most = max(map(said.count, said))
    assert answers[outcome.winner] == next(answer for answer in said if said.count(answer) == most)
    assert outcome.winner == outcome.members[0]
    assert len(outcome.members) == most
    assert outcome.share == pytest.approx(most / len(answers))
    assert outcome == vote(answers, same=lambda a, b: a == b)
