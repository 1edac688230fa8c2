"""A conversation in Anthropic's form: the system's words apart, turns that alternate, blocks instead of strings.

https://docs.claude.com/en/api/messages
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models.pictures import address_of, picture_at
from kdstudio.teachers.base import Message

_MOST_PICTURE_BYTES = (5 << 20) * 3 // 4  # 5 MB as base64
_SYSTEM = ("system", "developer")
_NO_TOOL_NAME = re.compile(r"[^a-zA-Z0-9_-]")
Block = dict[str, Any]


def conversation(messages: Sequence[Message], project_folder: Path | None = None) -> dict[str, Any]:
    """The fields `system`, `messages`, and for earlier tool calls `tools`, of a request.

    Turns of the same role become one, tool results a user's turn; earlier reasoning is left out, since its signature
    is not kept. Pictures by hash are read from `project_folder`.
    Raises `BadInput` for a part that is neither text nor a picture that can be sent.
    """
    system = "\n\n".join(filter(None, (_system_text(item) for item in messages if item.get("role") in _SYSTEM)))
    turns: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") in _SYSTEM:
            continue
        role = "assistant" if message.get("role") == "assistant" else "user"
        blocks = _blocks(message, project_folder)
        if blocks and turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    _trim_end(turns)
    return {"messages": turns, **({"system": system} if system else {}), **_tools(turns)}


def _system_text(message: Message) -> str:
    return "".join(block["text"] for block in _content(message.get("content"), None) if block["type"] == "text")


def _blocks(message: Message, folder: Path | None) -> list[Block]:
    content = _content(message.get("content"), folder)
    if message.get("role") == "tool":
        return [{"type": "tool_result", "tool_use_id": _id(message.get("tool_call_id")), "content": content}]
    calls = message.get("tool_calls")
    return content + [_call(call) for call in (calls if isinstance(calls, list) else ()) if isinstance(call, dict)]


def _content(content: Any, folder: Path | None) -> list[Block]:
    """Blocks of a message's content; the API refuses empty texts, so that they are left out."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    return [block for part in parts if (block := _block(part, folder)) is not None]


def _block(part: Any, folder: Path | None) -> Block | None:
    if isinstance(part, dict) and isinstance(text := part.get("text"), str):
        return {"type": "text", "text": text} if text.strip() else None
    if url := address_of(part):
        return {"type": "image", "source": _source(url, folder)}
    raise BadInput(
        "This prompt cannot be sent", "A message holds a part that is neither text nor a picture.", "Leave it out."
    )


def _source(url: str, folder: Path | None) -> dict[str, str]:
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    picture = picture_at(url, folder, _MOST_PICTURE_BYTES)
    return {"type": "base64", "media_type": picture.kind, "data": picture.base64}


def _call(call: dict[str, Any]) -> Block:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    given = function.get("arguments")
    try:
        arguments = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        arguments = {"arguments": given}
    name = _NO_TOOL_NAME.sub("_", str(function.get("name") or "tool"))[:64]
    return {
        "type": "tool_use",
        "id": _id(call.get("id")),
        "name": name,
        "input": arguments if isinstance(arguments, dict) else {},
    }


def _id(value: Any) -> str:
    return _NO_TOOL_NAME.sub("_", str(value or "call"))


def _trim_end(turns: list[dict[str, Any]]) -> None:
    """An answer that is to be continued may not end in blanks: the API refuses that."""
    if turns and turns[-1]["role"] == "assistant" and (last := turns[-1]["content"][-1])["type"] == "text":
        last["text"] = last["text"].rstrip()


def _tools(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The tools that earlier turns called have to be declared; they are not called again."""
    names = dict.fromkeys(block["name"] for turn in turns for block in turn["content"] if block["type"] == "tool_use")
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in names]
    return {"tools": tools, "tool_choice": {"type": "none"}} if tools else {}
