"""Verdicts from probabilities: by hand, through the pipeline with a script and with llama.cpp, killed and continued."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.catalogue.steps import RankStep, ScoreStep
from kdstudio.elicitation.answers import bounded, from_event, to_event
from kdstudio.elicitation.judging import UnjudgedError, pair_requests, score_request
from kdstudio.elicitation.passage import FallenError
from kdstudio.elicitation.verdicts import (
    expected_scores,
    log_odds,
    way_of,
    weighed,
    weighing_of,
    win_share,
    with_verdict,
)
from kdstudio.errors import BadInput
from kdstudio.jobs.events import Answer, decode, encode
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import ElicitationRecipe, find_elicitation_recipe, override
from kdstudio.teachers.base import Completion, TokenLogProb
from tests.loopback import Asked, Fault, Handler, Loopback
from tests.tiny import tiny_model
from tests.unit.elicitation.runs import KilledError, attempt, drops, lines, new_project, new_run, recipe_of, rows

SCALE = (1, 5)


def answer(pieces: list[str], place: int, chances: Mapping[str, float], key: str = "k") -> Completion:
    """An answer in these tokens; at `place` the chances of what else might stand there."""
    others = tuple((text, math.log(chance)) for text, chance in chances.items())
    tokens = [TokenLogProb(piece, -0.1, ((piece, -0.1), ("x", -3.0))) for piece in pieces]
    tokens[place] = TokenLogProb(pieces[place], dict(others)[pieces[place]], others)
    return Completion(key, "".join(pieces), "stop", log_probs=tuple(tokens))


def better(a: float, b: float) -> Completion:
    return answer(['{"', "better", '":', ' "', "A" if a >= b else "B", '"}'], 4, {"A": a, "B": b, "tie": 0.01})


# --------------------------------------------------------------------------------------------------------- by hand
def test_a_lean_to_the_first_place_cancels_out() -> None:
    assert log_odds(better(0.8, 0.1), better(0.8, 0.1)) == pytest.approx(0)
    # log(0.7 / 0.2) = 1.2528 and log(0.6 / 0.3) = 0.6931: both say A; half their difference is for the first answer
    assert log_odds(better(0.7, 0.2), better(0.6, 0.3)) == pytest.approx(0.279808, abs=1e-6)
    assert log_odds(better(0.6, 0.3), better(0.7, 0.2)) == pytest.approx(-0.279808, abs=1e-6)
    assert win_share(0.279808, 0) == pytest.approx(0.569499, abs=1e-6)
    assert win_share(0.279808, 0.3) == win_share(-0.279808, 0.3) == 0.5
    assert (win_share(0, 0), win_share(2000, 0), win_share(-2000, 0)) == (0.5, 1.0, 0.0)


def test_tokens_that_spell_the_same_letter_count_together() -> None:
    one = answer(['{"better":', ' "A', '"}'], 1, {' "A': 0.3, "A": 0.1, ' "B': 0.15, "B": 0.05, ' "': 0.2})
    other = answer(["B"], 0, {"B": 0.5, " A": 0.25})
    assert log_odds(one, other) == pytest.approx((math.log(0.4 / 0.2) - math.log(0.25 / 0.5)) / 2)


def test_a_letter_that_is_not_listed_is_no_likelier_than_the_last_that_is() -> None:
    one = answer(["A"], 0, {"A": 0.9, "The": 0.05, "I": 0.001})
    assert log_odds(one, one) == pytest.approx(0)
    assert log_odds(one, answer(["B"], 0, {"A": 0.1, "B": 0.4})) == pytest.approx((math.log(900) + math.log(4)) / 2)


def test_an_expected_score_is_the_mean_of_the_scale() -> None:
    shares = {"1": 0.05, "2": 0.1, "3": 0.4, "4": 0.2, "5": 0.05, "9": 0.2}
    said = answer(['{"', "quality", '": ', "3", "}"], 3, shares)
    assert expected_scores(said, ["quality"], SCALE) == {
        "quality": pytest.approx((0.05 + 0.2 + 1.2 + 0.8 + 0.25) / 0.8)
    }
    bare = answer(["3"], 0, {"3": 0.5, "4": 0.5})
    assert expected_scores(bare, ["quality"], SCALE) == {"quality": pytest.approx(3.5)}
    two = ['{"', "clarity", '": ', "3", ', "', "level", '": ', "5", "}"]
    tokens = list(answer(two, 3, {"3": 0.6, "2": 0.2}).log_probs)
    tokens[7] = answer(two, 7, {"5": 0.75, "1": 0.25}).log_probs[7]
    both = Completion("k", "".join(two), "stop", log_probs=tuple(tokens))
    assert expected_scores(both, ["clarity", "level"], SCALE) == {
        "clarity": pytest.approx(2.75),
        "level": pytest.approx(4),
    }


def test_what_has_no_weight_is_no_verdict() -> None:
    with pytest.raises(UnjudgedError, match="neither"):
        log_odds(answer(["Hm"], 0, {"Hm": 0.9}), better(0.5, 0.4))
    with pytest.raises(UnjudgedError, match="before its verdict"):
        log_odds(answer(['{"better":'], 0, {'{"better":': 0.9}), better(0.5, 0.4))
    with pytest.raises(UnjudgedError, match="repeats"):
        log_odds(Completion("k", "<<< 0123456789abcdef answer A begins >>> A", "stop"), better(0.5, 0.4))
    with pytest.raises(FallenError, match="no log-probs") as caught:
        log_odds(Completion("k", '{"better": "A"}', "stop"), better(0.5, 0.4))
    assert not isinstance(caught.value, UnjudgedError)  # every pair would be a tie, and nobody told why


def test_the_journal_keeps_what_is_weighed() -> None:
    said = bounded(better(0.7, 0.2))
    line = decode(encode(to_event(said), 1))
    assert line is not None
    assert isinstance(line.event, Answer)
    back = from_event(line.event)
    assert back == said
    assert log_odds(back, back) == 0
    assert back.log_probs[4].alternatives == better(0.7, 0.2).log_probs[4].alternatives
    assert back.log_probs[1].alternatives == ()  # no verdict is spelt "better"
    wild = Completion("k", "A", "stop", log_probs=(TokenLogProb("A", -math.inf, (("\ud800", -1.0), ("B", -math.inf))),))
    assert decode(encode(to_event(bounded(wild)), 1)) is not None
    assert from_event(Answer("k", "A", "stop", log_probs=["what", 1])).log_probs == ()


def test_a_judge_that_is_weighed_must_choose() -> None:
    asked = pair_requests("k", "", "Why?", "So.", "Because.", 1, ties=False)[0]
    assert "tie" not in asked.messages[0]["content"]
    assert weighed(asked, RankStep(verdict="letter here")) == asked
    hosted = weighed(asked, RankStep(verdict="log_odds listed")).sampling
    assert hosted.log_probs >= 20
    assert '"enum": ["A", "B"]' in hosted.json_schema
    local = weighed(asked, RankStep(verdict="log_odds here")).sampling
    assert (local.log_probs, local.json_schema) == (hosted.log_probs, "")
    assert local.grammar == 'root ::= "{\\"better\\": " ("\\"A\\"" | "\\"B\\"") "}"'
    scored = score_request("k", "", ["clarity", 'a "b"'], (1, 3), "Why?", "So.", 1)
    form = weighed(scored, ScoreStep(verdict="expected here")).sampling.grammar
    assert form == ('root ::= "{\\"clarity\\": " ("1" | "2" | "3") ", \\"a \\\\\\"b\\\\\\"\\": " ("1" | "2" | "3") "}"')


# --------------------------------------------------------------------------------------------------------- who can
def test_who_gives_log_probs() -> None:
    local, hosted, other = (TeacherSpec(kind, kind) for kind in ("gguf", "openai", "anthropic"))
    scripted = TeacherSpec("s", "scripted", options={"script": {}})
    weighing = TeacherSpec("w", "scripted", options={"script": {"rules": [{"match": "", "chances": {"A": 0.5}}]}})
    found = [weighing_of(specs, {}) for specs in ([local], [local, hosted], [local, hosted, other], [scripted])]
    assert found == ["here", "listed", "none", "none"]
    assert weighing_of([weighing], {}) == "here"
    assert weighing_of([hosted], {"openai": {"answer_log_probs": False}}) == "none"


def test_a_verdict_is_decided_before_anything_is_asked() -> None:
    def decided(step: ScoreStep | RankStep, given: Any = "here", **values: Any) -> str:
        return way_of(with_verdict(step, values, {"judge": given}, "mine, step 1 (rank)"))

    assert decided(RankStep()) == "letter"
    assert decided(RankStep(verdict="auto")) == "log_odds"
    assert decided(RankStep(verdict="auto"), "listed") == decided(RankStep(verdict="auto"), "none") == "letter"
    assert decided(RankStep(verdict="log_odds"), "listed") == "log_odds"
    assert decided(RankStep(verdict="way"), way="log_odds") == "log_odds"
    assert decided(ScoreStep(verdict="auto")) == "expected"
    assert decided(ScoreStep(verdict="auto", highest=10)) == "number"
    with pytest.raises(BadInput, match="no log-probs"):
        decided(RankStep(verdict="log_odds"), "none")
    with pytest.raises(BadInput, match="cannot judge so"):
        decided(RankStep(verdict="way"), way="coin")
    with pytest.raises(BadInput, match="single digits"):
        decided(ScoreStep(verdict="way", highest=10), way="expected")


def test_a_recipe_with_an_impossible_verdict_is_refused_when_it_is_read() -> None:
    sampled = '[[step]]\ntype = "sample"\nsamples = 2\ninto = "response"\n'
    wrong = {'score"\nhighest = 10\nverdict = "expected': "single digits", 'rank"\nverdict = "log_odd': "not there"}
    for step, fault in wrong.items():
        with pytest.raises(BadInput, match=fault):
            recipe_of(f'{sampled}[[step]]\ntype = "{step}"\n[[step]]\ntype = "emit"')


# ------------------------------------------------------------------------------------------------------- pipelines
def leaning(match: str, a: float, b: float) -> dict[str, Any]:
    return {"match": match, "text": '{"better": "A"}', "chances": {"A": a, "B": b}}


SCRIPT: dict[str, Any] = {
    "rules": [
        leaning("(?s)answer A begins >>>\nWater.*which answer", 0.7, 0.2),
        leaning("(?s)answer B begins >>>\nWater.*which answer", 0.6, 0.3),
        leaning("which answer", 0.9, 0.05),
        {"match": "score the answer", "text": '{"quality": 3}', "chances": {"3": 0.5, "4": 0.3}},
        {"match": "drink", "text": ["Water.", "Tea, perhaps."]},
        {"match": "eat", "text": ["Bread.", "Rice."]},
    ]
}


def paired(*changes: str) -> ElicitationRecipe:
    return override(find_elicitation_recipe("pairwise_preference"), ["sample.samples=4", *changes])


def test_a_small_judge_that_always_says_a_still_prefers_one(tmp_path: Path) -> None:
    with new_project(tmp_path, ["What to drink?", "What to eat?"]) as project:
        letters = new_run(project, SCRIPT, paired("rank.verdict=letter"))
        attempt(letters)
        assert rows(letters) == []
        assert [reason for _, step, reason in drops(letters) if step == "emit"] == ["all are equally good"] * 2
        odds = new_run(project, SCRIPT, paired("rank.verdict=log_odds"))
        attempt(odds)
        (row,) = rows(odds)
        assert row["candidates"] == ["Water.", "Tea, perhaps."]
        assert row["scores"] == pytest.approx([0.569499, 0.430501], abs=1e-6)
        nearly = new_run(project, SCRIPT, paired("rank.verdict=log_odds", "rank.margin=0.3"))
        attempt(nearly)
        assert rows(nearly) == []
        with pytest.raises(BadInput, match="no log-probs"):
            attempt(new_run(project, {"default": "Yes."}, paired("rank.verdict=log_odds")))


def test_a_killed_run_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    steps = paired("rank.verdict=log_odds")
    with new_project(tmp_path, ["What to drink?", "What to eat?"]) as project:
        whole = new_run(project, SCRIPT, steps)
        attempt(whole)
        for kill_at in range(2, len(lines(whole)), 6):
            run = new_run(project, SCRIPT, steps)
            with pytest.raises(KilledError):
                attempt(run, kill_at=kill_at, after_writing=kill_at % 4 == 0)
            attempt(run)
            assert (rows(run), drops(run)) == (rows(whole), drops(whole)), kill_at


def test_scores_are_expected_through_the_pipeline(tmp_path: Path) -> None:
    steps = recipe_of(
        '[[step]]\ntype = "sample"\ninto = "response"\n[[step]]\ntype = "score"\nverdict = "expected"\nminimum = 3.5\n'
        '[[step]]\ntype = "emit"\nextras = ["scores", "score"]'
    )
    with new_project(tmp_path, ["What to drink?"]) as project:
        run = new_run(project, SCRIPT, steps)
        attempt(run)
        (row,) = rows(run)
    assert row["extras"]["scores"] == {"quality": pytest.approx(3.375)}  # (3 * 0.5 + 4 * 0.3) / 0.8
    assert row["reason"] == "scored 3.4, less than 3.5"


def test_llama_cpp_is_weighed_killed_and_continued(tmp_path: Path) -> None:
    steps = recipe_of(
        '[[step]]\ntype = "prompt"\ntext = "A long one, with more words."\ninto = "long"\n'
        '[[step]]\ntype = "score"\ncolumn = "long"\nverdict = "auto"\n'
        '[[step]]\ntype = "expand"\nsource = "ways"\ninto = "response"\n'
        '[[step]]\ntype = "rank"\nverdict = "auto"\nscores = "order"\n'
        '[[step]]\ntype = "emit"\nkind = "preference"\nscores = "order"\nextras = ["score"]\n'
        '[parameters.ways]\ntype = "lines"\nhelp = "Two."\ndefault = "A short one.\\nA long one, with words."'
    )
    teacher = TeacherSpec("tiny", "gguf", str(tiny_model(layers=1, context=4096)), options={"threads": 1})
    with new_project(tmp_path, ["Why?"]) as project:
        whole = new_run(project, recipe=steps, teacher=teacher)
        attempt(whole)
        (row,) = rows(whole)
        assert 0.5 < row["scores"][0] < 1
        assert sum(row["scores"]) == pytest.approx(1)
        assert 1 <= row["extras"]["score"] <= 5
        run = new_run(project, recipe=steps, teacher=teacher)
        with pytest.raises(KilledError):
            attempt(run, kill_at=4)
        attempt(run)
        assert rows(run) == rows(whole)


# --------------------------------------------------------------------------------------------------------- endpoints
class ListingHandler(Handler):
    """Lists the likeliest tokens beside each, as OpenAI's API does: A is four times as likely as B where Tea is A."""

    def complete(self, asked: Asked, fault: Fault | None) -> None:
        self.tea_is_first = "answer A begins >>>\nTea" in asked.prompt
        super().complete(asked, fault)

    def _event(self, choice: dict[str, Any]) -> None:
        if word := choice["delta"].get("content"):
            chances = {' "A"}': 0.8, ' "B"}': 0.2} if self.tea_is_first else {' "A"}': 0.6, ' "B"}': 0.4}
            tops = [{"token": text, "logprob": math.log(chance)} for text, chance in chances.items()]
            choice["logprobs"] = {"content": [{"token": word, "logprob": -0.1, "top_logprobs": tops}]}
        super()._event(choice)


class Listing(Loopback):
    @property
    def handler(self) -> type[Handler]:
        return ListingHandler


def judged_by(server: Loopback) -> dict[str, Any]:
    return asdict(TeacherSpec("api", "openai", url=server.url, model="tiny", key_name="k"))


TEA = {"rules": [{"match": "drink", "text": ["Tea, perhaps.", "Water."]}]}


def test_an_endpoint_that_lists_log_probs_is_weighed(tmp_path: Path) -> None:
    with Listing(answer=lambda _: '{"better": "A"}') as server, new_project(tmp_path, ["What to drink?"]) as project:
        run = new_run(project, TEA, paired("rank.verdict=log_odds"), judge=judged_by(server))
        attempt(run, k="")
        (row,) = rows(run)
        assert all(asked.body["top_logprobs"] == 20 for asked in server.asked)
    odds = (math.log(4) - math.log(1.5)) / 2
    assert dict(zip(row["candidates"], row["scores"], strict=True)) == {
        "Tea, perhaps.": pytest.approx(1 / (1 + math.exp(-odds))),
        "Water.": pytest.approx(1 / (1 + math.exp(odds))),
    }


def test_an_endpoint_that_lists_none_is_not_taken_for_undecided(tmp_path: Path) -> None:
    with Loopback(answer=lambda _: '{"better": "A"}') as server, new_project(tmp_path, ["What to drink?"]) as project:
        run = new_run(project, TEA, paired("rank.verdict=log_odds"), judge=judged_by(server))
        attempt(run, k="")
    assert rows(run) == []
    assert [fall for fall in drops(run) if fall[1] == "rank"] == [
        (1, "rank", "the judge gave no log-probs with its answer; set verdict to the plain way for it")
    ]
