"""Whether two models mean the same by a token id: what any direct divergence between them rests on."""

from __future__ import annotations

from collections.abc import Sequence

from kdstudio.distillation.examples import SourceRow
from kdstudio.errors import BadInput
from kdstudio.models.conversation import Tokenizer

_CHECKED_ROWS = 32


def require_same_vocabulary(teacher: Tokenizer, student: Tokenizer, rows: Sequence[SourceRow]) -> None:
    """Raises `BadInput` naming the first difference: in size, in a token's bytes, or in how real rows are cut up.

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
    if teacher.vocabulary_size != student.vocabulary_size:
        return f"The teacher has {teacher.vocabulary_size:,} tokens, the student {student.vocabulary_size:,}."
    if teacher.fingerprint == student.fingerprint:
        return ""
    for token in range(teacher.vocabulary_size):
        theirs, ours = teacher.piece(token), student.piece(token)
        if theirs != ours:
            return f"Token {token:,} is {_shown(theirs)} to the teacher and {_shown(ours)} to the student."
    return ""


def _row_difference(teacher: Tokenizer, student: Tokenizer, rows: Sequence[SourceRow]) -> str:
    for row in rows[:: max(1, len(rows) // _CHECKED_ROWS)]:
        text = row.text
        if teacher.encode(text, special=False) != student.encode(text, special=False):
            return f"They cut the text of response {row.response_id} into different tokens."
    return ""


def _shown(piece: bytes) -> str:
    return repr(piece.decode("utf-8", "replace")[:40])
