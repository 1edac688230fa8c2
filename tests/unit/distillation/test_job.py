"""The training job from its frozen recipe to the student's folder, in this process."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdstudio.catalogue.training import StudentTable
from kdstudio.distillation.trainer import CHECKPOINTS_NAME
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.events import Checkpoint, Metric, Progress, Sample, Warned
from kdstudio.models.spec import TeacherSpec
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.project import Project
from kdstudio.students.build import build
from kdstudio.students.save import open_student
from kdstudio.teachers.signals_job import run as store_signals
from tests.tiny import tiny_gguf, tiny_model
from tests.unit.distillation.setting import JournalledJob, curve, journal, make_project, make_run, recipe, teacher

METRICS = {"loss", "loss_forward_kl", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes"}
HELD_OUT = {"held_out_forward_kl", "held_out_top1_agreement", "held_out_nll"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path)


def train(project: Path, name: str = "run", described: dict[str, Any] | None = None, **tables: Any) -> dict[str, Any]:
    return JournalledJob(make_run(project, name, recipe(**tables), described)).run()


def weights(project: Path, name: str) -> dict[str, torch.Tensor]:
    network, _, _ = open_student(project / "runs" / name / "student")
    return dict(network.named_parameters())


def test_a_run_ends_with_a_student_that_came_nearer_to_its_teacher(project: Path) -> None:
    result = train(project, run={"steps": 12, "evaluate_every": 4}, optimizer={"learning_rate": 3e-3})
    assert result["run"] == "run"
    assert result["steps"] == 12
    assert result["held_out_against"] == "dense"
    assert result["rows"] + result["held_out_rows"] == 20
    assert result["final"]["held_out_forward_kl"] < 0.9 * result["before"]["held_out_forward_kl"]
    assert result["tokens"] > 0 < result["seconds"]
    network, tokenizer, config = open_student(project / "runs" / "run" / "student")
    assert config["num_hidden_layers"] == 2
    assert tokenizer.template
    described = json.loads((project / "runs" / "run" / "student" / "student.json").read_text())
    assert described["run"] == "run"
    assert described["layers"] == [0, 3]
    assert not network.training


def test_the_journal_holds_every_curve(project: Path) -> None:
    train(project, run={"steps": 4})
    folder = project / "runs" / "run"
    events = [line.event for line in journal(folder)]
    metrics = [event for event in events if isinstance(event, Metric)]
    for step in range(1, 5):
        values = {name: value for event in metrics if event.step == step for name, value in event.values.items()}
        assert set(values) >= METRICS
        assert all(math.isfinite(value) for value in values.values())
        assert (set(values) >= HELD_OUT) is (step % 2 == 0)
    assert {name for event in metrics if event.step == 0 for name in event.values} == HELD_OUT
    samples = [event for event in events if isinstance(event, Sample)]
    assert {event.step for event in samples} == {0, 2, 4}
    assert all(event.prompt and event.teacher for event in samples)
    assert [event.step for event in events if isinstance(event, Checkpoint)] == [2]
    assert {event.stage for event in events if isinstance(event, Progress)} >= {"teacher", "train"}


def test_stored_signals_train_as_dense_ones_do(project: Path) -> None:
    folder = project / "runs" / "signals"
    run_files.write_job(folder, run_files.JobFile("signals", {"teacher": teacher(), "top_k": 400}))
    assert JournalledJob(folder).run(store_signals)["rows"] == 20
    stored = train(project, "stored", teacher={"signals": "stored", "top_k": 400}, run={"steps": 6})
    dense = train(project, "dense", run={"steps": 6})
    assert stored["held_out_against"] == "dense"
    assert stored["final"]["loss"] == pytest.approx(dense["final"]["loss"], rel=0.02)
    assert stored["final"]["held_out_forward_kl"] == pytest.approx(dense["final"]["held_out_forward_kl"], rel=0.02)


def test_missing_signals_are_an_error_that_says_what_to_do(project: Path) -> None:
    with pytest.raises(KnownError, match="Teacher signals are missing") as caught:
        train(project, teacher={"signals": "stored"})
    assert "20 of 20" in caught.value.detail
    assert "kdstudio signals" in caught.value.hint


def test_text_alone_needs_no_teacher(project: Path) -> None:
    student = {"source": "fresh", "layer_count": 1, "path": str(tiny_model(layers=4))}
    result = train(project, described={}, student=student, objective=[{"name": "supervised"}])
    assert result["held_out_against"] == ""
    assert set(result["final"]) == {"held_out_nll", "loss"}


def test_text_alone_is_still_measured_against_a_local_teacher(project: Path) -> None:
    result = train(project, objective=[{"name": "supervised"}])
    assert result["held_out_against"] == "dense"


def test_text_alone_crosses_vocabularies_that_a_divergence_cannot(project: Path, tmp_path: Path) -> None:
    other = tiny_gguf(tmp_path / "other.gguf", merges=100)
    student = {"path": str(other)}
    with pytest.raises(BadInput, match="different vocabularies") as caught:
        train(project, "divergence", student=student)
    assert "tokens" in caught.value.detail
    result = train(project, "text", student=student, objective=[{"name": "supervised"}])
    assert result["held_out_against"] == ""


@pytest.mark.parametrize("signals", ["dense", "stored"])
@pytest.mark.parametrize("longer", ["teacher", "student"])
def test_a_padded_vocabulary_is_the_same_vocabulary(project: Path, tmp_path: Path, longer: str, signals: str) -> None:
    padded, plain = tiny_gguf(tmp_path / "padded.gguf", padding=24), tiny_model()
    teaching, learning = (padded, plain) if longer == "teacher" else (plain, padded)
    if signals == "stored":
        folder = project / "runs" / "signals"
        run_files.write_job(folder, run_files.JobFile("signals", {"teacher": teacher(teaching), "top_k": 400}))
        JournalledJob(folder).run(store_signals)
    result = train(
        project,
        described=teacher(teaching),
        student={"path": str(learning)},
        teacher={"signals": signals, "top_k": 400},
        run={"steps": 6},
    )
    assert result["final"]["held_out_forward_kl"] < result["before"]["held_out_forward_kl"]


def test_several_objectives_are_weighed(project: Path) -> None:
    objectives = [{"name": "forward_kl", "weight": 0.5}, {"name": "supervised", "weight": 2.0}]
    train(project, objective=objectives)
    folder = project / "runs" / "run"
    total, kl, text = (curve(folder, name) for name in ("loss", "loss_forward_kl", "loss_supervised"))
    for step in total:
        expected = 0.5 * float.fromhex(kl[step]) + 2 * float.fromhex(text[step])
        assert float.fromhex(total[step]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["openai", "scripted", ""])
def test_a_teacher_without_log_probs_is_refused_for_a_divergence(project: Path, kind: str) -> None:
    described = {"name": "far", "kind": kind, "path": "x"} if kind else {}
    with pytest.raises(BadInput, match="teacher"):
        train(project, described=described, student={"path": str(tiny_model())})


def test_an_architecture_that_cannot_be_exported_is_said_before_training(project: Path, tmp_path: Path) -> None:
    strange = tiny_gguf(tmp_path / "strange.gguf", architecture="gemma", layers=1)
    with pytest.raises(BadInput, match="cannot become a student"):
        train(project, described=teacher(strange))
    assert not (project / "runs" / "run" / CHECKPOINTS_NAME).exists()


def test_an_empty_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no rows to train on"):
        train(make_project(tmp_path, rows=0))


def test_a_tag_that_no_row_has_is_refused(project: Path) -> None:
    with pytest.raises(BadInput, match="No row is held out"):
        train(project, data={"held_out_tag": "gone"})


def test_long_rows_are_left_out_and_listed(project: Path) -> None:
    result = train(project, data={"maximum_tokens": 55})
    warned = [line.event for line in journal(project / "runs" / "run") if isinstance(line.event, Warned)]
    assert any("too long" in event.title for event in warned)
    assert result["rows"] + result["held_out_rows"] < 20


def test_lora_trains_and_merges(project: Path) -> None:
    table = {"adapter": "lora", "lora_rank": 4, "layer_count": 2}
    result = train(project, student=table, run={"steps": 8}, optimizer={"learning_rate": 1e-2})
    assert result["final"]["held_out_forward_kl"] < result["before"]["held_out_forward_kl"]
    trained = weights(project, "run")
    assert len(trained) == 2 * 9 + 3
    untouched = tiny_model(layers=4)
    _, before = load_gguf(untouched, layers=(0, 3))
    assert torch.equal(trained["model.embed_tokens.weight"], before["model.embed_tokens.weight"])
    assert not torch.equal(trained["model.layers.0.mlp.up_proj.weight"], before["model.layers.0.mlp.up_proj.weight"])


def test_a_stopped_run_keeps_what_it_did_and_resumes_bit_for_bit(project: Path) -> None:
    whole = train(project, "whole", run={"steps": 9, "checkpoint_every": 4})
    folder = make_run(project, "broken", recipe(run={"steps": 9, "checkpoint_every": 4}))
    results = []
    for stop_after in (3, 6, 99):
        results.append(JournalledJob(folder, stop_after).run())
        assert (folder / "student" / "model.safetensors").is_file()
    result = results[-1]
    assert result["final"] == whole["final"]
    assert result["before"] == whole["before"]
    assert result["tokens"] == whole["tokens"]
    for name in ("loss", "grad_norm", "learning_rate", "held_out_forward_kl"):
        assert curve(folder, name) == curve(project / "runs" / "whole", name)
    ours, theirs = weights(project, "broken"), weights(project, "whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_resumed_run_keeps_the_rows_it_began_with(project: Path) -> None:
    whole = train(project, "whole", run={"steps": 4})
    folder = make_run(project, "broken", recipe(run={"steps": 4}))
    with pytest.raises(KnownError, match="Stopped"):
        JournalledJob(folder, stop_after=0).run()  # while the teacher is reading
    with Project.open(project) as opened:
        opened.rows.set_status("response", [2, 3, 4], "rejected")
    assert JournalledJob(folder).run()["final"] == whole["final"]


def test_a_damaged_checkpoint_is_passed_over_and_said(project: Path) -> None:
    whole = train(project, "whole", run={"steps": 6})
    train(project, "broken", run={"steps": 6})
    folder = project / "runs" / "broken"
    newest = max((folder / CHECKPOINTS_NAME).iterdir())
    data = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(data[:-1] + b"\x01")
    assert JournalledJob(folder).run()["final"] == whole["final"]
    warned = [line.event for line in journal(folder) if isinstance(line.event, Warned)]
    assert any(newest.name in event.detail for event in warned)


def test_other_versions_are_said_at_resume(project: Path) -> None:
    train(project, run={"steps": 4})
    folder = project / "runs" / "run"
    manifest = max((folder / CHECKPOINTS_NAME).iterdir()) / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["versions"]["torch"] = "1.0"
    manifest.write_text(json.dumps(changed))
    JournalledJob(folder).run()
    warned = [line.event for line in journal(folder) if isinstance(line.event, Warned)]
    assert any("torch was 1.0" in event.detail for event in warned)


def test_eight_rows_once_are_one_row_eight_times(project: Path) -> None:
    for name, rows, accumulation in (("once", 8, 1), ("eight", 1, 8)):
        table = {"steps": 50, "rows_per_batch": rows, "accumulation": accumulation, "evaluate_every": 50}
        table["checkpoint_every"] = 100
        train(project, name, run=table, student={"layer_count": 1}, optimizer={"learning_rate": 1e-3})
    once, eight = (
        [float.fromhex(value) for value in curve(project / "runs" / name).values()] for name in ("once", "eight")
    )
    assert once[0] == pytest.approx(eight[0], rel=1e-6)
    differences = [(one - other) / one for one, other in zip(once, eight, strict=True)]
    assert max(abs(difference) for difference in differences) <= 1e-4
    assert abs(sum(differences)) <= 5e-4  # rounding has no direction: nothing drifts to one side


def test_a_run_that_diverges_says_so(project: Path, tmp_path: Path) -> None:
    build(StudentTable(layer_count=1), tiny_model(layers=4), seed=0).save(tmp_path / "student", {})
    state = load_file(tmp_path / "student" / "model.safetensors")
    state["model.norm.weight"][3] = torch.nan
    save_file(state, tmp_path / "student" / "model.safetensors")
    broken = {"source": "folder", "path": str(tmp_path / "student"), "layer_count": 0}
    with pytest.raises(KnownError, match="values that are no numbers"):
        train(project, "checked", student=broken)
    with pytest.raises(KnownError, match="no longer a number"):
        train(project, "unchecked", student=broken, run={"audit": "off"})


def test_bf16_where_the_recipe_asks_for_it(project: Path) -> None:
    result = train(project, run={"steps": 8, "precision": "bf16"}, optimizer={"learning_rate": 3e-3})
    assert result["final"]["held_out_forward_kl"] < result["before"]["held_out_forward_kl"]


def test_a_device_that_is_not_there_is_refused(project: Path) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="device"):
            train(project, run={"device": "cuda"})


def test_epochs_give_the_steps(project: Path) -> None:
    result = train(project, run={"steps": 0, "epochs": 1.5, "rows_per_batch": 4})
    assert result["steps"] == 6  # 16 rows are 4 steps an epoch


def test_the_teacher_may_be_a_folder(project: Path, tmp_path: Path) -> None:
    build(StudentTable(), tiny_model(layers=4), seed=0).save(tmp_path / "teacher", {})
    described = {"name": "folder", "kind": "huggingface", "path": str(tmp_path / "teacher")}
    from_folder = train(project, "folder", described)
    from_file = train(project, "file")
    assert from_folder["final"] == from_file["final"]


def test_the_spec_of_a_teacher_is_what_the_job_reads() -> None:
    assert {"name", "kind", "path"} <= set(TeacherSpec("a", "gguf", path="x").__dataclass_fields__)
    assert run_files.JOB_NAME == "job.toml"


def test_a_refit_is_a_better_start_and_resumes_bit_for_bit(project: Path) -> None:
    tables: dict[str, Any] = {"student": {"refit": True, "freeze_embeddings": True}, "run": {"steps": 5}}
    whole = train(project, "whole", **tables)
    assert whole["refitted"]["held_out_forward_kl"] < 0.8 * whole["before"]["held_out_forward_kl"]
    broken = make_run(project, "broken", recipe(**tables))
    result: dict[str, Any] = {}
    for stop_after in (12, 10**9):  # the first stop falls into training, after teacher and refit were asked
        result = JournalledJob(broken, stop_after).run()
    assert result["final"] == whole["final"]
    assert curve(broken) == curve(project / "runs" / "whole")
    assert torch.equal(weights(project, "broken")["lm_head.weight"], weights(project, "whole")["lm_head.weight"])


def test_a_refit_under_lora_resumes_bit_for_bit(project: Path) -> None:
    tables: dict[str, Any] = {"student": {"refit": True, "adapter": "lora", "lora_rank": 2, "lora_dropout": 0.2}}
    tables["run"] = {"steps": 6}
    whole = train(project, "whole", **tables)
    broken = make_run(project, "broken", recipe(**tables))
    stopped = JournalledJob(broken, 8).run()
    assert 0 < stopped["steps"] < 6
    assert JournalledJob(broken).run()["final"] == whole["final"]
    assert curve(broken) == curve(project / "runs" / "whole")


def test_held_out_rows_may_be_drawn_or_left_away(project: Path) -> None:
    drawn = train(project, "drawn", data={"held_out_tag": "", "held_out": 0.2})
    assert (drawn["rows"], drawn["held_out_rows"]) == (16, 4)
    none = train(project, "none", data={"held_out_tag": "", "held_out": 0.0})
    assert (none["rows"], none["held_out_rows"], none["held_out_against"]) == (20, 0, "")
    assert set(none["final"]) == {"loss"}
    assert none["before"] == {}


def test_a_run_stopped_before_its_first_step_says_nothing_that_is_not_so(project: Path) -> None:
    stopped = JournalledJob(make_run(project, "run", recipe()), stop_after=1).run()
    assert stopped["steps"] == 0
    assert "loss" not in stopped["final"]
    json.dumps(stopped, allow_nan=False)
    assert not (project / "runs" / "run" / "student").exists()


def test_a_folder_as_teacher_wants_its_signals_stored_first(project: Path, tmp_path: Path) -> None:
    build(StudentTable(), tiny_model(layers=4), seed=0).save(tmp_path / "teacher", {})
    described = {"name": "folder", "kind": "huggingface", "path": str(tmp_path / "teacher")}
    with pytest.raises(KnownError, match="signals are missing"):
        train(project, "run", described, teacher={"signals": "stored"})
