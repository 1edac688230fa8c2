from __future__ import annotations

import numpy as np
import pytest

from kdstudio.distillation.batches import BatchPlan, collate, held_out_prompts, shared_prefix
from kdstudio.distillation.examples import Example
from tests.unit.distillation.setting import examples

LENGTHS = [10 + (number * 37) % 90 for number in range(103)]


def plan(rows_per_batch: int = 4, accumulation: int = 2, seed: int = 0) -> BatchPlan:
    return BatchPlan(LENGTHS, rows_per_batch=rows_per_batch, accumulation=accumulation, seed=seed)


def test_a_step_is_a_pure_function_of_seed_and_step() -> None:
    forward, backward = plan(), plan()
    steps = list(range(40))
    assert [forward.step(step) for step in steps] == [backward.step(step) for step in reversed(steps)][::-1]
    assert plan(seed=1).step(0) != plan().step(0)


@pytest.mark.parametrize("epoch", [0, 1, 7])
def test_every_row_comes_once_an_epoch(epoch: int) -> None:
    steps = plan()
    assert steps.steps_per_epoch == 13
    seen = [row for step in range(13) for batch in steps.step(epoch * 13 + step) for row in batch]
    assert sorted(seen) == list(range(len(LENGTHS)))


def test_epochs_differ() -> None:
    steps = plan()
    assert {frozenset(batch) for batch in steps.step(0)} != {frozenset(batch) for batch in steps.step(13)}


def test_rows_of_a_step_are_of_similar_length() -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 512).tolist()
    steps = BatchPlan(lengths, rows_per_batch=8, accumulation=1, seed=0)
    padded = sum(max(lengths[row] for row in batch) * len(batch) for step in range(64) for batch in steps.step(step))
    assert padded <= 1.15 * sum(lengths)


def test_a_steps_rows_do_not_depend_on_how_they_are_cut() -> None:
    once, eight = plan(8, 1), plan(1, 8)
    for step in range(20):
        assert [row for batch in once.step(step) for row in batch] == [
            row for batch in eight.step(step) for row in batch
        ]
        assert len(once.step(step)) == 1
        assert all(len(batch) == 1 for batch in eight.step(step))


def test_collating_places_every_response_token() -> None:
    rows = examples(6)
    prefix = shared_prefix(rows)
    assert prefix > 5
    for cut in (0, prefix):
        batch = collate(rows, [3, 0, 5], cut)
        width = batch.input_ids.shape[1]
        flat = batch.input_ids.flatten()
        expected = np.concatenate([rows[row].response_ids for row in (3, 0, 5)])
        assert batch.labels.tolist() == expected.tolist()
        assert batch.rows == (3, 0, 5)
        at = 0
        for place, row in enumerate((3, 0, 5)):
            example = rows[row]
            count = len(example.response_ids)
            where = batch.where[at : at + count].tolist()
            # The first place holds the prompt's last token, every later one the response token before.
            held = [int(flat[index]) for index in where]
            assert held == [int(example.prompt_ids[-1]), *example.response_ids[:-1].tolist()]
            assert all(place * width <= index < (place + 1) * width for index in where)
            at += count


def make(prompt: list[int]) -> Example:
    return Example(0, 0, np.array(prompt, np.int32), np.array([1, 2], np.int32), "", "")


def test_the_shared_prefix_leaves_each_prompt_its_last_token() -> None:
    assert shared_prefix([make([1, 2, 3, 4]), make([1, 2, 3, 5])]) == 3
    assert shared_prefix([make([1, 2, 3, 4]), make([1, 2, 3])]) == 2
    assert shared_prefix([make([1, 2, 3, 4]), make([1, 2, 3, 4])]) == 3
    assert shared_prefix([make([1, 2]), make([2, 2])]) == 0
    assert shared_prefix([make([1]), make([1])]) == 0
    assert shared_prefix([make([1, 2, 3])]) == 0


def test_held_out_prompts_are_drawn_by_seed_and_hardly_move() -> None:
    prompts = list(range(1, 201))
    drawn = held_out_prompts(prompts * 2, 0.1, 0)
    assert len(drawn) == 20
    assert drawn == held_out_prompts(prompts, 0.1, 0)
    assert drawn != held_out_prompts(prompts, 0.1, 1)
    grown = held_out_prompts([*prompts, *range(201, 221)], 0.1, 0)
    assert len(drawn & grown) >= 15
    assert held_out_prompts(prompts, 0.0, 0) == set()
    assert len(held_out_prompts([1, 2], 0.01, 0)) == 1
    assert held_out_prompts([1], 0.5, 0) == set()
