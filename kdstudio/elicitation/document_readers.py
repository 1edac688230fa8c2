"""What a document says, block by block: plain text, Markdown and HTML; PDF and Word are in `office_readers`.

A document comes from anywhere: it may be cut, encrypted, mis-encoded, a picture of text, or a few kilobytes that unpack
to gigabytes. Each reader keeps to limits, says in a note what it left out, and fails only with `BadInput`.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

from kdstudio.elicitation.time_limit import TimeLimitError, time_limit
from kdstudio.errors import BadInput


@dataclass(frozen=True)
class ReadLimits:
    """How much of one document is read. More is left out, and said; a larger file is refused."""

    bytes: int = 64 << 20
    pages: int = 500
    characters: int = 5_000_000
    seconds: float = 60.0
    page_seconds: float = 5.0
    unpacked_bytes: int = 256 << 20
    archive_entries: int = 10_000
    ratio: int = 100


@dataclass(frozen=True)
class Block:
    """A paragraph, or with `level` 1 to 6 a heading. `page` counts from 1; 0 where there are no pages."""

    text: str
    page: int = 0
    level: int = 0


@dataclass
class Reading:
    """What was read so far, until a limit; `full` ends it."""

    limits: ReadLimits
    title: str = ""
    blocks: list[Block] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    full: bool = False
    _characters: int = 0
    _began: float = field(default_factory=time.monotonic)

    def add(self, text: str, *, page: int = 0, level: int = 0) -> None:
        """Keep a block, trimmed; an empty one is nothing, and one too many ends the reading."""
        text = _tidy(text)
        if not text or self.full:
            return
        room = self.limits.characters - self._characters
        if len(text) > room:
            text = text[:room]
            self.stop(f"Only the first {self.limits.characters:,} characters were read.")
        self._characters += len(text)
        if text:
            self.blocks.append(Block(text, page, level))

    def add_paragraphs(self, text: str, *, page: int = 0) -> None:
        """Keep a text as the blocks that blank lines divide."""
        for paragraph in re.split(r"\n[^\S\n]*\n", text):
            if not self.in_time():
                return
            self.add(paragraph, page=page)

    def in_time(self) -> bool:
        """Whether there is time left; notes once when there is not."""
        if not self.full and time.monotonic() - self._began > self.limits.seconds:
            self.stop(f"Only what could be read in {self.limits.seconds:g} s was read.")
        return not self.full

    def stop(self, note: str) -> None:
        """End the reading, saying what is missing."""
        self.full = True
        self.notes.append(note)


Reader = Callable[[bytes, Path, Reading], None]
_UNWANTED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f\ufeff\ufffe\uffff\ud800-\udfff]")


def _tidy(text: str) -> str:
    """One newline for every kind, no control characters or lone surrogates, no blanks at line ends."""
    text = _UNWANTED.sub("", text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n").replace("\xa0", " "))
    return "\n".join(line.rstrip() for line in text.split("\n")).strip("\n")


def broken(path: Path, what: str, why: object = "") -> BadInput:
    """The file is not what its name says."""
    said = f"{path}: {why or 'it ends too early or is damaged'}"[:500].rstrip(".")
    return BadInput(f"This {what} cannot be read", f"{said}.", "Open and save it again in the program that made it.")


# ---------------------------------------------------------------------------------------------------- plain text
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode(data: bytes, path: Path, reading: Reading, *, declared: str = "") -> str:
    """The text in its own encoding: by its mark, as UTF-8, as UTF-16, as it declares, else as Latin-1 (and said).

    Raises `BadInput` when the bytes are no text.
    """
    marked = next((name for mark, name in _BOMS if data.startswith(mark)), "")
    for encoding in filter(None, (marked, "utf-8", _looks_like_utf16(data), declared)):
        try:
            return data.decode(encoding, "replace" if encoding == marked else "strict")
        except (UnicodeDecodeError, LookupError):
            continue
    text = data.decode("cp1252", "replace")
    odd = sum(data.count(byte) for byte in (*range(9), *range(14, 32)))
    if odd * 100 > len(data):
        raise BadInput("This is not a text", f"{path} holds binary data.", "Give text, Markdown, HTML, PDF or Word.")
    reading.notes.append("It is not UTF-8; it was read as Latin-1, so that accents may be wrong.")
    return text


def _looks_like_utf16(data: bytes) -> str:
    """Text of mostly Latin letters has a zero in every second byte."""
    head = data[:4096]
    if len(head) < 4 or len(data) % 2:
        return ""
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if max(even, odd) * 10 < len(head) * 3:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def read_text(data: bytes, path: Path, reading: Reading) -> None:
    """Paragraphs are what blank lines divide."""
    text = decode(data, path, reading).replace("\r\n", "\n").replace("\r", "\n")
    reading.add_paragraphs(text)


_FRONT_MATTER = re.compile(r"\A---\n.*?\n(?:---|\.\.\.)(?:\n|\Z)", re.DOTALL)
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*[ \t]*")
_FENCE = re.compile(r" {0,3}(```|~~~)")


def read_markdown(data: bytes, path: Path, reading: Reading) -> None:
    """As it is written, without front matter; lines that begin with # are headings, except in fenced code."""
    text = decode(data, path, reading).replace("\r\n", "\n").replace("\r", "\n")
    paragraph: list[str] = []
    fence = ""
    for line in [*_FRONT_MATTER.sub("", text).split("\n"), ""]:
        mark = _FENCE.match(line)
        if mark and (not fence or mark.group(1) == fence):
            fence = "" if fence else mark.group(1)
        heading = None if fence or len(line) > 1000 else _HEADING.fullmatch(line)
        if heading or (not fence and not line.strip()):
            reading.add("\n".join(paragraph))
            paragraph = []
        if heading:
            reading.add(heading.group(2), level=len(heading.group(1)))
        elif line.strip() or fence:
            paragraph.append(line)
        if not reading.in_time():
            return
    reading.add("\n".join(paragraph))


# ----------------------------------------------------------------------------------------------------------- HTML
_LEFT_OUT = {"script", "style", "noscript", "template", "svg", "math", "nav", "footer", "aside", "iframe", "object",
             "select", "button", "dialog", "canvas"}  # fmt: skip
_BREAKS = {"p", "div", "section", "article", "main", "header", "blockquote", "ul", "ol", "dl", "dt", "dd", "table",
           "figure", "figcaption", "address", "hr", "form", "fieldset", "body", "details", "summary"}  # fmt: skip
_VOID = {"br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source", "track", "wbr"}
_CONDITIONAL = re.compile(r"<!\[(?!CDATA\[)(?:[^<>]{0,200}>)?")  # of old browsers; html.parser stumbles over others
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?([\w-]{2,40})", re.IGNORECASE)


class _Page(HTMLParser):
    """Keeps what a reader of the page reads: no scripts, navigation, footers or hidden parts."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(convert_charrefs=True)
        self._reading, self._pieces = reading, list[str]()
        self._left_out, self._depth = "", 0
        self._heading, self._in_title, self._preformatted = 0, False, 0
        self._cells = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a block, or a part that is left out."""
        if self._left_out:
            self._depth += tag == self._left_out
            return
        if tag not in _VOID and (tag in _LEFT_OUT or _hidden(dict(attrs))):
            self._left_out, self._depth = tag, 1
            return
        self._in_title = self._in_title or tag == "title"
        if tag in _BREAKS or tag in ("pre", "li", "tr") or re.fullmatch("h[1-6]", tag):
            self.flush()
        self._heading = int(tag[1]) if re.fullmatch("h[1-6]", tag) else self._heading
        self._preformatted += tag == "pre"
        self._pieces += {"br": ["\n"], "li": ["- "]}.get(tag, [])
        if tag in ("td", "th"):
            self._pieces += [" | "] if self._cells else []
            self._cells += 1

    def handle_endtag(self, tag: str) -> None:
        """End a block, or the part that was left out."""
        if self._left_out:
            self._depth -= tag == self._left_out
            self._left_out = self._left_out if self._depth else ""
            return
        self._in_title = self._in_title and tag != "title"
        if tag in _BREAKS or tag in ("pre", "li", "tr") or re.fullmatch("h[1-6]", tag):
            self.flush()
        self._preformatted -= tag == "pre" and self._preformatted > 0

    def handle_data(self, data: str) -> None:
        """Text: in the title, left out, or part of the block."""
        if self._in_title:
            self._reading.title = (self._reading.title + data)[:500]
        elif not self._left_out:
            self._pieces.append(data if self._preformatted else re.sub(r"[ \t\r\n\f]+", " ", data))

    def flush(self) -> None:
        """The block ends here."""
        text = "".join(self._pieces)
        if not self._preformatted:
            text = re.sub(r" +", " ", text)
            text = "\n".join(line.strip() for line in text.split("\n")).strip()
        self._reading.add("" if text == "-" else text, level=self._heading)
        self._pieces.clear()
        self._heading, self._cells = 0, 0


def _hidden(attributes: dict[str, str | None]) -> bool:
    style = re.sub(r"\s", "", attributes.get("style") or "")
    return (
        "hidden" in attributes
        or attributes.get("aria-hidden") == "true"
        or attributes.get("role") in ("navigation", "banner", "contentinfo", "search", "menu")
        or "display:none" in style
    )


def read_html(data: bytes, path: Path, reading: Reading) -> None:
    """The page's text without scripts, navigation and hidden parts."""
    declared = _CHARSET.search(data[:4096])
    text = decode(data, path, reading, declared=declared.group(1).decode() if declared else "")
    text, page = _CONDITIONAL.sub("", text), _Page(reading)
    try:
        for place in range(0, len(text), 1 << 14):
            if not reading.in_time():
                return
            with time_limit(reading.limits.page_seconds):
                page.feed(text[place : place + (1 << 14)])
        with time_limit(reading.limits.page_seconds):
            page.close()
    except (TimeLimitError, AssertionError, RecursionError) as error:
        page.flush()
        if not reading.blocks:
            raise broken(path, "HTML page", "its markup cannot be taken apart") from error
        reading.stop("Its markup could not be taken apart to the end; what comes later is missing.")
    page.flush()
