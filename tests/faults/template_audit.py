"""Renders templates where they reach furthest, under Python's audit hooks: `python -m tests.faults.template_audit`.

A JSON list of templates on standard input; a JSON list on standard output: what each one touched of files, sockets and
processes. No limits and no process apart here: only Jinja's sandbox, as we set it up, keeps them from the machine.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress

from kdstudio.errors import BadInput
from kdstudio.models.chat_template import render_here
from kdstudio.models.template_process import _warm_up

_WATCHED = ("open", "import", "socket.", "subprocess.", "os.", "shutil.", "ctypes.", "pty.", "glob.", "tempfile.")
_SEEN: list[str] = []


def _hook(event: str, _arguments: tuple[object, ...]) -> None:
    if event.startswith(_WATCHED):
        _SEEN.append(event)


def main() -> None:
    """Render all, and say what they touched."""
    templates = json.loads(sys.stdin.read())
    values = {"messages": [{"role": "user", "content": "a frozen whale"}], "add_generation_prompt": True}
    _warm_up()
    sys.addaudithook(_hook)
    touched = []
    for template in templates:
        _SEEN.clear()
        with suppress(BadInput):
            render_here(template, values)
        touched.append(list(_SEEN))
    print(json.dumps(touched))


if __name__ == "__main__":
    main()
