"""The transformers teacher: one at a time read as many at once, the same seed as llama.cpp's, signals that agree."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.conversation import encode_conversation
from kdstudio.models.model_folder import stated_license, weights_fingerprint
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, Sampling, Teacher
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.llama_logits import signal_of
from kdstudio.teachers.opening import open_teacher
from kdstudio.teachers.signals import SparseSignal, concatenate
from kdstudio.teachers.transformers_local import TransformersTeacher
from kdstudio.teachers.transformers_signals import tensor_signal
from tests.tiny import tiny_model
from tests.unit.export.student_folders import folder_from_tiny, random_folder

PROMPTS = ("a brave mouse", "two robots", "what is it?", "hello", "count", "the river", "1+1=", "bye", "größe")
Pair = tuple[list[int], list[int]]


def teacher_of(path: Path, **options: Any) -> TransformersTeacher:
    return TransformersTeacher(TeacherSpec("tiny", "huggingface", str(path), options={"threads": 1, **options}))


@pytest.fixture(scope="module")
def teacher() -> Iterator[TransformersTeacher]:
    opened = teacher_of(tiny_model(layers=2))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def llama() -> Iterator[LlamaTeacher]:
    options = {"threads": 1, "precise": True}  # keys and values in float32, as torch keeps them
    opened = LlamaTeacher(TeacherSpec("tiny", "gguf", str(tiny_model(layers=2)), options=options))
    yield opened
    opened.close()


def ask(key: str, text: str, **sampling: Any) -> Request:
    return Request(key, ({"role": "user", "content": text},), Sampling(**{"max_tokens": 24, **sampling}))


def answers(teacher: Teacher, requests: list[Request]) -> dict[str, Completion]:
    found = {completion.key: completion for completion in teacher.generate(requests)}
    assert len(found) == len(requests)
    return found


def mixed_requests() -> list[Request]:
    shapes: list[dict[str, Any]] = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 1.2, "top_p": 0.8},
    ]
    return [ask(f"{n}", PROMPTS[n % 9], seed=n // 2, **shapes[n % 4]) for n in range(20)]


def pairs_of(teacher: TransformersTeacher | LlamaTeacher, count: int = 8) -> list[Pair]:
    found = []
    for number in range(count):
        messages = [{"role": "user", "content": PROMPTS[number % 9]}]
        text = "the quick little robot said hello to the king " * (1 + number % 4)
        row = encode_conversation(teacher.tokenizer, messages, text)
        found.append((row.prompt_ids, row.response_ids))
    return found


def test_says_what_it_can(teacher: TransformersTeacher, llama: LlamaTeacher) -> None:
    can = teacher.capabilities
    assert can.generate
    assert can.top_k_log_probs
    assert can.full_distributions
    assert can.hidden_states
    assert (can.context_tokens, can.vocabulary_size, can.terms) == (512, 414, "apache-2.0")
    # The same file through either library: the same weights, and one vault for both.
    assert (can.fingerprint, can.tokenizer) == (llama.capabilities.fingerprint, llama.capabilities.tokenizer)
    assert teacher.notes == []


def test_the_same_seed_gives_llama_cpps_text(teacher: TransformersTeacher, llama: LlamaTeacher) -> None:
    ours, theirs = answers(teacher, mixed_requests()), answers(llama, mixed_requests())
    same = [
        (ours[key].text, ours[key].finish_reason, ours[key].tokens)
        == (theirs[key].text, theirs[key].finish_reason, theirs[key].tokens)
        for key in ours
    ]
    assert sum(same) >= 18  # the two libraries round differently: a near tie may fall the other way
    assert len({completion.text for completion in ours.values()}) > 10


def test_any_batch_gives_the_same_answers(teacher: TransformersTeacher) -> None:
    together, requests = answers(teacher, mixed_requests()), mixed_requests()
    for at_once in (1, 7):
        other = teacher_of(tiny_model(layers=2), requests_at_once=at_once)
        assert answers(other, requests) == together
        other.close()


def test_a_full_cache_makes_smaller_batches(teacher: TransformersTeacher, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = answers(teacher, mixed_requests())
    monkeypatch.setattr(teacher._generation, "free_bytes", lambda: 1)
    assert answers(teacher, mixed_requests()) == expected


def test_stop_strings_end_an_answer_and_are_left_out(teacher: TransformersTeacher) -> None:
    whole = answers(teacher, [ask("a", "two robots", seed=3, temperature=1.0)])["a"]
    stop = whole.text[4:7]
    cut = answers(teacher, [ask("a", "two robots", seed=3, temperature=1.0, stop=(stop,))])["a"]
    assert cut.text == whole.text[: whole.text.find(stop)]
    assert cut.finish_reason == "stop"


def test_new_text_is_streamed_and_a_stop_ends_it(teacher: TransformersTeacher) -> None:
    pieces: list[str] = []
    requests = [ask(f"{n}", PROMPTS[n]) for n in range(4)]
    found = list(teacher.generate(requests, on_text=lambda key, piece: pieces.append(piece) if key == "1" else None))
    assert "".join(pieces) == next(item.text for item in found if item.key == "1")
    asked = iter([False] * 4)  # before the batch twice, and before each of two tokens
    stopped = list(teacher.generate(requests, stop=lambda: next(asked, True)))
    assert len(stopped) < 4
    assert all(completion.tokens <= 2 for completion in stopped)


def test_log_probs_are_those_of_the_chosen_tokens(teacher: TransformersTeacher) -> None:
    completion = answers(teacher, [ask("a", "hello", log_probs=5, max_tokens=8)])["a"]
    assert "".join(item.text for item in completion.log_probs) == completion.text
    for item in completion.log_probs:
        assert len(item.alternatives) == 5
        assert item.alternatives[0] == (item.text, item.log_prob)  # greedy: the likeliest one
        assert item.log_prob < 0


def test_a_prompt_that_does_not_fit_is_one_error(teacher: TransformersTeacher) -> None:
    found = answers(teacher, [ask("long", "the robot " * 600), ask("short", "hello")])
    assert found["long"].finish_reason == "error"
    assert "does not fit" in found["long"].error
    assert found["short"].text


def test_signals_agree_with_llama_cpp(llama: LlamaTeacher, teacher: TransformersTeacher) -> None:
    pairs = pairs_of(teacher)
    ours, theirs = dict(teacher.score(pairs, 40)), dict(llama.score(pairs, 40))
    for index in range(len(pairs)):
        assert np.array_equal(ours[index].ids[:, 0], theirs[index].ids[:, 0])
        np.testing.assert_allclose(ours[index].label_log_prob, theirs[index].label_log_prob, atol=1e-3)
        np.testing.assert_allclose(ours[index].tail_log_prob, theirs[index].tail_log_prob, atol=1e-3)


def test_distributions_agree_with_llama_cpps_16_bits() -> None:
    path = tiny_model(layers=2, dtype="F16")
    llama = LlamaTeacher(TeacherSpec("tiny", "gguf", str(path), options={"threads": 1}))
    teacher = teacher_of(path)
    pairs = pairs_of(teacher, 24)
    rows = [{index: np.concatenate(parts) for index, parts in one.read(pairs, _log_probs)} for one in (teacher, llama)]
    ours, theirs = (np.concatenate([one[index] for index in range(len(pairs))]) for one in rows)
    divergence = (np.exp(ours) * (ours - theirs)).sum(axis=1)
    assert len(divergence) > 500
    assert divergence.mean() <= 1e-3
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() >= 0.995
    llama.close()
    teacher.close()


def _log_probs(logits: Any, labels: Any, index: int, first: int) -> Any:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))


def test_a_folder_teaches_as_the_file_it_came_from(tmp_path: Path, llama: LlamaTeacher) -> None:
    folder = folder_from_tiny(tmp_path / "folder")
    teacher = open_teacher(TeacherSpec("folder", "huggingface", str(folder)), {})
    assert isinstance(teacher, TransformersTeacher)
    direct = teacher_of(folder / "source.gguf")
    pairs = pairs_of(teacher, 4)
    for (index, ours), (_, theirs) in zip(
        sorted(teacher.score(pairs, 20)), sorted(direct.score(pairs, 20)), strict=True
    ):
        assert np.array_equal(ours.ids, theirs.ids), index
        np.testing.assert_allclose(ours.log_probs, theirs.log_probs, atol=1e-5)
    teacher.close()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_each_architecture_gives_transformers_own_distribution(tmp_path: Path, kind: str) -> None:
    oracle = random_folder(tmp_path / kind, kind)
    teacher = teacher_of(tmp_path / kind)
    prompt, response = pairs_of(teacher, 1)[0]
    with torch.no_grad():
        logits = oracle(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    (_, parts), *_ = teacher.read([(prompt, response)], _log_probs)
    np.testing.assert_allclose(np.concatenate(parts), logits.numpy(), atol=2e-4)
    assert answers(teacher, [ask("a", "hello", temperature=1.0)])["a"].tokens > 0
    teacher.close()


def test_rows_are_scored_in_any_batch_and_in_blocks(
    teacher: TransformersTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = pairs_of(teacher, 8)
    whole = dict(teacher.score(pairs, 10))
    monkeypatch.setattr("kdstudio.teachers.transformers_signals.BATCH_TOKENS", 1)
    monkeypatch.setattr("kdstudio.teachers.transformers_signals.LOGIT_BYTES", 4 * 414 * 3)
    for index, signal in teacher.score(pairs, 10):
        np.testing.assert_allclose(signal.log_probs, whole[index].log_probs, atol=1e-4)
        assert len(signal) == len(pairs[index][1])
    assert list(teacher.score([], 5)) == []
    assert list(teacher.score(pairs, 5, stop=lambda: True)) == []


def test_the_tensor_signal_is_the_arrays(teacher: TransformersTeacher) -> None:
    random = np.random.default_rng(1)
    logits, labels = random.normal(0, 4, (50, 414)).astype(np.float32), random.integers(0, 414, 50)
    ours, theirs = tensor_signal(torch.from_numpy(logits), labels, 12), signal_of(logits, labels, 12)
    assert np.array_equal(ours.ids, theirs.ids)
    for name in ("log_probs", "tail_log_prob", "label_log_prob"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), atol=1e-5)
    assert isinstance(concatenate([ours, theirs]), SparseSignal)
    with pytest.raises(KnownError, match="no numbers"):
        tensor_signal(torch.full((1, 9), torch.nan), np.array([0]), 3)


def test_rows_that_cannot_be_scored(teacher: TransformersTeacher) -> None:
    with pytest.raises(KnownError, match="does not fit"):
        list(teacher.score([([1] * 400, [2] * 200)], 5))
    with pytest.raises(KnownError, match="cannot be scored"):
        list(teacher.score([([1], [])], 5))


def test_what_is_no_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no such file"):
        teacher_of(tmp_path / "nowhere")
    with pytest.raises(BadInput, match="device is not there"):
        teacher_of(tiny_model(layers=2), device="cuda")
    monkeypatch.setattr("kdstudio.teachers.transformers_local._free", lambda device: 1000)
    with pytest.raises(KnownError, match="does not fit the memory"):
        teacher_of(tiny_model(layers=2))


def test_a_folder_keeps_its_fingerprint_where_it_goes_and_loses_it_with_its_weights(tmp_path: Path) -> None:
    random_folder(tmp_path / "one", "llama")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = weights_fingerprint(tmp_path / "one")
    assert weights_fingerprint(tmp_path / "two") == first
    weights = tmp_path / "two" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert weights_fingerprint(tmp_path / "two") != first


def test_the_licence_is_the_cards(tmp_path: Path) -> None:
    assert stated_license(tmp_path) == ""
    card = tmp_path / "README.md"
    for text, expected in (
        ("---\nlanguage: en\nlicense: apache-2.0  # free\n---\n# A model\nlicense: none", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: llama3.2\n---\n", "llama3.2"),
        ("---\nlicense:\n- 'mit'\n---\n", "mit"),
        ("license: mit\n", ""),
        ("---\nlicense: other\n---\n", "other"),
    ):
        card.write_text(text)
        assert stated_license(tmp_path) == expected, text
