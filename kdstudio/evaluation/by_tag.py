"""Figures for each tag of the measured rows: what a student learnt of a field (exam), and what it forgot (general)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdstudio.distillation.examples import Example
from kdstudio.distillation.held_out import BEFORE_NAME, HELD_OUT_NAME

MAXIMUM_TAGS = 40
RowFigures = Mapping[str, float]
"""What was measured on one row: sums over its `positions`, by name."""


def by_tag(examples: Sequence[Example], rows: Sequence[RowFigures], run_folder: Path | None) -> dict[str, Any]:
    """By tag: `rows`, `positions` and the mean of each figure over these, with what the trainer saw before and after.

    `rows` are the figures of the first examples, in their order. `before` and `after` are the trainer's own means on
    the same rows (`nll`, `forward_kl`, `top1_agreement`): they compare with each other, and are left away where the run
    kept none. The commonest `MAXIMUM_TAGS` tags are told.
    """
    measured = list(zip(examples, rows, strict=False))
    count = Counter(tag for example, _ in measured for tag in set(example.tags))
    kept = {name: _kept(run_folder / file) if run_folder else {} for name, file in _FILES.items()}
    found: dict[str, Any] = {}
    for tag, _ in sorted(count.most_common(MAXIMUM_TAGS)):
        chosen = [(example, figures) for example, figures in measured if tag in example.tags]
        found[tag] = {"rows": len(chosen), **_means(figures for _, figures in chosen)}
        for name, table in kept.items():
            ours = [table[example.response_id] for example, _ in chosen if example.response_id in table]
            if len(ours) == len(chosen):
                found[tag][name] = _means(ours)
    return found


_FILES = {"before": BEFORE_NAME, "after": HELD_OUT_NAME}


def _means(rows: Iterable[RowFigures]) -> dict[str, float]:
    """`positions`, and the mean of every other figure over them."""
    sums: Counter[str] = Counter()
    for row in rows:
        sums.update(row)
    positions = sums.pop("positions")
    return {"positions": positions, **{name: total / positions for name, total in sums.items()}}


def _kept(path: Path) -> dict[int, RowFigures]:
    """What the trainer kept of each row; nothing where it kept none, or kept what cannot be read."""
    try:
        table = json.loads(path.read_text("utf-8"))
        names = [name for name in ("nll", "forward_kl", "top1_agreement") if table.get(name) is not None]
        columns = [table["response_ids"], table["tokens"], *(table[name] for name in names)]
        return {
            int(key): {"positions": tokens, **{name: value * tokens for name, value in zip(names, means, strict=True)}}
            for key, tokens, *means in zip(*columns, strict=True)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
