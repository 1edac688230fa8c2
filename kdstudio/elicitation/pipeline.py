"""A recipe made executable: rows advance from step to step until one asks, waits for others, falls, or is written.

Rows go on as their answers come. Only before a step to which order or company matters do they wait (see `order`), so
that a plain recipe keeps nothing back, and one that compares or votes still gives the same rows every time. Questions
and their seeds follow from the rows' keys alone; whoever runs a recipe again with the answers it got before arrives at
the same state. That is all there is to continuing a killed run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeGuard

from kdstudio.catalogue.columns import place_of
from kdstudio.catalogue.cost import questions
from kdstudio.catalogue.steps import (
    ChunkStep,
    EmitStep,
    ExecuteStep,
    ExpandStep,
    LoopStep,
    RankStep,
    SampleStep,
    ScoreStep,
    Step,
    VoteStep,
)
from kdstudio.elicitation.company import Gathered, together, vote_of
from kdstudio.elicitation.conditions import Conditions
from kdstudio.elicitation.emission import Provenance, made_row, written
from kdstudio.elicitation.flow import check_flow
from kdstudio.elicitation.funnel import INPUT, Funnel
from kdstudio.elicitation.judged import Talk, executing, judging_by, ranking, scoring
from kdstudio.elicitation.order import Gates
from kdstudio.elicitation.passage import (
    MAXIMUM_REASON,
    Ask,
    Fallen,
    FallenError,
    Outcome,
    Passage,
    Trace,
    Unasked,
    Written,
)
from kdstudio.elicitation.plan import plan_of
from kdstudio.elicitation.rejection import Remains
from kdstudio.elicitation.sampling import Asking, answer_into
from kdstudio.elicitation.seeds import request_seed
from kdstudio.elicitation.setting import Setting
from kdstudio.elicitation.steps import BINDERS, Executor, require_question
from kdstudio.elicitation.traces import changed
from kdstudio.errors import in_one_line
from kdstudio.models.tool_calls import tools_of
from kdstudio.project import Prompt
from kdstudio.recipe import ElicitationRecipe
from kdstudio.teachers.base import Completion, Request

__all__ = ["Ask", "Fallen", "Outcome", "Pipeline", "Setting", "Trace", "Unasked", "Written", "request_seed"]


class Pipeline:
    """The steps of one recipe, bound to its parameters' values."""

    def __init__(
        self, recipe: ElicitationRecipe, *, recipe_hash: str, teacher: str, seed: int, setting: Setting | None = None
    ) -> None:
        """Compile the recipe. Raises `BadInput` naming the step whose template, pattern or column is wrong."""
        check_flow(recipe)
        setting = setting or Setting()
        self._seed, self._setting = seed, setting
        self._teachers = setting.teachers or (teacher,)
        values = {name: table.default for name, table in recipe.parameters.items()}
        places = [place_of(recipe.recipe.id, recipe.step, index) for index in range(len(recipe.step))]
        self._steps = tuple(
            judging_by(step, values, place, setting.weighing) if _judges(step) else step
            for step, place in zip(recipe.step, places, strict=True)
        )
        self._conditions, self._remains = Conditions(recipe.step, values, places), Remains(recipe)
        self._origin = Provenance(teacher, recipe_hash, recipe.recipe.id, values, setting.terms)
        self._executors: dict[int, Executor] = {
            index: BINDERS[type(step)](step, values, places[index], index=index, pools=setting.pools)
            for index, step in enumerate(recipe.step)
            if type(step) in BINDERS
        }
        names = {"teacher": teacher, **setting.names}
        self._asking = {
            index: Asking(step, index, seed, values, self._teachers, names, faithful=setting.faithful)
            for index, step in enumerate(recipe.step)
            if isinstance(step, SampleStep)
        }
        self._last_emit = max(index for index, step in enumerate(recipe.step) if isinstance(step, EmitStep))
        self._plan = plan_of(recipe.step)
        self._gates = Gates(self._plan.gates)
        self._section_after = {index: self._gates.section(index) for index in range(len(recipe.step) + 1)}
        self.funnel = Funnel([step.type for step in recipe.step])
        self._out: list[Outcome] = []
        self._roots = 0

    @property
    def held(self) -> int:
        """Rows that wait for earlier ones."""
        return self._gates.held

    def questions_from(self, start: int) -> int:
        """How many questions a row that enters the step at `start` leads to when nothing falls."""
        return questions(self._steps[start:], len(self._teachers))

    def begin(self, prompt: Prompt) -> Iterable[Outcome]:
        """Send a prompt through the steps up to its first questions."""
        columns: dict[str, Any] = {
            "messages": [dict(message) for message in prompt.messages],
            "prompt": prompt.text,
            "reference": prompt.reference,
            "tags": list(prompt.tags),
            "tools": tools_of(prompt.extras.get("tools")),
            "round": 1,
        }
        return self.start(str(prompt.id), columns, prompt_id=prompt.id)

    def refuse(self, key: str, reason: str, prompt_id: int = 0) -> Iterable[Outcome]:
        """A row of the input that cannot be used at all, and why."""
        return self.start(key, {}, prompt_id=prompt_id, reason=reason)

    def start(
        self,
        key: str,
        columns: dict[str, Any],
        *,
        prompt_id: int = 0,
        prompt: str = "",
        reason: str = "",
        notes: Sequence[str] = (),
    ) -> Iterable[Outcome]:
        """Send a row through the steps up to its first questions; rows must be started in their order.

        `prompt`: the fingerprint of a prompt that this run wrote; `reason`: why it cannot be used at all; `notes`: what
        a trial shows of how it was read.
        """
        passage = Passage(prompt_id, key, columns, order=(self._roots,), prompt=prompt)
        self._roots += 1
        self._gates.enter(passage)
        try:
            if reason:
                raise FallenError(reason)
            if "messages" in columns:
                require_question(columns["messages"])
        except FallenError as error:
            self._fall(passage, INPUT, str(error), unasked_from=0)
        else:
            if notes and self._setting.trace:
                self._out.append(Trace(passage.key, INPUT, "input", {"notes": "\n".join(notes)}))
            self._advance(passage, 0)
        return self._drained()

    def answered(self, ask: Ask, completion: Completion) -> Iterable[Outcome]:
        """Go on with a row whose question was answered."""
        try:
            if isinstance(ask.talk, Talk):
                self._heard(ask.talk, ask.index, completion)
                return self._drained()
            passage, step = ask.passage, self._steps[ask.index]
            if completion.finish_reason == "error":
                raise FallenError(in_one_line(completion.error) or "the teacher failed")
            before = dict(passage.columns) if self._setting.trace else {}
            if isinstance(step, SampleStep):
                answer_into(passage, step, completion)
            self._passed(passage, ask.index, before)
            self._advance(passage, ask.index + 1)
        except FallenError as error:
            self._fall(ask.passage, ask.index, str(error), unasked_from=ask.index + 1)
        return self._drained()

    def _heard(self, talk: Talk, index: int, completion: Completion) -> None:
        before = dict(talk.passage.columns) if self._setting.trace else {}
        more = talk.answered(completion)
        if more:
            self._out += [Ask(talk.passage, index, request, talk) for request in more]
        elif more is not None:
            self._went_on(talk.passage, index, before)

    def _drained(self) -> list[Outcome]:
        """Let through whom nobody is waited for any more, and hand over what came of it all."""
        if self._gates.held:
            for index, group in self._gates.released():
                self._gather(index, group)
        out, self._out = self._out, []
        return out

    def _gather(self, index: int, group: list[Passage]) -> None:
        """A step that needed order, or a group, works on whom its gate let through."""
        step = self._steps[index]
        splits = self._plan.splits.get(index)
        if splits is None:
            for passage in group:
                self._advance(passage, index, at_gate=True)
            return
        fit = [passage for passage in group if self._joins(passage, index)]
        if not fit:
            return
        self.funnel.entered[index] += len(fit)
        for passage in fit:
            self._gates.leave(passage)
        if isinstance(step, VoteStep):
            self._settle_vote(vote_of(step, fit, splits), index)
        elif isinstance(step, RankStep):
            one = together(fit[0], fit, splits)
            self._gates.enter(one)
            self._talk(ranking(step, one, fit, index, self._seed), one, index)

    def _joins(self, passage: Passage, index: int) -> bool:
        """Whether a row is among those that vote or are ranked; any other goes its way."""
        try:
            if not passage.rejected and self._conditions.apply(index, passage):
                return True
        except FallenError as error:
            self._fall(passage, index, str(error))
            return False
        if not passage.rejected:
            self._pass_by(passage, index)
        self._advance(passage, index + 1)
        return False

    def _settle_vote(self, gathered: Gathered, index: int) -> None:
        for passage, reason in gathered.fallen:
            self._fall(passage, index, reason)
        for passage in gathered.kept:
            self._gates.enter(passage)
            self._passed(passage, index, {})
            self._advance(passage, index + 1)

    def _advance(self, passage: Passage, start: int, *, at_gate: bool = False) -> None:
        """Through the steps from `start` until it asks, waits, falls, is split, or is written for the last time."""
        for index in range(start, len(self._steps)):
            if index in self._plan.gates and not (at_gate and index == start):
                self._gates.wait(passage)
                return
            if passage.rejected:
                self._write_rejected(passage, index)
                continue
            before = dict(passage.columns) if self._setting.trace else {}
            try:
                if not self._conditions.apply(index, passage):
                    passage = self._pass_by(passage, index)
                    continue
                self.funnel.entered[index] += 1
                if self._step(passage, index, before):
                    return
            except FallenError as error:
                self._fall(passage, index, str(error))
                return
            self._went_through(passage, index, before)
        self._end(passage)

    def _pass_by(self, passage: Passage, index: int) -> Passage:
        """The step is not for this row: it goes on as it is, under a name of its own where others are split."""
        self.funnel.by[index] += 1
        if self._setting.trace:
            self._out.append(Trace(passage.key, index, self._steps[index].type, {}, by=True))
        if less := self.questions_from(index) - self.questions_from(index + 1):
            self._out.append(Unasked(less))
        if not isinstance(self._steps[index], SampleStep | ExpandStep | ChunkStep):
            return passage
        own = passage.split(index, 0)
        self._gates.enter(own)
        self._gates.leave(passage)
        return own

    def _write_rejected(self, passage: Passage, index: int) -> None:
        """Of a rejected row only what an emit step can write of it, as rejected."""
        step = self._steps[index]
        if not isinstance(step, EmitStep):
            return
        try:
            if not self._conditions.apply(index, passage):
                self.funnel.by[index] += 1
                return
            if self._remains.writes(passage, index):
                self._emit(step, passage, index)
                self.funnel.entered[index] += 1
                passage.shown = True
                self._passed(passage, index, {})
                return
        except FallenError:
            pass  # it lacks what the steps it passed by would have written
        passage.orphan = passage.orphan or step.kind == "prompt"

    def _emit(self, step: EmitStep, passage: Passage, index: int) -> None:
        key = passage.key if index == self._last_emit else f"{passage.key}:{index}"
        self._out.append(written(step, passage, key, self._origin))
        passage.emitted = True

    def _end(self, passage: Passage) -> None:
        """After the last step. A row of which nothing was written is listed with the reason."""
        self._gates.leave(passage)
        if passage.rejected and not passage.shown:
            self._list(passage, passage.rejected_at, passage.rejected, 0)
        elif not passage.emitted and not passage.rejected:
            self._fall(passage, self._last_emit, "no emit step was for it")

    def _step(self, passage: Passage, index: int, before: Mapping[str, Any]) -> bool:
        """Do one step; True when the row does not go on at once. Raises `FallenError`."""
        step = self._steps[index]
        if isinstance(step, SampleStep):
            rows = self._asking[index].rows(passage)
            for own, _ in rows:
                self._gates.enter(own)
            self._out += [Ask(own, index, request) for own, request in rows]
            self._gates.leave(passage)
            return True
        conversation = self._conversation(passage, index)
        if conversation is not None:
            return self._talk(conversation(), passage, index, counted=False)
        if isinstance(step, EmitStep):
            self._emit(step, passage, index)
        elif isinstance(step, LoopStep):
            self._setting.pools.made.add(made_row(step, passage))
        else:
            rows_made = self._executors[index](passage)
            if rows_made is not None:
                self._split(passage, rows_made, index, before)
                return True
        return False

    def _split(self, passage: Passage, rows: Sequence[Passage], index: int, before: Mapping[str, Any]) -> None:
        for row in rows:
            self._gates.enter(row)
        self._gates.leave(passage)
        for row in rows:
            if row.fallen:
                self._fall(row, index, row.fallen)
            else:
                self._passed(row, index, before)
                self._advance(row, index + 1)

    def _conversation(self, passage: Passage, index: int) -> Callable[[], Any] | None:
        step = self._steps[index]
        if isinstance(step, ScoreStep):
            return partial(scoring, step, passage, index, self._seed)
        if isinstance(step, RankStep):
            return partial(ranking, step, passage, (), index, self._seed)
        return partial(executing, step, passage, index) if isinstance(step, ExecuteStep) else None

    def _talk(self, conversation: Any, passage: Passage, index: int, *, counted: bool = True) -> bool:
        """Begin several questions about a row; False when there are none and the caller may go on with it."""
        talk = Talk(conversation, passage)
        before = dict(passage.columns) if self._setting.trace else {}
        try:
            requests: list[Request] = talk.begin()
        except FallenError as error:
            if not counted:
                raise
            self._fall(passage, index, str(error))
            return True
        self._out += [Ask(passage, index, request, talk) for request in requests]
        if not requests and counted:
            self._went_on(passage, index, before)
        return bool(requests) or counted

    def _went_on(self, passage: Passage, index: int, before: Mapping[str, Any]) -> None:
        self._went_through(passage, index, before)
        self._advance(passage, index + 1)

    def _went_through(self, passage: Passage, index: int, before: Mapping[str, Any]) -> None:
        """A step is done with a row that stays: it passed, or was rejected, and is asked nothing more."""
        if not passage.rejected:
            self._passed(passage, index, before)
            return
        passage.rejected_at = index
        self.funnel.fell(index, passage.rejected)
        self._show(passage, index, before)
        if less := self.questions_from(index + 1):
            self._out.append(Unasked(less))

    def _passed(self, passage: Passage, index: int, before: Mapping[str, Any]) -> None:
        self.funnel.left[index] += 1
        self._show(passage, index, before)

    def _show(self, passage: Passage, index: int, before: Mapping[str, Any]) -> None:
        if self._setting.trace:
            columns = changed(before, passage.columns)
            self._out.append(Trace(passage.key, index, self._steps[index].type, columns, passage.rejected))

    def _fall(self, passage: Passage, index: int, reason: str, *, unasked_from: int | None = None) -> None:
        self._gates.leave(passage)
        self.funnel.fell(index, reason)
        unasked = self.questions_from(index if unasked_from is None else unasked_from)
        self._list(passage, index, reason, unasked)
        if self._setting.trace:
            self._out.append(Trace(passage.key, index, self.funnel.name(index), {}, reason))

    def _list(self, passage: Passage, index: int, reason: str, unasked: int) -> None:
        name = self.funnel.name(index)
        self._out.append(Fallen(passage.prompt_id, name, reason[:MAXIMUM_REASON], unasked, passage.key))


def _judges(step: Step) -> TypeGuard[ScoreStep | RankStep]:
    return isinstance(step, ScoreStep | RankStep)
