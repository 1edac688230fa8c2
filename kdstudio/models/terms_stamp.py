"""Which terms a teacher's answers are under: what a person noted, what its file says, or what its provider asks."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import FREE, PROVIDER, PROVIDERS, RESTRICTED, joined, single

OPTION = "terms"  # of `TeacherSpec.options`: a person's own word on it, which goes before everything else
_ENDPOINTS = ("openai", "anthropic")
_HOSTS = {  # a host ends in -> the provider
    "openai.com": "openai",
    "openai.azure.com": "azure-openai",
    "ai.azure.com": "azure-openai",
    "cognitiveservices.azure.com": "azure-openai",
    "anthropic.com": "anthropic",
    "googleapis.com": "google",
    "mistral.ai": "mistral",
    "x.ai": "xai",
    "cohere.com": "cohere",
    "cohere.ai": "cohere",
    "deepseek.com": "deepseek",
    "perplexity.ai": "perplexity",
    "openrouter.ai": "openrouter",
    "huggingface.co": "hugging-face",
    "groq.com": "groq",
    "together.xyz": "together",
    "together.ai": "together",
    "fireworks.ai": "fireworks",
    "deepinfra.com": "deepinfra",
}
_MAKERS = {"openai": "openai", "anthropic": "anthropic", "google": "google", "mistralai": "mistral", "x-ai": "xai"}
_MAKERS |= {"cohere": "cohere", "deepseek": "deepseek", "perplexity": "perplexity"}


class HasTerms(Protocol):
    """Capabilities of an opened teacher, as far as they matter here."""

    @property
    def terms(self) -> str:
        """The licence that the teacher's file states."""
        ...


def terms_stamp(spec: TeacherSpec, capabilities: Mapping[str, Any] | HasTerms | None = None) -> str:
    """The stamp for every row that this teacher makes; "" when nobody states any terms (read it with `terms_of`).

    A person's word (`options["terms"]`) goes first, then the provider of an endpoint, then what the file was found to
    say. A model on one's own machine or network has no provider.
    """
    noted = spec.options.get(OPTION)
    if isinstance(noted, str) and noted.strip():
        return single(noted)
    if spec.kind in _ENDPOINTS:
        return _of_endpoint(spec)
    return single(_stated(capabilities))


def own_terms(words: str, *, free: bool) -> str:
    """A person's own words as a stamp that says whether training is free."""
    return single((FREE if free else RESTRICTED) + words)


def _stated(capabilities: Mapping[str, Any] | HasTerms | None) -> str:
    if capabilities is None:
        return ""
    if not isinstance(capabilities, Mapping):
        return capabilities.terms
    return str(capabilities.get("terms") or capabilities.get("license") or "")


def _of_endpoint(spec: TeacherSpec) -> str:
    host = _host(spec.url) or ("api.anthropic.com" if spec.kind == "anthropic" else "")
    if not host or _is_own(host):
        return ""
    if host.startswith("bedrock") and host.endswith(".amazonaws.com"):
        return "amazon-bedrock"
    found = max((end for end in _HOSTS if host == end or host.endswith(f".{end}")), key=len, default="")
    if not found:
        return f"{PROVIDER}{host}"
    provider = _HOSTS[found]
    maker = _MAKERS.get(spec.model.partition("/")[0].lower(), "") if "/" in spec.model else ""
    return joined([provider, maker]) if PROVIDERS[provider].says == PROVIDERS["openrouter"].says else provider


def _host(url: str) -> str:
    try:
        return (urlsplit(url.strip()).hostname or "").rstrip(".").lower()
    except ValueError:
        return ""


def _is_own(host: str) -> bool:
    """Whether a host is this machine or one in its network."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".lan", ".internal", ".home.arpa"))
    return address.is_private or address.is_loopback or address.is_link_local
