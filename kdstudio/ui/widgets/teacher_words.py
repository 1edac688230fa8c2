"""What a teacher is and can do, in words a newcomer understands. Pure functions, no widgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from kdstudio.models.endpoint import is_local
from kdstudio.models.spec import TeacherKind
from kdstudio.models.terms import terms_of
from kdstudio.project.teachers import StoredTeacher
from kdstudio.ui.widgets.teacher_price import dollars, price_words
from kdstudio.ui.widgets.wording import ago, number, short_number

KIND_WORDS: dict[TeacherKind, str] = {
    "gguf": "Local file",
    "openai": "Endpoint",
    "anthropic": "Anthropic",
    "huggingface": "Hugging Face folder",
    "scripted": "Script",
}
KIND_ICONS: dict[TeacherKind, str] = {
    "gguf": "cpu",
    "openai": "plug",
    "anthropic": "plug",
    "huggingface": "folder",
    "scripted": "file-text",
}
Mark = Literal["good", "warn", "bad", "idle"]


@dataclass(frozen=True)
class Ability:
    """One line about a teacher: it can (good), it cannot (idle), mind this (warn), it does not work (bad)."""

    mark: Mark
    words: str
    more: str = ""


def size_words(count: float) -> str:
    """`98362432` -> `98 MB`."""
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


ENDPOINTS: tuple[TeacherKind, ...] = ("openai", "anthropic")


def facts_of(stored: StoredTeacher) -> str:
    """`134.5M parameters · Q4_1 · 98 MB · context 8 192`, as far as it is known."""
    known: dict[str, Any] = stored.capabilities
    if stored.spec.kind in ENDPOINTS:
        return " · ".join(part for part in (stored.spec.model, stored.spec.url) if part)
    context = known.get("context_tokens")
    parts = [
        f"{short_number(known['parameters'])} parameters" if known.get("parameters") else "",
        str(known.get("quantization") or ""),
        size_words(known["bytes"]) if known.get("bytes") else "",
        f"context {number(context)}" if context else "",
    ]
    return " · ".join(part for part in parts if part)


def abilities_of(stored: StoredTeacher, *, file_there: bool = True) -> tuple[Ability, ...]:
    """What it can be used for and why not: answers, signals, distributions, features, images, form, students, terms."""
    if not file_there:
        return (Ability("bad", "The file is missing", f"{stored.spec.path} is not there any more."),)
    makers = {"gguf": _of_file, "huggingface": _of_folder, "scripted": _of_script}
    found = makers.get(stored.spec.kind, _of_endpoint)(stored.capabilities)
    return (*found, _of_terms(stored.terms))


_TEXT_ALONE = "No images: it reads text"
_FEATURES = "Hidden states and attention: what feature distillation learns from. Only a Hugging Face folder shows them."
_FORM = "Its answers can be bound to a JSON schema or a grammar, so that a recipe can always read them."
_MATCH = "Match (a divergence between distributions) learns from all of a token’s likeliest choices, not only from one."
_WHOLE = "A run may hold the teacher beside its student and learn from all of the vocabulary, not only the likeliest."


def _of_file(known: dict[str, Any]) -> list[Ability]:
    template = known.get("chat_template", True)
    obstacle = known.get("student_obstacle")
    whole = known.get("full_distributions", not obstacle)
    return [
        Ability("good", "Answers prompts")
        if template
        else Ability("warn", "Answers, but has no chat template", "It is a base model: it continues text."),
        Ability("good", "Gives signals: Match works", _MATCH),
        Ability("good", "Whole distributions", _WHOLE)
        if whole
        else Ability("idle", "No whole distributions: torch cannot run it", str(obstacle or _WHOLE)),
        Ability("idle", "No features: add its folder for them", _FEATURES),
        Ability("idle", _TEXT_ALONE, "Prompts with pictures need an endpoint whose model sees."),
        Ability("good", "Keeps to a schema or grammar", _FORM),
        Ability("idle", "No student can be cut from it", str(obstacle))
        if obstacle
        else Ability("good", "A student can be cut from it", "A smaller one that starts from its weights."),
    ]


def _of_folder(_known: dict[str, Any]) -> list[Ability]:
    return [
        Ability("good", "Answers prompts", "Through transformers: slower than the same model as a GGUF file."),
        Ability("good", "Gives signals: Match works", _MATCH),
        Ability("good", "Whole distributions", _WHOLE),
        Ability("good", "Features: hidden states, attention", _FEATURES),
        Ability("idle", _TEXT_ALONE, "Prompts with pictures need an endpoint whose model sees."),
        Ability("idle", "Free form: no schema or grammar", "Only GGUF files and some endpoints can be bound to one."),
        Ability("good", "A student can start from its weights"),
    ]


def _of_script(_known: dict[str, Any]) -> list[Ability]:
    return [
        Ability("good", "Answers prompts from a script"),
        Ability("idle", "No signals: Imitate works, Match does not", "A script is text, without log-probs."),
        Ability(
            "idle", "No features, no images: it is text alone", "Neither hidden states nor pictures are in a script."
        ),
    ]


def _of_endpoint(known: dict[str, Any]) -> list[Ability]:
    text_alone = "Match needs log-probs of given text, which an endpoint does not give. Use a local GGUF file for it."
    sees, bound = known.get("images"), known.get("json_schema") or known.get("grammar")
    return [
        Ability("good", "Answers prompts"),
        Ability("idle", "No signals: Imitate works, Match does not", text_alone),
        Ability("idle", "No distributions or features: they stay there", "Its weights are not on this machine."),
        Ability("good", "Log-probs of its answers, if it sends them", "Seen under Try it; not enough for Match.")
        if known.get("answer_log_probs")
        else Ability("idle", "Log-probs of its answers: test it", "What an endpoint gives is known once it was asked."),
        Ability("good", "Takes images, if its model sees")
        if sees is not False
        else Ability("idle", _TEXT_ALONE, "Its options say that the model does not see."),
        Ability("good", "Keeps to a JSON schema, if its server can", _FORM)
        if bound
        else Ability("idle", "JSON schema: not known to work", _FORM),
    ]


def _of_terms(stamp: str) -> Ability:
    """Whether students may be trained from it: a reminder, and the terms' own words as the tool tip."""
    terms = terms_of(stamp)
    if terms.free:
        return Ability("good", f"{terms.name}: you may train students", terms.says)
    if terms.stated:
        return Ability("warn", f"{terms.name}: {terms.says[0].lower()}{terms.says[1:]}", terms.says)
    return Ability("idle", "Terms not stated: read them before you share a student", terms.says)


def speed_words(probe: dict[str, Any] | None) -> str:
    """`42 tokens/s, measured 5 min ago`; "" when it was not."""
    rate = float((probe or {}).get("tokens_per_second") or 0)
    if not rate:
        return ""
    when = ago(str((probe or {}).get("at", "")))
    return f"{number(rate) if rate >= 10 else f'{rate:.1f}'} tokens/s{f', measured {when}' if when else ''}"


def money_words(stored: StoredTeacher, spent: float) -> str:
    """`$1.25 spent · $0.15 in and $0.60 out for a million tokens · stops at $5.00 a run`; "" for a local teacher."""
    if stored.spec.kind not in ENDPOINTS:
        return ""
    own, ceiling = stored.spec.options.get("price"), stored.spec.options.get("ceiling")
    price = price_words(own) or price_words(stored.capabilities.get("price"))
    if not price:
        local = stored.spec.url and is_local(stored.spec.url)
        price = "free of charge" if local else "price not known: test it, or enter it"
    if price == "free of charge" and not spent and not ceiling:
        return "Free of charge"
    stops = f"stops at {dollars(float(ceiling))} a run" if ceiling else ""
    return " · ".join(part for part in (f"{dollars(spent)} spent", price, stops) if part)


def answer_words(probe: dict[str, Any]) -> str:
    """`“Hello there.”` of a test's result, cut."""
    text = " ".join(str(probe.get("text", "")).split())
    return f"“{text[:120]}{'…' if len(text) > 120 else ''}”" if text else "an empty answer"


def probe_words(probe: dict[str, Any]) -> str:
    """`42 tokens/s · “Hello there.”` of a test's result."""
    rate, shown = float(probe.get("tokens_per_second") or 0), answer_words(probe)
    return f"{number(rate) if rate >= 10 else f'{rate:.1f}'} tokens/s · {shown}" if rate else shown
