"""Two kinds of failure: the world's (`KnownError`) and ours (`BugError`).

A person who meets a `KnownError` is told what happened and what to do; nothing else of the program
ever reaches them. The same three fields travel through a job's journal and the command line's JSON.
"""

from __future__ import annotations


class KnownError(Exception):
    """A failure that the world caused and a person can act on (exit code 1).

    `title` says what failed in a few words, `detail` what was found, `hint` what to do next.
    """

    exit_code = 1

    def __init__(self, title: str, detail: str = "", hint: str = "") -> None:
        super().__init__(title)
        self.title = title
        self.detail = detail
        self.hint = hint

    def as_dict(self) -> dict[str, str]:
        """The three fields, as the journal and `--json` carry them."""
        return {"title": self.title, "detail": self.detail, "hint": self.hint}

    def __str__(self) -> str:
        return "\n".join(part for part in (self.title, self.detail, self.hint) if part)


def in_one_line(text: str) -> str:
    """An error's lines as sentences after each other: `Title. Detail. Hint.`"""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    ended = [line if line.endswith((".", "!", "?", ":", ";", ",")) else f"{line}." for line in lines[:-1]]
    return " ".join([*ended, *lines[-1:]])


class BadInput(KnownError):  # noqa: N818 -- a word that reads well where it is raised
    """What the person gave cannot be used as it is: a file, a flag, a recipe (exit code 2)."""

    exit_code = 2


class Stopped(KnownError):  # noqa: N818 -- not an error, an end
    """A person asked the job to stop; what was done is kept."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("Stopped", detail, "Resume it to go on where it stopped.")


class BugError(Exception):
    """A broken promise inside the program: never the person's fault, always worth a report."""
