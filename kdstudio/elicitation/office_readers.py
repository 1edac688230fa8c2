"""What a PDF and a Word document say, block by block, through pypdf and python-docx.

Both formats are archives of a kind: a few kilobytes may unpack to gigabytes, and a damaged file fails anywhere in the
library. All of that ends as `BadInput` here.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdstudio.elicitation.document_readers import Reading, ReadLimits, broken
from kdstudio.elicitation.time_limit import TimeLimitError, time_limit
from kdstudio.errors import BadInput

if TYPE_CHECKING:
    from docx.document import Document as WordDocument
    from docx.table import Table
    from docx.text.paragraph import Paragraph
    from pypdf import PdfReader


def read_pdf(data: bytes, path: Path, reading: Reading) -> None:
    """The text layer of each page. Raises `BadInput` for a document that is encrypted or has no text."""
    reader, count = _opened_pdf(data, path, reading)
    if count > reading.limits.pages:
        reading.notes.append(f"Only the first {reading.limits.pages:,} of {count:,} pages were read.")
    empty, failed, seen = 0, list[int](), 0
    for number in range(min(count, reading.limits.pages)):
        if not reading.in_time():
            break
        seen += 1
        text = _page_text(reader, number, reading.limits.page_seconds)
        if text is None:
            failed.append(number + 1)
        elif not text.strip():
            empty += 1
        else:
            reading.add_paragraphs(text, page=number + 1)
    if not reading.blocks:
        raise _without_text(path, reading, count, seen, failed)
    if empty:
        reading.notes.append(f"{empty:,} of {seen:,} pages hold no text: they are empty or scanned.")
    if failed:
        reading.notes.append(f"{len(failed):,} pages could not be read, the first is page {failed[0]:,}.")


def _without_text(path: Path, reading: Reading, count: int, seen: int, failed: list[int]) -> BadInput:
    """Why a PDF gave nothing."""
    if not seen:
        return BadInput(
            "This PDF takes too long to read",
            f"{path}: none of its {count:,} pages was read in {reading.limits.seconds:g} s.",
            "Split it, or print it into a new PDF.",
        )
    if failed:
        return broken(path, "PDF", f"none of its {seen:,} pages can be taken apart")
    return BadInput(
        "This PDF holds no text",
        f"{path}: none of its {seen:,} pages has any; it is probably a scan, that is, pictures of pages.",
        "Let a text recognition program (OCR) add the text, and give the result.",
    )


def _opened_pdf(data: bytes, path: Path, reading: Reading) -> tuple[PdfReader, int]:
    import io

    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        with time_limit(reading.limits.seconds):
            reader = PdfReader(io.BytesIO(data))
            locked = reader.is_encrypted and not reader.decrypt("")
            if not locked:
                reading.title = str((reader.metadata.title if reader.metadata else "") or "")[:500]
                return reader, len(reader.pages)
    except (TimeLimitError, PyPdfError, RecursionError, MemoryError) as error:
        raise broken(path, "PDF", error) from error
    except Exception as error:
        raise broken(path, "PDF", f"{type(error).__name__}: {error}") from error
    raise BadInput(
        "This PDF is protected by a password", f"{path} cannot be opened without it.", "Save a copy without a password."
    )


def _page_text(reader: PdfReader, number: int, seconds: float) -> str | None:
    """The page's text; None when it cannot be read, or not in time."""
    try:
        with time_limit(seconds):
            return reader.pages[number].extract_text()
    except Exception:  # noqa: BLE001 - one damaged page must not cost the others
        return None


# ----------------------------------------------------------------------------------------------------------- Word
def read_docx(data: bytes, path: Path, reading: Reading) -> None:
    """Paragraphs, headings by their style, tables row by row; headers and footers are left out."""
    import io

    from docx import Document

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_archive(archive, path, reading.limits)
        with time_limit(reading.limits.seconds):
            document = Document(io.BytesIO(data))
            reading.title = str(document.core_properties.title or "")[:500]
            for text, level in _word_blocks(document):
                if not reading.in_time():
                    return
                reading.add(text, level=level)
    except BadInput:
        raise
    except TimeLimitError:
        reading.stop(f"Only what could be read in {reading.limits.seconds:g} s was read.")
    except Exception as error:
        raise broken(path, "Word document", f"{type(error).__name__}: {error}") from error


def _check_archive(archive: zipfile.ZipFile, path: Path, limits: ReadLimits) -> None:
    entries = archive.infolist()
    size, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    steep = any(entry.file_size > (1 << 20) + limits.ratio * entry.compress_size for entry in entries)
    if len(entries) > limits.archive_entries or size > limits.unpacked_bytes or steep:
        raise BadInput(
            "This Word document is not safe to open",
            f"{path} unpacks from {packed:,} to {size:,} bytes in {len(entries):,} parts.",
            "Save it again in a word processor that you trust, or as text.",
        )


def _word_blocks(document: WordDocument) -> Iterator[tuple[str, int]]:
    from docx.text.paragraph import Paragraph

    for item in document.iter_inner_content():
        if isinstance(item, Paragraph):
            yield item.text, _level(item)
        else:
            yield "\n".join(_rows(item)), 0


def _level(paragraph: Paragraph) -> int:
    name = str(paragraph.style.name or "") if paragraph.style is not None else ""
    found = re.fullmatch(r"Heading ([1-9])", name)
    return 1 if name == "Title" else min(int(found.group(1)), 6) if found else 0


def _rows(table: Table) -> Iterator[str]:
    for row in table.rows:
        yield " | ".join(" ".join(cell.text.split()) for cell in row.cells)
