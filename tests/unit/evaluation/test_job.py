"""The evaluation job on a really trained tiny student, as run and as file, and against teachers of other kinds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput, Stopped
from kdstudio.evaluation.held_out import rows_of_run
from kdstudio.evaluation.job import run
from kdstudio.export.job import run as export
from kdstudio.models.conversation import encode_conversation
from kdstudio.students.save import open_tokenizer
from tests.loopback import Loopback
from tests.tiny import tiny_gguf, tiny_model
from tests.unit.export.trained import RUN, job_in, journal, teacher_path, trained_project

PROMISED = {"forward_kl", "reverse_kl", "top1_agreement", "teacher_nll", "student_nll", "rows"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return trained_project(tmp_path)


def teacher(**changes: Any) -> dict[str, Any]:
    return {"name": "tiny", "kind": "gguf", "path": str(teacher_path())} | changes


def evaluate(project: Path, **parameters: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with job_in(project, "evaluate", {"teacher": teacher(), "samples": 3, "limit": 0} | parameters) as job:
        return run(job), journal(job)


def exported(project: Path, quantization: str) -> Path:
    with job_in(project, "export", {"run": RUN, "quantizations": [quantization], "name": "s"}) as job:
        return Path(export(job)["files"][0]["path"])


def test_a_run_is_measured_as_its_trainer_measured_it(project: Path) -> None:
    result, lines = evaluate(project, run=RUN)
    assert result.keys() >= PROMISED
    trained = [line for line in (project / "runs" / RUN / "events.jsonl").read_text().splitlines() if "before" in line]
    final = json.loads(trained[-1])["final"]
    assert result["forward_kl"] == pytest.approx(final["held_out_forward_kl"], rel=0.02)
    assert result["student_nll"] == pytest.approx(final["held_out_nll"], rel=0.01)
    assert result["top1_agreement"] == pytest.approx(final["held_out_top1_agreement"], abs=0.02)
    assert result["rows"] == 16
    assert result["held_out"] is True
    samples = [line for line in lines if line["event"] == "sample"]
    assert len(samples) == result["answers"] == 3
    assert all(line["prompt"].startswith("the ") and line["teacher"] != line["student"] for line in samples)
    assert 0 <= result["rouge_l"] <= 1
    assert not list((project / "runs").glob("*/.kdtmp-*"))


def test_a_file_of_that_run_gives_the_same_figures_and_answers(project: Path) -> None:
    of_run, run_lines = evaluate(project, run=RUN)
    of_file, file_lines = evaluate(project, gguf=str(exported(project, "F16")))
    for key in ("forward_kl", "reverse_kl", "teacher_nll", "student_nll"):
        assert of_file[key] == pytest.approx(of_run[key], rel=0.01)
    assert of_file["rows"] == of_run["rows"]
    texts = [[line["student"] for line in lines if line["event"] == "sample"] for lines in (run_lines, file_lines)]
    assert texts[0] == texts[1][-3:]


def test_the_teacher_has_no_gap_to_itself(project: Path) -> None:
    result, lines = evaluate(project, gguf=str(teacher_path()))
    assert result["forward_kl"] < 1e-5
    assert result["top1_agreement"] == 1.0
    assert result["exact_match"] == 1.0
    assert result["held_out"] is False
    assert any("Not measured on held-out rows" in line.get("title", "") for line in lines)


def test_limit_and_no_samples(project: Path) -> None:
    result, lines = evaluate(project, run=RUN, limit=4, samples=0)
    assert result["rows"] == 4
    assert result["answers"] == 0
    assert result["rouge_l"] is None
    assert not [line for line in lines if line["event"] == "sample"]


def test_a_teacher_without_distribution_is_said_and_answers_are_compared(project: Path) -> None:
    spec = teacher(kind="scripted", path="", options={"script": {"default": "there was once a fox"}})
    result, lines = evaluate(project, run=RUN, teacher=spec)
    assert result["forward_kl"] is None
    assert result["teacher_nll"] is None
    assert result["student_nll"] > 0
    assert result["answers"] == 3
    assert any(line.get("title") == "No divergence to this teacher" for line in lines)


def test_a_teacher_with_another_vocabulary_is_said(project: Path, tmp_path: Path) -> None:
    other = tiny_gguf(tmp_path / "other.gguf", merges=40, layers=1)
    result, lines = evaluate(project, run=RUN, teacher=teacher(path=str(other)))
    assert result["forward_kl"] is None
    warning = next(line for line in lines if line.get("title") == "No divergence to this teacher")
    assert "tokens" in warning["detail"]


def test_a_teacher_that_fails_to_answer_leaves_the_figures(project: Path) -> None:
    spec = teacher(kind="openai", url="http://127.0.0.1:9/v1", model="m", options={"timeout_seconds": 1, "tries": 1})
    result, _ = evaluate(project, run=RUN, teacher=spec, samples=1)
    assert result["student_nll"] > 0
    assert result["answers"] == 0


def test_a_teacher_that_costs_is_asked_in_the_runs_ledger_and_at_once(project: Path) -> None:
    with Loopback(models=("m",)) as server:
        options = {"price": {"input": 1.0, "output": 1.0}, "batch": True}
        spec = teacher(kind="openai", path="", url=server.url, model="m", options=options)
        result, lines = evaluate(project, run=RUN, teacher=spec, samples=1)
        assert len(server.asked) == 1
    assert result["answers"] == 1
    assert result["spend"] > 0
    kept = ["attempt", "body", "settled"]
    assert [line["event"] for line in lines if line["event"] in kept] == kept


def test_a_stop_is_kept(project: Path) -> None:
    with job_in(project, "evaluate", {"run": RUN, "teacher": teacher()}) as job:
        job.stop()
        with pytest.raises(Stopped):
            run(job)


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html><html>no</html>", b"\x00\xff" * 4000, tiny_model().read_bytes()[:3000]],
    ids=["empty", "html", "random", "truncated"],
)
def test_bad_files_are_bad_input(project: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    for parameters in ({"gguf": str(path)}, {"run": RUN, "teacher": teacher(path=str(path))}):
        with pytest.raises(BadInput) as caught:
            evaluate(project, **parameters)
        assert caught.value.exit_code == 2
        assert caught.value.detail


def test_bad_parameters(project: Path) -> None:
    with pytest.raises(BadInput, match="Unknown run"):
        evaluate(project, run="nothing")
    with pytest.raises(BadInput, match="No teacher"):
        evaluate(project, run=RUN, teacher={"nonsense": 1})
    with pytest.raises(BadInput, match="no such file"):
        evaluate(project, gguf=str(project / "none.gguf"))


def test_rows_are_those_the_run_held_out(project: Path) -> None:
    tokenizer = open_tokenizer(project / "runs" / RUN / "student")
    rows = rows_of_run(project / "runs" / RUN, project, tokenizer)
    shutil.rmtree(project / "runs" / RUN / "checkpoints", ignore_errors=True)
    assert len(rows.examples) == 16
    first = rows.examples[0]
    again = encode_conversation(tokenizer, rows.messages[first.prompt_id], first.response)
    assert again.prompt_ids == first.prompt_ids.tolist()
    assert rows.pairs[0][1] == first.response_ids.tolist()
    assert len({item.prompt_id for item in rows.prompts(6)}) == 6
    assert rows.prompts(0) == []
    assert len(rows.first(5).examples) == 5
