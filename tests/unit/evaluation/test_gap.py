"""The gap against formulas written out in numpy, and both kinds of logits against transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from kdstudio.errors import BadInput, KnownError
from kdstudio.evaluation.gap import GapMeter, likelihood, measure
from kdstudio.evaluation.logits import CHUNK, LlamaLogits, Logits, blocks
from kdstudio.evaluation.torch_logits import TorchLogits
from tests.tiny import tiny_gguf, tiny_model
from tests.unit.export.student_folders import load_with_transformers

ROW = ([1, 40, 50, 60], list(range(100, 140)))


class Given:
    """A source of logits that were made up: [positions, V] for each row, in order."""

    def __init__(self, rows: list[Logits]) -> None:
        self.vocabulary_size = rows[0].shape[1]
        self._rows = iter(rows)

    def at(self, prompt: Sequence[int], response: Sequence[int]) -> Iterator[Logits]:
        row = next(self._rows)
        for first, last in blocks(prompt, response):
            yield row[first:last]

    def close(self) -> None:
        return None


def log_softmax(logits: Logits) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    wide = logits.astype(np.float64)
    shifted = wide - wide.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def test_figures_equal_the_formulas() -> None:
    rng = np.random.default_rng(0)
    sizes = (3, 300, 7)
    teacher = [rng.normal(0, 3, (size, 50)).astype(np.float32) for size in sizes]
    student = [rng.normal(0, 3, (size, 50)).astype(np.float32) for size in sizes]
    labels = [rng.integers(0, 50, size).tolist() for size in sizes]
    pairs = [([1], label) for label in labels]
    meter = measure(Given(teacher), Given(student), pairs)
    gap = meter.result()
    p, q = log_softmax(np.concatenate(teacher)), log_softmax(np.concatenate(student))
    chosen = np.concatenate(labels)
    forward = (np.exp(p) * (p - q)).sum(axis=1)
    assert gap.forward_kl == pytest.approx(forward.mean(), rel=1e-5)
    assert gap.reverse_kl == pytest.approx((np.exp(q) * (q - p)).sum(axis=1).mean(), rel=1e-5)
    assert gap.top1_agreement == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    assert gap.teacher_nll == pytest.approx(-p[np.arange(310), chosen].mean(), rel=1e-5)
    assert gap.student_nll == pytest.approx(-q[np.arange(310), chosen].mean(), rel=1e-5)
    assert (gap.positions, gap.rows) == (310, 3)
    assert meter.largest_kl == pytest.approx(forward.max(), rel=1e-4)


def test_worked_value() -> None:
    # p = (1/2, 1/2), q = (3/4, 1/4): KL(p||q) = ln(2/sqrt(3)), KL(q||p) = 3/4 ln 3 - ln 2
    p, q = np.log(np.array([[0.5, 0.5]], np.float32)), np.log(np.array([[0.75, 0.25]], np.float32))
    gap = measure(Given([p]), Given([q]), [([0], [0])]).result()
    assert gap.forward_kl == pytest.approx(np.log(2 / np.sqrt(3)), rel=1e-5)
    assert gap.reverse_kl == pytest.approx(0.75 * np.log(3) - np.log(2), rel=1e-5)
    assert gap.teacher_nll == pytest.approx(np.log(2), rel=1e-5)
    assert gap.student_nll == pytest.approx(-np.log(0.75), rel=1e-5)
    assert gap.top1_agreement == 1.0


def test_a_model_has_no_gap_to_itself() -> None:
    logits = np.random.default_rng(1).normal(0, 5, (20, 400)).astype(np.float32)
    gap = measure(Given([logits]), Given([logits]), [([0], [3] * 20)]).result()
    assert gap.forward_kl == gap.reverse_kl == 0.0
    assert gap.top1_agreement == 1.0


def test_padding_rows_of_an_embedding_do_not_count() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (5, 30)).astype(np.float32)
    padded = np.concatenate([logits, np.full((5, 10), 9.0, np.float32)], axis=1)
    assert measure(Given([padded]), Given([logits]), [([0], [1] * 5)]).result().forward_kl == 0.0


def test_positions_end_at_the_limit() -> None:
    rows = [np.zeros((size, 4), np.float32) for size in (300, 300)]
    meter = measure(Given(rows), Given(rows), [([0], [1] * 300), ([0], [1] * 300)], maximum_positions=310)
    assert (meter.positions, meter.rows) == (310, 2)


def test_nothing_compared_is_said() -> None:
    with pytest.raises(KnownError, match="Nothing to compare"):
        GapMeter().result()
    with pytest.raises(KnownError, match="Nothing to compare"):
        likelihood(Given([np.zeros((1, 4), np.float32)]), [])


def test_different_vocabularies_are_refused() -> None:
    first, second = np.zeros((1, 2000), np.float32), np.zeros((1, 100), np.float32)
    with pytest.raises(KnownError, match="different tokens"):
        measure(Given([first]), Given([second]), [([0], [1])])


def test_a_stop_ends_between_rows() -> None:
    rows = [np.zeros((2, 4), np.float32)] * 3
    seen: list[int] = []
    meter = measure(
        Given(rows),
        Given(rows),
        [([0], [1, 2])] * 3,
        continues=lambda: len(seen) < 2,
        progress=lambda done, _: seen.append(done),
    )
    assert meter.rows == 2


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_llama_cpp_gives_the_logits_of_transformers(tmp_path: Path, architecture: str) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", architecture=architecture, layers=2)
    source = LlamaLogits(path, context_tokens=600, threads=1)
    model = load_with_transformers(path)
    long = ([1, *range(3, 300)], [int(token) for token in np.random.default_rng(3).integers(3, 380, 280)])
    for prompt, response in (ROW, long, ROW):
        ours = np.concatenate([block.copy() for block in source.at(prompt, response)])
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *response]])
            theirs = model(ids).logits[0, len(prompt) - 1 : -1].numpy()
        assert ours.shape == theirs.shape == (len(response), source.vocabulary_size)
        np.testing.assert_allclose(log_softmax(ours), log_softmax(theirs), atol=0.12)  # llama.cpp keeps keys in 16 bits
        assert (ours.argmax(1) == theirs.argmax(1)).mean() >= 0.99
    source.close()


def test_shared_beginnings_are_read_once_and_change_nothing() -> None:
    prompt = list(range(3, 60))
    rows = [(prompt, [100, 101, 102]), (prompt, [200, 201]), (prompt[:20], [7, 8]), (prompt, [100, 101, 102])]
    source = LlamaLogits(tiny_model(), context_tokens=128, threads=1)
    together = [np.concatenate([block.copy() for block in source.at(*row)]) for row in rows]
    source.close()
    for row, logits in zip(rows, together, strict=True):
        alone = LlamaLogits(tiny_model(), context_tokens=128, threads=1)
        expected = np.concatenate([block.copy() for block in alone.at(*row)])
        alone.close()
        np.testing.assert_allclose(logits, expected, atol=0.05)


@pytest.mark.parametrize(("prompt", "response"), [(1, 1), (1, CHUNK), (2, CHUNK + 1), (CHUNK, 3), (CHUNK + 1, CHUNK)])
def test_blocks_of_every_size(prompt: int, response: int) -> None:
    source = LlamaLogits(tiny_model(), context_tokens=2 * CHUNK + 8, threads=1)
    shapes = [block.shape[0] for block in source.at([5] * prompt, [6] * response)]
    source.close()
    assert sum(shapes) == response
    assert max(shapes) <= CHUNK


def test_a_row_longer_than_the_context_is_said() -> None:
    source = LlamaLogits(tiny_model(), context_tokens=10, threads=1)
    with pytest.raises(KnownError, match="longer than the model's context"):
        list(source.at([5] * 400, [6] * 3))
    with pytest.raises(BadInput, match="no prompt"):
        list(source.at([], [6]))
    source.close()
    source.close()


def test_a_student_of_nan_is_said() -> None:
    model = load_with_transformers(tiny_model())
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(KnownError, match="not numbers"):
        list(TorchLogits(model).at(*ROW))


def test_hidden_states_are_remembered_up_to_a_limit() -> None:
    model = load_with_transformers(tiny_model())
    calls: list[int] = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    remembering, forgetful = TorchLogits(model), TorchLogits(model, remembered=10)
    first = [block.copy() for block in remembering.at(*ROW)]
    again = [block.copy() for block in remembering.at(*ROW)]
    assert len(calls) == 1
    np.testing.assert_array_equal(first[0], again[0])
    list(forgetful.at(*ROW))
    list(forgetful.at(*ROW))
    assert len(calls) == 3


def test_likelihood_alone() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]], np.float32))
    (row,) = likelihood(Given([logits]), [([0], [1, 2])])
    assert row == {"positions": 2, "student_nll": pytest.approx(np.log(4) + np.log(4 / 3), rel=1e-5)}


def test_each_row_keeps_its_own_sums() -> None:
    flat, sure = np.zeros((2, 4), np.float32), np.log(np.array([[0.7, 0.1, 0.1, 0.1]], np.float32))
    meter = measure(Given([flat, sure]), Given([flat, np.zeros((1, 4), np.float32)]), [([0], [1, 2]), ([0], [0])])
    first, second = meter.each_row
    assert first["forward_kl"] == 0.0
    assert first["student_nll"] == pytest.approx(2 * np.log(4))
    kl = 0.7 * np.log(0.7 * 4) + 0.3 * np.log(0.1 * 4)
    assert second["forward_kl"] == pytest.approx(kl, rel=1e-5)
    assert meter.result().forward_kl == pytest.approx(kl / 3, rel=1e-5)
    assert (first["positions"], second["positions"]) == (2, 1)
