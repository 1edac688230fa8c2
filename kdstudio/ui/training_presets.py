"""The three ways to train that a newcomer sees first, each of them a few keys of the recipe. No widgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from kdstudio.catalogue.objectives import OBJECTIVES

_ROWS_ALONE: Mapping[str, Any] = MappingProxyType({"share": 0.0, "replay": "off"})


@dataclass(frozen=True)
class Preset:
    """One objective with its parameters, and what it sets in the recipe's `[rollout]`.

    `when` says in one line when to use it, `reference` is its paper. `running`: the teacher runs beside the student.
    """

    key: str
    label: str
    when: str
    reference: str
    objective: str
    parameters: Mapping[str, Any]
    rollout: Mapping[str, Any]
    running: bool = False

    def tables(self) -> list[dict[str, Any]]:
        """Its objectives as a recipe's tables, parameters written out."""
        return [{"name": self.objective, "weight": 1.0, "parameters": dict(self.parameters)}]

    def equals(self, tables: Sequence[Mapping[str, Any]], rollout: Mapping[str, Any]) -> bool:
        """Whether a recipe's objectives and rollout table say what it says; other keys of `rollout` are settings."""
        return [dict(table) for table in tables] == self.tables() and all(
            rollout.get(key) == value for key, value in self.rollout.items()
        )


def _of(key: str, label: str, objective: str) -> Preset:
    entry = OBJECTIVES[objective]
    return Preset(key, label, entry.when, entry.reference, objective, entry.params().model_dump(), _ROWS_ALONE)


PRESETS: tuple[Preset, ...] = (
    _of("imitate", "Imitate", "supervised"),
    _of("match", "Match", "forward_kl"),
    Preset(
        "practise",
        "Practise on its own answers",
        "Against mistakes that copying never shows: it writes in half of the steps, and a local teacher of the same "
        "tokenizer, running beside it, judges every token.",
        "https://arxiv.org/abs/2306.13649",
        "jensen_shannon",
        {**OBJECTIVES["jensen_shannon"].params().model_dump(), "beta": 0.5},
        {"share": 0.5, "samples": 1, "source": "student", "replay": "off"},
        running=True,
    ),
)


def preset_of(tables: Sequence[Mapping[str, Any]], rollout: Mapping[str, Any]) -> str:
    """The key of the preset that a recipe equals; "" for a mix of one's own."""
    return next((preset.key for preset in PRESETS if preset.equals(tables, rollout)), "")
