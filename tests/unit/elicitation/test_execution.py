"""Running a stranger's Python: what it may do works, what it may not is stopped in time, nothing else is touched."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.elicitation import confinement, execution
from kdstudio.elicitation.execution import Limits, protects, run_python
from tests.unit.elicitation.hostile_code import CHEATS, HOSTILE, TESTS

SHORT = Limits(seconds=1.2, processor_seconds=1.0, folder_bytes=32 << 20)


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody may touch, with a secret."""
    folder = tmp_path / "victim"
    folder.mkdir()
    kept = folder / "kept"
    kept.write_text("hush")
    os.utime(kept, (1e9, 1e9))
    yield folder
    assert [path.name for path in folder.iterdir()] == ["kept"]
    assert kept.read_text() == "hush"
    assert kept.stat().st_mtime == 1e9
    assert kept.stat().st_mode & 0o777 == 0o644


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server listens to which nobody may come."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server.getsockname()[1]
        with pytest.raises(BlockingIOError):
            server.accept()


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("kdstudio-code-*"))


def test_a_program_reads_its_input_and_prints_its_answer() -> None:
    ran = run_python("import sys\na, b = map(int, input().split())\nprint(a * b, file=sys.stderr)", stdin="6 7\n")
    assert (ran.passed, ran.output, ran.error, ran.stopped) == (True, "42\n", "", "")
    assert run_python("print(len(open(0).read()))", stdin="é" * 100_000).output == "100000\n"
    assert run_python("print('ok')\nraise SystemExit").passed


def test_the_standard_library_works_as_usual() -> None:
    code = """
import asyncio, collections, dataclasses, datetime, decimal, enum, fractions, hashlib, heapq, itertools, json, math
import os, pathlib, pickle, queue, random, re, shutil, sqlite3, statistics, threading, typing, zoneinfo
@dataclasses.dataclass
class Point:
    x: int = 1
assert pickle.loads(pickle.dumps(Point(2))) == Point(2)
async def go():
    await asyncio.sleep(0)
    return 5
assert asyncio.run(go()) == 5
pathlib.Path("a").write_text("b")
shutil.copy2("a", "c")
os.rename("c", "d")
assert sorted(os.listdir()) == ["a", "d"]
sqlite3.connect("e").execute("create table t (a)")
found = []
worker = threading.Thread(target=lambda: found.append(1)); worker.start(); worker.join()
assert found == [1] and __name__ == "__main__"
datetime.datetime.now(zoneinfo.ZoneInfo("UTC"))
"""
    ran = run_python(code)
    assert ran.passed, ran


def test_tests_decide_and_errors_name_their_line() -> None:
    code = "def add(a, b):\n    return a + b\n"
    assert run_python(code, "assert add(1, 2) == 3").passed
    wrong = run_python(code, "\nassert add(1, 2) == 4, add(1, 2)")
    assert (wrong.passed, wrong.error) == (False, "the tests, line 2: AssertionError: 3")
    assert run_python("x = 1\n1 / 0").error == "line 2: ZeroDivisionError: division by zero"
    assert run_python("x = (").error == "line 1: SyntaxError: '(' was never closed"
    assert "null bytes" in run_python("x = '\0'").error
    assert "surrogates" in run_python("x = '\ud800'").error
    assert not run_python("x = 1" * 1_000_000).passed


def test_sets_keep_their_order_from_run_to_run() -> None:
    assert len({run_python("print({'a', 'b', 'c', 'd', 'e', 'f'})").output for _ in range(3)}) == 1


@pytest.mark.faults
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_code_is_stopped_and_touches_nothing(name: str, victim: Path, port: int) -> None:
    before, began = folders(), time.monotonic()
    code = HOSTILE[name].replace("VICTIM", str(victim)).replace("PORT", str(port)).replace("PARENT", str(os.getpid()))
    ran = run_python(code, TESTS, limits=SHORT)
    assert not ran.passed
    assert "ESCAPED" not in ran.output, ran
    assert ran.error
    assert len(ran.output) <= SHORT.output_bytes
    assert time.monotonic() - began < SHORT.seconds + 2
    assert folders() == before


@pytest.mark.faults
@pytest.mark.parametrize("name", CHEATS)
def test_cheats_do_not_pass(name: str) -> None:
    assert not run_python(CHEATS[name], TESTS, limits=SHORT).passed


def test_limits_are_named() -> None:
    assert "longer than 0.5 s" in run_python("import time; time.sleep(9)", limits=Limits(seconds=0.5)).stopped
    assert "processor time" in run_python("while True: pass", limits=Limits(processor_seconds=1)).stopped
    assert "printed more than" in run_python("print('x' * 70000)").stopped
    assert run_python("print('x' * 65535)").passed
    assert "MemoryError" in run_python("bytearray(1 << 40)").error
    small = Limits(memory_bytes=16 << 20)
    assert run_python("import json, dataclasses, collections", limits=small).passed
    assert "MemoryError" in run_python("bytearray(32 << 20)", limits=small).error
    assert "crashed" in run_python("import os; os.abort()").error


def test_the_folder_is_watched_where_it_is_on_the_disk(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"x" * 1000)
    deep = tmp_path
    for _ in range(60):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert execution._usage(tmp_path, 1000) == (20_000, 80)
    assert execution._usage(tmp_path, 10)[1] == 11


def test_a_folder_nested_beyond_any_path_is_removed(tmp_path: Path) -> None:
    top, here = tmp_path / "top", Path.cwd()
    top.mkdir()
    os.chdir(top)
    try:
        for _ in range(400):
            Path("deeper-still").mkdir()
            os.chdir("deeper-still")
    finally:
        os.chdir(here)
    execution._remove(top)
    assert not top.exists()


def test_what_is_protected_is_said_in_words() -> None:
    said = str(protects())
    assert "Protected:" in said
    assert "Not protected:" in said
    assert "passing is evidence, not proof" in said
    weaker = execution._in_sentences(frozenset())
    assert len(weaker.not_protected) == len(protects().not_protected) + len(_held())


def _held() -> set[str]:
    """The locks of this machine, tried in a child without Python's audit hooks."""
    return set(locked("print(*sorted(held), sep=';')").strip().split(";")) - {""}


def locked(code: str, *, hooks: bool = False) -> str:
    """What `code` prints in a child with the system's locks alone, or with the audit hooks alone."""
    with tempfile.TemporaryDirectory() as folder:
        limits = "{'memory_bytes': 1 << 29, 'processor_seconds': 5, 'file_bytes': 1 << 20, 'folder_bytes': 1 << 22,"
        limits += " 'open_files': 64}"
        lock = f"held = confine({folder!r}, {limits}, {os.getpid()})"
        if hooks:
            lock = f"import os; os.chdir({folder!r}); watch_calls({folder!r}, files=True)"
        start = f"import sys; sys.path.append({str(Path(confinement.__file__).parents[2])!r})\n"
        start += f"from kdstudio.elicitation.confinement import confine, watch_calls\n{lock}\n"
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", start + code], capture_output=True, text=True, timeout=30
        )
        assert not done.stderr, done.stderr
        return done.stdout


TRY = """
def attempt(name, action):
    try:
        action()
        print(name)
    except OSError:
        pass
"""


@pytest.mark.faults
def test_the_systems_locks_hold_without_python(victim: Path, port: int) -> None:
    code = (
        TRY
        + f"""
import ctypes, os, socket, signal
c = ctypes.CDLL(None, use_errno=True)
def call(name, *values):
    if getattr(c, name)(*values) < 0:
        raise OSError(ctypes.get_errno())
attempt('fork', lambda: call('fork') or os._exit(0))
attempt('vfork', os.fork)
attempt('exec', lambda: os.execv('/bin/true', ['true']))
attempt('socket', lambda: call('socket', 2, 1, 0))
attempt('unix socket', lambda: socket.socket(socket.AF_UNIX))
attempt('datagrams', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
pair = socket.socketpair()
attempt('connect', lambda: pair[0].connect('/dev/log'))
attempt('bind', lambda: pair[0].bind('/tmp/x'))
pair[0].send(b'x')
attempt('kill', lambda: call('kill', {os.getpid()}, 0))
attempt('kill all', lambda: call('kill', -1, 0))
attempt('pidfd', lambda: call('syscall', 434, {os.getpid()}, 0))
attempt('ptrace', lambda: call('ptrace', 16, {os.getpid()}, 0, 0))
attempt('unshare', lambda: call('unshare', 0x10000000))
attempt('memory file', lambda: os.memfd_create('a'))
attempt('shared memory', lambda: call('shmget', 5, 4096, 0o1666))
attempt('limits of others', lambda: call('prlimit', {os.getpid()}, 0, None, None))
attempt('x32', lambda: call('syscall', 0x40000000 + 57))
os.chmod({str(victim / "kept")!r}, 0)
os.utime({str(victim / "kept")!r}, (1, 1))
os.kill(os.getpid(), 0)
print('alive')
"""
    )
    if confinement.CALLS in _held():
        assert locked(code) == "alive\n"


@pytest.mark.faults
def test_files_outside_are_locked_without_python(victim: Path) -> None:
    code = (
        TRY
        + f"""
import os
kept, made = {str(victim / "kept")!r}, {str(victim / "made")!r}
attempt('read', lambda: open(kept).read())
attempt('write', lambda: open(kept, 'a'))
attempt('make', lambda: open(made, 'w'))
attempt('truncate', lambda: os.truncate(kept, 0))
attempt('delete', lambda: os.remove(kept))
attempt('link', lambda: os.link(kept, 'l'))
attempt('move in', lambda: os.rename(kept, 'l'))
attempt('list', lambda: os.listdir({str(victim)!r}))
attempt('users', lambda: open('/etc/passwd').read())
attempt('processes', lambda: os.listdir('/proc'))
attempt('device', lambda: os.mknod('n', 0o20666, os.makedev(1, 1)))
attempt('leave', lambda: os.chroot('.'))
open('mine', 'w').write('x')
print(open('mine').read())
"""
    )
    if confinement.FILES in _held():
        assert locked(code) == "x\n"


@pytest.mark.faults
def test_where_only_audit_hooks_are_they_refuse_the_same(victim: Path, port: int) -> None:
    code = (
        TRY
        + f"""
import os, socket, subprocess, shutil, sqlite3
kept, made = {str(victim / "kept")!r}, {str(victim / "made")!r}
attempt('read', lambda: open(kept).read())
attempt('write', lambda: os.open(kept, os.O_WRONLY))
attempt('make', lambda: open(made, 'w'))
attempt('dotted', lambda: open('../../../../../..' + made, 'w'))
attempt('link', lambda: os.symlink(kept, 'l'))
attempt('truncate', lambda: os.truncate(kept, 0))
attempt('delete', lambda: os.remove(kept))
attempt('move in', lambda: os.rename(kept, 'l'))
attempt('rights', lambda: os.chmod(kept, 0))
attempt('times', lambda: os.utime(kept, (1, 1)))
attempt('list', lambda: os.listdir({str(victim)!r}))
attempt('tree', lambda: shutil.rmtree({str(victim)!r}))
attempt('sqlite', lambda: sqlite3.connect(made))
attempt('users', lambda: open('/etc/passwd').read())
attempt('socket', lambda: socket.create_connection(('127.0.0.1', {port})))
attempt('name', lambda: socket.getaddrinfo('localhost', 1))
attempt('program', lambda: subprocess.run(['true']))
attempt('shell', lambda: os.system('true'))
attempt('fork', os.fork)
attempt('exec', lambda: os.execv('/bin/true', ['true']))
attempt('kill', lambda: os.kill({os.getpid()}, 0))
attempt('group', lambda: os.killpg(0, 0))
open('mine', 'w').write('x')
os.mkdir('d'); os.rename('mine', 'd/mine')
print(open('d/mine').read(), os.listdir())
"""
    )
    assert locked(code, hooks=True) == "x ['d']\n"


@pytest.mark.slow
def test_twenty_runs_a_second_on_one_core() -> None:
    began = sum(os.times()[:4])
    for _ in range(100):
        assert run_python("def f(x): return x + 1", "assert f(1) == 2").passed
    assert 100 / (sum(os.times()[:4]) - began) > 20  # processor time, ours and the children's: the machine may be busy
