"""Recipes write tools, calls and results; what does not fit falls; and OpenAI's format carries them there and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kdstudio.jobs.events import Row
from kdstudio.project import NewPrompt, Project
from kdstudio.project.dataset import export_file
from kdstudio.project.exchange import import_file
from kdstudio.recipe import ElicitationRecipe, parse_recipe
from tests.unit.elicitation.runs import attempt, drops, lines, new_project, new_run

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "wait",
            "parameters": {"type": "object", "properties": {"minutes": {"type": "integer"}}, "required": ["minutes"]},
        },
    }
]
WAIT = {"name": "wait", "arguments": {"minutes": 2}}
CALL_OF_TALK = '{"id": "a", "type": "function", "function": {"name": "wait", "arguments": {{ answer | tojson }}}}'
SAMPLE = '[[step]]\ntype="sample"\n'
CALL = SAMPLE + '[[step]]\ntype="emit"\ntool_calls="answer"\n'


def recipe_of(steps: str, before: str = "") -> ElicitationRecipe:
    return parse_recipe(f'version = 1\n[recipe]\nid = "mine"\ntitle = "Mine"\n{before}\n{steps}', ElicitationRecipe)


def run(project: Project, steps: str, script: dict[str, Any], before: str = "") -> list[Row]:
    folder = new_run(project, script, recipe_of(steps, before))
    attempt(folder)
    project.runs.ingest(folder.name, lines(folder))
    assert not [drop for drop in project.runs.dropped(folder.name) if drop.step == "ingest"]
    return [line.event for line in lines(folder) if isinstance(line.event, Row)]


def last_drops(project: Project) -> list[tuple[int, str, str]]:
    return drops(project.runs_folder / project.runs.list("elicit")[0].id)


def asking(project: Project, *texts: str, tools: Any = TOOLS) -> None:
    project.rows.add_prompts(
        NewPrompt([{"role": "user", "content": text}], extras={"tools": tools} if tools else {}, status="accepted")
        for text in texts
    )


def test_a_call_is_written_as_openai_has_it_and_what_fits_no_tool_falls(tmp_path: Path) -> None:
    answers = {
        "good": '{"name": "wait", "arguments": {"minutes": 3}}',
        "two": json.dumps([{"name": "wait", "arguments": '{"minutes": 1}', "id": "a"}, WAIT]),
        "unknown": '{"name": "go", "arguments": {}}',
        "missing": '{"name": "wait"}',
        "type": '{"name": "wait", "arguments": {"minutes": "three"}}',
        "text": "I shall wait.",
        "number": "3",
        "empty": "[]",
    }
    with new_project(tmp_path, []) as project:
        asking(project, *answers)
        rows = run(project, CALL, {"answers": answers})
        good, two = (row.row for row in rows)
        assert good["text"] == '<tool_call>{"name": "wait", "arguments": {"minutes": 3}}</tool_call>'
        assert good["message"] == {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "wait", "arguments": '{"minutes": 3}'}}
            ],
        }
        assert [call["id"] for call in two["message"]["tool_calls"]] == ["a", "call_2"]
        assert [reason for _, _, reason in last_drops(project)] == [
            "it calls go, which is not declared",
            "wait lacks minutes",
            "minutes is not of the type integer",
            "the tools or their calls are not JSON",
            "the calls cannot be read",
            "the response is empty",
        ]


def test_a_call_without_tools_falls(tmp_path: Path) -> None:
    with new_project(tmp_path, []) as project:
        asking(project, "go", tools=None)
        assert not run(project, CALL, {"default": '{"name": "wait", "arguments": {"minutes": 3}}'})
        assert last_drops(project) == [(1, "emit", "it calls a tool, but the tools are no list")]


def test_a_prompt_declares_its_tools_and_its_turns_must_fit_them(tmp_path: Path) -> None:
    talk = """
[[step]]
type = "prompt"
text = '''[[{"role": "user", "content": "Wait!"},
 {"role": "assistant", "content": "", "tool_calls": [CALL_OF_TALK]},
 {"role": "tool", "tool_call_id": "{{ number }}", "content": "done"}]]'''
into = "talks"
[[step]]
type = "expand"
source = "talks"
into = "talk"
[[step]]
type = "emit"
kind = "prompt"
messages = "talk"
tools = "list"
[[step]]
type = "prompt"
text = "{{ tools[0].function.name }}"
into = "response"
[[step]]
type = "emit"
"""
    before = f"[input]\nsource='nothing'\nrows=1\n[parameters.given]\nhelp='x'\ndefault='''{json.dumps(TOOLS)}'''\n"
    start = "[[step]]\ntype='prompt'\ntext='{{ given }}'\ninto='list'\n"
    ask = "[[step]]\ntype='prompt'\nstart=''\nuser='x'\ninto='request'\n" + SAMPLE
    with new_project(tmp_path, []) as project:
        talk = talk.replace("CALL_OF_TALK", CALL_OF_TALK)
        fine = talk.replace("{{ number }}", "a")
        rows = run(project, start + ask + fine, {"default": '{"minutes": 3}'}, before)
        assert [row.kind for row in rows] == ["prompt", "response"]
        assert rows[0].row["extras"]["tools"] == TOOLS
        assert rows[1].row["text"] == "wait", "the columns know the new prompt's tools"
        assert project.rows.prompt(1).conversation[0]["tools"] == TOOLS
        for steps, answer, reason in (
            (start + ask + talk, '{"minutes": 3}', "a tool's result answers no call (1)"),
            (start + ask + fine, "{}", "wait lacks minutes"),
            (start.replace("{{ given }}", "soon") + ask + fine, "{}", "the tools or their calls are not JSON"),
            (start.replace("{{ given }}", "{}") + ask + fine, "{}", "it calls a tool, but declares none"),
            (start.replace("{{ given }}", '[{"name": "x"}]') + ask + fine, "{}", "a tool has no function with a name"),
        ):
            assert not run(project, steps, {"default": answer}, before)
            assert [found for _, _, found in last_drops(project)] == [reason]


def test_calls_and_results_come_back_from_openais_format(tmp_path: Path) -> None:
    with new_project(tmp_path, []) as project:
        asking(project, "good")
        run(
            project,
            CALL.replace('"emit"', '"emit"\nstatus="accepted"'),
            {"default": '{"name": "wait", "arguments": {"minutes": 3}}'},
        )
        turns: list[dict[str, Any]] = [
            {"role": "user", "content": "Wait!"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "wait", "arguments": '{"minutes":3}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "a", "name": "wait", "content": "done"},
        ]
        project.rows.add_prompts([NewPrompt(turns, extras={"tools": TOOLS})])
        files = []
        for kind, status in (("response", "accepted"), ("prompt", "")):
            files.append(tmp_path / f"{kind}.jsonl")
            export_file(project, files[-1], "openai_messages", kind=kind, status=status)  # type: ignore[arg-type]
        answer = json.loads(files[0].read_text())
        assert answer["tools"] == TOOLS
        assert answer["messages"][-1]["content"] == ""
        assert answer["messages"][-1]["tool_calls"][0]["function"] == {"name": "wait", "arguments": '{"minutes": 3}'}
        assert turns in [json.loads(line)["messages"] for line in files[1].read_text().splitlines()]
    with Project.create(tmp_path / "again") as other:
        report = import_file(other, files[0])
        assert (report.rows, report.rejected) == (1, 0)
        (response,) = other.rows.responses_of(1)
        assert response.text == '<tool_call>{"name": "wait", "arguments": {"minutes": 3}}</tool_call>'
        again = tmp_path / "again.jsonl"
        export_file(other, again, "openai_messages", status="")
        assert json.loads(again.read_text()) == answer
        import_file(other, files[1])
        assert turns in [list(prompt.messages) for prompt in other.rows.prompts()]
