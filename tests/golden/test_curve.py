"""Twenty steps on a tiny teacher walk the golden curve: batches, loss, clipping, schedule and AdamW together.

Another processor rounds otherwise, so the last digits may differ; anything more is a change of behaviour, to be made on
purpose and with a new curve (print `curve(folder)`).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.distillation.setting import JournalledJob, curve, make_project, make_run, recipe

CURVES: dict[str, tuple[str, ...]] = {
    "forward_kl": (
        "0x1.42f7a5a5a5a5ap+2",
        "0x1.23a0855555555p+2",
        "0x1.c9d45c4ec4ec5p+1",
        "0x1.259fe9c71c71cp+1",
        "0x1.47b6b55555555p+1",
        "0x1.a47b2c4ec4ec5p+0",
        "0x1.f0feca5a5a5a6p+0",
        "0x1.36de69c71c71cp+0",
        "0x1.bdafa30c30c31p+0",
        "0x1.976252d2d2d2dp+0",
        "0x1.eaedcc71c71c7p-1",
        "0x1.186c0c4ec4ec5p+0",
        "0x1.5585d86186186p+0",
        "0x1.e656200000000p-1",
        "0x1.38e5bb4b4b4b5p+0",
        "0x1.7a5abc71c71c7p-1",
        "0x1.289c487878788p+0",
        "0x1.a413962762762p-1",
        "0x1.6633580000000p-1",
        "0x1.20c90f3cf3cf4p+0",
    ),
    "supervised": (
        "0x1.65cc769696969p+3",
        "0x1.54db5db6db6dbp+3",
        "0x1.11ddcd89d89d9p+3",
        "0x1.a15e1471c71c7p+2",
        "0x1.63b7ab6db6db7p+2",
        "0x1.f4cf9b13b13b1p+1",
        "0x1.9b991e1e1e1e2p+1",
        "0x1.21fbcd5555555p+1",
        "0x1.1e212f3cf3cf4p+1",
        "0x1.c65672d2d2d2dp+0",
        "0x1.798b2e38e38e4p+0",
        "0x1.7648e89d89d8ap+0",
        "0x1.17fe7c30c30c3p+0",
        "0x1.35e5a589d89d9p+0",
        "0x1.0423cc3c3c3c4p+0",
        "0x1.0808be38e38e4p+0",
        "0x1.df7fe3c3c3c3cp-1",
        "0x1.fc1b6d89d89d9p-1",
        "0x1.e2419e38e38e4p-1",
        "0x1.6a376aaaaaaabp-1",
    ),
}


@pytest.mark.parametrize("objective", CURVES)
def test_the_curve_is_the_golden_one(tmp_path: Path, objective: str) -> None:
    run = {"steps": 20, "rows_per_batch": 4, "accumulation": 2, "evaluate_every": 99, "checkpoint_every": 99, "seed": 7}
    tables = recipe(run=run, objective=[{"name": objective}], optimizer={"warmup_steps": 3, "weight_decay": 0.1})
    folder = make_run(make_project(tmp_path, rows=40), "golden", tables)
    JournalledJob(folder).run()
    found = [float.fromhex(value) for value in curve(folder).values()]
    assert found == pytest.approx([float.fromhex(value) for value in CURVES[objective]], rel=1e-3)
