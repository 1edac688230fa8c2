"""Where a teacher is: what the project stores, the screens show and a child opens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

TeacherKind = Literal["gguf", "openai", "anthropic", "huggingface", "scripted"]


@dataclass(frozen=True)
class TeacherSpec:
    """Where a teacher is: `path` (gguf, huggingface, a scripted one's script), or `url`, `model` (openai, anthropic).

    `key_name` names a secret, never holds one. `options` depend on the kind (context_tokens, threads, ...).
    """

    name: str
    kind: TeacherKind
    path: str = ""
    url: str = ""
    model: str = ""
    key_name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
