"""A conversation in Anthropic's form: roles, tools, pictures."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.teachers.anthropic_messages import conversation

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and more").decode()


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_the_system_goes_apart_and_turns_of_one_role_become_one() -> None:
    found = conversation(
        [
            {"role": "system", "content": "One."},
            user("a"),
            user("b"),
            {"role": "system", "content": [{"type": "text", "text": "Two."}]},
            {"role": "assistant", "content": "c ", "reasoning": "not sent"},
        ]
    )
    assert found == {
        "system": "One.\n\nTwo.",
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
        ],
    }


def test_tool_calls_and_their_results() -> None:
    calls = [
        {
            "id": "call.1",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"city": "Bern"})},
        },
        {"id": "call.2", "type": "function", "function": {"name": "weather", "arguments": "not JSON"}},
    ]
    found = conversation(
        [
            user("how warm?"),
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "tool", "tool_call_id": "call.1", "content": "8 degrees"},
            {"role": "tool", "tool_call_id": "call.2", "content": ""},
            user("thanks"),
        ]
    )
    assert [turn["role"] for turn in found["messages"]] == ["user", "assistant", "user"]
    first, second = found["messages"][1]["content"]
    assert first == {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Bern"}}
    assert second["input"] == {"arguments": "not JSON"}
    assert [block["type"] for block in found["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]
    assert found["messages"][2]["content"][0]["tool_use_id"] == "call_1"
    assert (found["tools"][0]["name"], found["tool_choice"]) == ("weather", {"type": "none"})


def test_pictures_go_as_base64_or_by_their_address() -> None:
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "image", "url": "https://example.org/cat.png"},
    ]
    blocks = conversation([user(parts)])["messages"][0]["content"]
    assert blocks[1] == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
    assert blocks[2] == {"type": "image", "source": {"type": "url", "url": "https://example.org/cat.png"}}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/tiff;base64,AAAA", "do not see such pictures"),
        ("data:image/png;base64,!!!", "cannot be read"),
        ("cat.png", "cannot be read"),
        ("data:image/png;base64," + "A" * (6 << 20), "too large"),
    ],
)
def test_pictures_that_cannot_be_sent_are_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        conversation([user([{"type": "image_url", "image_url": {"url": url}}])])
