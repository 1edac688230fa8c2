"""Whether two models mean the same by a token id: what any direct divergence between them rests on."""

from __future__ import annotations

from collections.abc import Sequence

from kdstudio.distillation.examples import SourceRow
from kdstudio.errors import BadInput
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.vocabulary_map import compare_vocabularies, vocabulary_of

_CHECKED_ROWS = 32


def require_same_vocabulary(teacher: Tokenizer, student: Tokenizer, rows: Sequence[SourceRow]) -> None:
    """Raises `BadInput` naming the first difference: in a token's bytes, in size, or in how real rows are cut up.

    Further ids at one's end that stand for nothing are no difference: models of one family are padded to other sizes.
    Equal token lists are not enough: with other merge rules the same text becomes other ids, so some rows are tried.
    """
    difference = _difference(teacher, student) or _row_difference(teacher, student, rows)
    if difference:
        raise BadInput(
            "Teacher and student have different vocabularies",
            f"{difference} A divergence compares the two token by token, so they must share one vocabulary.",
            'Choose a student of the same family, or the objective "supervised", which needs the text alone.',
        )


def _difference(teacher: Tokenizer, student: Tokenizer) -> str:
    if teacher.fingerprint == student.fingerprint and teacher.vocabulary_size == student.vocabulary_size:
        return ""
    ours, theirs = vocabulary_of(student), vocabulary_of(teacher)
    found = compare_vocabularies(ours, theirs)
    if found.relation != "different":
        return ""
    first = found.first_difference
    if first is not None:
        words = f"{_shown(theirs.pieces[first])} to the teacher and {_shown(ours.pieces[first])} to the student"
        return f"Token {first:,} is {words}."
    if found.different_specials:
        return f"They number control tokens differently: {', '.join(found.different_specials[:3])}."
    return f"The teacher has {found.teacher_size:,} tokens, the student {found.student_size:,}."


def _row_difference(teacher: Tokenizer, student: Tokenizer, rows: Sequence[SourceRow]) -> str:
    for row in rows[:: max(1, len(rows) // _CHECKED_ROWS)]:
        text = row.text
        if teacher.encode(text, special=False) != student.encode(text, special=False):
            return f"They cut the text of response {row.response_id} into different tokens."
    return ""


def _shown(piece: bytes) -> str:
    return repr(piece.decode("utf-8", "replace")[:40])
