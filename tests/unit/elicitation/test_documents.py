"""Documents: what is read of each kind, what is said of what cannot be, and passages that keep their place."""

from __future__ import annotations

import itertools
import random
import time
from pathlib import Path

import pytest

from kdstudio.elicitation.document_readers import Reading
from kdstudio.elicitation.documents import Document, Part, ReadLimits, chunks, documents_in, read_document
from kdstudio.errors import BadInput
from tests.unit.elicitation.document_files import docx, docx_bomb, docx_with_entities, encrypted_pdf, pdf


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def check_places(document: Document) -> None:
    """Parts follow each other and cover the text."""
    assert [part.start for part in document.parts] == sorted(part.start for part in document.parts)
    assert document.parts[0].start == 0
    assert document.parts[-1].end == len(document.text)
    for before, after in zip(document.parts, document.parts[1:], strict=False):
        assert document.text[before.end : after.start] == "\n\n"


def test_plain_text_keeps_its_paragraphs(tmp_path: Path) -> None:
    document = read_document(written(tmp_path / "a note.txt", "One\r\nline.  \r\n\r\n \t\r\nTwo.\0\r\n"))
    assert document == Document(str(tmp_path / "a note.txt"), "a note", "One\nline.\n\nTwo.", (Part(0, 15, "", 0),))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_encodings_are_found(encoding: str, tmp_path: Path) -> None:
    text = "Grüße aus Zürich, über den Fluss gesagt."
    document = read_document(written(tmp_path / "a.txt", text.encode(encoding)))
    assert document.text == text
    assert document.notes == ()


def test_latin_1_is_read_and_said(tmp_path: Path) -> None:
    document = read_document(written(tmp_path / "a.txt", "Größe: 5 € – gut".encode("cp1252")))
    assert document.text == "Größe: 5 € – gut"
    assert "Latin-1" in document.notes[0]
    page = '<meta charset="koi8-r"><p>Привет, мир'.encode("koi8-r")
    assert read_document(written(tmp_path / "a.html", page)).text == "Привет, мир"


def test_program_text_keeps_its_indentation(tmp_path: Path) -> None:
    written(tmp_path / "a.py", "def one():\n    first = 1\n\n    return first\n")
    (path,) = documents_in([tmp_path])
    assert read_document(path).text == "def one():\n    first = 1\n\n    return first"


def test_markdown_has_headings_but_not_in_code(tmp_path: Path) -> None:
    text = "---\ntitle: x\n---\n# Cells #\n\nAll life.\n\n## Walls\nOf *wood*.\n\n```sh\n# no heading\n\nls\n```\n"
    document = read_document(written(tmp_path / "a.md", text))
    assert document.title == "Cells"
    assert document.text == "Cells\n\nAll life.\n\nWalls\n\nOf *wood*.\n\n```sh\n# no heading\n\nls\n```"
    assert [part.heading for part in document.parts] == ["Cells", "Walls"]
    check_places(document)


def test_html_leaves_out_what_no_reader_reads(tmp_path: Path) -> None:
    page = """<!doctype html><html><head><title>The
      heart</title><style>p { color: red }</style></head><body><nav><ul><li>Home<nav>x</nav></li></ul></nav>
      <h1>The <em>heart</em></h1><p>It   pumps &amp; rests.<br>Twice.</p><script>alert("no")</script>
      <div hidden>secret</div><div style="display: none">more</div><div role="navigation"><div>menu</div></div>
      <h2>Rates</h2><ul><li>rest: 60</li><li>run: 150</li></ul><table><tr><th>who</th><th>rate</th></tr>
      <tr><td>cat</td><td>200</td></tr></table><pre>a
  b</pre><footer>imprint</footer></body></html>"""
    document = read_document(written(tmp_path / "a.htm", page))
    assert document.title == "The heart"
    assert document.text.split("\n\n") == [
        "The heart", "It pumps & rests.\nTwice.", "Rates", "- rest: 60", "- run: 150", "who | rate", "cat | 200",
        "a\n  b",
    ]  # fmt: skip
    assert [part.heading for part in document.parts] == ["The heart", "Rates"]


def test_broken_html_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    page = "<p>one <b>two<p>three</i></div><![x[<!-- no end <p>four"
    assert "one two" in read_document(written(tmp_path / "a.html", page)).text
    began = time.monotonic()
    endless = written(tmp_path / "b.html", "<p>x<p>y" + "<div>" * 50_000 + "<a " * 50_000)
    document = read_document(endless, ReadLimits(page_seconds=1))
    assert document.text.startswith("x\n\ny")
    assert time.monotonic() - began < 10


def test_pdf_pages_are_kept(tmp_path: Path) -> None:
    document = read_document(written(tmp_path / "a.pdf", pdf(["First page (one).\nIt goes on.", "Second page."])))
    assert document.text == "First page (one).\nIt goes on.\n\nSecond page."
    assert [part.page for part in document.parts] == [1, 2]
    check_places(document)
    assert chunks(document, 8, 2)[-1].page == 1
    assert chunks(document, 4, 0)[-1].page == 2


def test_a_long_pdf_is_read_to_the_limit_and_says_so(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pdf", pdf([f"Page {number}." for number in range(1, 2001)]))
    document = read_document(path, ReadLimits(pages=20))
    assert document.parts[-1].page == 20
    assert "first 20 of 2,000 pages" in document.notes[0]


def test_a_pdf_is_read_as_far_as_time_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.pdf", pdf([f"Page {number}." for number in range(1, 31)]))
    asked = itertools.count()
    real = Reading.in_time

    def in_time(reading: Reading) -> bool:
        if next(asked) == 10:  # once before each page and once at its only paragraph
            reading._began -= reading.limits.seconds + 1
        return real(reading)

    monkeypatch.setattr(Reading, "in_time", in_time)
    document = read_document(path)
    assert document.parts[-1].page == 5
    assert "could be read in" in document.notes[-1]


def test_a_pdf_that_takes_too_long_for_its_first_page_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reading, "in_time", lambda _: False)
    with pytest.raises(BadInput, match="takes too long"):
        read_document(written(tmp_path / "a.pdf", pdf(["One.", "Two."])))


def test_scans_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no text") as caught:
        read_document(written(tmp_path / "a.pdf", pdf(["", ""])))
    assert "OCR" in caught.value.hint
    document = read_document(written(tmp_path / "b.pdf", pdf(["Words.", "", ""])))
    assert document.notes == ("2 of 3 pages hold no text: they are empty or scanned.",)


def test_encrypted_documents_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="password"):
        read_document(written(tmp_path / "a.pdf", encrypted_pdf("Hidden.", "secret")))
    assert read_document(written(tmp_path / "b.pdf", encrypted_pdf("Open.", ""))).text == "Open."
    with pytest.raises(BadInput, match="Word") as caught:
        read_document(written(tmp_path / "a.docx", b"\xd0\xcf\x11\xe0" + bytes(600)))
    assert "password" in caught.value.detail


def test_word_documents_have_headings_and_tables(tmp_path: Path) -> None:
    path = docx(tmp_path / "a.docx", [("Fever", ["It rises.", "It falls."]), ("Dose", ["By weight."])], "On fever")
    document = read_document(path)
    assert document.title == "On fever"
    assert document.text == "Fever\n\nIt rises.\n\nIt falls.\n\nDose\n\nBy weight.\n\ndose | ml\nadult | 5"
    assert [part.heading for part in document.parts] == ["Fever", "Dose"]
    check_places(document)


@pytest.mark.faults
def test_bombs_in_word_documents_are_refused_unopened(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match="not safe"):
        read_document(docx_bomb(tmp_path / "a.docx"))
    try:
        text = read_document(docx_with_entities(tmp_path / "b.docx")).text
    except BadInput:
        text = ""
    assert "root:" not in text
    assert "lol" not in text
    assert time.monotonic() - began < 10


@pytest.mark.faults
def test_damaged_documents_fail_in_words(tmp_path: Path) -> None:
    chance = random.Random(5)
    failures: list[BadInput] = []
    whole = {".pdf": pdf(["Some words.", "More of them."]), ".docx": b""}
    whole[".docx"] = docx(tmp_path / "whole.docx", [("A", ["b"])]).read_bytes()
    for number in range(120):
        suffix = chance.choice([".pdf", ".docx"])
        data = bytearray(whole[suffix])
        for _ in range(chance.randrange(1, 40)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = bytes(data[: chance.randrange(1, len(data))]) if number % 2 else bytes(data)
        try:
            check_places(read_document(written(tmp_path / f"x{suffix}", cut)))
        except BadInput as error:
            failures.append(error)
    assert failures
    assert all(error.detail and error.hint for error in failures)


def test_what_is_no_document_is_refused(tmp_path: Path) -> None:
    for name, data in {
        "a.exe": b"MZ",
        "a": b"x",
        "a.doc": b"x",
        "a.txt": bytes(range(256)) * 9,
        "b.txt": b" \n",
    }.items():
        with pytest.raises(BadInput) as caught:
            read_document(written(tmp_path / name, data))
        assert caught.value.hint
    with pytest.raises(BadInput, match="cannot be opened"):
        read_document(tmp_path / "nowhere.txt")
    with pytest.raises(BadInput, match="too large"):
        read_document(written(tmp_path / "c.txt", b"x" * 100), ReadLimits(bytes=99))
    assert read_document(written(tmp_path / "named wrongly.txt", pdf(["A page."]))).text == "A page."


def test_long_texts_are_read_to_the_limit(tmp_path: Path) -> None:
    document = read_document(written(tmp_path / "a.txt", "word " * 1000), ReadLimits(characters=50))
    assert len(document.text) <= 50
    assert "first 50 characters" in document.notes[0]


def test_documents_of_folders_come_in_order(tmp_path: Path) -> None:
    for name in ("b/2.md", "b/1.txt", "a.pdf", "c.png", ".hidden/x.txt", "b/.kdtmp-9.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, "x")
    found = documents_in([tmp_path / "b" / "2.md", tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/2.md", "a.pdf", "b/1.txt"]
    with pytest.raises(BadInput, match="No such document"):
        documents_in([tmp_path / "z"])
    with pytest.raises(BadInput, match="No documents"):
        documents_in([tmp_path / ".hidden" / ".."][:0])


# ------------------------------------------------------------------------------------------------------- passages
def book(seed: int) -> str:
    chance = random.Random(seed)
    lines = []
    for _ in range(chance.randrange(1, 12)):
        lines.append(f"{'#' * chance.randrange(1, 4)} Heading {chance.randrange(100)}")
        for _ in range(chance.randrange(0, 6)):
            words = [
                f"w{chance.randrange(999)}{'.' if chance.random() < 0.1 else ''}"
                for _ in range(chance.randrange(1, 400))
            ]
            lines.append(" ".join(words))
    return "\n\n".join(lines)


@pytest.mark.parametrize("seed", range(30))
def test_passages_cover_the_document_exactly(seed: int, tmp_path: Path) -> None:
    document = read_document(written(tmp_path / "a.md", book(seed)))
    words, overlap = random.Random(seed).choice([(220, 30), (50, 0), (40, 20), (1, 0), (7, 3)])
    found = chunks(document, words, overlap)
    assert found == chunks(document, words, overlap)
    covered = 0
    for before, chunk in zip([None, *found], found, strict=False):
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert 0 < len(chunk.text.split()) <= words
        assert chunk.source == document.source
        assert not document.text[covered : chunk.start].strip()
        assert before is None or (before.start < chunk.start and before.end < chunk.end)
        covered = chunk.end
    assert covered == len(document.text)


def test_passages_end_where_a_reader_would_pause(tmp_path: Path) -> None:
    text = f"# One\n\n{'a ' * 30}end.\n\n{'b ' * 30}end.\n\n# Two\n\n{'c ' * 19}c. {'d ' * 40}"
    found = chunks(read_document(written(tmp_path / "a.md", text)), 40, 5)
    assert [chunk.heading for chunk in found] == ["One", "One", "Two", "Two", "Two"]
    assert found[0].text.endswith("a end.")
    assert found[1].text.startswith("a a a a end.\n\nb b")
    assert found[2].text.startswith("Two\n\nc c")
    assert found[2].text.endswith("c c.")
    assert found[3].text.startswith("c c c c c. d")


def test_short_sections_are_joined_and_scripts_without_blanks_cut(tmp_path: Path) -> None:
    text = "\n\n".join(f"# H{number}\n\nshort" for number in range(40))
    assert len(chunks(read_document(written(tmp_path / "a.md", text)), 40, 0)) == 8
    chinese = read_document(written(tmp_path / "b.txt", "心脏泵血。" * 200))
    assert {len(chunk.text) for chunk in chunks(chinese, 40, 0)} == {50}
    endless = read_document(written(tmp_path / "c.txt", "x" * 100_000))
    assert max(len(chunk.text) for chunk in chunks(endless, 40, 0)) == 2400
    with pytest.raises(BadInput, match="cannot be cut"):
        chunks(chinese, 10, 6)


def test_cutting_a_long_document_takes_a_moment(tmp_path: Path) -> None:
    document = read_document(written(tmp_path / "a.txt", ("word " * 99 + "end.\n\n") * 5000))
    began = time.monotonic()
    assert len(chunks(document)) > 2000
    assert time.monotonic() - began < 5
