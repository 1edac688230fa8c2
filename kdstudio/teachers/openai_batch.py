"""OpenAI's batches: a file of requests is uploaded, a batch made of it, and two files of results are fetched.

https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import IO, Any

import httpx2
import openai
from openai.types import Batch

from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Request
from kdstudio.teachers.batch_wire import BatchState, OpenBatch, Pause, UnansweredError, as_line, in_shape
from kdstudio.teachers.openai_body import ReportedError, UnreadableError
from kdstudio.teachers.openai_failures import WebPageError

_ENDED = ("completed", "failed", "expired", "cancelled")
_NOT_ASKED = ("batch_expired", "batch_cancelled")
_PAGE = 100


class OpenAIBatches:
    """The batches of one endpoint. `fields` gives a request's own fields, without those that only a stream has."""

    most_requests, most_bytes = 50_000, 200_000_000

    def __init__(
        self,
        connect: Callable[[], openai.AsyncOpenAI],
        spec: TeacherSpec,
        fields: Callable[[Request], dict[str, Any]],
    ) -> None:
        self._connect, self._spec, self._fields = connect, spec, fields
        self._made: openai.AsyncOpenAI | None = None

    @property
    def _client(self) -> openai.AsyncOpenAI:
        self._made = self._made or self._connect()
        return self._made

    def line(self, request: Request, name: str) -> bytes:
        """As `BatchDialect.line`."""
        fields = {key: value for key, value in self._fields(request).items() if key != "stream_options"}
        body = {"model": self._spec.model, **fields}
        return as_line({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})

    async def newest(self) -> str:
        """As `BatchDialect.newest`."""
        try:
            with in_shape():
                page = await self._client.batches.list(limit=1)
                return page.data[0].id if page.data else ""
        except openai.NotFoundError as error:
            raise no_batches(self._spec) from error

    async def create(self, lines: Sequence[bytes], mark: str, run: str) -> str:
        """As `BatchDialect.create`; the metadata say whose it is."""
        with in_shape():
            file = await self._client.files.create(file=(f"{mark}.jsonl", b"".join(lines)), purpose="batch")
            made = await self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"kdstudio_run": run, "kdstudio_batch": mark},
            )
            return made.id

    async def find(self, batch: OpenBatch, names: Collection[str], pause: Pause) -> str:
        """As `BatchDialect.find`, by the mark in the metadata, among all: not every server lists the newest first."""
        del names, pause
        with in_shape():
            async for one in self._client.batches.list(limit=_PAGE):
                if (one.metadata or {}).get("kdstudio_batch") == batch.mark:
                    return one.id
        return ""

    async def state(self, identity: str) -> BatchState:
        """As `BatchDialect.state`."""
        with in_shape():
            return _state(await self._client.batches.retrieve(identity))

    async def fetch(self, state: BatchState, target: IO[bytes]) -> None:
        """As `BatchDialect.fetch`."""
        for file in state.files:
            async with self._client.files.with_streaming_response.content(file) as response:
                if "html" in response.headers.get("content-type", "").lower():
                    raise WebPageError
                async for block in response.iter_bytes():
                    target.write(block)
            target.write(b"\n")

    def answer(self, line: dict[str, Any]) -> str:
        """As `BatchDialect.answer`."""
        error, response = line.get("error"), line.get("response")
        response = response if isinstance(response, dict) else {}
        status, body = response.get("status_code"), response.get("body")
        if isinstance(error, dict) and error.get("code") in _NOT_ASKED:
            raise UnansweredError(str(error.get("message") or error["code"]))
        if isinstance(status, int) and status >= 400:
            raise status_error(status, body)
        if isinstance(error, dict):
            raise ReportedError(error)
        if status is None or not isinstance(body, dict):
            raise UnreadableError("it holds no answer")
        return json.dumps(body, ensure_ascii=False)

    async def close(self) -> None:
        """As `BatchDialect.close`."""
        if self._made is not None:
            await self._made.close()


def status_error(status: int, body: Any) -> openai.APIStatusError:
    """The error that the SDK would have raised for a request that was answered with this."""
    reported = body.get("error", body) if isinstance(body, dict) else body
    message = reported.get("message") if isinstance(reported, dict) else reported
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://batch"))
    return openai.APIStatusError(str(message or f"status {status}"), response=response, body=reported)


def no_batches(spec: TeacherSpec) -> KnownError:
    """What is said of an endpoint that has no batch API."""
    return KnownError(
        "This endpoint offers no batches",
        f"{spec.url} does not know them.",
        f"Ask {spec.name} without batches: leave out --batch, or set the teacher's option batch to false.",
    )


def _state(batch: Batch) -> BatchState:
    counts, errors = batch.request_counts, (batch.errors.data if batch.errors else None) or []
    return BatchState(
        batch.id,
        batch.status in _ENDED,
        batch.status if batch.status in _ENDED else "",
        counts.completed + counts.failed if counts else 0,
        counts.total if counts else 0,
        tuple(file for file in (batch.output_file_id, batch.error_file_id) if file),
        "; ".join(dict.fromkeys(str(error.message or error.code) for error in errors))[:300],
        any(error.code == "token_limit_exceeded" for error in errors),
    )
