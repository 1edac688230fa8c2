"""What the failures of Anthropic's API mean, in the same words as those of other endpoints.

https://docs.claude.com/en/api/errors
"""

from __future__ import annotations

import re

import anthropic

from kdstudio.errors import BadInput, KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.secrets import redact
from kdstudio.teachers.openai_body import ReportedError, UnreadableError
from kdstudio.teachers.openai_failures import (
    MEANINGS,
    RETRIED,
    UNSUPPORTED,
    CutError,
    WebPageError,
    cause_of,
    is_transport,
    refused_for_good,
    unfit,
    wait_of,
    was_never_sent,
    web_page,
)
from kdstudio.teachers.wire import Failure, FailureKind

STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""The statuses of errors that are reported inside a stream, by what they are called."""
_MEANINGS = {**MEANINGS, 413: " (the prompt is too large)", 529: " (the server is overloaded)"}


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure; for one inside a stream that of its kind, else 0."""
    if isinstance(error, anthropic.APIStatusError):
        return error.status_code
    return (error.code or STATUSES.get(error.type, 500)) if isinstance(error, ReportedError) else 0


def failure_of(error: BaseException, spec: TeacherSpec, key: str) -> Failure:
    """Sort a failure. One that is neither the endpoint's nor the network's is raised again.

    An error inside a stream comes after the answer began, so that it may be billed.
    """
    if isinstance(error, BadInput):
        return unfit(error)
    status, transport = status_of(error), is_network(error)
    if not (status or transport or isinstance(error, _SORTED)):
        raise error
    words, fatal = words_of(error, spec, key), refusal(error, spec, key)
    partial = error.partial if isinstance(error, CutError) else None
    late = transport and "Timeout" in type(error).__name__
    return Failure(
        _kind(status, fatal, partial is not None),
        words,
        error=fatal,
        retry_after=wait_of(error.response.headers) if isinstance(error, anthropic.APIStatusError) else None,
        may_be_billed=not isinstance(error, anthropic.APIStatusError) and not was_never_sent(error),
        unreachable=transport,
        timed_out=late,
        overloaded=late or status in (429, 503, 529),
        unless_answered=isinstance(error, WebPageError),
        partial=partial,
    )


_SORTED = (anthropic.APIError, CutError, ReportedError, UnreadableError, WebPageError, ValueError)


def _kind(status: int, fatal: KnownError | None, cut: bool) -> FailureKind:
    if fatal is not None:
        return "ends_run"
    if cut:
        return "cut"
    return "transient" if not status or status in RETRIED or status >= 500 else "permanent"


def is_network(error: BaseException) -> bool:
    """Whether a failure is the network's, the SDK's own name for it among them."""
    return isinstance(error, anthropic.APIConnectionError) or is_transport(error)


def refusal(error: BaseException, spec: TeacherSpec, key: str) -> KnownError | None:
    """The failure that no other request could escape, in words; None for all others."""
    if isinstance(error, WebPageError):
        return web_page(spec)
    status = status_of(error)
    no_credit = status == 400 and "credit balance" in message_of(error).lower()
    return refused_for_good(402 if no_credit else status, words_of(error, spec, key), spec, key)


def words_of(error: BaseException, spec: TeacherSpec, key: str) -> str:
    """One line that says what went wrong, without the key."""
    status, url = status_of(error), spec.url
    if is_network(error) and "Timeout" in type(error).__name__:
        text = f"{url} did not answer in time"
    elif isinstance(error, CutError):
        text = f"{url} broke off in the middle of its answer"
    elif is_network(error):
        text = f"{url} cannot be reached or broke off ({cause_of(error)})"
    elif status:
        text = f"status {status}{_MEANINGS.get(status, '')}: {message_of(error)}"
    elif isinstance(error, WebPageError):
        text = f"{url} sent a web page"
    else:
        text = f"{url} sent something that is no message ({message_of(error)})"
    return redact(" ".join(text.split())[:400], (key,) if key else ())


def message_of(error: BaseException) -> str:
    """The server's own words."""
    own = error.api_message if isinstance(error, anthropic.APIStatusError) else None
    text = str(own or getattr(error, "message", "") or error)
    if text.lstrip().lower().startswith(("<!doctype", "<html")):
        return "it sent a web page"
    return " ".join(text.split())[:300]


def refused_parameter(error: BaseException, sent: set[str]) -> str:
    """The optional parameter, of those sent, that the endpoint does not take; "" if that is not the reason.

    Of two that exclude each other, the one that says less is left out: top_p before temperature.
    """
    if status_of(error) not in (400, 422):
        return ""
    words = message_of(error)
    if not UNSUPPORTED.search(words):
        return ""
    named = re.findall(r"[a-z_]+", words)
    if "both" in named and {"temperature", "top_p"} <= set(named):
        return "top_p" if "top_p" in sent else "temperature"
    return next((name for name in named if name in sent), "")
