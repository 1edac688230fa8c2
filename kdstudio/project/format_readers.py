"""Reading the shapes in which other programs keep conversations, each into one `Item`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kdstudio.models.pictures import address_of
from kdstudio.models.tool_calls import text_of
from kdstudio.project.content import Message, plain_text
from kdstudio.project.text_source import UnusableError

ROLES = {
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
_KEPT_KEYS = ("tool_calls", "tool_call_id", "name", "reasoning")
PROMPT_KEYS = ("prompt", "question", "instruction", "input", "query", "text")
PICTURE = "<image>"
RESPONSE_KEYS = ("completion", "response", "answer", "output")
_GUARDED = re.compile(r"^[=+\-@\t\r\x00]")


@dataclass(slots=True)
class Item:
    """One record: a prompt, perhaps with a response, or with answers that are ranked by scores.

    `message`: the response's turn, where it is more than its text: it calls tools.
    """

    messages: list[Message]
    response: str | None = None
    reasoning: str = ""
    candidates: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    reference: str = ""
    extras: dict[str, Any] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)


def checked(item: Item) -> Item:
    """An item that says something. Raises `UnusableError` for an empty prompt or response."""
    for turn in item.messages:
        if turn["role"] == "user":
            content = turn["content"]
            if _says_something(content):
                break
    else:
        raise UnusableError("the prompt is empty")
    if item.response is not None and not item.response.strip():
        raise UnusableError("the response is empty")
    if item.candidates and not all(candidate.strip() for candidate in item.candidates):
        raise UnusableError("the chosen or the rejected answer is empty")
    return item


def _says_something(content: Any) -> bool:
    return bool(plain_text(content).strip()) or (isinstance(content, list) and any(map(address_of, content)))


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
        role = ROLES.get(str(turn.get(role_key)))
        if role is None:
            raise UnusableError(f"a message has the unknown role {turn.get(role_key)!r}")
        content = turn.get(text_key)
        if content is None and not turn.get("tool_calls"):
            raise UnusableError("a message has no content")
        if content is not None and not isinstance(content, str | list):
            raise UnusableError("a message's content is not a text")
        message: Message = {"role": role, "content": "" if content is None else content}
        if len(turn) > 2:
            message.update((key, turn[key]) for key in _KEPT_KEYS if turn.get(key))
        messages.append(message)
    return messages


def _split(messages: list[Message]) -> Item:
    """A conversation that ends with the assistant's turn is a prompt and its response."""
    last = messages[-1]
    if last["role"] != "assistant":
        return Item(messages)
    if len(messages) == 1:
        raise UnusableError("there is an answer but no prompt")
    item = Item(messages[:-1], plain_text(last["content"]), str(last.get("reasoning", "")))
    if last.get("tool_calls"):
        item.response = text_of({**last, "content": item.response})
        item.message = {name: value for name, value in last.items() if name != "reasoning"}
    return item


def _with_extras(record: Mapping[str, Any], item: Item) -> Item:
    if tags := record.get("tags"):
        item.tags = [re.sub(r"\s+", "_", str(tag)) for tag in (tags if isinstance(tags, list) else str(tags).split())]
    if isinstance(reference := record.get("reference"), str):
        item.reference = reference
    if isinstance(tools := record.get("tools"), list) and tools:
        item.extras = {"tools": tools}
    return item


def _prompt_messages(record: Mapping[str, Any], value: Any) -> list[Message]:
    if isinstance(value, list):
        return _chat(value, "role", "content", "prompt")
    user = {"role": "user", "content": _text(value, "prompt")}
    system = record.get("system")
    return [{"role": "system", "content": system}, user] if isinstance(system, str) and system.strip() else [user]


def _first(record: Mapping[str, Any], keys: Iterable[str]) -> Any:
    for key in keys:
        if (value := record.get(key)) not in (None, ""):
            return value
    return None


def _answer_text(value: Any, name: str) -> str:
    """An answer given as text or as a list of messages whose last one counts."""
    if isinstance(value, list):
        return plain_text(_chat(value, "role", "content", name)[-1]["content"])
    return _text(value, name)


def read_messages(record: Mapping[str, Any]) -> Item:
    """`{"messages": [{"role", "content"}, ...], "tools": [...]}`."""
    return _with_extras(record, _split(_chat(record.get("messages"), "role", "content", "messages")))


def read_sharegpt(record: Mapping[str, Any]) -> Item:
    """`{"conversations": [{"from", "value"}, ...], "system": "...", "images": [...]}`; `<image>` is where one is."""
    messages = _chat(record.get("conversations"), "from", "value", "conversations")
    if isinstance(images := record.get("images"), list) and images:
        _place_pictures(messages, images)
    system = record.get("system")
    if isinstance(system, str) and system.strip() and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return _with_extras(record, _split(messages))


def _place_pictures(messages: list[Message], images: list[Any]) -> None:
    """Put the pictures into the turns as parts. Raises `UnusableError` when there are more or fewer than places."""
    left = list(images)
    for message in messages:
        if not isinstance(text := message["content"], str) or PICTURE not in text:
            continue
        message["content"] = parts = []
        for number, piece in enumerate(text.split(PICTURE)):
            if number and (not left or not isinstance(left[0], str)):
                raise UnusableError("a picture is missing, or is not given by its address")
            if number:
                parts.append({"type": "image_url", "image_url": {"url": left.pop(0)}})
            if piece := piece.removeprefix("\n" if number else "").removesuffix("\n"):
                parts.append({"type": "text", "text": piece})
    if left:
        raise UnusableError(f"{len(left)} of its pictures have no place in the conversation")


def read_alpaca(record: Mapping[str, Any]) -> Item:
    """`{"instruction", "input", "output"}`; an input follows its instruction after an empty line."""
    instruction, extra = _text(record.get("instruction"), "instruction"), record.get("input") or ""
    prompt = f"{instruction}\n\n{_text(extra, 'input')}" if extra else instruction
    item = Item(_prompt_messages(record, prompt))
    item.response = _text(record["output"], "output") if record.get("output") else None
    return _with_extras(record, item)


def read_prompt_completion(record: Mapping[str, Any]) -> Item:
    """`{"prompt", "completion"}` as texts or lists of messages, under any of the usual names."""
    prompt, response = _first(record, PROMPT_KEYS), _first(record, RESPONSE_KEYS)
    if prompt is None:
        raise UnusableError("it has no prompt")
    item = Item(_prompt_messages(record, prompt), None if response is None else _answer_text(response, "completion"))
    if reasoning := record.get("reasoning"):
        item.reasoning = str(reasoning)
    return _with_extras(record, item)


def read_preference(record: Mapping[str, Any]) -> Item:
    """`{"prompt", "chosen", "rejected"}`; without a prompt, it is what `chosen` begins with."""
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if not chosen or not rejected:
        raise UnusableError("it has no chosen or no rejected answer")
    prompt = _first(record, PROMPT_KEYS)
    if prompt is None and isinstance(chosen, list):
        prompt = chosen[:-1]
    if not prompt:
        raise UnusableError("it has no prompt")
    answers = [_answer_text(chosen, "chosen"), _answer_text(rejected, "rejected")]
    return _with_extras(record, Item(_prompt_messages(record, prompt), candidates=answers, scores=[1.0, 0.0]))


def read_csv(record: Mapping[str, Any]) -> Item:
    """A row under a header with the names that JSON has too, in any case; cells are unguarded."""
    plain = {key.strip().lower(): unguard(value) for key, value in record.items()}
    return read_preference(plain) if plain.get("chosen") else read_prompt_completion(plain)


def read_line(record: Mapping[str, Any]) -> Item:
    """A line is a prompt."""
    return Item([{"role": "user", "content": record["text"]}])


def guard(cell: str) -> str:
    """Keep a spreadsheet from running a cell as a formula (OWASP ASVS 1.2.10)."""
    needs = _GUARDED.match(cell) or (cell.startswith("'") and _GUARDED.match(cell.lstrip("'")))
    return f"'{cell}" if needs else cell


def unguard(cell: str) -> str:
    """Undo what `guard` did."""
    return cell[1:] if cell.startswith("'") and _GUARDED.match(cell.lstrip("'")) else cell
