"""Pictures in prompts: where a message's part says its picture is, and the bytes behind it.

A project keeps its pictures as files named by what they hold, below `pictures/`; a message names one by PREFIX and
the file's name, so that rows stay small and a copied project keeps its pictures.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdstudio import files
from kdstudio.errors import BadInput

PREFIX, FOLDER = "picture:", "pictures"
SEEN = ("image/jpeg", "image/png", "image/gif", "image/webp")
"""The kinds that hosted teachers see."""
MOST_BYTES = 20 << 20
_ENDINGS = dict(zip(SEEN, ("jpg", "png", "gif", "webp"), strict=True))
_NAME = re.compile(r"([0-9a-f]{32})\.(jpg|png|gif|webp)")
_DATA_URL = re.compile(r"data:(image/[a-z0-9.+-]+);base64,(.+)", re.IGNORECASE | re.DOTALL)
_MEGABYTE = 1 << 20
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}


@dataclass(frozen=True)
class Picture:
    """A picture as it is sent: `kind` is its media type."""

    kind: str
    data: bytes

    @property
    def base64(self) -> str:
        """Its bytes as text."""
        return base64.b64encode(self.data).decode("ascii")

    @property
    def data_url(self) -> str:
        """Its kind and bytes as an address."""
        return f"data:{self.kind};base64,{self.base64}"


def address_of(part: Any) -> str:
    """Where the picture of a message's part is: an address or a data URL; "" for a part that is no picture."""
    if not isinstance(part, dict) or part.get("type") not in ("image", "image_url"):
        return ""
    found = next((part[name] for name in ("image_url", "url", "image", "path") if part.get(name)), "")
    found = found.get("url", "") if isinstance(found, dict) else found
    return found if isinstance(found, str) else ""


def kind_of(data: bytes) -> str:
    """The media type of a picture by its first bytes; "" for what is none of `SEEN`."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), "")


def keep(project_folder: Path, data: bytes) -> str:
    """Keep a picture in the project; returns how a message names it. Raises `BadInput` for what is no picture."""
    if not (kind := kind_of(data)) or len(data) > MOST_BYTES:
        raise BadInput(
            "A picture cannot be kept",
            f"It has {len(data) / _MEGABYTE:.1f} MB and is {kind or 'of a kind that is not known here'}.",
            f"PNG, JPEG, GIF and WebP up to {MOST_BYTES // _MEGABYTE} MB can be kept.",
        )
    name = f"{_digest(data)}.{_ENDINGS[kind]}"
    path = project_folder / FOLDER / name
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with files.atomic_file(path) as stream:
            stream.write(data)
    return PREFIX + name


def picture_at(address: str, project_folder: Path | None, most_bytes: int = MOST_BYTES) -> Picture:
    """The picture in a data URL, or one that the project keeps.

    Raises `BadInput` for one that is not there, is damaged, of a kind that teachers do not see, or too large.
    """
    picture = _kept(address, project_folder) if address.startswith(PREFIX) else _inline(address)
    if picture.kind not in SEEN:
        raise BadInput("Teachers do not see such pictures", f"It is {picture.kind}.", f"They see {', '.join(SEEN)}.")
    if len(picture.data) > most_bytes:
        raise BadInput(
            "A picture is too large for this teacher",
            f"It has {len(picture.data) / _MEGABYTE:.1f} MB; at most {most_bytes / _MEGABYTE:.1f} MB can be sent.",
            "Make it smaller before you import it.",
        )
    return picture


def _inline(address: str) -> Picture:
    found = _DATA_URL.fullmatch(address.strip())
    try:
        data = base64.b64decode("".join(found[2].split()), validate=True) if found else b""
    except (binascii.Error, ValueError):
        data = b""
    if found is None or not data:
        raise BadInput(
            "A picture cannot be read",
            f"It is given as {address[:60]!r}.",
            "Give it as an address that begins with https://, or import it with its file beside the rows.",
        )
    return Picture(found[1].lower().replace("image/jpg", "image/jpeg"), data)


def _kept(address: str, project_folder: Path | None) -> Picture:
    found = _NAME.fullmatch(address.removeprefix(PREFIX))
    try:
        data = (project_folder / FOLDER / found[0]).read_bytes() if project_folder and found else b""
    except OSError:
        data = b""
    if found is None or _digest(data) != found[1]:
        raise BadInput(
            "A picture is not in the project, or was changed",
            f"{address[:60]} was looked for in {project_folder or 'no project'}.",
            "Import the rows again, with their pictures beside the file.",
        )
    return Picture(kind_of(data), data)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def with_pictures(messages: Sequence[dict[str, Any]], change: Callable[[str], str]) -> list[dict[str, Any]]:
    """The messages with each picture's address changed, in OpenAI's form; those without pictures stay as they are."""
    return [_changed(message, change) for message in messages]


def _changed(message: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list) or not any(map(address_of, content)):
        return message
    parts = [_part(part, change) if address_of(part) else part for part in content]
    return {**message, "content": parts}


def _part(part: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    given = part.get("image_url")
    more = {name: value for name, value in given.items() if name != "url"} if isinstance(given, dict) else {}
    return {"type": "image_url", "image_url": {**more, "url": change(address_of(part))}}
