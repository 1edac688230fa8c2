"""What a teacher is and can do, in words a newcomer understands. Pure functions, no widgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kdstudio.models.spec import TeacherKind
from kdstudio.models.terms import TERMS, terms_of
from kdstudio.project.teachers import StoredTeacher
from kdstudio.ui.widgets.wording import number, short_number

KIND_WORDS: dict[TeacherKind, str] = {
    "gguf": "Local file",
    "openai": "Endpoint",
    "huggingface": "Hugging Face folder",
    "scripted": "Script",
}
KIND_ICONS: dict[TeacherKind, str] = {
    "gguf": "cpu",
    "openai": "plug",
    "huggingface": "folder",
    "scripted": "file-text",
}
Mark = Literal["good", "warn", "bad", "idle"]


@dataclass(frozen=True)
class Ability:
    """One line about what a teacher can do (good), cannot do (warn) or lacks (bad)."""

    mark: Mark
    words: str
    more: str = ""


def size_words(count: float) -> str:
    """`98362432` -> `98 MB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def facts_of(stored: StoredTeacher) -> str:
    """`134.5M parameters · Q4_1 · 98 MB · context 8 192`, as far as it is known."""
    known: dict[str, Any] = stored.capabilities
    if stored.spec.kind == "openai":
        return f"{stored.spec.model} · {stored.spec.url}"
    context = known.get("context_tokens")
    parts = [
        f"{short_number(known['parameters'])} parameters" if known.get("parameters") else "",
        str(known.get("quantization") or ""),
        size_words(known["bytes"]) if known.get("bytes") else "",
        f"context {number(context)}" if context else "",
    ]
    return " · ".join(part for part in parts if part)


def abilities_of(stored: StoredTeacher, *, file_there: bool = True) -> tuple[Ability, ...]:
    """What it can do, the most important first."""
    if not file_there:
        return (Ability("bad", "The file is missing", f"{stored.spec.path} is not there any more."),)
    if stored.spec.kind == "gguf":
        return tuple(_of_file(stored.capabilities))
    if stored.spec.kind == "openai":
        return (
            Ability("good", "Answers prompts"),
            Ability(
                "warn",
                "Answers only: Imitate works, Match does not",
                "Match needs log-probs of given text, which an endpoint does not give. Use a local GGUF file for it.",
            ),
        )
    if stored.spec.kind == "huggingface":
        return (
            Ability("warn", "Cannot be asked: add the model as a GGUF file for answers"),
            Ability("good", "A student can start from its weights"),
        )
    return (
        Ability("good", "Answers prompts from a script"),
        Ability("warn", "Gives no log-probs: Imitate works, Match does not"),
    )


def _of_file(known: dict[str, Any]) -> list[Ability]:
    found = [
        Ability("good", "Answers prompts")
        if known.get("chat_template", True)
        else Ability("warn", "Answers prompts, but has no chat template", "It is a base model: it continues text."),
        Ability(
            "good",
            "Gives log-probs: Match works",
            "Match (a divergence between distributions) learns from the whole distribution, not only from the answer.",
        ),
    ]
    obstacle = known.get("student_obstacle")
    if obstacle == "":
        found.append(Ability("good", "A smaller student can be cut from it", "It starts from its weights."))
    elif obstacle:
        found.append(Ability("idle", "No student can be cut from it", str(obstacle)))
    return [*found, _of_licence(str(known.get("license") or ""))]


def _of_licence(name: str) -> Ability:
    """Whether students may be trained from it: a reminder, and the licence's own words as the tool tip."""
    terms = terms_of(name)
    if terms.free:
        return Ability("good", f"{terms.name}: you may train students from it", terms.says)
    if name.strip().lower() in TERMS:
        return Ability("warn", f"{terms.name}: {terms.says[0].lower()}{terms.says[1:]}", terms.says)
    return Ability("idle", f"Licence {terms.name}: read its terms before you share a student", terms.says)


def probe_words(probe: dict[str, Any]) -> str:
    """`42 tokens/s · “Hello there.”` of a test's result."""
    rate, text = float(probe.get("tokens_per_second") or 0), " ".join(str(probe.get("text", "")).split())
    shown = f"“{text[:120]}{'…' if len(text) > 120 else ''}”" if text else "an empty answer"
    return f"{number(rate) if rate >= 10 else f'{rate:.1f}'} tokens/s · {shown}" if rate else shown
