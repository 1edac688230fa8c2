"""Files nobody should have sent: each is taken, refused line by line, or refused whole with a reason. Never a crash."""

from __future__ import annotations

import codecs
import contextlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.project import Project
from kdstudio.project.exchange import columns_of, detect, import_file

GOOD = b'{"prompt":"good","completion":"fine"}\n'


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        made._database.writer.execute("PRAGMA synchronous = OFF")
        yield made


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def reasons(project: Project, path: Path) -> dict[int, str]:
    report = import_file(project, path)
    assert (report.reject_file is None) == (report.rejected == 0)
    if report.reject_file is None:
        return {}
    lines = [json.loads(line) for line in report.reject_file.read_text().splitlines()]
    assert len(lines) == report.rejected
    return {line["line"]: line["reason"] for line in lines}


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b'"reasoning":"\\ud800"', "surrogate"),
        (b'"reference":"\\ud800"', "surrogate"),
        (b'"tags":["a\\u0000"]', "NUL"),
        (b'"system":"\\udfff"', "surrogate"),
        (b'"\\ud800":1', "surrogate"),
        (b'"score":1e999', "too large"),
        (b'"score":-Infinity', "no JSON number"),
        (b'"completion":[1]', "not an object"),
        (b'"completion":{"a":1}', "not a text"),
        (b'"prompt":[{"role":"user","content":7}]', "not a text"),
        (b'"prompt":[]', "not a list of messages"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_any_field(
    project: Project, tmp_path: Path, field: bytes, reason: str
) -> None:
    path = put(tmp_path, "a.jsonl", GOOD + b'{"prompt":"p",' + field + b"}\n" + GOOD.replace(b"good", b"other"))
    assert reason in reasons(project, path)[2]
    assert [prompt.text for prompt in project.rows.prompts()] == ["good", "other"]


def test_duplicate_keys_long_integers_and_escaped_pairs_have_rules(project: Project, tmp_path: Path) -> None:
    lines = [b'{"prompt":"first","prompt":"last"}', b'{"prompt":"int","n":%s}' % (b"7" * 4000)]
    path = put(tmp_path, "a.jsonl", b"\n".join([*lines, b'{"prompt":"\\ud83d\\udc33"}']))
    assert reasons(project, path) == {}
    assert [prompt.text for prompt in project.rows.prompts()] == ["last", "int", "\U0001f433"]


@pytest.mark.parametrize("depth", [64, 65])
def test_sixty_four_levels_are_enough(project: Project, tmp_path: Path, depth: int) -> None:
    nested = b"[" * (depth - 1) + b"]" * (depth - 1)
    path = put(tmp_path, "a.jsonl", GOOD + b'{"prompt":"deep","more":' + nested + b"}\n")
    assert (reasons(project, path) == {}) == (depth == 64)


def test_brackets_in_a_text_are_no_levels(project: Project, tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", json.dumps({"prompt": "[{" * 500}).encode())
    assert reasons(project, path) == {}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
def test_marked_encodings_are_read_and_their_broken_lines_refused(
    project: Project, tmp_path: Path, encoding: str
) -> None:
    mark = "\ufeff".encode(encoding)
    broken = {"utf-16-le": b"\x00\xd8x\x00", "utf-16-be": b"\xd8\x00\x00x"}.get(encoding, b"\xff\xff\xff\xff")
    lines = ["grüß 鲸 🐳\n".encode(encoding), "x".encode(encoding) + broken + "\n".encode(encoding)]
    path = put(tmp_path, "a.txt", mark + lines[0] + lines[1] + "end".encode(encoding))
    assert list(reasons(project, path)) == [2]
    assert [prompt.text for prompt in project.rows.prompts()] == ["grüß 鲸 🐳", "end"]


@pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, b"\x00" * 40, b" \n\t\n"])
def test_a_file_of_nothing_is_empty(project: Project, tmp_path: Path, mark: bytes) -> None:
    with pytest.raises(BadInput, match="empty"):
        import_file(project, put(tmp_path, "a.jsonl", mark))


def test_json_that_is_no_utf8_is_refused_by_line_and_plain_text_is_latin(project: Project, tmp_path: Path) -> None:
    assert list(reasons(project, put(tmp_path, "a.jsonl", GOOD + b'{"prompt":"caf\xe9"}'))) == [2]
    found = detect(put(tmp_path, "a.txt", b"caf\xe9\n"))
    assert (found.encoding, found.note[:12]) == ("cp1252", "Read as Wind")
    text = b"ok\n" * 4000 + b"caf\xe9\n"
    assert reasons(project, put(tmp_path, "late.txt", text))[4001].startswith("it is not valid text")


# ------------------------------------------------------------------------------------------------- JSON of many lines
def test_a_json_file_may_be_a_pretty_array_or_several_values(project: Project, tmp_path: Path) -> None:
    rows = [{"instruction": f"i{n}", "output": "o [{"} for n in range(5)]
    path = put(tmp_path, "a.json", json.dumps([*rows, {"instruction": ""}, 7], indent=2).encode())
    assert reasons(project, path) == {22: "the prompt is empty", 25: "it is not a JSON object"}
    several = "\n".join(json.dumps({"prompt": f"p{n}"}, indent=1) for n in range(3))
    assert import_file(project, put(tmp_path, "b.json", several.encode())).prompts == 3
    assert columns_of(path) == ("instruction", "output")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'[{"prompt":"a"},\n{"prompt":"b"}', "the list does not end"),
        (b'[{"prompt":"a"},\n{"prompt":"b', "Unterminated string"),
        (b'[{"prompt":"a"}\n{"prompt":"b"}]', "a comma or the end"),
        (b'[{"prompt":"a"}]\n{"prompt":"b"}', "something stands after its end"),
        (b'[{"prompt":"a"},\n{"prompt":NaN}]', "NaN is no JSON number"),
        (b'[{"prompt":"a"},\n' + b"[" * 9000 + b"]" * 9000 + b"]", "nested deeper"),
    ],
)
def test_a_broken_array_changes_nothing_and_says_where(
    project: Project, tmp_path: Path, content: bytes, reason: str
) -> None:
    filler = b"[" + b",".join(b'{"prompt":"%d"}' % n for n in range(3000)) + b",\n"
    with pytest.raises(BadInput, match="not valid JSON") as caught:
        import_file(project, put(tmp_path, "a.json", filler + content[1:]))
    assert reason in caught.value.detail
    assert "line " in caught.value.detail
    assert project.rows.counts() == {}


def test_a_large_array_is_read_in_pieces(project: Project, tmp_path: Path) -> None:
    rows = [{"prompt": f"{n} " + "word " * 400} for n in range(3000)]
    path = put(tmp_path, "a.json", json.dumps([*rows, {"prompt": "long " * (1 << 19)}]).encode())
    assert import_file(project, path).prompts == 3001


# --------------------------------------------------------------------------------------------------------------- CSV
def test_hostile_csv_is_refused_by_row(project: Project, tmp_path: Path) -> None:
    rows = [
        b"Prompt ,COMPLETION\r\n",  # any case, stray spaces
        b'"two\nlines",fine\r\n',
        b"nul\x00,x\r\n",
        b"too,many,cells\r\n",
        b"," * 1 + b"\r\n",
        b"\r\n",
        b"bytes \xff\xfe,x\r\n",
        b'"quote" in the middle,x\r\n',
        b"y" * (17 << 20) + b",x\r\n",
        b"last,fine\r\n",
        b'"never closed,x\r\n',
    ]
    padding = b"".join(b"row %d,fine\r\n" % n for n in range(500))
    found = reasons(project, put(tmp_path, "a.csv", rows[0] + padding + b"".join(rows[1:])))
    assert [reason[:12] for _, reason in sorted(found.items())] == [
        "it holds a N",
        "it has 3 cel",
        "it has no pr",
        "it is not va",
        "the CSV cann",
        "the line is ",
        "the CSV cann",
    ]
    assert min(found) == 504
    texts = [prompt.text for prompt in project.rows.prompts()]
    assert texts[500:] == ["two\nlines", "last"]


# ------------------------------------------------------------------------------------------------------ whatever else
def _mutant(chance: random.Random) -> tuple[str, bytes]:
    name = chance.choice(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.ndjson", "a.html", "a"])
    seeds = [
        GOOD * 3,
        json.dumps([{"instruction": "i", "output": "o"}] * 3, indent=1).encode(),
        b'prompt,completion\n"a ""b""",c\n\'=1,d\n',
        '{"messages":[{"role":"user","content":"ü"},{"role":"assistant","content":"鲸"}]}\n'.encode(),
        '{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}\n'.encode("utf-16"),
        b"<!doctype html><html><body>404</body></html>",
        b'{"prompt":"p","chosen":"c","rejected":"r"}\n' * 2,
        chance.randbytes(200),
    ]
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randrange(6)):
        at = chance.randrange(len(data) + 1)
        what = chance.randrange(4)
        if what == 0:
            data[at : at + chance.randrange(1, 8)] = chance.randbytes(chance.randrange(4))
        elif what == 1:
            data[at:at] = chance.choice([b"\x00", b'"', b"\\u0000", b"\\ud800", b"{", b"[", b"\r", b"NaN", b"\xff"])
        elif what == 2:
            del data[at:]
        else:
            data[at:at] = data[: chance.randrange(40)]
    return name, bytes(data)


def fuzz(project: Project, folder: Path, seeds: range) -> int:
    taken = 0
    for seed in seeds:
        name, data = _mutant(random.Random(seed))
        before = project.rows.counts()
        path = put(folder, name, data)
        with contextlib.suppress(KnownError):
            report = import_file(project, path)
            assert (report.reject_file is not None) == (report.rejected > 0), seed
            taken += 1
            continue
        assert project.rows.counts() == before, seed
    return taken


def test_two_hundred_mutants_are_taken_or_refused(project: Project, tmp_path: Path) -> None:
    assert 40 < fuzz(project, tmp_path, range(200)) < 200


@pytest.mark.slow
@pytest.mark.faults
def test_ten_thousand_mutants_are_taken_or_refused(project: Project, tmp_path: Path) -> None:
    assert fuzz(project, tmp_path, range(200, 10_200)) > 2000


@pytest.mark.slow
@pytest.mark.faults
def test_a_gigabyte_is_imported_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "big.jsonl"
    with path.open("wb") as stream:
        for n in range(70_000):
            stream.write(json.dumps({"prompt": f"{n} " + "word " * 3000}).encode() + b"\n")
    assert path.stat().st_size > 1_000_000_000
    code = (
        "import resource, sys; from pathlib import Path; from kdstudio.project import Project\n"
        "from kdstudio.project.exchange import import_file\n"
        "with Project.create(Path(sys.argv[1])) as project:\n"
        "    print(import_file(project, Path(sys.argv[2])).prompts)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "p"), str(path)]
    rows, kibibytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(rows) == 70_000
    assert int(kibibytes) < 400 << 10
