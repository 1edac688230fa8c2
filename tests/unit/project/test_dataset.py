"""Rows out and in again: what is written is what comes back, in every format, or the format says that it cannot."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdstudio.errors import BadInput, Stopped
from kdstudio.project import NewPreference, NewPrompt, NewResponse, Project
from kdstudio.project.exchange import export_file, import_file
from kdstudio.project.format_readers import guard, unguard

CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
TEXT = st.text(CHARACTERS, min_size=1, max_size=40).filter(str.strip)
DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\x00")
PAIRS = st.lists(st.tuples(TEXT, TEXT, TEXT | st.just("")), min_size=1, max_size=8, unique_by=lambda pair: pair[0])
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "1"},
    {"role": "user", "content": "two"},
]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Project]]:
    folder = tmp_path_factory.mktemp("round")
    with Project.create(folder / "one") as one, Project.create(folder / "other") as other:
        for project in (one, other):  # hundreds of tiny projects would only test the disk's patience
            project._database.writer.execute("PRAGMA synchronous = OFF")
        yield one, other


def empty(project: Project) -> None:
    with project._database.write() as connection:
        for table in ("responses", "preferences", "prompts", "counts"):
            connection.execute(f"DELETE FROM {table}")
        for index in ("prompts_search", "responses_search"):
            connection.execute(f"INSERT INTO {index}({index}) VALUES ('delete-all')")


FORMATS = ("openai_messages", "sharegpt", "prompt_completion", "alpaca", "csv")


def round_trips(two: tuple[Project, Project], folder: Path, pairs: list[tuple[str, str, str]], *formats: str) -> None:
    one, other = two
    empty(one)
    empty(other)
    ids, _ = one.rows.put_prompts(
        [
            NewPrompt([*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": text}])
            for text, _, system in pairs
        ]
    )
    one.rows.add_responses(NewResponse(ids[n], answer) for n, (_, answer, _) in enumerate(pairs))
    for number, name in enumerate(formats):
        out = folder / f"{name}{'.csv' if name == 'csv' else '.jsonl'}"
        assert export_file(one, out, name, status="") == len(pairs)
        if number == 0:
            assert import_file(other, out).responses == len(pairs)
            export_file(other, folder / "again", name, status="")
            assert (folder / "again").read_bytes() == out.read_bytes()
        else:  # the very same rows again
            report = import_file(other, out)
            assert (report.prompts, report.responses, report.rejected) == (0, 0, 0), name


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIRS)
def test_every_format_round_trips_exactly(
    two: tuple[Project, Project], tmp_path: Path, pairs: list[tuple[str, str, str]]
) -> None:
    round_trips(two, tmp_path, pairs, *FORMATS)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PAIRS)
def test_ten_thousand_round_trips(
    two: tuple[Project, Project], tmp_path: Path, name: str, pairs: list[tuple[str, str, str]]
) -> None:
    round_trips(two, tmp_path, pairs, name)


@given(st.text() | st.text("'=+-@\t\r\x00a", max_size=6))
def test_guarding_a_cell_is_undone_exactly(cell: str) -> None:
    assert unguard(guard(cell)) == cell
    assert not guard(cell).startswith(DANGEROUS)


def test_a_thousand_hostile_cells_are_all_guarded(two: tuple[Project, Project], tmp_path: Path) -> None:
    one, other = two
    empty(one)
    empty(other)
    starts = ("=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\tx", "\rx", "'=1", "''=1", '"=1"', "=1\n=2")
    ids, _ = one.rows.put_prompts(
        [NewPrompt([{"role": "user", "content": f"{starts[n % 10]} {n}"}], tags=[f"={n}"]) for n in range(1000)]
    )
    one.rows.add_responses(NewResponse(ids[n], f"{starts[-n % 10]} {n}", f"={n}") for n in range(1000))
    out = tmp_path / "out.csv"
    export_file(one, out, "csv", status="")
    with out.open(encoding="utf-8-sig", newline="") as stream:
        cells = [cell for row in csv.reader(stream) for cell in row]
    assert len(cells) == 8 * 1001
    assert not [cell for cell in cells if cell.startswith(DANGEROUS)]
    assert import_file(other, out).responses == 1000
    texts = [[(p.text, p.tags, r.text, r.reasoning) for p, r in each.rows.pairs(status="any")] for each in two]
    assert texts[0] == texts[1]


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as made:
        yield made


def exported(project: Project, folder: Path, name: str, **options: Any) -> list[Any]:
    export_file(project, folder / "out", name, status="", **options)
    return [json.loads(line) for line in (folder / "out").read_text().splitlines()]


def test_a_conversation_keeps_its_turns_or_is_refused(project: Project, tmp_path: Path) -> None:
    project.rows.add_prompts([NewPrompt(TURNS, tags=["t"])])
    project.rows.add_responses([NewResponse(1, "2", reasoning="1 + 1")])
    answer = {"role": "assistant", "content": "2"}
    assert exported(project, tmp_path, "openai_messages")[0]["messages"] == [*TURNS, {**answer, "reasoning": "1 + 1"}]
    assert exported(project, tmp_path, "prompt_completion")[0]["prompt"] == TURNS
    assert exported(project, tmp_path, "prompt_completion")[0]["completion"] == [answer]
    spoken = [turn["from"] for turn in exported(project, tmp_path, "sharegpt")[0]["conversations"]]
    assert spoken == ["system", "human", "gpt", "human", "gpt"]
    for name in ("alpaca", "csv"):
        with pytest.raises(BadInput, match=r"cannot hold response 1.*several turns"):
            export_file(project, tmp_path / "refused", name, status="")
    assert not (tmp_path / "refused").exists()


def test_tools_and_tool_calls_come_back(project: Project, tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    call: dict[str, Any] = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "function": {"name": "add"}}],
    }
    turns = [TURNS[1], call, {"role": "tool", "content": "3", "tool_call_id": "1"}]
    project.rows.add_prompts([NewPrompt(turns, extras={"tools": tools})])
    project.rows.add_responses([NewResponse(1, "It is 3.")])
    record = exported(project, tmp_path, "openai_messages")[0]
    assert record["tools"] == tools
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + "\n" + json.dumps({"messages": [TURNS[1], call]}) + "\n")
    report = import_file(project, tmp_path / "in.jsonl")
    assert (report.prompts, report.responses, report.duplicates, report.rejected) == (1, 1, 1, 0)
    (called,) = project.rows.responses_of(2)
    assert called.text == '<tool_call>{"name": "add", "arguments": {}}</tool_call>'
    assert called.message["tool_calls"] == call["tool_calls"]
    assert exported(project, tmp_path, "openai_messages")[1]["messages"] == [TURNS[1], call]
    project.rows.edit_text("response", called.id, "No.")
    edited = exported(project, tmp_path, "openai_messages")[1]["messages"][1]
    assert edited == {"role": "assistant", "content": "No."}, "what a person changed counts"
    with pytest.raises(BadInput, match="tools or attachments"):
        export_file(project, tmp_path / "x", "sharegpt", status="")


def test_pictures_come_back_in_every_format_that_has_a_place_for_them(
    project: Project, two: tuple[Project, Project], tmp_path: Path
) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    turn = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}
    project.rows.add_prompts([NewPrompt([turn]), NewPrompt([{"role": "user", "content": [picture]}])])
    project.rows.add_responses([NewResponse(1, "A cup."), NewResponse(2, "A lamp.")])
    record = exported(project, tmp_path, "sharegpt")[0]
    assert record["conversations"][0] == {"from": "human", "value": "What is this?\n<image>"}
    assert record["images"] == ["data:image/png;base64,AAAA"]
    for name in ("sharegpt", "openai_messages", "prompt_completion"):
        empty(two[0])
        export_file(project, tmp_path / f"{name}.jsonl", name, status="")
        report = import_file(two[0], tmp_path / f"{name}.jsonl")
        assert (report.prompts, report.responses, report.rejected) == (2, 2, 0), name
        assert next(prompt.messages for prompt in two[0].rows.prompts()) == (turn,)
    for name in ("alpaca", "csv"):
        with pytest.raises(BadInput, match="attachments"):
            export_file(project, tmp_path / "x", name, status="")


def test_pictures_without_a_place_are_refused(project: Project, tmp_path: Path) -> None:
    said = [{"from": "human", "value": "<image> What?"}, {"from": "gpt", "value": "A cup."}]
    whole: dict[str, Any] = {"conversations": said, "images": ["a.png"]}
    records = [whole, {**whole, "images": ["a.png", "b.png"]}, {**whole, "images": [7]}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, records)))
    report = import_file(project, tmp_path / "in.jsonl")
    assert (report.prompts, report.rejected) == (1, 2)
    parts = [{"type": "text", "text": "Where does <image> stand?"}]
    project.rows.add_prompts([NewPrompt([{"role": "user", "content": parts}])])
    project.rows.add_responses([NewResponse(2, "Nowhere.")])
    with pytest.raises(BadInput, match="attachments"):
        export_file(project, tmp_path / "x", "sharegpt", status="")


def test_what_a_recipe_kept_with_a_prompt_does_not_hinder_its_export(project: Project, tmp_path: Path) -> None:
    extras = {"provenance": {"recipe": "math"}, "principle": "Be exact."}
    project.rows.add_prompts([NewPrompt([TURNS[1]], extras=extras)])
    project.rows.add_responses([NewResponse(1, "1")])
    assert exported(project, tmp_path, "alpaca") == [{"instruction": "one", "input": "", "output": "1"}]
    assert exported(project, tmp_path, "sharegpt")[0]["conversations"][1]["value"] == "1"
    assert exported(project, tmp_path, "prompt_completion") == [{"prompt": "one", "completion": "1"}]


def test_preferences_export_their_best_and_worst(project: Project, tmp_path: Path) -> None:
    project.rows.add_prompts([NewPrompt([TURNS[1]]), NewPrompt(TURNS)])
    project.rows.add_preferences([NewPreference(1, ["so", "good", "bad"], [0.5, 0.9, 0.1])])
    project.rows.add_preferences([NewPreference(2, ["good", "bad"], [1, 0])])
    first, second = exported(project, tmp_path, "preference", kind="preference")
    assert first == {"prompt": "one", "chosen": "good", "rejected": "bad"}
    assert (second["prompt"], second["chosen"]) == (TURNS, [{"role": "assistant", "content": "good"}])
    project.rows.add_preferences([NewPreference(1, ["a", "b"], [1, 1])])
    with pytest.raises(BadInput, match="none of its answers is better"):
        export_file(project, tmp_path / "x", "preference", kind="preference", status="")


def test_an_export_that_is_given_up_or_has_no_place_leaves_nothing(project: Project, tmp_path: Path) -> None:
    project.rows.add_prompts(NewPrompt([{"role": "user", "content": str(n)}]) for n in range(3000))
    out = tmp_path / "out"
    out.mkdir()

    def give_up(done: int) -> None:
        if done > 1500:
            raise Stopped

    with pytest.raises(Stopped):
        export_file(project, out / "a.jsonl", "openai_messages", kind="prompt", status="", progress=give_up)
    with pytest.raises(BadInput, match="folder"):
        export_file(project, out, "openai_messages", kind="prompt")
    assert list(out.iterdir()) == []
    assert export_file(project, out / "none.csv", "csv") == 0
    assert (out / "none.csv").read_text(encoding="utf-8-sig").startswith("system,prompt,completion")
