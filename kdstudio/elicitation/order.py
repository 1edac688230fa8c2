"""Letting rows through in their own order, although answers come in any.

A step to which order or company matters has a gate before it. The gates cut the recipe into sections; every row that
lives stands in one section, or waits at the gate that ends it. A waiting row is let through once no row that stands
before its gate can still come earlier, or, where the samples of one row belong together, among them. Rows begin in
order, so that one which has not begun is later than all that have. What is let through depends on the rows alone: a
run that was killed and continued lets the same rows through in the same order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from kdstudio.elicitation.passage import Passage

Order = tuple[int, ...]
_END: Order = (1 << 62,)


class Gates:
    """The gates of one recipe: step index -> how much of `order` the rows of one group share (None: no groups)."""

    def __init__(self, gates: Mapping[int, int | None]) -> None:
        self.indices = sorted(gates)
        self._prefixes = [gates[index] for index in self.indices]
        count = len(self.indices)
        self._living: list[set[Order]] = [set() for _ in range(count)]
        self._heaps: list[list[Order]] = [[] for _ in range(count)]
        self._waiting: list[list[tuple[Order, Passage]]] = [[] for _ in range(count)]
        self.held = 0

    def section(self, index: int) -> int:
        """In which section a row stands that the step at `index` works on."""
        return sum(gate <= index for gate in self.indices)

    def enter(self, passage: Passage) -> None:
        """A row lives in its section. After the last gate nobody waits for it."""
        if passage.section < len(self.indices):
            self._living[passage.section].add(passage.order)
            heapq.heappush(self._heaps[passage.section], passage.order)

    def leave(self, passage: Passage) -> None:
        """It fell, was split, or was written."""
        if passage.section < len(self.indices):
            self._living[passage.section].discard(passage.order)

    def wait(self, passage: Passage) -> None:
        """It has come to the gate at the end of its section."""
        self.leave(passage)
        heapq.heappush(self._waiting[passage.section], (passage.order, passage))
        self.held += 1

    def released(self) -> Iterator[tuple[int, list[Passage]]]:
        """(step index, row or group) that may pass now; each stands in the next section when it is given."""
        for number, index in enumerate(self.indices):
            while group := self._ready(number):
                for passage in group:
                    passage.section = number + 1
                    self.enter(passage)
                yield index, group

    def _ready(self, number: int) -> list[Passage]:
        waiting = self._waiting[number]
        if not waiting:
            return []
        prefix = self._prefixes[number]
        first, frontier = waiting[0][0], self._frontier(number)
        if first > frontier or (prefix is not None and first[:prefix] == frontier[:prefix]):
            return []
        group = [heapq.heappop(waiting)[1]]
        while prefix is not None and waiting and waiting[0][0][:prefix] == first[:prefix]:
            group.append(heapq.heappop(waiting)[1])
        self.held -= len(group)
        return group

    def _frontier(self, number: int) -> Order:
        """The earliest row that stands before a gate and has not come to it."""
        earliest = _END
        for section in range(number + 1):
            heap, living = self._heaps[section], self._living[section]
            while heap and heap[0] not in living:
                heapq.heappop(heap)
            if heap:
                earliest = min(earliest, heap[0])
            if section < number and self._waiting[section]:
                earliest = min(earliest, self._waiting[section][0][0])
        return earliest
