"""A GGUF teacher's signals are those of its weights in torch, and of llama-cpp-python where that is right."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.llama import LlamaTeacher
from tests.benchmarks.agreement import compare, label_distance, own_answers
from tests.tiny import tiny_model


@pytest.mark.parametrize("options", [{}, {"architecture": "qwen2"}, {"architecture": "qwen3", "tied": True}])
def test_signals_equal_those_of_torch(options: dict[str, Any]) -> None:
    path = tiny_model(layers=2, dtype="F16", **options)
    rng = random.Random(1)
    pairs = [([rng.randrange(3, 414) for _ in range(9)], [rng.randrange(3, 414) for _ in range(60)]) for _ in range(12)]
    found = compare(path, pairs, threads=1)
    assert found.tokens == 720
    assert np.concatenate(found.divergence).mean() <= 1e-3
    assert np.concatenate(found.same_best).mean() >= 0.995
    exact = compare(path, pairs, threads=1, precise=True)
    assert np.concatenate(exact.divergence).mean() <= 1e-5
    assert np.concatenate(exact.divergence).mean() > -1e-9


def test_labels_equal_those_of_create_completion() -> None:
    path = tiny_model(layers=2)
    texts = ["the lonely king of the hidden mountain", "1 + 1 = 2, said the river."]
    assert label_distance(path, texts, type_k=0, type_v=0) <= 1e-4
    assert label_distance(path, texts) <= 0.05


def test_own_answers_are_whole_rows() -> None:
    teacher = LlamaTeacher(TeacherSpec("tiny", "gguf", str(tiny_model(layers=2)), options={"threads": 1}))
    pairs = own_answers(teacher, 300)
    teacher.close()
    assert 300 <= sum(len(response) for _, response in pairs) < 700
    assert all(prompt and response[-1] in teacher.tokenizer.end_ids for prompt, response in pairs)
