"""The process that renders chat templates of unknown origin: `python -m kdstudio.models.template_process`.

One JSON request a line on standard input, one JSON reply a line on standard output, after a first line that says it is
ready. Before that it gives up the right to open files and to use more than half a gibibyte; each rendering may take two
seconds of processor time, after which the system ends the process. Where the system has no such limits (Windows),
Jinja's sandbox and the parent's patience remain.
"""

from __future__ import annotations

import json
import signal
import sys

from kdstudio.errors import BadInput
from kdstudio.models.chat_template import READY, TemplateStopped, render_here

CPU_SECONDS = 2.0
MEMORY_BYTES = 512 << 20


def main() -> None:
    """Serve until standard input ends."""
    _warm_up()
    _give_up_rights()
    _say(READY)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        _limit_time(CPU_SECONDS)
        try:
            strict = bool(request.get("strict", False))
            reply: dict[str, object] = {"text": render_here(request["template"], request["values"], strict=strict)}
        except BadInput as error:
            reply = {"error": error.detail, "stopped": isinstance(error, TemplateStopped)}
        except MemoryError:
            reply = {"error": "It asks for too much memory.", "stopped": True}
        _limit_time(0)
        _say(json.dumps(reply).encode() + b"\n")


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()


def _warm_up() -> None:
    """Import what Jinja imports late, while files can still be opened."""
    for template in (
        "{{ [1] | tojson }}{{ strftime_now('%d') }}{{ '1' | int | string | trim }}",
        "{{ 1 / 0 }}",
        "{{ missing }}",
        "{% if",
    ):
        for strict in (False, True):
            try:
                render_here(template, {}, strict=strict)
            except BadInput:
                continue


def _give_up_rights() -> None:
    if sys.platform == "win32":
        return
    import resource

    limits = {resource.RLIMIT_AS: MEMORY_BYTES, resource.RLIMIT_NOFILE: 3, resource.RLIMIT_FSIZE: 0}
    for limit, value in limits.items():
        try:
            resource.setrlimit(limit, (value, value))
        except (OSError, ValueError):
            continue  # a system that cannot limit this one; the others hold


def _limit_time(seconds: float) -> None:
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process, even inside a long C call


if __name__ == "__main__":
    main()
