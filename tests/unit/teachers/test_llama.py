"""The GGUF teacher: many answers at once read as one at a time, limits, stop strings, streaming, bad files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.gguf_header import fingerprint
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, Sampling
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.llama_native import Logits, NativeContext
from kdstudio.teachers.opening import open_teacher, tokenizer_of
from tests.tiny import tiny_gguf, tiny_model

PROMPTS = (
    "a brave mouse",
    "two robots",
    "what is it?",
    "hello",
    "count",
    "the river",
    "1+1=",
    "bye",
    "ok then",
    "größe",
)


def teacher_of(path: Path, **options: Any) -> LlamaTeacher:
    return LlamaTeacher(TeacherSpec("tiny", "gguf", str(path), options={"threads": 1, **options}))


@pytest.fixture(scope="module")
def teacher() -> Iterator[LlamaTeacher]:
    opened = teacher_of(tiny_model())
    yield opened
    opened.close()


def ask(key: str, text: str, **sampling: Any) -> Request:
    return Request(key, ({"role": "user", "content": text},), Sampling(**{"max_tokens": 24, **sampling}))


def answers(teacher: LlamaTeacher, requests: list[Request]) -> dict[str, Completion]:
    found = {completion.key: completion for completion in teacher.generate(requests)}
    assert len(found) == len(requests)
    return found


def test_says_what_it_can(teacher: LlamaTeacher) -> None:
    can = teacher.capabilities
    assert can.generate
    assert can.top_k_log_probs
    assert (can.context_tokens, can.vocabulary_size, can.terms) == (512, 414, "apache-2.0")
    assert can.fingerprint == fingerprint(tiny_model())
    assert can.tokenizer == tokenizer_of(teacher).fingerprint


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "Q4_1"}, {"architecture": "qwen2"}, {"architecture": "qwen3", "tied": True}]
)
@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 1.0}, {"temperature": 0.8, "top_p": 0.9, "top_k": 40}, {"temperature": 0.9, "stop": ("er",)}],
)
@pytest.mark.parametrize("shared", ["", "Write a short story about it. "])
def test_an_answer_does_not_depend_on_the_batch(options: dict[str, Any], sampling: dict[str, Any], shared: str) -> None:
    requests = [ask(f"{n}", shared + text, seed=n, **sampling) for n, text in enumerate(PROMPTS * 2)]
    found = []
    for at_once in (1, 7, 32):
        opened = teacher_of(tiny_model(layers=2, **options), requests_at_once=at_once, precise=True)
        found.append({key: item.text for key, item in answers(opened, requests).items()})
        opened.close()
    assert found[0] == found[1] == found[2]
    assert len(set(found[0].values())) > (2 if shared else 6)  # greedy after a long beginning soon repeats itself


def test_with_16_bit_keys_and_values_rounding_hardly_shows() -> None:
    requests = [ask(f"{n}", text, seed=n, temperature=1.0) for n, text in enumerate(PROMPTS * 2)]
    one, many = (answers(teacher_of(tiny_model(), requests_at_once=at_once), requests) for at_once in (1, 8))
    assert sum(one[key].text == many[key].text for key in one) >= len(one) - 3


def test_samples_of_one_prompt_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    decode = NativeContext.decode

    def counted(context: NativeContext) -> Logits:
        read.append(context.batch.count)
        return decode(context)

    monkeypatch.setattr(NativeContext, "decode", counted)
    texts = [f"{text} {text[::-1] * 20}" for text in PROMPTS[:5]]
    requests = [
        ask(f"{text}:{sample}", text, temperature=1.0, seed=sample, max_tokens=10)
        for text in texts
        for sample in range(6)
    ]
    opened = teacher_of(tiny_model(layers=2), requests_at_once=7, precise=True)
    found = answers(opened, requests)
    prompts = {key.rpartition(":")[0]: item.prompt_tokens for key, item in found.items()}
    said = sum(item.tokens for item in found.values())
    assert sum(read) < 2 * sum(prompts.values()) + said + len(requests)  # six times without
    opened.close()
    alone = teacher_of(tiny_model(layers=2), requests_at_once=1, precise=True)
    assert {key: item.text for key, item in answers(alone, requests).items()} == {
        key: item.text for key, item in found.items()
    }
    alone.close()


def test_the_same_seed_gives_the_same_text_and_another_seed_another(teacher: LlamaTeacher) -> None:
    first = answers(teacher, [ask("a", "hello", temperature=1.0, seed=5), ask("b", "hello", temperature=1.0, seed=6)])
    again = answers(teacher, [ask("a", "hello", temperature=1.0, seed=5)])
    assert first["a"].text == again["a"].text
    assert first["a"].text != first["b"].text


def test_greedy_answers_are_the_argmax_of_llama_cpp(teacher: LlamaTeacher) -> None:
    request = ask("a", "two robots", max_tokens=12)
    completion = answers(teacher, [request])["a"]
    prompt = tokenizer_of(teacher).encode(
        "<|im_start|>user\ntwo robots<|im_end|>\n<|im_start|>assistant\n", special=True
    )
    assert completion.prompt_tokens == len(prompt)
    said: list[int] = []
    for _ in range(completion.tokens):
        ((_, signal),) = teacher.score([(prompt + said, [0])], 1)
        said.append(int(signal.ids[0, 0]))
    pieces = b"".join(tokenizer_of(teacher).piece(token) for token in said)
    assert pieces.decode("utf-8", "ignore") == completion.text


def test_lengths_and_ends(teacher: LlamaTeacher) -> None:
    short = answers(teacher, [ask(text, text, max_tokens=3) for text in PROMPTS])
    long = answers(teacher, [ask(text, text, max_tokens=200) for text in PROMPTS])
    assert {completion.finish_reason for completion in short.values()} <= {"length", "stop"}
    assert all(completion.tokens <= 3 for completion in short.values())
    assert any(completion.finish_reason == "stop" for completion in long.values())
    for text in PROMPTS:
        assert long[text].text.startswith(short[text].text)


def test_more_requests_than_slots_and_a_lazy_source(teacher: LlamaTeacher) -> None:
    asked = 0

    def source() -> Iterator[Request]:
        nonlocal asked
        for number in range(150):
            asked += 1
            yield ask(f"{number}", PROMPTS[number % 10], max_tokens=4)

    running = teacher.generate(source())
    next(running)
    assert asked < 150
    assert len(list(running)) == 149


def test_very_different_lengths_share_the_memory() -> None:
    opened = teacher_of(tiny_model(layers=2), requests_at_once=4)
    rng = random.Random(2)
    requests = [ask(f"{n}", "x" * rng.choice([1, 5, 300]), max_tokens=rng.choice([1, 40, 100])) for n in range(30)]
    found = answers(opened, requests)
    assert all(completion.finish_reason in ("stop", "length") for completion in found.values())
    opened.close()


def test_a_prompt_longer_than_the_context_is_refused_with_both_sizes(teacher: LlamaTeacher) -> None:
    found = answers(teacher, [ask("long", "x" * 600), ask("short", "hello")])
    assert found["long"].finish_reason == "error"
    assert "615 tokens" in found["long"].error
    assert "512" in found["long"].error
    assert found["short"].finish_reason != "error"


def test_an_answer_never_outgrows_the_context(teacher: LlamaTeacher) -> None:
    found = answers(teacher, [ask("tight", "x" * 480, max_tokens=100, temperature=1.0, seed=3)])["tight"]
    assert found.prompt_tokens + found.tokens <= 512


def test_bad_requests_are_errors_and_the_others_go_on(teacher: LlamaTeacher) -> None:
    image = Request("image", ({"role": "user", "content": [{"type": "image_url"}]},))
    found = answers(teacher, [Request("empty", ()), image, ask("good", "hello")])
    assert "no messages" in found["empty"].error
    assert "text only" in found["image"].error
    assert found["good"].text


def test_stop_strings_end_an_answer_and_are_not_part_of_it(teacher: LlamaTeacher) -> None:
    whole = answers(teacher, [ask("a", "two robots", max_tokens=40)])["a"].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    found = answers(teacher, [ask("a", "two robots", max_tokens=40, stop=(stop, "never said"))])["a"]
    assert found.text == whole[: whole.index(stop)]
    assert found.finish_reason == "stop"


def test_streaming_gives_the_whole_text_and_nothing_of_a_stop_string(teacher: LlamaTeacher) -> None:
    whole = answers(teacher, [ask("a", "two robots", max_tokens=40)])["a"].text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 4]
    for stops in ((), (stop,)):
        shown: list[str] = []
        request = ask("a", "two robots", max_tokens=40, stop=stops)
        (completion,) = teacher.generate([request], on_text=lambda _, piece: shown.append(piece))  # noqa: B023
        assert "".join(shown) == completion.text
        assert len(shown) > 3


def test_stopping_yields_no_unfinished_answer_and_the_teacher_goes_on(teacher: LlamaTeacher) -> None:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    requests = [ask(f"{n}", "two robots", max_tokens=100) for n in range(20)]
    assert list(teacher.generate(requests, stop=stop)) == []
    assert len(answers(teacher, requests[:3])) == 3


def test_an_abandoned_run_leaves_no_trace(teacher: LlamaTeacher) -> None:
    requests = [ask(f"{n}", text, max_tokens=24) for n, text in enumerate(PROMPTS)]
    before = answers(teacher, requests)
    for _ in range(5):
        running = teacher.generate(requests)
        next(running)
        running.close()  # type: ignore[attr-defined]
    assert {key: item.text for key, item in answers(teacher, requests).items()} == {
        key: item.text for key, item in before.items()
    }


def test_bad_files_are_said_before_llama_cpp_sees_them(tmp_path: Path) -> None:
    good = tiny_model(layers=2).read_bytes()
    files = {"empty": b"", "cut": good[:-500], "html": b"<html>", "random": random.Random(1).randbytes(9999)}
    for name, data in files.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(data)
        with pytest.raises(BadInput):
            open_teacher(TeacherSpec(name, "gguf", str(path)), {})
    for path in (tmp_path, tmp_path / "missing.gguf"):
        with pytest.raises(BadInput):
            open_teacher(TeacherSpec("none", "gguf", str(path)), {})


def test_a_sound_header_that_llama_cpp_refuses_is_explained(tmp_path: Path) -> None:
    data = tiny_gguf(tmp_path / "odd.gguf", layers=1).read_bytes()
    (tmp_path / "odd.gguf").write_bytes(data.replace(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"))
    with pytest.raises(KnownError, match=r"cannot load this model[\s\S]*attn_q"):
        teacher_of(tmp_path / "odd.gguf")


def test_weights_that_are_no_numbers_are_explained(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "nan.gguf", layers=1)
    data = bytearray(path.read_bytes())
    data[-40_000:] = np.full(10_000, np.nan, np.float32).tobytes()
    path.write_bytes(data)
    opened = teacher_of(path)
    with pytest.raises(KnownError, match="no numbers"):
        list(opened.score([([1, 5, 6], [7, 8])], 5))
    opened.close()
