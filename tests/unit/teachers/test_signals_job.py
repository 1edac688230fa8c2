"""The signals job scores accepted responses once, goes on where it stopped, and says what it left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Dropped, Progress
from kdstudio.jobs.journal import read_journal
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.gguf_header import fingerprint
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.project.content import NewPrompt, NewResponse
from kdstudio.teachers import signals_job
from kdstudio.teachers.llama_vocab import LlamaTokenizer
from kdstudio.teachers.vault import Vault
from tests.tiny import tiny_model

TEXTS = [f"The robot number {number} was lost in the old forest{'!' * (number % 4)}" for number in range(40)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """40 accepted responses, one rejected, one to a rejected prompt."""
    with Project.create(tmp_path / "p") as opened:
        prompts = [NewPrompt([{"role": "user", "content": f"tell me about robot {n}"}]) for n in range(42)]
        opened.rows.add_prompts(prompts)
        ids = [prompt.id for prompt in opened.rows.prompts()]
        opened.rows.set_status("prompt", ids[:41], "accepted")
        opened.rows.set_status("prompt", ids[41:], "rejected")
        texts = [*TEXTS, "a bad one", "to a rejected prompt"]
        opened.rows.add_responses(NewResponse(id_, text) for id_, text in zip(ids, texts, strict=True))
        responses = [opened.rows.responses_of(id_)[0].id for id_ in ids]
        opened.rows.set_status("response", responses, "accepted")
        opened.rows.set_status("response", responses[40:41], "rejected")
        return opened.folder


def spec(**options: Any) -> dict[str, Any]:
    return asdict(TeacherSpec("tiny", "gguf", str(tiny_model(layers=2)), options={"threads": 1, **options}))


class Jobs:
    """Makes jobs in a project and closes their journals."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self.made: list[Job] = []

    def __call__(self, name: str, **parameters: Any) -> Job:
        run_folder = self.project / "runs" / name
        run_files.write_job(run_folder, run_files.JobFile("signals", {"teacher": spec(), "top_k": 20, **parameters}))
        self.made.append(Job(run_folder))
        return self.made[-1]


@pytest.fixture
def job_in(project: Path) -> Iterator[Jobs]:
    jobs = Jobs(project)
    yield jobs
    for job in jobs.made:
        job._journal.close()


def test_signals_are_stored_for_accepted_rows_and_no_others(project: Path, job_in: Jobs) -> None:
    job = job_in("1")
    result = signals_job.run(job)
    assert (result["rows"], result["new_rows"], result["left_out"]) == (40, 40, 0)
    assert 0.3 < result["captured_mass"] < 1
    assert 60 < result["bytes_per_token"] < 75
    assert result["tokens_per_second"] > 0
    tokenizer = LlamaTokenizer(tiny_model(layers=2))
    stored = 0
    with Project.open(project, read_only=True) as opened, Vault(opened.vault_folder) as vault:
        assert result["tokens"] == vault.tokens
        for prompt, response in opened.rows.pairs(status="accepted"):
            row = encode_conversation(tokenizer, prompt.messages, response.text)
            key = Vault.key(fingerprint(tiny_model(layers=2)), 20, row.prompt_ids, row.response_ids)
            signal = vault.get(key)
            assert signal is not None
            assert signal.ids.shape == (len(row.response_ids), 20)
            stored += 1
    assert stored == 40
    assert any(isinstance(line.event, Progress) for line in read_journal(job.run_folder))


def test_a_second_run_computes_nothing_and_says_the_same(project: Path, job_in: Jobs) -> None:
    first = signals_job.run(job_in("1"))
    size = (project / "vault" / "signals.pack").stat().st_size
    second = signals_job.run(job_in("2"))
    assert second["new_rows"] == 0
    assert (second["rows"], second["tokens"]) == (first["rows"], first["tokens"])
    assert second["captured_mass"] == pytest.approx(first["captured_mass"], abs=1e-4)
    assert (project / "vault" / "signals.pack").stat().st_size == size


def test_a_stopped_run_goes_on_where_it_was(project: Path, job_in: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals_job, "_ROWS_AT_ONCE", 8)
    job = job_in("1")
    score = signals_job._score

    def stop_after_two(*arguments: Any) -> None:
        score(*arguments)
        if arguments[5].new_rows >= 16:
            job.stop()

    monkeypatch.setattr(signals_job, "_score", stop_after_two)
    first = signals_job.run(job)
    assert first["new_rows"] == 16
    monkeypatch.setattr(signals_job, "_score", score)
    second = signals_job.run(job_in("1"))
    assert (second["rows"], second["new_rows"]) == (40, 24)


def test_limit_and_another_k(project: Path, job_in: Jobs) -> None:
    assert signals_job.run(job_in("1", limit=5))["rows"] == 5
    assert signals_job.run(job_in("2", limit=5, top_k=10))["new_rows"] == 5


def test_rows_that_do_not_fit_are_left_out_and_named(project: Path, job_in: Jobs) -> None:
    job = job_in("1", teacher=spec(context_tokens=46))
    result = signals_job.run(job)
    dropped = [line.event for line in read_journal(job.run_folder) if isinstance(line.event, Dropped)]
    assert 40 > result["left_out"] == len(dropped) > 0
    assert result["rows"] + result["left_out"] == 40
    assert "the teacher reads 46" in dropped[0].reason


def test_a_teacher_without_log_probs_is_refused(project: Path, job_in: Jobs) -> None:
    script = asdict(TeacherSpec("script", "scripted", options={"script": {"default": "hello"}}))
    with pytest.raises(KnownError, match="cannot score"):
        signals_job.run(job_in("1", teacher=script))
