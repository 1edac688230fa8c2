"""Terms of use: what a licence, a provider or a person's own word stands for, and when a reason is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import MAXIMUM_STAMP_CHARACTERS, PROVIDERS, TERMS, joined, terms_of
from kdstudio.models.terms_stamp import own_terms, terms_stamp
from kdstudio.models.terms_summary import covers, recorded, require_reason, summary_of


def endpoint(url: str, model: str = "m", **more: Any) -> TeacherSpec:
    return TeacherSpec("t", "openai", url=url, model=model, **more)


@pytest.mark.parametrize(
    ("said", "name", "free"),
    [
        ("apache-2.0", "Apache 2.0", True),
        ("Apache License 2.0", "Apache 2.0", True),
        ("Apache License, Version 2.0", "Apache 2.0", True),
        ("MIT License", "MIT", True),
        ("gemma", "Gemma Terms of Use", False),
        ("llama-3.1", "Llama 3.1 Community License", False),
        ("openai", "OpenAI’s terms", False),
        ("provider:api.example.com", "The terms of api.example.com", False),
        ("free: our own model", "our own model", True),
        ("restricted: ask Ann first", "ask Ann first", False),
        ("house-licence-7", "house-licence-7", False),
        ("apache-2.0 + mit", "Apache 2.0 and MIT", True),
        ("apache-2.0 + openai", "Apache 2.0 and OpenAI’s terms", False),
    ],
)
def test_a_stamp_stands_for_terms(said: str, name: str, free: bool) -> None:
    terms = terms_of(said)
    assert (terms.name, terms.free, terms.stated) == (name, free, True)
    assert terms.restricted is not free
    assert terms.says


def test_nothing_stated_is_neither_free_nor_restricted() -> None:
    terms = terms_of("  ")
    assert (terms.name, terms.free, terms.stated, terms.restricted) == ("not stated", False, False, False)


def test_the_tables_are_words_for_people() -> None:
    for terms in (*TERMS.values(), *PROVIDERS.values()):
        assert terms.says.endswith(".")
        assert not terms.link or terms.link.startswith("https://")
    assert all(not terms.free and "Read" in terms.says and terms.link for terms in PROVIDERS.values())


@pytest.mark.parametrize(
    ("spec", "stamp"),
    [
        (endpoint("https://api.openai.com/v1"), "openai"),
        (endpoint("https://mine.openai.azure.com/openai"), "azure-openai"),
        (endpoint("https://generativelanguage.googleapis.com/v1beta/openai"), "google"),
        (endpoint("https://bedrock-runtime.us-east-1.amazonaws.com/v1"), "amazon-bedrock"),
        (endpoint("https://ec2-1-2-3-4.compute.amazonaws.com/v1"), "provider:ec2-1-2-3-4.compute.amazonaws.com"),
        (endpoint("https://openrouter.ai/api/v1", "anthropic/claude"), "anthropic + openrouter"),
        (endpoint("https://openrouter.ai/api/v1", "qwen/qwen3"), "openrouter"),
        (endpoint("https://notopenai.com/v1"), "provider:notopenai.com"),
        (endpoint("http://localhost:11434/v1"), ""),
        (endpoint("http://192.168.1.7:8000/v1"), ""),
        (endpoint("http://[::1]:8000/v1"), ""),
        (endpoint("http://gpu-box:8000/v1"), ""),
        (endpoint("http://gpu.lan/v1"), ""),
        (endpoint("no url"), ""),
        (
            endpoint("https://api.openai.com/v1", options={"terms": "free: agreed in writing"}),
            "free: agreed in writing",
        ),
        (TeacherSpec("t", "anthropic", model="claude"), "anthropic"),
        (TeacherSpec("t", "scripted", path="x"), ""),
    ],
)
def test_a_teacher_carries_its_terms(spec: TeacherSpec, stamp: str) -> None:
    said = {"terms": "See the provider's terms of use."} if spec.kind == "openai" else {}
    assert terms_stamp(spec, said) == stamp


def test_a_files_licence_is_its_stamp_and_a_persons_word_goes_first() -> None:
    @dataclass(frozen=True)
    class Opened:
        terms: str

    spec = TeacherSpec("t", "gguf", path="m.gguf")
    assert terms_stamp(spec) == ""
    assert terms_stamp(spec, {"license": "apache-2.0"}) == "apache-2.0"
    assert terms_stamp(spec, {"license": "apache-2.0", "terms": "gemma"}) == "gemma"
    assert terms_stamp(spec, Opened("mit")) == "mit"
    noted = TeacherSpec("t", "gguf", path="m.gguf", options={"terms": own_terms("ours", free=True)})
    assert terms_stamp(noted, {"license": "gemma"}) == "free: ours"


def test_a_stamp_from_a_file_is_one_short_line_of_one_part() -> None:
    spec = TeacherSpec("t", "gguf", path="m.gguf")
    stamp = terms_stamp(spec, {"license": "MIT + Commons\n\x00Clause " + "x" * 10_000})
    assert stamp.startswith("MIT and Commons Clause x")
    assert len(stamp) <= MAXIMUM_STAMP_CHARACTERS
    assert terms_of(stamp).restricted


def test_stamps_join_once_each_in_one_order() -> None:
    assert joined(["openai", "", "gemma + openai"]) == "gemma + openai"
    assert joined(["", ""]) == ""
    long = joined([f"free: {letter * 150}" for letter in "abc"] + ["openai"])
    assert terms_of(long).restricted


def test_a_summary_counts_each_row_under_all_that_apply() -> None:
    summary = summary_of(
        [
            (["apache-2.0", ""], "smol", 70),
            (["openai + openrouter", "openai"], "gpt", 5),
            (["", ""], "", 3),
            (["gemma"], "big", 0),
        ]
    )
    assert [(use.stamp, use.rows, use.teachers) for use in summary.uses] == [
        ("apache-2.0", 70, ("smol",)),
        ("openai", 5, ("gpt",)),
        ("openrouter", 5, ("gpt",)),
        ("", 3, ()),
        ("gemma", 0, ("big",)),
    ]
    assert [use.stamp for use in summary.restricted] == ["openai", "openrouter", "gemma"]
    assert summary.not_stated == 3
    assert summary.as_list()[0] == {"terms": "apache-2.0", "name": "Apache 2.0", "rows": 70, "restricted": False}


def test_free_terms_need_no_reason_and_leave_no_trace() -> None:
    summary = summary_of([(["apache-2.0"], "smol", 7), ([""], "", 3), (["free: ours"], "own", 1)])
    assert require_reason(summary, "") == ""
    assert recorded(summary, "a reason that nobody asked for") == {}


def test_restricted_terms_ask_for_a_reason_and_keep_it() -> None:
    summary = summary_of([(["openai"], "gpt", 7), (["apache-2.0"], "smol", 1)])
    for nothing in ("", "  \n "):
        with pytest.raises(BadInput, match="terms of use") as caught:
            require_reason(summary, nothing)
        assert "7 rows by gpt" in caught.value.detail
        assert "https://openai.com/policies/" in caught.value.detail
        assert "Apache" not in caught.value.detail
    with pytest.raises(BadInput, match="too long"):
        require_reason(summary, "x" * 2001)
    kept = recorded(summary, " an internal\nclassifier ")
    assert kept == {"terms_reason": "an internal classifier", "restricted_terms": ["openai"]}
    assert covers(kept, summary)
    assert not covers(kept, summary_of([(["gemma"], "g", 1)]))
    assert not covers({}, summary)
