"""The audit of the rows: is the response learnt, all of it and nothing else, in tokens that both sides number alike?"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from kdstudio.distillation.audited import Audited, Finding
from kdstudio.distillation.examples import Example
from kdstudio.distillation.forward import head_weight
from kdstudio.distillation.rows import TrainingRows
from kdstudio.distillation.targets import SparseTarget, TeacherTarget, WholeTarget
from kdstudio.errors import BadInput
from kdstudio.models.chat_template import render
from kdstudio.models.conversation import Tokenizer

_ROWS = 256
"""Rows whose texts are compared with their tokens."""
_MUCH = 40
"""Characters: a template may write as many around a response (an empty block for thoughts), not more."""
_SHOWN = 120
"""Characters of a row in the list of findings."""
_FEWEST_WORDS = 4


def check_rows(audited: Audited) -> Iterator[Finding]:
    """What can be said before any network has run."""
    fault = _token_fault(audited) or _cut_fault(audited)
    if fault is not None:
        yield fault
        return
    yield from _mask(audited)
    yield from _template(audited)
    yield from _leaks(audited.rows)


def _token_fault(audited: Audited) -> Finding | None:
    """Every row has something to learn, tokens that exist, and the beginning that is read once for all."""
    prefix, size = audited.rows.prefix.numpy(), head_weight(audited.network).shape[0]
    for example in audited.rows.examples:
        name = f"Response {example.response_id}"
        if not len(example.response_ids):
            return Finding("fault", "A row has nothing to learn", f"{name} has no tokens.")
        highest = int(max(example.prompt_ids.max(), example.response_ids.max()))
        if highest >= size:
            return Finding("fault", "A token has no place in the student", f"Token {highest:,} of {size:,} outcomes.")
        if len(example.prompt_ids) <= len(prefix) or (example.prompt_ids[: len(prefix)] != prefix).any():
            detail = f"{name} does not begin with the {len(prefix):,} tokens that are read once for all rows."
            return Finding("fault", "A row is read behind another row's beginning", detail)
    return None


def _mask(audited: Audited) -> Iterator[Finding]:
    """What is learnt is the response with the end of its turn, and nothing of the prompt."""
    tokenizer, examples, opening = audited.tokenizer, audited.rows.examples, _opening(audited.tokenizer)
    for example in _chosen(audited):
        fault = _mask_fault(tokenizer, example, opening)
        if fault:
            yield Finding("fault", "The mask does not cover the response", f"Response {example.response_id} {fault}")
            return
    learnt = _text(tokenizer, examples[0].response_ids.tolist())[: 2 * _SHOWN]
    if examples[0].response_ids[-1] == tokenizer.eos_id:
        learnt += tokenizer.eos_token
    read = _text(tokenizer, examples[0].prompt_ids.tolist())
    passages = ((f"…{read[-_SHOWN:]}" if len(read) > _SHOWN else read, "read"), (learnt, "learnt"))
    detail = f"Read: {passages[0][0]!r} Learnt: {passages[1][0]!r}"
    yield Finding("good", "The mask covers the responses and nothing else", detail, passages)


def _cut_fault(audited: Audited) -> Finding | None:
    """The rows are cut into tokens as the student's tokenizer does it."""
    chosen = _chosen(audited)
    otherwise = sum(_is_cut_otherwise(audited.tokenizer, example) for example in chosen)
    if 2 * otherwise <= len(chosen):
        return None
    detail = f"The student's own cuts {otherwise} of {len(chosen)} responses into other tokens."
    return Finding("fault", "The rows are of another tokenizer", detail)


def _chosen(audited: Audited) -> list[Example]:
    examples = audited.rows.examples
    return [example for example in examples[:: max(1, len(examples) // _ROWS)] if not example.own]


def _is_cut_otherwise(tokenizer: Tokenizer, example: Example) -> bool:
    """Between its first and its last word: these may be joined with what the template writes beside them."""
    said = tokenizer.encode(example.response.strip(), special=True)
    pieces = [tokenizer.piece(token) for token in said]
    text = b"".join(pieces)
    words, ends = text.split(), list(itertools.accumulate(map(len, pieces)))
    if len(words) < _FEWEST_WORDS:
        return False
    first, last = text.find(words[0]) + len(words[0]), text.rfind(words[-1])
    placed = zip(said, pieces, ends, strict=True)
    inner = [token for token, piece, end in placed if first <= end - len(piece) and end <= last]
    return not _times(inner, [*example.prompt_ids.tolist(), *example.response_ids.tolist()])


def _template(audited: Audited) -> Iterator[Finding]:
    """The prompts end where the student's template opens an answer."""
    opening, chosen = _opening(audited.tokenizer), _chosen(audited)
    if chosen and opening and not any(_is_opened(audited.tokenizer, example, opening) for example in chosen):
        written = _text(audited.tokenizer, opening)
        detail = f"None ends with {written!r}, with which the student's template opens an answer."
        yield Finding("warning", "The prompts are not in the student's template", detail)


def _is_opened(tokenizer: Tokenizer, example: Example, opening: list[int]) -> bool:
    if example.prompt_ids[-len(opening) :].tolist() == opening:
        return True
    written = _text(tokenizer, opening)
    return bool(written) and _text(tokenizer, example.prompt_ids.tolist()).endswith(written)


def _mask_fault(tokenizer: Tokenizer, example: Example, opening: list[int]) -> str:
    ids, ends = example.response_ids.tolist(), tokenizer.end_ids
    said = tokenizer.encode(example.response, special=True)  # control tokens that are written out in it included
    learnt, wanted = (" ".join(_text(tokenizer, part).split()) for part in (ids[example.rationale :], said))
    if wanted not in learnt:
        return f"says {wanted[:80]!r}; learnt is {learnt[:80]!r}."
    if len(learnt) > len(wanted) + _MUCH:
        return f"is learnt with {len(learnt) - len(wanted)} more characters."
    if _is_telling(tokenizer, opening):
        border = [*example.prompt_ids.tolist()[-len(opening) :][1:], *ids]
        if _times(opening, border) > _times(opening, said):
            return "is learnt with the beginning of its turn, which belongs to the prompt."
    if ends and ids[-1] not in ends:
        return "does not end its turn: a student of it would never stop."
    if not example.rationale and sum(token in ends for token in ids[:-1]) > sum(token in ends for token in said):
        return "goes on to be learnt behind the end of its turn."
    return ""


def _opening(tokenizer: Tokenizer) -> list[int]:
    """What the template writes where an answer begins; nothing where it cannot be told."""
    try:
        plain, opened = (_rendered(tokenizer, ("user",), opened=opened) for opened in (False, True))
    except BadInput:
        return []
    return tokenizer.encode(opened[len(plain) :], special=True) if opened.startswith(plain) else []


def _is_telling(tokenizer: Tokenizer, opening: list[int]) -> bool:
    """Whether it would not stand in a response by chance."""
    return any(not tokenizer.piece(token) for token in opening) or len(_text(tokenizer, opening).strip()) > 2


def _times(part: list[int], whole: list[int]) -> int:
    return sum(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def _text(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Without the ends of turns, where these are no control tokens."""
    pieces = (tokenizer.piece(token) for token in ids if token not in tokenizer.end_ids)
    return b"".join(pieces).decode("utf-8", "replace")


def _rendered(tokenizer: Tokenizer, roles: Sequence[str], *, opened: bool) -> str:
    messages = [{"role": role, "content": f"word {place}"} for place, role in enumerate(roles)]
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    return render(tokenizer.template, messages, add_generation_prompt=opened, bos_token=bos, eos_token=eos)


def _leaks(rows: TrainingRows) -> Iterator[Finding]:
    """No held-out prompt is trained on under another number."""
    trained = {rows.examples[row].prompt_ids.tobytes() for row in rows.training}
    seen = sum(rows.examples[row].prompt_ids.tobytes() in trained for row in rows.held_out)
    if seen:
        detail = f"{seen} of {len(rows.held_out)} held-out rows ask what a training row asks too."
        yield Finding("warning", "The held-out measure is not of unseen prompts", detail)


def check_vocabulary(audited: Audited, target: TeacherTarget | None) -> Iterator[Finding]:
    """Both number tokens alike, up to the ends of turns, and write conversations alike."""
    ours, theirs, size = audited.tokenizer, audited.teacher_tokenizer, head_weight(audited.network).shape[0]
    if isinstance(target, WholeTarget) and not _covers(ours, target.outcomes, size):
        detail = f"The teacher tells {target.outcomes:,} outcomes apart, the student {size:,}."
        yield Finding("fault", "Teacher and student have vocabularies of different size", detail)
    if isinstance(target, SparseTarget) and int(target.ids.max()) >= size:
        detail = f"They name token {int(target.ids.max()):,}; the student has {size:,}."
        yield Finding("fault", "The stored signals are of another vocabulary", detail)
    if theirs is None or target is None:
        return
    last = {int(example.response_ids[-1]) for example in audited.rows.examples if not example.own}
    different = _different_token(ours, theirs, size)
    if different is not None:
        pieces = f"{theirs.piece(different)!r} to the teacher, {ours.piece(different)!r} to the student"
        yield Finding("fault", "Teacher and student number tokens differently", f"Token {different:,} is {pieces}.")
    elif theirs.end_ids and not last <= theirs.end_ids:
        detail = f"Rows end with token {min(last - theirs.end_ids)}; the teacher ends a turn with {theirs.eos_id}."
        yield Finding("fault", "Special tokens do not agree", detail)
    elif not _write_alike(ours, theirs):
        detail = "The student is trained with its own, in which the teacher has seen no text."
        yield Finding("warning", "Their chat templates differ", detail)
    else:
        yield Finding("good", "One vocabulary, the same special tokens and the same template")


def _covers(ours: Tokenizer, theirs: int, size: int) -> bool:
    """Whether the teacher tells apart all outcomes of the student that stand for anything; the rest is padding."""
    return theirs <= size and not any(ours.piece(token) for token in range(theirs, min(size, ours.vocabulary_size)))


def _different_token(ours: Tokenizer, theirs: Tokenizer, size: int) -> int | None:
    """The first id that does not mean the same; None if all do."""
    if ours.fingerprint == theirs.fingerprint:
        return None
    common = min(size, theirs.vocabulary_size)
    return next((token for token in range(common) if theirs.piece(token) != ours.piece(token)), None)


def _write_alike(ours: Tokenizer, theirs: Tokenizer) -> bool:
    """Whether both templates write the same conversations; they may be worded differently."""
    if ours.template == theirs.template and ours.bos_token == theirs.bos_token:
        return True
    turns = ("user", "assistant", "user")
    written = [(_tried(ours, roles), _tried(theirs, roles)) for roles in (turns, ("system", *turns))]
    return all(mine == other for mine, other in written) and written[0][0] is not None


def _tried(tokenizer: Tokenizer, roles: Sequence[str]) -> str | None:
    try:
        return _rendered(tokenizer, roles, opened=True)
    except BadInput:  # many templates take no system's word
        return None
