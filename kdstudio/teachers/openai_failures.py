"""What an endpoint's failures mean: which are worth another try, which end the run, and how to say each in words."""

from __future__ import annotations

import contextlib
import email.utils
import re
import time
from collections.abc import Iterator, Mapping

import openai

from kdstudio.errors import BadInput, KnownError, in_one_line
from kdstudio.models.spec import TeacherSpec
from kdstudio.secrets import redact
from kdstudio.teachers.base import Completion
from kdstudio.teachers.openai_body import ReportedError, UnreadableError
from kdstudio.teachers.wire import Failure, FailureKind

MAXIMUM_WAIT = 120.0
RETRIED = (408, 409, 425, 429)
_REFUSED = (401, 402, 403, 404)
MEANINGS = {429: " (too many requests)", 500: " (the server failed)", 503: " (the server is overloaded)"}
UNSUPPORTED = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|extra (field|input)|not (permitted|allowed)|deprecated"
    r"|cannot both be",
    re.IGNORECASE,
)


class WebPageError(Exception):
    """A web page came where a chat completion was expected: a wrong URL, a portal, a proxy's own words."""


class CutError(Exception):
    """The answer broke off; `partial` is what came before."""

    def __init__(self, partial: Completion) -> None:
        super().__init__("the answer broke off")
        self.partial = partial


def status_of(error: BaseException) -> int:
    """The HTTP status of a failure; for one inside a stream the code it names, else 0."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code
    if isinstance(error, ReportedError):
        return error.code
    code = getattr(error, "code", None)
    return int(code) if isinstance(code, str) and code.isdigit() and 400 <= int(code) < 600 else 0


def is_transport(error: BaseException) -> bool:
    """Whether a failure is the network's. Within a stream the SDK lets its transport's own exceptions through."""
    package = type(error).__module__.partition(".")[0]
    return isinstance(error, openai.APIConnectionError | OSError) or package in (
        *("httpx", "httpx2", "httpcore", "httpcore2", "h11", "aiohttp"),
    )


def is_late(error: BaseException) -> bool:
    """Whether a failure is that nobody answered in time."""
    if (lost := _lost(error)) is not None:
        return isinstance(lost, TimeoutError)
    return isinstance(error, openai.APITimeoutError) or (is_transport(error) and "Timeout" in type(error).__name__)


def is_unreadable(error: BaseException) -> bool:
    """Whether what came was no chat completion: broken JSON, other shapes, nothing at all."""
    return isinstance(error, UnreadableError | openai.APIResponseValidationError | ValueError)


def is_transient(error: BaseException) -> bool:
    """Whether another try may go better."""
    status = status_of(error)
    if status:
        return status in RETRIED or status >= 500
    return (
        is_transport(error)
        or is_unreadable(error)
        or isinstance(error, openai.APIError | CutError | ReportedError | WebPageError)
    )


def retry_after(error: BaseException) -> float | None:
    """Seconds that the endpoint asks to wait; None if it does not say."""
    return wait_of(error.response.headers) if isinstance(error, openai.APIStatusError) else None


def wait_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that a response asks to wait (a number or a date), at most two minutes; None if it does not say.

    A date is counted from the response's own, so that neither clock has to be right.
    """
    with contextlib.suppress(ValueError):
        return min(MAXIMUM_WAIT, max(0.0, float(headers.get("retry-after-ms", "")) / 1000))
    value = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return min(MAXIMUM_WAIT, max(0.0, float(value)))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        seconds = email.utils.parsedate_to_datetime(value).timestamp() - _time_of(headers.get("date", ""))
        return min(MAXIMUM_WAIT, max(0.0, seconds))
    return None


def _time_of(date: str) -> float:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return time.time()


def refused_parameter(error: BaseException, sent: set[str]) -> str:
    """The optional parameter, of those sent, that the endpoint does not take; "" if that is not the reason."""
    if status_of(error) not in (400, 422) or not isinstance(error, openai.APIError):
        return ""
    words = _message(error)
    unsupported = bool(UNSUPPORTED.search(words)) or str(error.code or "").startswith("unsupported")
    if not unsupported:
        return ""
    named = [str(error.param or ""), *re.findall(r"[a-z_]+", words)]
    return next((name for name in named if name in sent), "")


def words_of(error: BaseException, spec: TeacherSpec, key: str) -> str:
    """One line that says what went wrong, without the key."""
    if is_late(error):
        text = f"{spec.url} did not answer in time"
    elif isinstance(error, CutError):
        text = f"{spec.url} broke off in the middle of its answer"
    elif is_transport(error):
        text = f"{spec.url} cannot be reached or broke off ({cause_of(error)})"
    elif status_of(error):
        text = f"status {status_of(error)}{MEANINGS.get(status_of(error), '')}: {_message(error)}"
    elif isinstance(error, WebPageError):
        text = f"{spec.url} sent a web page"
    elif isinstance(error, ReportedError) or (
        isinstance(error, openai.APIError) and not isinstance(error, openai.APIResponseValidationError)
    ):
        text = f"{spec.url} reported: {_message(error)}"
    else:
        text = f"{spec.url} sent something that is no chat completion ({error})"
    return redact(" ".join(text.split())[:400], (key,) if key else ())


def refusal(error: BaseException, spec: TeacherSpec, key: str) -> KnownError | None:
    """The failure that no other request could escape, in words; None for all others."""
    if isinstance(error, WebPageError):
        return web_page(spec)
    no_credit = isinstance(error, openai.APIError) and error.code == "insufficient_quota"
    return refused_for_good(402 if no_credit else status_of(error), words_of(error, spec, key), spec, key)


def web_page(spec: TeacherSpec) -> KnownError:
    """What is said of an endpoint that answers with a web page."""
    return KnownError(
        "This is not a chat endpoint",
        f"{spec.url} answered with a web page.",
        "Check the URL: it often ends in /v1. A proxy or a sign-in page may stand in between.",
    )


def refused_for_good(status: int, words: str, spec: TeacherSpec, key: str) -> KnownError | None:
    """What is said of a status that no other request could escape; None for all others."""
    if status == 402:
        return KnownError("The account has no credit left", words, "Top it up at the provider, then resume the run.")
    if status in (401, 403):
        return _key_refused(status, spec, key)
    if status == 404:
        return KnownError(
            "The endpoint does not know this",
            f"{spec.url} answered for the model {spec.model!r}: {words}",
            "Check the model's name, and that the URL ends as the server's documentation says (often /v1).",
        )
    return None


def _key_refused(status: int, spec: TeacherSpec, key: str) -> KnownError:
    if key:
        hint = "Enter the key again on the Teachers page, or correct the environment variable that holds it."
        return KnownError("The endpoint refused the key", f"{spec.url} answered {status} to {spec.key_name!r}.", hint)
    missing = f", and no key called {spec.key_name!r} was found" if spec.key_name else ""
    hint = "Add the teacher again with its key (in a terminal: --key-name and the variable that holds it)."
    return KnownError("The endpoint asks for a key", f"{spec.url} answered {status}{missing}.", hint)


def failure_of(error: BaseException, spec: TeacherSpec, key: str) -> Failure:
    """Sort a failure. One that is neither the endpoint's nor the network's is raised again.

    Only a status of 400 or above says that nothing was done; whatever else fails may have been billed.
    """
    if isinstance(error, BadInput):
        return unfit(error)
    status, transport = status_of(error), is_transport(error)
    if not (status or is_transient(error) or isinstance(error, openai.APIError)):
        raise error
    words, fatal = words_of(error, spec, key), refusal(error, spec, key)
    partial = error.partial if isinstance(error, CutError) else None
    late = transport and is_late(error)
    if fatal is not None:
        kind: FailureKind = "ends_run"
    elif is_transient(error):
        kind = "cut" if partial is not None else "transient"
    else:
        kind = "permanent"
    return Failure(
        kind,
        words,
        error=fatal,
        retry_after=retry_after(error),
        may_be_billed=not status and not was_never_sent(error),
        unreachable=transport,
        timed_out=late,
        overloaded=late or status in (429, 503, 529),
        unless_answered=isinstance(error, WebPageError),
        partial=partial,
    )


def unfit(error: BadInput) -> Failure:
    """For a prompt that cannot be put in an API's form, such as one whose picture is gone; nothing was sent."""
    return Failure("permanent", in_one_line(f"{error.title}: {error.detail}"))


def was_never_sent(error: BaseException) -> bool:
    """Whether no connection came about: then nothing can have been billed."""
    if (lost := _lost(error)) is not None:
        names = {kind.__name__ for kind in type(lost).__mro__}
        return not names.isdisjoint(("ClientConnectorError", "ConnectionTimeoutError"))
    return any(type(cause).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout") for cause in _causes(error))


def _lost(error: BaseException) -> BaseException | None:
    """What aiohttp says happened, where it is what carries: the SDK calls each lost connection a `ConnectTimeout`."""
    return next((cause for cause in _causes(error) if type(cause).__module__.startswith("aiohttp.")), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _message(error: BaseException) -> str:
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    text = str(message or getattr(error, "message", "") or error)
    if text.lstrip().lower().startswith(("<!doctype", "<html")):
        return "it sent a web page"
    return " ".join(text.split())[:300]


def cause_of(error: BaseException) -> str:
    """What lies at the bottom of a failure of the network."""
    *_, cause = _causes(error)
    return str(cause) or type(cause).__name__
