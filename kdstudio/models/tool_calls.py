"""Tools in conversations: declared in JSON Schema as for OpenAI's API, called by the assistant, answered by the tool.

A call has two forms that say the same: structured, in a message's `tool_calls`, and spelt, as `<tool_call>{"name": ...,
"arguments": {...}}</tool_call>` (the Hermes form, https://github.com/NousResearch/Hermes-Function-Calling), which every
model can read and write as text. A response's text spells its calls, so that it can be searched, judged and learnt.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]
_SPELT = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
_DECLARATION = (
    "You can call these tools:\n{tools}\n"
    'To call one, write only this: <tool_call>{{"name": "...", "arguments": {{...}}}}</tool_call>'
)


def with_tools(messages: Sequence[Message], tools: Any) -> tuple[Message, ...]:
    """The messages, the first of which carries the tools that are declared for all of them, under `tools`.

    So they go wherever the messages go. It is the form in memory only: files and the database keep tools apart.
    """
    declared = tools_of(tools)
    return ({**messages[0], "tools": declared}, *messages[1:]) if declared and messages else tuple(messages)


def tools_of(tools: Any) -> list[Tool]:
    """What of a value, which a stranger's file may have brought, is a list of tools."""
    return [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []


def apart(messages: Sequence[Message]) -> tuple[list[Message], list[Tool]]:
    """What `with_tools` put together: (messages, tools)."""
    tools = messages[0].get("tools") if messages else None
    if not isinstance(tools, list):
        return list(messages), []
    first = {name: value for name, value in messages[0].items() if name != "tools"}
    return [first, *messages[1:]], tools


def spelt(calls: Iterable[Mapping[str, Any]]) -> str:
    """Calls as text, one a line."""
    return "\n".join(
        f"<tool_call>{json.dumps(_plain(call), ensure_ascii=False)}</tool_call>" for call in calls if _name(call)
    )


def read_calls(text: str) -> tuple[str, list[Message]]:
    """(what stands before the calls that a text spells, the calls as OpenAI's API has them); all of it without any."""
    calls: list[Message] = []
    for number, match in enumerate(_SPELT.finditer(text), 1):
        try:
            value = json.loads(match[1])
        except (ValueError, RecursionError):
            return text, []
        if not isinstance(value, dict) or not _name(value):
            return text, []
        calls.append(structured(value, number))
    return (_SPELT.sub("", text).strip(), calls) if calls else (text, [])


def structured(call: Mapping[str, Any], number: int) -> Message:
    """A call, in any of its spellings, as OpenAI's API has it: arguments as JSON text, with an id."""
    plain = _plain(call)
    arguments = plain["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    identity = str(call.get("id") or f"call_{number}")
    return {"id": identity, "type": "function", "function": {"name": plain["name"], "arguments": text}}


def text_of(message: Mapping[str, Any]) -> str:
    """An assistant's turn as one text: what it says, then its calls, spelt."""
    content = message.get("content")
    calls = message.get("tool_calls")
    said = content if isinstance(content, str) else ""
    return "\n".join(part for part in (said, spelt(calls) if isinstance(calls, list) else "") if part)


def for_template(messages: Sequence[Message], tools: Sequence[Tool], template: str) -> list[Message]:
    """The messages as a chat template reads them: arguments as objects, as transformers has them.

    A template that knows no calls, or no tools, is given them as text.
    """
    made = [_objects(message) if "tool_calls" in template else _spoken(message) for message in messages]
    if tools and "tools" not in template:
        listed = "\n".join(json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
        first = next((place for place, turn in enumerate(made) if turn.get("role") in ("system", "user")), 0)
        declared = _DECLARATION.format(tools=listed)
        made[first] = {**made[first], "content": f"{declared}\n\n{made[first].get('content') or ''}".rstrip()}
    return made


def _spoken(message: Message) -> Message:
    if not isinstance(message.get("tool_calls"), list):
        return message
    rest = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**rest, "content": text_of(message)}


def _objects(message: Message) -> Message:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    known = [call for call in calls if _name(call)]
    made = [{**structured(call, number), "function": _plain(call)} for number, call in enumerate(known, 1)]
    return {**message, "tool_calls": made}


def _name(call: Any) -> str:
    if not isinstance(call, Mapping):
        return ""
    function = call.get("function")
    name = function.get("name") if isinstance(function, Mapping) else call.get("name")
    return name if isinstance(name, str) else ""


def _plain(call: Mapping[str, Any]) -> dict[str, Any]:
    """{"name", "arguments"}, the arguments as an object where they are JSON."""
    function = call.get("function")
    inner: Mapping[str, Any] = function if isinstance(function, Mapping) else call
    arguments = inner.get("arguments", {})
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # if it is no JSON, its text is all there is
            arguments = json.loads(arguments or "{}")
    return {"name": _name(call), "arguments": arguments}
