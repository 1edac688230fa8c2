"""Opening a teacher by its description; what a kind needs is imported only when that kind is opened."""

from __future__ import annotations

from kdstudio.errors import BadInput
from kdstudio.models.conversation import Tokenizer
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Teacher
from kdstudio.teachers.ledger import Ledger


def open_teacher(spec: TeacherSpec, secrets: dict[str, str], *, ledger: Ledger | None = None) -> Teacher:
    """Open a teacher in this process (a child); one that costs money writes each attempt into the `ledger`.

    Raises `KnownError` or `BadInput` when it cannot be used.
    """
    match spec.kind:
        case "gguf":
            from kdstudio.teachers.llama import LlamaTeacher

            return LlamaTeacher(spec)
        case "openai":
            from kdstudio.teachers.openai_api import OpenAITeacher

            return OpenAITeacher(spec, secrets, ledger)
        case "anthropic":
            from kdstudio.teachers.anthropic_api import AnthropicTeacher

            return AnthropicTeacher(spec, secrets, ledger)
        case "scripted":
            from kdstudio.teachers.scripted import ScriptedTeacher

            return ScriptedTeacher(spec)
        case "huggingface":
            from kdstudio.teachers.transformers_local import TransformersTeacher

            return TransformersTeacher(spec)
        case _:
            raise BadInput(
                "This teacher does not answer",
                f"{spec.name} is of kind {spec.kind!r}, which is not known here.",
                "Add the model as a GGUF file, a folder or an endpoint.",
            )


def tokenizer_of(teacher: Teacher) -> Tokenizer:
    """The tokenizer of a local teacher. Raises `BadInput` for one whose token ids are not known here."""
    tokenizer: Tokenizer | None = getattr(teacher, "tokenizer", None)
    if tokenizer is None:
        raise BadInput(
            "This teacher's tokens are not known",
            "It answers in text; the ids behind it stay with it.",
            "Use a GGUF teacher where signals are needed.",
        )
    return tokenizer
