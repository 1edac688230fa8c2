"""The one function that turns messages into token ids; whatever trains or scores calls it, and no tokenizer itself.

Signals belong to token ids, not to text: a teacher that scores other ids than the student is trained on teaches noise.
The prompt is tokenised alone, as the teacher saw it when it answered, and what it is to say follows, up to and with the
token that ends its turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from kdstudio.errors import BadInput
from kdstudio.models.chat_template import TRANSCRIPT, render
from kdstudio.models.tool_calls import apart, for_template, read_calls

Message = dict[str, Any]


class Tokenizer(Protocol):
    """A model's vocabulary with its chat template; one implementation reads GGUF, another a Hugging Face folder."""

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are."""
        ...

    @property
    def fingerprint(self) -> str:
        """`gguf_reader.vocabulary_fingerprint` of the token strings."""
        ...

    @property
    def template(self) -> str:
        """The chat template ("" if the model has none)."""
        ...

    @property
    def bos_token(self) -> str:
        """Text of the token that begins a text ("" if none)."""
        ...

    @property
    def eos_token(self) -> str:
        """Text of the token that ends a turn ("" if none)."""
        ...

    @property
    def eos_id(self) -> int | None:
        """Its id."""
        ...

    @property
    def end_ids(self) -> frozenset[int]:
        """All ids at which generation stops; `eos_id` is among them."""
        ...

    def encode(self, text: str, *, special: bool) -> list[int]:
        """Ids of `text`, nothing added. `special`: control tokens written out in it become their ids."""
        ...

    def piece(self, token: int) -> bytes:
        """The bytes that an id stands for in text (b"" for control tokens)."""
        ...


@dataclass(frozen=True)
class Conversation:
    """A prompt and what is to be said.

    The mask of what is learnt is all of `response_ids`, the last of which ends the turn, and nothing of `prompt_ids`.
    `spans`: for each response id the bytes [start, end) of the response's UTF-8 text that it stands for.
    """

    prompt_ids: list[int]
    response_ids: list[int]
    spans: list[tuple[int, int]]

    @property
    def ids(self) -> list[int]:
        """All ids, in order."""
        return self.prompt_ids + self.response_ids

    @property
    def mask(self) -> list[bool]:
        """For each of `ids`, whether it is learnt."""
        return [False] * len(self.prompt_ids) + [True] * len(self.response_ids)


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of the messages and the start of the assistant's turn. Raises `BadInput` if they cannot be read."""
    return tokenizer.encode(_rendered(tokenizer, messages, add_generation_prompt=True), special=True)


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message], response_text: str) -> Conversation:
    """Ids of the prompt, and of the response up to and with the end of its turn.

    Tools that the messages carry (`tool_calls.with_tools`) are given to the chat template; with them, calls that the
    response spells are given to it as calls where it knows any, and no byte of the text belongs to a token then.

    Equal to tokenising the rendered whole wherever the tokenizer does not join the prompt's last characters with the
    response's first ones; where it would, this is what the teacher saw. Raises `BadInput` as `encode_prompt` does.
    """
    prompt = _rendered(tokenizer, messages, add_generation_prompt=True)
    content, calls = (
        read_calls(response_text) if apart(messages)[1] and "tool_calls" in tokenizer.template else ("", [])
    )
    if calls:
        called = {"role": "assistant", "content": content, "tool_calls": calls}
        whole = _rendered(tokenizer, messages, called, add_generation_prompt=False)
        if whole.startswith(prompt):
            ids = _through_end_of_turn(tokenizer, whole[len(prompt) :], "")
            return Conversation(tokenizer.encode(prompt, special=True), ids, [(0, 0)] * len(ids))
    answer = {"role": "assistant", "content": response_text}
    whole = _rendered(tokenizer, messages, answer, add_generation_prompt=False)
    # A template that rewrites earlier turns, or the answer itself, cannot say where the answer begins.
    if whole.startswith(prompt) and response_text.strip() in whole[len(prompt) :]:
        rest = whole[len(prompt) :]
    else:
        rest = response_text + tokenizer.eos_token
    ids = _through_end_of_turn(tokenizer, rest, response_text)
    start = len(rest[: max(rest.find(response_text.strip()), 0)].encode("utf-8", "replace"))
    if ids and tokenizer.piece(ids[0])[:1] == b" " and not rest.startswith(" "):
        start += 1  # SentencePiece puts a space in front of every text, which is no byte of this one
    return Conversation(tokenizer.encode(prompt, special=True), ids, _spans(tokenizer, ids, start, response_text))


def plain_messages(messages: Sequence[Message]) -> list[Message]:
    """Messages whose content is a string, as templates expect it. Raises `BadInput` for images and for no messages."""
    if not messages:
        raise BadInput("This prompt is empty", "It has no messages.", "Give it at least one message.")
    return [{**message, "content": _text_of(message)} for message in messages]


def _text_of(message: Message) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise BadInput(
        "This model reads text only",
        f"A message of the {message.get('role', 'user')} holds an image or another part that is no text.",
        "Choose a teacher that reads images, or leave such prompts out.",
    )


def _rendered(tokenizer: Tokenizer, messages: Sequence[Message], *answer: Message, add_generation_prompt: bool) -> str:
    """What the template makes of the messages, whose texts cannot leave their turns, and of the `answer` as it is."""
    bare, tools = apart(messages)
    harmless = [_without_controls(tokenizer, message) for message in bare]
    template = tokenizer.template or TRANSCRIPT
    return render(
        template,
        plain_messages(for_template([*harmless, *answer], tools, template)),
        tools=[_without_controls(tokenizer, tool) for tool in tools],
        add_generation_prompt=add_generation_prompt,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
    )


# How vocabularies write control tokens: <|im_end|>, </s>, [INST]
_SPELT = re.compile(r"<[^<>\s]{1,60}>|\[/?[A-Za-z_]{2,30}\]")


def _without_controls(tokenizer: Tokenizer, value: Any) -> Any:
    """A message whose texts hold no control token of this vocabulary: one that is spelt out is broken by a blank.

    A document, an earlier answer or an imported row that spells `<|im_end|>` would end its turn and begin another one.
    Only what this vocabulary takes for control is touched, and only on the way to the model: the stored text stays.
    """
    match value:
        case str():
            return (
                _SPELT.sub(lambda found: _broken(tokenizer, found[0]), value) if "<" in value or "[" in value else value
            )
        case list():
            return [_without_controls(tokenizer, entry) for entry in value]
        case dict():
            return {
                name: entry if name == "role" else _without_controls(tokenizer, entry) for name, entry in value.items()
            }
    return value


def _broken(tokenizer: Tokenizer, text: str) -> str:
    controls = any(not tokenizer.piece(token) for token in tokenizer.encode(text, special=True))
    return f"{text[0]} {text[1:]}" if controls else text


def _through_end_of_turn(tokenizer: Tokenizer, rest: str, response_text: str) -> list[int]:
    """Ids of `rest` up to the first end of turn after the response, which is added where the template writes none."""
    ids, ends = tokenizer.encode(rest, special=True), tokenizer.end_ids
    at = [index for index, token in enumerate(ids) if token in ends]
    if len(at) > 1:  # the response may itself hold such tokens, written out; the template's comes after them
        content_end = rest.rfind(response_text.strip()) + len(response_text.strip())
        at = at[sum(token in ends for token in tokenizer.encode(rest[:content_end], special=True)) :]
    if at:
        return ids[: at[0] + 1]
    return ids if tokenizer.eos_id is None else [*ids, tokenizer.eos_id]


def _spans(tokenizer: Tokenizer, ids: Sequence[int], start: int, response_text: str) -> list[tuple[int, int]]:
    """Byte spans in the response. `start`: bytes of template text (an empty think block) in front of the response."""
    text = response_text.encode("utf-8", "replace")
    at, spans = (len(text) - len(response_text.lstrip().encode("utf-8", "replace"))) - start, []
    for token in ids:
        end = at + len(tokenizer.piece(token))
        spans.append((min(max(at, 0), len(text)), min(max(end, 0), len(text))))
        at = end
    return spans
