"""How much of a model a GPU holds, how long a context fits, and teachers that share the memory."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import llama_cpp
import psutil
import pytest

from kdstudio.errors import KnownError
from kdstudio.models.gguf_header import read_header
from kdstudio.teachers import llama_memory
from kdstudio.teachers.llama_memory import (
    ALL_LAYERS,
    MemoryBudget,
    MemoryNeed,
    cells_that_fit,
    chosen_gpu_layers,
    free_gpu_bytes,
    gpu_layers,
    need_of,
)
from tests.tiny import tiny_model
from tests.unit.teachers.test_llama import answers, ask, teacher_of

GIB = 1 << 30


@pytest.mark.parametrize(
    ("free", "layer", "context", "expected"),
    [
        (0, 100 << 20, GIB, 0),
        (256 << 20, 100 << 20, GIB, 0),
        (24 * GIB, 200 << 20, 2 * GIB, 33),  # all 32 and the head
        (8 * GIB, 400 << 20, 0, 18),  # 90 % of 8 GiB by 400 MiB
        (8 * GIB, 400 << 20, 32 * (400 << 20), 9),  # the keys and values as large as the weights: half
        (GIB, 2 * GIB, 0, 0),
    ],
)
def test_layers_follow_free_memory(free: int, layer: int, context: int, expected: int) -> None:
    assert gpu_layers(free, layer, context, 32) == expected


def test_more_memory_never_means_fewer_layers() -> None:
    found = [gpu_layers(free << 20, 90 << 20, GIB, 24) for free in range(0, 8000, 37)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, 25)


def test_the_option_wins_and_a_build_without_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(tiny_model(layers=2))
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: False)
    assert chosen_gpu_layers(header, 1000, None) == 0
    assert chosen_gpu_layers(header, 1000, 7) == 7
    monkeypatch.setattr(llama_cpp, "llama_supports_gpu_offload", lambda: True)
    monkeypatch.setattr(llama_memory, "free_gpu_bytes", lambda: 24 * GIB)
    assert chosen_gpu_layers(header, 1000, None) == 3
    assert chosen_gpu_layers(header, 1000, 0) == 0
    monkeypatch.setattr(llama_memory, "free_gpu_bytes", lambda: 300 << 20)
    assert chosen_gpu_layers(header, 40 * GIB, None) == 0
    monkeypatch.setattr(llama_memory, "free_gpu_bytes", lambda: None)
    assert chosen_gpu_layers(header, 1000, None) == ALL_LAYERS


def test_the_devices_of_this_llama_cpp_can_be_asked() -> None:
    free = free_gpu_bytes()
    assert free is not None
    assert (free > 0) == llama_cpp.llama_supports_gpu_offload()


def test_what_a_file_needs() -> None:
    path = tiny_model(layers=2)
    need = need_of(read_header(path), 512)
    assert 0.5 * path.stat().st_size < need.weights < path.stat().st_size
    assert need.cell == 2 * 2 * 32 * 2  # layers, keys and values, kv heads x head width, 16 bits
    assert need_of(read_header(path), 512, precise=True).cell == 2 * need.cell
    assert need.total(100) == need.weights + need.fixed + 100 * need.cell


def test_the_context_shrinks_before_a_teacher_is_refused() -> None:
    need = MemoryNeed(weights=1000, fixed=200, cell=2)
    assert cells_that_fit(10**9, need, 4096) == 4096
    assert cells_that_fit(1200 + 4 * 2 * 1000, need, 4096) == 1000
    assert cells_that_fit(1200 + 2 * 256, need, 4096) == 256
    assert cells_that_fit(1200 + 2 * 256 - 1, need, 4096) == 0
    assert cells_that_fit(100, need, 4096) == 0


def test_teachers_of_one_process_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    budget, first, second = MemoryBudget(), object(), object()
    need = MemoryNeed(weights=4000, fixed=0, cell=1)
    assert budget.claim(first, "first.gguf", need, 5000) == 1500
    assert budget.claim(first, "first.gguf", need, 5000) == 1500  # a promise is renewed, not added to
    assert budget.claim(second, "second.gguf", need, 5000) == 256
    with pytest.raises(KnownError, match=r"third.gguf takes at least 4\.2 KiB; 244 bytes are free beside 2 other"):
        budget.claim(object(), "third.gguf", need, 5000)
    budget.release(first)
    budget.release(first)
    assert budget.claim(first, "first.gguf", need, 5000) > 0


def test_a_teacher_reads_less_where_memory_is_short_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model(layers=2, context=2048)
    need = need_of(read_header(path), 512)
    available = need.weights + need.fixed + 4 * 512 * need.cell
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    monkeypatch.setattr("kdstudio.teachers.llama.BUDGET", MemoryBudget())
    opened = teacher_of(path)
    assert opened.capabilities.context_tokens == 512
    assert opened.notes == ["It reads 512 tokens at once instead of 2,048: there is memory for no more."]
    found = answers(opened, [ask("long", "x" * 600), ask("short", "hello")])
    assert "512" in found["long"].error
    assert found["short"].text
    with pytest.raises(KnownError, match="not enough memory for this teacher"):
        teacher_of(path)
    opened.close()
    again = teacher_of(path)
    again.close()


def test_two_teachers_side_by_side(tmp_path: Path) -> None:
    one, two = teacher_of(tiny_model(layers=2)), teacher_of(tiny_model(layers=2, seed=7))
    alone = answers(one, [ask("a", "hello")])["a"].text
    other = answers(two, [ask("a", "hello")])["a"].text
    assert alone != other
    assert answers(one, [ask("a", "hello")])["a"].text == alone
    one.close()
    assert answers(two, [ask("a", "hello")])["a"].text == other
    two.close()
