"""What an elicitation recipe says beside its steps: where its rows come from, its knobs, and a worked example."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdstudio.registry import Params

# The columns that a row starts with, by the input's source.
START_COLUMNS: dict[str, tuple[str, ...]] = {
    "prompts": ("messages", "prompt", "reference", "tags", "tools", "round"),
    "responses": ("messages", "prompt", "reference", "tags", "tools", "response", "reasoning", "teacher", "round"),
    "documents": ("document", "title", "text", "path", "round"),
    "nothing": ("number", "round"),
}


class InputTable(Params):
    """Where the rows of a recipe come from."""

    source: Literal["prompts", "documents", "nothing", "responses"] = Field(
        "prompts",
        description="prompts or responses of the project; documents: one row for each; nothing: rows that are empty.",
    )
    status: Literal["any", "pending", "accepted"] = Field("any", description="Only rows of this status.")
    tag: str = Field("", description="Only prompts with this tag, or responses to them.")
    rows: int = Field(10, ge=1, le=1_000_000, description="For nothing: how many rows, when the run sets no limit.")
    paths: str = Field("documents", description="For documents: the parameter with files and folders, one a line.")


class ParameterTable(Params):
    """A knob of the recipe that templates read as `{{ name }}`; `lines` and `files` are texts with one entry a line."""

    type: Literal["text", "lines", "files", "integer", "number", "boolean", "choice"] = "text"
    default: str | int | float | bool = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    help: str = ""


class ExampleAnswer(Params):
    """What is answered to messages in whose last user turn the regular expression `match` is found."""

    match: str = ""
    text: str | tuple[str, ...] = Field("", description="An answer, or several to draw from by the request's seed.")
    finish_reason: Literal["stop", "length", "incomplete"] = "stop"


class ExamplePrompt(Params):
    """A prompt of the example's project, with a response where the recipe reads some."""

    prompt: str
    image: str = Field("", description="A picture beside the text, as a data URL.")
    reference: str = ""
    tags: tuple[str, ...] = ()
    response: str = ""
    teacher: str = "someone"


class ExampleTable(Params):
    """A worked example that the tests run through the real pipeline with a scripted teacher."""

    prompts: tuple[str | ExamplePrompt, ...] = Field((), description="The project's prompts, all accepted.")
    documents: dict[str, str] = Field(default_factory=dict, description="File name and text.")
    values: dict[str, str | int | float | bool] = Field(default_factory=dict, description="Parameters that are set.")
    teachers: tuple[str, ...] = Field(("teacher",), description="Names of the teachers; they answer alike.")
    limit: int = Field(0, ge=0, description="Rows to begin; 0 for all.")
    answers: tuple[ExampleAnswer, ...] = Field((), description="The first that fits counts.")
    expect: tuple[dict[str, Any], ...] = Field(
        (), description="The rows, in order, each with `kind` and those of its values that are compared."
    )
    falls: dict[str, int] = Field(default_factory=dict, description="How many fall in each type of step.")
