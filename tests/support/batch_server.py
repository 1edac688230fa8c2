"""An endpoint in a process of its own that answers in batches, in both dialects, and keeps its own ledger.

`python -m tests.support.batch_server LEDGER TOLD` prints its port and serves until its standard input ends. Each
question of a batch, and each that is asked by itself, is written into LEDGER (a JSON line) before it is answered: what
becomes of it, and what is billed for it. TOLD is JSON:

`seconds` that a batch takes; `creates`: what goes wrong with the first calls that create a batch ("429", "500", "lost":
created and answered 500, "drop": created and not answered at all); `batches`: what goes wrong with the first batches
("half" of its questions fail, "expired" and "cancelled" after half of them, "garbage" and "names": lines that cannot be
told apart, "torn": lines that broke off after their name, "twice": two lines of one name, "crowded" and "failed" as a
whole, "refused": each question is refused for `refuses`, "shuffled"); `refuses`: a field that no request may carry.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.paid_server import INPUT, OUTPUT

TOKENS, PAGE, SHARE = 8, 3, 0.5
_ROOT = Path(__file__).resolve().parents[2]
_BASE: dict[str, Any] = {
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "created_at": 1,
    "completion_window": "24h",
    "input_file_id": "f",
}
_ERRORS = {429: "rate_limit_error", 500: "api_error", 400: "invalid_request_error"}


@dataclass
class Kept:
    """A batch at the provider: `results` are what its requests came to, by name."""

    id: str
    dialect: str
    made: float
    fault: str
    metadata: dict[str, str]
    names: list[str]
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Provider:
    """Everything that the server knows; one lock around it."""

    def __init__(self, ledger: Path, told: dict[str, Any]) -> None:
        self.ledger, self.told, self.lock = ledger, told, threading.Lock()
        self.files: dict[str, bytes] = {}
        self.batches: list[Kept] = []
        self.creates = 0

    def write(self, **entry: Any) -> None:
        with self.ledger.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")

    def next_create(self) -> str:
        self.creates += 1
        given = self.told.get("creates", [])
        return given[self.creates - 1] if self.creates <= len(given) else ""

    def create(self, dialect: str, requests: list[tuple[str, dict[str, Any]]], metadata: dict[str, str]) -> Kept:
        """Take a batch; what becomes of each question is settled, and billed, at once."""
        faults = self.told.get("batches", [])
        fault = faults[len(self.batches)] if len(self.batches) < len(faults) else ""
        identity = f"batch_{len(self.batches) + 1:03}"
        made = Kept(identity, dialect, time.monotonic(), fault, metadata, [name for name, _ in requests])
        for place, (name, body) in enumerate(requests):
            outcome = self._outcome(fault, place, len(requests), body)
            billed = outcome == "answered"
            cost = SHARE * cost_of(said(body)) if billed else 0.0
            self.write(batch=identity, name=name, prompt=said(body), outcome=outcome, billed=billed, cost=cost)
            self._result(made, name, body, outcome)
        _spoil(made)
        self.batches.append(made)
        return made

    def _outcome(self, fault: str, place: int, count: int, body: dict[str, Any]) -> str:
        late = place >= count // 2
        if fault in ("crowded", "failed"):
            return "refused"
        if self.told.get("refuses") in body:
            return "unsupported"
        if fault == "half":
            return ("429", "500", "answered", "answered")[place % 4]
        return fault if fault in ("expired", "cancelled") and late else "answered"

    def _result(self, made: Kept, name: str, body: dict[str, Any], outcome: str) -> None:
        if outcome == "refused":
            return
        if made.dialect == "openai":
            if outcome != "cancelled":  # those have no line at all
                answered = outcome == "answered"
                (made.lines if answered else made.errors).append(_openai_line(name, body, outcome))
        else:
            made.lines.append(_anthropic_line(name, body, outcome))

    def ended(self, batch: Kept) -> bool:
        return time.monotonic() - batch.made >= float(self.told.get("seconds", 0.0))

    def find(self, identity: str) -> Kept | None:
        return next((batch for batch in self.batches if batch.id == identity), None)


def said(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"] if isinstance(body["messages"][-1]["content"], str) else _blocks(body))


def _blocks(body: dict[str, Any]) -> str:
    return "".join(str(block.get("text", "")) for block in body["messages"][-1]["content"])


def cost_of(prompt: str) -> float:
    return ((4 + len(prompt.split())) * INPUT + TOKENS * OUTPUT) / 1e6


def _text(body: dict[str, Any]) -> str:
    return " ".join([f"Answer to {said(body)}", *[f"word{number}" for number in range(TOKENS - 1)]])


def answer(dialect: str, body: dict[str, Any]) -> dict[str, Any]:
    """A whole answer, as one that is not streamed."""
    tokens = 4 + len(said(body).split())
    if dialect == "anthropic":
        usage = {"input_tokens": tokens, "output_tokens": TOKENS}
        content = [{"type": "text", "text": _text(body)}]
        base = {"id": "m", "type": "message", "role": "assistant", "model": body["model"]}
        return {**base, "content": content, "stop_reason": "end_turn", "usage": usage}
    message = {"role": "assistant", "content": _text(body)}
    usage = {"prompt_tokens": tokens, "completion_tokens": TOKENS, "total_tokens": tokens + TOKENS}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return {"id": "c", "object": "chat.completion", "model": body["model"], "choices": choices, "usage": usage}


def _refusal(outcome: str) -> tuple[int, str]:
    if outcome == "unsupported":
        return 400, "Unsupported parameter: seed and temperature are not supported with this model."
    return int(outcome), "too many requests" if outcome == "429" else "the server failed"


def _openai_line(name: str, body: dict[str, Any], outcome: str) -> str:
    base = {"id": f"r_{name}", "custom_id": name}
    if outcome == "answered":
        response = {"status_code": 200, "request_id": "q", "body": answer("openai", body)}
        return json.dumps({**base, "response": response, "error": None})
    if outcome == "expired":
        error = {"code": "batch_expired", "message": "This request could not be executed before the batch expired."}
        return json.dumps({**base, "response": None, "error": error})
    status, words = _refusal(outcome)
    failed = {"error": {"message": words, "type": "error", "code": None, "param": None}}
    return json.dumps({**base, "response": {"status_code": status, "body": failed}, "error": None})


def _anthropic_line(name: str, body: dict[str, Any], outcome: str) -> str:
    result: dict[str, Any] = {"type": outcome.replace("cancelled", "canceled")}
    if outcome == "answered":
        result = {"type": "succeeded", "message": answer("anthropic", body)}
    elif outcome not in ("expired", "cancelled"):
        status, words = _refusal(outcome)
        error = {"type": _ERRORS[status], "message": words}
        result = {"type": "errored", "error": {"type": "error", "error": error}}
    return json.dumps({"custom_id": name, "result": result})


def _spoil(batch: Kept) -> None:
    """What a batch's fault does to the lines of its answers; they always come out of order."""
    lines, few = batch.lines, max(1, len(batch.lines) // 8)
    random.Random(3).shuffle(lines)
    for place in range(few if lines else 0):
        match batch.fault:
            case "garbage":
                lines[place] = '{"paid": but torn "answer'
            case "torn":
                lines[place] = lines[place][: lines[place].index("custom_id") + 60]
            case "names":
                lines[place] = lines[place].replace(_name(lines[place]), "nobody")
            case "twice" if place == 0 and len(lines) > 1:
                lines[0] = lines[0].replace(_name(lines[0]), _name(lines[1]))


def _name(line: str) -> str:
    return str(json.loads(line)["custom_id"])


class Handler(BaseHTTPRequestHandler):
    """Both dialects, told apart by their paths."""

    protocol_version = "HTTP/1.1"
    provider: Provider
    key: str

    def do_POST(self) -> None:
        """Create something, or answer a question."""
        data = self.rfile.read(int(self.headers.get("content-length", "0")))
        if not self._may():
            return
        with self.provider.lock:
            match urlsplit(self.path).path:
                case "/v1/files":
                    identity = f"file_{len(self.provider.files) + 1:03}"
                    self.provider.files[identity] = _uploaded(data)
                    made = {"id": identity, "object": "file", "bytes": 1, "created_at": 1, "filename": "f.jsonl"}
                    self._json(200, {**made, "purpose": "batch", "status": "processed"})
                case "/v1/batches":
                    self._create("openai", json.loads(data))
                case "/v1/messages/batches":
                    self._create("anthropic", json.loads(data))
                case path:
                    self._alone("anthropic" if path.endswith("/messages") else "openai", json.loads(data))

    def _may(self) -> bool:
        given = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
        if self.key and given != self.key:
            self._error(401, "Incorrect API key")
        return not self.key or given == self.key

    def _alone(self, dialect: str, body: dict[str, Any]) -> None:
        if self.provider.told.get("refuses") in body:
            self._error(*_refusal("unsupported"))
            return
        cost = cost_of(said(body))
        self.provider.write(batch="", name="", prompt=said(body), outcome="answered", billed=True, cost=cost)
        self._json(200, answer(dialect, body))

    def _create(self, dialect: str, body: dict[str, Any]) -> None:
        fault = self.provider.next_create()
        if fault in ("429", "500"):
            self._error(int(fault), "not now")
            return
        if dialect == "openai":
            lines = [json.loads(line) for line in self.provider.files[body["input_file_id"]].splitlines()]
            requests = [(line["custom_id"], line["body"]) for line in lines]
        else:
            requests = [(one["custom_id"], one["params"]) for one in body["requests"]]
        made = self.provider.create(dialect, requests, body.get("metadata") or {})
        if fault == "lost":
            self._error(500, "created all the same")
        elif fault == "drop":
            self.close_connection = True
        else:
            self._json(200, self._shown(made))

    def do_GET(self) -> None:
        """List and show batches, and hand out their results."""
        if not self._may():
            return
        split, query = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        parts = split.path.removeprefix("/v1/").split("/")
        with self.provider.lock:
            if parts[0] == "files":
                batch = self.provider.find(parts[1].partition("-")[2])
                assert batch is not None
                self._lines(batch.errors if parts[1].startswith("errors") else batch.lines)
            elif parts[-1] == "batches":
                self._list("anthropic" if parts[0] == "messages" else "openai", query)
            elif (batch := self.provider.find(parts[-2] if parts[-1] == "results" else parts[-1])) is None:
                self._error(404, "no such batch")
            elif parts[-1] == "results":
                self._lines(batch.lines)
            else:
                self._json(200, self._shown(batch))

    def _list(self, dialect: str, query: dict[str, list[str]]) -> None:
        after = (query.get("after_id") or query.get("after") or [""])[0]
        newest = [batch for batch in reversed(self.provider.batches) if batch.dialect == dialect]
        start = 1 + next((place for place, one in enumerate(newest) if one.id == after), -1) if after else 0
        page = newest[start : start + min(PAGE, int((query.get("limit") or ["20"])[0]))]
        more = start + len(page) < len(newest)
        ends = {"first_id": page[0].id if page else None, "last_id": page[-1].id if page else None}
        self._json(200, {"object": "list", "data": [self._shown(one) for one in page], "has_more": more, **ends})

    def _shown(self, batch: Kept) -> dict[str, Any]:
        over, count = self.provider.ended(batch), len(batch.names)
        if batch.dialect == "anthropic":
            counts = {"processing": 0 if over else count, "succeeded": count if over else 0}
            counts |= {"errored": 0, "canceled": 0, "expired": 0}
            day, url = "2026-01-01T00:00:00Z", f"http://{self.headers['host']}/v1/messages/batches/{batch.id}/results"
            times = {"created_at": day, "expires_at": day, "ended_at": day if over else None}
            times |= {"cancel_initiated_at": day if batch.fault == "cancelled" else None}
            shown = {"id": batch.id, "type": "message_batch", "request_counts": counts, **times}
            status = "ended" if over else "in_progress"
            return {**shown, "processing_status": status, "results_url": url if over else None}
        whole = batch.fault in ("crowded", "failed")
        ends = "failed" if whole else batch.fault if batch.fault in ("expired", "cancelled") else "completed"
        code = "token_limit_exceeded" if batch.fault == "crowded" else "invalid"
        errors = {"object": "list", "data": [{"code": code, "message": f"Enqueued too much: {batch.fault}"}]}
        return {
            **_BASE,
            "id": batch.id,
            "metadata": batch.metadata,
            "status": ends if over else "in_progress",
            "errors": errors if over and whole else None,
            "output_file_id": f"lines-{batch.id}" if over and batch.lines else None,
            "error_file_id": f"errors-{batch.id}" if over and batch.errors else None,
            "request_counts": {"total": count, "completed": len(batch.lines) if over else 0, "failed": 0},
        }

    def _lines(self, lines: list[str]) -> None:
        self._send(200, "application/binary", "\n".join(lines).encode() + b"\n")

    def _error(self, status: int, words: str) -> None:
        kind = _ERRORS.get(status, "authentication_error" if status == 401 else "not_found_error")
        error = {"message": words, "type": kind, "code": None, "param": None}
        self._json(status, {"type": "error", "error": error})

    def _json(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Says nothing of clients that are killed."""

    def handle_error(self, *_: Any) -> None:
        """Say nothing."""


def _uploaded(data: bytes) -> bytes:
    """The file of a form: what follows the head of the part that has a file's name."""
    boundary = data.partition(b"\r\n")[0]
    part = next(one for one in data.split(boundary) if b"filename=" in one)
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


def main(words: list[str]) -> None:
    """Serve until standard input ends."""
    Handler.provider = Provider(Path(words[0]), json.loads(words[1]))
    Handler.key = sys.stdin.readline().strip()
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


@dataclass
class BatchServer:
    """The process, as a context manager; `told` as above, `key` the only one that it accepts."""

    ledger: Path
    key: str = ""
    told: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.support.batch_server", str(self.ledger), json.dumps(self.told)]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.key}\n")
        self._process.stdin.flush()
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
