"""Can this student learn from this teacher, token by token, and may it? What both files say, compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kdstudio.models.architectures import student_obstacle
from kdstudio.models.gguf_header import GGUFHeader
from kdstudio.models.terms import terms_of

Level = Literal["good", "note", "warning", "obstacle"]


@dataclass(frozen=True)
class Finding:
    """One line of the report: an obstacle forbids something, a warning deserves a thought."""

    level: Level
    title: str
    detail: str = ""


@dataclass(frozen=True)
class PairReport:
    """`same_tokens`: both number tokens alike, as a direct divergence needs. `can_train`: a student can be made."""

    same_tokens: bool
    can_train: bool
    findings: tuple[Finding, ...]


def compare(teacher: GGUFHeader, student: GGUFHeader) -> PairReport:
    """Compare vocabularies, templates, contexts, sizes and terms of use of a teacher and a student's starting point."""
    same = bool(teacher.tokenizer_fingerprint) and teacher.tokenizer_fingerprint == student.tokenizer_fingerprint
    findings = [
        *_tokens(teacher, student, same=same),
        *_templates(teacher, student),
        *_sizes(teacher, student),
        *_terms(teacher, student),
    ]
    obstacle = student_obstacle(student)
    if obstacle:
        findings.insert(0, Finding("obstacle", "No student can be made from this file", obstacle))
    return PairReport(same, not obstacle, tuple(findings))


def _tokens(teacher: GGUFHeader, student: GGUFHeader, *, same: bool) -> list[Finding]:
    if not same:
        sizes = f"The teacher has {teacher.vocabulary_size:,} tokens, the student {student.vocabulary_size:,}."
        detail = f"{sizes} It can learn from the teacher's text (supervised), not from its probabilities."
        return [Finding("obstacle", "They do not share a vocabulary", detail)]
    found = [Finding("good", "The same vocabulary", f"{teacher.vocabulary_size:,} tokens, numbered alike.")]
    for key, what in (("pre", "split text differently"), ("add_bos_token", "begin texts differently")):
        ours, theirs = (header.metadata.get(f"tokenizer.ggml.{key}") for header in (teacher, student))
        if ours != theirs:
            detail = f"tokenizer.ggml.{key}: {ours!r} and {theirs!r}. The rows are checked before training."
            found.append(Finding("warning", f"They {what}", detail))
    return found


def _templates(teacher: GGUFHeader, student: GGUFHeader) -> list[Finding]:
    if teacher.template == student.template:
        return []
    if not student.template:
        return [Finding("note", "The student has no chat template", "It will learn and carry the teacher's tokens.")]
    detail = "The student is trained with its own; the teacher's signals are for texts in the teacher's."
    return [Finding("warning", "Their chat templates differ", detail)]


def _sizes(teacher: GGUFHeader, student: GGUFHeader) -> list[Finding]:
    found = []
    if student.parameters > teacher.parameters > 0:
        sizes = f"{student.parameters / 1e6:,.1f}M and {teacher.parameters / 1e6:,.1f}M weights."
        found.append(Finding("note", "The student is larger than its teacher", sizes))
    if 0 < student.context < teacher.context:
        detail = f"{student.context:,} of the teacher's {teacher.context:,} tokens."
        found.append(Finding("note", "The student reads shorter texts", detail))
    return found


def _terms(teacher: GGUFHeader, student: GGUFHeader) -> list[Finding]:
    found = []
    for who, header in (("teacher", teacher), ("student", student)):
        terms = terms_of(header.license)
        if who == "student" and header.license == teacher.license:
            break
        level: Level = "good" if terms.free else "warning"
        found.append(Finding(level, f"The {who}'s terms: {terms.name}", terms.says))
    return found
