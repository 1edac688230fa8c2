"""The export job on a really trained tiny student: every format, the checks, the card, and what can go wrong."""

from __future__ import annotations

import errno
import json
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import transformers

from kdstudio import files
from kdstudio.errors import BadInput, KnownError, Stopped
from kdstudio.evaluation.logits import LlamaLogits
from kdstudio.evaluation.torch_logits import TorchLogits
from kdstudio.export import production
from kdstudio.export.certificate import Certificate, read_certificates
from kdstudio.export.formats import base_format, chosen_formats, needed_bytes, steps_of
from kdstudio.export.job import run
from kdstudio.jobs.chat import chat_once
from kdstudio.models.gguf_header import read_header
from tests.unit.export.trained import RUN, job_in, journal, trained_project

ALL = ["Q4_0", "Q4_K_M", "Q8_0", "F16", "SAFETENSORS"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return trained_project(tmp_path)


def export(project: Path, *formats: str, **more: Any) -> dict[str, Any]:
    return exported(project, {"run": RUN, "quantizations": list(formats), "name": "My Student", **more})


def exported(project: Path, parameters: dict[str, Any]) -> dict[str, Any]:
    with job_in(project, "export", parameters) as job:
        return run(job)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != ".lock"}


def test_every_format_is_written_checked_and_described(project: Path) -> None:
    result = export(project, *ALL)
    written = {item["quantization"]: item for item in result["files"]}
    assert list(written) == ["F16", "Q8_0", "Q4_K_M", "Q4_0", "SAFETENSORS"]
    for item in written.values():
        path = Path(item["path"])
        assert path.exists()
        assert path.parent == project / "exports" / "My-Student"
        assert item["passed"] is True
        assert item["positions"] == 288
        assert 0 <= item["kl"] < 2
    assert written["F16"]["top1_agreement"] >= 0.99
    assert written["F16"]["kl"] < written["Q8_0"]["kl"] < written["Q4_0"]["kl"]
    assert written["F16"]["bytes"] > written["Q8_0"]["bytes"] > written["Q4_0"]["bytes"]
    certificates = read_certificates(Path(result["folder"]))
    assert {item.quantization for item in certificates} == set(ALL)
    assert all(len(item.sha256) == 64 and item.same_tokens for item in certificates)
    card = Path(result["card"]).read_text()
    for words in ("My Student", "apache-2.0", "Q4\\_K\\_M.gguf", "layers 0, 3 kept", "knowledge-distillation", RUN):
        assert words in card
    assert names(project / "exports") == {"My-Student"}


def test_a_file_says_where_it_comes_from_and_chats(project: Path) -> None:
    path = Path(export(project, "Q8_0")["files"][0]["path"])
    metadata = read_header(path).metadata
    assert metadata["general.name"] == "My Student"
    assert metadata["general.license"] == "apache-2.0"
    assert metadata["general.base_model.0.name"] == "Tiny Test Teacher"
    assert metadata["kdstudio.run"] == RUN
    assert metadata["kdstudio.teacher"] == "tiny"
    assert len(metadata["kdstudio.recipe_hash"]) == 32
    assert metadata["tokenizer.ggml.eot_token_id"] == 2
    assert chat_once(path, [{"role": "user", "content": "the fox and the king"}], max_tokens=8)["tokens"] >= 1
    assert names(path.parent) == {"My-Student-Q8_0.gguf", "My-Student-Q8_0.certificate.json", "README.md", "run.txt"}


def test_the_folder_loads_in_transformers_with_the_same_tokens(project: Path) -> None:
    folder = Path(export(project, "SAFETENSORS")["files"][0]["path"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    from kdstudio.students.save import open_tokenizer

    text = "<|im_start|>user\nthe quick brown fox 123, isn't it? Grüße\n<|im_end|>\n"
    own = open_tokenizer(project / "runs" / RUN / "student")
    assert tokenizer.encode(text, add_special_tokens=False) == own.encode(text, special=True)
    assert tokenizer.chat_template == own.template
    assert tokenizer.eos_token == "<|im_end|>"
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    assert model.config.num_hidden_layers == 2


def test_a_second_export_keeps_the_first_ones_other_formats(project: Path) -> None:
    export(project, "F16", "Q8_0")
    first = (project / "exports" / "My-Student" / "My-Student-Q8_0.gguf").read_bytes()
    result = export(project, "Q4_0")
    assert [item["quantization"] for item in result["files"]] == ["Q4_0"]
    folder = Path(result["folder"])
    assert {"My-Student-F16.gguf", "My-Student-Q8_0.gguf", "My-Student-Q4_0.gguf"} <= names(folder)
    assert (folder / "My-Student-Q8_0.gguf").read_bytes() == first
    card = Path(result["card"]).read_text()
    assert all(form in card for form in ("| F16 |", "| Q8_0 |", "| Q4_0 |"))


def test_another_runs_export_is_never_written_over(project: Path) -> None:
    other = project / "exports" / "My-Student"
    other.mkdir(parents=True)
    (other / "run.txt").write_text("another-run\n")
    (other / "My-Student-F16.gguf").write_bytes(b"theirs")
    result = export(project, "F16")
    assert Path(result["folder"]).name == "My-Student-2"
    assert (other / "My-Student-F16.gguf").read_bytes() == b"theirs"
    assert Path(export(project, "Q8_0")["folder"]).name == "My-Student-2"


def test_a_wrong_file_fails_its_check_and_is_kept_aside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The student that the file is compared with gets other weights than the file: the check must see it.
    import torch

    real = TorchLogits.at

    def other(self: Any, prompt: Any, response: Any) -> Any:
        return (torch.from_numpy(block).roll(1, dims=1).numpy() for block in real(self, prompt, response))

    monkeypatch.setattr(TorchLogits, "at", other)
    with pytest.raises(KnownError, match="failed its check") as caught:
        export(project, "F16", "Q8_0")
    assert "99% are required" in caught.value.detail
    assert caught.value.exit_code == 1
    aside = project / "exports" / "My-Student-F16.failed"
    assert str(aside) in caught.value.hint
    assert read_header(aside).name == "My Student"
    found = Certificate(**json.loads((project / "exports" / "My-Student-F16.failed.json").read_text()))
    assert found.passed is False
    assert found.top1_agreement < 0.5
    assert names(project / "exports") == {"My-Student-F16.failed", "My-Student-F16.failed.json"}


def test_other_tokens_fail_the_check(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production.Production, "_row_cuts_the_same", lambda *_: False)
    with pytest.raises(KnownError, match="failed its check") as caught:
        export(project, "BF16")
    assert "cuts text into other tokens" in caught.value.detail


def test_a_stop_leaves_nothing(project: Path) -> None:
    with job_in(project, "export", {"run": RUN, "quantizations": ["F16", "Q8_0"]}) as job:
        job.stop()
        with pytest.raises(Stopped):
            run(job)
    assert names(project / "exports") == set()


def test_too_little_space_is_said_before_anything_is_written(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "free_bytes", lambda _: 1_000_000)
    with pytest.raises(KnownError, match="The disk is full") as caught:
        export(project, "F16")
    assert "bytes) and try again" in caught.value.hint
    assert names(project / "exports") == set()


@pytest.mark.parametrize("formats", [("F16",), ("Q8_0",), ("SAFETENSORS",)])
def test_a_full_disk_midway_leaves_the_earlier_export(project: Path, formats: tuple[str, ...]) -> None:
    export(project, "Q4_0")
    before = {path.name: path.read_bytes() for path in (project / "exports" / "My-Student").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(KnownError):
            export(project, *formats)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    after = {path.name: path.read_bytes() for path in (project / "exports" / "My-Student").iterdir()}
    assert before == after
    assert names(project / "exports") == {"My-Student"}


def test_a_full_disk_is_a_known_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(production, "write_folder", full)
    with job_in(project, "export", {"run": RUN, "quantizations": ["SAFETENSORS"]}) as job:
        assert job.run(run) == 1
        assert journal(job)[-1]["title"] == "The disk is full"
    assert names(project / "exports") == set()


def test_what_a_killed_export_left_is_cleared(project: Path) -> None:
    left = project / "exports" / f"{files.TEMPORARY_MARK}My-Student-abc"
    left.mkdir(parents=True)
    (left / "half.gguf").write_bytes(b"half")
    export(project, "Q8_0")
    assert names(project / "exports") == {"My-Student"}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"run": "nothing", "quantizations": ["F16"]}, "Unknown run"),
        ({"run": "../x", "quantizations": ["F16"]}, "Unknown run"),
        ({"run": RUN, "quantizations": []}, "No format"),
        ({"run": RUN, "quantizations": ["Q3_ODD"]}, "Unknown quantization"),
    ],
)
def test_bad_requests(project: Path, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        exported(project, parameters)


def test_an_unfinished_run_has_no_student(project: Path) -> None:
    (project / "runs" / "20260101-other").mkdir()
    with pytest.raises(BadInput, match="no student"):
        exported(project, {"run": "20260101-other", "quantizations": ["F16"]})


def test_a_damaged_student_is_bad_input(project: Path) -> None:
    path = project / "runs" / RUN / "student" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadInput):
        export(project, "F16")
    assert names(project / "exports") == set()


@pytest.mark.parametrize(
    ("wanted", "base", "steps"),
    [
        (["F16"], None, ["F16"]),
        (["Q8_0"], "F16", ["F16", "Q8_0"]),
        (["F32", "Q8_0", "Q4_0"], "F32", ["F32", "Q8_0", "Q4_0"]),
        (["F32", "F16", "Q8_0"], "F16", ["F32", "F16", "Q8_0"]),
        (["BF16", "Q6_K", "SAFETENSORS"], "F16", ["BF16", "F16", "Q6_K", "SAFETENSORS"]),
    ],
)
def test_quantizations_share_one_base(wanted: list[str], base: str | None, steps: list[str]) -> None:
    assert base_format(wanted) == base
    assert steps_of(wanted) == steps


def test_formats_are_sorted_and_unique() -> None:
    assert chosen_formats({"quantizations": ["q4_0", "F16", "f16"], "safetensors": True}) == [
        "F16",
        "Q4_0",
        "SAFETENSORS",
    ]


def test_estimate_covers_what_is_written(project: Path) -> None:
    needed = needed_bytes(project / "runs" / RUN / "student", ALL)
    result = export(project, *ALL)
    assert needed >= sum(item["bytes"] for item in result["files"])


def test_the_written_file_is_the_student_and_not_its_base(project: Path) -> None:
    path = Path(export(project, "F32")["files"][0]["path"])
    logits = LlamaLogits(path, context_tokens=64)
    assert logits.vocabulary_size > 300
    logits.close()
    assert read_header(path).layers == 2


def test_progress_reaches_its_total(project: Path) -> None:
    with job_in(project, "export", {"run": RUN, "quantizations": ["Q8_0"]}) as job:
        assert job.run(run) == 0
        lines = journal(job)
    shown = [line for line in lines if line["event"] == "progress"]
    assert shown[-1]["done"] == shown[-1]["total"] == 400
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["files"][0]["quantization"] == "Q8_0"
