"""Import and export: every format, every hostile line, all or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.errors import BadInput, Stopped
from kdstudio.project import Project
from kdstudio.project.exchange import FORMATS, detect, export_file, import_file


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        yield made


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


MESSAGES = b'{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]}\n'


@pytest.mark.parametrize(
    ("name", "content", "format_name", "prompt", "answer"),
    [
        ("a.jsonl", MESSAGES, "openai_messages", "hi", "yo"),
        (
            "a.jsonl",
            b'{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}',
            "sharegpt",
            "q",
            "a",
        ),
        ("a.json", b'[{"instruction":"i","input":"x","output":"o"}]', "alpaca", "i\n\nx", "o"),
        ("a.jsonl", b'{"prompt":"p","completion":"c"}\r\n', "prompt_completion", "p", "c"),
        ("a.csv", b'prompt;completion\n"a; b";c\n', "csv", "a; b", "c"),
        ("a.tsv", b"question\tanswer\nwhy\tso\n", "csv", "why", "so"),
        ("a.txt", "Grüße\n".encode("utf-16"), "lines", "Grüße", None),
        ("a.txt", b"caf\xe9\n", "lines", "café", None),
        ("a.jsonl", b'\xef\xbb\xbf{"prompt":"bom"}', "prompt_completion", "bom", None),
    ],
)
def test_formats_are_recognised(
    project: Project, tmp_path: Path, name: str, content: bytes, format_name: str, prompt: str, answer: str | None
) -> None:
    report = import_file(project, put(tmp_path, name, content))
    assert (report.format, report.rows, report.rejected, report.reject_file) == (format_name, 1, 0, None)
    assert [row.text for row in project.rows.prompts()] == [prompt]
    assert [row.text for _, row in project.rows.pairs(status="any")] == ([answer] if answer else [])


def test_preferences_keep_their_order(project: Project, tmp_path: Path) -> None:
    path = put(
        tmp_path, "a.jsonl", b'{"prompt":"p","chosen":"good","rejected":"bad"}\n{"prompt":"p","chosen":"good"}\n'
    )
    report = import_file(project, path)
    assert (report.preferences, report.rejected) == (1, 1)
    preference = next(project.rows.preferences())
    assert (preference.candidates, preference.scores) == (("good", "bad"), (1.0, 0.0))


HOSTILE = [
    (b"broken", "not valid JSON"),
    (b'{"prompt":"a\x00b"}', "NUL"),
    (b'{"prompt":"a\\u0000b"}', "NUL"),
    (b'{"prompt":"\\ud800"}', "surrogate"),
    (b'{"prompt":"\xff\xfe"}', "not valid text"),
    (b'{"prompt":NaN}', "NaN"),
    (b'{"prompt":' + b"9" * 5000 + b"}", "not valid JSON"),
    (b"[" * 10_000 + b"]" * 10_000, "deeper than 64"),
    (b'{"prompt":' + b'{"a":' * 100 + b"1" + b"}" * 101, "deeper than 64"),
    (b'{"prompt":"' + b"x" * (20 << 20) + b'"}', "longer than 16 MiB"),
    (b'{"prompt":""}', "no prompt"),
    (b'{"prompt":"   "}', "prompt is empty"),
    (b'{"prompt":5}', "not a text"),
    (b'"only a string"', "not a JSON object"),
    (b'{"prompt":[{"role":"wizard","content":"x"}]}', "unknown role"),
    (b'{"prompt":"p","completion":"  "}', "response is empty"),
]


@pytest.mark.parametrize(("line", "reason"), HOSTILE, ids=[reason for _, reason in HOSTILE])
def test_a_hostile_line_is_rejected_by_number_and_the_others_arrive(
    project: Project, tmp_path: Path, line: bytes, reason: str
) -> None:
    path = put(tmp_path, "a.jsonl", b'{"prompt":"before"}\n\n' + line + b'\n{"prompt":"after"}\n')
    report = import_file(project, path)
    assert (report.rows, report.rejected) == (2, 1)
    assert report.reject_file is not None
    rejected = [json.loads(text) for text in report.reject_file.read_text().splitlines()]
    assert rejected[0]["line"] == 3
    assert reason in rejected[0]["reason"]
    assert [row.text for row in project.rows.prompts()] == ["before", "after"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n\n  \n"),
        ("a.jsonl", bytes(range(256)) * 50),
        ("a.jsonl", b'{"foo":1}\n'),
        ("a.json", b'[{"prompt": "cut off'),
        ("a.csv", b"colour,size\nred,3\n"),
    ],
)
def test_a_file_without_anything_usable_changes_nothing(
    project: Project, tmp_path: Path, name: str, content: bytes
) -> None:
    with pytest.raises(BadInput):
        import_file(project, put(tmp_path, name, content))
    with pytest.raises(BadInput):
        import_file(project, tmp_path / "missing.jsonl")
    assert project.rows.counts() == {}


def test_an_import_that_is_given_up_leaves_nothing(project: Project, tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", b"".join(b'{"prompt":"%d"}\n' % n for n in range(9000)))

    def give_up(done: int, total: int) -> None:
        if done > total // 2:
            raise Stopped

    with pytest.raises(Stopped):
        import_file(project, path, progress=give_up)
    assert project.rows.counts() == {}
    assert list(project.rows.prompts()) == []
    assert import_file(project, path).rows == 9000
    again = import_file(project, path)
    assert (again.rows, again.duplicates) == (0, 9000)


def test_a_mapping_names_columns(project: Project, tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b"frage,antwort\nwarum,darum\n")
    assert import_file(project, path, mapping={"prompt": "frage", "response": "antwort"}).responses == 1
    assert detect(path, {"prompt": "frage"}).columns[:2] == ("frage", "antwort")


def test_every_format_writes_what_it_reads(project: Project, tmp_path: Path) -> None:
    import_file(project, put(tmp_path, "a.jsonl", MESSAGES))
    import_file(project, put(tmp_path, "b.jsonl", b'{"prompt":"p","chosen":"=good","rejected":"bad"}\n'))
    for entry in FORMATS:
        kind = "preference" if entry.key == "preference" else "prompt" if entry.key == "lines" else "response"
        out = tmp_path / f"out-{entry.key}{entry.suffix}"
        count = export_file(project, out, entry.key, kind=kind, status="")  # type: ignore[arg-type]
        assert count == (2 if kind == "prompt" else 1)
        assert detect(out).format == ("csv" if entry.key == "csv" else entry.key)
    with pytest.raises(BadInput, match="does not fit"):
        export_file(project, tmp_path / "x", "alpaca", kind="preference")
