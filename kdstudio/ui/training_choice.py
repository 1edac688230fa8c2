"""What a choice of objectives asks for, and why some cannot be chosen now: all in words. No widgets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdstudio.catalogue.objectives import OBJECTIVES, RUNNING_TEACHER, TEACHER_SIGNALS, Family, Objective, Signal

FAMILIES: Mapping[Family, str] = {
    "divergence": "Match the teacher’s distribution",
    "supervised": "Imitate text",
    "on-policy": "Practise on own answers",
    "similarity": "Look inside",
    "ranking": "Prefer",
    "reinforcement": "Practise for reward",
}
"""The catalogue's families in the order in which they are shown, each as a person reads it."""

ACROSS_TOKENIZERS = frozenset(("universal_logit", "byte_aligned"))
"""Objectives that read the teacher's distribution but not token by token."""

TEACHER_REWARDS = ("teacher_log_prob", "judge")
"""Kinds of reward that the running teacher gives."""

GROUP_OF_ANSWERS = 4
"""Answers to each prompt that are suggested where they are compared with each other."""

_BLIND = "Needs the teacher’s log-probs of given text, which {name} does not offer. A local GGUF teacher does."
_NONE_ACCEPTED = "Needs preferences, and of the project’s {waiting:,} none is accepted. Accept some on Data first."
_NO_PREFERENCES = "Needs preferences, and the project has none. Import or rank some on Data first."


@dataclass(frozen=True)
class Situation:
    """What decides which objectives can be used now.

    `teacher`: the name of the chosen one; `blind`: it gives text, not log-probs. `preferences`: how many can be read,
    None while they are counted; `waiting`: how many more are pending. `own_answers`: the student writes while it
    trains.
    """

    teacher: str = ""
    blind: bool = False
    preferences: int | None = None
    waiting: int = 0
    own_answers: bool = False


def needs_of(names: Iterable[str]) -> frozenset[Signal]:
    """All signals that these objectives read."""
    return frozenset(signal for name in names for signal in OBJECTIVES[name].needs)


def uses_own_answers(names: Iterable[str], rollout: Mapping[str, Any]) -> bool:
    """Whether the student writes while it trains: an objective needs it, or the recipe asks for it."""
    return rollout["share"] > 0 or rollout["replay"] != "off" or Signal.ROLLOUTS in needs_of(names)


def needs_reward(names: Sequence[str], rollout: Mapping[str, Any]) -> bool:
    """Whether own answers are given a reward: to learn from it, or to tell which of them is preferred."""
    needs = needs_of(names)
    return Signal.REWARDS in needs or (Signal.PREFERENCES in needs and uses_own_answers(names, rollout))


def reads_preferences(names: Iterable[str], rollout: Mapping[str, Any]) -> bool:
    """Whether the rows are the project's preferences; on own answers these are compared instead."""
    chosen = tuple(names)
    return Signal.PREFERENCES in needs_of(chosen) and not uses_own_answers(chosen, rollout)


def compares_tokens(names: Iterable[str]) -> bool:
    """Whether teacher and student must number tokens alike."""
    return bool(needs_of(name for name in names if name not in ACROSS_TOKENIZERS) & TEACHER_SIGNALS)


def why_running(names: Sequence[str], rollout: Mapping[str, Any], reward: Mapping[str, Any]) -> str:
    """Why the teacher must run beside the student instead of having its signals stored; "" if it need not."""
    needs, own = needs_of(names), uses_own_answers(names, rollout)
    for name in names:
        read = [signal for signal in OBJECTIVES[name].needs if signal in RUNNING_TEACHER]
        if read:
            return f"{OBJECTIVES[name].label} reads {read[0]}"
    if own and needs & TEACHER_SIGNALS:
        return "Answers that are written while it trains can be judged only by a teacher that runs"
    if own and rollout["source"] != "student":
        return "The teacher takes part in writing the answers"
    if needs_reward(names, rollout) and reward["kind"] in TEACHER_REWARDS:
        return "The teacher gives the rewards"
    return ""


def obstacle(entry: Objective, chosen: Sequence[str], situation: Situation) -> str:
    """Why an objective cannot be used beside the `chosen` ones now; "" if it can."""
    if situation.blind and TEACHER_SIGNALS & set(entry.needs):
        return _BLIND.format(name=situation.teacher)
    ranks = Signal.PREFERENCES in entry.needs
    if ranks and not situation.own_answers and situation.preferences == 0:
        return _NONE_ACCEPTED.format(waiting=situation.waiting) if situation.waiting else _NO_PREFERENCES
    others = [OBJECTIVES[name] for name in chosen if name != entry.key]
    unlike = [other for other in others if (Signal.PREFERENCES in other.needs) != ranks]
    if unlike:
        ours, theirs = ("preferences", "single answers") if ranks else ("single answers", "preferences")
        return f"Reads {ours}, while {unlike[0].label} reads {theirs}: take that out first."
    return ""


def finds(entry: Objective, words: str) -> bool:
    """Whether every word is found in label, key, `when` or a published method's name, in any case of letters."""
    text = " ".join((entry.label, entry.key, entry.when, *entry.methods)).casefold()
    return all(word in text for word in words.casefold().split())


def methods_found(entry: Objective, words: str) -> tuple[str, ...]:
    """The published methods in whose name a word is found, to show why an objective is among the finds."""
    sought = words.casefold().split()
    return tuple(method for method in entry.methods if any(word in method.casefold() for word in sought))
