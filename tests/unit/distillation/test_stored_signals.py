"""What training reads from the vault: draws that are right on average, and nothing damaged or of another teacher."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import torch

from kdstudio.distillation import teacher_signals
from kdstudio.distillation.divergences import forward_kl, random_sampled
from kdstudio.distillation.drawn_source import CHOICE_NAME
from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Checked, Metric
from kdstudio.teachers import vault as vault_module
from kdstudio.teachers.signals import DrawnSignal, Draws
from kdstudio.teachers.signals_draws import chances, draw
from kdstudio.teachers.signals_job import run as store_signals
from kdstudio.teachers.vault import PACK_NAME
from kdstudio.teachers.vault_format import pack, unpack
from tests.tiny import tiny_model
from tests.unit.distillation.setting import JournalledJob, curve, journal, make_project, make_run, recipe, teacher

SAMPLED = [{"name": "random_sampled_topk", "parameters": {"draws": 30}}]
TEXT = {"held_out": 0.0, "held_out_tag": ""}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def store(project: Path, name: str, described: dict[str, Any] | None = None, **parameters: Any) -> dict[str, Any]:
    folder = project / "runs" / name
    parameters = {"teacher": described or teacher(), **parameters}
    run_files.write_job(folder, run_files.JobFile("signals", parameters))
    return JournalledJob(folder).run(store_signals)


def train(project: Path, name: str, described: dict[str, Any] | None = None, **tables: Any) -> dict[str, Any]:
    return JournalledJob(make_run(project, name, recipe(**tables), described)).run()


def captured(project: Path, name: str) -> list[float]:
    events = [line.event for line in journal(project / "runs" / name)]
    return [
        event.values["captured_mass"]
        for event in events
        if isinstance(event, Metric) and "captured_mass" in event.values
    ]


class Calls:
    """Counts what a teacher is asked: decodes of llama.cpp, and forward passes of its network beside the student."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.decodes = self.passes = 0
        decode, run = llama_cpp.llama_decode, teacher_signals.DenseTeacher._run

        def decoded(*arguments: Any) -> Any:
            self.decodes += 1
            return decode(*arguments)

        def passed(*arguments: Any) -> Any:
            self.passes += 1
            return run(*arguments)

        patch.setattr(llama_cpp, "llama_decode", decoded)
        patch.setattr(teacher_signals.DenseTeacher, "_run", passed)


# ------------------------------------------------------------------------------------------------------------- unbiased
def test_stored_draws_have_the_whole_teachers_gradient_on_average() -> None:
    """The mean over seeds of q - counts / n is q - p: within what so many draws may be off, at every outcome."""
    rng, tokens, vocabulary, draws, seeds = np.random.default_rng(0), 6, 40, 50, 400
    logits = rng.standard_normal((tokens, vocabulary)).astype(np.float32) * 2
    student = torch.from_numpy(rng.standard_normal((tokens, vocabulary))).requires_grad_()
    theirs = torch.from_numpy(logits).double()
    (exact,) = torch.autograd.grad(forward_kl(student, theirs).sum(), student)
    total = torch.zeros_like(exact)
    for seed in range(seeds):
        made = draw(logits, np.zeros(tokens, np.int64), chances(([1], [2]), Draws(draws, seed), 0, tokens))
        found = unpack(pack(made))
        assert isinstance(found, DrawnSignal)
        ids, counts = torch.from_numpy(found.ids.astype("int64")), torch.from_numpy(found.counts.astype("int64"))
        (gradient,) = torch.autograd.grad(random_sampled(student, ids, counts).sum(), student)
        total += gradient
    p = theirs.softmax(dim=-1)
    errors = (total / seeds - exact) / (p * (1 - p) / (draws * seeds)).sqrt()
    assert abs(errors).max() < 5
    assert 0.8 < float((errors**2).mean()) < 1.2


def test_the_mass_that_draws_hold_is_about_what_is_said() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((300, 400)).astype(np.float32) * 3
    made = draw(logits, np.zeros(300, np.int64), chances(([1], [2]), Draws(50), 0, 300))
    p = torch.from_numpy(logits).softmax(dim=-1)
    held = p.gather(1, torch.from_numpy(made.ids.astype("int64"))) * torch.from_numpy(
        (made.counts > 0).astype("float32")
    )
    assert float(made.captured_mass.mean()) == pytest.approx(float(held.sum(dim=1).mean()), abs=0.02)


# ------------------------------------------------------------------------------------------------------- paid for once
def test_a_second_student_with_another_objective_makes_no_teacher_call(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls(monkeypatch)
    assert store(project, "signals", top_k=400)["new_rows"] == 20
    assert calls.decodes > 0
    scored = calls.decodes
    assert store(project, "again", top_k=400)["new_rows"] == 0
    stored = {"signals": "stored", "top_k": 400}
    first = train(project, "first", teacher=stored, data=TEXT)
    second = train(
        project,
        "second",
        teacher=stored,
        data=TEXT,
        student={"layer_count": 1},
        objective=[{"name": "reverse_kl"}],
        run={"seed": 5},
    )
    assert first["steps"] == second["steps"] == 4
    assert (calls.decodes, calls.passes) == (scored, 0)
    assert captured(project, "first") == captured(project, "second")
    assert 0.9 < captured(project, "first")[0] <= 1


def test_stored_draws_teach_without_the_teacher(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    stored = store(project, "signals", draws=30)
    scored = calls.decodes
    longer: dict[str, Any] = {"run": {"steps": 8}, "optimizer": {"learning_rate": 3e-3}}
    result = train(project, "drawn", objective=SAMPLED, data=TEXT, **longer)
    assert (calls.decodes, calls.passes) == (scored, 0)
    assert captured(project, "drawn") == [pytest.approx(stored["captured_mass"], abs=1e-4)]
    train(project, "again", objective=SAMPLED, data=TEXT, **longer)
    assert curve(project / "runs" / "again") == curve(project / "runs" / "drawn")
    losses = [float.fromhex(value) for value in curve(project / "runs" / "drawn").values()]
    assert losses[-1] < losses[0]
    assert result["held_out_against"] == ""


def test_without_enough_stored_draws_the_teacher_runs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    store(project, "signals", draws=20)
    store(project, "some", draws=30, limit=7)
    train(project, "running", objective=SAMPLED)
    assert calls.passes > 0
    assert captured(project, "running") == []


def test_a_run_goes_on_with_what_it_began_with(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(project, "run", recipe(objective=SAMPLED))
    JournalledJob(folder, stop_after=30).run()
    store(project, "signals", draws=30)
    calls = Calls(monkeypatch)
    JournalledJob(folder).run()
    assert calls.passes > 0
    assert '"draws": 0' in (folder / CHOICE_NAME).read_text()


def test_held_out_rows_are_measured_against_the_teacher_itself(project: Path) -> None:
    store(project, "signals", draws=30)
    assert train(project, "drawn", objective=SAMPLED)["held_out_against"] == "dense"


# ----------------------------------------------------------------------------------------------------- a shaped tail
def test_a_shaped_tail_teaches_without_the_teacher_and_nearer_to_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learnt and measured from the vault alone, the first loss is nearer to the whole teacher's than a bucket's is."""
    calls = Calls(monkeypatch)
    for tail in ("bucket", "shaped"):
        store(project, f"signals-{tail}", top_k=20, tail=tail)
        train(project, tail, teacher={"signals": "stored", "top_k": 20, "tail": tail}, data=TEXT)
    assert calls.passes == 0
    assert captured(project, "shaped") == captured(project, "bucket")
    train(project, "dense", teacher={"signals": "dense"}, data=TEXT)
    first = {name: float.fromhex(curve(project / "runs" / name)[1]) for name in ("bucket", "shaped", "dense")}
    assert first["bucket"] < first["shaped"]
    assert abs(first["shaped"] - first["dense"]) < 0.5 * abs(first["bucket"] - first["dense"])


def test_any_divergence_reads_a_shaped_tail(project: Path) -> None:
    store(project, "signals", top_k=20, tail="shaped")
    stored = {"signals": "stored", "top_k": 20, "tail": "shaped"}
    objectives = [{"name": "reverse_kl", "parameters": {"temperature": 2.0}}, {"name": "weighted_tokens"}]
    assert train(project, "run", teacher=stored, objective=objectives)["steps"] == 4
    told = [line.event.detail for line in journal(project / "runs" / "run") if isinstance(line.event, Checked)]
    assert any("tail shape" in detail for detail in told)


def test_tails_that_were_never_shaped_are_missing(project: Path) -> None:
    store(project, "signals", top_k=20)
    with pytest.raises(KnownError, match="missing") as caught:
        train(project, "run", teacher={"signals": "stored", "top_k": 20, "tail": "shaped"})
    assert "--tail shaped" in caught.value.hint


# ------------------------------------------------------------------------------------------- damaged, changed, moved
def test_damaged_signals_are_never_trained_on(project: Path, tmp_path: Path) -> None:
    store(project, "signals", top_k=20)
    kept, rng = shutil.copytree(project / "vault", tmp_path / "sound"), random.Random(3)
    stored = {"signals": "stored", "top_k": 20}
    for attempt in range(3):
        data = bytearray((kept / PACK_NAME).read_bytes())
        places = rng.sample(range(len(data)), 200)
        for place in places:
            data[place] ^= 1 << rng.randrange(8)
        (project / "vault" / PACK_NAME).write_bytes(data)
        with pytest.raises(KnownError, match="damaged") as caught:
            train(project, f"damaged{attempt}", teacher=stored)
        assert "kdstudio signals" in caught.value.hint
        mended = store(project, f"mend{attempt}", top_k=20)
        assert mended["rows"] == 20
        assert mended["damaged"] == mended["new_rows"] > 0
        train(project, f"mended{attempt}", teacher=stored)


def test_one_signal_that_goes_bad_in_the_middle_of_a_run_stops_it(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(project, "signals", top_k=20)
    payload, reads = vault_module._payload_of, 0

    def spoilt(record: bytes, name: bytes) -> bytes | None:
        nonlocal reads
        reads += 1
        return payload(record, name) if reads < 40 else None

    monkeypatch.setattr(vault_module, "_payload_of", spoilt)
    with pytest.raises(KnownError, match="gone"):
        train(project, "run", teacher={"signals": "stored", "top_k": 20})


def test_another_file_in_the_teachers_place_is_not_trained_on(project: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(tiny_model(layers=4), tmp_path / "teacher.gguf"))
    stored = {"signals": "stored", "top_k": 20}
    store(project, "signals", teacher(file), top_k=20)
    train(project, "before", teacher(file), teacher=stored)
    shutil.copy(tiny_model(layers=4, seed=1), file)
    with pytest.raises(KnownError, match="The teacher's file changed") as caught:
        train(project, "after", teacher(file), teacher=stored)
    assert caught.value.detail.startswith("20 stored signals belong to the earlier one")
    assert store(project, "anew", teacher(file), top_k=20)["new_rows"] == 20
    train(project, "anew", teacher(file), teacher=stored)


def test_a_moved_project_still_has_its_signals(project: Path, tmp_path: Path) -> None:
    store(project, "signals", top_k=20)
    moved = Path(shutil.move(project, tmp_path / "elsewhere.kdstudio"))
    file = Path(shutil.copy(tiny_model(layers=4), tmp_path / "renamed.gguf"))
    assert train(moved, "run", teacher(file), teacher={"signals": "stored", "top_k": 20})["steps"] == 4
