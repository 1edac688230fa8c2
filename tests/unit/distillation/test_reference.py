"""The student as it began: its log-probs stay what they were while the student moves."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kdstudio.catalogue.training import StudentTable
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.reference import Reference
from kdstudio.errors import BugError, Stopped
from kdstudio.students.build import Student, build
from tests.tiny import tiny_model
from tests.unit.distillation.setting import training_rows, whole_batch

CPU = torch.device("cpu")
ROWS = training_rows(10)
ADAPTERS = {"adapter": "lora", "lora_rank": 2, "lora_dropout": 0.5}


def made(**table: object) -> tuple[Student, Reference]:
    student = build(StudentTable.model_validate({"layer_count": 2, **table}), tiny_model(layers=4), seed=0)
    student.model.train()
    return student, Reference(student, ROWS, CPU, contextlib.nullcontext)


def moved(student: Student) -> None:
    """Weights that learnt something."""
    with torch.no_grad():
        for parameter in student.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05)


def plain(student: Student, batch: Batch) -> Tensor:
    """Row by row, without padding, prefix or kernel."""
    parts = []
    student.model.train(False)
    for example in batch.examples:
        ids = torch.tensor([[*example.prompt_ids.tolist(), *example.response_ids.tolist()]])
        with torch.no_grad():
            logits = student.model(ids).logits[0, len(example.prompt_ids) - 1 : -1]
        labels = torch.from_numpy(example.response_ids).long()
        parts.append(logits.log_softmax(-1).gather(1, labels.unsqueeze(1)).squeeze(1))
    student.model.train()
    return torch.cat(parts)


def always(done: int, total: int) -> bool:
    return done <= total


@pytest.mark.parametrize("table", [{}, ADAPTERS], ids=["all weights", "adapters"])
def test_it_says_what_the_student_said_before_it_moved(table: dict[str, object]) -> None:
    student, reference = made(**table)
    batch = whole_batch(ROWS, range(5))
    before = plain(student, batch)
    moved(student)
    torch.testing.assert_close(reference.log_probs(batch), before, atol=1e-4, rtol=1e-4)
    assert (plain(student, batch) - before).abs().max() > 1e-2
    assert student.model.training
    assert not reference.log_probs(batch).requires_grad


def test_under_adapters_nothing_is_copied() -> None:
    student, reference = made(**ADAPTERS)
    with reference.network() as network:
        assert network is student.model
    student, reference = made()
    with reference.network() as network:
        assert network is not student.model
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_what_is_remembered_needs_no_network_and_is_the_same_in_any_batch() -> None:
    student, reference = made()
    counted: list[tuple[int, int]] = []

    def going_on(done: int, total: int) -> bool:
        counted.append((done, total))
        return True

    asked = reference.log_probs(whole_batch(ROWS, range(6)))
    reference.remember(list(ROWS.training), going_on=going_on)
    assert counted == [(6, 6)]
    moved(student)
    reference.forget()
    torch.testing.assert_close(reference.log_probs(whole_batch(ROWS, range(6))), asked, atol=1e-5, rtol=1e-5)
    together = reference.log_probs(whole_batch(ROWS, range(2, 5)))
    alone = [reference.log_probs(whole_batch(ROWS, range(row, row + 1))) for row in range(2, 5)]
    assert torch.equal(together, torch.cat(alone))
    with pytest.raises(BugError, match="was freed"):
        reference.log_probs(whole_batch(ROWS, range(5, 8)))


def test_an_answer_of_the_students_own_is_never_taken_for_a_stored_row() -> None:
    _, reference = made()
    reference.remember(list(ROWS.training), going_on=always)
    stored = whole_batch(ROWS, range(2))
    own = replace(stored, rows=(-1, -1), labels=stored.labels.flip(0))
    assert not torch.equal(reference.log_probs(own), reference.log_probs(stored))


def test_a_stop_is_heard_while_it_reads() -> None:
    _, reference = made()
    with pytest.raises(Stopped, match="still reading"):
        reference.remember(list(ROWS.training), going_on=lambda done, total: done < total)
