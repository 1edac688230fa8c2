"""The shapes in which other programs keep conversations, read into and written from one `Item`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.project.content import Message, Preference, Prompt, Response, plain_text
from kdstudio.project.text_source import UnusableError, text_fault
from kdstudio.registry import Entry, Params, Registry

_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "function_call": "assistant",
    "observation": "tool",
    "developer": "system",
}
_GUARDED = re.compile(r"^[=+\-@\t\r\x00]")


@dataclass
class Item:
    """One record: a prompt, perhaps with a response, or with answers that are ranked by scores."""

    messages: list[Message]
    response: str | None = None
    reasoning: str = ""
    candidates: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    reference: str = ""


@dataclass(frozen=True)
class Format(Entry):
    """A file format. `read` turns a record into an item (raising `UnusableError`), `write` rows into a record."""

    suffix: str
    read: Callable[[Mapping[str, Any]], Item]
    write: Callable[[Prompt, Response | None, Preference | None], dict[str, Any] | str]


def _text(value: Any, name: str) -> str:
    text = value if isinstance(value, str) else plain_text(value) if isinstance(value, list) else None
    if text is None:
        raise UnusableError(f"{name!r} is not a text")
    return text


def _chat(turns: Any, role_key: str, text_key: str, name: str) -> list[Message]:
    """Messages of a conversation in its own spelling. Extra keys such as tool_calls stay."""
    if not isinstance(turns, list) or not turns:
        raise UnusableError(f"{name!r} is not a list of messages")
    messages: list[Message] = []
    for turn in turns:
        if not isinstance(turn, dict):
            raise UnusableError(f"an entry of {name!r} is not an object")
        role = _ROLES.get(str(turn.get(role_key)))
        if role is None:
            raise UnusableError(f"a message has the unknown role {turn.get(role_key)!r}")
        content = turn.get(text_key)
        if content is None and not turn.get("tool_calls"):
            raise UnusableError("a message has no content")
        kept = {key: turn[key] for key in ("tool_calls", "tool_call_id", "name", "reasoning") if turn.get(key)}
        messages.append({"role": role, "content": content if isinstance(content, str | list) else "", **kept})
    return messages


def _split(messages: list[Message]) -> Item:
    """A conversation that ends with the assistant's turn is a prompt and its response."""
    if messages[-1]["role"] == "assistant":
        if len(messages) == 1:
            raise UnusableError("there is an answer but no prompt")
        last = messages[-1]
        return Item(messages[:-1], plain_text(last["content"]), str(last.get("reasoning", "")))
    return Item(messages)


def _extras(record: Mapping[str, Any], item: Item) -> Item:
    tags = record.get("tags", [])
    item.tags = [re.sub(r"\s+", "_", str(tag)) for tag in (tags if isinstance(tags, list) else str(tags).split())]
    item.reference = record["reference"] if isinstance(record.get("reference"), str) else ""
    return item


def _prompt_messages(record: Mapping[str, Any], value: Any) -> list[Message]:
    if isinstance(value, list):
        return _chat(value, "role", "content", "prompt")
    system = record.get("system")
    before = [{"role": "system", "content": system}] if isinstance(system, str) and system.strip() else []
    return [*before, {"role": "user", "content": _text(value, "prompt")}]


def _read_messages(record: Mapping[str, Any]) -> Item:
    return _extras(record, _split(_chat(record.get("messages"), "role", "content", "messages")))


def _read_sharegpt(record: Mapping[str, Any]) -> Item:
    return _extras(record, _split(_chat(record.get("conversations"), "from", "value", "conversations")))


def _read_alpaca(record: Mapping[str, Any]) -> Item:
    instruction, extra = _text(record.get("instruction"), "instruction"), record.get("input") or ""
    prompt = f"{instruction}\n\n{_text(extra, 'input')}" if extra else instruction
    item = Item(_prompt_messages(record, prompt))
    item.response = _text(record["output"], "output") if record.get("output") else None
    return _extras(record, item)


_PROMPT_KEYS = ("prompt", "question", "instruction", "input", "query", "text")
_RESPONSE_KEYS = ("completion", "response", "answer", "output")


def _first(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    return next((record[key] for key in keys if record.get(key) not in (None, "")), None)


def _read_prompt_completion(record: Mapping[str, Any]) -> Item:
    prompt, response = _first(record, _PROMPT_KEYS), _first(record, _RESPONSE_KEYS)
    if prompt is None:
        raise UnusableError("it has no prompt")
    item = Item(_prompt_messages(record, prompt))
    item.response = None if response is None else _answer_text(response)
    item.reasoning = str(record.get("reasoning") or "")
    return _extras(record, item)


def _answer_text(value: Any) -> str:
    """A completion given as text or as a list of messages whose last one counts."""
    if isinstance(value, list):
        return plain_text(_chat(value, "role", "content", "completion")[-1]["content"])
    return _text(value, "completion")


def _read_preference(record: Mapping[str, Any]) -> Item:
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if not chosen or not rejected:
        raise UnusableError("it has no chosen or no rejected answer")
    prompt = _first(record, _PROMPT_KEYS)
    if prompt is None and isinstance(chosen, list):
        prompt = chosen[:-1]
    if not prompt:
        raise UnusableError("it has no prompt")
    answers = [_answer_text(chosen), _answer_text(rejected)]
    return _extras(record, Item(_prompt_messages(record, prompt), candidates=answers, scores=[1.0, 0.0]))


def unguard(cell: str) -> str:
    """Undo what `guard` did."""
    return cell[1:] if cell.startswith("'") and _GUARDED.match(cell[1:]) else cell


def guard(cell: str) -> str:
    """Keep a spreadsheet from running a cell as a formula (OWASP ASVS 1.2.10)."""
    needs = _GUARDED.match(cell) or (cell.startswith("'") and _GUARDED.match(cell[1:]))
    return f"'{cell}" if needs else cell


def _read_csv(record: Mapping[str, Any]) -> Item:
    plain = {key: unguard(value) for key, value in record.items() if isinstance(value, str)}
    return _read_preference(plain) if plain.get("chosen") else _read_prompt_completion(plain)


def _read_line(record: Mapping[str, Any]) -> Item:
    return Item([{"role": "user", "content": record["text"]}])


def _write_messages(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    del preference
    messages = [*prompt.messages]
    if response is not None:
        kept = {"reasoning": response.reasoning} if response.reasoning else {}
        messages.append({**response.message, "role": "assistant", "content": response.text, **kept})
    return _with_extras({"messages": messages}, prompt)


def _with_extras(record: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    extras = {"tags": list(prompt.tags), "reference": prompt.reference}
    return record | {key: value for key, value in extras.items() if value}


def _write_sharegpt(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    del preference
    names = {"user": "human", "assistant": "gpt"}
    turns = [*prompt.messages, *([{"role": "assistant", "content": response.text}] if response else [])]
    spoken = [{"from": names.get(turn["role"], turn["role"]), "value": plain_text(turn["content"])} for turn in turns]
    return _with_extras({"conversations": spoken}, prompt)


def _system(prompt: Prompt) -> dict[str, str]:
    text = "\n".join(plain_text(turn["content"]) for turn in prompt.messages if turn["role"] == "system")
    return {"system": text} if text else {}


def _write_alpaca(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    del preference
    return {**_system(prompt), "instruction": prompt.text, "input": "", "output": response.text if response else ""}


def _write_prompt_completion(
    prompt: Prompt, response: Response | None, preference: Preference | None
) -> dict[str, Any]:
    del preference
    answer = {"completion": response.text} if response else {}
    reasoning = {"reasoning": response.reasoning} if response and response.reasoning else {}
    return _with_extras({**_system(prompt), "prompt": prompt.text, **answer, **reasoning}, prompt)


def _write_preference(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    del response
    if preference is None:
        raise UnusableError("the row is no preference")
    order = sorted(range(len(preference.scores)), key=preference.scores.__getitem__)
    chosen, rejected = preference.candidates[order[-1]], preference.candidates[order[0]]
    return _with_extras({**_system(prompt), "prompt": prompt.text, "chosen": chosen, "rejected": rejected}, prompt)


def _write_csv(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    if preference is not None:
        row = _write_preference(prompt, None, preference)
    else:
        row = _write_prompt_completion(prompt, response, None)
    row["tags"] = " ".join(row.get("tags", []))
    return {key: guard(str(value)) for key, value in row.items()}


def _write_line(prompt: Prompt, response: Response | None, preference: Preference | None) -> str:
    del preference
    return " ".join((response.text if response else prompt.text).split())


Reader = Callable[[Mapping[str, Any]], Item]
Writer = Callable[[Prompt, Response | None, Preference | None], dict[str, Any] | str]

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
    "prompt_completion": ("Prompt and completion (JSONL)", "Two plain texts a row.", _TRL),
    "preference": ("Prompt, chosen, rejected (JSONL)", "For preference training.", _TRL),
    "csv": (
        "CSV for spreadsheets",
        "Opens in a spreadsheet; formulas are guarded.",
        "https://www.rfc-editor.org/rfc/rfc4180",
    ),
    "lines": ("Plain lines", "One text a line.", "https://www.unicode.org/reports/tr14/"),
}


def _format(key: str, suffix: str, read: Reader, write: Writer) -> Format:
    label, when, reference = _TEXTS[key]
    return Format(key, label, when, reference, Params, suffix, read, write)


FORMATS: Registry[Format] = Registry(
    "format",
    (
        _format("openai_messages", ".jsonl", _read_messages, _write_messages),
        _format("sharegpt", ".jsonl", _read_sharegpt, _write_sharegpt),
        _format("alpaca", ".jsonl", _read_alpaca, _write_alpaca),
        _format("prompt_completion", ".jsonl", _read_prompt_completion, _write_prompt_completion),
        _format("preference", ".jsonl", _read_preference, _write_preference),
        _format("csv", ".csv", _read_csv, _write_csv),
        _format("lines", ".txt", _read_line, _write_line),
    ),
)


def detect_record(record: Any) -> str:
    """The format of a JSON record by its keys. Raises `UnusableError` when none fits."""
    if not isinstance(record, dict):
        raise UnusableError("it is not a JSON object")
    if "messages" in record:
        return "openai_messages"
    if "conversations" in record:
        return "sharegpt"
    if "chosen" in record and "rejected" in record:
        return "preference"
    if "instruction" in record:
        return "alpaca"
    if any(key in record for key in _PROMPT_KEYS):
        return "prompt_completion"
    raise UnusableError(f"its keys ({', '.join(map(str, list(record)[:8]))}) fit no format we know")


def checked(item: Item) -> Item:
    """An item whose texts can be kept. Raises `UnusableError` for an empty prompt, NUL or half characters."""
    if not any(plain_text(turn.get("content")).strip() for turn in item.messages if turn.get("role") == "user"):
        raise UnusableError("the prompt is empty")
    if item.response is not None and not item.response.strip():
        raise UnusableError("the response is empty")
    texts = [plain_text(turn.get("content")) for turn in item.messages] + [item.response or "", *item.candidates]
    for text in texts:
        if fault := text_fault(text):
            raise UnusableError(fault)
    return item
