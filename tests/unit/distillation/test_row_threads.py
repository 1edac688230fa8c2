"""Row blocks over threads: the same bits as one after another, failures heard, and torch's own threads left alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from kdstudio.distillation.divergences import block_value
from kdstudio.distillation.row_threads import each_block

BLOCKS = [slice(first, first + 5) for first in range(0, 100, 5)]


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Torch's number of threads as it was, afterwards."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def filled(threads: int) -> torch.Tensor:
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 100, 301, generator=generator)
    value = block_value("jensen_shannon")
    result = torch.full((100, 302), torch.nan)

    def compute(rows: slice) -> None:
        values, gradients = value(student[rows], teacher[rows])
        result[rows] = torch.cat([values.unsqueeze(1), gradients], dim=1)

    each_block(compute, BLOCKS)
    return result


def test_threads_compute_what_one_computes_to_the_last_bit() -> None:
    alone = filled(1)
    assert not bool(alone.isnan().any())
    for threads in (2, 3, 2):
        assert torch.equal(filled(threads), alone)


@pytest.mark.parametrize("threads", [1, 2])
def test_every_block_is_computed_once(threads: int) -> None:
    torch.set_num_threads(threads)
    seen: list[slice] = []
    each_block(seen.append, BLOCKS)
    assert sorted(seen, key=lambda rows: rows.start) == BLOCKS
    each_block(seen.append, [])
    assert len(seen) == len(BLOCKS)


def test_blocks_really_run_side_by_side() -> None:
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=10)

    def meet(_: slice) -> None:
        both.wait()  # alone, either would wait in vain

    each_block(meet, BLOCKS[:2])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failure_inside_a_block_is_raised_when_no_block_runs_any_more(threads: int) -> None:
    torch.set_num_threads(threads)
    running: list[int] = []

    def compute(rows: slice) -> None:
        if rows.start == 20:
            raise ArithmeticError("block 20")
        running.append(rows.start)
        time.sleep(0.002)
        running.remove(rows.start)

    with pytest.raises(ArithmeticError, match="block 20"):
        each_block(compute, BLOCKS)
    assert running == []
    each_block(lambda rows: running.append(rows.start), BLOCKS)
    assert len(running) == len(BLOCKS)  # the threads are there for the next call


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_torch_keeps_its_threads_here_and_in_threads_that_begin_later(threads: int) -> None:
    torch.set_num_threads(threads)
    each_block(lambda _: None, BLOCKS)
    assert torch.get_num_threads() == threads
    found: list[int] = []
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [threads]


@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_compute_without_gradients(threads: int) -> None:
    torch.set_num_threads(threads)
    enabled: list[bool] = []
    each_block(lambda _: enabled.append(torch.is_grad_enabled()), BLOCKS)
    assert torch.is_grad_enabled()
    assert not any(enabled)
