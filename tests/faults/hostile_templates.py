"""Fifty templates that want out of their sandbox, or will not end. FILE and PORT stand for a canary's path and port."""

from __future__ import annotations

_SEARCH = (
    "{% for c in ''.__class__.__mro__[1].__subclasses__() %}{% if c.__name__ == 'Popen' %}"
    "{{ c(['touch', 'FILE']) }}{% endif %}{% endfor %}"
)
_SOCKET = "{{ X.__globals__['__builtins__']['__import__']('socket').create_connection(('127.0.0.1', PORT)) }}"

REACHING = {
    # files
    "open": "{{ open('FILE', 'w').write('x') }}",
    "include": "{% include 'FILE' %}",
    "include that may be missing": "{% include ['FILE', '/etc/passwd'] ignore missing %}",
    "import": "{% import 'os' as os %}{{ os.system('touch FILE') }}",
    "from import": "{% from '/etc/passwd' import root %}{{ root }}",
    "extends": "{% extends '/etc/passwd' %}",
    "loader": "{{ self._TemplateReference__context.environment.loader.get_source('/etc/passwd') }}",
    "popen": "{{ cycler.__init__.__globals__.os.popen('touch FILE').read() }}",
    "joiner": "{{ joiner.__init__.__globals__['os'].system('touch FILE') }}",
    "lipsum": "{{ lipsum.__globals__['os'].popen('touch FILE').read() }}",
    "imported module": "{{ namespace.__init__.__globals__.__builtins__.__import__('os').system('touch FILE') }}",
    # processes and sockets
    "any Popen": _SEARCH,
    "socket by refusal": _SOCKET.replace("X", "raise_exception"),
    "socket by date": _SOCKET.replace("X", "strftime_now"),
    "socket by macro": "{% macro f() %}{% endmacro %}" + _SOCKET.replace("X", "f._func"),
    # attributes
    "class walk": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "subscript walk": "{{ ''['__class__']['__mro__'][1]['__subclasses__']() }}",
    "attr filter": "{{ messages | attr('__class__') | attr('__mro__') }}",
    "spelt attr": "{{ messages | attr(['__cla', 'ss__'] | join) }}",
    "escaped attr": "{{ messages | attr('\\x5f\\x5fclass\\x5f\\x5f') }}",
    "map attribute": "{{ messages | map(attribute='__class__') | map('string') | join }}",
    "sort attribute": "{{ messages | sort(attribute='__class__.__name__') | map(attribute='__class__') | list }}",
    "groupby attribute": "{{ messages | groupby('__class__') }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "format map": "{{ '{x.__class__.__init__.__globals__}'.format_map({'x': raise_exception}) }}",
    "format filter": "{{ ['{0.__class__}'] | map('format', 1) | join }}{{ '%s' | format(raise_exception.__code__) }}",
    "format taken along": "{% set f = '{0.__class__}'.format %}{{ f(messages) }}",
    "generator frame": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "code object": "{{ raise_exception.__code__.co_consts }}",
    "change the caller's": "{{ messages.append(1) }}{{ messages.clear() }}",
}
BOMBS = {
    "range": "{% for i in range(10 ** 9) %}x{% endfor %}",
    "list of a range": "{{ range(10 ** 9) | list | length }}",
    "string multiplication": "{{ 'a' * 10 ** 10 }}",
    "list multiplication": "{{ [0] * 10 ** 10 }}",
    "doubling": "{% set n = namespace(a='a' * 999) %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "centre": "{{ 'x' | center(10 ** 10) }}",
    "fill": "{{ 'x'.zfill(10 ** 10) }}",
    "width": "{{ '%10000000000d' % 1 }}",
    "new format": "{{ '{:>10000000000}'.format(1) }}",
    "replace": "{{ ('a' * 99999).replace('a', 'b' * 99999) }}",
    "join": "{{ (['a'] * 99999) | join('b' * 99999) }}",
    "indent": "{{ ('a\\n' * 99999) | indent(99999) }}",
    "tabs": "{{ ('\\t' * 99999).expandtabs(99999) }}",
    "long output": "{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}",
    "regular expression": "{{ (('a.' * 9 + 'a@') * 20000) | urlize }}{{ ('<' * 300000) | striptags }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "json of itself": "{% set n = namespace() %}{% set n.a = [n] %}{{ n | tojson }}",
}
ENDLESS = {
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "exponential macro": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "large powers": "{{ 7 ** (7 ** 9) % 10 }}",
}
PAYLOADS = REACHING | BOMBS | ENDLESS
