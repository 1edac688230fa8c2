"""The rows that a round begins with, one after the other as there is room, and whether there is another round."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudio.catalogue.steps import LoopStep, Step
from kdstudio.elicitation.inputs import Inputs
from kdstudio.elicitation.passage import Outcome
from kdstudio.elicitation.pipeline import Pipeline
from kdstudio.elicitation.pools import Pools
from kdstudio.errors import BadInput
from kdstudio.models.tool_calls import tools_of
from kdstudio.project import Project

if TYPE_CHECKING:
    from kdstudio.elicitation.documents import Document

_WATCHED = 2_000  # texts of a round that are measured


class Rounds:
    """All rows that one run begins. `begun`: roots whose answers are in the journal; what was begun is gone on with.

    `read` hears of each document that was read.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        inputs: Inputs,
        pools: Pools,
        project: Project,
        begun: Iterable[str],
        read: Callable[[Document], None] = lambda _: None,
    ) -> None:
        last = list(steps)[-1]
        self._loop = last if isinstance(last, LoopStep) else None
        self._inputs, self._pools, self._project, self._begun = inputs, pools, project, set(begun)
        self.round, self._at, self._first_made, self._read = 1, 0, 0, read
        self._figures: list[Any] = []
        self.ended = ""

    @property
    def size(self) -> int:
        """Rows that this round begins."""
        return self._pools.round_began - self._first_made if self._from_made() else len(self._inputs.roots)

    def _from_made(self) -> bool:
        return self.round > 1 and self._loop is not None and self._loop.start == "made"

    def begin(self, pipeline: Pipeline) -> Iterator[Iterable[Outcome]]:
        """Begin the next row each time; ends with the round."""
        while self._at < self.size:
            place = self._at
            self._at += 1
            yield self._made_row(pipeline, place) if self._from_made() else self._row(pipeline, place)

    def next_round(self) -> bool:
        """Go on to another round, or say in `ended` why there is none. Call it when nothing is open."""
        loop, made = self._loop, len(self._pools.made)
        if loop is None or self.round >= loop.rounds:
            return False
        first = self._pools.round_began
        if made == first:
            self.ended = f"Round {self.round} made no rows."
        elif loop.until and made >= loop.until:
            self.ended = f"{made:,} rows were made, {loop.until:,} were wanted."
        else:
            self.ended = self._collapse(loop, range(first, min(made, first + _WATCHED)))
        if self.ended:
            return False
        self._first_made, self._pools.round_began = first, made
        self.round, self._at = self.round + 1, 0
        return True

    def _collapse(self, loop: LoopStep, numbers: Iterable[int]) -> str:
        from kdstudio.quality.diversity import Limits, figures, slides

        self._figures.append(figures([str(self._pools.made[number]["watched"]) for number in numbers]))
        slide = loop.maximum_slide
        if not slide:
            return ""
        limits = Limits(1 - slide, max(0.0, 1 - slide * 5 / 3), 1 + slide * 20 / 3, slide / 2, slide / 2)
        reason = slides(self._figures[0], self._figures[-1], limits)
        return f"Round {self.round} is poorer than the first: {reason}." if reason else ""

    def _key(self, root: str) -> str:
        return root if self.round == 1 else f"r{self.round}.{root}"

    def _row(self, pipeline: Pipeline, place: int) -> Iterable[Outcome]:
        root = self._inputs.roots[place]
        match self._inputs.source:
            case "prompts":
                return self._prompt(pipeline, int(root))
            case "responses":
                return self._response(pipeline, int(root))
            case "documents":
                return self._document(pipeline, str(root), place + 1)
        return pipeline.start(self._key(f"n{root}"), {"number": int(root), "round": self.round})

    def _made_row(self, pipeline: Pipeline, place: int) -> Iterable[Outcome]:
        row = self._pools.made[self._first_made + place]
        columns = {name: row.get(name, "") for name in ("messages", "prompt", "reference", "tags")}
        return pipeline.start(
            self._key(f"m{place + 1}"),
            {**columns, "tools": row.get("tools") or [], "round": self.round},
            prompt=str(row["fingerprint"]),
            prompt_id=int(row["id"]),
        )

    def _prompt(self, pipeline: Pipeline, number: int) -> Iterable[Outcome]:
        try:
            prompt = self._project.rows.prompt(number)
        except BadInput:
            reason = "it is no longer in the project"
        else:
            if prompt.status != "rejected" or str(number) in self._begun:
                return pipeline.start(self._key(str(number)), self._columns(prompt), prompt_id=number)
            reason = "it was rejected before it was asked"
        return pipeline.refuse(self._key(str(number)), reason, number)

    def _columns(self, prompt: Any) -> dict[str, Any]:
        return {
            "messages": [dict(message) for message in prompt.messages],
            "prompt": prompt.text,
            "reference": prompt.reference,
            "tags": list(prompt.tags),
            "tools": tools_of(prompt.extras.get("tools")),
            "round": self.round,
        }

    def _response(self, pipeline: Pipeline, number: int) -> Iterable[Outcome]:
        try:
            response = self._project.rows.response(number)
            prompt = self._project.rows.prompt(response.prompt_id)
        except BadInput:
            return pipeline.refuse(self._key(f"a{number}"), "it is no longer in the project")
        columns = {
            **self._columns(prompt),
            "response": response.text,
            "reasoning": response.reasoning,
            "teacher": response.teacher,
        }
        return pipeline.start(self._key(f"a{number}"), columns, prompt_id=prompt.id)

    def _document(self, pipeline: Pipeline, path: str, number: int) -> Iterable[Outcome]:
        from kdstudio.elicitation.documents import read_document

        key, columns = self._key(f"d{number}"), {"path": path, "round": self.round}
        try:
            document = read_document(Path(path))
        except BadInput as error:
            reason = f"{Path(path).name}: {error.title}: {error.detail}"
            return pipeline.refuse(key, reason)
        self._read(document)
        columns |= {"document": document, "title": document.title, "text": document.text}
        return pipeline.start(key, columns, notes=document.notes)
