"""The tables of a recipe with rounds: elicit from the student, train it, measure it, and begin again."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from kdstudio.registry import Params

LOWER_IS_BETTER: dict[str, bool] = {
    "student_nll": True,
    "forward_kl": True,
    "reverse_kl": True,
    "top1_agreement": False,
    "exact_match": False,
    "rouge_l": False,
    "accuracy": False,
}
"""What a round can be judged by: figures of the evaluation on held-out rows."""
ANSWER_FIGURES = ("exact_match", "rouge_l", "accuracy")


class RoundsTable(Params):
    """How many rounds, and what each trains from."""

    count: int = Field(3, ge=1, le=50, description="At most so many rounds.")
    start: Literal["base", "last"] = Field(
        "last", description="base: every round trains from the same start; last: from the round before."
    )


class StopTable(Params):
    """When the rounds end by themselves; the best round's student is the result."""

    figure: Literal[
        "student_nll", "forward_kl", "reverse_kl", "top1_agreement", "exact_match", "rouge_l", "accuracy"
    ] = Field(
        "student_nll", description="What is watched on the held-out rows; accuracy needs prompts with references."
    )
    tolerance: float = Field(0.0, ge=0, description="A figure may be so much worse than the best one.")
    patience: int = Field(1, ge=1, le=50, description="So many rounds in a row must be worse before it ends.")


class RoundElicitTable(Params):
    """What is asked in each round, and who speaks."""

    recipe: str = Field(min_length=1, description="An elicitation recipe's id, or a .toml file.")
    set: tuple[str, ...] = Field((), description='Changes to it, as "sample.samples=2".')
    values: dict[str, Any] = Field(default_factory=dict, description="Values of its parameters, such as documents.")
    teacher: Literal["teacher", "student"] = Field("teacher", description="Who speaks where the recipe asks a teacher.")
    judge: Literal["judge", "student"] = Field("judge", description="Who judges; without a judge the teacher does.")
    first: Literal["student", "teacher"] = Field(
        "student", description="Who speaks as the student in round 1: the starting student, or the teacher."
    )
    limit: int = Field(0, ge=0, description="At most so many rows are asked in a round; 0: all.")
    tag: str = Field("", description="Only prompts with this tag.")


class AcceptTable(Params):
    """Which of a round's rows are trained on: all that passed the recipe, or those with a minimum score."""

    column: str = Field(
        "", description="A number that the recipe keeps with its rows (emit's extras); empty: all rows."
    )
    minimum: float = Field(0.0, description="The least that this number must be.")


class RoundTrainTable(Params):
    """How the student of a round is trained."""

    recipe: str = Field("imitate", min_length=1, description="A training recipe's id, or a .toml file.")
    set: tuple[str, ...] = Field((), description='Changes to it, as "run.epochs=1".')
    rows: Literal["round", "all"] = Field("round", description="This round's rows, or those of all rounds so far.")
    with_accepted: bool = Field(False, description="Train on the project's accepted responses too.")


class MeasureTable(Params):
    """Which prompts are held out: neither asked nor trained on in any round, and the same in all of them."""

    held_out: float = Field(0.1, gt=0, le=0.5, description="Share of the prompts that can be measured on.")
    held_out_tag: str = Field("", description="Hold out prompts with this tag instead of drawing them.")
    maximum_rows: int = Field(64, ge=1, le=1000, description="At most so many prompts are held out.")
    max_tokens: int = Field(256, ge=1, le=8192, description="Longest answer where answers are compared.")
