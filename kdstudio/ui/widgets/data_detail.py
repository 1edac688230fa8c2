"""Everything that is known of one row, read for the inspector. No widgets; for a background task."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kdstudio.errors import KnownError
from kdstudio.project.content import Kind, plain_text
from kdstudio.ui.widgets.wording import ago, number

if TYPE_CHECKING:
    from kdstudio.project import Preference, Project, Prompt, Response

RAW_CHARACTERS = 200_000


@dataclass(frozen=True)
class Turn:
    """One message as the preview shows it: who speaks, what, and a word about it (a score, "cut at the limit")."""

    who: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Detail:
    """A row for the inspector. `text` is what can be edited (None: nothing), `raw` its JSON, `provenance` pairs."""

    kind: Kind
    row_id: int
    status: str
    reason: str
    turns: tuple[Turn, ...]
    text: str | None
    raw: str
    provenance: tuple[tuple[str, str], ...]


def read_detail(project: Project, kind: Kind, row_id: int) -> Detail:
    """Read a row with its prompt. Raises `BadInput` when it is gone."""
    if kind == "prompt":
        return _of_prompt(project, project.rows.prompt(row_id))
    if kind == "response":
        response = project.rows.response(row_id)
        return _of_response(project, response, project.rows.prompt(response.prompt_id))
    preference = project.rows.preference(row_id)
    return _of_preference(preference, project.rows.prompt(preference.prompt_id))


def _turns(prompt: Prompt) -> list[Turn]:
    return [Turn(str(message.get("role", "")), _said(message)) for message in prompt.messages]


def _said(message: dict[str, Any]) -> str:
    text = plain_text(message.get("content"))
    calls = message.get("tool_calls")
    return f"{text}\n\n```json\n{_json(calls)}\n```".strip() if calls else text


def _of_prompt(project: Project, prompt: Prompt) -> Detail:
    answers = project.rows.responses_of(prompt.id)
    turns = _turns(prompt)
    turns += [Turn(answer.teacher or "answer", answer.text, answer.status) for answer in answers[:8]]
    if len(answers) > 8:
        turns.append(Turn("answers", f"and {number(len(answers) - 8)} more"))
    if prompt.reference:
        turns.append(Turn("reference", prompt.reference))
    facts = [
        ("Source", prompt.source),
        ("Tags", ", ".join(prompt.tags)),
        ("Answers", number(len(answers))),
        ("Messages", number(len(prompt.messages))),
        *_common(prompt),
    ]
    raw = {"id": prompt.id, "messages": list(prompt.messages), "tags": list(prompt.tags), **_rest(prompt)}
    return _detail("prompt", prompt, turns, prompt.text, raw, facts)


def _of_response(project: Project, response: Response, prompt: Prompt) -> Detail:
    turns = _turns(prompt)
    if response.reasoning:
        turns.append(Turn("reasoning", response.reasoning))
    note = "cut at the limit" if response.finish_reason == "length" else ""
    turns.append(Turn(response.teacher or "assistant", response.text, note))
    if prompt.reference:
        turns.append(Turn("reference", prompt.reference))
    facts = [
        ("Teacher", response.teacher),
        ("Recipe", _recipe_title(project, response.run)),
        ("Recipe hash", response.recipe_hash),
        ("Run", response.run),
        ("Seed", str(response.seed) if response.run else ""),
        ("Sampling", _sampling(response.sampling)),
        ("Tokens", f"{number(response.tokens)} (prompt {number(response.prompt_tokens)})" if response.tokens else ""),
        ("Ended by", {"stop": "itself", "length": "the token limit"}.get(response.finish_reason, "")),
        ("Source", response.source),
        ("Tags", ", ".join(prompt.tags)),
        ("Prompt", f"#{number(prompt.id)}, {prompt.status}"),
        *_common(response),
    ]
    raw = {"id": response.id, "messages": [*prompt.messages, response.message], **_rest(response)}
    return _detail("response", response, turns, response.text, raw, facts)


def _of_preference(preference: Preference, prompt: Prompt) -> Detail:
    turns = _turns(prompt)
    ranked = sorted(zip(preference.scores, preference.candidates, strict=True), key=lambda pair: -pair[0])
    names = ["chosen", *(["rejected"] if len(ranked) == 2 else [f"answer {n}" for n in range(2, len(ranked) + 1)])]
    turns += [Turn(name, text, f"score {score:g}") for name, (score, text) in zip(names, ranked, strict=True)]
    facts = [
        ("Answers", number(len(ranked))),
        ("Run", preference.run),
        ("Source", preference.source),
        ("Prompt", f"#{number(prompt.id)}, {prompt.status}"),
        *_common(preference),
    ]
    raw = {"id": preference.id, "messages": list(prompt.messages), **_rest(preference)}
    return _detail("preference", preference, turns, None, raw, facts)


def _detail(
    kind: Kind,
    row: Prompt | Response | Preference,
    turns: list[Turn],
    text: str | None,
    raw: dict[str, Any],
    facts: list[tuple[str, str]],
) -> Detail:
    known = tuple((name, value) for name, value in facts if value)
    return Detail(kind, row.id, row.status, row.reason, tuple(turns), text, _json(raw)[:RAW_CHARACTERS], known)


def _common(row: Prompt | Response | Preference) -> list[tuple[str, str]]:
    when = row.created.replace("T", " ")[:19]
    return [
        ("Status", row.status),
        ("Reason", row.reason),
        ("Added", f"{ago(row.created)} ({when} UTC)" if when else ""),
        ("Fingerprint", row.fingerprint.hex()),
    ]


def _rest(row: Prompt | Response | Preference) -> dict[str, Any]:
    """What the JSON shows besides id and messages; empty fields are left out."""
    shown = ("id", "messages", "message", "text", "tags")
    fields = {name: value for name, value in asdict(row).items() if name not in shown}
    fields["fingerprint"] = row.fingerprint.hex()
    return {name: value for name, value in fields.items() if value not in ("", (), {}, [], None)}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def _sampling(sampling: dict[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sampling.items())


def _recipe_title(project: Project, run_id: str) -> str:
    if not run_id:
        return ""
    try:
        recipe = project.runs.get(run_id).parameters.get("recipe", {})
    except KnownError:
        return ""  # rows that came with another project's run
    return str(recipe.get("recipe", {}).get("title", ""))
