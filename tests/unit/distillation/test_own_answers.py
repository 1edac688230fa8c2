"""The student's own answers: who writes them, what stands beside them, what they are worth, which are kept."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from transformers import PreTrainedModel

from kdstudio.catalogue.training import RolloutTable, StudentTable
from kdstudio.distillation import own_answers
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.examples import Example
from kdstudio.distillation.own_answers import OwnAnswers
from kdstudio.distillation.reference import Reference
from kdstudio.distillation.rewards import Judged
from kdstudio.distillation.rollouts import Answer
from kdstudio.errors import BadInput
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.students.build import Student, build
from tests.tiny import tiny_model
from tests.unit.distillation.family_setting import judge, shipped, train, warnings, weights
from tests.unit.distillation.setting import curve, make_project, training_rows

CPU = torch.device("cpu")
ROWS = training_rows(12)
UNITS = [[(3,), (1,)], [(5,), (0,)]]
"""Two passes of two units."""


class Length:
    """A reward that notes what it was asked: more tokens earn more."""

    label = "length"
    lowest: float | None = 0.0
    highest: float | None = None

    def __init__(self) -> None:
        self.asked: list[Judged] = []

    def __call__(self, answers: Sequence[Judged]) -> list[float]:
        self.asked += answers
        return [float(len(answer.answer_ids)) for answer in answers]


def student() -> Student:
    return build(StudentTable(layer_count=2), tiny_model(layers=4), seed=0)


def own(table: dict[str, Any] | None = None, shape: str = "alone", **given: Any) -> OwnAnswers:
    made: Student = given.pop("student", None) or student()
    return OwnAnswers(
        RolloutTable.model_validate({"share": 1.0, "max_tokens": 6, **(table or {})}),
        shape,  # type: ignore[arg-type]
        given.pop("seed", 0),
        given.pop("rows", ROWS),
        made.model,
        made.tokenizer,
        CPU,
        contextlib.nullcontext,
        **given,
    )


def examples_of(batches: Sequence[Batch]) -> list[Example]:
    return [example for batch in batches for example in batch.examples]


def answers_of(batches: Sequence[Batch]) -> list[list[int]]:
    return [example.response_ids.tolist() for example in examples_of(batches)]


def test_answers_alone_take_the_place_of_the_stored_response() -> None:
    made = own({"samples": 2}).make("fresh", 0, UNITS)
    assert [len(batch.examples) for batch in made] == [4, 4]
    stored = [ROWS.examples[row] for row in (3, 3, 1, 1, 5, 5, 0, 0)]
    for example, other in zip(examples_of(made), stored, strict=True):
        assert (example.prompt_id, example.prompt, example.own, example.group) == (
            other.prompt_id,
            other.prompt,
            True,
            0,
        )
        assert example.prompt_ids.tolist() == other.prompt_ids.tolist()
        assert 1 <= len(example.response_ids) <= 6
    assert all(batch.rows == (-1, -1, -1, -1) for batch in made)
    assert [label for ids in answers_of(made) for label in ids] == [int(x) for b in made for x in b.labels]


def test_answers_come_from_the_seed_and_the_rounds_first_step_alone() -> None:
    def answers(seed: int, begin: int, passes: Sequence[Sequence[tuple[int, ...]]] = UNITS) -> list[list[int]]:
        return answers_of(own({"samples": 2}, seed=seed).make("fresh", begin, passes))

    first = answers(0, 0)
    assert answers(0, 0) == first
    assert answers(0, 0, [[unit] for units in UNITS for unit in units]) == first  # however the step is cut
    assert answers(0, 1) != first != answers(1, 0)
    pairs = [(tuple(first[place]), tuple(first[place + 1])) for place in range(0, len(first), 2)]
    assert any(one != other for one, other in pairs)  # two answers to one prompt are two draws


def test_scored_answers_to_a_prompt_are_a_group() -> None:
    reward, writer = Length(), student()
    rows = replace(
        ROWS,
        examples=tuple(
            replace(example, reference="said so") if place == 1 else example
            for place, example in enumerate(ROWS.examples)
        ),
    )
    made = examples_of(own({"samples": 3}, reward=reward, student=writer, rows=rows).make("fresh", 0, UNITS))
    assert [example.group for example in made] == [row + 1 for row in (3, 1, 5, 0) for _ in range(3)]
    assert [example.score for example in made] == [float(len(example.response_ids)) for example in made]
    for asked, example in zip(reward.asked, made, strict=True):
        ends = example.response_ids[-1] in writer.tokenizer.end_ids
        assert asked.finished is bool(ends)
        assert asked.prompt_ids == example.prompt_ids.tolist()
        text = b"".join(writer.tokenizer.piece(int(token)) for token in example.response_ids)
        assert asked.answer == text.decode("utf-8", "replace").strip()
        assert asked.reference == ("said so" if example.group == 2 else ROWS.examples[example.group - 1].response)


def test_beside_the_stored_response_both_are_equals() -> None:
    made = examples_of(own(shape="beside").make("fresh", 0, UNITS))
    assert [example.own for example in made] == [False, True] * 4
    assert [example.group for example in made] == [0] * 8
    assert [example.response_ids.tolist() for example in made[::2]] == [
        ROWS.examples[row].response_ids.tolist() for row in (3, 1, 5, 0)
    ]


def test_against_its_past_the_stored_response_is_the_better_one() -> None:
    writer = student()
    reference = Reference(writer, ROWS, CPU, contextlib.nullcontext)
    answers = own(shape="against", student=writer, opponent=reference)
    before = answers.make("fresh", 0, UNITS)
    with torch.no_grad():
        for parameter in writer.model.parameters():
            parameter.mul_(1.5)
    made = examples_of(answers.make("fresh", 0, UNITS))
    assert answers_of(before) == [example.response_ids.tolist() for example in made]  # its past wrote them
    assert [(example.own, example.score) for example in made] == [(False, 1.0), (True, 0.0)] * 4
    assert [example.group for example in made] == [4, 4, 2, 2, 6, 6, 1, 1]
    assert answers_of(own(student=writer).make("fresh", 0, UNITS)) != [
        ids.tolist() for ids in (e.response_ids for e in made[1::2])
    ]


@pytest.mark.parametrize(
    ("share", "always", "least", "most"), [(0.0, True, 200, 200), (1.0, False, 200, 200), (0.5, True, 70, 130)]
)
def test_steps_on_own_answers_are_as_many_as_asked_for(share: float, always: bool, least: int, most: int) -> None:
    made = own({"share": share}, always=always)
    sources = [made.source(step, 200) for step in range(200)]
    assert least <= sources.count("fresh") <= most
    assert set(sources) <= {"fresh", "data"}
    assert sources == [made.source(step, 200) for step in range(200)]


# ----------------------------------------------------------------------------------------------------------- replay
ADAPTIVE = {"replay": "adaptive", "capacity": 5}


def test_the_oldest_answers_make_room_and_kept_ones_come_back() -> None:
    made = own(ADAPTIVE)
    rounds = [answers_of(made.make("fresh", begin, UNITS)) for begin in (0, 1)]
    kept = [*rounds[1][1:], rounds[0][3], rounds[1][0]]  # five slots: the fifth answer went to the last, then around
    _, tensors = made.state()
    assert tensors["replay.tokens"].tolist() == [token for ids in kept for token in ids]
    assert tensors["replay.rows"].tolist() == [1, 5, 0, 0, 3]
    replayed = made.make("replay", 2, UNITS)
    assert [len(batch.examples) for batch in replayed] == [2, 2]
    assert all(ids in kept for ids in answers_of(replayed))
    assert all(example.own and example.group == 0 for example in examples_of(replayed))
    few = own(ADAPTIVE)
    few.make("fresh", 0, [[(3,)]])
    assert [len(batch.examples) for batch in few.make("replay", 1, UNITS)] == [1]


def test_replay_goes_on_from_what_a_checkpoint_held() -> None:
    made, later = own(ADAPTIVE), own(ADAPTIVE)
    for begin in (0, 1):
        made.make("fresh", begin, UNITS)
    made.after_validation(3.0)
    made.after_validation(4.0)
    numbers, tensors = made.state()
    later.restore(numbers, load(save(tensors)))
    assert later.state()[0] == numbers
    assert numbers["written"] == 8
    assert numbers["replay"] == {"share": 1.0, "lowest_loss": 4.0, "stored": 8}
    for source, begin in (("replay", 2), ("fresh", 3), ("replay", 4)):
        ours, theirs = (each.make(source, begin, UNITS) for each in (made, later))  # type: ignore[arg-type]
        assert answers_of(ours) == answers_of(theirs)
        assert [example.prompt_id for example in examples_of(ours)] == [one.prompt_id for one in examples_of(theirs)]


def test_without_answers_there_is_nothing_to_keep() -> None:
    numbers, tensors = own().state()
    assert tensors == {}
    later = own()
    later.restore(numbers, {})
    assert later.state() == (numbers, {})


# -------------------------------------------------------------------------------------------------------- whole runs
@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KDSTUDIO_THREADS", "1")
    return make_project(tmp_path, rows=10)


@pytest.mark.parametrize(
    "recipe", ["gkd", "minillm", "contrastive_skew", "on_policy_as_reward", "grpo", "ppo", "spin", "iterative_dpo"]
)
def test_an_answer_that_ends_at_once_is_an_answer(project: Path, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(
        network: PreTrainedModel, prompts: Sequence[Any], table: Any, random: Any, ends: Any, *_: Any, **__: Any
    ) -> list[Answer]:
        return [Answer([min(ends)], True) for _ in prompts]

    monkeypatch.setattr(own_answers, "generate", silent)
    made = shipped(recipe, rollout={"share": 1.0})
    assert train(project, recipe, made)["steps"] == 4
    assert all(math.isfinite(float.fromhex(value)) for value in curve(project / "runs" / recipe).values())
    if recipe in ("grpo", "ppo"):
        assert set(curve(project / "runs" / recipe, "answer_tokens").values()) == {(1.0).hex()}
        assert set(curve(project / "runs" / recipe, "reward").values()) == {(0.0).hex()}


@pytest.mark.parametrize("stops", [(99,), (6, 11, 99)])
def test_equal_rewards_move_nothing_and_are_said_once(project: Path, stops: tuple[int, ...]) -> None:
    reward = {"kind": "pattern", "pattern": "no answer holds this"}
    run = {"steps": 12, "rows_per_batch": 2, "accumulation": 1, "evaluate_every": 99, "checkpoint_every": 99}
    made = shipped("grpo", reward=reward, run=run, rollout={"samples": 2, "max_tokens": 3})
    for stop_at in stops:  # a run that goes on knows what it saw and what it said
        train(project, "equal", made, stop_at=stop_at)
    assert set(curve(project / "runs" / "equal", "grad_norm").values()) == {(0.0).hex()}
    _, before = load_gguf(judge(), layers=(0, 3))
    after = weights(project, "equal")
    assert all(torch.equal(after[name], before[name]) for name in before)
    said = [warned for warned in warnings(project, "equal") if "all rewards are equal" in warned.title]
    assert [warned.detail.split(":")[0] for warned in said] == ["Step 10"]  # a window, and once


@pytest.mark.parametrize("recipe", ["grpo", "iterative_dpo"])
def test_one_answer_has_nothing_to_be_compared_with(project: Path, recipe: str) -> None:
    with pytest.raises(BadInput, match="nothing to compare") as caught:
        train(project, recipe, shipped(recipe, rollout={"samples": 1}))
    assert "rollout.samples" in caught.value.hint


@pytest.mark.parametrize("recipe", ["grpo", "ppo", "spin", "iterative_dpo"])
def test_what_is_compared_cannot_be_replayed(project: Path, recipe: str) -> None:
    with pytest.raises(BadInput, match="cannot be compared"):
        train(project, recipe, shipped(recipe, rollout={"replay": "adaptive"}))


@pytest.mark.parametrize("recipe", ["minillm", "on_policy_as_reward", "grpo", "ppo", "iterative_dpo", "spin"])
def test_a_policy_learns_nothing_from_stored_rows(project: Path, recipe: str) -> None:
    """Where only some steps are on own answers, the others leave the student alone, but for objectives on text."""
    table = {"share": 1e-9}  # none of these few steps
    made = shipped(recipe, rollout=table, objective=[{"name": shipped(recipe)["objective"][0]["name"]}])
    train(project, recipe, made)
    assert set(curve(project / "runs" / recipe).values()) == {(0.0).hex()}
    assert set(curve(project / "runs" / recipe, "grad_norm").values()) == {(0.0).hex()}
