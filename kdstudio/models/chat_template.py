"""Turns chat messages into the text a model reads, with the model's own template, which nobody vouches for.

A template comes out of a downloaded file and is a program. Jinja's immutable sandbox keeps it from the machine, but
not from looping for ever or filling the memory: so a template that we do not know by heart is rendered in a small
process of its own (`template_process`) that may use two seconds of processor time and half a gibibyte.
"""

from __future__ import annotations

import atexit
import datetime as dt
import functools
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, cast

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

import kdstudio
from kdstudio.errors import BadInput, KnownError

Message = dict[str, Any]
MAXIMUM_TEMPLATE_CHARACTERS = 256 << 10
MAXIMUM_OUTPUT_CHARACTERS = 1 << 20
WALL_SECONDS = 2.5  # for one rendering; the process ends itself after 2 s of processor time where that can be counted
START_SECONDS = 30.0  # for starting the process, which no template can lengthen

READY = b"ready\n"

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}"
    "{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# For models without a template: base models follow a transcript.
TRANSCRIPT = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}\n{% endfor %}"
    "{{ 'Assistant: ' if add_generation_prompt }}"
)
VETTED = frozenset({CHATML, SMOLLM2, TRANSCRIPT})


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    bos_token: str = "",
    eos_token: str = "",
    tools: Sequence[dict[str, Any]] | None = None,
) -> str:
    """The messages as the model expects them; a model without a template gets a plain transcript.

    Raises `BadInput` when the template is broken, refuses the messages, takes too long or too much memory, or writes
    more than a mebibyte.
    """
    values = {
        "messages": list(messages),
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
        "tools": list(tools) if tools else None,
    }
    template = template or TRANSCRIPT
    if len(template) > MAXIMUM_TEMPLATE_CHARACTERS:
        raise _unusable(f"It has {len(template):,} characters.")
    if template in VETTED:
        return render_here(template, values)
    return render_apart(template, values)


def render_apart(template: str, values: dict[str, Any], *, strict: bool = False) -> str:
    """Render any template in the process apart; `strict` makes names that are not in `values` an error.

    Raises `BadInput` when it is broken or fails on these values, `TemplateStopped` when it went over a limit.
    """
    reply = _apart.ask({"template": template, "values": values, "strict": strict})
    if "text" in reply:
        return str(reply["text"])
    raise _unusable(str(reply.get("error", "")), TemplateStopped if reply.get("stopped") else BadInput)


def render_here(template: str, values: dict[str, Any], *, strict: bool = False) -> str:
    """Render in this very process: for templates we know, and inside `template_process`. Errors as `render_apart`."""
    try:
        written, pieces = 0, []
        for piece in _compiled(template, strict).generate(values):
            written += len(piece)
            if written > MAXIMUM_OUTPUT_CHARACTERS:
                raise _unusable(f"It writes more than {MAXIMUM_OUTPUT_CHARACTERS:,} characters.", TemplateStopped)
            pieces.append(piece)
        return "".join(pieces)
    except MemoryError:
        raise _unusable("It asks for too much memory.", TemplateStopped) from None
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001 - a stranger's program may raise anything
        raise _unusable(f"{type(error).__name__}: {error}"[:500]) from None


class TemplateStopped(BadInput):
    """The template took too long, asked for too much memory or wrote too much: its own fault, not its input's."""


def _unusable(detail: str, kind: type[BadInput] = BadInput) -> BadInput:
    return kind(
        "The model's chat template cannot be used for this conversation",
        detail,
        "The template is part of the model file. Check the messages' roles and order, or choose another model.",
    )


def _not_started() -> KnownError:
    return KnownError(
        "The chat template could not be rendered",
        "The small process in which templates are rendered did not start.",
        "Close other programs, then try again.",
    )


class _Generation(Extension):
    """`{% generation %}`, with which Hugging Face templates mark what the assistant said: it renders as its body."""

    tags = {"generation"}  # noqa: RUF012 - the type that jinja2 declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: object) -> str:
    raise jinja2.TemplateError(str(message))


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """As transformers defines it: Jinja's own escapes HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _fixed_date(form: str) -> str:
    """The date that Llama's templates fall back to: a prompt must not change its tokens from day to day."""
    return dt.date(2024, 7, 26).strftime(form)


@functools.lru_cache(maxsize=8)
def _compiled(template: str, strict: bool = False) -> jinja2.Template:
    # optimized=False: constant expressions are not evaluated at compile time, where nothing limits them
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        optimized=False,
        undefined=jinja2.StrictUndefined if strict else jinja2.Undefined,
        extensions=["jinja2.ext.loopcontrols", _Generation],
    )
    environment.filters["tojson"] = _to_json
    environment.globals = {name: environment.globals[name] for name in ("range", "dict", "namespace")}
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _fixed_date}
    return environment.from_string(template)


class _Apart:
    """The process in which unknown templates are rendered: started when first needed, again after one broke it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: queue.Queue[bytes] = queue.Queue()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            try:
                requests = self._started()
            except (OSError, queue.Empty):
                self._close()
                raise _not_started() from None
            try:
                requests.write(line)
                requests.flush()
                reply = self._replies.get(timeout=WALL_SECONDS)
            except (OSError, queue.Empty):
                reply = b""
            if not reply:
                self._close()
                raise _unusable("It took too long or asked for too much memory, and was stopped.", TemplateStopped)
        decoded: dict[str, Any] = json.loads(reply)
        return decoded

    def _started(self) -> IO[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._close()
            kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "LANG") if name in os.environ}
            source = str(Path(kdstudio.__file__).parents[1])
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kdstudio.models.template_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**kept, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"},
            )
            self._replies = queue.Queue()
            reader = (self._process.stdout, self._replies)
            threading.Thread(target=_read_lines, args=reader, name="chat-template", daemon=True).start()
            if self._replies.get(timeout=START_SECONDS) != READY:
                raise queue.Empty
        return cast("IO[bytes]", self._process.stdin)

    def _close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    _close_quietly(stream)
            self._process = None

    def close(self) -> None:
        with self._lock:
            self._close()


def _read_lines(stream: IO[bytes], replies: queue.Queue[bytes]) -> None:
    try:
        for line in stream:
            replies.put(line)
    except (OSError, ValueError):
        pass  # closed under us: the end says it
    replies.put(b"")


def _close_quietly(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except OSError:
        return  # a broken pipe's unsent rest


_apart = _Apart()
atexit.register(_apart.close)
