"""The survey's catalogue held against this version: what executes each id, its paper, and the test that shows it.

A Survey on Knowledge Distillation of Large Language Models, https://arxiv.org/abs/2402.13116.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources

from kdstudio.catalogue.objectives import OBJECTIVES

_GOLDEN = "tests/golden/test_"
_FAMILY_TESTS = {
    "divergence": f"{_GOLDEN}divergences.py",
    "supervised": "tests/contracts/test_objectives.py",
    "on-policy": f"{_GOLDEN}on_policy.py",
    "similarity": f"{_GOLDEN}similarity.py",
    "ranking": f"{_GOLDEN}ranking.py",
    "reinforcement": f"{_GOLDEN}reinforcement.py",
}
_RECIPES = "tests/unit/distillation/test_families.py"
_STUDENTS = "tests/unit/students/test_build.py"
_DENSE = "tests/unit/distillation/test_job.py"
_ALIASES = {"sequence_level": "supervised", "online_preference": "iterative_dpo", "direct_judge_reward": "ai_feedback"}
_BUILT_IN = {
    "feature/topk_logits": ("stored signals", "https://arxiv.org/abs/1606.07947", "tests/unit/teachers/test_vault.py"),
    "feature/full_logits": (
        "a dense teacher",
        "https://arxiv.org/abs/1503.02531",
        "tests/unit/distillation/test_job.py",
    ),
    "feature/hidden_states": ("hidden_mse", "https://arxiv.org/abs/1909.10351", f"{_GOLDEN}similarity.py"),
    "feature/ensemble_of_teachers": (
        "teacher.weights: the mean of several teachers' signals",
        "https://arxiv.org/abs/1503.02531",
        "tests/unit/teachers/test_ensemble.py",
    ),
    "divergence & similarity/sparse_topk": (
        "every divergence with teacher.signals = stored",
        "https://arxiv.org/abs/1503.02531",
        f"{_GOLDEN}divergences.py",
    ),
    "supervised/assistant_only_mask": (
        "every objective",
        "https://arxiv.org/abs/1606.07947",
        "tests/unit/models/test_conversation.py",
    ),
    "supervised/tool_result_mask": (
        "every objective: a tool's result stands in the prompt",
        "https://arxiv.org/abs/2302.04761",
        "tests/unit/models/test_conversation.py",
    ),
    "compression/depth_prune": (
        "student.layer_count",
        "https://arxiv.org/abs/2407.14679",
        _STUDENTS,
    ),
    "compression/weight_inheritance": (
        "student.source = teacher",
        "https://arxiv.org/abs/1910.01108",
        _STUDENTS,
    ),
    "compression/lora": (
        "student.adapter = lora",
        "https://arxiv.org/abs/2106.09685",
        _STUDENTS,
    ),
}


@dataclass(frozen=True)
class Covered:
    """One id of the catalogue: `by` what executes it and `test` shows it; both empty where it is not there yet."""

    family: str
    id: str
    by: str = ""
    reference: str = ""
    test: str = ""


def coverage(
    recipes: Iterable[tuple[str, str]],
    training: Iterable[tuple[str, str]],
    rounds: Iterable[tuple[str, str]] = (),
) -> list[Covered]:
    """Every id in the catalogue's order. `recipes`, `training`, `rounds`: (id, reference) of the shipped ones."""
    eliciting, practising, repeating = dict(recipes), dict(training), dict(rounds)
    return [
        _covered(family, key, eliciting, practising, repeating) for family, keys in catalogue().items() for key in keys
    ]


def _covered(
    family: str, key: str, eliciting: dict[str, str], practising: dict[str, str], repeating: dict[str, str]
) -> Covered:
    if f"{family}/{key}" in _BUILT_IN:
        return Covered(family, key, *_BUILT_IN[f"{family}/{key}"])
    known = _ALIASES.get(key, key)
    if known in OBJECTIVES:
        entry = OBJECTIVES[known]
        test = f"{_GOLDEN}alignment.py" if known == "byte_aligned" else _FAMILY_TESTS[entry.family]
        return Covered(family, key, f"objective {known}", entry.reference, test)
    if known in practising:
        return Covered(family, key, f"training recipe {known}", practising[known], _RECIPES)
    if known in eliciting:
        return Covered(family, key, f"recipe {known}", eliciting[known], "tests/contracts/test_recipes_run.py")
    if known in repeating:
        return Covered(family, key, f"recipe with rounds {known}", repeating[known], "tests/e2e/test_rounds.py")
    return Covered(family, key)


def catalogue() -> dict[str, list[str]]:
    """The survey's families and ids, from the shipped table."""
    text = resources.files("kdstudio").joinpath("resources", "survey_catalogue.txt").read_text("utf-8")
    entries = [line.partition(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {family.strip(): keys.split() for family, _, keys in entries}
