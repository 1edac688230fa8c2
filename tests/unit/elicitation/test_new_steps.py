"""What draw, expand, chunk, execute, score, rank, vote and the kinds of emit do, as whole runs of small recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput
from kdstudio.jobs.events import Answer, Funnel, Row, Traced
from kdstudio.project import NewPrompt, NewResponse, Project
from kdstudio.recipe import ElicitationRecipe, parse_recipe
from tests.unit.elicitation.runs import asked, attempt, drops, lines, new_project, new_run, warnings

SAMPLE, PARSE, EMIT = '[[step]]\ntype="sample"\n', '[[step]]\ntype="parse"\n', '[[step]]\ntype="emit"\n'


ANSWERED = SAMPLE + PARSE + '[[step]]\ntype="emit"\nkind="prompt"\ntext="response"\n'


def recipe_of(steps: str, before: str = "") -> ElicitationRecipe:
    return parse_recipe(f'version = 1\n[recipe]\nid = "mine"\ntitle = "Mine"\n{before}\n{steps}', ElicitationRecipe)


def run(project: Project, script: dict[str, Any], steps: str, before: str = "", **parameters: Any) -> list[Row]:
    """The rows that a run wrote; they are in the project afterwards."""
    folder = new_run(project, script, recipe_of(steps, before), **parameters)
    attempt(folder)
    project.runs.ingest(folder.name, lines(folder))
    assert not [drop for drop in project.runs.dropped(folder.name) if drop.step == "ingest"]
    return [line.event for line in lines(folder) if isinstance(line.event, Row)]


def last_run(project: Project) -> Path:
    return project.runs_folder / project.runs.list("elicit")[0].id


def test_rows_are_drawn_and_never_the_prompt_itself(tmp_path: Path) -> None:
    texts = [f"p{number}" for number in range(6)]
    for method in ("random", "diverse", "least_used"):
        draw = f'[[step]]\ntype="draw"\ncount=4\nmethod="{method}"\n'
        ask = '[[step]]\ntype="prompt"\nuser="{{ prompt }}:{% for d in drawn %} {{ d.prompt }}{% endfor %}"\n'
        with new_project(tmp_path / method, texts) as project:
            rows = run(project, {"function": "echo"}, draw + ask + SAMPLE + PARSE + EMIT)
            drawn = [str(row.row["text"]).partition(": ")[::2] for row in rows]
            assert all(own not in others.split() and len(set(others.split())) == 4 for own, others in drawn)
            counts = [sum(text in others.split() for _, others in drawn) for text in texts]
            assert sum(counts) == 24
            assert method != "least_used" or max(counts) - min(counts) <= 2  # nobody draws itself


def test_demonstrations_come_from_responses_and_a_row_without_enough_falls(tmp_path: Path) -> None:
    draw = '[[step]]\ntype="draw"\ncount=2\nsource="responses"\nstatus="accepted"\nminimum={minimum}\n'
    ask = '[[step]]\ntype="prompt"\nuser="{% for d in drawn %}{{ d.prompt }}={{ d.response }};{% endfor %}?"\n'
    with new_project(tmp_path, ["a", "b"]) as project:
        project.rows.add_responses([NewResponse(1, "A", status="accepted"), NewResponse(2, "B")])
        rows = run(project, {"function": "echo"}, draw.format(minimum=0) + ask + SAMPLE + PARSE + EMIT)
        assert [row.row["text"] for row in rows] == ["?", "a=A;?"]
        assert not run(project, {}, draw.format(minimum=2) + ask + SAMPLE + PARSE + EMIT, seed=1)
        assert {reason for _, _, reason in drops(last_run(project))} == {
            "only 0 rows to draw from, 2 are needed",
            "only 1 rows to draw from, 2 are needed",
        }


def test_a_list_or_a_parameter_is_expanded(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="expand"\nsource="topics"\ninto="topic"\n[[step]]\ntype="prompt"\nuser="On {{ topic }}"\n'
        + SAMPLE
        + '[[step]]\ntype="parse"\nformat="list"\ninto=["items"]\n'
        + '[[step]]\ntype="expand"\nsource="items"\nfields=["q","a"]\nat_most=3\n'
        + '[[step]]\ntype="emit"\nkind="prompt"\ntext="q"\nreference="a"\ntags=["made", "topic"]\n'
    )
    before = (
        '[input]\nsource="nothing"\nrows=1\n[parameters.topics]\ntype="lines"\ndefault="sea life\\n\\nart"\nhelp="x"\n'
    )
    answer = json.dumps(
        [{"q": "Who?", "a": "Me"}, {"q": "no answer"}, {"q": "{prompt}?", "a": 5}, {"q": "4", "a": "4"}]
    )
    with new_project(tmp_path, []) as project:
        rows = run(project, {"default": answer}, steps, before)
        assert [(row.kind, row.row["messages"][0]["content"], row.row["tags"]) for row in rows] == [
            ("prompt", "Who?", ["made", "sea_life"]),
            ("prompt", "On sea life?", ["made", "sea_life"]),
            ("prompt", "Who?", ["made", "art"]),
            ("prompt", "On art?", ["made", "art"]),
        ]
        assert [prompt.text for prompt in project.rows.prompts()] == ["Who?", "On sea life?", "On art?"]
        assert project.rows.prompt(1).reference == "Me"
        assert {reason for _, _, reason in drops(last_run(project))} == {"an entry has no a"}


DOCUMENTS = '[input]\nsource="documents"\n[parameters.documents]\ntype="files"\nhelp="x"\n'


def test_documents_become_grounded_questions_with_their_passage(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="chunk"\nwords=20\noverlap=0\n[[step]]\ntype="prompt"\nuser="Ask about: {{ passage }}"\n'
        + SAMPLE
        + '[[step]]\ntype="parse"\ninto=["question"]\n[[step]]\ntype="emit"\nkind="prompt"\ntext="question"\n'
        + SAMPLE
        + PARSE
        + EMIT
    )
    folder = tmp_path / "papers"
    folder.mkdir()
    first = " ".join(f"word{number}" for number in range(18)) + "."
    (folder / "a.md").write_text(f"# Whales\n\n{first}\n\n# Bread\n\nBread is baked {first}")
    (folder / "b.pdf").write_bytes(b"%PDF-1.4 broken")
    with new_project(tmp_path, []) as project:
        rows = run(project, {"default": "What of {prompt}"}, steps, DOCUMENTS, values={"documents": str(folder)})
        assert [row.kind for row in rows].count("prompt") == [row.kind for row in rows].count("response") >= 2
        prompt = project.rows.prompt(1)
        place = prompt.extras["provenance"]["passage"]
        assert place["passage"] in (folder / "a.md").read_text()
        assert place["source"].endswith("a.md")
        (response,) = project.rows.responses_of(1)
        assert response.extras["passage"] == place
        assert response.text == f"What of {prompt.text}"
        assert [(step, reason.partition(":")[0]) for _, step, reason in drops(last_run(project))] == [
            ("input", "b.pdf")
        ]


def test_code_is_run_and_only_what_passes_stays(tmp_path: Path) -> None:
    steps = (
        SAMPLE
        + '[[step]]\ntype="parse"\nformat="code"\ninto=["code"]\n[[step]]\ntype="execute"\ntests="reference"\n'
        + '[[step]]\ntype="emit"\ntext="code"\nextras=["output"]\n'
    )
    script = {"answers": {"good": "```python\ndef f(x):\n    return x + 1\n```", "bad": "```python\nf = abs\n```"}}
    with new_project(tmp_path, []) as project:
        project.rows.add_prompts(
            NewPrompt([{"role": "user", "content": text}], reference="assert f(1) == 2") for text in ("good", "bad")
        )
        rows = run(project, script, steps)
        assert [row.row["prompt_id"] for row in rows] == [1]
        ((number, step, reason),) = drops(last_run(project))
        assert (number, step) == (2, "execute")
        assert "the tests, line 1" in reason
        assert sorted(asked(last_run(project))) == ["1:0:0", "1:0:0:2:run", "2:0:0", "2:0:0:2:run"]
        again = attempt(last_run(project))
        assert (again["rows"], len(asked(last_run(project)))) == (1, 4)


VOTE = '[[step]]\ntype="vote"\ncolumn="response"\n'


def test_the_samples_of_a_row_vote(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="sample"\nsamples=5\ntemperature=1\n'
        + PARSE
        + VOTE
        + '[[step]]\ntype="emit"\nextras=["share"]\n'
    )
    with new_project(tmp_path, ["half"]) as project:
        (row,) = run(project, {"default": ["1/2", "0.5", "0.50", "7"], "out_of_order": 5}, steps)
        assert row.row["text"] in ("1/2", "0.5", "0.50")
        assert row.row["extras"]["share"] >= 0.6
        assert row.row["key"] == "1"
        assert (row.row["prompt_tokens"], row.row["tokens"]) == (5, 5)
        (kept,) = project.rows.responses_of(1)
        assert kept.extras == row.row["extras"]


def test_a_judge_scores_and_what_is_too_low_is_rejected(tmp_path: Path) -> None:
    score = '[[step]]\ntype="score"\naspects=["clarity","truth"]\nminimum=4\n'
    script = {
        "rules": [
            {"match": "good answer(.|\n)*score", "text": '{"clarity": 5, "truth": 4}'},
            {"match": "bad answer(.|\n)*score", "text": '{"clarity": 2, "truth": 1}'},
            {"match": "odd answer(.|\n)*score", "text": "I like it."},
            {"match": "^(good|bad|odd)$", "text": "a {prompt} answer"},
        ]
    }
    with new_project(tmp_path, ["good", "bad", "odd"]) as project:
        rows = run(project, script, SAMPLE + PARSE + score + '[[step]]\ntype="emit"\nextras=["scores","score"]\n')
        assert [(row.row["text"], row.row["status"], row.row["extras"]["score"]) for row in rows] == [
            ("a good answer", "pending", 4.5),
            ("a bad answer", "rejected", 1.5),
        ]
        ((number, step, reason),) = drops(last_run(project))
        assert (number, step) == (3, "score")
        assert "judge" in reason


@pytest.mark.parametrize(
    ("method", "judged"),
    [("pairwise", '{"better": "A"}'), ("listwise", '{"order": [2, 1]}'), ("scores", "")],
)
def test_samples_are_ranked_and_a_tie_is_no_preference(tmp_path: Path, method: str, judged: str) -> None:
    ask = '[[step]]\ntype="sample"\nsamples=2\ntemperature=1\n' + PARSE
    length = '[[step]]\ntype="prompt"\ntext="{{ response | length }}"\ninto="score"\n'
    rank = f'[[step]]\ntype="rank"\nmethod="{method}"\n'
    emit = '[[step]]\ntype="emit"\nkind="preference"\n' + EMIT
    script = {"rules": [{"match": "^go$", "text": ["long answer", "brief"]}], "default": judged, "out_of_order": 4}
    with new_project(tmp_path, ["go"]) as project:
        rows = run(project, script, ask + length + rank + emit, seed=4)
        texts = {row.kind: row.row for row in rows}
        if method == "pairwise":  # always the first shown: a contradiction, so a tie, so no preference
            assert set(texts) == {"response"} or not texts
            assert [reason for _, step, reason in drops(last_run(project)) if step == "emit"] == [
                "all are equally good"
            ]
            return
        preference = texts["preference"]
        assert preference["scores"][0] > preference["scores"][1]
        assert texts["response"]["text"] == preference["candidates"][0]
        (stored,) = project.rows.preferences()
        assert stored.candidates == tuple(preference["candidates"])


def test_a_critique_makes_a_pair_and_labels_are_of_the_set(tmp_path: Path) -> None:
    revise = (
        '[[step]]\ntype="prompt"\nuser="Better than {{ response }}?"\n[[step]]\ntype="sample"\ninto="revised"\n'
        '[[step]]\ntype="emit"\nkind="preference"\nchosen="revised"\nrejected="response"\n'
        '[[step]]\ntype="parse"\nformat="choice"\nsource="revised"\ninto=["label"]\nchoices=["Yes","No"]\n'
        '[[step]]\ntype="emit"\nkind="label"\ntext="label"\nlabels_from="labels"\n'
    )
    before = '[input]\nsource="responses"\nstatus="accepted"\n'
    before += '[parameters.labels]\ntype="lines"\ndefault="yes\\nno"\nhelp="x"\n'
    with new_project(tmp_path, ["a", "b"]) as project:
        project.rows.add_responses([NewResponse(1, "draft", status="accepted"), NewResponse(2, "other")])
        pair, label = run(project, {"default": "Yes, surely"}, revise, before)
        assert (pair.kind, pair.row["candidates"], pair.row["prompt_id"]) == ("preference", ["Yes, surely", "draft"], 1)
        assert (label.row["text"], label.row["extras"]["labels"]) == ("yes", ["yes", "no"])


def test_filters_read_and_compute(tmp_path: Path) -> None:
    drop = '[[step]]\ntype="filter"\notherwise="drop"\n'
    filters = (
        f'{drop}refuse_refusals=true\n{drop}maximum_words=4\n{drop}reference="reference"\n'
        f"{drop}expression=\"response != '43' and round == 1\"\n"
    )
    script = {
        "answers": {"r": "I'm sorry, but I can't help with that.", "w": "41", "l": "a b c d e", "x": "43", "ok": "42.0"}
    }
    references = {"r": "42", "w": "42", "l": "42", "x": "43", "ok": "42"}
    with new_project(tmp_path, []) as project:
        project.rows.add_prompts(
            NewPrompt([{"role": "user", "content": text}], reference=right) for text, right in references.items()
        )
        rows = run(project, script, SAMPLE + PARSE + filters + EMIT)
        assert [row.row["text"] for row in rows] == ["42.0"]
        assert [reason for _, _, reason in drops(last_run(project))] == [
            "declines to answer",
            "is not the right answer",
            "more than 4 words",
            "response is not '43' and round is 1 does not hold",
        ]


def test_conversations_are_built_turn_by_turn(tmp_path: Path) -> None:
    steps = (
        '[[step]]\ntype="sample"\ninto="first"\n'
        '[[step]]\ntype="prompt"\nassistant="{{ first }}"\nuser="And then?"\nappend=true\ninto="talk"\n'
        '[[step]]\ntype="emit"\nkind="prompt"\nmessages="talk"\n' + SAMPLE + PARSE + EMIT
    )
    with new_project(tmp_path, ["Hi"]) as project:
        prompt, response = run(project, {"function": "upper"}, steps)
        assert [(turn["role"], turn["content"]) for turn in prompt.row["messages"]] == [
            ("user", "Hi"),
            ("assistant", "HI"),
            ("user", "And then?"),
        ]
        assert (response.row["text"], response.row["prompt_id"]) == ("AND THEN?", 0)
        assert [answer.text for answer in project.rows.responses_of(2)] == ["AND THEN?"]


def test_rounds_start_from_what_was_made_and_stop_when_it_gets_poorer(tmp_path: Path) -> None:
    evolve = (
        '[[step]]\ntype="prompt"\nuser="More: {{ prompt }}"\n' + SAMPLE + '[[step]]\ntype="parse"\ninto=["harder"]\n'
        '[[step]]\ntype="emit"\nkind="prompt"\ntext="harder"\n[[step]]\ntype="loop"\nrounds=4\nstart="made"\n'
    )
    with new_project(tmp_path / "a", ["one", "two"]) as project:
        rows = run(project, {"function": "echo"}, evolve.replace("rounds=4", "rounds=3\nmaximum_slide=0"))
        assert [row.row["messages"][0]["content"] for row in rows] == [
            f"{'More: ' * times}{text}" for times in (1, 2, 3) for text in ("one", "two")
        ]
    with new_project(
        tmp_path / "b", [f"question {n} about {w}" for n, w in enumerate(("sea", "sky", "tea"))]
    ) as project:
        rows = run(project, {"rules": [{"match": "same", "text": "same same"}], "default": "same {prompt}"}, evolve)
        said = [item for item in warnings(last_run(project)) if "rounds ended" in item.title]
        assert len(said) == 1
        assert "poorer than the first" in said[0].detail
        assert len(rows) == 6


def test_each_teacher_answers_where_all_are_asked(tmp_path: Path) -> None:
    from dataclasses import asdict

    from kdstudio.models.spec import TeacherSpec

    steps = '[[step]]\ntype="sample"\nteachers="all"\n' + PARSE + '[[step]]\ntype="emit"\nextras=["teacher"]\n'
    specs = [asdict(TeacherSpec(name, "scripted", options={"script": {"default": name}})) for name in ("ann", "bob")]
    with new_project(tmp_path, ["a"]) as project:
        rows = run(project, {}, steps, teachers=specs, teacher=TeacherSpec(**specs[0]))
        assert sorted((row.row["text"], row.row["teacher"], row.row["key"]) for row in rows) == [
            ("ann", "ann", "1:0:0@ann"),
            ("bob", "bob", "1:0:0@bob"),
        ]


def test_a_trial_writes_nothing_shows_everything_and_is_not_paid_twice(tmp_path: Path) -> None:
    with new_project(tmp_path, [f"p{number}" for number in range(5)]) as project:
        trial = new_run(project, trial=3)
        result = attempt(trial)
        events = [line.event for line in lines(trial)]
        assert (result["rows"], result["would_write"]) == (0, 3)
        assert not [event for event in events if isinstance(event, Row)]
        traced = [event for event in events if isinstance(event, Traced)]
        assert len(traced) == 15
        assert [(event.step, event.type) for event in traced if event.key.startswith("1")] == [
            *((0, "prompt"), (1, "sample"), (2, "parse"), (3, "filter"), (4, "emit"))
        ]
        assert traced[1].columns["answer"] == "An answer to p0."
        project.runs.ingest(trial.name, lines(trial))
        real = new_run(project)
        assert attempt(real)["rows"] == 5
        answers = [line.event for line in lines(real) if isinstance(line.event, Answer)]
        assert len(answers) == 5
        assert [line.event.event for line in lines(real)].index(
            "progress"
        ) >= 6  # three were there before it was opened
        assert any(isinstance(line.event, Funnel) for line in lines(real))


@pytest.mark.parametrize(
    ("steps", "before", "words"),
    [
        (SAMPLE + PARSE + EMIT, '[input]\nsource="nothing"', "'messages'"),
        ('[[step]]\ntype="prompt"\nuser="x"\n' + SAMPLE + PARSE + EMIT, '[input]\nsource="nothing"', "no prompt"),
        (SAMPLE + PARSE + EMIT, '[input]\nsource="documents"', "'messages'"),
        (SAMPLE + PARSE + EMIT + '[[step]]\ntype="loop"\nstart="made"\n', "", "no step makes prompts"),
        ('[[step]]\ntype="loop"\n' + SAMPLE + PARSE + EMIT, "", "can only be the last"),
        (SAMPLE + PARSE + '[[step]]\ntype="loop"\n', "", "must be of type 'emit'"),
        ('[[step]]\ntype="vote"\ncolumn="prompt"\n' + SAMPLE + PARSE + EMIT, "", "several rows of one"),
        ('[[step]]\ntype="draw"\nsource="made"\n' + SAMPLE + PARSE + EMIT, "", "Without a loop".lower()),
        (SAMPLE + '[[step]]\ntype="parse"\nformat="choice"\n' + EMIT, "", "no choices"),
        ('[[step]]\ntype="sample"\ngrammar="x"\nchoices=["a"]\n' + PARSE + EMIT, "", "only one of"),
        (SAMPLE + PARSE + '[[step]]\ntype="sing"\n' + EMIT, "", "sing"),
        (ANSWERED + 'tags=["tags", "reference"]\n', "", "the tag 'reference' has the name of a column"),
        (ANSWERED + 'tags_from=["nobody"]\n', "", "reads 'nobody'"),
        (SAMPLE + 'into="labels"\n' + EMIT + 'text="labels"\nextras=["labels"]\n', "", "keeps 'labels' with the row"),
        (SAMPLE + 'into="prompt"\n' + PARSE + EMIT, "", "writes over 'prompt'"),
        (SAMPLE + 'into="tone"\n' + PARSE + EMIT, '[parameters.tone]\nhelp="x"\n', "'tone', which is a parameter"),
        ('[[step]]\ntype="prompt"\nuser="{% include \'/etc/passwd\' %}"\n' + SAMPLE + PARSE + EMIT, "", "other files"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused_with_its_line(steps: str, before: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        recipe_of(steps, before)
    assert words in caught.value.detail
    assert "line" in caught.value.detail or "must be of type" in words or "last" in words


def test_a_tag_is_a_word_a_column_of_the_recipes_own_or_named_as_a_column(tmp_path: Path) -> None:
    tags = 'tags=["tags", "reference_work", "kind"]\ntags_from=["reference", "kind"]\n'
    kind = '[[step]]\ntype="prompt"\ntext="a question"\ninto="kind"\n'
    with new_project(tmp_path, []) as project:
        project.rows.add_prompts([NewPrompt([{"role": "user", "content": "Go"}], ["easy"], "forty two")])
        (row,) = run(project, {}, kind + ANSWERED + tags)
        assert row.row["tags"] == ["easy", "reference_work", "a_question", "forty_two"]


def test_documents_that_are_not_named_are_asked_for(tmp_path: Path) -> None:
    steps = '[[step]]\ntype="prompt"\nuser="{{ title }}"\n' + SAMPLE + PARSE + '[[step]]\ntype="emit"\nkind="prompt"\n'
    with new_project(tmp_path, []) as project, pytest.raises(BadInput, match="no documents"):
        run(project, {}, steps, DOCUMENTS)


def test_a_rubric_may_stand_in_a_parameter_and_one_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    score = '[[step]]\ntype="score"\nrubric="principles"\n'
    before = '[parameters.principles]\ntype="lines"\ndefault="Be kind to whales.\\nBe brief."\nhelp="x"\n'
    script = {"rules": [{"match": "^p$", "text": "fine"}], "default": '{"quality": 4}'}
    with new_project(tmp_path, ["p"]) as project:
        steps = SAMPLE + PARSE + score + '[[step]]\ntype="emit"\nextras=["scores"]\n'
        (row,) = run(project, script, steps, before)
        assert list(row.row["extras"]["scores"].values()) == [4.0]
        with pytest.raises(BadInput, match="rubric") as caught:
            run(project, script, steps.replace("principles", "nobodys"), seed=1)
        assert "step 3 (score)" in caught.value.detail
