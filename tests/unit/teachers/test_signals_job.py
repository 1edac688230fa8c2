"""The signals job scores accepted responses once, goes on where it stopped, and says what it left out.

What is stored outlives a move of the project; another file in the teacher's place, and damage, are said.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdstudio.errors import KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Dropped, Progress, Warned
from kdstudio.jobs.journal import read_journal
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.gguf_header import fingerprint
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.project.content import NewPrompt, NewResponse
from kdstudio.teachers import signals_job
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.llama_vocab import LlamaTokenizer
from kdstudio.teachers.signals import SHAPE_BYTES, DrawnSignal, Draws, ShapedTail, SparseSignal
from kdstudio.teachers.tail_shape import FOLDER_NAME, known_shape
from kdstudio.teachers.vault import PACK_NAME, Vault
from kdstudio.teachers.vault_format import pack, unpack
from tests.tiny import tiny_model
from tests.unit.teachers.test_vault_format import divergence

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


def spec(path: Path | None = None, **options: Any) -> dict[str, Any]:
    return asdict(TeacherSpec("tiny", "gguf", str(path or tiny_model(layers=2)), options={"threads": 1, **options}))


def warnings(job: Job) -> list[Warned]:
    return [line.event for line in read_journal(job.run_folder) if isinstance(line.event, Warned)]


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

    def close(self) -> None:
        for job in self.made:
            job._journal.close()


@pytest.fixture
def job_in(project: Path) -> Iterator[Jobs]:
    jobs = Jobs(project)
    yield jobs
    jobs.close()


def test_signals_are_stored_for_accepted_rows_and_no_others(project: Path, job_in: Jobs) -> None:
    job = job_in("1")
    result = signals_job.run(job)
    assert (result["rows"], result["new_rows"], result["left_out"]) == (40, 40, 0)
    assert 0.3 < result["captured_mass"] < 1
    assert 40 < result["bytes_per_token"] < 50
    assert result["tokens_per_second"] > 0
    tokenizer = LlamaTokenizer(tiny_model(layers=2))
    stored = 0
    with Project.open(project, read_only=True) as opened, Vault(opened.vault_folder) as vault:
        assert result["tokens"] == vault.tokens
        for prompt, response in opened.rows.pairs(status="accepted"):
            row = encode_conversation(tokenizer, prompt.messages, response.text)
            key = Vault.key(fingerprint(tiny_model(layers=2)), 20, row.prompt_ids, row.response_ids)
            signal = vault.get(key)
            assert isinstance(signal, SparseSignal)
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
        if arguments[0].tally.new_rows >= 16:
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


def test_real_signals_are_packed_within_a_hundredth_of_a_nat(project: Path, job_in: Jobs) -> None:
    with contextlib.closing(LlamaTeacher(TeacherSpec(**spec()))) as teacher:
        pairs = [
            (teacher.tokenizer.encode("a robot", special=False), teacher.tokenizer.encode(text, special=False))
            for text in TEXTS
        ]
        for top_k in (20, 50):
            for _, exact in teacher.score(pairs, top_k):
                packed = unpack(pack(exact))
                assert isinstance(packed, SparseSignal)
                assert abs(divergence(exact, packed)).max() < 1e-3


def test_draws_are_stored_once_and_are_those_of_their_seed(project: Path, job_in: Jobs) -> None:
    first = signals_job.run(job_in("1", draws=50))
    assert (first["rows"], first["new_rows"]) == (40, 40)
    assert 0.5 < first["captured_mass"] < 1
    assert first["bytes_per_token"] < 60
    second = signals_job.run(job_in("2", draws=50))
    assert second["new_rows"] == 0
    assert second["captured_mass"] == pytest.approx(first["captured_mass"], abs=1e-6)
    assert signals_job.run(job_in("3", draws=50, seed=1))["new_rows"] == 40
    assert signals_job.run(job_in("4", draws=20))["new_rows"] == 40
    assert signals_job.run(job_in("5"))["new_rows"] == 40
    seeds = [drawn_of(project, Draws(50, seed)) for seed in (0, 1)]
    assert any(
        one.ids.shape != other.ids.shape or (one.ids != other.ids).any() for one, other in zip(*seeds, strict=True)
    )
    shutil.rmtree(project / "vault")
    signals_job.run(job_in("6", draws=50, limit=7))  # in other company
    assert all(
        (one.ids == other.ids).all() and (one.counts == other.counts).all()
        for one, other in zip(seeds[0][:7], drawn_of(project, Draws(50), 7), strict=True)
    )


def drawn_of(project: Path, rule: Draws, count: int = 40) -> list[DrawnSignal]:
    tokenizer, found = LlamaTokenizer(tiny_model(layers=2)), []
    with Project.open(project, read_only=True) as opened, Vault(opened.vault_folder) as vault:
        for prompt, response in opened.rows.pairs(status="accepted", limit=count):
            row = encode_conversation(tokenizer, prompt.messages, response.text)
            key = Vault.key(fingerprint(tiny_model(layers=2)), rule, row.prompt_ids, row.response_ids)
            signal = vault.get(key)
            assert isinstance(signal, DrawnSignal)
            assert (signal.counts.sum(axis=1) == rule.count).all()
            found.append(signal)
    return found


def test_nothing_is_drawn_from_a_teacher_that_hides_its_distributions(
    job_in: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(LlamaTeacher, "read")
    with pytest.raises(KnownError, match="Nothing can be drawn"):
        signals_job.run(job_in("1", draws=50))


def test_tails_are_shaped_by_one_family_that_is_fitted_once(project: Path, job_in: Jobs) -> None:
    plain = signals_job.run(job_in("1"))
    first = signals_job.run(job_in("2", tail="shaped", limit=30))
    assert (first["rows"], first["new_rows"]) == (30, 30)
    assert signals_job.run(job_in("3", tail="shaped"))["new_rows"] == 10
    again = signals_job.run(job_in("4", tail="shaped"))
    assert (again["new_rows"], again["captured_mass"]) == (0, pytest.approx(plain["captured_mass"], abs=1e-4))
    name, tokenizer = fingerprint(tiny_model(layers=2)), LlamaTokenizer(tiny_model(layers=2))
    with Project.open(project, read_only=True) as opened, Vault(opened.vault_folder) as vault:
        shape = known_shape(vault.folder, name, 20)
        assert shape is not None
        for prompt, response in opened.rows.pairs(status="accepted"):
            row = encode_conversation(tokenizer, prompt.messages, response.text)
            pair = (row.prompt_ids, row.response_ids)
            plain_one = vault.get(Vault.key(name, 20, *pair))
            shaped = vault.get(Vault.key(name, ShapedTail(20, shape.name), *pair))
            assert isinstance(shaped, SparseSignal)
            assert isinstance(plain_one, SparseSignal)
            assert np.array_equal(shaped.ids, plain_one.ids)
            assert shaped.shape is not None
            assert shaped.shape.shape == (len(row.response_ids), SHAPE_BYTES)


def test_a_family_that_was_lost_is_fitted_again_and_all_rows_with_it(project: Path, job_in: Jobs) -> None:
    signals_job.run(job_in("1", tail="shaped", limit=5))
    shutil.rmtree(project / "vault" / FOLDER_NAME)
    assert signals_job.run(job_in("2", tail="shaped"))["new_rows"] == 40


def test_no_tail_is_shaped_where_distributions_are_hidden(job_in: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(LlamaTeacher, "read")
    with pytest.raises(KnownError, match="tails") as caught:
        signals_job.run(job_in("1", tail="shaped"))
    assert "--tail bucket" in caught.value.hint


def test_a_moved_project_and_a_moved_teacher_keep_their_signals(project: Path, job_in: Jobs, tmp_path: Path) -> None:
    first = signals_job.run(job_in("1"))
    copied = shutil.copytree(project, tmp_path / "elsewhere" / "copy.kdstudio")
    moved = Path(shutil.move(project, tmp_path / "elsewhere" / "moved.kdstudio"))
    file = shutil.copy(tiny_model(layers=2), tmp_path / "elsewhere" / "renamed.gguf")
    for place in (copied, moved):
        jobs = Jobs(place)
        job = jobs("2", teacher=spec(Path(file)))
        again = signals_job.run(job)
        jobs.close()
        assert (again["rows"], again["new_rows"]) == (first["rows"], 0)
        assert not warnings(job)


def test_another_file_in_the_teachers_place_is_said(project: Path, job_in: Jobs, tmp_path: Path) -> None:
    file = Path(shutil.copy(tiny_model(layers=2), tmp_path / "teacher.gguf"))
    signals_job.run(job_in("1", teacher=spec(file)))
    signals_job.run(job_in("2", teacher=spec(file), top_k=10, limit=7))
    shutil.copy(tiny_model(layers=2, seed=1), file)
    job = job_in("3", teacher=spec(file))
    assert signals_job.run(job)["new_rows"] == 40
    (said,) = warnings(job)
    assert said.title == "The teacher's file changed"
    assert said.detail.startswith("40 stored signals belong to the earlier one")
    once_more = job_in("4", teacher=spec(file))
    assert signals_job.run(once_more)["new_rows"] == 0
    assert not warnings(once_more)  # all are there: there is nothing to say
    shutil.copy(tiny_model(layers=2), file)
    assert signals_job.run(job_in("5", teacher=spec(file)))["new_rows"] == 0


def test_another_file_is_said_of_shaped_tails_too(job_in: Jobs, tmp_path: Path) -> None:
    file = Path(shutil.copy(tiny_model(layers=2), tmp_path / "teacher.gguf"))
    signals_job.run(job_in("1", teacher=spec(file), tail="shaped", limit=9))
    shutil.copy(tiny_model(layers=2, seed=1), file)
    job = job_in("2", teacher=spec(file), tail="shaped")
    signals_job.run(job)
    assert [said.detail[:2] for said in warnings(job)] == ["9 "]


def test_damaged_signals_are_counted_and_scored_anew(project: Path, job_in: Jobs) -> None:
    signals_job.run(job_in("1"))
    pack_file = project / "vault" / PACK_NAME
    data = bytearray(pack_file.read_bytes())
    for place in (200, len(data) // 2, len(data) - 40):
        data[place] ^= 4
    pack_file.write_bytes(data)
    job = job_in("2")
    result = signals_job.run(job)
    assert (result["rows"], result["new_rows"], result["damaged"]) == (40, 3, 3)
    (said,) = warnings(job)
    assert said.detail.startswith("3 no longer had the checksum")
    after = signals_job.run(job_in("3"))
    assert (after["new_rows"], after["damaged"]) == (0, 0)


@pytest.mark.parametrize("parameters", [{"top_k": 20}, {"tail": "shaped"}, {"draws": 50}])
def test_the_mean_of_several_teachers_is_stored_under_its_own_name(job_in: Jobs, parameters: dict[str, Any]) -> None:
    several = {"teachers": [spec(), {**spec(tiny_model(layers=2, seed=1)), "name": "other"}], "weights": [0.7, 0.3]}
    assert signals_job.run(job_in("1", **parameters))["new_rows"] == 40
    assert signals_job.run(job_in("2", **several, **parameters))["new_rows"] == 40
    assert signals_job.run(job_in("3", **several, **parameters))["new_rows"] == 0
    others = job_in("4", **{**several, "weights": [0.5, 0.5]}, **parameters)
    assert signals_job.run(others)["new_rows"] == 40
    assert not warnings(others)
