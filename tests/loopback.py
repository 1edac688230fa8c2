"""A real HTTP server on loopback that speaks OpenAI's chat completions, with faults that a test can ask for.

Tests of API teachers talk to it over a socket, through the real SDK: what is tested is what runs.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self

FaultKind = Literal[
    "status",  # `status` with an error object, and Retry-After if `retry_after` is set
    "close",  # the connection ends before a word
    "cut",  # the stream breaks off after `pieces` pieces, against the protocol
    "ends",  # the stream ends after `pieces` pieces as if all were well, without a finish_reason
    "slow",  # `seconds` of silence before the answer
    "wrong_json",  # 200 and JSON of another shape
    "broken_json",  # a stream whose data is no JSON
    "html",  # 200 and a web page
    "empty",  # 200 and nothing
]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one request."""

    kind: FaultKind
    status: int = 500
    message: str = "something broke"
    code: str = ""
    param: str = ""
    retry_after: str = ""
    pieces: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class Asked:
    """A chat request as the server got it. `at` is monotonic seconds."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float

    @property
    def prompt(self) -> str:
        """The text of the last user turn."""
        content = next(item["content"] for item in reversed(self.body["messages"]) if item["role"] == "user")
        return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def reply_to(prompt: str) -> str:
    """What the server answers by default."""
    return f"This is the answer to {prompt}"


@dataclass
class Loopback:
    """The server; use it as a context manager. `faults` are used up in order; `fault_for` decides by request."""

    answer: Callable[[str], str] = reply_to
    models: tuple[str, ...] = ("tiny",)
    any_model: bool = False
    key: str = ""
    streams: bool = True
    prefix: str = "/v1"
    path: str = "/chat/completions"
    refuses: tuple[str, ...] = ()
    piece_seconds: float = 0.0
    reasoning: str = ""
    faults: list[Fault] = field(default_factory=list)
    fault_for: Callable[[Asked], Fault | None] | None = None
    asked: list[Asked] = field(default_factory=list)
    served: list[str] = field(default_factory=list)
    most_at_once: int = 0

    @property
    def handler(self) -> type[Handler]:
        """What answers a connection."""
        return Handler

    def __enter__(self) -> Self:
        self.lock = threading.Lock()
        self.at_once = 0
        handler = type("Handler", (self.handler,), {"loopback": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Go away: open connections end, new ones are refused. A second call does nothing."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._server.hang_up()
        self._thread.join()

    @property
    def host(self) -> str:
        """http://127.0.0.1:PORT, without a path."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        """The base URL that a person would enter."""
        return self.host + self.prefix

    def prompts(self) -> list[str]:
        """Which prompts were asked, in order of arrival."""
        return [item.prompt for item in self.asked]

    def next_fault(self, asked: Asked) -> Fault | None:
        """What goes wrong with this request, if anything."""
        if self.refuses:
            name = next((name for name in self.refuses if name in asked.body), "")
            if name:
                return Fault("status", 400, f"Unsupported parameter: '{name}'.", "unsupported_parameter", name)
        with self.lock:
            if self.faults:
                return self.faults.pop(0)
        return self.fault_for(asked) if self.fault_for is not None else None


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Handler(BaseHTTPRequestHandler):
    """Speaks OpenAI's chat completions on one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    loopback: Loopback

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Quiet."""

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):
            self.close_connection = True  # the client left; tests do that on purpose

    def do_GET(self) -> None:
        if not self._authorised():
            return
        if self.path.partition("?")[0] == f"{self.loopback.prefix}/models":
            data = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in self.loopback.models]
            self.json(200, {"object": "list", "data": data})
        else:
            self._html(404)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        body = json.loads(self.rfile.read(length))
        loopback = self.loopback
        if self.path != f"{loopback.prefix}{loopback.path}":
            self._html(404)
            return
        if not self._authorised():
            return
        with loopback.lock:
            asked = Asked(
                len(loopback.asked) + 1,
                self.path,
                {name.lower(): value for name, value in self.headers.items()},
                body,
                time.monotonic(),
            )
            loopback.asked.append(asked)
            loopback.at_once += 1
            loopback.most_at_once = max(loopback.most_at_once, loopback.at_once)
        try:
            self._answer(asked)
        finally:
            with loopback.lock:
                loopback.at_once -= 1

    def _answer(self, asked: Asked) -> None:
        if asked.body["model"] not in self.loopback.models and not self.loopback.any_model:
            self.error(Fault("status", 404, f"The model '{asked.body['model']}' does not exist", "model_not_found"))
            return
        fault = self.loopback.next_fault(asked)
        match fault:
            case Fault(kind="status"):
                self.error(fault)
            case Fault(kind="close"):
                self.close_connection = True
            case Fault(kind="html"):
                self._html(200)
            case Fault(kind="empty"):
                self.send(200, "text/event-stream", b"")
            case Fault(kind="wrong_json"):
                self.json(200, {"unexpected": [1, 2, 3]})
            case Fault(kind="broken_json"):
                self.send(200, "text/event-stream", b'data: {"choices": [{"del\n\n')
            case _:
                if fault is not None and fault.kind == "slow":
                    time.sleep(fault.seconds)
                self.complete(asked, fault)

    def complete(self, asked: Asked, fault: Fault | None) -> None:
        words = self.loopback.answer(asked.prompt).split(" ")
        limit = asked.body.get("max_tokens") or asked.body.get("max_completion_tokens") or 1 << 20
        reason = "stop" if len(words) <= limit else "length"
        words = words[:limit]
        usage = {"prompt_tokens": len(asked.prompt.split()), "completion_tokens": len(words)}
        usage["total_tokens"] = sum(usage.values())
        if asked.body.get("stream") and self.loopback.streams:
            self._stream(asked, words, reason, usage, fault)
        else:
            message = {"role": "assistant", "content": " ".join(words)}
            choice = {"index": 0, "message": message, "finish_reason": reason}
            self.json(200, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": usage})
            self.loopback.served.append(asked.prompt)

    def _stream(self, asked: Asked, words: list[str], reason: str, usage: dict[str, int], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.loopback.reasoning:
            self._event({"delta": {"reasoning_content": self.loopback.reasoning}, "finish_reason": None})
        for index, word in enumerate(words):
            if fault is not None and index == fault.pieces and fault.kind in ("cut", "ends"):
                if fault.kind == "ends":
                    self.chunk(b"")
                self.close_connection = True
                return
            time.sleep(self.loopback.piece_seconds)
            self._event({"delta": {"content": word if index == 0 else f" {word}"}, "finish_reason": None})
        self._event({"delta": {}, "finish_reason": reason})
        if (asked.body.get("stream_options") or {}).get("include_usage"):
            self.chunk(b"data: " + json.dumps({"id": "x", "choices": [], "usage": usage}).encode() + b"\n\n")
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")
        self.loopback.served.append(asked.prompt)

    def _event(self, choice: dict[str, Any]) -> None:
        event = {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}]}
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _authorised(self) -> bool:
        wanted = self.loopback.key
        if wanted and self.headers.get("authorization") != f"Bearer {wanted}":
            self.error(Fault("status", 401, f"Incorrect API key provided: {self.headers.get('authorization')}"))
            return False
        return True

    def error(self, fault: Fault) -> None:
        error = {"message": fault.message, "type": "error", "code": fault.code or None, "param": fault.param or None}
        headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
        self.send(fault.status, "application/json", json.dumps({"error": error}).encode(), headers)

    def _html(self, status: int) -> None:
        self.send(status, "text/html; charset=utf-8", b"<!doctype html><html><body>Sign in</body></html>")

    def json(self, status: int, body: dict[str, Any]) -> None:
        self.send(status, "application/json", json.dumps(body).encode())

    def send(self, status: int, kind: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
