"""The verb about judges: how far each agrees with what the person accepted and rejected."""

from __future__ import annotations

import typer

from kdstudio.cli.output import JsonFlag, ProjectPath, opened, say, show
from kdstudio.project.judgements import compared_dict, criterion_words


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("judges")(judges)


def judges(project: ProjectPath, json: JsonFlag = False) -> None:
    """Compare what judges scored or preferred with the rows that you accepted or rejected."""
    with opened(project, read_only=True) as source:
        found = source.judgements.compared()
    for one in found:
        words = f"{criterion_words(one)} {one.in_words()}. {one.warning()}"
        show(compared_dict(one), as_json=json, text=words.strip())
    if not found:
        say("No judged row has been accepted or rejected by you yet: review some on the Data page.")
