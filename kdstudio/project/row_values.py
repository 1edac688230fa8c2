"""Between a row as the program knows it and the columns of its table: what is written, what is read back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any, cast

from kdstudio.errors import BadInput
from kdstudio.project.content import (
    NewPreference,
    NewPrompt,
    NewResponse,
    Preference,
    Prompt,
    Response,
    Status,
    canonical,
    canonical_messages,
    digest,
    fingerprint,
    last_user_text,
)

INSERT_PROMPT = """INSERT OR IGNORE INTO prompts
(fingerprint, messages, text, tags, reference, extras, status, reason, source, created, terms)
VALUES (?,?,?,?,?,?,?,?,?,?,?)"""
INSERT_RESPONSE = """INSERT OR IGNORE INTO responses
(prompt_id, fingerprint, text, reasoning, message, finish_reason, teacher, recipe_hash, run, seed, sampling,
prompt_tokens, tokens, status, reason, source, created, terms, extras)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"""
INSERT_PREFERENCE = """INSERT OR IGNORE INTO preferences
(prompt_id, fingerprint, candidates, scores, text, run, status, reason, source, created, terms, extras)
VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"""


def prompt_values(prompt: NewPrompt, created: str) -> tuple[Any, ...]:
    """The columns of a new prompt."""
    messages = canonical_messages(prompt.messages)
    extras = canonical(dict(prompt.extras)) if prompt.extras else ""
    return (
        _prompt_digest(messages, extras, prompt.extras),
        messages,
        last_user_text(prompt.messages),
        " ".join(prompt.tags),
        prompt.reference,
        extras,
        prompt.status,
        prompt.reason,
        prompt.source,
        created,
        prompt.terms,
    )


def prompt_fingerprint(prompt: NewPrompt) -> bytes:
    """What makes two prompts the same: their messages and extras (tools), but not where they came from."""
    extras = canonical(dict(prompt.extras)) if prompt.extras else ""
    return _prompt_digest(canonical_messages(prompt.messages), extras, prompt.extras)


def _prompt_digest(messages: str, extras: str, parts: Mapping[str, Any]) -> bytes:
    if "provenance" in parts:
        extras = canonical({name: value for name, value in parts.items() if name != "provenance"})
    return digest(f'["prompt",{messages},{extras or "{}"}]')


def response_values(response: NewResponse, created: str) -> tuple[Any, ...]:
    """The columns of a new response. `key` makes equal texts of one run different rows."""
    identity = (response.run, response.key) if response.key else (response.text, response.reasoning)
    return (
        response.prompt_id,
        digest(f'["response",{response.prompt_id},{canonical(identity[0])},{canonical(identity[1])}]'),
        response.text,
        response.reasoning,
        canonical(dict(response.message)) if response.message else "",
        response.finish_reason,
        response.teacher,
        response.recipe_hash,
        response.run,
        response.seed,
        canonical(dict(response.sampling)) if response.sampling else "",
        response.prompt_tokens,
        response.tokens,
        response.status,
        response.reason,
        response.source,
        created,
        response.terms,
        canonical(dict(response.extras)) if response.extras else "",
    )


def preference_values(preference: NewPreference, created: str) -> tuple[Any, ...]:
    """The columns of a new preference. Raises `BadInput` when it has fewer than two answers, or not a score each."""
    candidates, scores = list(preference.candidates), list(preference.scores)
    if len(candidates) < 2 or len(candidates) != len(scores):
        raise BadInput(
            "A preference needs two answers",
            f"It has {len(candidates)} answers and {len(scores)} scores.",
            "Give a chosen and a rejected answer.",
        )
    return (
        preference.prompt_id,
        fingerprint("preference", preference.prompt_id, candidates, scores),
        canonical(candidates),
        canonical(scores),
        candidates[max(range(len(scores)), key=scores.__getitem__)],
        preference.run,
        preference.status,
        preference.reason,
        preference.source,
        created,
        preference.terms,
        canonical(dict(preference.extras)) if preference.extras else "",
    )


def read_prompt(row: sqlite3.Row) -> Prompt:
    """A row of `prompts`."""
    return Prompt(
        id=row["id"],
        messages=tuple(json.loads(row["messages"])),
        text=row["text"],
        tags=tuple(row["tags"].split()),
        reference=row["reference"],
        extras=json.loads(row["extras"] or "{}"),
        status=cast("Status", row["status"]),
        reason=row["reason"],
        source=row["source"],
        created=row["created"],
        fingerprint=row["fingerprint"],
        terms=row["terms"],
    )


def read_response(row: sqlite3.Row) -> Response:
    """A row of `responses`."""
    return Response(
        **{name: row[name] for name in _RESPONSE_COLUMNS},
        message=json.loads(row["message"] or "{}") or {"role": "assistant", "content": row["text"]},
        sampling=json.loads(row["sampling"] or "{}"),
        extras=json.loads(row["extras"] or "{}"),
    )


_RESPONSE_COLUMNS = (
    *("id", "prompt_id", "text", "reasoning", "finish_reason", "teacher", "recipe_hash", "run", "seed"),
    *("prompt_tokens", "tokens", "status", "reason", "source", "created", "fingerprint"),
    "terms",
)


def read_preference(row: sqlite3.Row) -> Preference:
    """A row of `preferences`."""
    names = ("id", "prompt_id", "run", "status", "reason", "source", "created", "fingerprint", "terms")
    return Preference(
        **{name: row[name] for name in names},
        candidates=tuple(json.loads(row["candidates"])),
        scores=tuple(json.loads(row["scores"])),
        extras=json.loads(row["extras"] or "{}"),
    )
