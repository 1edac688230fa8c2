"""Can this student learn from this teacher, token by token, and may it? What both files say, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from kdstudio.models.architectures import student_obstacle
from kdstudio.models.byte_spans import Alignment
from kdstudio.models.gguf_header import GGUFHeader
from kdstudio.models.terms import terms_of
from kdstudio.models.vocabulary_map import VocabularyMap

Level = Literal["good", "note", "warning", "obstacle"]
Way = Literal["direct", "sorted", "byte_aligned", "text"]
"""How an objective compares teacher and student: token by token over one vocabulary, the probabilities sorted by size,
tokens that stand for the same bytes, or not at all (the text alone)."""

ENOUGH_MATCHED = 0.25
"""Share of the smaller vocabulary that must be matched for "byte_aligned"; below it nearly all would be sorted."""
_ALIKE = 0.9


@dataclass(frozen=True)
class Finding:
    """One line of the report: an obstacle forbids something, a warning deserves a thought."""

    level: Level
    title: str
    detail: str = ""


@dataclass(frozen=True)
class Legality:
    """Whether the objectives that compare in one way can be used. `legal`: None while the token lists are unread."""

    way: Way
    legal: bool | None
    why: str


@dataclass(frozen=True)
class PairReport:
    """`same_tokens`: both number tokens alike, as a direct divergence needs. `can_train`: a student can be made.

    `ways`: which kinds of objective are legal, and why the others are not. `one_to_one`: share of the sample texts'
    bytes that both cut into the same tokens (None without samples).
    """

    same_tokens: bool
    can_train: bool
    findings: tuple[Finding, ...]
    ways: tuple[Legality, ...] = ()
    one_to_one: float | None = None

    def legality(self, way: Way) -> Legality:
        """What the report says of one way; unknown if it says nothing."""
        return next((found for found in self.ways if found.way == way), Legality(way, None, "It was not looked at."))


def compare(
    teacher: GGUFHeader,
    student: GGUFHeader,
    *,
    vocabularies: VocabularyMap | None = None,
    alignments: Sequence[Alignment] = (),
) -> PairReport:
    """Compare vocabularies, templates, contexts, sizes and terms of use of a teacher and a student's starting point.

    Headers alone tell whether the token lists are equal. `vocabularies` (read beside the window: `gguf_vocabulary`)
    tells how unequal ones relate; `alignments` how both cut sample texts.
    """
    same = bool(teacher.tokenizer_fingerprint) and teacher.tokenizer_fingerprint == student.tokenizer_fingerprint
    ways = legal_ways(same_tokens=same, vocabularies=vocabularies)
    same = ways[0].legal is True
    one_to_one = _shares(alignments)[0] if alignments else None
    findings = [
        *_tokens(teacher, student, vocabularies, same=same),
        *_samples(alignments),
        *_templates(teacher, student),
        *_sizes(teacher, student),
        *_terms(teacher, student),
    ]
    obstacle = student_obstacle(student)
    if obstacle:
        findings.insert(0, Finding("obstacle", "No student can be made from this file", obstacle))
    return PairReport(same, not obstacle, tuple(findings), ways, one_to_one)


def legal_ways(
    *, same_tokens: bool, vocabularies: VocabularyMap | None = None, white_box: bool = True
) -> tuple[Legality, ...]:
    """Say for each `Way`, in their order, whether it is legal and why.

    `same_tokens`: the token lists are known to be equal. `white_box`: the teacher's whole distributions can be had, as
    of a model on this machine; an endpoint gives text.
    """
    text = Legality("text", True, "It needs nothing but what the teacher wrote.")
    if not white_box:
        why = "The teacher gives its text, not its probabilities."
        return (
            Legality("direct", False, why),
            Legality("sorted", False, why),
            Legality("byte_aligned", False, why),
            text,
        )
    coarse = "It compares probabilities by size, whatever their tokens: legal for any pair, and coarse."
    direct, aligned = _direct(vocabularies), _byte_aligned(vocabularies)
    if same_tokens:
        direct = Legality("direct", True, "They share one vocabulary.")
        aligned = Legality("byte_aligned", True, 'They share one vocabulary; "direct" says the same for less.')
    return direct, Legality("sorted", True, coarse), aligned, text


def _direct(found: VocabularyMap | None) -> Legality:
    if found is None:
        return Legality("direct", None, "Their token lists differ and have not been compared yet.")
    if found.relation == "same":
        return Legality("direct", True, "They share one vocabulary.")
    if found.relation == "padded":
        return Legality("direct", True, f"They share one vocabulary; {_padding(found)}")
    if found.first_difference is not None:
        why = f"They number tokens differently, from id {found.first_difference:,} on."
    elif found.different_specials:
        names = ", ".join(found.different_specials[:3])
        why = f"They number control tokens differently: {names}."
    else:
        why = "One has further tokens that the other cannot read or end a turn with."
    return Legality("direct", False, why)


def _padding(found: VocabularyMap) -> str:
    longer = "teacher" if found.teacher_size > found.student_size else "student"
    extra = abs(found.teacher_size - found.student_size)
    return f"the {longer}'s {extra:,} ids from {found.shared_size:,} on stand for nothing and are left out."


def _byte_aligned(found: VocabularyMap | None) -> Legality:
    if found is None:
        return Legality("byte_aligned", None, "Their token lists have not been compared yet.")
    if not found.byte_level:
        why = "One of the tokenizers changes the text, so that its tokens cannot be placed in it byte by byte."
        return Legality("byte_aligned", False, why)
    shares = f"{found.student_share:.0%} of the student's tokens and {found.teacher_share:.0%} of the teacher's"
    enough = max(found.student_share, found.teacher_share) >= ENOUGH_MATCHED
    why = f"{shares} mean the same bytes." if enough else f"Only {shares} mean the same bytes."
    return Legality("byte_aligned", enough, why)


def _tokens(
    teacher: GGUFHeader, student: GGUFHeader, vocabularies: VocabularyMap | None, *, same: bool
) -> list[Finding]:
    if not same:
        sizes = f"The teacher has {teacher.vocabulary_size:,} tokens, the student {student.vocabulary_size:,}."
        detail = f"{sizes} It can learn from the teacher's text (supervised), not from its probabilities."
        if vocabularies is not None:
            aligned = _byte_aligned(vocabularies)
            also = "byte by byte" if aligned.legal else "sorted by size"
            detail = f"{sizes} {aligned.why} Its probabilities can be compared {also}, not token by token."
        return [Finding("obstacle", "They do not share a vocabulary", detail)]
    if vocabularies is not None and vocabularies.relation == "padded":
        padding = _padding(vocabularies)
        found = [Finding("note", "The same vocabulary, padded", padding[0].upper() + padding[1:])]
    else:
        found = [Finding("good", "The same vocabulary", f"{teacher.vocabulary_size:,} tokens, numbered alike.")]
    for key, what in (("pre", "split text differently"), ("add_bos_token", "begin texts differently")):
        ours, theirs = (header.metadata.get(f"tokenizer.ggml.{key}") for header in (teacher, student))
        if ours != theirs:
            detail = f"tokenizer.ggml.{key}: {ours!r} and {theirs!r}. The rows are checked before training."
            found.append(Finding("warning", f"They {what}", detail))
    return found


def _samples(alignments: Sequence[Alignment]) -> list[Finding]:
    if not alignments:
        return []
    alike, grouped = _shares(alignments)
    many = f"{len(alignments):,} sample texts" if len(alignments) > 1 else "One sample text"
    detail = f"{many}; {grouped - alike:.0%} is compared in groups of several tokens, {1 - grouped:.0%} not at all."
    level: Level = "good" if alike >= _ALIKE else "note"
    return [Finding(level, f"{alike:.0%} of the text is cut into the same tokens", detail)]


def _shares(alignments: Sequence[Alignment]) -> tuple[float, float]:
    """Of all texts' bytes, those in groups of one token and those in any group."""
    total = sum(found.text_bytes for found in alignments)
    if not total:
        return 1.0, 1.0
    alike = sum(found.one_to_one_bytes for found in alignments)
    return alike / total, sum(found.grouped_bytes for found in alignments) / total


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
