"""Which teachers a verb means by its flags, as a job's parameters, with the secrets that they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from kdstudio import secrets
from kdstudio.errors import BadInput
from kdstudio.project import Project

Keys = dict[str, str]
_ADD = "Add one with: kdstudio teacher add PROJECT NAME --gguf FILE"


def teacher_of(project: Project, name: str, ask: str = "Add --teacher NAME") -> tuple[dict[str, Any], Keys]:
    """A teacher's description and its secrets. An empty name takes the only teacher there is.

    Raises `BadInput`; `ask` is how this verb is told which of several.
    """
    known = project.teachers.list()
    if not name and len(known) == 1:
        spec = known[0].spec
    elif not name:
        names = ", ".join(item.spec.name for item in known)
        raise BadInput(
            "Which teacher?",
            f"The project has {len(known) or 'no'} teachers.",
            f"{ask} ({names})." if known else _ADD,
        )
    else:
        spec = project.teachers.get(name).spec
    key = secrets.find(spec.key_name)
    return asdict(spec), {spec.key_name: key} if key else {}


def teachers_of(project: Project, names: Sequence[str], ask: str = "Add --teacher NAME") -> tuple[dict[str, Any], Keys]:
    """`teacher`, and where several are named `teachers`, with their secrets. Raises `BadInput`."""
    found = [teacher_of(project, name, ask) for name in names or [""]]
    if len(set(names)) < len(names):
        raise BadInput("A teacher is named twice", ", ".join(names), "Name each teacher once.")
    specs = [spec for spec, _ in found]
    keys = {name: key for _, own in found for name, key in own.items()}
    return {"teacher": specs[0], **({"teachers": specs} if len(specs) > 1 else {})}, keys


def speakers_of(
    project: Project,
    names: Sequence[str],
    *,
    share: str = "",
    routes: Sequence[str] = (),
    judge: str = "",
    student: str = "",
) -> tuple[dict[str, Any], Keys]:
    """Who speaks in an elicitation: `teachers`, how they `share` it, `routes` (tag=NAME), `judge` and `student`.

    Whoever is routed to takes part, named or not; the first teacher is the default one. Raises `BadInput`.
    """
    table = dict(map(_route, routes))
    if share not in ("", "route") and table:
        raise BadInput("Two ways to share", f"--share {share} and --route.", "Leave out one of them.")
    taking_part = list(dict.fromkeys([*names, *table.values()])) if len(set(names)) == len(names) else list(names)
    found, keys = teachers_of(project, taking_part)
    if len(taking_part) > 1:
        found["share"] = share or ("route" if table else "spread")
        found["routes"] = table
        found["default"] = taking_part[0]
    for role, name in (("judge", judge), ("student", student)):
        if name:
            found[role], own = teacher_of(project, name)
            keys |= own
    return found, keys


def _route(text: str) -> tuple[str, str]:
    tag, mark, name = text.partition("=")
    if not mark or not tag.strip() or not name.strip():
        raise BadInput("A route makes no sense", f"--route {text!r}.", "For example: --route code=NAME")
    return tag.strip(), name.strip()


def mixture_of(project: Project, names: Sequence[str], weights: Sequence[float]) -> tuple[dict[str, Any], Keys]:
    """Whose signals are stored: one teacher, or several with their `weights` (equal when none is given).

    Raises `BadInput` when there is not one weight above 0 for each.
    """
    found, keys = teachers_of(project, names)
    if weights and (len(weights) != len(names) or min(weights) <= 0):
        raise BadInput(
            "These weights do not fit the teachers",
            f"{len(names)} teachers, {len(weights)} weights: {', '.join(f'{weight:g}' for weight in weights)}.",
            "Give each teacher one above 0: --teacher A --weight 0.7 --teacher B --weight 0.3",
        )
    if "teachers" in found:
        found["weights"] = list(weights) or [1.0] * len(names)
    return found, keys


def names_of(found: dict[str, Any]) -> str:
    """The teachers' names, for a title."""
    return ", ".join(spec["name"] for spec in found.get("teachers") or [found["teacher"]])
