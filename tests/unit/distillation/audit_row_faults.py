"""Faults of rows and tokens as they happen, each seeded into a sound pair: the loss would mostly fall all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from kdstudio.distillation import rows as rows_module
from kdstudio.distillation.audit import Audited
from kdstudio.distillation.batches import Batch, collate
from kdstudio.distillation.examples import Example, encode_rows
from kdstudio.models.conversation import Tokenizer
from kdstudio.students.save import open_tokenizer
from tests.tiny import tiny_model, vocabulary
from tests.unit.distillation.audit_setting import (
    Patch,
    Reworded,
    lessons,
    pair,
    plain,
    rows_of,
    schooled_network,
    seeded,
    stored,
    student,
    tokenizer,
)
from tests.unit.distillation.setting import source_rows

MASK, SHIFTED = "The mask does not cover the response", "Positions and labels are shifted"


# ----------------------------------------------------------------------------------------------------- places and masks
def collated(patch: Patch, change: Callable[[Batch], Batch]) -> Audited:
    """Every batch is put together wrongly."""
    patch.setattr(rows_module, "collate", lambda *given: change(collate(*given)))
    return pair(rows_of(lessons()["lengths"], 0, share_prefix=False))


@seeded("fault", SHIFTED)
def the_places_are_shifted(tmp: Path, patch: Patch) -> Audited:
    return collated(patch, lambda batch: replace(batch, where=batch.where - 1))


@seeded("fault", SHIFTED)
def the_labels_are_shifted(tmp: Path, patch: Patch) -> Audited:
    return collated(patch, lambda batch: replace(batch, labels=batch.labels.roll(-1)))


@seeded("fault", "Padding changes what the student computes")
def the_padding_is_on_the_left(tmp: Path, patch: Patch) -> Audited:
    def padded(batch: Batch) -> Batch:
        gaps = torch.tensor([batch.input_ids.shape[1] - (example.tokens - 1) for example in batch.examples])
        ids = torch.stack([row.roll(int(gap)) for row, gap in zip(batch.input_ids, gaps, strict=True)])
        return replace(batch, input_ids=ids, where=batch.where + gaps[batch.owner])

    return collated(patch, padded)


@seeded("fault", "A row is read behind another row's beginning")
def the_shared_beginning_is_not_every_row_s(tmp: Path, patch: Patch) -> Audited:
    rows = rows_of(plain())
    longer = rows.examples[0].prompt_ids[: len(rows.prefix) + 1].astype(np.int64)
    return pair(replace(rows, prefix=torch.from_numpy(longer)))


@seeded("fault", "A row has nothing to learn")
def a_row_is_masked_whole(tmp: Path, patch: Patch) -> Audited:
    first, *others = plain()
    return pair(rows_of([*others, replace(first, response_ids=first.response_ids[:0])]))


def mask_moved(by: int, chosen: tuple[Example, ...]) -> Audited:
    """The mask begins `by` tokens late."""
    moved = []
    for example in chosen:
        ids, cut = np.concatenate([example.prompt_ids, example.response_ids]), len(example.prompt_ids) + by
        moved.append(replace(example, prompt_ids=ids[:cut], response_ids=ids[cut:]))
    return pair(rows_of(moved))


@seeded("fault", MASK)
def the_mask_covers_the_end_of_the_prompt(tmp: Path, patch: Patch) -> Audited:
    return mask_moved(-4, plain())


@seeded("fault", MASK)
def the_mask_begins_a_token_early(tmp: Path, patch: Patch) -> Audited:
    return mask_moved(-1, plain())


@seeded("fault", MASK)
def the_mask_begins_a_token_early_before_thoughts(tmp: Path, patch: Patch) -> Audited:
    return mask_moved(-1, lessons()["thoughts"])


@seeded("fault", MASK)
def the_mask_begins_a_token_late(tmp: Path, patch: Patch) -> Audited:
    return mask_moved(1, plain())


@seeded("fault", MASK)
def a_response_does_not_end(tmp: Path, patch: Patch) -> Audited:
    first, *others = plain()
    return pair(rows_of([*others, replace(first, response_ids=first.response_ids[:-1])], 0))


@seeded("fault", MASK)
def the_next_turn_is_learnt_too(tmp: Path, patch: Patch) -> Audited:
    further = np.asarray(tokenizer().encode("\n<|im_start|>user\nand<|im_end|>", special=True), np.int32)
    return pair(rows_of([replace(one, response_ids=np.append(one.response_ids, further)) for one in plain()]))


@seeded("fault", "The rows are of another tokenizer")
def rows_are_of_another_tokenizer(tmp: Path, patch: Patch) -> Audited:
    return pair(rows_of(encode_rows(open_tokenizer(tiny_model(merges=40)), source_rows(8), 512)[0]))


@seeded("fault", "The rows are of another tokenizer")
def rows_are_of_another_vocabulary(tmp: Path, patch: Patch) -> Audited:
    places = permuted()
    moved = [replace(one, response_ids=np.asarray([places[token] for token in one.response_ids])) for one in plain()]
    return pair(rows_of(moved))


@seeded("warning", "The prompts are not in the student's template")
def rows_are_of_another_template(tmp: Path, patch: Patch) -> Audited:
    return pair(rows_of(encode_rows(open_tokenizer(tiny_model(template=None)), source_rows(8), 512)[0]))


@seeded("warning", "The held-out measure is not of unseen prompts")
def a_held_out_prompt_is_trained_on(tmp: Path, patch: Patch) -> Audited:
    return pair(rows_of([*plain(), replace(plain()[0], prompt_id=99)]))


# ------------------------------------------------------------------------------------------------ the two sides' tokens
@seeded("fault", "Teacher and student have vocabularies of different size")
def the_teacher_lacks_a_token_of_the_student_s(tmp: Path, patch: Patch) -> Audited:
    made = schooled_network()
    made.resize_token_embeddings(made.config.vocab_size - 1)
    return pair(teacher=made)


@seeded("fault", "A token has no place in the student")
def a_token_is_beyond_the_student_s_head(tmp: Path, patch: Patch) -> Audited:
    return pair(student=student(tiny_model(merges=20)))


@seeded("fault", "The stored signals are of another vocabulary")
def stored_tokens_are_beyond_the_student_s_head(tmp: Path, patch: Patch) -> Audited:
    return stored(tmp, change=lambda signal: replace(signal, ids=signal.ids + np.uint32(1000)))


def permuted() -> list[int]:
    """The ids in disorder, but for those of control tokens."""
    size = len(vocabulary(160))
    return [0, 1, 2, *(np.random.default_rng(1).permutation(size - 3) + 3).tolist()]


@seeded("fault", "Teacher and student number tokens differently")
def the_teacher_s_tokens_are_permuted(tmp: Path, patch: Patch) -> Audited:
    places, base = permuted(), tokenizer()
    said = {"fingerprint": "another", "piece": lambda token: base.piece(places[token])}
    return pair(teacher_tokenizer=cast("Tokenizer", Reworded(base, **said)))


@seeded("warning", "The teacher does not know these rows")
def the_teacher_s_weights_are_permuted(tmp: Path, patch: Patch) -> Audited:
    teacher, places = schooled_network(), torch.tensor(permuted())
    for module in ("model.embed_tokens", "lm_head"):
        weight = cast("nn.Parameter", teacher.get_submodule(module).weight)
        weight.data = weight.data[places]
    return pair(teacher=teacher)


@seeded("fault", "Special tokens do not agree")
def the_teacher_ends_its_turns_otherwise(tmp: Path, patch: Patch) -> Audited:
    other = Reworded(tokenizer(), eos_id=0, end_ids=frozenset({0}), eos_token="<|endoftext|>")
    return pair(teacher_tokenizer=cast("Tokenizer", other))


@seeded("warning", "Their chat templates differ")
def the_teacher_writes_another_template(tmp: Path, patch: Patch) -> Audited:
    return pair(teacher_tokenizer=open_tokenizer(tiny_model(template=None)))
