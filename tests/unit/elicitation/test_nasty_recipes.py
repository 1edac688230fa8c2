"""Recipes and rows that fit together badly: refused with the line at fault, or one row falls with a reason in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Row
from kdstudio.project import NewPrompt
from kdstudio.recipe import ElicitationRecipe, parse_recipe
from tests.unit.elicitation.runs import attempt, drops, lines, new_project, new_run


def step(type_: str, /, **keys: Any) -> str:
    return f'[[step]]\ntype = "{type_}"\n' + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


SAMPLE, PARSE, EMIT = step("sample"), step("parse"), step("emit")
ANSWER = SAMPLE + PARSE
DOCUMENTS = '[input]\nsource = "documents"\n[parameters.documents]\ntype = "files"\nhelp = "x"\n'
WHOLE = SAMPLE + PARSE + step("emit", kind="prompt", text="response")


def parameter(name: str = "n", **keys: Any) -> str:
    return f'[parameters.{name}]\nhelp = "x"\n' + "".join(
        f"{key} = {json.dumps(value)}\n" for key, value in keys.items()
    )


def recipe_of(steps: str, before: str = "") -> ElicitationRecipe:
    return parse_recipe(f'version = 1\n[recipe]\nid = "mine"\ntitle = "Mine"\n{before}\n{steps}', ElicitationRecipe)


@pytest.mark.parametrize(
    ("steps", "before", "words"),
    [
        (step("prompt", start="prompt", user="x") + ANSWER + EMIT, "", "takes messages, and 'prompt' holds a text"),
        (step("sample", request="prompt") + PARSE + EMIT, "", "takes messages, and 'prompt' holds a text"),
        (step("prompt", text="x") + ANSWER + EMIT, "", "takes messages, and 'request' holds a text"),
        (ANSWER + step("emit", kind="prompt", messages="response"), "", "takes messages, and 'response' holds a text"),
        (step("prompt", text="x", user="y", into="z") + ANSWER + EMIT, "", "makes a text and no messages"),
        (step("prompt", start="", user="{{ document }}") + WHOLE, DOCUMENTS, "which only chunk takes"),
        (step("prompt", start="", user="{{ title }}", when="document") + WHOLE, DOCUMENTS, "which only chunk takes"),
        (step("filter", column="document") + WHOLE, DOCUMENTS, "which only chunk takes"),
        (step("sample", json_schema="{") + PARSE + EMIT, "", "json_schema is no JSON object"),
        (step("sample", grammar="root =") + PARSE + EMIT, "", "no rule that begins: root ::="),
        (step("sample", stop=["\n", ""]) + PARSE + EMIT, "", "would end every answer at once"),
        (step("sample", choices=["a", " "]) + PARSE + EMIT, "", "one of the choices is empty"),
        (SAMPLE + step("parse", format="tagged", into=["a", "a"]) + EMIT, "", "the name of another one"),
        (SAMPLE + step("parse", into=[""]) + step("emit", text="answer"), "", "has no name"),
        (ANSWER + step("filter", minimum_characters=9, maximum_characters=8) + EMIT, "", "every row would fall"),
        (ANSWER + step("filter", minimum_words=9, maximum_words=8) + EMIT, "", "every row would fall"),
        (ANSWER + step("filter", refuse_pattern="(") + EMIT, "", "cannot be read: missing )"),
        (ANSWER + step("filter", require_pattern="(?<=a+)b") + EMIT, "", "cannot be read: look-behind"),
        (ANSWER + step("filter", language="english") + EMIT, "", "'english' is no language"),
        (step("draw", count=1, minimum=5) + ANSWER + EMIT, "", "draws 1 and needs 5"),
        (ANSWER + step("emit", kind="preference", chosen="response", rejected="response"), "", "the same column"),
        ('[[step]]\nuser = "x"\n' + ANSWER + EMIT, "", "has no type; add type"),
        (ANSWER + EMIT, parameter("my-tone"), "'my-tone' is no name that a template can read"),
        (ANSWER + EMIT, parameter("loop"), "'loop' is no name that a template can read"),
        (ANSWER + EMIT, parameter(type="integer", default="many"), "the default of n is 'many'"),
        (ANSWER + EMIT, parameter(type="choice", default="b", choices=["a"]), "the default of n is 'b'"),
        (ANSWER + EMIT, parameter(type="choice"), "line 5: n"),
        (ANSWER + EMIT, parameter(type="number", default=1, minimum=5, maximum=0), "a minimum above its maximum"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_its_line(steps: str, before: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipe_of(steps, before)
    assert words in caught.value.detail
    assert "line" in caught.value.detail


LIST = SAMPLE + step("parse", format="list", into=["found"])
OBJECT = SAMPLE + step("parse", format="json", into=["a"])
TALK = step("parse", source="answer", format="json", into=["talk"])


@pytest.mark.parametrize(
    ("steps", "answer", "fall"),
    [
        (
            LIST + step("emit", kind="preference", candidates="found", scores="found"),
            "1. a\n2. b",
            "a score is no number",
        ),
        (
            ANSWER + step("emit", kind="preference", candidates="response", scores="response"),
            "ab",
            "response is no list",
        ),
        (SAMPLE + TALK + step("emit", kind="prompt", messages="talk"), '{"talk": ["a"]}', "talk holds no messages"),
        (
            SAMPLE + TALK + step("sample", request="talk") + PARSE + EMIT,
            '{"talk": [{"a": 1}]}',
            "talk holds no messages",
        ),
        (
            step("draw", count=1) + ANSWER + step("emit", kind="prompt", text="response", tags=["drawn"]),
            "x",
            "a tag is no word",
        ),
        (
            ANSWER + step("emit", kind="prompt", text="response", tags=["response"]),
            "w " * 900,
            "longer than 100 characters",
        ),
        (OBJECT + step("emit", text="a"), '{"a":' + "[" * 3000 + "]" * 3000 + "}", "no JSON object with a"),
        (OBJECT + step("emit", text="a"), '{"a": ' + "1" * 5000 + "}", "no JSON object with a"),
        (SAMPLE + step("parse", format="number", into=["a"]) + step("emit", text="a"), "9" * 5000, "holds no number"),
        (ANSWER + step("emit", when="range(10**9) | list"), "x", "Range too big"),
        (ANSWER + step("emit", when="round / 0"), "x", "division by zero"),
    ],
)
def test_a_row_that_does_not_fit_falls_in_words(steps: str, answer: str, fall: str, tmp_path: Path) -> None:
    with new_project(tmp_path, ["first", "second"]) as project:
        folder = new_run(project, {"default": answer}, recipe_of(steps))
        attempt(folder)
        assert not [line for line in lines(folder) if isinstance(line.event, Row)]
        assert len(drops(folder)) == 2
        assert all(fall in reason for _, _, reason in drops(folder)), drops(folder)


@pytest.mark.parametrize("user", ["{{ prompt }}{{ prompt }}{{ prompt }}", "{{ (prompt * 3) | upper }}"])
def test_a_row_too_large_for_a_template_falls_and_the_others_go_on(user: str, tmp_path: Path) -> None:
    with new_project(tmp_path, ["x" * 500_000, "short"]) as project:
        folder = new_run(project, {"default": "fine"}, recipe_of(step("prompt", user=user) + ANSWER + EMIT))
        attempt(folder)
        assert [line.event.row["prompt_id"] for line in lines(folder) if isinstance(line.event, Row)] == [2]
        ((prompt, _, reason),) = drops(folder)
        assert prompt == 1
        assert "the row's texts have 500,000 characters" in reason


def test_lists_and_objects_are_written_as_json_not_as_pythons_words(tmp_path: Path) -> None:
    steps = OBJECT + step("expand", source="a", fields=["q"]) + step("emit", text="q")
    with new_project(tmp_path, ["p"]) as project:
        folder = new_run(
            project, {"default": '{"a": [{"q": {"z": true}}, {"q": ["ü"]}, {"q": false}]}'}, recipe_of(steps)
        )
        attempt(folder)
        texts = [line.event.row["text"] for line in lines(folder) if isinstance(line.event, Row)]
        assert texts == ['{"z": true}', '["ü"]', "false"]


@pytest.mark.parametrize("tools", [5, "abc", [None, "x", {"function": {}}], {"a": 1}])
@pytest.mark.parametrize("calls", ["x", [None, 3, {"function": None}, {"function": {"name": 5}}]])
def test_strange_tools_of_an_imported_row_stop_nothing(tools: Any, calls: Any, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Go"}, {"role": "assistant", "content": "", "tool_calls": calls}]
    steps = step("prompt", user="{{ prompt }} {{ tools | length }}") + ANSWER + EMIT
    with new_project(tmp_path, []) as project:
        project.rows.add_prompts([NewPrompt(turns, extras={"tools": tools})])
        folder = new_run(project, {"function": "echo"}, recipe_of(steps))
        attempt(folder)
        (row,) = [line.event.row for line in lines(folder) if isinstance(line.event, Row)]
        assert row["text"] == f"Go {1 if isinstance(tools, list) else 0}"
