from __future__ import annotations

import itertools

import pytest

from kdstudio.catalogue.training import OptimizerTable
from kdstudio.distillation.schedule import learning_rate


def rates(total: int, **keys: object) -> list[float]:
    table = OptimizerTable.model_validate({"learning_rate": 1.0, "warmup_steps": 4, **keys})
    return [learning_rate(step, total, table) for step in range(total)]


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_it_rises_then_falls_to_the_final_fraction(schedule: str) -> None:
    curve = rates(24, schedule=schedule, final_fraction=0.1)
    assert curve[:4] == [0.25, 0.5, 0.75, 1.0]
    assert curve[-1] == pytest.approx(0.1)
    assert all(later < earlier for earlier, later in itertools.pairwise(curve[3:]))


def test_linear_and_cosine_agree_halfway() -> None:
    halfway = [rates(24, schedule=schedule, final_fraction=0.0)[13] for schedule in ("cosine", "linear")]
    assert halfway[0] == pytest.approx(halfway[1]) == pytest.approx(0.5)


def test_constant_stays() -> None:
    assert rates(10, schedule="constant")[4:] == [1.0] * 6


def test_a_warm_up_longer_than_the_run_is_cut() -> None:
    assert rates(2, warmup_steps=50) == [0.5, 1.0]
    assert rates(3, warmup_steps=0, schedule="linear", final_fraction=0.0) == pytest.approx([2 / 3, 1 / 3, 0.0])
