"""Templates of honest models render as in transformers; hostile ones are stopped and reach nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.errors import BadInput
from kdstudio.models import chat_template
from kdstudio.models.chat_template import CHATML, SMOLLM2, TRANSCRIPT, VETTED, render
from tests import tiny

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a frozen whale"}]


@pytest.fixture(scope="module", autouse=True)
def _process() -> Iterator[None]:
    yield
    chat_template._apart.close()


def test_known_templates_render_here_and_unknown_ones_apart_to_the_same_text() -> None:
    for template in sorted(VETTED):
        for start in (True, False):
            here = render(template, MESSAGES, add_generation_prompt=start, eos_token="</s>")
            apart = render(template + "{# unknown #}", MESSAGES, add_generation_prompt=start, eos_token="</s>")
            assert here == apart


def test_the_tests_own_template_is_a_known_one() -> None:
    assert tiny.CHATML == CHATML


def test_chatml_and_the_default_system_message() -> None:
    text = render(CHATML, MESSAGES, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na frozen whale<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(SMOLLM2, MESSAGES[1:], add_generation_prompt=True).startswith("<|im_start|>system\nYou are a helpful")


def test_a_model_without_a_template_gets_a_transcript() -> None:
    assert render("", MESSAGES, add_generation_prompt=True) == render(TRANSCRIPT, MESSAGES, add_generation_prompt=True)
    assert render("", MESSAGES, add_generation_prompt=True).endswith("User: a frozen whale\nAssistant: ")


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ messages[1].content | upper }}", "A FROZEN WHALE"),
        ("{{ tools | tojson }}", '[{"name": "größe <b>"}]'),
        ("{% generation %}x{% endgeneration %}", "x"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{%- if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{%- endif %}", "26 Jul 2024"),
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        ("  {% if true %}\n  kept\n  {% endif %}", "  kept\n"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "2"),
    ],
)
def test_what_real_templates_use(template: str, expected: str) -> None:
    tools = [{"name": "größe <b>"}]
    shown = render(template, MESSAGES, add_generation_prompt=False, bos_token="<s>", eos_token="</s>", tools=tools)
    assert shown == expected


def test_lone_surrogates_pass() -> None:
    message = {"role": "user", "content": "half \ud83d"}
    assert "half \ud83d" in render(CHATML + "{# unknown #}", [message], add_generation_prompt=True)


def test_a_template_may_refuse_a_conversation() -> None:
    with pytest.raises(BadInput, match="roles must alternate"):
        render("{{ raise_exception('roles must alternate') }}", MESSAGES, add_generation_prompt=True)


HOSTILE = {
    "class walk": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('touch FILE').read() }}",
    "self": "{{ self.__init__.__globals__ }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "format map": "{{ '{x.__class__}'.format_map({'x': 1}) }}",
    "attr": "{{ messages | attr('__class__') }}",
    "map attr": "{{ messages | map(attribute='__class__') | list }}{{ 1 / 0 }}",
    "include": "{% include 'FILE' %}",
    "import": "{% import 'os' as os %}",
    "change": "{{ messages.append(1) }}",
    "open": "{{ open('FILE', 'w') }}",
    "syntax": "{% for",
    "no such attribute": "{{ messages[0].a.b }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "long output": "{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}",
    "repeat": "{{ 'a' * 10 ** 10 }}",
    "center": "{{ 'x' | center(10 ** 10) }}",
    "width": "{{ '%10000000000d' % 1 }}",
    "list": "{{ [0] * 10 ** 10 }}",
    "doubling": "{% set n = namespace(a='a' * 999) %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
}


@pytest.mark.parametrize("name", list(HOSTILE))
def test_hostile_templates_reach_nothing(name: str, tmp_path: Path) -> None:
    target = tmp_path / "made"
    try:
        shown = render(HOSTILE[name].replace("FILE", str(target)), MESSAGES, add_generation_prompt=True)
    except BadInput:
        shown = ""
    assert shown == ""  # what the sandbox hides is undefined, and undefined is written as nothing
    assert not target.exists()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    ],
)
def test_endless_templates_are_stopped_and_the_next_one_works(template: str) -> None:
    render("{{ 1 }}", MESSAGES, add_generation_prompt=True)  # its process is there
    began = time.monotonic()
    with pytest.raises(BadInput, match="too long"):
        render(template, MESSAGES, add_generation_prompt=True)
    assert time.monotonic() - began < 3.0
    assert render("{{ 1 }}", MESSAGES, add_generation_prompt=True) == "1"


def test_the_rendering_process_has_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-canary")
    chat_template._apart.close()
    render("{{ 1 }}", MESSAGES, add_generation_prompt=True)
    process = chat_template._apart._process
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ")
    if environment.exists():
        assert b"canary" not in environment.read_bytes()
