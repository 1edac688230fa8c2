"""Recipes as wholes: which questions they ask, under which keys and seeds, and which recipes are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdstudio.elicitation.pipeline import Ask, Fallen, Outcome, Pipeline, Unasked, Written, request_seed
from kdstudio.elicitation.values import with_values
from kdstudio.errors import BadInput
from kdstudio.project import Prompt
from kdstudio.recipe import ElicitationRecipe, find_elicitation_recipe, parse_recipe, recipe_hash
from kdstudio.teachers.base import Completion, FinishReason
from tests.unit.elicitation.runs import recipe_of

SAMPLE, PARSE, EMIT = '[[step]]\ntype="sample"\n', '[[step]]\ntype="parse"\n', '[[step]]\ntype="emit"\n'


def prompt_of(text: str, number: int = 7) -> Prompt:
    messages = ({"role": "user", "content": text},)
    return Prompt(number, messages, text, ("t",), "ref", {}, "pending", "", "", "", b"")


def pipeline_of(recipe: ElicitationRecipe | str, seed: int = 0) -> Pipeline:
    recipe = recipe_of(recipe) if isinstance(recipe, str) else recipe
    return Pipeline(recipe, recipe_hash="h", teacher="t", seed=seed)


def ask_of(outcome: Outcome) -> Ask:
    assert isinstance(outcome, Ask)
    return outcome


def answer(pipeline: Pipeline, ask: Ask, text: str, reason: FinishReason = "stop") -> list[Outcome]:
    return list(pipeline.answered(ask, Completion(ask.request.key, text, reason, 3, 5)))


def test_the_answer_recipe_as_a_worked_example() -> None:
    pipeline = pipeline_of(find_elicitation_recipe("answer"))
    (ask,) = map(ask_of, pipeline.begin(prompt_of("What is 2 + 2?")))
    assert ask.request.messages == ({"role": "user", "content": "What is 2 + 2?"},)
    assert (ask.request.key, ask.request.sampling.max_tokens, ask.request.sampling.temperature) == ("7:1:0", 256, 0)
    (written,) = answer(pipeline, ask, " 4. \n")
    assert isinstance(written, Written)
    assert (written.row["text"], written.row["status"], written.row["prompt_id"]) == ("4.", "pending", 7)
    assert (written.row["prompt_tokens"], written.row["tokens"], written.row["key"]) == (3, 5, "7:1:0")
    assert written.row["sampling"] == {"temperature": 0.0, "top_p": 1.0, "max_tokens": 256}


def test_the_chain_of_thought_recipe_as_a_worked_example() -> None:
    pipeline = pipeline_of(find_elicitation_recipe("chain_of_thought"))
    (ask,) = map(ask_of, pipeline.begin(prompt_of("What is 2 + 2?")))
    assert str(ask.request.messages[0]["content"]).startswith("What is 2 + 2?\n\nThink it through")
    (ask,) = map(ask_of, answer(pipeline, ask, "Two and two together make four."))
    assert [message["role"] for message in ask.request.messages] == ["user", "assistant", "user"]
    assert str(ask.request.messages[2]["content"]).startswith("Now give only the answer")
    (written,) = answer(pipeline, ask, " 4\n")
    assert isinstance(written, Written)
    assert (written.row["reasoning"], written.row["text"]) == ("Two and two together make four.", "4")
    (ask,) = map(ask_of, pipeline.begin(prompt_of("Again?")))
    (fallen,) = answer(pipeline, ask, "No.")
    assert isinstance(fallen, Fallen)
    assert (fallen.step, fallen.reason, fallen.unasked) == ("filter", "fewer than 5 words", 1)
    (ask,) = map(ask_of, pipeline.begin(prompt_of("Again?")))
    (ask,) = map(ask_of, answer(pipeline, ask, "It takes five words at least."))
    (written,) = answer(pipeline, ask, "the ans", "length")
    assert isinstance(written, Written)
    assert (written.row["status"], written.row["reason"]) == ("rejected", "cut off by the token limit")


def test_an_incomplete_answer_is_rejected_with_the_reason() -> None:
    pipeline = pipeline_of(find_elicitation_recipe("answer"))
    (ask,) = map(ask_of, pipeline.begin(prompt_of("Go")))
    (written,) = answer(pipeline, ask, "half an", "incomplete")
    assert isinstance(written, Written)
    assert (written.row["status"], written.row["reason"]) == ("rejected", "did not end by itself (incomplete)")


def test_every_sample_has_its_own_key_and_seed() -> None:
    pipeline = pipeline_of('[[step]]\ntype="sample"\nsamples=3\n' + PARSE + EMIT)
    asks = [ask_of(outcome) for outcome in pipeline.begin(prompt_of("Go"))]
    assert [ask.request.key for ask in asks] == ["7:0:0", "7:0:1", "7:0:2"]
    assert len({ask.request.sampling.seed for ask in asks}) == 3
    rows = [
        outcome.row
        for ask in asks
        for outcome in answer(pipeline, ask, ask.request.key)
        if isinstance(outcome, Written)
    ]
    assert [(row["key"], row["text"], row["seed"]) for row in rows] == [
        (ask.request.key, ask.request.key, ask.request.sampling.seed) for ask in asks
    ]


def test_seeds_depend_on_run_and_key_alone() -> None:
    assert request_seed(0, "1:0:0") == request_seed(0, "1:0:0")
    assert len({request_seed(run, f"{prompt}:0:0") for run in range(20) for prompt in range(20)}) == 400
    assert all(0 <= request_seed(run, "k") < 1 << 31 for run in range(100))
    assert request_seed(0, "1:0:0") == 0x7FFFFFFF & request_seed(0, "1:0:0")


def test_answers_can_lead_to_further_questions() -> None:
    pipeline = pipeline_of(
        '[[step]]\ntype="sample"\nsamples=2\ninto="draft"\n'
        '[[step]]\ntype="prompt"\nuser="Improve: {{ draft }} ({{ tags[0] }}, {{ reference }})"\n'
        + SAMPLE
        + PARSE
        + EMIT
    )
    assert pipeline.questions_from(0) == 4
    first, second = (ask_of(outcome) for outcome in pipeline.begin(prompt_of("Go")))
    (then,) = map(ask_of, answer(pipeline, second, "b"))
    assert then.request.messages == ({"role": "user", "content": "Improve: b (t, ref)"},)
    assert then.request.key == "7:0:1:2:0"
    (written,) = answer(pipeline, then, "better b")
    assert isinstance(written, Written)
    assert (written.row["text"], written.row["prompt_tokens"], written.row["tokens"]) == ("better b", 6, 10)
    (fallen,) = answer(pipeline, first, "", "error")
    assert fallen == Fallen(7, "sample", "the teacher failed", 1, "7:0:0")


def test_one_answer_can_become_several_rows() -> None:
    pipeline = pipeline_of(
        SAMPLE
        + '[[step]]\ntype="parse"\nformat="json"\ninto=["a","b"]\n'
        + '[[step]]\ntype="emit"\ntext="a"\n'
        + '[[step]]\ntype="emit"\ntext="b"\n'
    )
    (ask,) = map(ask_of, pipeline.begin(prompt_of("Go")))
    outcomes = answer(pipeline, ask, '{"a": "one", "b": "two"}')
    assert [(item.row["key"], item.row["text"]) for item in outcomes if isinstance(item, Written)] == [
        ("7:0:0:2", "one"),
        ("7:0:0", "two"),
    ]


def test_an_empty_prompt_and_a_rejected_one_are_not_asked() -> None:
    pipeline = pipeline_of('[[step]]\ntype="filter"\ncolumn="prompt"\nmaximum_characters=5\n' + SAMPLE + PARSE + EMIT)
    assert list(pipeline.begin(prompt_of(" \n"))) == [Fallen(7, "input", "the prompt is empty", 1, "7")]
    unasked, fallen = pipeline.begin(prompt_of("far too long"))
    assert unasked == Unasked(1)
    assert fallen == Fallen(7, "filter", "longer than 5 characters", 0, "7")
    assert len(list(pipeline.begin(prompt_of("short")))) == 1


def test_a_template_cannot_change_the_prompt_itself() -> None:
    prompt = prompt_of("Go")
    (ask,) = map(ask_of, pipeline_of('[[step]]\ntype="prompt"\nuser="other"\n' + SAMPLE + PARSE + EMIT).begin(prompt))
    assert ask.request.messages[0]["content"] == "other"
    assert prompt == replace(prompt_of("Go"))


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ('[[step]]\ntype="prompt"\nuser="{{ nobody }}"\n' + SAMPLE + PARSE + EMIT, "step 1 .prompt. reads 'nobody'"),
        (SAMPLE + PARSE + '[[step]]\ntype="emit"\ntext="other"\n', "step 3 .emit. reads 'other'"),
        (SAMPLE + '[[step]]\ntype="parse"\nsource="anser"\n' + EMIT, "reads 'anser'"),
        (SAMPLE + '[[step]]\ntype="filter"\ncolumn="x"\n' + PARSE + EMIT, "reads 'x'"),
        ('[[step]]\ntype="sample"\nrequest="mine"\n' + PARSE + EMIT, "reads 'mine'"),
        (SAMPLE + '[[step]]\ntype="parse"\ninto=[]\n' + EMIT, "`into` is empty"),
        ('[[step]]\ntype="prompt"\nuser="{{ answer }}"\n' + SAMPLE + PARSE + EMIT, "reads 'answer'"),
        (SAMPLE + PARSE + '[[step]]\ntype="filter"\nrefuse_pattern="("\n' + EMIT, "step 3"),
        ('[[step]]\ntype="prompt"\nuser="{{"\n' + SAMPLE + PARSE + EMIT, "step 1 .prompt., user, line 1"),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_anything_is_asked(steps: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        pipeline_of(steps)
    assert words.replace(".", "") in caught.value.detail.replace("(", "").replace(")", "").replace(".", "")


PARAMETERS = """
version = 1
[recipe]
id = "mine"
title = "Mine"
[parameters.tone]
type = "choice"
choices = ["dry", "warm"]
default = "dry"
[parameters.words]
type = "integer"
default = 5
minimum = 1
maximum = 9
[parameters.heat]
type = "number"
default = 0.5
[parameters.polite]
type = "boolean"
default = true
[[step]]
type = "prompt"
user = "{{ prompt }} {{ tone }} {{ words }} {{ heat }}{{ ' please' if polite }}"
[[step]]
type = "sample"
[[step]]
type = "parse"
[[step]]
type = "emit"
"""


def test_parameters_take_values_which_change_the_hash() -> None:
    recipe = parse_recipe(PARAMETERS, ElicitationRecipe)
    (ask,) = map(ask_of, pipeline_of(recipe).begin(prompt_of("Go")))
    assert ask.request.messages[0]["content"] == "Go dry 5 0.5 please"
    changed = with_values(recipe, {"tone": "warm", "words": 9, "heat": 1, "polite": False})
    (ask,) = map(ask_of, pipeline_of(changed).begin(prompt_of("Go")))
    assert ask.request.messages[0]["content"] == "Go warm 9 1"
    assert recipe_hash(changed) != recipe_hash(recipe)
    assert recipe_hash(with_values(recipe, {})) == recipe_hash(recipe)


@pytest.mark.parametrize(
    "values",
    [{"tone": "loud"}, {"words": 10}, {"words": 2.5}, {"words": True}, {"polite": 1}, {"heat": "hot"}, {"x": 1}],
)
def test_values_that_the_recipe_does_not_allow_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        with_values(parse_recipe(PARAMETERS, ElicitationRecipe), values)


def test_a_parameter_cannot_hide_a_column() -> None:
    with pytest.raises(BadInput, match="column's name"):
        pipeline_of(parse_recipe(PARAMETERS.replace("parameters.tone", "parameters.prompt"), ElicitationRecipe))
