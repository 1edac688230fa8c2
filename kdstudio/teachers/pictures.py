"""Pictures in prompts: where a message's part says its picture is, and the bytes behind it."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Any

from kdstudio.errors import BadInput

_DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,(.+)", re.IGNORECASE | re.DOTALL)
_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Picture:
    """A picture as it is sent: `kind` is its media type, `base64` its bytes as text, `size` their number."""

    kind: str
    base64: str
    size: int


def address_of(part: Any) -> str:
    """Where the picture of a message's part is: an address or a data URL; "" for a part that is no picture."""
    if not isinstance(part, dict) or part.get("type") not in ("image", "image_url"):
        return ""
    found = next((part[name] for name in ("image_url", "url", "image", "path") if part.get(name)), "")
    found = found.get("url", "") if isinstance(found, dict) else found
    return found if isinstance(found, str) else ""


def picture_in(url: str, kinds: tuple[str, ...], most_bytes: int) -> Picture:
    """The picture in a data URL. Raises `BadInput` for one that is none, of another kind than `kinds`, or too large."""
    found = _DATA_URL.fullmatch(url.strip())
    try:
        data = base64.b64decode("".join(found[2].split()), validate=True) if found else b""
    except (binascii.Error, ValueError):
        data = b""
    if found is None or not data:
        raise BadInput(
            "A picture cannot be read",
            f"It is given as {url[:60]!r}.",
            "Give it as an address that begins with https://, or as a data URL of its bytes.",
        )
    kind = found[1].lower().replace("image/jpg", "image/jpeg")
    if kind not in kinds:
        raise BadInput("This teacher does not see such pictures", f"It is {kind}.", f"It sees {', '.join(kinds)}.")
    if len(data) > most_bytes:
        raise BadInput(
            "A picture is too large for this teacher",
            f"It has {len(data) / _MEGABYTE:.1f} MB; at most {most_bytes / _MEGABYTE:.1f} MB can be sent.",
            "Make it smaller before you import it.",
        )
    return Picture(kind, base64.b64encode(data).decode("ascii"), len(data))
