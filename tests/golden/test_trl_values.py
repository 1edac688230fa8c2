"""The losses that TRL 1.16 has too agree with it; `trl/make_values.py` wrote down what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdstudio.distillation import divergences, ranking

VALUES: dict[str, Any] = json.loads((Path(__file__).parent / "trl" / "values.json").read_text())


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape))


@pytest.mark.parametrize("case", VALUES["divergences"], ids=lambda case: f"{case['beta']}-{case['temperature']}")
def test_jensen_shannon_and_both_kls_are_those_of_gkd(case: dict[str, Any]) -> None:
    student, teacher, temperature = 3 * draw(1, 6, 23), 3 * draw(2, 6, 23), case["temperature"]
    if case["beta"] == 0:
        ours = divergences.forward_kl(student, teacher, temperature=temperature)
    elif case["beta"] == 1:
        ours = divergences.reverse_kl(student, teacher, temperature=temperature)
    else:
        ours = divergences.jensen_shannon(student, teacher, beta=case["beta"], temperature=temperature)
    expected = torch.tensor(case["values"], dtype=torch.float64) * temperature**2  # TRL leaves Hinton's square out
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_preferences_are_those_of_trl() -> None:
    chosen, rejected, none = draw(3, 5), draw(4, 5), torch.zeros(5, dtype=torch.float64)
    means = -chosen.abs() - 0.1, -rejected.abs() - 0.1
    ours = {
        "sigmoid": ranking.dpo(chosen, rejected, none, none, beta=0.1),
        "hinge": ranking.dpo(chosen, rejected, none, none, beta=0.1, loss="hinge"),
        "ipo": ranking.ipo(chosen, rejected, none, none, beta=0.1),
        "simpo": ranking.simpo(*means, beta=2.0, gamma=1.0),
        "orpo": ranking.orpo(*means, weight=0.1),
    }
    assert set(ours) == set(VALUES["preferences"])
    for name, value in ours.items():
        expected = torch.tensor(VALUES["preferences"][name], dtype=torch.float64)
        torch.testing.assert_close(value.double(), expected, atol=1e-5, rtol=1e-5, msg=name)
