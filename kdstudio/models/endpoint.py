"""The address of an endpoint: what is one, how it is written, whose API it speaks, and whether it is this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from kdstudio.errors import BadInput

ANTHROPIC_URL = "https://api.anthropic.com"


def base_url(url: str) -> str:
    """The URL as the SDK wants it: a bare host gets /v1, a pasted full path loses what the SDK adds itself.

    Raises `BadInput` for what is no http or https URL with a host.
    """
    trimmed = _checked(url, "http://localhost:11434/v1")
    for tail in ("/chat/completions", "/completions", "/models"):
        trimmed = trimmed.removesuffix(tail)
    return trimmed if urlsplit(trimmed).path.strip("/") else f"{trimmed.rstrip('/')}/v1"


def anthropic_url(url: str) -> str:
    """The URL as Anthropic's SDK wants it, which adds /v1/messages itself; an empty one means Anthropic's own.

    Raises `BadInput` as `base_url`.
    """
    trimmed = _checked(url or ANTHROPIC_URL, ANTHROPIC_URL)
    for tail in ("/messages", "/models", "/v1"):
        trimmed = trimmed.removesuffix(tail).rstrip("/")
    return trimmed


def speaks_anthropic(url: str) -> bool:
    """Whether a URL is one of Anthropic's own API, or names its path."""
    parts = urlsplit(url.strip().rstrip("/"))
    return f".{parts.hostname}".endswith(".anthropic.com") or parts.path.endswith("/v1/messages")


def _checked(url: str, example: str) -> str:
    trimmed = url.strip().rstrip("/")
    try:
        parts = urlsplit(trimmed)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise BadInput(
            "This is not a URL",
            f"{url!r} is not http:// or https:// followed by a host.",
            f"For example {example}",
        )
    return trimmed


def is_local(url: str) -> bool:
    """Whether a URL means this very machine; what is no URL does not."""
    try:
        host = urlsplit(url.strip()).hostname or ""
    except ValueError:
        return False
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.endswith(".localhost")
