"""Whether calls fit the tools that are declared: names, and arguments by JSON Schema (https://json-schema.org).

The keywords that tools use are read: type, enum, const, properties, required, additionalProperties, items, bounds of
numbers, lengths, anyOf, oneOf, allOf and $ref within the schema. Others are annotations here; `pattern` is one, since a
stranger's expression may search for ever.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_MOST_DEPTH = 40
_MOST_CHECKS = 20_000  # of one value: a schema that refers to itself twice would double with each level
_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and math.isfinite(value) and value == int(value),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "null": lambda value: value is None,
}
_BOUNDS: dict[str, tuple[Callable[[Any, Any], bool], str]] = {
    "minimum": (lambda value, bound: value >= bound, "is less than"),
    "maximum": (lambda value, bound: value <= bound, "is more than"),
    "exclusiveMinimum": (lambda value, bound: value > bound, "is not more than"),
    "exclusiveMaximum": (lambda value, bound: value < bound, "is not less than"),
}
_LENGTHS: dict[str, tuple[type[str | list[Any]], Callable[[int, Any], bool], str]] = {
    "minLength": (str, lambda size, bound: size >= bound, "is shorter than"),
    "maxLength": (str, lambda size, bound: size <= bound, "is longer than"),
    "minItems": (list, lambda size, bound: size >= bound, "has fewer entries than"),
    "maxItems": (list, lambda size, bound: size <= bound, "has more entries than"),
}


def tools_fault(tools: Any) -> str:
    """Why this is no list of tools as OpenAI's API has them; "" if it is."""
    if not isinstance(tools, list) or not tools:
        return "the tools are no list"
    for tool in tools:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            return "a tool has no function with a name"
        if not isinstance(function.get("parameters", {}), dict):
            return f"the parameters of the tool {function['name']} are no JSON Schema"
    return ""


def calls_fault(calls: Sequence[Any], tools: Sequence[Mapping[str, Any]]) -> str:
    """Why calls (as `structured` makes them) do not fit `tools`; "" if they do."""
    known = {tool["function"]["name"]: tool["function"] for tool in tools}
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not function.get("name"):
            return "a call names no tool"
        name = str(function["name"])
        if name not in known:
            return f"it calls {name}, which is not declared"
        try:
            arguments = json.loads(function.get("arguments") or "{}")
        except (ValueError, TypeError, RecursionError):
            return f"the arguments of {name} are not JSON"
        if fault := schema_fault(arguments, {"type": "object", **known[name].get("parameters", {})}, name):
            return fault
    return ""


def conversation_fault(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> str:
    """Why the calls and results of a conversation do not fit `tools` or each other; "" if they do."""
    open_calls: set[str] = set()
    for message in messages:
        calls = message.get("tool_calls") or []
        if not isinstance(calls, list):
            return "the tool calls are no list"
        if fault := calls_fault(calls, tools):
            return fault
        open_calls |= {str(call.get("id", "")) for call in calls}
        if message.get("role") == "tool":
            answered = str(message.get("tool_call_id", ""))
            if answered not in open_calls:
                return f"a tool's result answers no call ({answered or 'it names none'})"
            open_calls.discard(answered)
    return ""


def schema_fault(value: Any, schema: Any, where: str) -> str:
    """Why a value is not what a JSON Schema wants, in words that name the place; "" if it is."""
    return _Check(schema).fault(value, schema, where, 0)


class _Check:
    def __init__(self, root: Any) -> None:
        self._root, self._left = root, _MOST_CHECKS

    def fault(self, value: Any, schema: Any, where: str, depth: int) -> str:
        if schema is True or not isinstance(schema, Mapping):
            return f"{where} may not be there" if schema is False else ""
        self._left -= 1
        if depth > _MOST_DEPTH or self._left < 0:
            return f"{where} is nested too deep"
        if reference := schema.get("$ref"):
            return self.fault(value, self._referred(str(reference)), where, depth + 1)
        tests = (_kind, _size)
        found = next((said for test in tests if (said := test(value, schema, where))), "")
        return found or self._inside(value, schema, where, depth) or self._several(value, schema, where, depth)

    def _referred(self, reference: str) -> Any:
        found = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            found = found.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
        return found

    def _inside(self, value: Any, schema: Mapping[str, Any], where: str, depth: int) -> str:
        if isinstance(value, list):
            items = schema.get("items", True)
            found = (self.fault(entry, items, f"{where}[{place}]", depth + 1) for place, entry in enumerate(value))
            return next((said for said in found if said), "")
        if not isinstance(value, dict):
            return ""
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        if missing := [name for name in schema.get("required", []) if name not in value]:
            return f"{where} lacks {', '.join(map(str, missing))}"
        for name, entry in value.items():
            if name not in known and others is False:
                return f"{where} has the unknown {name}"
            if said := self.fault(entry, known.get(name, others), name, depth + 1):
                return said
        return ""

    def _several(self, value: Any, schema: Mapping[str, Any], where: str, depth: int) -> str:
        for entry in schema.get("allOf", ()):
            if said := self.fault(value, entry, where, depth + 1):
                return said
        for key, most in (("anyOf", math.inf), ("oneOf", 1)):
            if key in schema:
                fitting = sum(not self.fault(value, entry, where, depth + 1) for entry in schema[key])
                if not 1 <= fitting <= most:
                    return f"{where} is none of what it may be"
        return ""


def _kind(value: Any, schema: Mapping[str, Any], where: str) -> str:
    wanted = schema.get("type")
    kinds = [wanted] if isinstance(wanted, str) else list(wanted or ())
    if kinds and not any(_TYPES.get(kind, lambda _: True)(value) for kind in kinds):
        return f"{where} is not of the type {' or '.join(map(str, kinds))}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is none of {', '.join(map(str, schema['enum']))}"
    return f"{where} is not {schema['const']}" if "const" in schema and value != schema["const"] else ""


def _size(value: Any, schema: Mapping[str, Any], where: str) -> str:
    if _is_number(value):
        for key, (fits, words) in _BOUNDS.items():
            if isinstance(bound := schema.get(key), int | float) and not fits(value, bound):
                return f"{where} {words} {bound}"
    for key, (kind, holds, words) in _LENGTHS.items():
        bound = schema.get(key)
        measured = isinstance(value, kind) and isinstance(bound, int)
        if measured and not holds(len(value), bound):
            return f"{where} {words} {bound}"
    return ""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
