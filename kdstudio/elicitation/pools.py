"""What a run compares and draws from: the project as it was when the run began, and what the run itself made.

The prompts that a run made lie in a file of its folder, with only their places in memory. Nothing here is kept for a
continued run: it is built again, in the same order, from the answers in the journal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from kdstudio.catalogue.steps import DeduplicateStep, DrawStep, FilterStep
from kdstudio.errors import BadInput
from kdstudio.project import Project

MADE_NAME = "made.jsonl"
_CANDIDATES = 8  # for a diverse draw: so many for each that is wanted


class LikeTexts(Protocol):
    """Texts that passed, and how like them another is."""

    def nearest(self, text: str) -> tuple[float, str]:
        """The highest score with any of them, and that one."""
        ...

    def add(self, text: str) -> None:
        """Let a text in."""
        ...


class SameTexts(Protocol):
    """Texts that passed, by key."""

    def find(self, text: str) -> str:
        """The key of one that says the same; "" for none."""
        ...

    def add(self, key: str, text: str) -> None:
        """Let a text in."""
        ...


class Made:
    """The rows that a run made, in order: in a file, or in memory where there is no folder. Counts from 0."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._stream: IO[bytes] | None = None
        self._places: list[int] = []
        self._kept: list[bytes] = []
        self._end = 0

    def __len__(self) -> int:
        return len(self._kept) if self._folder is None else len(self._places)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one. The file of an earlier attempt is written anew."""
        line = json.dumps(row).encode() + b"\n"
        if self._folder is None:
            self._kept.append(line)
            return
        if self._stream is None:
            self._stream = (self._folder / MADE_NAME).open("w+b")
        self._places.append(self._end)
        self._stream.seek(self._end)
        self._stream.write(line)
        self._end += len(line)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if self._stream is None:
            line = self._kept[number]
        else:
            self._stream.seek(self._places[number])
            line = self._stream.readline()
        row: dict[str, Any] = json.loads(line)
        return row

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()


@dataclass
class Pools:
    """All pools of one run. `drawn_from`: step index -> ids; `last_prompt`: later ones did not exist when it began."""

    project: Project | None = None
    made: Made = field(default_factory=Made)
    seed: int = 0
    last_prompt: int = 0
    drawn_from: Mapping[int, Sequence[int]] = field(default_factory=dict)
    round_began: int = 0

    def rouge(self, step: FilterStep) -> LikeTexts:
        """A pool for ROUGE-L."""
        from kdstudio.quality.rouge import RougePool

        pool = RougePool(step.rouge_below)
        if step.pool == "project":
            for text in self._texts():
                pool.add(text)
        return pool

    def duplicates(self, step: DeduplicateStep) -> SameTexts:
        """A pool of texts that say the same."""
        from kdstudio.quality.duplicates import Duplicates

        pool = Duplicates(step.method, step.threshold)
        if step.pool == "project":
            for number, text in enumerate(self._texts()):
                pool.add(f"project {number}", text)
        return pool

    def _texts(self) -> Iterator[str]:
        """The project's prompts, the rejected ones too: what was refused is not asked for again."""
        for prompt in self.project.rows.prompts() if self.project is not None else ():
            if prompt.id > self.last_prompt:
                return
            yield prompt.text

    def deck(self, index: int, step: DrawStep) -> Deck:
        """What a draw step draws from."""
        return Deck(self, step, self.drawn_from.get(index, ()))

    def entry(self, step: DrawStep, number: int) -> dict[str, Any]:
        """A row of the project as templates see it. A negative number is a made one: -1 is the first."""
        if number < 0 or self.project is None:
            return self.made[-1 - number]
        if step.source == "responses":
            response = self.project.rows.response(number)
            prompt = self.project.rows.prompt(response.prompt_id)
            text = response.text
        else:
            prompt, text = self.project.rows.prompt(number), ""
        return {
            "prompt": prompt.text,
            "response": text,
            "reference": prompt.reference,
            "tags": list(prompt.tags),
            "id": prompt.id,
        }


Own = tuple[int, str]


def _is_own(entry: Mapping[str, Any], own: Own) -> bool:
    number, fingerprint = own
    return bool(number and entry.get("id") == number) or bool(fingerprint and entry.get("fingerprint") == fingerprint)


class Deck:
    """What one draw step draws from, and how often each was drawn. Numbers below 0 are rows that the run made."""

    def __init__(self, pools: Pools, step: DrawStep, ids: Sequence[int]) -> None:
        self._pools, self._step, self._ids = pools, step, ids
        self._by_use: list[list[int]] = [[]]
        self._seen = 0

    def draw(self, key: str, own: Own) -> list[dict[str, Any]]:
        """`count` entries for the row `key`, never its `own` prompt; fewer when there are not so many."""
        chance = random.Random(f"{self._pools.seed}/draw/{key}")
        method = {"random": self._random, "diverse": self._diverse, "least_used": self._least_used}
        return method[self._step.method](chance, own)

    def _size(self) -> int:
        made = self._pools.round_began if self._step.source in ("made", "both") else 0
        return made + (0 if self._step.source == "made" else len(self._ids))

    def _number(self, place: int) -> int:
        """The number at a place: the project's rows first, then those that earlier rounds made."""
        ids = () if self._step.source == "made" else self._ids
        return ids[place] if place < len(ids) else len(ids) - place - 1

    def _some(self, chance: random.Random, count: int, own: Own) -> list[dict[str, Any]]:
        size = self._size()
        found: list[dict[str, Any]] = []
        for place in chance.sample(range(size), min(size, count + 1)):
            entry = self._entry(self._number(place))
            if entry is not None and not _is_own(entry, own):
                found.append(entry)
        return found[:count]

    def _entry(self, number: int) -> dict[str, Any] | None:
        try:
            return self._pools.entry(self._step, number)
        except BadInput:
            return None  # it is no longer in the project

    def _random(self, chance: random.Random, own: Own) -> list[dict[str, Any]]:
        return self._some(chance, self._step.count, own)

    def _diverse(self, chance: random.Random, own: Own) -> list[dict[str, Any]]:
        """Of some drawn at random, one after the other that shares least words with those taken."""
        found = self._some(chance, self._step.count * _CANDIDATES, own)
        words = [set(str(entry["prompt"]).lower().split()) for entry in found]
        taken = [0] if found else []
        alike = [0.0] * len(found)
        while len(taken) < min(self._step.count, len(found)):
            last = words[taken[-1]]
            for place, own_words in enumerate(words):
                union = len(last | own_words) or 1
                alike[place] = max(alike[place], len(last & own_words) / union)
            taken.append(min((place for place in range(len(found)) if place not in taken), key=alike.__getitem__))
        return [found[place] for place in taken]

    def _least_used(self, chance: random.Random, own: Own) -> list[dict[str, Any]]:
        """Those drawn least so far; among equals, chance decides."""
        for place in range(self._seen, self._size()):
            self._by_use[0].append(self._number(place))
        self._seen = self._size()
        found: list[dict[str, Any]] = []
        moved: list[tuple[int, int]] = []
        for use, numbers in enumerate(self._by_use):
            while numbers and len(found) < self._step.count:
                place = chance.randrange(len(numbers))
                numbers[place], numbers[-1] = numbers[-1], numbers[place]
                number = numbers.pop()
                entry = self._entry(number)
                taken = entry is not None and not _is_own(entry, own)
                if entry is not None:
                    moved.append((use + taken, number))
                if entry is not None and taken:
                    found.append(entry)
        self._by_use.append([])
        for use, number in moved:
            self._by_use[use].append(number)
        while not self._by_use[-1] and len(self._by_use) > 1:
            self._by_use.pop()
        return found


def draws(steps: Iterable[object]) -> dict[int, DrawStep]:
    """The draw steps of a recipe that read the project."""
    found = {index: step for index, step in enumerate(steps) if isinstance(step, DrawStep)}
    return {index: step for index, step in found.items() if step.source != "made"}
