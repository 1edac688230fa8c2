"""The model card: who the file is, whom it learnt from and under which terms, and what was measured.

Front matter as the Hugging Face Hub reads it: https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kdstudio.export.certificate import Certificate
from kdstudio.files import readable_bytes
from kdstudio.models.terms import is_licence
from kdstudio.models.terms_summary import TermsUse


@dataclass(frozen=True)
class CardFacts:
    """What the card says besides the certificates. `trained` and `before` are the run's figures by name.

    `terms` are those of the teacher, `learnt` those of the rows that were learnt from, `reason` why somebody trained on
    restricted ones.
    """

    name: str
    run: str
    teacher: str = ""
    terms: str = ""
    base: str = ""
    parameters: int = 0
    recipe_title: str = ""
    recipe_hash: str = ""
    objectives: tuple[str, ...] = ()
    rows: int = 0
    steps: int = 0
    before: dict[str, Any] = field(default_factory=dict)
    trained: dict[str, Any] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    changes: str = ""
    learnt: tuple[TermsUse, ...] = ()
    reason: str = ""


_FIGURES = {
    "held_out_forward_kl": "Divergence to the teacher (forward KL, nats a token)",
    "held_out_top1_agreement": "Same likeliest token as the teacher",
    "held_out_nll": "Negative log-likelihood (nats a token)",
}


def card(facts: CardFacts, certificates: Sequence[Certificate]) -> str:
    """The text of README.md for an export folder."""
    parts = [_front_matter(facts), f"# {facts.name}", _summary(facts), _terms(facts), _training(facts)]
    parts += [_files(certificates), _use(certificates)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(facts: CardFacts) -> str:
    lines = ["---", "library_name: gguf", "pipeline_tag: text-generation"]
    if licence := licence_of(facts.terms, facts.learnt):
        lines.append(f"license: {_quoted(licence.lower().replace(' ', '-'))}")
    if facts.base:
        lines.append(f"base_model: {_quoted(facts.base)}")
    if facts.languages:
        lines += ["language:", *(f"  - {_quoted(item)}" for item in facts.languages)]
    lines += ["tags:", "  - knowledge-distillation", "  - gguf", "---"]
    return "\n".join(lines)


def licence_of(terms: str, learnt: Sequence[TermsUse]) -> str:
    """The licence to state for a student: its teacher's, or "other" when that is not all there is to know.

    That is so when rows carry further restricted terms, or when the teacher's are no licence but a provider's terms.
    """
    further = any(use.terms.restricted and use.stamp != terms for use in learnt)
    return "other" if further or (terms and not is_licence(terms)) else terms


def _quoted(text: str) -> str:
    """YAML's double-quoted form, which is JSON's."""
    return json.dumps(text, ensure_ascii=False)


def _plain(text: str) -> str:
    """One line that Markdown does not read as anything else: names come from files nobody vouches for."""
    flat = " ".join(text.split())
    for mark in "\\`*_[]<>|#":
        flat = flat.replace(mark, "\\" + mark)
    return flat


def _summary(facts: CardFacts) -> str:
    size = f"{facts.parameters / 1e6:.1f}M parameters" if facts.parameters else "a small language model"
    teacher = f", distilled from {_plain(facts.teacher)}" if facts.teacher else ""
    changes = f" {facts.changes}" if facts.changes else ""
    return f"A student of {size}{teacher} with KD Studio.{changes}"


def _terms(facts: CardFacts) -> str:
    said = f"The teacher's terms: {_plain(facts.terms)}." if facts.terms else "The teacher states no terms."
    text = (
        f"## Terms\n\n{said} A student learns from its teacher's output and weights: the teacher's licence and terms "
        "of use may apply to it. Check them before passing this model on."
    )
    lines = ["| Rows learnt from | Terms | What to know |", "|---|---|---|"]
    for use in facts.learnt:
        terms = use.terms
        lines.append(f"| {use.rows:,} | {_plain(terms.name)} | {_plain(terms.says)} {terms.link} |")
    table = "\n\n" + "\n".join(lines) if facts.learnt else ""
    reason = f"\n\nWhy it was trained on restricted ones: {_plain(facts.reason)}" if facts.reason else ""
    return text + table + reason


def _training(facts: CardFacts) -> str:
    lines = ["## Training", "", "| | |", "|---|---|", f"| Run | `{facts.run}` |"]
    if facts.recipe_hash:
        lines.append(f"| Recipe | {_plain(facts.recipe_title)} (`{facts.recipe_hash}`) |")
    if facts.objectives:
        lines.append(f"| Objectives | {_plain(', '.join(facts.objectives))} |")
    if facts.rows:
        lines.append(f"| Rows learnt | {facts.rows:,} |")
    if facts.steps:
        lines.append(f"| Steps | {facts.steps:,} |")
    for key, label in _FIGURES.items():
        if isinstance(facts.trained.get(key), int | float):
            lines.append(f"| {label}, held out | {_change(key, facts.before.get(key), facts.trained[key])} |")
    return "\n".join(lines)


def _change(key: str, before: Any, after: float) -> str:
    form = "{:.1%}" if key.endswith("agreement") else "{:.4f}"
    start = f"{form.format(before)} before, " if isinstance(before, int | float) else ""
    return f"{start}{form.format(after)} after"


_EXPLAINED = (
    "Each file was loaded again and compared with the student as it was trained, at up to {positions} positions of "
    "real text. Agreement: how often both find the same token likeliest. KL: what the format loses, in nats a token."
)


def _files(certificates: Sequence[Certificate]) -> str:
    if not certificates:
        return ""
    positions = max(item.positions for item in certificates)
    lines = [
        "## Files",
        "",
        _EXPLAINED.format(positions=f"{positions:,}"),
        "",
        "| File | Format | Size | Agreement | KL | Check |",
        "|---|---|---|---|---|---|",
    ]
    for item in certificates:
        verdict = "passed" if item.passed else "**failed**"
        lines.append(
            f"| {_plain(item.file)} | {item.quantization} | {readable_bytes(item.bytes)} | {item.top1_agreement:.2%} "
            f"| {item.kl:.2e} | {verdict} |"
        )
    notes = sorted({f"{item.quantization}: {item.note}" for item in certificates if item.note})
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _use(certificates: Sequence[Certificate]) -> str:
    models = [item for item in certificates if item.file.endswith(".gguf")]
    if not models:
        return ""
    smallest = min(models, key=lambda item: item.bytes).file
    return f"## Use\n\n```\nkdstudio chat {smallest!r}\nllama-cli -m {smallest!r} -cnv\n```"
