"""The command line: the same verbs as the window, for scripts and for machines without a screen."""

from __future__ import annotations

import sys

import typer

from kdstudio.cli import compare_verb, demo, information, judges_verb, project_verbs, rounds_verb, run_verbs
from kdstudio.cli.output import broke, fail, wants_json
from kdstudio.errors import BadInput, KnownError

app = typer.Typer(
    name="kdstudio",
    help="Distil a large language model into a small one that runs offline. Without a verb: the window.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# Some versions of Typer bring a click of their own, others use the installed one: these are its classes either way.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_ClickError: type[Exception] = _UsageError.__bases__[0]

for verbs in (project_verbs, judges_verb, run_verbs, rounds_verb, compare_verb, information, demo):
    verbs.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0 done, 1 failed, 2 bad usage or bad input. Never a traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=words, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except _ClickError as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(message)
            return 2
        verb = next((word for word in words if not word.startswith("-")), "")
        return fail(BadInput("Bad usage", message, f"See: kdstudio {verb} --help"), as_json=wants_json(words))
    except (typer.Abort, KeyboardInterrupt):
        return fail(KnownError("Interrupted", "", "Run the same command again to continue."), as_json=wants_json(words))
    except KnownError as error:
        return fail(error, as_json=wants_json(words))
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 -- the last wall: whatever it is, the person gets words
        return fail(broke(error), as_json=wants_json(words))
