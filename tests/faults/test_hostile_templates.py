"""Hostile templates, on the way that real ones take: nothing is touched, and each is stopped within three seconds."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from kdstudio.elicitation.sandbox import compile_template
from kdstudio.errors import BadInput
from kdstudio.models import chat_template
from kdstudio.models.chat_template import TemplateStopped, render
from tests.faults.hostile_templates import BOMBS, ENDLESS, PAYLOADS, REACHING

pytestmark = pytest.mark.faults
ROOT = Path(__file__).parents[2]
SECONDS = 3.0
MESSAGES = [{"role": "user", "content": "a frozen whale"}, {"role": "assistant", "content": "hello"}]
TELLTALE = (
    "class '",
    "<class",
    "object at 0x",
    "built-in",
    "__",
    "root:",
    "function",
    "module",
    "code object",
    "Popen",
)


@dataclass
class Canaries:
    """A file that must not appear, in a folder that must not change, and a port on which nobody must knock."""

    file: Path
    listener: socket.socket

    def set_in(self, template: str) -> str:
        return template.replace("FILE", str(self.file)).replace("PORT", str(self.listener.getsockname()[1]))

    def are_silent(self) -> bool:
        with pytest.raises(BlockingIOError):
            self.listener.accept()
        return list(self.file.parent.iterdir()) == []


@pytest.fixture
def canaries(tmp_path: Path) -> Iterator[Canaries]:
    (tmp_path / "watched").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield Canaries(tmp_path / "watched" / "made", listener)


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    yield
    chat_template._apart.close()


def touched_by_the_process() -> list[Any]:
    """Files, connections and children of the process that renders, as the system sees them."""
    process = chat_template._apart._process
    if process is None or process.poll() is not None:
        return []
    seen = psutil.Process(process.pid)
    return [*seen.open_files(), *seen.net_connections(), *seen.children(recursive=True)]


def names(fast: dict[str, str], slow: dict[str, str]) -> list[Any]:
    """The first endless one is always tried, the others take two seconds each."""
    first, *others = slow
    return [*fast, first, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


def ended(template: str, values: list[dict[str, str]]) -> tuple[str, float, bool]:
    """What a chat template wrote, how long it took, and whether a limit stopped it."""
    began = time.monotonic()
    try:
        shown, stopped = render(template, values, add_generation_prompt=True), False
    except BadInput as error:
        shown, stopped = "", isinstance(error, TemplateStopped)
    return shown, time.monotonic() - began, stopped


def test_there_are_fifty() -> None:
    assert len(PAYLOADS) == 50


@pytest.mark.parametrize("name", names(REACHING | BOMBS, ENDLESS))
def test_as_a_models_chat_template(name: str, canaries: Canaries) -> None:
    assert render("{{ 1 }}", MESSAGES, add_generation_prompt=True) == "1"  # the process is there
    values = [dict(message) for message in MESSAGES]
    shown, seconds, _stopped = ended(canaries.set_in(PAYLOADS[name]), values)
    assert seconds < SECONDS
    assert not [mark for mark in TELLTALE if mark in shown]
    assert len(shown) < 1000
    assert values == MESSAGES
    assert canaries.are_silent()
    assert touched_by_the_process() == []
    assert render("{{ 2 }}", MESSAGES, add_generation_prompt=True) == "2"


@pytest.mark.parametrize("name", list(ENDLESS)[:1])
def test_an_endless_one_is_told_from_a_broken_one(name: str) -> None:
    _, _, stopped = ended(ENDLESS[name], MESSAGES)
    assert stopped


THIRTY = {name: PAYLOADS[name] for name in (*list(REACHING)[::2], *BOMBS)[:30]}


@pytest.mark.parametrize("name", [*THIRTY, *(pytest.param(name, marks=pytest.mark.slow) for name in ENDLESS)])
def test_as_a_recipes_template(name: str, canaries: Canaries) -> None:
    render("{{ 1 }}", MESSAGES, add_generation_prompt=True)
    began = time.monotonic()
    try:
        shown = compile_template(canaries.set_in(PAYLOADS[name]), "step 1").render({"messages": MESSAGES})
    except BadInput as error:
        shown = ""
        assert "step 1" in error.detail  # noqa: PT017 - not raising is well, too
    assert time.monotonic() - began < SECONDS
    assert not [mark for mark in TELLTALE if mark in shown]
    assert len(shown) < 1000
    assert canaries.are_silent()
    assert touched_by_the_process() == []


def test_thirty_are_tried_in_recipes() -> None:
    assert len(THIRTY) == 30


def test_the_sandbox_alone_lets_none_touch_anything(canaries: Canaries) -> None:
    templates = [canaries.set_in(template) for template in REACHING.values()]
    command = [sys.executable, "-m", "tests.faults.template_audit"]
    done = subprocess.run(
        command, input=json.dumps(templates), capture_output=True, text=True, cwd=ROOT, timeout=120, check=True
    )
    assert dict(zip(REACHING, json.loads(done.stdout), strict=True)) == {name: [] for name in REACHING}
    assert canaries.are_silent()


HARD_TO_READ = (
    *("(" * 20_000, "{{ " + "(" * 20_000, "{{ " + "[" * 5000 + "]" * 5000 + " }}", "{{ " + "-" * 50_000 + "1 }}"),
    *("{% if a %}" * 5000, "{#" * 50_000, "{{" + " " * 200_000, "{{ '" + "\\" * 200_000, "{% raw %}" * 20_000),
    *("{{ a" + ".b" * 20_000 + " }}", "{{ " + "1 + " * 5000 + "1 }}", "x" * (300 << 10)),
)


@pytest.mark.parametrize("template", HARD_TO_READ, ids=range(len(HARD_TO_READ)))
def test_templates_that_are_hard_to_read_alone(template: str) -> None:
    render("{{ 1 }}", MESSAGES, add_generation_prompt=True)
    for attempt in (lambda: ended(template, MESSAGES), lambda: read_as_recipe(template)):
        began = time.monotonic()
        attempt()
        assert time.monotonic() - began < SECONDS


def test_a_number_with_too_many_digits_is_refused() -> None:
    with pytest.raises(BadInput):
        render("{{ " + "9" * 5000 + " }}", MESSAGES, add_generation_prompt=True)


def read_as_recipe(template: str) -> None:
    try:
        compile_template(template, "step 1").render({"messages": MESSAGES, "a": 1})
    except BadInput:
        return
