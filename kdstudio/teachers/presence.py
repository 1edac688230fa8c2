"""Whether a teacher is there at all, as far as that can be found out before anything is asked, and for nothing."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from kdstudio.models.endpoint import is_local
from kdstudio.models.spec import TeacherSpec

_PATIENCE_SECONDS = 2.0


def absence(spec: TeacherSpec, keys: Mapping[str, str]) -> str:
    """Why a teacher cannot be asked as things stand, in words; "" if nothing speaks against it.

    A server on another machine is not called: a proxy may stand in between.
    """
    if spec.path and not Path(spec.path).expanduser().exists():
        return f"there is no {spec.path}"
    if not spec.url:
        return ""
    if is_local(spec.url):
        return "" if _listens(spec.url) else f"no server runs at {spec.url}"
    return f"its key {spec.key_name!r} is not known" if spec.key_name and not keys.get(spec.key_name) else ""


def _listens(url: str) -> bool:
    parts = urlsplit(url.strip())
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE_SECONDS).close()
    except OSError:
        return False
    return True
