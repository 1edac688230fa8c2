from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdstudio.catalogue.training import DataTable
from kdstudio.distillation.batches import BatchPlan, collate, held_out_prompts, shared_prefix
from kdstudio.distillation.examples import Example
from kdstudio.distillation.held_out import measure
from kdstudio.distillation.rows import split_rows
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from tests.tiny import tiny_model
from tests.unit.distillation.setting import examples, training_rows

CPU = torch.device("cpu")

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


# ------------------------------------------------------------------------------------------------------- preferences
def preferences(count: int) -> list[Example]:
    """So many preferences, of two, three or four responses, best first."""
    made: list[Example] = []
    for number, example in enumerate(examples(count)):
        for place in range(2 + number % 3):
            ids = np.roll(example.response_ids, place).astype(np.int32)
            made.append(replace(example, response_ids=ids, group=number + 1, score=float(-place)))
    return made


@pytest.mark.parametrize(("rows_per_batch", "accumulation"), [(1, 4), (4, 1), (3, 2)])
def test_the_responses_of_a_preference_stay_in_one_pass(rows_per_batch: int, accumulation: int) -> None:
    rows = split_rows(preferences(10), DataTable(held_out=0.0), 0)
    lengths = [rows.tokens(unit) for unit in rows.units]
    steps = BatchPlan(lengths, rows_per_batch=rows_per_batch, accumulation=accumulation, seed=0)
    seen: list[int] = []
    for step in range(steps.steps_per_epoch):
        for units in steps.step(step):
            batch = rows.batch([row for unit in units for row in rows.units[unit]], CPU)
            assert len({example.group for example in batch.examples}) == len(units) <= rows_per_batch
            for group in {example.group for example in batch.examples}:
                assert sum(example.group == group for example in batch.examples) == 2 + (group - 1) % 3
            seen += units
    assert sorted(seen) == list(range(10))


def test_all_responses_of_a_prompt_are_held_out_together() -> None:
    rows = split_rows(preferences(10), DataTable(held_out=0.3), 0)
    held = {rows.examples[row].group for row in rows.held_out}
    assert len(held) == 3
    assert not held & {rows.examples[row].group for row in rows.training}
    assert len(rows.held_out) == sum(2 + (group - 1) % 3 for group in held)
    assert len(rows.units) == 7


def test_a_limit_leaves_no_preference_with_one_side() -> None:
    for limit in range(2, 12):
        rows = split_rows(preferences(4), DataTable(held_out=0.0, limit=limit), 0)
        assert len(rows.examples) <= limit
        assert all(len(unit) >= 2 for unit in rows.units)


def test_held_out_preferences_are_judged_by_their_best_and_worst() -> None:
    """The other figures are means over all responses: a preference's worse sides are text like any other."""
    rows = split_rows(preferences(10), DataTable(held_out=0.5), 0)
    path = tiny_model(layers=2)
    network = assemble(*load_gguf(path), path.name)
    found = measure(network, rows, None, CPU, nullcontext)
    likely: dict[int, dict[float, float]] = {}
    every: list[float] = []
    for row in rows.held_out:
        example = rows.examples[row]
        ids = torch.tensor([[*example.prompt_ids.tolist(), *example.response_ids.tolist()]])
        with torch.no_grad():
            log_probs = network(ids).logits[0, len(example.prompt_ids) - 1 : -1].log_softmax(-1)
        labels = torch.from_numpy(example.response_ids).long()
        values = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
        likely.setdefault(example.group, {})[example.score] = float(values.mean())
        every += values.tolist()
    leads = [scores[max(scores)] > scores[min(scores)] for scores in likely.values()]
    assert found.preference_accuracy == sum(leads) / len(leads)
    assert found.nll == pytest.approx(-np.mean(every), rel=1e-4)
    assert "held_out_preference_accuracy" in found.values()
    assert "held_out_preference_accuracy" not in measure(network, training_rows(8), None, CPU, nullcontext).values()
