"""Documents that recipes draw questions from: one text with its headings and pages, cut into passages.

A passage is a stretch of the document's own text, found again by its place, so that a row can always show what its
question was grounded in.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kdstudio.elicitation.document_readers import (
    Block,
    Reader,
    Reading,
    ReadLimits,
    read_html,
    read_markdown,
    read_text,
)
from kdstudio.elicitation.office_readers import read_docx, read_pdf
from kdstudio.errors import BadInput
from kdstudio.files import TEMPORARY_MARK

__all__ = ["Chunk", "Document", "Part", "ReadLimits", "chunks", "documents_in", "read_document"]

MAXIMUM_DOCUMENTS = 10_000
PROGRAMS = (
    *(".py", ".js", ".ts", ".java", ".kt", ".scala", ".c", ".h", ".cc", ".cpp", ".hpp", ".cs", ".go", ".rs", ".rb"),
    *(".php", ".pl", ".lua", ".r", ".jl", ".swift", ".hs", ".ml", ".ex", ".sh", ".sql"),
)
READERS: dict[str, Reader] = {
    ".txt": read_text,
    ".text": read_text,
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".xhtml": read_html,
    ".pdf": read_pdf,
    ".docx": read_docx,
    **dict.fromkeys(PROGRAMS, read_text),
}
_HINT = f"Give one of: {', '.join(name for name in READERS if name not in PROGRAMS)}, or program text."


@dataclass(frozen=True)
class Part:
    """`text[start:end]` of a document: a section under one heading, or what of it is on one page (0: no pages)."""

    start: int
    end: int
    heading: str
    page: int


@dataclass(frozen=True)
class Document:
    """What was read of a file. `notes` say, for people, what was left out or guessed."""

    source: str
    title: str
    text: str
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A passage: `text` is the document's `text[start:end]`, exactly; `source` the file, `page` where it begins."""

    text: str
    source: str
    heading: str
    start: int
    end: int
    page: int = 0


def read_document(path: Path | str, limits: ReadLimits | None = None) -> Document:
    """Read one file by what it is. Raises `BadInput` saying why it cannot be used. Call it in a job's process."""
    path, limits = Path(path), limits or ReadLimits()
    data = _bytes(path, limits)
    reading = Reading(limits)
    _reader(path, data)(data, path, reading)
    if not reading.blocks:
        raise BadInput("This document is empty", f"{path} holds no text.", "Give another one.")
    return _assembled(path, reading)


def documents_in(paths: Iterable[Path | str]) -> list[Path]:
    """The files named, and the readable ones below the folders named, each once, in order of name within a folder.

    Raises `BadInput` for a path that is not there, or when nothing can be read.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found.update(dict.fromkeys(_below(path)))
        elif path.is_file():
            found[path] = None
        else:
            raise BadInput("No such document", f"{path} is neither a file nor a folder.", "Check the path.")
        if len(found) > MAXIMUM_DOCUMENTS:
            raise BadInput("Too many documents", f"There are more than {MAXIMUM_DOCUMENTS:,}.", "Give fewer at once.")
    if not found:
        raise BadInput("No documents", "Nothing there can be read as a document.", _HINT)
    return list(found)


def chunks(document: Document, words: int = 220, overlap: int = 30) -> list[Chunk]:
    """Passages of at most `words` words, cut at headings, else paragraphs, else sentences.

    Within a section a passage begins with the last `overlap` words of the one before. A section of less than a quarter
    of `words` is joined with the next. A character of Chinese, Japanese or Korean counts as a word. Raises `BadInput`
    when the overlap is more than half of the words.
    """
    if words < 1 or not 0 <= overlap <= words // 2:
        detail = f"{words} words with an overlap of {overlap}."
        raise BadInput("Passages cannot be cut like this", detail, "Overlap at most half of the words.")
    cutter = _Cutter(document, words)
    found, place = list[Chunk](), 0
    while place < len(cutter.spans):
        end, new_section = cutter.end(place)
        found.append(cutter.chunk(place, end))
        place = end if new_section else end - overlap
    return found


# ---------------------------------------------------------------------------------------------------------- reading
def _bytes(path: Path, limits: ReadLimits) -> bytes:
    try:
        size = path.stat().st_size
        if size > limits.bytes:
            detail = f"{path} has {size:,} bytes; {limits.bytes:,} are read."
            raise BadInput("This document is too large", detail, "Divide it into smaller ones.")
        if not path.is_file():
            raise BadInput("This is not a document", f"{path} is no ordinary file.", _HINT)
        return path.read_bytes()
    except OSError as error:
        raise BadInput("This document cannot be opened", f"{path}: {error.strerror}.", "Check the path.") from error


def _reader(path: Path, data: bytes) -> Reader:
    """By the first bytes where they are certain, else by the name."""
    if data[:1024].lstrip().startswith(b"%PDF-"):
        return read_pdf
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        detail = f"{path} is a Word document from before 2007, or protected by a password."
        raise BadInput("This Word document cannot be read", detail, "Save it as .docx without a password.")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise BadInput("This kind of document is not known", f"{path} ends in {path.suffix or 'nothing'}.", _HINT)
    return reader


def _below(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).parts):
        hidden = any(part.startswith((".", TEMPORARY_MARK)) for part in path.relative_to(folder).parts)
        if path.suffix.lower() in READERS and not hidden and path.is_file():
            yield path


def _assembled(path: Path, reading: Reading) -> Document:
    pieces, parts, place, heading = list[str](), list[Part](), 0, ""
    for block in reading.blocks:
        heading = block.text if block.level else heading
        if pieces:
            pieces.append("\n\n")
            place += 2
        pieces.append(block.text)
        end = place + len(block.text)
        same = parts and not block.level and parts[-1].page == block.page
        start = parts.pop().start if same else place
        parts.append(Part(start, end, heading, block.page))
        place = end
    title = " ".join(reading.title.split()) or _first_heading(reading.blocks) or path.stem
    return Document(str(path), title, "".join(pieces), tuple(parts), tuple(reading.notes))


def _first_heading(blocks: Sequence[Block]) -> str:
    return next((" ".join(block.text.split())[:500] for block in blocks if block.level), "")


# ---------------------------------------------------------------------------------------------------------- cutting
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# 60 characters without a blank are a word: more, such as an encoded picture, would make a passage without end
_WORD = re.compile(rf"[{_CJK}][\u3002\uff01\uff1f\u3001\uff0c]?|[^\s{_CJK}]{{1,60}}")
_SENTENCE_END = re.compile(r"[.!?\u3002\uff01\uff1f][\"'”’)\]]*\Z")


class _Cutter:
    """Where the words of a document are, and where it may best be cut."""

    def __init__(self, document: Document, words: int) -> None:
        self._document, self._words = document, words
        text = document.text
        self.spans = [match.span() for match in _WORD.finditer(text)]
        starts = [start for start, _ in self.spans]
        breaks = (match.end() for match in re.finditer(r"\n\n", text))
        self._paragraphs = sorted({bisect.bisect_left(starts, place) for place in breaks})
        titled = [part for before, part in _pairs(document.parts) if before is None or part.heading != before.heading]
        self._sections = sorted({bisect.bisect_left(starts, part.start) for part in titled} | {len(starts)})
        self._part_starts = [part.start for part in document.parts]

    def end(self, place: int) -> tuple[int, bool]:
        """(the word after the last of the passage that begins at `place`, whether a section ends there)."""
        least = place + max(1, self._words // 4)
        section = self._sections[min(bisect.bisect_left(self._sections, least), len(self._sections) - 1)]
        if section <= place + self._words:
            return section, True
        latest, middle = place + self._words, place + self._words // 2
        index = bisect.bisect_right(self._paragraphs, latest) - 1
        if index >= 0 and self._paragraphs[index] > middle:
            return self._paragraphs[index], False
        for word in range(latest, middle, -1):
            start, end = self.spans[word - 1]
            if _SENTENCE_END.search(self._document.text[start:end]):
                return word, False
        return latest, False

    def chunk(self, first: int, after: int) -> Chunk:
        """The passage from word `first` to before word `after`."""
        document, start, end = self._document, self.spans[first][0], self.spans[after - 1][1]
        part = document.parts[max(0, bisect.bisect_right(self._part_starts, start) - 1)]
        return Chunk(document.text[start:end], document.source, part.heading, start, end, part.page)


def _pairs(parts: Sequence[Part]) -> Iterator[tuple[Part | None, Part]]:
    yield from zip((None, *parts), parts, strict=False)
