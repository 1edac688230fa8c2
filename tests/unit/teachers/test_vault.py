"""The vault keeps what was flushed through torn writes, flipped bits and lost indexes, and serves nothing damaged."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kdstudio.errors import KnownError
from kdstudio.teachers.signals import Draws, Rule, Signal
from kdstudio.teachers.vault import INDEX_NAME, LOCK_NAME, PACK_NAME, Vault
from tests.unit.teachers.test_vault_format import drawing, signal


def key(number: int) -> str:
    return Vault.key("teacher", 10, [1, 2, 3], [number])


def filled(folder: Path, count: int = 20) -> dict[str, Signal]:
    """A vault of signals in two flushes, as they read back; every fifth is drawn."""
    with Vault(folder) as vault:
        for number in range(count):
            vault.put(key(number), one(number))
            if number == count // 2:
                vault.flush()
    return stored(folder, count)


def one(number: int) -> Signal:
    tokens = 5 + number % 3
    return drawing(tokens, 414, 10, seed=number) if number % 5 == 4 else signal(tokens, 414, 10, seed=number)


def stored(folder: Path, count: int = 20) -> dict[str, Signal]:
    with Vault(folder) as vault:
        return {key(n): found for n in range(count) if (found := vault.get(key(n))) is not None}


def same(one: Signal, other: Signal) -> bool:
    """Whether two signals are equal in every bit."""
    ours, theirs = vars(one), vars(other)
    return type(one) is type(other) and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    signals = filled(tmp_path / "vault")
    assert len(signals) == 20
    with Vault(tmp_path / "vault") as vault:
        assert vault.tokens == sum(len(item) for item in signals.values())
        assert 0 < vault.bytes_per_token < 60
        assert not vault.has(key(99))
        assert vault.get(key(99)) is None


def test_a_look_gives_tokens_and_mass_without_decoding(tmp_path: Path) -> None:
    signals = filled(tmp_path)
    with Vault(tmp_path) as vault:
        assert vault.look(key(99)) is None
        for name, found in signals.items():
            seen = vault.look(name)
            assert seen is not None
            assert seen.tokens == len(found)
            assert seen.mass == pytest.approx(float(found.captured_mass.sum()), rel=1e-5)


def test_before_the_flush_it_is_served_but_not_written(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    vault.put(key(1), signal(3, 414, 10))
    assert vault.has(key(1))
    assert vault.get(key(1)) is not None
    assert not Vault(tmp_path).has(key(1))
    vault.flush()
    assert Vault(tmp_path).has(key(1))
    vault.close()


def test_an_empty_or_missing_vault_reads_as_empty(tmp_path: Path) -> None:
    with Vault(tmp_path / "none") as vault:
        assert vault.get(key(1)) is None
        assert vault.bytes_per_token == 0
    assert not (tmp_path / "none").exists()


def test_the_key_names_teacher_rule_and_ids() -> None:
    base = Vault.key("a", 50, [1, 2], [3])
    rules: list[Rule] = [51, Draws(50), Draws(50, 1), Draws(51)]
    others = [Vault.key("a", rule, [1, 2], [3]) for rule in rules]
    others += [Vault.key("b", 50, [1, 2], [3]), Vault.key("a", 50, [1], [2, 3]), Vault.key("a", 50, [1, 2], [4])]
    assert len({base, *others}) == 8
    assert base == Vault.key("a", 50, (1, 2), (3,))
    assert base == "fc1826b60db6b5f98fe277630041ac59"  # projects hold it


def test_a_reader_sees_what_a_writer_adds(tmp_path: Path) -> None:
    reader = Vault(tmp_path)
    with Vault(tmp_path) as writer:
        for number in range(5):
            writer.put(key(number), signal(4, 414, 10, seed=number))
            writer.flush()
            assert reader.has(key(number))
            assert reader.get(key(number)) is not None
    reader.close()


def test_there_is_one_writer(tmp_path: Path) -> None:
    with Vault(tmp_path) as first, Vault(tmp_path) as second:
        first.put(key(1), signal(3, 414, 10))
        with pytest.raises(KnownError, match="Another job"):
            second.put(key(2), signal(3, 414, 10))
    with Vault(tmp_path) as third:
        third.put(key(2), signal(3, 414, 10))


def test_a_pack_cut_anywhere_keeps_its_whole_records_and_takes_new_ones(tmp_path: Path) -> None:
    original = filled(tmp_path / "vault")
    size = (tmp_path / "vault" / PACK_NAME).stat().st_size
    rng = random.Random(3)
    for cut in (0, 1, size - 1, *(rng.randrange(size) for _ in range(30))):
        folder = tmp_path / f"cut{cut}"
        shutil.copytree(tmp_path / "vault", folder)
        os.truncate(folder / PACK_NAME, cut)
        index = (folder / INDEX_NAME).stat().st_size
        match cut % 3:
            case 0:
                (folder / INDEX_NAME).unlink()
            case 1:
                os.truncate(folder / INDEX_NAME, rng.randrange(index))
        left = stored(folder)
        assert all(same(left[name], original[name]) for name in left)
        assert list(left) == list(original)[: len(left)]
        with Vault(folder) as vault:
            vault.put(key(50), signal(3, 414, 10, seed=50))
        with Vault(folder) as vault:
            assert vault.get(key(50)) is not None
        assert list(stored(folder)) == list(left)


@pytest.mark.parametrize("name", [PACK_NAME, INDEX_NAME, LOCK_NAME])
def test_a_flipped_bit_is_noticed_and_costs_one_signal_at_most(tmp_path: Path, name: str) -> None:
    original, rng = filled(tmp_path / "vault"), random.Random(4)
    (tmp_path / "vault" / LOCK_NAME).write_bytes(bytes(20))
    sound = (tmp_path / "vault" / name).read_bytes()
    for attempt in range(200):
        folder = tmp_path / f"flip{attempt}"
        shutil.copytree(tmp_path / "vault", folder)
        data = bytearray(sound)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (folder / name).write_bytes(data)
        if attempt % 2 and name == PACK_NAME:
            (folder / INDEX_NAME).unlink()
        with Vault(folder) as vault:
            left = {name: found for name in original if (found := vault.get(name)) is not None}
            assert len(left) >= (19 if name == PACK_NAME else 20)
            assert all(same(left[name], original[name]) for name in left)
            assert all((vault.look(name) is not None) == (name in left) for name in original)
            assert vault.damaged <= 1
            assert attempt % 2 or vault.damaged == 20 - len(left)
            vault.put(key(50), one(50))
        with Vault(folder) as vault:
            again = {name: found for name in original if (found := vault.get(name)) is not None}
            assert again.keys() == left.keys()
            assert vault.get(key(50)) is not None


def test_a_damaged_signal_can_be_stored_again(tmp_path: Path) -> None:
    filled(tmp_path)
    data = bytearray((tmp_path / PACK_NAME).read_bytes())
    data[100] ^= 255
    (tmp_path / PACK_NAME).write_bytes(data)
    assert len(stored(tmp_path)) == 19
    with Vault(tmp_path) as vault:
        vault.put(key(0), signal(5, 414, 10, seed=0))
    assert len(stored(tmp_path)) == 20


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage", "stale"])
def test_the_index_is_only_a_help(tmp_path: Path, damage: str) -> None:
    original = filled(tmp_path)
    index = tmp_path / INDEX_NAME
    data = index.read_bytes()
    broken = {
        "missing": None,
        "empty": b"",
        "cut": data[:-5],
        "garbage": random.Random(5).randbytes(len(data)),
        "stale": data[: len(data) // 2],
    }[damage]
    if broken is None:
        index.unlink()
    else:
        index.write_bytes(broken)
    left = stored(tmp_path)
    assert all(same(left[name], original[name]) for name in left)
    assert len(left) == 20


@pytest.mark.faults
def test_a_writer_killed_in_mid_write_loses_nothing_flushed(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from kdstudio.teachers.vault import Vault\n"
        "from tests.unit.teachers.test_vault import key; from tests.unit.teachers.test_vault_format import signal\n"
        "vault, one = Vault(Path(sys.argv[1])), signal(50, 414, 100)\n"
        "for number in range(100000):\n"
        "    vault.put(key(number), one); vault.flush(); print(number, flush=True)\n"
    )
    root = str(Path(__file__).parents[3])
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, cwd=root, text=True
        )
        assert writer.stdout is not None
        flushed = [int(writer.stdout.readline()) for _ in range(20 + 7 * attempt)]
        writer.kill()
        writer.stdout.close()
        writer.wait()
        with Vault(folder) as vault:
            assert all(vault.get(key(number)) is not None for number in flushed)
            vault.put(key(-1 % 1000003), signal(3, 414, 10))
