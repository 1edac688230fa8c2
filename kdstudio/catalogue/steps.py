"""The steps an elicitation recipe is built from, each with its own typed keys.

A recipe is read top to bottom. Every step names the columns it reads and writes; which columns a row starts with is
said by the recipe's `[input]` (see `kdstudio/resources/recipes/README.md`, which shows every step at work).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from kdstudio.registry import Params

Otherwise = Literal["reject", "drop"]
_OTHERWISE = "What happens to the others: reject keeps them in the project as rejected, drop only counts them."
_SPEAKER = "Who is asked: the teacher, the run's judge, or the student as it is now."


class StepParams(Params):
    """What every step has."""

    when: str = Field(
        "", description="Jinja expression over the columns; rows for which it is false pass by the step unchanged."
    )


class PromptStep(StepParams):
    """Build the messages that are asked, or any text, from Jinja templates rendered in the immutable sandbox."""

    type: Literal["prompt"] = "prompt"
    system: str = Field("", description="Template of the system message; empty keeps the prompt's own.")
    user: str = Field(
        "", description="Template of the user's message; empty keeps the prompt's own messages as they are."
    )
    into: str = Field("request", description="Column that receives the messages.")
    start: str = Field(
        "messages", description="Column with the messages to build on; empty, or one that is not there, for none."
    )
    assistant: str = Field("", description="Template of an assistant's turn that is appended before the user's.")
    append: bool = Field(False, description="Append the user's message as a new turn instead of replacing the last.")
    text: str = Field("", description="Template of a plain text: `into` receives it, and no messages are built.")


class SampleStep(StepParams):
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
    speaker: Literal["teacher", "judge", "student"] = Field("teacher", description=_SPEAKER)
    teachers: Literal["any", "all"] = Field(
        "any", description="any: one teacher of the run answers; all: each of them, and each answer is a row."
    )
    json_schema: str = Field("", description="JSON Schema, as JSON text, of the answer, where the teacher can.")
    grammar: str = Field("", description="GBNF grammar of the answer, where the teacher can.")
    choices: tuple[str, ...] = Field((), description="The only answers there are, where the teacher can.")
    choices_from: str = Field("", description="Parameter (one choice a line) or list column with the choices.")


class ParseStep(StepParams):
    """Take an answer apart. What does not parse is dropped with its reason, and the raw answer stays in the journal."""

    type: Literal["parse"] = "parse"
    source: str = Field("answer", description="Column to read.")
    format: Literal["text", "tagged", "json", "list", "number", "code", "permutation", "choice"] = Field(
        "text",
        description="text: trimmed; tagged: <name>...</name>; json: an object's keys; list: a column with its entries; "
        "number: the last one; code: the last block; permutation: an order such as [2] > [1]; choice: one of them.",
    )
    into: tuple[str, ...] = Field(
        ("response",), description="Columns that receive the parts (tags or keys of that name)."
    )
    choices: tuple[str, ...] = Field((), description="For the format choice: the answers that count.")
    choices_from: str = Field("", description="Parameter (one choice a line) or list column with the choices.")


class DrawStep(StepParams):
    """Put rows into a column, as demonstrations or seeds: each has `prompt`, `response`, `reference` and `tags`."""

    type: Literal["draw"] = "draw"
    count: int = Field(3, ge=1, le=64, description="How many rows are drawn; fewer when there are not so many.")
    method: Literal["random", "diverse", "least_used"] = Field(
        "random", description="random; diverse: as unlike each other as can be; least_used: those drawn least so far."
    )
    source: Literal["prompts", "responses", "made", "both"] = Field(
        "prompts",
        description="prompts, or responses with their prompts, of the project; made: the prompts that earlier rounds "
        "of this run made; both: prompts and made.",
    )
    status: Literal["any", "pending", "accepted"] = Field("any", description="Only rows of this status.")
    tag: str = Field("", description="Only prompts with this tag.")
    minimum: int = Field(0, ge=0, description="A row for which fewer are there falls.")
    into: str = Field("drawn", description="Column that receives the list.")


class ExpandStep(StepParams):
    """One row becomes one for each entry of a list column, or of a parameter with one entry a line."""

    type: Literal["expand"] = "expand"
    source: str = Field("items", description="Column with a list, or parameter with one entry a line.")
    into: str = Field("item", description="Column that receives the entry.")
    fields: tuple[str, ...] = Field((), description="Where entries are objects: their keys that become columns.")
    at_most: int = Field(0, ge=0, description="Entries after so many are left out; 0 keeps all.")


class FilterStep(StepParams):
    """Let through what a person would keep; what falls is kept as rejected, with the reason."""

    type: Literal["filter"] = "filter"
    column: str = Field("response", description="Column to test.")
    minimum_characters: int = Field(1, ge=0, description="Shorter texts fall.")
    maximum_characters: int = Field(100_000, ge=1, description="Longer texts fall.")
    finished: bool = Field(True, description="Only answers that ended by themselves, not cut off by the token limit.")
    refuse_pattern: str = Field("", description="Regular expression; texts in which it is found fall.")
    require_pattern: str = Field("", description="Regular expression; texts in which it is not found fall.")
    minimum_words: int = Field(0, ge=0, description="Texts with fewer words fall.")
    maximum_words: int = Field(0, ge=0, description="Texts with more words fall; 0 sets no limit.")
    expression: str = Field("", description="Jinja expression over the columns; rows for which it is false fall.")
    reason: str = Field("", description="Why those rows fall, in your words; empty says the expression in words.")
    rouge_below: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Texts with a higher ROUGE-L to one that passed before fall (0.7); 0 tests nothing.",
    )
    pool: Literal["run", "project"] = Field(
        "run", description="What ROUGE-L compares with: what passed in this run, or the project's prompts as well."
    )
    language: str = Field("", description="Two letters, such as en: texts in another language fall.")
    refuse_refusals: bool = Field(False, description="Texts in which the teacher declines to answer fall.")
    reference: str = Field(
        "", description="Column with the right answer; texts that do not give the same fall, and rows without one too."
    )
    into: str = Field("", description="Column that receives 1 for what passes and 0 for the rest; then nothing falls.")
    otherwise: Otherwise = Field("reject", description=_OTHERWISE)


class DeduplicateStep(StepParams):
    """Keep the first of texts that say the same, in the order of the rows, however the answers came."""

    type: Literal["deduplicate"] = "deduplicate"
    column: str = Field("response", description="Column to compare.")
    method: Literal["exact", "near"] = Field("exact", description="exact up to case and spaces, or near.")
    threshold: float = Field(0.8, gt=0, le=1, description="For near: the share of common word groups that is too much.")
    pool: Literal["run", "project"] = Field("run", description="Compare with the project's prompts as well?")
    otherwise: Otherwise = Field("drop", description=_OTHERWISE)


class VoteStep(StepParams):
    """Let the samples of one row vote (self-consistency): the answer that most of them give wins."""

    type: Literal["vote"] = "vote"
    column: str = Field("response", description="Column with what is voted on.")
    same: Literal["exact", "answer"] = Field(
        "answer", description="When two agree: exact, the same text; answer, the same value (1/2 and 0.5)."
    )
    minimum_share: float = Field(0.0, ge=0, le=1, description="Without so large a share for the winner all fall.")
    keep: Literal["winner", "agreeing"] = Field("winner", description="One row, or every sample that agrees with it.")
    into: str = Field("share", description="Column that receives the winner's share, 0 to 1.")


class ExecuteStep(StepParams):
    """Run Python of an answer, apart and limited, and keep what passes. The README says what that protects from."""

    type: Literal["execute"] = "execute"
    column: str = Field("code", description="Column with the code.")
    tests: str = Field("", description="Column with tests that are run after it; empty for none.")
    stdin: str = Field("", description="Column with what it reads; empty for nothing.")
    seconds: float = Field(5.0, gt=0, le=60, description="It is stopped after so long.")
    memory_mb: int = Field(256, ge=16, le=4096, description="Memory it may take, in MiB.")
    into: str = Field("output", description="Column that receives what it printed.")
    require: Literal["passed", "nothing"] = Field("passed", description="passed: what fails or is stopped falls.")
    otherwise: Otherwise = Field("drop", description=_OTHERWISE)


class ScoreStep(StepParams):
    """Let a judge score a text by a rubric, an aspect at a time; `score` receives the mean of the aspects."""

    type: Literal["score"] = "score"
    column: str = Field("response", description="Column with the text that is judged.")
    question: str = Field("prompt", description="Column with what it answers.")
    rubric: str = Field(
        "", description="Name of a rubric of ours, its text, or a parameter with it; empty says to judge quality."
    )
    aspects: tuple[str, ...] = Field((), description="What is scored, each by itself; none: those of the rubric.")
    lowest: int = Field(1, ge=0, le=100, description="The worst score.")
    highest: int = Field(5, ge=1, le=100, description="The best score.")
    minimum: float = Field(0.0, description="Rows whose mean score is lower fall; 0 lets all through.")
    verdict: str = Field(
        "number",
        description="number: what the judge writes; expected: the mean of all numbers by their probability, finer than "
        "a small judge's word, from its log-probs; auto: expected for a model on this machine; or a parameter with it.",
    )
    speaker: Literal["teacher", "judge", "student"] = Field("judge", description=_SPEAKER)
    max_tokens: int = Field(0, ge=0, le=4096, description="The judge's longest answer; 0: as long as its form needs.")
    into: str = Field("scores", description="Column that receives aspect and score.")
    mean: str = Field("score", description="Column that receives their mean.")
    otherwise: Otherwise = Field("reject", description=_OTHERWISE)


class RankStep(StepParams):
    """Order the samples of one row, best first: one row remains, with the list of them and their scores."""

    type: Literal["rank"] = "rank"
    column: str = Field("response", description="Column with what is compared.")
    question: str = Field("prompt", description="Column with what they answer.")
    items: str = Field("", description="Column with a list to order instead of the samples of a row; empty for these.")
    method: Literal["pairwise", "listwise", "scores"] = Field(
        "pairwise",
        description="pairwise: each with each, in both orders, and a contradiction is a tie; listwise: all at once; "
        "scores: by a column, nobody is asked.",
    )
    by: str = Field("score", description="For the method scores: the column with the number.")
    rubric: str = Field("", description="Name of a rubric of ours, its text, or a parameter with it.")
    window: int = Field(10, ge=2, le=30, description="For listwise: so many are shown at once.")
    verdict: str = Field(
        "letter",
        description="For pairwise: letter: what the judge says; log_odds: how much likelier one letter is than the "
        "other, the mean of both orders, which takes out a lean to whatever stands first; auto: log_odds for a model "
        "on this machine; or a parameter with it.",
    )
    margin: float = Field(
        0.0, ge=0, description="For log_odds: pairs within so many nats of even are a tie; 0.4 is 60 to 40."
    )
    speaker: Literal["teacher", "judge", "student"] = Field("judge", description=_SPEAKER)
    max_tokens: int = Field(0, ge=0, le=4096, description="The judge's longest answer; 0: as long as its form needs.")
    minimum: int = Field(2, ge=2, le=64, description="A row with fewer samples left falls.")
    into: str = Field("candidates", description="Column that receives them, best first; the row is the best one's.")
    scores: str = Field("scores", description="Column that receives a score for each; higher is better.")


class ChunkStep(StepParams):
    """One row becomes one for each passage of a document, cut along paragraphs and headings."""

    type: Literal["chunk"] = "chunk"
    source: str = Field("document", description="Column with a document, or with any text.")
    words: int = Field(220, ge=20, le=4000, description="Words of a passage, about.")
    overlap: int = Field(30, ge=0, le=1000, description="Words that a passage shares with the one before.")
    at_most: int = Field(0, ge=0, description="Passages of one document after so many are left out; 0 keeps all.")
    into: str = Field("passage", description="Column that receives the passage; its place is kept with every row.")


class EmitStep(StepParams):
    """Write the result into the project. A prompt that was written is from there on the row's prompt."""

    type: Literal["emit"] = "emit"
    kind: Literal["response", "prompt", "preference", "label"] = Field("response", description="What is written.")
    text: str = Field("response", description="Column with the text: the response's, the prompt's or the label.")
    reasoning: str = Field("", description="Column with the reasoning, kept apart from the answer; empty for none.")
    status: Literal["pending", "accepted"] = Field("pending", description="Status of a row that passed every filter.")
    system: str = Field("", description="For a prompt: column with its system message.")
    messages: str = Field("", description="For a prompt: column with all its messages, in place of `text`.")
    reference: str = Field("", description="For a prompt: column with the right answer.")
    tools: str = Field(
        "", description="For a prompt: column with the tools that it declares, as a list or JSON, as in OpenAI's API."
    )
    tool_calls: str = Field(
        "",
        description="For a response: column with calls ({name, arguments}, a list of them, or JSON); they must fit the "
        "prompt's tools, and may stand beside a text or alone.",
    )
    tags: tuple[str, ...] = Field(
        (), description="For a prompt: its tags; `tags`, or a column that a step wrote, stands for what it holds."
    )
    tags_from: tuple[str, ...] = Field((), description="For a prompt: columns, of any kind, that hold further tags.")
    extras: tuple[str, ...] = Field((), description="Columns that are kept with the row, under their names.")
    candidates: str = Field("candidates", description="For a preference: column with the list of answers.")
    scores: str = Field("scores", description="For a preference: column with a score for each.")
    chosen: str = Field("", description="For a preference of two: column with the better answer.")
    rejected: str = Field("", description="For a preference of two: column with the worse answer.")
    labels: tuple[str, ...] = Field((), description="For a label: all there are; another one falls.")
    labels_from: str = Field("", description="For a label: parameter (one a line) or list column with all there are.")


class LoopStep(StepParams):
    """Start the recipe again when the round is over, until there are enough rows or what is made gets poorer."""

    type: Literal["loop"] = "loop"
    rounds: int = Field(2, ge=1, le=100, description="How often the recipe is gone through, the first time included.")
    start: Literal["input", "made"] = Field(
        "input", description="What the next round starts from: the input again, or the prompts that this round made."
    )
    column: str = Field("prompt", description="Column with the text that is watched for collapse.")
    until: int = Field(0, ge=0, description="Stop after the round in which so many rows were made; 0 for no such end.")
    maximum_slide: float = Field(
        0.3, ge=0, le=1, description="Stop when diversity or length fell, or repetition rose, by this share; 0 never."
    )


Step = Annotated[
    PromptStep
    | SampleStep
    | ParseStep
    | DrawStep
    | ExpandStep
    | FilterStep
    | DeduplicateStep
    | VoteStep
    | ExecuteStep
    | ScoreStep
    | RankStep
    | ChunkStep
    | EmitStep
    | LoopStep,
    Field(discriminator="type"),
]
STEP_TYPES: tuple[type[Params], ...] = (
    *(PromptStep, SampleStep, ParseStep, DrawStep, ExpandStep, FilterStep, DeduplicateStep, VoteStep),
    *(ExecuteStep, ScoreStep, RankStep, ChunkStep, EmitStep, LoopStep),
)
STEP_NAMES: tuple[str, ...] = tuple(str(step.model_fields["type"].default) for step in STEP_TYPES)
