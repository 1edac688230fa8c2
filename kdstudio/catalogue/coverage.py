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
ELICITING = ("labeling", "expansion", "curation", "feedback", "self_knowledge", "skills", "verticals")
_VERBS = {
    "train": ("training recipe", "tests/unit/distillation/test_families.py"),
    "elicit": ("recipe", "tests/contracts/test_recipes_run.py"),
    "rounds": ("recipe with rounds", "tests/e2e/test_rounds.py"),
}
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
    "compression/width_prune": (
        "student.kept_width, kept_feed_forward, kept_heads",
        "https://arxiv.org/abs/2407.14679",
        "tests/unit/students/test_narrow.py",
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
class Claim:
    """What a shipped recipe says that it covers: the id of its own name, and those in `covers`.

    `verb`: what runs it (elicit, train, rounds); `reference`: its first paper.
    """

    verb: str
    id: str
    reference: str
    covers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Covered:
    """One id of the catalogue: `by` what executes it and `test` shows it; both empty where it is not there yet.

    `recipes`: the shipped recipes that claim it, as "elicit NAME".
    """

    family: str
    id: str
    by: str = ""
    reference: str = ""
    test: str = ""
    recipes: tuple[str, ...] = ()


def coverage(claims: Iterable[Claim]) -> list[Covered]:
    """Every id in the catalogue's order. `claims`: those of the shipped recipes."""
    made = list(claims)
    return [_covered(family, key, made) for family, keys in catalogue().items() for key in keys]


def _covered(family: str, key: str, claims: list[Claim]) -> Covered:
    own = [claim for claim in claims if _claims(claim, family, key)]
    recipes = tuple(f"{claim.verb} {claim.id}" for claim in own)
    if f"{family}/{key}" in _BUILT_IN:
        return Covered(family, key, *_BUILT_IN[f"{family}/{key}"], recipes=recipes)
    known = _ALIASES.get(key, key)
    if known in OBJECTIVES:
        entry = OBJECTIVES[known]
        test = f"{_GOLDEN}alignment.py" if known == "byte_aligned" else _FAMILY_TESTS[entry.family]
        return Covered(family, key, f"objective {known}", entry.reference, test, recipes)
    for verb, (words, test) in _VERBS.items():
        if claim := next((claim for claim in own if claim.verb == verb), None):
            return Covered(family, key, f"{words} {claim.id}", claim.reference, test, recipes)
    return Covered(family, key, recipes=recipes)


def _claims(claim: Claim, family: str, key: str) -> bool:
    """A recipe of elicitation claims no objective by its mere name, nor one of training a way of eliciting."""
    if key in claim.covers or f"{family}/{key}" in claim.covers:
        return True
    return claim.id == _ALIASES.get(key, key) and (
        claim.verb == "rounds" or (claim.verb == "elicit") == (family in ELICITING)
    )


def faults(claims: Iterable[Claim]) -> list[str]:
    """What recipes and catalogue say of each other that is not so, in words."""
    made = list(claims)
    known = {name for family, keys in catalogue().items() for key in keys for name in (key, f"{family}/{key}")}
    wrong = [
        f"{claim.verb} {claim.id} covers {name!r}, which the catalogue does not have"
        for claim in made
        for name in claim.covers
        if name not in known
    ]
    eliciting = [(family, key) for family, keys in catalogue().items() if family in ELICITING for key in keys]
    wrong += [
        f"{family}/{key} is claimed by no recipe"
        for family, key in eliciting
        if not any(_claims(claim, family, key) for claim in made if claim.verb != "train")
    ]
    names = {claim.id for claim in made} | {entry.key for entry in OBJECTIVES}
    wrong += [
        f"{key} is said to be {name!r}, which does not exist" for key, name in _ALIASES.items() if name not in names
    ]
    return wrong + [f"{place} is not in the catalogue" for place in _BUILT_IN if place not in known]


def catalogue() -> dict[str, list[str]]:
    """The survey's families and ids, from the shipped table."""
    text = resources.files("kdstudio").joinpath("resources", "survey_catalogue.txt").read_text("utf-8")
    entries = [line.partition(":") for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return {family.strip(): keys.split() for family, _, keys in entries}
