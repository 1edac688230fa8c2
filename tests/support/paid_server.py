"""An endpoint in a process of its own that bills like a real one, with faults, and keeps its own ledger.

It speaks OpenAI's chat completions, and at /v1/messages Anthropic's.

`python -m tests.support.paid_server LEDGER [--seconds S] [--faults SHARE] ...` prints its port and serves until its
standard input ends. Each request is written into LEDGER (a JSON line) before a byte of the answer is sent: what was
asked under which name, what goes wrong with it, and what it costs. Faults depend on the request's name alone.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

FAULTS = ("429 with", "429 without", "500", "late", "nothing", "half", "wrong json", "html", "wrong model")
REFUSALS = ("429 with", "429 without", "500", "401")
INPUT, OUTPUT = 1.0, 4.0
"""US dollars for a million tokens."""
_ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Billing:
    """What the server is told at its start."""

    ledger: IO[str]
    seconds: float = 0.0
    faults: float = 0.0
    late_seconds: float = 1.0
    tokens: int = 8
    key: str = ""
    revoke_after: int = 0
    echo: bool = False
    only: str = ""
    asked: int = 0

    def fault(self, name: str, number: int) -> str:
        """What goes wrong with a request, by its name; "" for nothing.

        A web page in the place of the very first answer rightly ends a run (the URL is wrong), so that one is sound.
        """
        if self.revoke_after and number > self.revoke_after:
            return "401"
        if number == 1 and not self.only:
            return ""
        digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
        chance = int.from_bytes(digest[:4], "little") / 2**32
        return (self.only or FAULTS[digest[4] % len(FAULTS)]) if chance < self.faults else ""

    def enter(self, name: str, prompt: str, fault: str) -> dict[str, int]:
        """Write a request down; returns its usage. What the server refuses is not billed, all else is."""
        used = {"prompt_tokens": 4 + len(prompt.split()), "completion_tokens": self.tokens}
        used["total_tokens"] = sum(used.values())
        cost = (used["prompt_tokens"] * INPUT + used["completion_tokens"] * OUTPUT) / 1e6
        billed = fault not in REFUSALS
        entry = {"name": name, "prompt": prompt, "fault": fault, "billed": billed, "cost": cost if billed else 0.0}
        self.ledger.write(json.dumps(entry) + "\n")
        self.ledger.flush()
        return used


async def _serve(billing: Billing, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while (head := await reader.readuntil(b"\r\n\r\n")) != b"":
            lines = head.decode("latin-1").split("\r\n")
            headers = {"path": lines[0].split(" ")[1]} | {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            body = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
            if not await _answer(billing, headers, body, writer):
                break
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client left, or was killed
    finally:
        writer.close()


async def _answer(
    billing: Billing, headers: dict[str, str], body: dict[str, Any], writer: asyncio.StreamWriter
) -> bool:
    """Answer one request; false when the connection ends with it."""
    billing.asked += 1
    name, prompt = headers.get("x-client-request-id", ""), _said(body["messages"][-1]["content"])
    fault = billing.fault(name, billing.asked)
    if billing.key and headers.get("authorization") != f"Bearer {billing.key}":
        fault = "401"
    usage = billing.enter(name, prompt, fault)
    await asyncio.sleep(billing.late_seconds if fault == "late" else billing.seconds)
    if billing.echo:
        prompt += f" {headers.get('authorization', '')}"
    if fault in REFUSALS:
        words = {"401": f"Incorrect API key: {headers.get('authorization', '')}", "500": "the server failed"}
        more = "Retry-After: 0.05\r\n" if fault == "429 with" else ""
        _send(writer, int(fault[:3]), "application/json", _error(words.get(fault, "too many requests")), more)
        await writer.drain()
        return True
    pattern = _message_pattern if headers["path"].endswith("/messages") else _pattern
    return await _billed(fault, prompt, functools.partial(_stream, pattern, prompt, usage), body["model"], writer)


def _said(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


async def _billed(
    fault: str, prompt: str, answer: Callable[[str], bytes], model: str, writer: asyncio.StreamWriter
) -> bool:
    """What is sent for what is billed; false when the connection ends with it."""
    match fault:
        case "nothing":
            return False
        case "half":
            stream = answer(model)
            writer.write(_HEAD + f"{len(stream):x}\r\n".encode() + stream[: len(stream) // 2])
            await writer.drain()
            return False
        case "wrong json":
            _send(writer, 200, "application/json", json.dumps({"paid": prompt, "unexpected": [1, 2]}).encode())
        case "html":
            _send(writer, 200, "text/html", b"<!doctype html><html><body>Gateway</body></html>")
        case _:
            stream = answer("another" if fault == "wrong model" else model)
            writer.write(_HEAD + f"{len(stream):x}\r\n".encode() + stream + b"\r\n0\r\n\r\n")
    await writer.drain()
    return True


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


@functools.lru_cache(maxsize=64)
def _pattern(model: str, tokens: int, prompt_tokens: int) -> bytes:
    """A whole stream, with a mark where the prompt goes: what an answer costs the server is not what is measured."""
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    base = {"id": "x", "object": "chat.completion.chunk", "model": model}
    pieces = ["Answer to @@", *[f" word{number}" for number in range(tokens - 1)]]
    choices: list[list[Any]] = [[{"index": 0, "delta": {"content": text}, "finish_reason": None}] for text in pieces]
    choices += [[{"index": 0, "delta": {}, "finish_reason": "stop"}]]
    events = [{**base, "choices": choice} for choice in choices] + [{**base, "choices": [], "usage": usage}]
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"


@functools.lru_cache(maxsize=64)
def _message_pattern(model: str, tokens: int, prompt_tokens: int) -> bytes:
    """The same in Anthropic's form."""
    message = {"type": "message", "role": "assistant", "model": model, "content": []}
    usage = {"input_tokens": prompt_tokens, "cache_read_input_tokens": 0, "output_tokens": 1}
    pieces = ["Answer to @@", *[f" word{number}" for number in range(tokens - 1)]]
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": usage}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}
            for text in pieces
        ],
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": tokens}},
        {"type": "message_stop"},
    ]
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def _stream(pattern_of: Callable[[str, int, int], bytes], prompt: str, usage: dict[str, int], model: str) -> bytes:
    pattern = pattern_of(model, usage["completion_tokens"], usage["prompt_tokens"])
    return pattern.replace(b"@@", json.dumps(prompt)[1:-1].encode())


def _error(words: str) -> bytes:
    return json.dumps({"error": {"message": words, "type": "error", "code": None, "param": None}}).encode()


def _send(writer: asyncio.StreamWriter, status: int, kind: str, data: bytes, more: str = "") -> None:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}\r\n"
    writer.write(head.encode() + data)


async def _run(billing: Billing) -> None:
    server = await asyncio.start_server(lambda reader, writer: _serve(billing, reader, writer), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main(words: Sequence[str]) -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("ledger", type=Path)
    kinds: dict[str, Callable[[str], Any]] = {
        "seconds": float,
        "faults": float,
        "late_seconds": float,
        "tokens": int,
        "revoke_after": int,
        "echo": lambda word: word == "True",
        "only": str,
    }
    for name, kind in kinds.items():
        parser.add_argument(f"--{name}", type=kind, default={"tokens": 8, "only": ""}.get(name, kind("0")))
    given = vars(parser.parse_args(words))
    key = sys.stdin.readline().strip()  # as a real client: never in argv
    with given.pop("ledger").open("a", encoding="utf-8") as ledger:
        asyncio.run(_run(Billing(ledger, key=key, **given)))


@dataclass
class PaidServer:
    """The process, as a context manager. `told`: the options of `Billing`; `key`: the only one that it accepts."""

    ledger: Path
    key: str = ""
    told: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        flags = [word for name, value in self.told.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "tests.support.paid_server", str(self.ledger), *flags]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.key}\n")
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}/v1"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def entries(self) -> list[dict[str, Any]]:
        """The server's own ledger."""
        return [json.loads(line) for line in self.ledger.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main(sys.argv[1:])
