"""Raw bodies as the journal carries them: short ones as they came, long ones compressed and in several lines."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

from kdstudio.jobs.events import MAXIMUM_LINE_BYTES, Body

PLAIN_CHARACTERS = 4096
_PART = MAXIMUM_LINE_BYTES // 2
_PACKED = "zlib+base64"


def pieces(question: tuple[str, str], number: int, raw: str) -> list[Body]:
    """The lines that keep a body. A stream repeats itself with every token: compressed it takes a tenth."""
    if len(raw) <= PLAIN_CHARACTERS:
        return [Body(*question, number, raw)]
    packed = base64.b64encode(zlib.compress(raw.encode("utf-8", "surrogatepass"), 1)).decode("ascii")
    cuts = [packed[start : start + _PART] for start in range(0, len(packed), _PART)]
    return [Body(*question, number, cut, part, len(cuts), _PACKED) for part, cut in enumerate(cuts, 1)]


def whole(parts: Sequence[Body]) -> str:
    """The body that these lines keep, in order. Raises `ValueError` when they do not fit together."""
    ordered = sorted(parts, key=lambda part: part.part)
    text = "".join(part.text for part in ordered)
    if not ordered or not ordered[0].encoding:
        return text
    try:
        return zlib.decompress(base64.b64decode(text)).decode("utf-8", "surrogatepass")
    except zlib.error as error:
        raise ValueError(f"a kept body is damaged: {error}") from error
