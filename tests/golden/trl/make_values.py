"""Writes `values.json`: what TRL 1.16 computes for the losses it has, on inputs that anybody can draw again.

Run inside the benchmark's environment of peers: `.venv-peers/bin/python tests/golden/trl/make_values.py`. The test that
reads the file needs no TRL.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import trl  # type: ignore[import-not-found]
from trl.experimental.cpo.cpo_trainer import CPOTrainer  # type: ignore[import-not-found]
from trl.experimental.gkd.gkd_trainer import GKDTrainer  # type: ignore[import-not-found]
from trl.experimental.orpo.orpo_trainer import ORPOTrainer  # type: ignore[import-not-found]

TARGET = Path(__file__).parent / "values.json"


def draw(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers from NumPy's generator, whose stream does not change."""
    return torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).standard_normal(shape))


def divergences() -> list[dict[str, Any]]:
    """GKD's generalised Jensen-Shannon divergence summed over the vocabulary, [6] tokens each."""
    student, teacher = 3 * draw(1, 1, 6, 23), 3 * draw(2, 1, 6, 23)
    found = []
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        for temperature in (0.5, 1.0, 3.0):
            given = {"beta": beta, "temperature": temperature, "reduction": "none"}
            values = GKDTrainer.generalized_jsd_loss(student, teacher, **given)
            found.append({"beta": beta, "temperature": temperature, "values": values.sum(-1)[0].tolist()})
    return found


def preferences() -> dict[str, list[float]]:
    """Losses of 5 pairs from the log-ratios (sigmoid, hinge, ipo) or mean log-probs (simpo, orpo)."""
    chosen, rejected = draw(3, 5), draw(4, 5)
    found = {}
    for kind in ("sigmoid", "hinge", "ipo"):
        settings = trainer(loss_type=kind, beta=0.1)
        found[kind] = CPOTrainer.cpo_loss(settings, chosen, rejected)[0].tolist()
    means = -chosen.abs() - 0.1, -rejected.abs() - 0.1
    found["simpo"] = CPOTrainer.cpo_loss(trainer(loss_type="simpo", beta=2.0, simpo_gamma=1.0), *means)[0].tolist()
    odds = ORPOTrainer.odds_ratio_loss(trainer(beta=0.1), *means)[0]
    found["orpo"] = (-means[0] - odds).tolist()
    return found


def trainer(**settings: Any) -> SimpleNamespace:
    """As much of a trainer as the loss reads."""
    base = {"alpha": 0.0, "label_smoothing": 0.0, "accelerator": SimpleNamespace(device="cpu")}
    return SimpleNamespace(**{**base, **settings})


if __name__ == "__main__":
    made = {"trl": trl.__version__, "divergences": divergences(), "preferences": preferences()}
    TARGET.write_text(json.dumps(made, indent=1) + "\n")
