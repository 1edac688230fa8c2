"""The child's side of `execution`: runs a stranger's code and its tests, and says over a pipe how they ended.

The code runs before the tests are there, so that it cannot read them, and ending early proves nothing: "passed" must
carry a random word that comes along with the tests. What the driver calls after the code ran was taken by name before,
since the code may have replaced anything. It shares the process, though: code written to deceive this very program can.
Imported in an isolated Python that has nothing but the standard library.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
import types
from os import _exit, read, urandom, write

from kdstudio.elicitation.confinement import FILES, confine, watch_calls

PASSED, FAILED, RAN, HELD = b"P", b"F", b"R", b"H"
MAXIMUM_MESSAGE_BYTES = 8192
CODE, TESTS = "<code>", "<tests>"


def main() -> None:
    """Serve one task: the code comes first, the tests when it has run. Never returns."""
    receive, send = _take_channels()
    task = json.loads(_receive(receive))
    folder, limits = str(task["folder"]), task["limits"]
    held = confine(folder, limits, int(task["parent"]))
    _say(send, HELD, json.dumps(sorted(held)).encode())
    module = _prepare(str(task["stdin"]))
    watch_calls(folder, files=FILES not in held)
    _serve(receive, send, str(task["code"]), module)


def _take_channels() -> tuple[int, int]:
    """Move the pipes to the parent to numbers that nobody knows; what is printed goes to one pipe, in its order."""
    first = 20 + 2 * (urandom(1)[0] % 16)
    os.dup2(0, first, inheritable=False)
    os.dup2(1, first + 1, inheritable=False)
    os.dup2(2, 1)
    return first, first + 1


def _prepare(stdin: str) -> types.ModuleType:
    """Standard input as a file, an empty environment, no trace of this program, and a fresh `__main__`."""
    with open("stdin", "w+b") as stream:  # noqa: PTH123 - pathlib is slow to import
        stream.write(stdin.encode("utf-8", "replace"))
        stream.seek(0)
        os.dup2(stream.fileno(), 0)
    if os.name == "posix":
        os.unlink("stdin")  # noqa: PTH108
    for stream_ in (sys.stdout, sys.stderr):
        stream_.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    os.environ.clear()
    sys.argv[:] = [""]
    module = types.ModuleType("__main__")
    for name in [name for name in sys.modules if name.startswith(("ctypes", "_ctypes", "kdstudio"))]:
        del sys.modules[name]
    sys.modules["__main__"] = module
    return module


def _serve(receive: int, send: int, code: str, module: types.ModuleType) -> None:
    before, builtin_names, say, in_words = dict(vars(builtins)), vars(builtins), _say, _in_words
    run, take, flush = _run, _receive, _flush
    error = run(code, CODE, module)
    builtin_names.clear()
    builtin_names.update(before)
    exited = isinstance(error, SystemExit) and error.code in (None, 0)
    if error is not None and not exited:
        flush()
        say(send, FAILED, in_words(error, CODE))
        _exit(0)
    say(send, RAN, b"")
    message = take(receive)
    word, tests = message[:32], message[32:].decode("utf-8", "replace")
    if tests and exited:
        error = RuntimeError("the code ended itself before the tests")
    else:
        error = run(tests, TESTS, module) if tests else None
    flush()
    say(send, PASSED if error is None else FAILED, word if error is None else in_words(error, TESTS))
    _exit(0)


def _run(text: str, name: str, module: types.ModuleType) -> BaseException | None:
    try:
        exec(compile(text, name, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - what this is for
    except BaseException as error:  # noqa: BLE001 - a stranger's program may raise anything
        return error
    return None


def _in_words(error: BaseException, name: str) -> bytes:
    """`line 3: ZeroDivisionError: division by zero`."""
    try:
        line = error.lineno if isinstance(error, SyntaxError) else None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == name:
                line = trace.tb_lineno
            trace = trace.tb_next
        said = f": {error.msg if isinstance(error, SyntaxError) else error}"[:2000].rstrip(": ")
        place = f"{'the tests, ' if name == TESTS else ''}line {line}: " if line else ""
        return f"{place}{type(error).__name__}{said}".encode("utf-8", "replace")
    except BaseException:  # noqa: BLE001 - even an error's text is a stranger's code
        return b"an error that cannot be shown"


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S112 - closed or replaced by the code
            continue


def _say(send: int, kind: bytes, payload: bytes) -> None:
    payload = payload[: MAXIMUM_MESSAGE_BYTES - 16]
    message = kind + len(payload).to_bytes(8, "big") + payload
    while message:
        message = message[write(send, message) :]


def _receive(receive: int) -> bytes:
    """One message: 8 bytes of length, then so many. Ends the process when the parent has gone."""
    size = int.from_bytes(_exactly(receive, 8), "big")
    return _exactly(receive, size)


def _exactly(receive: int, size: int) -> bytes:
    pieces = b""
    while len(pieces) < size:
        piece = read(receive, min(size - len(pieces), 1 << 20))
        if not piece:
            _exit(1)
        pieces += piece
    return pieces
