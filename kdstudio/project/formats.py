"""The registry of file formats: what each is good for, how a record is read and how a row is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdstudio.project import format_readers as read
from kdstudio.project import format_writers as write
from kdstudio.project.content import Preference, Prompt, Response
from kdstudio.project.format_readers import PROMPT_KEYS, Item
from kdstudio.project.text_source import UnusableError
from kdstudio.registry import Entry, Params, Registry

Reader = Callable[[Mapping[str, Any]], Item]
Writer = Callable[[Prompt, Response | None, Preference | None], dict[str, Any] | str]


@dataclass(frozen=True)
class Format(Entry):
    """A file format. `read` turns a record into an item (raising `UnusableError`), `write` rows into a record."""

    suffix: str
    read: Reader
    write: Writer


_TRL = "https://huggingface.co/docs/trl/dataset_formats"
_TEXTS = {
    "openai_messages": (
        "OpenAI messages (JSONL)",
        "Keeps everything; read by most trainers.",
        "https://platform.openai.com/docs/api-reference/chat/create",
    ),
    "sharegpt": (
        "ShareGPT (JSONL)",
        "For trainers that read from/value turns.",
        "https://github.com/lm-sys/FastChat",
    ),
    "alpaca": (
        "Alpaca (JSONL)",
        "One instruction, one output.",
        "https://github.com/tatsu-lab/stanford_alpaca",
    ),
    "prompt_completion": ("Prompt and completion (JSONL)", "Two texts a row, or two lists of messages.", _TRL),
    "preference": ("Prompt, chosen, rejected (JSONL)", "For preference training.", _TRL),
    "csv": (
        "CSV for spreadsheets",
        "Opens in a spreadsheet; formulas are guarded. One turn a row.",
        "https://www.rfc-editor.org/rfc/rfc4180",
    ),
    "lines": (
        "Plain lines",
        "One text a line; line breaks inside become spaces.",
        "https://www.unicode.org/reports/tr14/",
    ),
}


def _format(key: str, suffix: str, reader: Reader, writer: Writer) -> Format:
    label, when, reference = _TEXTS[key]
    return Format(key, label, when, reference, Params, suffix, reader, writer)


FORMATS: Registry[Format] = Registry(
    "format",
    (
        _format("openai_messages", ".jsonl", read.read_messages, write.write_messages),
        _format("sharegpt", ".jsonl", read.read_sharegpt, write.write_sharegpt),
        _format("alpaca", ".jsonl", read.read_alpaca, write.write_alpaca),
        _format("prompt_completion", ".jsonl", read.read_prompt_completion, write.write_prompt_completion),
        _format("preference", ".jsonl", read.read_preference, write.write_preference),
        _format("csv", ".csv", read.read_csv, write.write_csv),
        _format("lines", ".txt", read.read_line, write.write_line),
    ),
)


def detect_record(record: Mapping[str, Any]) -> str:
    """The format of a JSON record by its keys. Raises `UnusableError` when none fits."""
    if "messages" in record:
        return "openai_messages"
    if "conversations" in record:
        return "sharegpt"
    if "chosen" in record and "rejected" in record:
        return "preference"
    if "instruction" in record and not ("prompt" in record or "completion" in record):
        return "alpaca"
    if any(key in record for key in PROMPT_KEYS):
        return "prompt_completion"
    raise UnusableError(f"its keys ({', '.join(map(str, list(record)[:8]))}) fit no format we know")
