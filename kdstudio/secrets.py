"""API keys: in the system's keyring, for this session only, or from the environment; never in a file of ours.

A child receives a key on its standard input, not in argv or its environment.
"""

from __future__ import annotations

import os
import re
from typing import Literal

_session: dict[str, str] = {}
SERVICE = "kdstudio"
_KEY_LIKE = re.compile(r"\b(sk-[A-Za-z0-9_\-]{8,}|Bearer\s+[A-Za-z0-9._\-]{8,})")

Place = Literal["keyring", "session"]


def keyring_available() -> bool:
    """Whether the system has a safe keyring. Plain-text and failing backends do not count."""
    import keyring
    from keyring.backends.fail import Keyring as FailKeyring

    backend = keyring.get_keyring()
    return not isinstance(backend, FailKeyring) and "plaintext" not in type(backend).__name__.lower()


def store(name: str, value: str, place: Place) -> Place:
    """Keep a key; falls back to the session, and returns where it is, when the keyring is missing or refuses."""
    if place == "keyring":
        import keyring
        from keyring.errors import KeyringError

        try:
            if keyring_available():
                keyring.set_password(SERVICE, name, value)
                return "keyring"
        except KeyringError:
            pass  # the session below is the promised fallback; the caller shows where the key is
    _session[name] = value
    return "session"


def find(name: str) -> str:
    """The key called `name`: session, then keyring, then the environment variable of that name; "" if nowhere."""
    if not name:
        return ""
    if name in _session:
        return _session[name]
    import keyring
    from keyring.errors import KeyringError

    try:
        stored = keyring.get_password(SERVICE, name) if keyring_available() else None
    except KeyringError:
        stored = None
    return stored or os.environ.get(name, "")


def forget(name: str) -> None:
    """Remove a key from the session and the keyring."""
    import keyring
    from keyring.errors import KeyringError

    _session.pop(name, None)
    try:
        if keyring_available():
            keyring.delete_password(SERVICE, name)
    except KeyringError:
        return  # it was not there


def redact(text: str, known: tuple[str, ...] = ()) -> str:
    """Blank out known keys and whatever looks like one, for logs, journals and crash reports."""
    for secret in (*known, *_session.values()):
        if len(secret) >= 4:
            text = text.replace(secret, "[key]")
    return _KEY_LIKE.sub("[key]", text)
