"""Listening to an answer as it comes over the wire, in whatever form an API writes its events.

Answers are streamed, so that a slow server has to say something in time rather than everything, and an answer that
broke off is known as such.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

from kdstudio.teachers.base import Completion
from kdstudio.teachers.openai_body import MAXIMUM_CHARACTERS, Hearing, ReportedError, UnreadableError, data_of, event_of
from kdstudio.teachers.openai_failures import CutError
from kdstudio.teachers.wire import Show

_MAXIMUM_BYTES = 64 << 20


def whole_body(raw: str) -> str:
    """A body in one piece. An error's report is no answer, and nothing at all is none: neither is kept as one."""
    if not raw.strip():
        raise UnreadableError("it was empty")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return raw
    if isinstance(body, dict) and body.get("error") and not body.get("choices"):
        raise ReportedError(body["error"])
    return raw


async def heard_body(blocks: AsyncIterator[bytes], key: str, new: Callable[[], Hearing], show: Show | None) -> str:
    """Listen to a stream to its end; returns it as it came. Raises `CutError` when it breaks off within the answer.

    `new` makes what takes in the events of one answer, in the API's own form.
    """
    taken, rest, listening = list[bytes](), b"", _Listening(new(), show)
    try:
        async for block in blocks:
            taken.append(block)
            *lines, rest = (rest + block).split(b"\n")
            if not listening.goes_on(lines, len(block)):
                break
    except Exception as error:
        raw = b"".join(taken).decode("utf-8", "replace")
        if (partial := _partial(raw, key, new())) is None:
            raise
        if partial.finish_reason != "incomplete":  # the answer is whole; only what follows it was lost
            return raw
        raise CutError(partial) from error
    raw = b"".join(taken).decode("utf-8", "replace")
    if not raw.strip():
        raise UnreadableError("it was empty")
    return raw


class _Listening:
    """Watches a stream as it comes: shows its text, sees an error's report, and stops one that does not end."""

    def __init__(self, heard: Hearing, show: Show | None) -> None:
        self._show, self._heard, self._bytes = show, heard, 0

    def goes_on(self, lines: list[bytes], size: int) -> bool:
        """Take in whole lines of a block of `size` bytes; false when more than enough came. Raises `ReportedError`."""
        self._bytes += size
        for line in lines:
            if self._show is not None or b'"error"' in line:
                self._look(line)
        return self._bytes <= _MAXIMUM_BYTES and self._heard.characters <= MAXIMUM_CHARACTERS

    def _look(self, line: bytes) -> None:
        data = data_of(line)
        if data is None:
            return
        try:
            text = self._heard.event(event_of(data))
        except UnreadableError:
            return  # the whole body is kept and read; there it is found again
        if text and self._show is not None:
            self._show(text)


def _partial(raw: str, key: str, heard: Hearing) -> Completion | None:
    """What can be read of a stream that broke off, whose last line may be torn; None if that is nothing."""
    for line in raw.split("\n")[:-1]:
        data = data_of(line)
        if data is None:
            continue
        try:
            heard.event(event_of(data))
        except (UnreadableError, ReportedError):
            break
    return heard.completion(key) if heard.characters or heard.finish_reason else None
