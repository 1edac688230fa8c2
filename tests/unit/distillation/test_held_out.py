"""The measurement against a NumPy reference over whole distributions."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from kdstudio.distillation import held_out
from kdstudio.distillation.batches import Batch
from kdstudio.distillation.held_out import measure, token_pieces
from kdstudio.distillation.targets import SparseTarget
from kdstudio.distillation.teacher_signals import DenseTeacher
from kdstudio.networks.gguf_weights import load_gguf
from kdstudio.networks.network import assemble
from tests.golden import reference_divergences as reference
from tests.tiny import tiny_model
from tests.unit.distillation.setting import training_rows

CPU = torch.device("cpu")
ROWS = training_rows(10, held_out=4)


def dense() -> DenseTeacher:
    path = tiny_model(layers=4)
    return DenseTeacher(assemble(*load_gguf(path), path.name), ROWS, CPU, nullcontext)


class Everything:
    """The dense teacher's whole distribution as a sparse signal with k = V."""

    kind = "stored"

    def target(self, batch: Batch) -> SparseTarget:
        log_probs, ids = dense().target(batch).logits().log_softmax(-1).sort(descending=True)
        return SparseTarget(ids, log_probs, torch.full((len(ids),), -torch.inf), log_probs[:, 0])


def test_it_equals_the_reference() -> None:
    path, teacher_path = tiny_model(layers=2), tiny_model(layers=4)
    student, teacher = (assemble(*load_gguf(each), each.name) for each in (path, teacher_path))
    found = measure(student, ROWS, dense(), CPU, nullcontext)
    kl, nll, agreed = [], [], []
    for row in ROWS.held_out:
        example = ROWS.examples[row]
        ids = torch.tensor([[*example.prompt_ids.tolist(), *example.response_ids.tolist()]])
        with torch.no_grad():
            pair = [net(ids).logits[0, len(example.prompt_ids) - 1 : -1].double().numpy() for net in (student, teacher)]
        kl.append(reference.dense("forward_kl", pair[0], pair[1]))
        nll.append(reference.cross_entropy(pair[0], example.response_ids.astype(np.int64)))
        agreed.append(pair[0].argmax(1) == pair[1].argmax(1))
    assert found.forward_kl == pytest.approx(np.concatenate(kl).mean(), rel=1e-4)
    assert found.nll == pytest.approx(np.concatenate(nll).mean(), rel=1e-4)
    assert found.top1_agreement == np.concatenate(agreed).mean()
    assert not student.training


def test_a_stored_signal_of_everything_measures_the_same() -> None:
    path = tiny_model(layers=2)
    student = assemble(*load_gguf(path), path.name)
    one = measure(student, ROWS, dense(), CPU, nullcontext)
    other = measure(student, ROWS, Everything(), CPU, nullcontext)  # type: ignore[arg-type]
    assert other.forward_kl == pytest.approx(one.forward_kl, rel=1e-4)
    assert other.top1_agreement == one.top1_agreement


def test_the_teacher_agrees_with_itself() -> None:
    path = tiny_model(layers=4)
    found = measure(assemble(*load_gguf(path), path.name), ROWS, dense(), CPU, nullcontext)
    assert found.forward_kl == pytest.approx(0, abs=1e-6)
    assert found.top1_agreement == 1


def test_without_a_teacher_only_the_likelihood_is_known() -> None:
    path = tiny_model(layers=2)
    found = measure(assemble(*load_gguf(path), path.name), ROWS, None, CPU, nullcontext)
    assert set(found.values()) == {"held_out_nll"}


def test_remembered_rows_equal_rows_run_along(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered, along = dense(), dense()
    counted: list[int] = []

    def going_on(done: int, total: int) -> bool:
        counted.append(done)
        return total == 4

    remembered.remember(list(ROWS.held_out), going_on=going_on)
    assert counted == [4]
    remembered.forget_body()
    batch = ROWS.batch(list(ROWS.held_out), CPU)
    torch.testing.assert_close(remembered.target(batch).logits(), along.target(batch).logits(), atol=1e-5, rtol=1e-5)


def test_pieces_cover_all_tokens_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "HEAD_ELEMENTS", 1000)
    pieces = list(token_pieces(25, 100))
    assert [(piece.start, piece.stop) for piece in pieces] == [(0, 10), (10, 20), (20, 25)]
    assert [(piece.start, piece.stop) for piece in token_pieces(2, 5000)] == [(0, 1), (1, 2)]
