"""Which ids of two vocabularies mean the same: what a comparison across tokenizers rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from kdstudio.models.conversation import Tokenizer

Relation = Literal["same", "padded", "different"]


@dataclass(frozen=True)
class Vocabulary:
    """A model's tokens by id.

    `pieces`: the bytes each stands for in text, b"" for control tokens and unused ids. `special`: texts of control
    tokens, those that are known. `end`: the token that ends a turn. `byte_level`: pieces joined are the text, byte for
    byte; not so where a tokenizer lower-cases or drops spaces.
    """

    pieces: Sequence[bytes]
    special: Mapping[int, str] = field(default_factory=dict)
    end: int | None = None
    byte_level: bool = True


@dataclass(frozen=True)
class VocabularyMap:
    """How two vocabularies relate.

    `matched` [M, 2]: student and teacher ids that mean the same bytes, the same control token or the end of the turn,
    no id twice, by student id. Shares are of the ids that mean anything. "padded": the same tokens, numbered alike,
    and on one side further ids at the end that stand for no bytes. `first_difference`: the first id whose bytes differ.
    `different_specials`: control tokens that the two number or name differently.
    """

    relation: Relation
    matched: npt.NDArray[np.int64]
    student_size: int
    teacher_size: int
    student_share: float
    teacher_share: float
    first_difference: int | None
    different_specials: tuple[str, ...]
    byte_level: bool

    @property
    def shared_size(self) -> int:
        """How many ids, from the first, both have: all that a divergence over a padded vocabulary looks at."""
        return min(self.student_size, self.teacher_size)

    @property
    def specials_agree(self) -> bool:
        """Whether the control tokens known to both have the same ids."""
        return not self.different_specials


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Read a loaded tokenizer's vocabulary; of the control tokens it names only those that begin and end a text."""
    special = {} if tokenizer.eos_id is None else {tokenizer.eos_id: tokenizer.eos_token}
    begin = tokenizer.encode(tokenizer.bos_token, special=True) if tokenizer.bos_token else []
    if len(begin) == 1:
        special[begin[0]] = tokenizer.bos_token
    pieces = [tokenizer.piece(token) for token in range(tokenizer.vocabulary_size)]
    return Vocabulary(pieces, special, tokenizer.eos_id)


def compare_vocabularies(student: Vocabulary, teacher: Vocabulary) -> VocabularyMap:
    """Match two vocabularies by bytes; takes a fraction of a second for 150,000 tokens each.

    Of several ids with the same bytes the last ones are paired first: a byte that is kept for emergencies comes before
    the letter it spells, and a token added later is looked for first.
    """
    matched = _matched(student, teacher)
    difference = _first_difference(student.pieces, teacher.pieces)
    specials = _different_specials(student.special, teacher.special)
    return VocabularyMap(
        relation=_relation(student, teacher) if difference is None and not specials else "different",
        matched=matched,
        student_size=len(student.pieces),
        teacher_size=len(teacher.pieces),
        student_share=len(matched) / max(1, _meaningful(student)),
        teacher_share=len(matched) / max(1, _meaningful(teacher)),
        first_difference=difference,
        different_specials=specials,
        byte_level=student.byte_level and teacher.byte_level,
    )


def _matched(student: Vocabulary, teacher: Vocabulary) -> npt.NDArray[np.int64]:
    theirs = _ids_by_meaning(teacher)
    if student.end is None or teacher.end is None:
        ends = {}
    else:  # whatever their names: both end the turn
        ends = {student.end: teacher.end}
        theirs = {meaning: token for meaning, token in theirs.items() if token != teacher.end}
    pairs = {ours: theirs[meaning] for meaning, ours in _ids_by_meaning(student).items() if meaning in theirs} | ends
    return np.array(sorted(pairs.items()), np.int64).reshape(-1, 2)


Meaning = bytes | tuple[bytes, int] | str


def _ids_by_meaning(vocabulary: Vocabulary) -> dict[Meaning, int]:
    """Ids by their bytes (with a count where an earlier id has them too) or by a control token's text."""
    found: dict[Meaning, int] = {}
    again: dict[bytes, int] = {}
    pieces = vocabulary.pieces
    for token in range(len(pieces) - 1, -1, -1):
        piece = pieces[token]
        if piece in found:
            again[piece] = again.get(piece, 0) + 1
            found[piece, again[piece]] = token
        elif piece:
            found[piece] = token
    return found | {
        text: token for token, text in vocabulary.special.items() if token < len(pieces) and not pieces[token]
    }


def _first_difference(ours: Sequence[bytes], theirs: Sequence[bytes]) -> int | None:
    shared = min(len(ours), len(theirs))
    return next((token for token in range(shared) if ours[token] != theirs[token]), None)


def _different_specials(ours: Mapping[int, str], theirs: Mapping[int, str]) -> tuple[str, ...]:
    ids = {text: token for token, text in theirs.items()}
    moved = {text for token, text in ours.items() if ids.get(text, token) != token}
    renamed = {text for token, text in ours.items() if theirs.get(token, text) != text}
    return tuple(sorted(moved | renamed))


def _relation(student: Vocabulary, teacher: Vocabulary) -> Relation:
    """How two lists relate that do not differ where both have tokens."""
    shorter, longer = sorted((student, teacher), key=lambda side: len(side.pieces))
    shared = len(shorter.pieces)
    if len(longer.pieces) == shared:
        return "same" if shared else "different"
    ends_inside = longer.end is None or longer.end < shared  # every row ends with it: it cannot be left out
    return "padded" if shared and ends_inside and not any(longer.pieces[shared:]) else "different"


def _meaningful(vocabulary: Vocabulary) -> int:
    pieces, named = vocabulary.pieces, set(vocabulary.special)
    if vocabulary.end is not None:
        named.add(vocabulary.end)
    return sum(map(bool, pieces)) + sum(token < len(pieces) and not pieces[token] for token in named)
