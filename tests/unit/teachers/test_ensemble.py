"""The ensemble is the weighted mean of whole distributions, by a float64 reference, whoever its teachers are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.gguf_header import fingerprint
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import ensemble
from kdstudio.teachers.base import Request
from kdstudio.teachers.ensemble import EnsembleTeacher, mixture_fingerprint, open_signal_teacher, shares_of
from kdstudio.teachers.llama_scoring import Pair
from kdstudio.teachers.opening import open_teacher
from tests.golden import reference_divergences as reference
from tests.tiny import tiny_model

Wide = npt.NDArray[np.float64]
WEIGHTS = (0.7, 0.3)


def spec(seed: int, kind: Any = "gguf", **options: Any) -> TeacherSpec:
    path = tiny_model(layers=2, seed=seed, **options)
    return TeacherSpec(f"tiny {seed}", kind, str(path), options={"threads": 1})


@pytest.fixture(scope="module")
def mixture() -> Iterator[EnsembleTeacher]:
    opened = EnsembleTeacher([spec(0), spec(1)], WEIGHTS, {})
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def pairs(mixture: EnsembleTeacher) -> list[Pair]:
    found: list[Pair] = []
    for number in range(6):
        messages = [{"role": "user", "content": f"robot {number}"}]
        row = encode_conversation(mixture.tokenizer, messages, "the little robot said hello " * (1 + number))
        found.append((row.prompt_ids, row.response_ids))
    return found


def exact(one: TeacherSpec, pairs: list[Pair]) -> list[Wide]:
    """Each row's log-probs [n, V] by one teacher alone, in float64."""
    teacher = open_teacher(one, {})
    assert isinstance(teacher, ensemble.ReadsWhole)
    rows = dict(teacher.read(pairs, lambda logits, *_: np.log(reference.softmax(logits.astype(np.float64)))))
    teacher.close()
    return [np.concatenate(rows[index]) for index in range(len(pairs))]


@pytest.mark.parametrize("kinds", [("gguf", "gguf"), ("gguf", "huggingface")])
def test_it_is_the_mean_of_probabilities(kinds: tuple[str, str], pairs: list[Pair]) -> None:
    specs = [spec(seed, kind) for seed, kind in enumerate(kinds)]
    alone = [exact(one, pairs) for one in specs]
    teacher = EnsembleTeacher(specs, WEIGHTS, {})
    for index, signal in teacher.score(pairs, 12):
        expected = reference.ensemble([one[index] for one in alone], list(WEIGHTS))
        order = np.argsort(-expected, axis=1, kind="stable")[:, :12]
        assert np.array_equal(signal.ids, order)
        likeliest = np.take_along_axis(expected, order, axis=1)
        np.testing.assert_allclose(signal.log_probs, likeliest, atol=2e-5)
        rest = np.exp(expected).sum(axis=1) - np.exp(likeliest).sum(axis=1)
        np.testing.assert_allclose(signal.tail_log_prob, np.log(rest), atol=2e-4)
        labels = np.asarray(pairs[index][1])
        np.testing.assert_allclose(signal.label_log_prob, expected[np.arange(len(labels)), labels], atol=2e-5)
    teacher.close()


def test_the_mean_of_one_distribution_with_itself_is_that_distribution(pairs: list[Pair]) -> None:
    twice = EnsembleTeacher([spec(0), spec(0)], [5, 1], {})
    alone = open_teacher(spec(0), {})
    once = dict(alone.score(pairs, 20))
    for index, signal in twice.score(pairs, 20):
        assert np.array_equal(signal.ids, once[index].ids)
        np.testing.assert_allclose(signal.log_probs, once[index].log_probs, atol=1e-5)
    twice.close()
    alone.close()


def test_small_portions_and_pieces_of_rows_change_nothing(
    mixture: EnsembleTeacher, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dict(mixture.score(pairs, 12))
    for tokens in (3, 10):
        monkeypatch.setattr(ensemble, "MIXTURE_BYTES", tokens * 4 * 414)
        pieces = dict(mixture.score(pairs, 12))
        assert sorted(pieces) == sorted(whole)
        for index, signal in pieces.items():
            np.testing.assert_allclose(signal.label_log_prob, whole[index].label_log_prob, rtol=3e-3)
            assert len(signal) == len(pairs[index][1])


def test_the_place_in_the_response_reaches_the_reduction(
    mixture: EnsembleTeacher, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensemble, "MIXTURE_BYTES", 7 * 4 * 414)
    for index, parts in mixture.read(pairs, lambda logits, labels, index, first: (index, first, labels.tolist())):
        assert {number for number, _, _ in parts} == {index}
        assert [first for _, first, _ in parts] == list(range(0, len(pairs[index][1]), 7))
        assert [label for _, _, labels in parts for label in labels] == list(pairs[index][1])


def test_a_stop_ends_it_and_nothing_is_nothing(mixture: EnsembleTeacher, pairs: list[Pair]) -> None:
    assert list(mixture.score(pairs, 5, stop=lambda: True)) == []
    assert list(mixture.score([], 5)) == []


def test_its_fingerprint_names_the_mixture(mixture: EnsembleTeacher) -> None:
    files = [fingerprint(Path(spec(seed).path)) for seed in (0, 1)]
    ours = mixture.capabilities.fingerprint
    assert ours == mixture_fingerprint(files, [7, 3])
    assert ours == mixture_fingerprint(files[::-1], [3, 7])
    assert ours not in (mixture_fingerprint(files, [3, 7]), mixture_fingerprint(files, [1, 1]), *files)
    assert (mixture.capabilities.vocabulary_size, mixture.capabilities.context_tokens) == (414, 512)
    assert mixture.capabilities.terms == "apache-2.0"
    assert not mixture.capabilities.generate
    with pytest.raises(KnownError, match="does not answer"):
        list(mixture.generate([Request("a", ({"role": "user", "content": "hello"},))]))


def test_a_single_teacher_is_itself() -> None:
    for parameters in ({"teacher": vars(spec(0))}, {"teachers": [vars(spec(0))], "weights": [2]}):
        teacher = open_signal_teacher(parameters, {})
        assert teacher.capabilities.fingerprint == fingerprint(Path(spec(0).path))
        teacher.close()
    mixture = open_signal_teacher({"teachers": [vars(spec(0)), vars(spec(1))]}, {})
    assert isinstance(mixture, EnsembleTeacher)
    assert mixture.shares == [0.5, 0.5]
    mixture.close()


def test_what_cannot_be_weighed() -> None:
    with pytest.raises(BadInput, match="different vocabularies") as found:
        EnsembleTeacher([spec(0), spec(0, merges=100)], WEIGHTS, {})
    assert "tiny 0 has 414 tokens" in found.value.detail
    with pytest.raises(BadInput, match="shows no distributions"):
        EnsembleTeacher([spec(0), TeacherSpec("s", "scripted", options={"script": {}})], WEIGHTS, {})
    weights: list[list[float]] = [[1], [1, 0], [1, -1], [1, float("nan")], []]
    for wrong in weights:
        with pytest.raises(BadInput, match="no mean"):
            shares_of(2, wrong)
