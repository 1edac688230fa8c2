"""Tools and their calls in the rows that a run writes: held against their JSON Schemas before they are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from kdstudio.elicitation.passage import FallenError
from kdstudio.models.tool_calls import structured
from kdstudio.models.tool_schemas import calls_fault, conversation_fault, tools_fault


def tools_for(messages: Sequence[Mapping[str, Any]], tools: Any) -> dict[str, Any]:
    """The extras of a prompt that declares `tools`; none without any.

    Raises `FallenError` when they are no tools, or the calls in its messages do not fit them or have no results.
    """
    declared = _read(tools)
    if not declared:
        if any(message.get("tool_calls") for message in messages):
            raise FallenError("it calls a tool, but declares none")
        return {}
    fault = tools_fault(declared) or conversation_fault(messages, declared)
    if fault:
        raise FallenError(fault)
    return {"tools": declared}


def called(text: str, calls: Any, tools: Any) -> dict[str, Any]:
    """The assistant's turn with its calls; {} when it makes none. Raises `FallenError` for one that fits no tool."""
    found = _read(calls)
    entries = found if isinstance(found, list) else [found] if found else []
    if not entries:
        return {}
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise FallenError("the calls cannot be read")
    declared = _read(tools)
    if fault := tools_fault(declared):
        raise FallenError(f"it calls a tool, but {fault}")
    made = [structured(entry, number) for number, entry in enumerate(entries, 1)]
    if fault := calls_fault(made, declared):
        raise FallenError(fault)
    return {"role": "assistant", "content": text.strip(), "tool_calls": made}


def _read(value: Any) -> Any:
    """A value, or what its JSON text holds. Raises `FallenError` for a text that is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else None
    except (ValueError, RecursionError):
        raise FallenError("the tools or their calls are not JSON") from None
