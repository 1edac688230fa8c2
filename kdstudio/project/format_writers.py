"""Writing rows in the shapes that other programs read. A row that a shape cannot hold is refused, never cut down."""

from __future__ import annotations

from typing import Any

from kdstudio.models.pictures import address_of
from kdstudio.models.tool_calls import read_calls, text_of
from kdstudio.project.content import Message, Preference, Prompt, Response
from kdstudio.project.format_readers import PICTURE, guard

CSV_COLUMNS = ("system", "prompt", "completion", "reasoning", "chosen", "rejected", "tags", "reference")


class UnfitError(Exception):
    """A row that a format cannot hold; the message says what of it."""


def _is_plain(message: Message) -> bool:
    return message.keys() <= {"role", "content"} and isinstance(message.get("content"), str)


def _is_single(prompt: Prompt) -> bool:
    """Whether a prompt is one user turn of plain text, perhaps after a system turn."""
    roles = [message.get("role") for message in prompt.messages]
    plain = all(_is_plain(message) for message in prompt.messages)
    return roles in (["user"], ["system", "user"]) and plain and not prompt.extras.get("tools")


def _single(prompt: Prompt) -> dict[str, str]:
    """`system` (if there is one) and `prompt`. Raises `UnfitError` for any other conversation."""
    if not _is_single(prompt):
        raise UnfitError("its prompt has several turns, tools or attachments")
    system = {"system": prompt.messages[0]["content"]} if len(prompt.messages) == 2 else {}
    return {**system, "prompt": prompt.messages[-1]["content"]}


def _with_extras(record: dict[str, Any], prompt: Prompt) -> dict[str, Any]:
    extras = {"tags": list(prompt.tags), "reference": prompt.reference, "tools": prompt.extras.get("tools")}
    return record | {key: value for key, value in extras.items() if value}


def _assistant(text: str, reasoning: str = "") -> Message:
    return {"role": "assistant", "content": text, **({"reasoning": reasoning} if reasoning else {})}


def _turn(response: Response) -> Message:
    """The assistant's turn: its calls apart from its text, where the text still spells them."""
    message = response.message
    if not message.get("tool_calls"):
        return {**message, **_assistant(response.text, response.reasoning)}
    content, calls = message.get("content", ""), message["tool_calls"]
    if text_of(message) != response.text:  # a person changed it
        content, calls = read_calls(response.text)
    said = {**message, **_assistant(str(content or ""), response.reasoning), "tool_calls": calls}
    return {name: value for name, value in said.items() if name != "tool_calls" or value}


def _ranked(preference: Preference | None) -> tuple[str, str]:
    """The best and the worst answer. Raises `UnfitError` when none is better."""
    if preference is None:
        raise UnfitError("it is no preference")
    order = sorted(range(len(preference.scores)), key=preference.scores.__getitem__)
    if preference.scores[order[0]] == preference.scores[order[-1]]:
        raise UnfitError("none of its answers is better than the others")
    return preference.candidates[order[-1]], preference.candidates[order[0]]


def write_messages(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    """All turns as they are, with tools, tags, reference and reasoning."""
    del preference
    messages = [*prompt.messages]
    if response is not None:
        messages.append(_turn(response))
    return _with_extras({"messages": messages}, prompt)


def write_sharegpt(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    """Turns under the names human, gpt and system. Raises `UnfitError` for tools and what is neither text nor picture.

    A picture stands as `<image>` in its turn, and in order in `images`: the form of LLaVA and LLaMA-Factory.
    """
    del preference
    names = {"user": "human", "assistant": "gpt"}
    turns = [*prompt.messages, *([_assistant(response.text)] if response else [])]
    if not all(turn.keys() <= {"role", "content"} for turn in turns) or prompt.extras.get("tools"):
        raise UnfitError("it has tools or attachments")
    pictures: list[str] = []
    spoken = [
        {"from": names.get(turn["role"], turn["role"]), "value": _with_places(turn["content"], pictures)}
        for turn in turns
    ]
    return _with_extras({"conversations": spoken, **({"images": pictures} if pictures else {})}, prompt)


def _with_places(content: Any, pictures: list[str]) -> str:
    """The text of a turn with `<image>` where a picture is, which goes into `pictures`. Raises `UnfitError`."""
    if isinstance(content, str):
        return content
    lines: list[str] = []
    for part in content if isinstance(content, list) else [None]:
        if picture := address_of(part):
            pictures.append(picture)
            lines.append(PICTURE)
        elif isinstance(part, dict) and isinstance(text := part.get("text"), str) and PICTURE not in text:
            lines.append(text)
        else:
            raise UnfitError("it has tools or attachments")
    return "\n".join(lines)


def write_alpaca(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    """One instruction and one output. Raises `UnfitError` for several turns."""
    del preference
    single = _single(prompt)
    instruction = {"instruction": single.pop("prompt"), "input": "", "output": response.text if response else ""}
    return _with_extras({**single, **instruction}, prompt)


def write_prompt_completion(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    """Two texts where the prompt is one turn, else two lists of messages (the conversational form of TRL)."""
    del preference
    if _is_single(prompt):
        answer: dict[str, Any] = {"completion": response.text} if response else {}
        record = {**_single(prompt), **answer}
    else:
        answer = {"completion": [_assistant(response.text)]} if response else {}
        record = {"prompt": list(prompt.messages), **answer}
    if response and response.reasoning:
        record["reasoning"] = response.reasoning
    return _with_extras(record, prompt)


def write_preference(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    """The best and the worst answer, as texts or as lists of messages like the prompt."""
    del response
    chosen, rejected = _ranked(preference)
    if _is_single(prompt):
        return _with_extras({**_single(prompt), "chosen": chosen, "rejected": rejected}, prompt)
    answers = {"chosen": [_assistant(chosen)], "rejected": [_assistant(rejected)]}
    return _with_extras({"prompt": list(prompt.messages), **answers}, prompt)


def write_csv(prompt: Prompt, response: Response | None, preference: Preference | None) -> dict[str, Any]:
    """Cells, guarded. Raises `UnfitError` for several turns."""
    row: dict[str, Any] = {**_single(prompt), "tags": " ".join(prompt.tags), "reference": prompt.reference}
    if preference is not None:
        row["chosen"], row["rejected"] = _ranked(preference)
    if response is not None:
        row["completion"], row["reasoning"] = response.text, response.reasoning
    return {key: guard(value) for key, value in row.items()}


def write_line(prompt: Prompt, response: Response | None, preference: Preference | None) -> str:
    """The answer, or the prompt's last turn, on one line."""
    del preference
    return " ".join((response.text if response else prompt.text).split())
