"""Recipes' templates: what they may say, and what they may not do."""

from __future__ import annotations

import time

import pytest

from kdstudio.elicitation.sandbox import compile_template
from kdstudio.errors import BadInput
from kdstudio.models.chat_template import TemplateStopped

VALUES = {"prompt": "p", "messages": [{"role": "user", "content": "p"}], "tags": ["a", "b"]}


def rendered(text: str) -> str:
    return compile_template(text, "here").render(VALUES)


def test_templates_see_columns() -> None:
    assert rendered("Say: {{ prompt }}") == "Say: p"
    assert rendered("{% for tag in tags %}{{ loop.index }}{{ tag|upper }}{% endfor %}") == "1A2B"
    assert rendered("{{ messages[0].content ~ '!' }}{{ tags|tojson }}") == 'p!["a", "b"]'


def test_plain_templates_need_no_process() -> None:
    assert compile_template("{{ prompt }}\n\n{{ instruction }}", "x").plain
    assert not compile_template("{{ prompt|upper }}", "x").plain
    assert not compile_template("{{ prompt.x }}", "x").plain


def test_names_are_known_before_anything_is_rendered() -> None:
    template = compile_template(
        "{% if reference %}{{ a }}{% set b = 1 %}{{ b }}{% endif %}{% for i in range(3) %}{% endfor %}", "x"
    )
    assert template.names == {"reference", "a"}
    assert rendered("{% if 0 %}{% set prompt = 'q' %}{% endif %}{{ prompt }}") == "p"


def test_a_number_of_too_many_digits_is_refused_with_its_place() -> None:
    for text in ("{{ " + "9" * 4_301 + " }}", "{{ prompt }}{% if " + "1" * 100_000 + " %}{% endif %}"):
        with pytest.raises(BadInput, match="too many digits") as caught:
            compile_template(text, "mine, step 1")
        assert caught.value.detail.startswith("mine, step 1")
    assert rendered("{{ " + "9" * 4_300 + " > 1 }}") == "True"


STOPPED = [
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ 'x' ~ a ~ 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy' }}{% endfor %}",
    "{% set n = namespace(x='aaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x|length }}",
    "{% macro d(x, n) %}{{ d(x ~ x, n - 1) if n else x }}{% endmacro %}{{ d('aaaa', 40) }}",
    "{{ 'a'.ljust(10 ** 10) }}",
]
FAILED = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ prompt.__init__.__globals__ }}",
    "{{ [].append(1) }}{{ messages.append(1) }}",
    "{{ range(10**12) }}",
    "{{ 1 // 0 }}",
    "{{ messages[7].content }}",
    "{{ raise_exception('no') }}",
]


@pytest.mark.parametrize("text", STOPPED)
def test_a_template_without_end_is_stopped_in_time(text: str) -> None:
    began = time.monotonic()
    with pytest.raises(TemplateStopped) as caught:
        rendered(text)
    assert time.monotonic() - began < 30  # two seconds of its own processor time, on a machine that may be busy
    assert "here" in caught.value.detail


@pytest.mark.parametrize("text", FAILED)
def test_what_is_not_allowed_fails_in_words(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        rendered(text)
    assert not isinstance(caught.value, TemplateStopped)
    assert "here" in caught.value.detail


@pytest.mark.parametrize(
    "text", ["{{", "{% if %}", "{{ x|nosuchfilter }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}"]
)
def test_a_template_that_cannot_be_read_is_refused_at_once(text: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        compile_template(text, "here")


def test_reading_a_template_computes_nothing() -> None:
    for text in ("{{ 10 ** (10 ** 10) }}", "{{ 'a'|center(10 ** 11) }}", "{{ 'ab' * 10 ** 11 }}"):
        began = time.perf_counter()
        assert compile_template(text, "x").names == frozenset()
        assert time.perf_counter() - began < 0.1


def test_the_line_at_fault_is_named() -> None:
    with pytest.raises(BadInput) as caught:
        compile_template("fine\n{{ broken", "my recipe, step 1")
    assert "step 1, line 2" in caught.value.detail


def test_deep_nesting_is_refused_in_words() -> None:
    with pytest.raises(BadInput):
        compile_template("{{ " + "(" * 5000 + ")" * 5000 + " }}", "x").render({})
