"""A vault knows whose signals it holds, and what does not read as such a list costs only the warning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdstudio.teachers.signals import Draws, Rule
from kdstudio.teachers.vault import Vault
from kdstudio.teachers.vault_teachers import TEACHERS_NAME, Origin, earlier_signals, remember_origin
from tests.unit.teachers.test_vault_format import signal

BEFORE, NOW = Origin("ann", "/models/ann.gguf", "f1"), Origin("ann", "/models/ann.gguf", "f2")
PAIRS = [([1, 2], [3]), ([1, 2], [4]), ([1, 2], [5])]


def stored(folder: Path, rule: Rule = 10, origin: Origin = BEFORE) -> Vault:
    """A vault in which two of the three pairs have a signal."""
    vault = Vault(folder)
    for pair in PAIRS[:2]:
        vault.put(vault.key(origin.fingerprint, rule, *pair), signal(1, 414, 10))
    vault.flush()
    remember_origin(folder, origin, rule)
    return vault


@pytest.mark.parametrize("rule", [10, Draws(50), Draws(50, 7)])
def test_signals_of_an_earlier_file_are_counted(tmp_path: Path, rule: Rule) -> None:
    with stored(tmp_path, rule) as vault:
        assert earlier_signals(vault, NOW, PAIRS) == 2
        assert earlier_signals(vault, Origin("ann", "/elsewhere", "f2"), PAIRS) == 2
        assert earlier_signals(vault, Origin("renamed", BEFORE.path, "f2"), PAIRS) == 2
        assert earlier_signals(vault, Origin("bob", "/models/bob.gguf", "f2"), PAIRS) == 0
        assert earlier_signals(vault, Origin("", "", "f2"), PAIRS) == 0
        assert earlier_signals(vault, BEFORE, PAIRS) == 0


def test_an_entry_stands_once(tmp_path: Path) -> None:
    for origin in (BEFORE, NOW, BEFORE, BEFORE):
        remember_origin(tmp_path, origin, 10)
    remember_origin(tmp_path, BEFORE, Draws(50))
    assert [item["fingerprint"] for item in json.loads((tmp_path / TEACHERS_NAME).read_text())] == ["f2", "f1", "f1"]


@pytest.mark.parametrize("text", ["", "{", "null", "7", '{"a": 1}', '[1, {"name": 2}]', "[[]]", "\x00", "[" * 99999])
def test_what_is_no_list_of_teachers_costs_the_warning_alone(tmp_path: Path, text: str) -> None:
    with stored(tmp_path) as vault:
        (tmp_path / TEACHERS_NAME).write_text(text)
        assert earlier_signals(vault, NOW, PAIRS) == 0
        remember_origin(tmp_path, BEFORE, 10)
        assert earlier_signals(vault, NOW, PAIRS) == 2
