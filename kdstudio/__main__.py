"""`python -m kdstudio`: the window, a verb of the command line, or (for our own children) a job.

Decided by the first word alone, so that the window starts without importing the command line and a job without either.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Choose by the first word; returns the process's exit code."""
    arguments = sys.argv[1:]
    first = arguments[0] if arguments else ""
    if first == "job":
        from kdstudio.jobs.child import main as job_main

        return job_main(arguments[1:])
    if first == "chat-server":
        from kdstudio.jobs.chat import run_chat_server

        return run_chat_server()
    if not first or first.endswith(".kdstudio") or (Path(first) / "project.db").is_file():
        from kdstudio.ui.app import main as window_main

        return window_main(arguments)
    from kdstudio.cli import main as command_main

    return command_main(arguments)


if __name__ == "__main__":
    sys.exit(main())
