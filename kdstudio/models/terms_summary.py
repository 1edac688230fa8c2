"""What a training run learns from, by terms: shown before it starts, and asked about where something is restricted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdstudio.errors import BadInput
from kdstudio.models.terms import Terms, parts_of, terms_of

REASON, RESTRICTED_NAMES = "terms_reason", "restricted_terms"
MAXIMUM_REASON_CHARACTERS = 2000


@dataclass(frozen=True)
class TermsUse:
    """Terms that apply to a run: `rows` learnt from that carry them (0: only a signal does), and who made those."""

    stamp: str
    rows: int
    teachers: tuple[str, ...] = ()

    @property
    def terms(self) -> Terms:
        """What the stamp stands for."""
        return terms_of(self.stamp)

    @property
    def words(self) -> str:
        """`OpenAI’s terms: 120 rows by gpt.`"""
        rows = f"{self.rows:,} row{'' if self.rows == 1 else 's'}" if self.rows else "signals or weights"
        by = f" by {', '.join(self.teachers)}" if self.teachers else ""
        return f"{self.terms.name}: {rows}{by}"


@dataclass(frozen=True)
class TermsSummary:
    """All that applies, the most rows first; a row that several teachers had a part in counts under each of theirs."""

    uses: tuple[TermsUse, ...] = ()

    @property
    def restricted(self) -> tuple[TermsUse, ...]:
        """What asks for a reason."""
        return tuple(use for use in self.uses if use.terms.restricted)

    @property
    def not_stated(self) -> int:
        """Rows of which nobody knows the terms: imported ones, those of scripts and of local servers."""
        return sum(use.rows for use in self.uses if not use.terms.stated)

    def as_list(self) -> list[dict[str, Any]]:
        """As plain data, for a journal, a card or the command line."""
        return [
            {"terms": use.stamp, "name": use.terms.name, "rows": use.rows, "restricted": use.terms.restricted}
            for use in self.uses
        ]


def summary_of(counted: Iterable[tuple[Iterable[str], str, int]]) -> TermsSummary:
    """Add up (stamps, teacher, rows): a row under two different terms counts under both, once under each."""
    rows: dict[str, int] = {}
    teachers: dict[str, set[str]] = {}
    for stamps, teacher, number in counted:
        for stamp in {part for given in stamps for part in parts_of(given)} or {""}:
            rows[stamp] = rows.get(stamp, 0) + number
            teachers.setdefault(stamp, set()).update({teacher} if teacher else ())
    uses = (TermsUse(stamp, number, tuple(sorted(teachers[stamp]))) for stamp, number in rows.items())
    return TermsSummary(tuple(sorted(uses, key=lambda use: (-use.rows, use.stamp))))


def require_reason(summary: TermsSummary, reason: str) -> str:
    """The reason, in one piece, that goes with restricted terms; "" where none is needed, whatever was given.

    Raises `BadInput` when something is restricted and no reason is given, or a very long one.
    """
    if not summary.restricted:
        return ""
    said = " ".join(reason.split())
    if not said:
        listed = "; ".join(f"{use.words}. {use.terms.says}{_read_at(use.terms)}" for use in summary.restricted)
        raise BadInput(
            "These rows have terms of use",
            listed,
            "Read them. If they allow what you do, say why: it is kept with the run and written on the model's card.",
        )
    if len(said) > MAXIMUM_REASON_CHARACTERS:
        raise BadInput(
            "The reason is too long", f"It has {len(said):,} characters.", f"Use at most {MAXIMUM_REASON_CHARACTERS:,}."
        )
    return said


def _read_at(terms: Terms) -> str:
    return f" ({terms.link})" if terms.link else ""


def recorded(summary: TermsSummary, reason: str) -> dict[str, Any]:
    """What a training job's parameters keep; nothing at all when every term is free or none is stated.

    Raises `BadInput` as `require_reason` does. Counts are left out: the same work stays the same while rows come in.
    """
    said = require_reason(summary, reason)
    return {REASON: said, RESTRICTED_NAMES: sorted(use.stamp for use in summary.restricted)} if said else {}


def covers(parameters: Mapping[str, Any], summary: TermsSummary) -> bool:
    """Whether a run's parameters hold a reason for all that is restricted here."""
    kept = parameters.get(RESTRICTED_NAMES)
    return bool(parameters.get(REASON)) and {use.stamp for use in summary.restricted} <= set(kept or ())
