"""The registry: what a person can choose, described once.

An entry carries its key, its label, its reference and a pydantic model of its parameters. The form, the
command line flag, the docs row and the contract test are all made from that description.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from kdstudio.errors import BadInput


class Params(BaseModel):
    """Base of every parameter model: unknown keys are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Entry:
    """Something a person can choose: `when` is one line that says when to use it, `reference` its paper or docs."""

    key: str
    label: str
    when: str
    reference: str
    params: type[Params]


@dataclass(frozen=True)
class Parameter:
    """One field of a parameter model, as a form or a flag needs it (`kind`: int, float, bool, str, choice, other).

    `words` say each choice in a person's words, `zero` what 0 means where it is no number but "all" or "by itself".
    """

    name: str
    kind: str
    default: Any
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)
    zero: str = ""


EntryT = TypeVar("EntryT", bound=Entry)


class Registry(Generic[EntryT]):
    """An ordered mapping of key to entry that explains itself when a key is unknown."""

    def __init__(self, noun: str, entries: Iterable[EntryT]) -> None:
        self.noun = noun
        self._entries = {entry.key: entry for entry in entries}

    def __getitem__(self, key: str) -> EntryT:
        try:
            return self._entries[key]
        except KeyError:
            known = ", ".join(self._entries)
            raise BadInput(
                f"Unknown {self.noun}", f"There is no {self.noun} called {key!r}.", f"Known: {known}."
            ) from None

    def __iter__(self) -> Iterator[EntryT]:
        return iter(self._entries.values())

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def keys(self) -> tuple[str, ...]:
        """All keys, in the order in which they are shown."""
        return tuple(self._entries)


def parameters_of(model: type[BaseModel]) -> list[Parameter]:
    """The fields of a parameter model in order, with range, default and help."""
    return [_parameter(name, info) for name, info in model.model_fields.items()]


def _parameter(name: str, info: FieldInfo) -> Parameter:
    minimum, maximum = None, None
    for bound in info.metadata:
        if isinstance(bound, annotated_types.Ge):
            minimum = float(bound.ge)  # type: ignore[arg-type]
        elif isinstance(bound, annotated_types.Gt):
            minimum = float(bound.gt)  # type: ignore[arg-type]
        elif isinstance(bound, annotated_types.Le):
            maximum = float(bound.le)  # type: ignore[arg-type]
        elif isinstance(bound, annotated_types.Lt):
            maximum = float(bound.lt)  # type: ignore[arg-type]
    kind, choices = _kind(info.annotation)
    default = None if info.is_required() else info.get_default(call_default_factory=True)
    extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
    words = {str(key): str(value) for key, value in extra.items() if key != "zero"}
    zero = str(extra.get("zero", ""))
    return Parameter(name, kind, default, info.description or "", minimum, maximum, choices, words, zero)


def _kind(annotation: Any) -> tuple[str, tuple[str, ...]]:
    if get_origin(annotation) is Literal:
        return "choice", tuple(str(choice) for choice in get_args(annotation))
    simple = {int: "int", float: "float", bool: "bool", str: "str"}
    return simple.get(annotation, "other"), ()
