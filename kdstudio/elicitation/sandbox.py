"""Jinja templates of recipes, rendered where they can neither reach the program nor exhaust it.

The immutable sandbox keeps attributes and mutation away; growing operators are bounded, output is cut at 1 MiB, and a
render that takes longer than two seconds is ended. A name that no column or parameter has is an error, not an empty
text.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kdstudio.errors import BadInput

MAXIMUM_OUTPUT = 1 << 20
MAXIMUM_SECONDS = 2.0


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with the operators that could eat the memory held back."""

    intercepted_binops = frozenset({"*", "**", "%", "<<"})

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        for side in (left, right):
            if operator != "%" and not isinstance(side, int | float):
                raise _TooMuchError(f"'{operator}' works on numbers only")
            if isinstance(side, int) and abs(side) > 1_000_000:
                raise _TooMuchError(f"'{operator}' with a number above a million")
        if operator == "**" and abs(right) > 64:
            raise _TooMuchError("a power above 64")
        if operator == "%" and isinstance(left, str):
            raise _TooMuchError("'%' formats no text here; use ~ to join")
        return super().call_binop(context, operator, left, right)


class _TooMuchError(Exception):
    """A template asked for more than it may have."""


def _environment() -> _Environment:
    environment = _Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=False)
    for name in ("format", "center", "indent", "pprint", "xmlattr", "urlize"):
        environment.filters.pop(name, None)
    environment.globals.pop("lipsum", None)
    return environment


_ENVIRONMENT = _environment()


def compile_template(text: str, where: str) -> jinja2.Template:
    """Compile a template. Raises `BadInput` naming the place and the template's line."""
    try:
        return _ENVIRONMENT.from_string(text)
    except (jinja2.TemplateSyntaxError, RecursionError) as error:
        line = getattr(error, "lineno", 0)
        raise BadInput(
            "A template cannot be read", f"{where}, line {line}: {error}.", "Correct the template."
        ) from error


def render(template: jinja2.Template, values: Mapping[str, Any], where: str) -> str:
    """Render a template. Raises `BadInput` for an unknown name, or one that runs too long or grows too large."""
    parts: list[str] = []
    size = 0
    try:
        with _time_limit():
            for part in template.generate(dict(values)):
                parts.append(part)
                size += len(part)
                if size > MAXIMUM_OUTPUT:
                    raise _TooMuchError(f"more than {MAXIMUM_OUTPUT:,} characters")
    except jinja2.UndefinedError as error:
        known = ", ".join(sorted(values))
        raise BadInput(
            "A template names something unknown", f"{where}: {error.message}.", f"Known: {known}."
        ) from error
    except (
        _TooMuchError,
        jinja2.TemplateError,
        ArithmeticError,
        TypeError,
        ValueError,
        RecursionError,
        MemoryError,
    ) as error:
        raise BadInput(
            "A template was stopped", f"{where}: {str(error) or type(error).__name__}.", "Simplify it."
        ) from error
    return "".join(parts)


@contextmanager
def _time_limit() -> Iterator[None]:
    """End the block after two seconds, where the system can (the main thread of a child on a Unix)."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _TooMuchError(f"longer than {MAXIMUM_SECONDS:g} s")

    earlier = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, MAXIMUM_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
