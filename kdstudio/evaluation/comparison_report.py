"""A comparison of finished training runs: what they were measured at, who is ahead, and what is not equal about them.

Reads run folders and never a weight. The report is one JSON object, kept in the project's `comparisons/` for the
window.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdstudio import files
from kdstudio.errors import BadInput, KnownError
from kdstudio.evaluation.comparison import METRICS, Array, Pair, System, compare, overall, row_mean
from kdstudio.evaluation.fair_recipes import differences, is_supervised, student_of, work_of
from kdstudio.jobs.events import now
from kdstudio.project import Run
from kdstudio.recipe import TrainingRecipe, validate_recipe

FOLDER_NAME = "comparisons"
HELD_OUT_NAME, ROWS_NAME = "held_out_rows.json", "rows.jsonl"
_ROUGH_BELOW = 20
_UNFAIR = "This would not be a fair comparison"


@dataclass(frozen=True)
class Side:
    """One recipe of a comparison with its runs, one for each seed."""

    name: str
    runs: tuple[Run, ...]
    baseline: bool = False

    @property
    def tables(self) -> dict[str, Any]:
        """The recipe of its first run."""
        return dict(self.runs[0].parameters.get("recipe") or {})

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of its runs."""
        return tuple(_seed(run) for run in self.runs)


@dataclass(frozen=True)
class Measured:
    """The held-out rows of one run: figures by name [R], in the order of `ids` [R]."""

    ids: tuple[int, ...]
    tokens: tuple[int, ...]
    figures: dict[str, Array]


def sides_of(runs: Sequence[Run]) -> list[Side]:
    """Finished runs, newest first, as sides: runs that differ in their seed alone belong together.

    Of one seed the newest counts. Raises `BadInput` when a run has not finished, or when there are not two sides.
    """
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        if run.kind != "train" or run.state != "finished":
            raise BadInput(
                "Not a finished training run",
                f"{run.id} is {run.state}.",
                "Choose training runs that have finished.",
            )
        grouped.setdefault(_work_key(run), []).append(run)
    if len(grouped) < 2:
        raise BadInput(
            "A comparison has two sides",
            "The chosen runs are of one recipe." if runs else "No run was chosen.",
            "Choose finished runs of two recipes or more.",
        )
    names: list[str] = []
    sides = []
    for group in reversed(grouped.values()):
        by_seed = {_seed(run): run for run in reversed(group)}
        name = _unused(str(_comparison(group[0]).get("name") or group[0].title), names)
        names.append(name)
        sides.append(Side(name, tuple(by_seed[seed] for seed in sorted(by_seed))))
    supervised = [side.name for side in sides if is_supervised(side.tables)]
    return [Side(side.name, side.runs, side.name in supervised[:1]) for side in sides]


def require_fair(sides: Sequence[Side]) -> None:
    """Raise `BadInput` when runs that a person picked have different students or teachers."""
    first = _recipe(sides[0].runs[0])
    teachers: list[Any] = []
    for run in (run for side in sides for run in side.runs):
        if student_of(_recipe(run)) != student_of(first):
            raise BadInput(
                _UNFAIR, f"{run.title} and {sides[0].name} are different students.", "Choose runs of one student."
            )
        teacher = run.parameters.get("teacher") or {}
        if teacher and teacher not in teachers:
            teachers.append(teacher)
    if len(teachers) > 1:
        names = " and ".join(str(teacher.get("name", "")) for teacher in teachers[:2])
        raise BadInput(_UNFAIR, f"The runs had different teachers: {names}.", "Choose runs with one teacher.")


def make_report(
    identity: str, project_folder: Path, sides: Sequence[Side], *, budget: int = 0, step: int = 0, seed: int = 0
) -> dict[str, Any]:
    """The whole comparison as one object, written to the project's `comparisons/` as well.

    `budget`: the tokens that every run should have trained on (0: nobody set any), within `step`. Raises `BadInput`
    when the runs were not measured on the same rows, `KnownError` when what they measured cannot be read.
    """
    folders = {run.id: project_folder / "runs" / run.id for side in sides for run in side.runs}
    measured = {run_id: read_measured(folder) for run_id, folder in folders.items()}
    _require_same_rows(sides, measured)
    notes: list[str] = []
    headline = _headline(sides, measured, notes)
    prompts = _prompts(next(iter(folders.values())))
    first = next(iter(measured.values()))
    groups = [prompts.get(row, -row) for row in first.ids]
    keys = [headline, *(key for key in ("free_running",) if all(key in one.figures for one in measured.values()))]
    baseline = next((side.name for side in sides if side.baseline), "")
    pairs: list[Pair] = []
    for key in keys:
        systems = [_system(side, measured, key) for side in sides]
        pairs += compare(systems, first.tokens, metric=key, groups=groups, first=baseline, seed=seed)
    if len(set(groups)) < _ROUGH_BELOW:
        notes.append(f"Only {len(set(groups))} prompts are held out: the intervals are rough.")
    notes += _unequal_tokens(sides, budget, step)
    winner, verdict = overall([pair for pair in pairs if pair.metric == headline], [side.name for side in sides])
    report = {
        "id": identity,
        "created": now(),
        "metric": headline,
        "metric_label": METRICS[headline].label,
        "unit": METRICS[headline].unit,
        "recipes": [_described(side, sides[0], measured, headline) for side in sides],
        "pairs": [asdict(pair) for pair in pairs],
        "baseline": baseline,
        "budget_tokens": budget,
        "rows": len(first.ids),
        "prompts": len(set(groups)),
        "seeds": min(len(side.runs) for side in sides),
        "correction": _correction(len(pairs) // len(keys)),
        "notes": notes,
        "winner": winner,
        "verdict": verdict,
    }
    files.write_text(report_path(project_folder, identity), json.dumps(report, indent=1, ensure_ascii=False))
    return report


def _correction(pairs: int) -> str:
    if pairs == 1:
        return "one pair, with nothing to correct for"
    return f"p-values corrected for {pairs} pairs (Holm), each interval of its pair alone"


def report_path(project_folder: Path, identity: str) -> Path:
    """Where a comparison's report is."""
    return project_folder / FOLDER_NAME / f"{identity}.json"


def runs_identity(runs: Sequence[Run]) -> str:
    """The name of a comparison of these runs, whatever their order."""
    joined = "\n".join(sorted({run.id for run in runs}))
    return f"runs-{hashlib.blake2b(joined.encode(), digest_size=6).hexdigest()}"


def read_measured(run_folder: Path) -> Measured:
    """What a run came to on each held-out row. Raises `KnownError` when it cannot be read."""
    path = run_folder / HELD_OUT_NAME
    try:
        table = json.loads(path.read_text("utf-8"))
        ids, tokens = tuple(map(int, table["response_ids"])), tuple(map(int, table["tokens"]))
        figures = {
            key: np.array([float(value) for value in table[key]], np.float64)
            for key in ("forward_kl", "nll", "top1_agreement", "free_running")
            if table.get(key) is not None
        }
        fits = all(len(values) == len(ids) for values in (tokens, *figures.values())) and "nll" in figures
        if not fits or len(set(ids)) != len(ids) or min(tokens, default=1) < 1:
            raise ValueError("its columns do not fit together")
        if not all(np.isfinite(values).all() for values in figures.values()):
            raise ValueError("a figure is no number")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KnownError(
            "What a run measured cannot be read",
            f"{path}: {error}.",
            "Train it again: an older version did not keep what it measured on each row.",
        ) from error
    return Measured(ids, tokens, figures)


def _require_same_rows(sides: Sequence[Side], measured: Mapping[str, Measured]) -> None:
    first = sides[0].runs[0]
    expected = measured[first.id]
    for run in (run for side in sides for run in side.runs):
        found = measured[run.id]
        if (found.ids, found.tokens) != (expected.ids, expected.tokens):
            raise BadInput(
                _UNFAIR,
                f"{run.id} and {first.id} were not measured on the same held-out rows.",
                "Compare their recipes instead: kdstudio compare PROJECT RECIPE... trains them on the same rows.",
            )


def _headline(sides: Sequence[Side], measured: Mapping[str, Measured], notes: list[str]) -> str:
    runs = [run for side in sides for run in side.runs]
    without = [side.name for side in sides if any("forward_kl" not in measured[run.id].figures for run in side.runs)]
    if len(without) == len(sides):
        return "nll"
    if without:
        notes.append(f"Without a teacher's signal for {', '.join(without)}, surprise at the held-out text is compared.")
        return "nll"
    if len({str(run.result.get("held_out_against", "")) for run in runs}) > 1:
        notes.append(
            "Some runs were measured against the whole teacher, others against its stored log-probs: surprise at the "
            "held-out text is compared instead."
        )
        return "nll"
    return "forward_kl"


def _unequal_tokens(sides: Sequence[Side], budget: int, step: int) -> list[str]:
    """What to say when runs did not train on the same number of tokens."""
    told = {side.name: [int(run.result.get("tokens", 0)) for run in side.runs] for side in sides}
    counts = [count for values in told.values() for count in values]
    target, allowed = budget or max(counts), step or max(counts) // 50
    off = [
        f"{name} {round(sum(values) / len(values)):,}"
        for name, values in told.items()
        if any(abs(count - target) > allowed for count in values)
    ]
    return [f"Not the same number of training tokens: {', '.join(off)} instead of {target:,}."] if off else []


def _described(side: Side, first: Side, measured: Mapping[str, Measured], headline: str) -> dict[str, Any]:
    systems = {key: _system(side, measured, key) for key in measured[side.runs[0].id].figures}
    weights = measured[side.runs[0].id].tokens
    means = {key: row_mean(system.values, _by_row(key, weights)) for key, system in systems.items()}
    return {
        "name": side.name,
        "baseline": side.baseline,
        "runs": [run.id for run in side.runs],
        "seeds": list(side.seeds),
        "steps": [int(run.result.get("steps", 0)) for run in side.runs],
        "tokens": [int(run.result.get("tokens", 0)) for run in side.runs],
        "value": float(means[headline].mean()),
        "by_seed": [float(value) for value in means[headline]],
        "metrics": {key: float(values.mean()) for key, values in means.items()},
        "differs": differences(side.tables, first.tables),
    }


def _by_row(key: str, tokens: Sequence[int]) -> list[float]:
    by_token = key not in METRICS or METRICS[key].by_token
    return [float(count) for count in tokens] if by_token else [1.0] * len(tokens)


def _system(side: Side, measured: Mapping[str, Measured], key: str) -> System:
    common = [run for run in side.runs if key in measured[run.id].figures]
    values = np.stack([measured[run.id].figures[key] for run in common])
    return System(side.name, tuple(_seed(run) for run in common), values)


def _prompts(run_folder: Path) -> dict[int, int]:
    """Prompt id by response id: rows of one prompt are no independent evidence. Empty where rows were not kept."""
    found: dict[int, int] = {}
    try:
        with (run_folder / ROWS_NAME).open(encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                found[int(row["response_id"])] = int(row["prompt_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found


def _recipe(run: Run) -> TrainingRecipe:
    return validate_recipe(run.parameters.get("recipe") or {}, TrainingRecipe, name=run.id)


def _seed(run: Run) -> int:
    return int(((run.parameters.get("recipe") or {}).get("run") or {}).get("seed", 0))


def _comparison(run: Run) -> dict[str, Any]:
    return dict(run.parameters.get("comparison") or {})


def _work_key(run: Run) -> str:
    """What runs of one side have in common. In a comparison the budget sets the steps, and seeds may differ by one."""
    work = work_of(run.parameters.get("recipe") or {})
    identity = _comparison(run).get("id", "")
    if identity:
        work = {**work, "run": {key: value for key, value in work["run"].items() if key != "steps"}}
    return json.dumps([identity, work], sort_keys=True)


def _unused(name: str, taken: Sequence[str]) -> str:
    number, made = 2, name
    while made in taken:
        made, number = f"{name} ({number})", number + 1
    return made
