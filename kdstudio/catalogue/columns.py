"""Which columns flow where: a recipe that reads what nothing wrote is refused before a question costs anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from kdstudio.catalogue.elicitation import START_COLUMNS, InputTable, ParameterTable
from kdstudio.catalogue.parameters import check_parameters
from kdstudio.catalogue.step_faults import keys_fault
from kdstudio.catalogue.steps import (
    ChunkStep,
    DeduplicateStep,
    DrawStep,
    EmitStep,
    ExecuteStep,
    ExpandStep,
    FilterStep,
    LoopStep,
    ParseStep,
    PromptStep,
    RankStep,
    SampleStep,
    ScoreStep,
    Step,
    VoteStep,
)
from kdstudio.catalogue.templates import expression_template, read_template
from kdstudio.errors import BadInput

PROMPT_COLUMNS = ("messages", "prompt", "reference", "tags", "tools")
# What says which row it is: written over, everything that follows would speak of another one.
_OWN = ("messages", "prompt", "tags", "tools", "round", "number", "document", "path")
_TEXTS = ("prompt", "reference", "response", "reasoning", "teacher", "title", "text", "path")
_KEPT = ("provenance", "labels")  # what the program itself keeps with a row


def place_of(name: str, steps: Sequence[Step], index: int, lines: Sequence[int] = ()) -> str:
    """How a step is named to a person."""
    line = lines[index] if index < len(lines) else 0
    return f"{name}{f', line {line}' if line else ''}, step {index + 1} ({steps[index].type})"


def asks_for(step: SampleStep, columns: Iterable[str]) -> str:
    """The column with the messages to send: a recipe without a prompt step sends the prompt as it stands."""
    return "messages" if step.request == "request" and "request" not in columns else step.request


def check_columns(
    name: str,
    steps: Sequence[Step],
    source: InputTable,
    parameters: Mapping[str, ParameterTable],
    lines: Sequence[int] = (),
    parameter_lines: Mapping[str, int] | None = None,
) -> None:
    """Raise `BadInput` for a step that reads a column, or a template a name, that is not there at that point.

    A recipe whose next round starts from what it made is gone through twice. `lines` are the steps' in the file,
    `parameter_lines` the parameters'.
    """
    check_parameters(name, parameters, parameter_lines or {})
    starts = [source.source]
    last = steps[-1]
    if isinstance(last, LoopStep) and last.start == "made":
        starts.append("prompts")
    for start in starts:
        _check_names(name, START_COLUMNS[start], parameters)
        known = _Known(set(START_COLUMNS[start]), set(parameters), start in ("prompts", "responses"))
        known.given, known.texts = {*known.columns}, {*_TEXTS} & known.columns
        known.looped = isinstance(last, LoopStep)
        for index, step in enumerate(steps):
            known.where = place_of(name, steps, index, lines)
            known.go_through(step)
    if source.source == "documents" and source.paths not in parameters:
        raise BadInput(
            "The recipe has no parameter for its documents",
            f"{name}: [input] reads the parameter {source.paths!r}.",
            f'Add [parameters.{source.paths}] with type = "files" and a help text.',
        )


@dataclass(frozen=True)
class StepFlow:
    """What a step reads and writes, and the names that its templates may use."""

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    names: tuple[str, ...]


def flows(steps: Sequence[Step], source: InputTable, parameters: Mapping[str, ParameterTable]) -> list[StepFlow]:
    """The flow of each step, for showing it. Raises `BadInput` for a template that cannot be read."""
    known = _Known(set(START_COLUMNS[source.source]), set(parameters), source.source in ("prompts", "responses"))
    found = []
    for index, step in enumerate(steps):
        known.where = place_of("recipe", steps, index)
        reads, either, writes = _flow(step, known)
        either |= _condition(step, known.where)
        names = tuple(sorted((known.columns | known.parameters) - {"document"}))
        found.append(StepFlow(tuple(sorted((reads | either) & {*names})), tuple(sorted(writes)), names))
        known.columns |= writes
    return found


def _check_names(name: str, columns: Sequence[str], parameters: Mapping[str, ParameterTable]) -> None:
    if taken := sorted(set(parameters) & {*columns}):
        raise BadInput("A parameter has a column's name", f"{name}: {', '.join(taken)}.", "Give it another name.")


@dataclass
class _Known:
    """What is there when a step begins."""

    columns: set[str]
    parameters: set[str]
    has_prompt: bool
    looped: bool = False
    made_prompts: bool = False
    where: str = ""
    split: bool = False
    sometimes: dict[str, str] = field(default_factory=dict)
    """Column -> the `when` of the only step that writes it."""
    given: set[str] = field(default_factory=set)
    """Columns that every row has, and no step of the recipe has written."""
    texts: set[str] = field(default_factory=set)
    """Columns that hold a text, and certainly no messages."""

    def go_through(self, step: Step) -> None:
        """Check what a step reads, and note what it writes."""
        reads, either, writes = _flow(step, self)
        either |= _condition(step, self.where)
        for name in sorted(reads - self.columns):
            self._missing(name, self.columns)
        for name in sorted(either - self.columns - self.parameters):
            self._missing(name, self.columns | self.parameters)
        for name in sorted(reads & {*self.sometimes}):
            if self.sometimes[name] != step.when and not (isinstance(step, SampleStep) and name == "request"):
                self._refuse(
                    f"it reads {name!r}, which is written only when {self.sometimes[name]}.",
                    f"Give it the same `when`, or write {name!r} before for every row.",
                )
        self._check_kind(step)
        self._check_read(step, reads | either)
        self._check_written(step, writes)
        self._note(step, writes)

    def _check_read(self, step: Step, names: set[str]) -> None:
        if "document" in names & self.columns - self.parameters and not isinstance(step, ChunkStep):
            self._refuse("'document' is the file as it was read, which only chunk takes.", "Use text, title or path.")
        match step:
            case PromptStep() if not step.text:
                wanted = step.start
            case SampleStep():
                wanted = asks_for(step, self.columns)
            case EmitStep(kind="prompt"):
                wanted = step.messages
            case _:
                return
        if wanted in self.texts:
            self._refuse(
                f"it takes messages, and {wanted!r} holds a text.", "Build them with a prompt step: user = ..."
            )

    def _check_written(self, step: Step, writes: set[str]) -> None:
        """A name that stands for something else already is refused, not taken for it."""
        if taken := sorted(writes & self.parameters):
            self._refuse(
                f"it writes {taken[0]!r}, which is a parameter.", "Give the column or the parameter another name."
            )
        if isinstance(step, EmitStep):
            for name in step.tags:
                if name in self.given - {"tags"}:  # nobody tags with the word tags
                    hint = f"Choose another word, or write tags_from = [{name!r}] to tag with what the column holds."
                    self._refuse(f"the tag {name!r} has the name of a column that every row has.", hint)
            if kept := sorted({*step.extras} & {*_KEPT}):
                self._refuse(f"the program keeps {kept[0]!r} with the row by itself.", "Leave it out of `extras`.")
        elif own := sorted(writes & {*_OWN} & self.columns):
            self._refuse(f"it writes over {own[0]!r}, which is the row's own.", "Give the new column another name.")

    def _note(self, step: Step, writes: set[str]) -> None:
        self.texts = self.texts | writes if _makes_texts(step) else self.texts - writes
        self.given = self.given | {"request"} if isinstance(step, EmitStep) else self.given - writes
        for name in writes:
            if step.when and name not in self.columns:
                self.sometimes[name] = step.when
            elif self.sometimes.get(name, step.when) != step.when:
                del self.sometimes[name]  # written in other cases too: whether in all is the recipe's business
        self.columns |= writes

    def _missing(self, name: str, there: set[str]) -> None:
        raise BadInput(
            "The recipe reads what is not there",
            f"{self.where} reads {name!r}, which nothing before it wrote.",
            f"There are: {', '.join(sorted(there))}.",
        )

    def _refuse(self, detail: str, hint: str) -> None:
        raise BadInput("A step cannot do its work there", f"{self.where}: {detail}", hint)

    def _check_kind(self, step: Step) -> None:
        match step:
            case EmitStep(kind="prompt"):
                self.has_prompt = self.made_prompts = True
            case EmitStep() if not self.has_prompt:
                self._refuse("there is no prompt that it belongs to.", "Emit a prompt (kind = 'prompt') before it.")
            case LoopStep(start="made") if not self.made_prompts:
                self._refuse("no step makes prompts to start from.", "Emit prompts, or set start = 'input'.")
            case DrawStep(source="made") if not self.looped:
                self._refuse("without a loop nothing was made before.", "Add a loop step, or draw from prompts.")
            case VoteStep() | RankStep(items="") if not self.split:
                self._refuse("nothing before it made several rows of one.", "Add samples, expand or chunk before it.")
            case SampleStep() | ExpandStep() | ChunkStep():
                self.split = True
            case _:
                pass
        if fault := keys_fault(step):
            self._refuse(*fault)


def _makes_texts(step: Step) -> bool:
    match step:
        case PromptStep():
            return bool(step.text)
        case ParseStep():
            return step.format in ("text", "tagged", "number", "code", "choice")
    return isinstance(step, SampleStep)


Flow = tuple[set[str], set[str], set[str]]


def _flow(step: Step, known: _Known) -> Flow:
    """What a step reads of the columns, what of columns or parameters, and what it writes."""
    match step:
        case PromptStep() | SampleStep() | ParseStep() | ExpandStep() | DrawStep() | ChunkStep():
            return _making(step, known)
        case FilterStep():
            either = _names(expression_template(step.expression), known.where) if step.expression else set()
            alone = step.expression and step.column == "response" and "response" not in known.columns
            return {step.reference, "" if alone else step.column} - {""}, either, {step.into} - {""}
        case DeduplicateStep():
            return {step.column}, set(), set()
        case VoteStep():
            return {step.column}, set(), {step.into}
        case ExecuteStep():
            return {step.column, step.tests, step.stdin} - {""}, set(), {step.into, "passed", "error"}
        case ScoreStep():
            way = {step.verdict} - {"number", "expected", "auto"}
            return {step.column, step.question} - {""}, way, {step.into, step.mean}
        case RankStep():
            by = step.by if step.method == "scores" else step.question
            way = {step.verdict} - {"letter", "log_odds", "auto"}
            return {step.items or step.column, by} - {""}, way, {step.into, step.scores}
        case EmitStep():
            return _emitting(step, known)
        case LoopStep():
            return {step.column}, set(), set()


def _making(step: PromptStep | SampleStep | ParseStep | ExpandStep | DrawStep | ChunkStep, known: _Known) -> Flow:
    match step:
        case PromptStep():
            texts = {name: getattr(step, name) for name in ("system", "user", "assistant", "text")}
            names = {name for key, text in texts.items() for name in _names(text, f"{known.where}, {key}")}
            return set(), names, {step.into}
        case SampleStep():
            both = step.request == "request" and "request" not in known.columns
            wrote = {step.into, "teacher"} if step.teachers == "all" else {step.into}
            return {"messages" if both else step.request}, {step.choices_from} - {""}, wrote
        case ParseStep():
            if not step.into:
                raise BadInput("A parse step has no columns", f"{known.where}: `into` is empty.", "Name at least one.")
            return {step.source}, {step.choices_from} - {""}, set(step.into)
        case ExpandStep():
            return set(), {step.source}, {step.into, *step.fields}
        case DrawStep():
            return set(), set(), {step.into}
        case ChunkStep():
            return {step.source}, set(), {step.into, "heading", "start", "end"}


def _emitting(step: EmitStep, known: _Known) -> Flow:
    reads, either, wrote = {*step.extras, *step.tags_from}, set[str](), set[str]()
    match step.kind:
        case "response":
            reads |= {"" if step.tool_calls and step.text not in known.columns else step.text}
            reads |= {step.reasoning, step.tool_calls}
        case "label":
            reads |= {step.text, step.reasoning}
            either |= {step.labels_from}
        case "prompt":
            reads |= {step.messages or step.text, step.system, step.reference, step.tools}
            wrote |= {*PROMPT_COLUMNS, "request"}
        case "preference" if step.chosen or step.rejected:
            reads |= {step.chosen or "(chosen)", step.rejected or "(rejected)"}
        case "preference":
            reads |= {step.candidates, step.scores}
    return reads - {""}, either - {""}, wrote


def _condition(step: Step, where: str) -> set[str]:
    return _names(expression_template(step.when), f"{where}, when") if step.when.strip() else set()


def _names(text: str, where: str) -> set[str]:
    return set(read_template(text, where).names) if text else set()
