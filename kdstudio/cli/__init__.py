"""The command line: the same verbs as the window, for scripts and for machines without a screen."""

from __future__ import annotations

import sys

import click
import typer

from kdstudio.cli import demo, information, project_verbs, run_verbs
from kdstudio.cli.output import fail, wants_json
from kdstudio.errors import BadInput, KnownError

app = typer.Typer(
    name="kdstudio",
    help="Distil a large language model into a small one that runs offline. Without a verb: the window.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for verbs in (project_verbs, run_verbs, information, demo):
    verbs.register(app)


def main(arguments: list[str] | None = None) -> int:
    """Run a verb; returns the exit code: 0 done, 1 failed, 2 bad usage or bad input. Never a traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        code = app(args=words, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2
    except click.ClickException as error:
        hint = f"See: kdstudio {' '.join(word for word in words[:1] if not word.startswith('-'))} --help"
        return fail(BadInput("Bad usage", error.format_message(), hint), as_json=wants_json(words))
    except (click.exceptions.Abort, KeyboardInterrupt):
        return fail(KnownError("Interrupted", "", "Run the same command again to continue."), as_json=wants_json(words))
    except KnownError as error:
        return fail(error, as_json=wants_json(words))
    except BrokenPipeError:
        return 1
