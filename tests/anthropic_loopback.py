"""A real HTTP server on loopback that speaks Anthropic's Messages API, with the faults of `tests.loopback`."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from tests.loopback import Asked, Fault, Handler, Loopback

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


@dataclass
class AnthropicLoopback(Loopback):
    """The server; `refusal` are the words of a 400 for a body that it decides on, `error_after` pieces it gives up."""

    path: str = "/messages"
    cached: int = 0
    stop_reason: str = ""
    error_after: int = -1
    error_type: str = "overloaded_error"
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def handler(self) -> type[Handler]:
        """What answers a connection."""
        return _Anthropic

    def next_fault(self, asked: Asked) -> Fault | None:
        """What goes wrong with this request; a field that is refused comes before all else."""
        for name, words in self.refused:
            if name in asked.body:
                return Fault("status", 400, words)
        return super().next_fault(asked)


class _Anthropic(Handler):
    loopback: AnthropicLoopback

    def complete(self, asked: Asked, fault: Fault | None) -> None:
        """Answer as a message, whole or as events."""
        form = next((tool for tool in asked.body.get("tools", ()) if tool["name"] == "answer"), None)
        words = self.loopback.answer(asked.prompt).split(" ")
        limit = asked.body["max_tokens"]
        reason = "tool_use" if form else ("end_turn" if len(words) <= limit else "max_tokens")
        words, reason = words[:limit], self.loopback.stop_reason or reason
        used = {
            "input_tokens": len(asked.prompt.split()),
            "cache_read_input_tokens": self.loopback.cached,
            "cache_creation_input_tokens": None,
        }
        message = {"id": "msg", "type": "message", "role": "assistant", "model": asked.body["model"]}
        if asked.body.get("stream") and self.loopback.streams:
            start = {**message, "content": [], "stop_reason": None, "usage": {**used, "output_tokens": 1}}
            self._stream_message(asked, start, words, reason, fault, tool=form is not None)
            return
        block: dict[str, Any] = {"type": "text", "text": " ".join(words)}
        if form:
            block = {"type": "tool_use", "id": "t", "name": "answer", "input": json.loads(" ".join(words))}
        content = [{"type": "thinking", "thinking": self.loopback.reasoning, "signature": "s"}] * bool(
            self.loopback.reasoning
        )
        usage = {**used, "output_tokens": len(words)}
        self.json(200, {**message, "content": [*content, block], "stop_reason": reason, "usage": usage})
        self.loopback.served.append(asked.prompt)

    def _stream_message(
        self, asked: Asked, start: dict[str, Any], words: list[str], reason: str, fault: Fault | None, *, tool: bool
    ) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._say("message_start", message=start)
        self._say("ping")
        if self.loopback.reasoning:
            self._say("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
            self._say(
                "content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": self.loopback.reasoning}
            )
            self._say("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "abc"})
            self._say("content_block_stop", index=0)
        block = {"type": "tool_use", "id": "t", "name": "answer", "input": {}} if tool else {"type": "text", "text": ""}
        self._say("content_block_start", index=1, content_block=block)
        for index, word in enumerate(words):
            if index == self.loopback.error_after:
                self._say("error", error={"type": self.loopback.error_type, "message": "Overloaded"})
                self.chunk(b"")
                return
            if fault is not None and index == fault.pieces and fault.kind in ("cut", "ends"):
                if fault.kind == "ends":
                    self.chunk(b"")
                self.close_connection = True
                return
            time.sleep(self.loopback.piece_seconds)
            text = word if index == 0 else f" {word}"
            delta = {"type": "input_json_delta", "partial_json": text} if tool else {"type": "text_delta", "text": text}
            self._say("content_block_delta", index=1, delta=delta)
        self._say("content_block_stop", index=1)
        ended = {"stop_reason": reason, "stop_sequence": None}
        self._say("message_delta", delta=ended, usage={"output_tokens": len(words), "input_tokens": None})
        self._say("message_stop")
        self.chunk(b"")
        self.loopback.served.append(asked.prompt)

    def _say(self, kind: str, **fields: Any) -> None:
        self.chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())

    def error(self, fault: Fault) -> None:
        """Refuse as Anthropic does."""
        error = {"type": fault.code or TYPES.get(fault.status, "api_error"), "message": fault.message}
        body = json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
        headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
        self.send(fault.status, "application/json", body, headers)
