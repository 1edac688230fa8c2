"""The text of an answer while it grows: stop strings found in its new end only, and never half a character shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class AnswerText:
    """Collects the bytes of an answer. `stops` are strings that end it and are not part of it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop.encode("utf-8", "replace") for stop in stops if stop]
        self._held = max((len(stop) for stop in self._stops), default=1) - 1
        self._data = bytearray()
        self._shown = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, piece: bytes) -> bool:
        """Append a token's bytes; true when they complete a stop string, before which the text then ends."""
        before = max(len(self._data) - self._held, 0)
        self._data += piece
        found = [at for stop in self._stops if (at := self._data.find(stop, before)) >= 0]
        if found:
            del self._data[min(found) :]
        return bool(found)

    def fresh(self, *, final: bool = False) -> str:
        """What can be shown since the last call: whole characters, none that may begin a stop string until `final`."""
        end = len(self._data) - (0 if final else self._held)
        if end <= self._shown:
            return ""
        new = bytes(self._data[self._shown : end])
        self._shown = end
        return self._decoder.decode(new)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self._data)

    @property
    def text(self) -> str:
        """Everything so far; half a character at the end, as a cut answer may have, is left out."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(bytes(self._data))
