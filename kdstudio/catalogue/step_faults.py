"""What the keys of one step contradict, by themselves: said before a question costs anything."""

from __future__ import annotations

import json
import re

from kdstudio.catalogue.steps import (
    ChunkStep,
    DrawStep,
    EmitStep,
    FilterStep,
    ParseStep,
    PromptStep,
    SampleStep,
    ScoreStep,
    Step,
)

Fault = tuple[str, str]
_ROOT = re.compile(r"^\s*root\s*::=\s*\S", re.MULTILINE)
_LANGUAGE = re.compile("[a-z]{2}")


def keys_fault(step: Step) -> Fault | None:
    """What the keys of a step contradict, and what to do; None when it can work."""
    match step:
        case ScoreStep() if step.lowest >= step.highest:
            return "its scale goes nowhere.", "Set lowest below highest."
        case ScoreStep() if step.verdict == "expected" and step.highest > 9:
            return "an expected score weighs single digits.", "Set highest to 9 or less, or verdict to number."
        case ChunkStep() if step.overlap * 2 > step.words:
            return "passages cannot overlap by more than half.", "Lower `overlap`."
        case PromptStep() if step.text and (step.user or step.system or step.assistant):
            return "with `text` it makes a text and no messages.", "Remove `text`, or user, system and assistant."
        case DrawStep() if step.minimum > step.count:
            return f"it draws {step.count} and needs {step.minimum}: every row would fall.", "Raise `count`."
        case EmitStep() if step.chosen and step.chosen == step.rejected:
            return "chosen and rejected are the same column.", "Name the better and the worse answer's."
        case ParseStep():
            return _parse_fault(step)
        case SampleStep():
            return _sample_fault(step)
        case FilterStep():
            return _filter_fault(step)
    return None


def _parse_fault(step: ParseStep) -> Fault | None:
    if step.format == "choice" and not step.choices and not step.choices_from:
        return "there are no choices.", "Set choices, or choices_from."
    if step.format in ("list", "number", "code", "permutation", "choice") and len(step.into) != 1:
        return f"the format {step.format} fills one column.", "Name one column in `into`."
    if not all(name.strip() for name in step.into) or len(set(step.into)) < len(step.into):
        return "a column in `into` has no name, or the name of another one.", "Name each once."
    return None


def _sample_fault(step: SampleStep) -> Fault | None:
    if sum(map(bool, (step.json_schema, step.grammar, step.choices or step.choices_from))) > 1:
        return "only one of json_schema, grammar and choices can be.", "Remove the others."
    if not all(step.stop):
        return "an empty text in `stop` would end every answer at once.", "Remove it."
    if not all(choice.strip() for choice in step.choices):
        return "one of the choices is empty.", "Remove it."
    if step.grammar and not _ROOT.search(step.grammar):
        return "its grammar has no rule that begins: root ::= ...", "Write GBNF, which starts from the rule root."
    if step.json_schema and not _is_object(step.json_schema):
        return "json_schema is no JSON object.", "Write the JSON Schema as JSON text."
    return None


def _filter_fault(step: FilterStep) -> Fault | None:
    if step.minimum_characters > step.maximum_characters:
        return "minimum_characters is above maximum_characters: every row would fall.", "Swap them."
    if 0 < step.maximum_words < step.minimum_words:
        return "minimum_words is above maximum_words: every row would fall.", "Swap them."
    for pattern in (step.refuse_pattern, step.require_pattern):
        if fault := _pattern_fault(pattern):
            return f"the pattern {pattern!r} cannot be read: {fault}.", "Correct the expression."
    if step.language and not _LANGUAGE.fullmatch(step.language):
        return f"{step.language!r} is no language.", "Write two small letters, such as en, de or zh."
    return None


def _pattern_fault(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return str(error)
    return ""


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
