"""The steps an elicitation recipe is built from, each with its own typed keys.

A recipe is read top to bottom. Every step names the columns it reads and writes; the columns of a row start
as `messages` (the prompt's chat messages), `prompt` (its last user turn), `reference` and `tags`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdstudio.registry import Params


class PromptStep(Params):
    """Build the messages that the teacher is asked, from Jinja templates rendered in the immutable sandbox."""

    type: Literal["prompt"] = "prompt"
    system: str = Field("", description="Template of the system message; empty keeps the prompt's own.")
    user: str = Field(
        "", description="Template of the user's message; empty keeps the prompt's own messages as they are."
    )
    into: str = Field("request", description="Column that receives the messages.")


class SampleStep(Params):
    """Ask the teacher. Every answer is journalled before anything reads it."""

    type: Literal["sample"] = "sample"
    request: str = Field("request", description="Column with the messages to send.")
    into: str = Field("answer", description="Column that receives the answer's text.")
    samples: int = Field(1, ge=1, le=64, description="Answers for each prompt.")
    max_tokens: int = Field(256, ge=1, le=32768, description="An answer longer than this is cut off.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 always takes the likeliest token; 1 samples freely.")
    top_p: float = Field(
        1.0, gt=0, le=1, description="Sample from the likeliest tokens that hold this share of the mass."
    )
    top_k: int = Field(0, ge=0, le=1000, description="Sample from this many likeliest tokens; 0 means all.")
    stop: tuple[str, ...] = Field((), description="Strings that end an answer.")


class ParseStep(Params):
    """Take an answer apart. What does not parse is dropped with its reason, and the raw answer stays in the journal."""

    type: Literal["parse"] = "parse"
    source: str = Field("answer", description="Column to read.")
    format: Literal["text", "tagged", "json"] = Field(
        "text", description="text: trimmed; tagged: <name>...</name>; json: an object's keys."
    )
    into: tuple[str, ...] = Field(
        ("response",), description="Columns that receive the parts (tags or keys of that name)."
    )


class FilterStep(Params):
    """Let through what a person would keep; what falls is kept as rejected, with the reason."""

    type: Literal["filter"] = "filter"
    column: str = Field("response", description="Column to test.")
    minimum_characters: int = Field(1, ge=0, description="Shorter texts fall.")
    maximum_characters: int = Field(100_000, ge=1, description="Longer texts fall.")
    finished: bool = Field(True, description="Only answers that ended by themselves, not cut off by the token limit.")
    refuse_pattern: str = Field("", description="Regular expression; texts in which it is found fall.")
    require_pattern: str = Field("", description="Regular expression; texts in which it is not found fall.")


class EmitStep(Params):
    """Write the result into the project."""

    type: Literal["emit"] = "emit"
    kind: Literal["response"] = Field("response", description="What is written.")
    text: str = Field("response", description="Column with the response's text.")
    reasoning: str = Field("", description="Column with the reasoning, kept apart from the answer; empty for none.")
    status: Literal["pending", "accepted"] = Field("pending", description="Status of a row that passed every filter.")


Step = Annotated[PromptStep | SampleStep | ParseStep | FilterStep | EmitStep, Field(discriminator="type")]
STEP_TYPES: tuple[type[Params], ...] = (PromptStep, SampleStep, ParseStep, FilterStep, EmitStep)
