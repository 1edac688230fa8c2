"""Anthropic's message batches: requests are sent as one list, and their results fetched as one file.

A batch carries no mark of ours, so that one whose id was lost is known by what came after the newest batch before it,
by its size, and by the names in its results. https://docs.claude.com/en/docs/build-with-claude/batch-processing
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from typing import IO, Any

import anthropic
import httpx2
from anthropic.types.messages import MessageBatch

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.anthropic_failures import STATUSES
from kdstudio.teachers.base import Request
from kdstudio.teachers.batch_wire import (
    BatchState,
    OpenBatch,
    Pause,
    UnansweredError,
    as_line,
    in_shape,
    line_of,
    name_in,
)
from kdstudio.teachers.openai_batch import no_batches
from kdstudio.teachers.openai_body import UnreadableError
from kdstudio.teachers.openai_failures import WebPageError

_PAGE = 100


class AnthropicBatches:
    """The batches of one workspace; the arguments are those of `OpenAIBatches`."""

    most_requests, most_bytes = 100_000, 256_000_000

    def __init__(
        self,
        connect: Callable[[], anthropic.AsyncAnthropic],
        spec: TeacherSpec,
        fields: Callable[[Request], dict[str, Any]],
    ) -> None:
        self._connect, self._spec, self._fields = connect, spec, fields
        self._made: anthropic.AsyncAnthropic | None = None

    @property
    def _client(self) -> anthropic.AsyncAnthropic:
        self._made = self._made or self._connect()
        return self._made

    def line(self, request: Request, name: str) -> bytes:
        """As `BatchDialect.line`; what is sent is the list of these lines."""
        own = {"model": self._spec.model, "max_tokens": request.sampling.max_tokens}
        return as_line({"custom_id": name, "params": {**own, **self._fields(request)}})

    async def newest(self) -> str:
        """As `BatchDialect.newest`."""
        try:
            with in_shape():
                page = await self._client.messages.batches.list(limit=1)
                return page.data[0].id if page.data else ""
        except anthropic.NotFoundError as error:
            raise no_batches(self._spec) from error

    async def create(self, lines: Sequence[bytes], mark: str, run: str) -> str:
        """As `BatchDialect.create`."""
        del mark, run
        with in_shape():
            made = await self._client.messages.batches.create(requests=[json.loads(line) for line in lines])
            return made.id

    async def find(self, batch: OpenBatch, names: Collection[str], pause: Pause) -> str:
        """As `BatchDialect.find`: of the batches of this size, the one whose results carry our names."""
        with in_shape():
            found = []
            async for one in self._client.messages.batches.list(limit=_PAGE):
                if one.id == batch.after:
                    break
                if _total(one) == len(batch.numbers):
                    found.append(one.id)
        for identity in found:
            while not (state := await self.state(identity)).ended:
                await pause()
            if await self._carries(state, names):
                return identity
        return ""

    async def _carries(self, state: BatchState, names: Collection[str]) -> bool:
        with tempfile.TemporaryFile() as file:
            await self.fetch(state, file)
            file.seek(0)
            return any(name_in(line_of(raw)) in names for raw in file)

    async def state(self, identity: str) -> BatchState:
        """As `BatchDialect.state`."""
        with in_shape():
            return _state(await self._client.messages.batches.retrieve(identity))

    async def fetch(self, state: BatchState, target: IO[bytes]) -> None:
        """As `BatchDialect.fetch`."""
        for identity in state.files:
            async with self._client.messages.batches.with_streaming_response.results(identity) as response:
                if "html" in response.headers.get("content-type", "").lower():
                    raise WebPageError
                async for block in response.iter_bytes():
                    target.write(block)

    def answer(self, line: dict[str, Any]) -> str:
        """As `BatchDialect.answer`."""
        result = line.get("result")
        result = result if isinstance(result, dict) else {}
        match result.get("type"):
            case "succeeded" if isinstance(result.get("message"), dict):
                return json.dumps(result["message"], ensure_ascii=False)
            case "errored":
                raise _status_error(result.get("error"))
            case "expired" | "canceled" as kind:
                raise UnansweredError(f"the batch was {kind} before its turn came")
        raise UnreadableError("it holds no answer")

    async def close(self) -> None:
        """As `BatchDialect.close`."""
        if self._made is not None:
            await self._made.close()


def _status_error(body: Any) -> anthropic.APIStatusError:
    """The error that the SDK would have raised for a request of its own."""
    reported = body.get("error", body) if isinstance(body, dict) else None
    kind, message = (reported.get("type"), reported.get("message")) if isinstance(reported, dict) else ("", body)
    status = STATUSES.get(str(kind), 500)
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://batch"))
    return anthropic.APIStatusError(str(message or kind), response=response, body=body)


def _total(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def _state(batch: MessageBatch) -> BatchState:
    ended = batch.processing_status == "ended"
    total = _total(batch)
    outcome = "cancelled" if batch.cancel_initiated_at else "completed"
    return BatchState(
        batch.id,
        ended,
        outcome if ended else "",
        total - batch.request_counts.processing,
        total,
        (batch.id,) if ended else (),
    )
