"""Pictures on their way to a hosted teacher: out of the project's folder, or as they are given in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kdstudio.errors import BadInput
from kdstudio.models.pictures import MOST_BYTES, PREFIX, address_of, picture_at, with_pictures
from kdstudio.teachers.base import Message


def refuse_pictures(messages: Sequence[Message]) -> None:
    """For a teacher that does not see. Raises `BadInput` for a prompt that shows it something."""
    contents = [content for message in messages if isinstance(content := message.get("content"), list)]
    if any(address_of(part) for content in contents for part in content):
        raise BadInput(
            "This teacher does not see",
            "The prompt holds a picture.",
            "Choose a teacher that reads images, or leave such prompts out.",
        )


def with_data_urls(messages: Sequence[Message], project_folder: Path | None) -> list[Message]:
    """The messages with the project's own pictures as data URLs; addresses on the network stay, and so do data URLs.

    Raises `BadInput` for a picture that is not there, was changed, or is too large.
    """

    def sent(address: str) -> str:
        if address.startswith(PREFIX):
            return picture_at(address, project_folder).data_url
        if len(address) > MOST_BYTES * 4 // 3 or not address.startswith(("data:", "https://", "http://")):
            picture_at(address, project_folder)  # says what is wrong with it
        return address

    return with_pictures(messages, sent)
