"""Signals equal a float64 log-softmax of the logits that llama.cpp gives for one text alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import numpy.typing as npt
import pytest

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import llama as llama_module
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.signals import SparseSignal
from tests.tiny import tiny_model

Pair = tuple[list[int], list[int]]
PATH_OPTIONS = {"layers": 2, "context": 2048}


@pytest.fixture(scope="module")
def teacher() -> Iterator[LlamaTeacher]:
    options = {"threads": 1, "precise": True}
    opened = LlamaTeacher(TeacherSpec("t", "gguf", str(tiny_model(**PATH_OPTIONS)), options=options))
    yield opened
    opened.close()


class OneByOne:
    """The reference: llama-cpp-python's own class, one token list after another, every logit kept."""

    def __init__(self, path: Path) -> None:
        self.model = llama_cpp.Llama(
            str(path), n_ctx=2048, n_batch=2048, logits_all=True, n_threads=1, type_k=0, type_v=0, verbose=False
        )

    def log_probs(self, pair: Pair) -> npt.NDArray[np.float64]:
        prompt, response = pair
        self.model.n_tokens = 0
        self.model.eval([*prompt, *response])
        first = len(prompt) - 1
        logits = np.array(self.model.scores[first : first + len(response)], np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return found


@pytest.fixture(scope="module")
def reference() -> Iterator[OneByOne]:
    one = OneByOne(tiny_model(**PATH_OPTIONS))
    yield one
    one.model.close()


def check(signal: SparseSignal, pair: Pair, reference: OneByOne, top_k: int, within: float = 1e-4) -> None:
    expected = reference.log_probs(pair)
    rows = np.arange(len(pair[1]))
    assert signal.ids.shape == (len(pair[1]), top_k)
    assert np.allclose(signal.log_probs, expected[rows[:, None], signal.ids], atol=within)
    assert np.allclose(signal.label_log_prob, expected[rows, pair[1]], atol=within)
    best = -np.sort(-expected, axis=1)
    assert np.allclose(signal.log_probs, best[:, :top_k], atol=within)
    tail = np.log(np.exp(best[:, top_k:]).sum(axis=1))
    assert np.allclose(signal.tail_log_prob, tail, atol=within)
    assert np.allclose(signal.captured_mass + np.exp(signal.tail_log_prob.astype(np.float64)), 1, atol=1e-5)


def random_pairs(count: int, longest: int, seed: int = 1) -> list[Pair]:
    rng = random.Random(seed)
    shared = [rng.randrange(3, 414) for _ in range(20)]
    pairs = []
    for _ in range(count):
        prompt = shared[: rng.choice([0, 10, 20])] + [rng.randrange(3, 414) for _ in range(rng.randint(1, longest))]
        pairs.append((prompt, [rng.randrange(3, 414) for _ in range(rng.randint(1, longest))]))
    return pairs


@pytest.mark.parametrize("top_k", [1, 50])
def test_signals_equal_single_decodes(teacher: LlamaTeacher, reference: OneByOne, top_k: int) -> None:
    pairs = random_pairs(12, 30)
    found = dict(teacher.score(pairs, top_k))
    assert sorted(found) == list(range(12))
    for index, pair in enumerate(pairs):
        check(found[index], pair, reference, top_k)


def test_the_faster_16_bit_way_differs_by_rounding(reference: OneByOne) -> None:
    opened = LlamaTeacher(TeacherSpec("t", "gguf", str(tiny_model(**PATH_OPTIONS)), options={"threads": 1}))
    pairs = random_pairs(12, 30)
    for index, signal in opened.score(pairs, 50):
        check(signal, pairs[index], reference, 50, within=0.03)
    opened.close()


def test_rows_longer_than_a_batch_and_a_small_output_limit(
    teacher: LlamaTeacher, reference: OneByOne, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_module, "_OUTPUT_BYTES", 4 * 414 * 70)  # 70 outputs in one decode
    pairs = [*random_pairs(5, 20, seed=2), *random_pairs(1, 700, seed=3), ([5] * 800, [6] * 300), ([7], [8] * 600)]
    found = dict(teacher.score(pairs, 20))
    for index, pair in enumerate(pairs):
        check(found[index], pair, reference, 20)


def test_many_samples_of_one_prompt(teacher: LlamaTeacher, reference: OneByOne) -> None:
    rng = random.Random(5)
    prompts = [[rng.randrange(3, 414) for _ in range(60)] for _ in range(3)]
    pairs = [(prompt, [rng.randrange(3, 414) for _ in range(9)]) for prompt in prompts for _ in range(30)]
    rng.shuffle(pairs)
    found = dict(teacher.score(pairs, 10))
    for index in rng.sample(range(len(pairs)), 10):
        check(found[index], pairs[index], reference, 10)


def test_all_of_the_vocabulary_leaves_no_tail(teacher: LlamaTeacher) -> None:
    ((_, signal),) = teacher.score([([5, 6, 7], [8, 9])], 5000)
    assert signal.ids.shape == (2, 414)
    assert np.isneginf(signal.tail_log_prob).all()
    assert np.allclose(signal.captured_mass, 1)


def test_answers_and_signals_take_turns(teacher: LlamaTeacher, reference: OneByOne) -> None:
    from tests.unit.teachers.test_llama import answers, ask

    requests = [ask("a", "two robots"), ask("b", "hello")]
    before = answers(teacher, requests)
    pairs = random_pairs(3, 10, seed=8)
    for index, signal in teacher.score(pairs, 5):
        check(signal, pairs[index], reference, 5)
    assert answers(teacher, requests) == before


def test_rows_that_cannot_be_scored_are_said(teacher: LlamaTeacher) -> None:
    assert list(teacher.score([], 5)) == []
    with pytest.raises(KnownError, match="2,049 tokens; the teacher reads 2,048"):
        list(teacher.score([([1], [2] * 2048)], 5))
    with pytest.raises(KnownError, match="cannot be scored"):
        list(teacher.score([([], [2])], 5))


def test_stopping_early_keeps_what_is_done(teacher: LlamaTeacher) -> None:
    seen: list[int] = []
    pairs = random_pairs(200, 20, seed=9)
    for index, _ in teacher.score(pairs, 5, stop=lambda: len(seen) > 10):
        seen.append(index)
    assert 10 < len(seen) < 200
