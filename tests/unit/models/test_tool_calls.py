"""Calls say the same in both forms, and what does not fit a tool's schema is named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdstudio.models.tool_calls import apart, read_calls, spelt, structured, text_of, with_tools
from kdstudio.models.tool_schemas import calls_fault, conversation_fault, schema_fault, tools_fault

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.tuples(st.text("abc_", min_size=1, max_size=6), st.dictionaries(st.text(max_size=5), JSON)), min_size=1)
)
def test_calls_that_were_spelt_are_read_back(calls: list[tuple[str, dict[str, Any]]]) -> None:
    made = [
        structured({"name": name, "arguments": arguments}, place) for place, (name, arguments) in enumerate(calls, 1)
    ]
    text = spelt(made)
    if "</tool_call>" in json.dumps(calls, ensure_ascii=False):
        return
    assert read_calls(f"Let me see.\n{text}") == ("Let me see.", made)
    assert text_of({"content": "Let me see.", "tool_calls": made}) == f"Let me see.\n{text}"


@pytest.mark.parametrize(
    "text", ["plain", "<tool_call>no</tool_call>", '<tool_call>{"name": 3}</tool_call>', "<tool_call>{"]
)
def test_what_spells_no_call_is_text(text: str) -> None:
    assert read_calls(text) == (text, [])


def test_tools_travel_with_the_messages() -> None:
    tools = [{"type": "function", "function": {"name": "x"}}]
    messages = [{"role": "user", "content": "Hi"}]
    assert apart(with_tools(messages, tools)) == (messages, tools)
    assert apart(with_tools(messages, None)) == (messages, [])
    assert messages == [{"role": "user", "content": "Hi"}]


LOOP: dict[str, Any] = {"$ref": "#"}
DOUBLING: dict[str, Any] = {"anyOf": [{"allOf": [{"$ref": "#"}]}, {"allOf": [{"$ref": "#"}]}]}


@pytest.mark.parametrize(
    ("value", "schema", "fault"),
    [
        ({"n": 1}, {"properties": {"n": {"type": "integer"}}}, ""),
        ({"n": 1.0}, {"properties": {"n": {"type": "integer"}}}, ""),
        ({"n": float("inf")}, {"properties": {"n": {"type": "integer"}}}, "n is not of the type integer"),
        ({"n": True}, {"properties": {"n": {"type": "number"}}}, "n is not of the type number"),
        ({"n": "1"}, {"properties": {"n": {"type": ["integer", "null"]}}}, "n is not of the type integer or null"),
        ({}, {"required": ["n"]}, "it lacks n"),
        ({"m": 1}, {"properties": {"n": {}}, "additionalProperties": False}, "it has the unknown m"),
        ({"m": 1}, {"additionalProperties": {"type": "string"}}, "m is not of the type string"),
        ({"n": "c"}, {"properties": {"n": {"enum": ["a", "b"]}}}, "n is none of a, b"),
        ({"n": 1}, {"properties": {"n": {"const": 2}}}, "n is not 2"),
        ({"n": 0}, {"properties": {"n": {"minimum": 1}}}, "n is less than 1"),
        ({"n": 1}, {"properties": {"n": {"exclusiveMinimum": 1}}}, "n is not more than 1"),
        ({"n": "ab"}, {"properties": {"n": {"maxLength": 1}}}, "n is longer than 1"),
        ({"n": []}, {"properties": {"n": {"minItems": 1}}}, "n has fewer entries than 1"),
        ({"n": [1, "x"]}, {"properties": {"n": {"items": {"type": "integer"}}}}, "n[1] is not of the type integer"),
        ({"n": 1}, {"properties": {"n": {"anyOf": [{"type": "string"}]}}}, "n is none of what it may be"),
        ({"n": 1}, {"properties": {"n": {"oneOf": [{}, {}]}}}, "n is none of what it may be"),
        (
            {"n": 1},
            {"properties": {"n": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"type": "string"}}},
            "n is not of the type string",
        ),
        ({"n": 1}, {"properties": {"n": {"$ref": "#/nowhere"}}}, ""),
        ({"n": 1}, {"properties": {"n": False}}, "n may not be there"),
        ({"n": "aaaa!"}, {"properties": {"n": {"pattern": "(a+)+$"}}}, ""),
        (1, LOOP, "it is nested too deep"),
        (1, DOUBLING, "it is none of what it may be"),
    ],
)
def test_what_a_schema_wants(value: Any, schema: dict[str, Any], fault: str) -> None:
    assert schema_fault(value, schema, "it") == fault


TOOLS = [{"type": "function", "function": {"name": "wait", "parameters": {"required": ["minutes"]}}}]


@pytest.mark.parametrize(
    ("tools", "fault"),
    [
        (TOOLS, ""),
        ([], "the tools are no list"),
        ("wait", "the tools are no list"),
        ([{"name": "wait"}], "a tool has no function with a name"),
        ([{"function": {"name": "wait", "parameters": []}}], "the parameters of the tool wait are no JSON Schema"),
    ],
)
def test_what_tools_are(tools: Any, fault: str) -> None:
    assert tools_fault(tools) == fault


def test_calls_and_results_fit_each_other() -> None:
    call = structured({"name": "wait", "arguments": {"minutes": 3}}, 1)
    result = {"role": "tool", "tool_call_id": "call_1", "content": "ok"}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    assert conversation_fault([turn, result], TOOLS) == ""
    assert "answers no call (call_1)" in conversation_fault([result], TOOLS)
    assert "answers no call (call_1)" in conversation_fault([turn, result, result], TOOLS)
    assert calls_fault([structured({"name": "go"}, 1)], TOOLS) == "it calls go, which is not declared"
    assert calls_fault([structured({"name": "wait"}, 1)], TOOLS) == "wait lacks minutes"
    assert (
        calls_fault([structured({"name": "wait", "arguments": "{"}, 1)], TOOLS) == "the arguments of wait are not JSON"
    )
    assert calls_fault([structured({"name": "wait", "arguments": [3]}, 1)], TOOLS) == "wait is not of the type object"
    assert calls_fault(["wait"], TOOLS) == "a call names no tool"
