"""Row blocks spread over threads, each of which computes alone.

Within one operation torch's threads meet at a barrier. A block passes through some twenty operations of 50
microseconds, and where another program holds one core for a moment, all of them wait for it, twenty times over. Threads
that take whole blocks meet once. They are as many as torch would use, and each row's result is the same whoever
computes it.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait

import torch


def each_block(compute: Callable[[slice], None], blocks: Sequence[slice]) -> None:
    """Call `compute` for every block, in any order, without gradients; a failure is raised when all are done."""
    threads = torch.get_num_threads()
    if threads == 1 or len(blocks) == 1:
        with torch.no_grad():
            for block in blocks:
                compute(block)
        return
    numbers = itertools.count()

    def work() -> None:
        with torch.no_grad():
            while (number := next(numbers)) < len(blocks):
                compute(blocks[number])

    futures = [_pool(threads).submit(work) for _ in range(min(threads, len(blocks)))]
    wait(futures)
    for future in futures:
        future.result()


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers whose own operations run on one thread. The number is torch's, so it is put back for everybody else."""
    ready = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(threads, "kdstudio-rows", initializer=begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(threads)  # what threads started later take; torch keeps one such number for all
    return pool
