"""Which models a person can chat with: the project's exports and teachers, or any file; and what to ask them first."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdstudio.files import files_below

if TYPE_CHECKING:
    from kdstudio.project import Project

_PROMPTS_READ = 400
_SUGGESTIONS = 3


@dataclass(frozen=True)
class ChatModel:
    """A model to chat with: a GGUF file, or a teacher as its spec. `label` is what the picker shows."""

    label: str
    gguf: str = ""
    teacher: dict[str, Any] = field(default_factory=dict, hash=False)

    def entry(self, model_id: str) -> dict[str, Any]:
        """As the chat server's first line names it."""
        return {"id": model_id, "teacher": self.teacher} if self.teacher else {"id": model_id, "gguf": self.gguf}

    @property
    def key_name(self) -> str:
        """The name of the secret it needs; empty for none."""
        return str(self.teacher.get("key_name", ""))


@dataclass(frozen=True)
class ChatChoices:
    """The exports (newest first) and teachers of a project, its usual system prompt, and prompts worth asking."""

    exports: tuple[ChatModel, ...] = ()
    teachers: tuple[ChatModel, ...] = ()
    system: str = ""
    suggestions: tuple[str, ...] = ()


def file_model(path: Path) -> ChatModel:
    """A model from a file."""
    return ChatModel(path.name, gguf=str(path))


def read_choices(project: Project | None) -> ChatChoices:
    """What this project offers. For a background task."""
    if project is None:
        return ChatChoices()
    found = list(files_below(project.exports_folder, ".gguf"))
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    teachers = [ChatModel(stored.spec.name, teacher=asdict(stored.spec)) for stored in project.teachers.list()]
    system, suggestions = _openers(project)
    return ChatChoices(tuple(file_model(path) for path in found), tuple(teachers), system, suggestions)


def _openers(project: Project) -> tuple[str, tuple[str, ...]]:
    """The most frequent system message, and a few of the prompts; held-out ones first, which no student has seen."""
    systems: Counter[str] = Counter()
    unseen: list[str] = []
    others: list[str] = []
    for prompt in project.rows.prompts(limit=_PROMPTS_READ):
        for message in prompt.messages:
            if message.get("role") == "system" and isinstance(message.get("content"), str):
                systems[message["content"]] += 1
        last = prompt.messages[-1].get("content") if prompt.messages else ""
        if isinstance(last, str) and last.strip():
            (unseen if "held_out" in prompt.tags else others).append(last.strip())
    system = systems.most_common(1)[0][0] if systems else ""
    chosen = [text for text in (*unseen, *others) if len(text) <= 60]
    return system, tuple(dict.fromkeys(chosen))[:_SUGGESTIONS]
