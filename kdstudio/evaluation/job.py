"""The evaluation job: the gap of a run's student, or of a GGUF file, to its teacher, and both answers side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudio.distillation.examples import SourceRow
from kdstudio.distillation.vocabulary import require_same_vocabulary
from kdstudio.errors import BadInput, KnownError, Stopped
from kdstudio.evaluation.answers import Prompt, SideBySide, answers_of, share_right, side_by_side
from kdstudio.evaluation.by_tag import by_tag
from kdstudio.evaluation.gap import likelihood, measure
from kdstudio.evaluation.held_out import STUDENT_NAME, MeasuredRows, rows_for_file, rows_of_run, run_folder_of
from kdstudio.evaluation.logits import LlamaLogits, LogitSource
from kdstudio.evaluation.torch_logits import TorchLogits, load_student
from kdstudio.export.gguf import Identity, write_gguf
from kdstudio.jobs.events import Sample
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.gguf_header import read_header
from kdstudio.models.spec import TeacherSpec
from kdstudio.students.save import open_tokenizer
from kdstudio.teachers.base import Teacher
from kdstudio.teachers.dequantised import fast_copy
from kdstudio.teachers.ledger import ledger_of
from kdstudio.teachers.opening import open_teacher

if TYPE_CHECKING:
    from kdstudio.jobs.child import Job

MAXIMUM_TOKENS, LEAST_ANSWER, MOST_ANSWER = 4096, 48, 512


@dataclass(frozen=True)
class Student:
    """What is measured: a GGUF file, or the student folder of a run."""

    path: Path
    tokenizer: Tokenizer
    rows: MeasuredRows

    @property
    def is_file(self) -> bool:
        """Whether it is a GGUF file."""
        return self.path.is_file()

    def logits(self) -> LogitSource:
        """The student as a source of logits."""
        if self.is_file:
            return LlamaLogits(self.path, context_tokens=self.rows.longest)
        return TorchLogits(load_student(self.path))


def run(job: Job) -> dict[str, Any]:
    """Measure and compare; returns `forward_kl, reverse_kl, top1_agreement, teacher_nll, student_nll, rows` and more.

    Parameters: `run` or `gguf`, `teacher`, `limit`, `samples`. `rows_of` measures a `gguf` or a `folder` on what that
    run held out; `accuracy` compares answers of at most `max_tokens` tokens with the prompts' references.
    `by_tag` holds the figures for each tag of the rows, and what the trainer saw on them before and after.
    Figures that need the teacher's full distribution are None where it has none to give, and a warning says why.
    """
    spec = _teacher(job.parameters.get("teacher"))
    student = _student(job)
    rows = student.rows.first(int(job.parameters.get("limit") or 0))
    if not rows.held_out:
        job.warn("Not measured on held-out rows", f"These are {rows.text}.", "Learnt rows flatter a student.")
    result = _gap(job, spec, student, rows)
    accuracy = _accuracy(job, student, rows) if job.parameters.get("accuracy") else None
    answers = _answers(job, spec, student, rows.prompts(int(job.parameters.get("samples", 6))), rows)
    for number, item in enumerate(answers):
        job.emit(Sample(number, item.prompt, item.student, item.teacher))
    if not job.continues():
        raise Stopped("The measurement was ended early.")
    return {
        **result,
        "text": rows.text,
        "held_out": rows.held_out,
        "answers": len(answers),
        "exact_match": _mean([float(item.exact_match) for item in answers]),
        "rouge_l": _mean([item.rouge_l for item in answers]),
        **({} if accuracy is None else {"accuracy": accuracy}),
        **ledger_of(job).report(),
    }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _teacher(described: Any) -> TeacherSpec:
    try:
        return TeacherSpec(**described)
    except TypeError as error:
        raise BadInput("No teacher to compare with", f"{error}.", "Choose a teacher of the project.") from error


def _student(job: Job) -> Student:
    if rows_of := str(job.parameters.get("rows_of") or ""):
        path = Path(str(job.parameters.get("gguf") or job.parameters["folder"]))
        tokenizer = open_tokenizer(path)
        run_folder = run_folder_of(job.project_folder, rows_of)
        return Student(path, tokenizer, rows_of_run(run_folder, job.project_folder, tokenizer))
    if job.parameters.get("gguf"):
        path = Path(str(job.parameters["gguf"]))
        header = read_header(path)
        if not header.tensors:
            raise BadInput("This file has no weights", f"{path} holds a vocabulary only.", "Choose the model itself.")
        tokenizer = open_tokenizer(path)
        limit = min(header.context or MAXIMUM_TOKENS, MAXIMUM_TOKENS)
        return Student(path, tokenizer, rows_for_file(job.project_folder, header.metadata, tokenizer, limit))
    folder = run_folder_of(job.project_folder, str(job.parameters.get("run", "")))
    tokenizer = open_tokenizer(folder / STUDENT_NAME)
    return Student(folder / STUDENT_NAME, tokenizer, rows_of_run(folder, job.project_folder, tokenizer))


def _gap(job: Job, spec: TeacherSpec, student: Student, rows: MeasuredRows) -> dict[str, Any]:
    obstacle = _obstacle(spec, student, rows)
    pairs = rows.pairs
    with ExitStack() as stack:
        measured = stack.enter_context(_closing(student.logits()))

        def progress(done: int, positions: int) -> None:
            job.progress(done, len(pairs), unit="rows", tokens=positions, stage="measure")

        if obstacle is not None:
            job.warn("No divergence to this teacher", obstacle, "The student's own likelihood is measured instead.")
            each = likelihood(measured, pairs, continues=job.continues, progress=progress)
            positions = round(sum(row["positions"] for row in each))
            nll = sum(row["student_nll"] for row in each) / positions
            tags = by_tag(rows.examples, each, rows.run_folder)
            return _figures(None, None, None, None, nll, len(pairs), positions) | {"by_tag": tags}
        teacher = stack.enter_context(_closing(_local_logits(spec, rows.longest)))
        meter = measure(teacher, measured, pairs, continues=job.continues, progress=progress)
    if not job.continues():
        raise Stopped("The measurement was ended early.")
    return {**meter.result().as_dict(), "by_tag": by_tag(rows.examples, meter.each_row, rows.run_folder)}


def _figures(
    forward: float | None,
    reverse: float | None,
    agreement: float | None,
    teacher: float | None,
    student: float,
    rows: int,
    positions: int,
) -> dict[str, Any]:
    return {
        "forward_kl": forward,
        "reverse_kl": reverse,
        "top1_agreement": agreement,
        "teacher_nll": teacher,
        "student_nll": student,
        "rows": rows,
        "positions": positions,
    }


@contextmanager
def _closing(source: LogitSource) -> Iterator[LogitSource]:
    try:
        yield source
    finally:
        source.close()


def _obstacle(spec: TeacherSpec, student: Student, rows: MeasuredRows) -> str | None:
    """Why no divergence to this teacher can be measured; None if it can."""
    if spec.kind not in ("gguf", "huggingface"):
        return f"{spec.name} gives answers, not the distribution behind them."
    sources = [SourceRow(row.prompt_id, row.response_id, (), row.response) for row in rows.examples]
    tokenizer = open_tokenizer(Path(spec.path))
    try:
        require_same_vocabulary(tokenizer, student.tokenizer, sources)
    except BadInput as error:
        return error.detail
    return None


def _local_logits(spec: TeacherSpec, longest: int) -> LogitSource:
    """The teacher's distribution, from the copy that it also answers from where its own format is slow to read."""
    path = Path(spec.path)
    if path.is_dir():
        return TorchLogits(load_student(path))
    copy = fast_copy(path, read_header(path)) if spec.options.get("dequantise", True) else None
    return LlamaLogits(copy.path if copy else path, context_tokens=longest)


def _answers(job: Job, spec: TeacherSpec, student: Student, chosen: list[Any], rows: MeasuredRows) -> list[SideBySide]:
    """Greedy answers of both; one model at a time is in memory. A teacher that cannot answer is said, not fatal."""
    if not chosen or not job.continues():
        return []
    prompts: list[Prompt] = [(item.prompt, rows.messages[item.prompt_id]) for item in chosen]
    longest = max(len(item.response_ids) for item in rows.examples)
    count = int(job.parameters.get("max_tokens") or max(LEAST_ANSWER, min(longest + 8, MOST_ANSWER)))
    job.progress(0, 2, unit="models", stage="answers")
    try:
        now = replace(spec, options={**spec.options, "batch": False})  # somebody waits
        theirs = _ask(job, open_teacher(now, job.secrets, ledger=ledger_of(job)), prompts, count)
    except KnownError as error:
        job.warn("The teacher gave no answers to compare", f"{error.title}. {error.detail}", error.hint)
        return []
    job.progress(1, 2, unit="models", stage="answers")
    with _speaking(job, student) as own:
        ours = _ask(job, open_teacher(own, {}), prompts, count)
    job.progress(2, 2, unit="models", stage="answers")
    return side_by_side(prompts, theirs, ours)


@contextmanager
def _speaking(job: Job, student: Student) -> Iterator[TeacherSpec]:
    """The student as a file that llama.cpp answers from."""
    with tempfile.TemporaryDirectory(dir=job.run_folder, prefix=".kdtmp-") as folder:
        path = student.path
        if not student.is_file:
            path = Path(folder) / "student.gguf"
            write_gguf(student.path, path, "F16", Identity("student"))
        yield TeacherSpec("student", "gguf", path=str(path), options={"dequantise": False})


def _accuracy(job: Job, student: Student, rows: MeasuredRows) -> float | None:
    """Share of the prompts with a reference that the student answers rightly, greedily; None where there is none."""
    asked = [item for item in rows.prompts(len(rows.examples)) if item.reference.strip()]
    if not asked or not job.continues():
        return None
    job.progress(0, len(asked), unit="rows", stage="answers")
    prompts: list[Prompt] = [(item.prompt, rows.messages[item.prompt_id]) for item in asked]
    with _speaking(job, student) as own:
        answers = _ask(job, open_teacher(own, {}), prompts, int(job.parameters.get("max_tokens") or MOST_ANSWER))
    return share_right([item.reference for item in asked], answers)


def _ask(job: Job, model: Teacher, prompts: list[Prompt], count: int) -> dict[int, str]:
    try:
        return answers_of(model, prompts, count, lambda: not job.continues())
    finally:
        model.close()
