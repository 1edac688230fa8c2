"""Which failures of an endpoint pass, which end a run, and what is said of them."""

from __future__ import annotations

import httpx2
import openai
import pytest

from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers import openai_failures as failures
from kdstudio.teachers.openai_failures import retry_after

SPEC = TeacherSpec("api", "openai", url="http://localhost/v1", model="tiny")


def status_error(status: int, body: object = None, message: str = "words") -> openai.APIStatusError:
    request = httpx2.Request("POST", "http://localhost")
    return openai.APIStatusError(message, response=httpx2.Response(status, request=request), body=body)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("9999", 120), ("-5", 0), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("nan", 0)],
)
def test_retry_after_is_bounded(value: str, seconds: float | None) -> None:
    request = httpx2.Request("POST", "http://localhost")
    response = httpx2.Response(429, headers={"retry-after": value}, request=request)
    assert retry_after(openai.RateLimitError("", response=response, body=None)) == seconds


@pytest.mark.parametrize(
    ("status", "transient"),
    [(400, False), (401, False), (404, False), (408, True), (409, True), (422, False), (425, True), (429, True)],
)
def test_which_statuses_are_worth_another_try(status: int, transient: bool) -> None:
    assert failures.is_transient(status_error(status)) == transient
    assert failures.is_transient(status_error(500 + status % 100))


def test_an_error_inside_a_stream_counts_by_the_code_it_names() -> None:
    request = httpx2.Request("POST", "http://localhost")
    full = openai.APIError("the context is full", request, body={"message": "the context is full", "code": 400})
    busy = openai.APIError("busy", request, body={"message": "busy", "code": 503})
    other = openai.APIError("odd", request, body={"message": "odd", "code": "server_error"})
    assert [failures.is_transient(error) for error in (full, busy, other)] == [False, True, True]
    assert "the context is full" in failures.words_of(full, SPEC, "")


@pytest.mark.parametrize(
    ("status", "message", "param", "refused"),
    [
        (400, "Unsupported parameter: 'seed'", "seed", "seed"),
        (422, "extra fields not permitted: stream_options", "", "stream_options"),
        (400, 'Unknown name "seed": Cannot find field', "", "seed"),
        (400, "temperature and top_p cannot both be specified for this model", "", "temperature"),
        (400, "max_tokens is too large: 5000", "max_tokens", ""),
        (500, "Unsupported parameter: 'seed'", "seed", ""),
        (400, "unsupported model", "", ""),
    ],
)
def test_a_refused_parameter_is_told_from_other_faults(status: int, message: str, param: str, refused: str) -> None:
    error = status_error(status, {"message": message, "param": param})
    sent = {"seed", "temperature", "max_tokens", "stream_options"}
    assert failures.refused_parameter(error, sent) == refused


def test_a_web_page_is_not_quoted() -> None:
    assert (
        failures.words_of(status_error(502, None, "<!DOCTYPE html><p>x"), SPEC, "") == "status 502: it sent a web page"
    )
