"""Reading a short mathematical expression, plain or LaTeX, and deciding whether two mean the same.

Both are evaluated at the same points, exactly in fractions where that can be, else in complex floats: polynomials, and
quotients of them, that agree at random points are the same (Schwartz 1980, https://doi.org/10.1145/322217.322225). So
nothing is given to `eval`, as SymPy's own reader does, and time is bounded by the length of the text. The points are
fixed: the same question always gets the same answer.
"""

from __future__ import annotations

import cmath
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

MAXIMUM_CHARACTERS = 400
_DEEPEST = 40
_BITS = 4_000  # an exact power with more is left to floats
_CLOSE, _NEAR_ZERO = 1e-9, 1e-12
_POINTS, _POINTS_NEEDED = 8, 4

Value = Fraction | complex
Values = Mapping[str, Fraction]
Node = Callable[[Values], Value]


class NotMathError(Exception):
    """The text is no expression that can be read, or it has no value."""


@dataclass(frozen=True)
class Expression:
    """What has a value once its letters have one; `value` raises `NotMathError` where it has none."""

    node: Node
    letters: frozenset[str]

    def value(self, values: Values) -> Value:
        """The value at a point: exact where only whole powers, products and quotients are in the way."""
        try:
            found = self.node(values)
        except (ArithmeticError, ValueError, RecursionError) as error:
            raise NotMathError("no value") from error
        if isinstance(found, complex) and not cmath.isfinite(found):
            raise NotMathError("not finite")
        return found


def read_expression(text: str) -> Expression:
    """Raises `NotMathError` for words, for what is cut off, and for more than 400 characters or 40 brackets."""
    if len(text) > MAXIMUM_CHARACTERS:
        raise NotMathError("too long")
    return _Reader(_cleaned(text)).whole()


def same_value(first: Expression, second: Expression) -> bool:
    """Whether both have the same value at every point where both have one, and there are enough of those."""
    agreed = 0
    letters = sorted(first.letters | second.letters)
    for number in range(_POINTS if letters else 1):
        point = _point(letters, number)
        try:
            ours, theirs = first.value(point), second.value(point)
        except NotMathError:
            continue
        if not _same(ours, theirs):
            return False
        agreed += 1
    return agreed >= (_POINTS_NEEDED if letters else 1)


def _point(letters: list[str], number: int) -> Values:
    """A fraction for each letter; in every other point some are negative, where a root of a square shows."""
    draw = random.Random(number)
    signs = (1, -1) if number % 2 else (1,)
    return {letter: Fraction(draw.choice(signs) * draw.randint(101, 499), 211) for letter in letters}


def _same(ours: Value, theirs: Value) -> bool:
    if isinstance(ours, Fraction) and isinstance(theirs, Fraction):
        return ours == theirs
    try:
        return cmath.isclose(complex(ours), complex(theirs), rel_tol=_CLOSE, abs_tol=_NEAR_ZERO)
    except OverflowError:
        return False


# ------------------------------------------------------------------------------------------------------ arithmetic
def _plus(first: Value, second: Value) -> Value:
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first + second
    return complex(first) + complex(second)


def _times(first: Value, second: Value) -> Value:
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first * second
    return complex(first) * complex(second)


def _over(first: Value, second: Value) -> Value:
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first / second
    return complex(first) / complex(second)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        if abs(exponent.numerator) * bits <= _BITS:
            return Fraction(base ** int(exponent))
    return complex(complex(base) ** complex(exponent))


def _factorial(value: Value) -> Value:
    if not isinstance(value, Fraction) or value.denominator != 1 or not 0 <= value <= 200:
        raise NotMathError("factorial")
    return Fraction(math.factorial(int(value)))


_FUNCTIONS: dict[str, Callable[[complex], complex]] = {
    "exp": cmath.exp,
    "ln": cmath.log,
    "log": cmath.log10,
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
    "sinh": cmath.sinh,
    "cosh": cmath.cosh,
    "tanh": cmath.tanh,
    "abs": lambda value: complex(abs(value)),
}
_CONSTANTS: dict[str, complex] = {"pi": complex(math.pi), "e": complex(math.e), "i": 1j}
_GREEK = frozenset(
    {"alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "rho", "sigma", "tau", "phi", "omega"}
)

# --------------------------------------------------------------------------------------------------------- reading
_SIGNS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "×": "*",
        "·": "*",
        "⋅": "*",
        "÷": "/",
        "\u2215": "/",
        "π": r"\pi ",
        "√": r"\sqrt ",
        "²": "^2",
        "³": "^3",
    }
)
_PLAINER = (
    (re.compile(r"\\(?:left|right|displaystyle|quad|[,;:! ])"), " "),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*([0-9])\s*([0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*([0-9])\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\{[^{}]*\})\s*([0-9])"), r"\1{\2}"),
    (re.compile(r"\\sqrt\s*([0-9])"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:cdot|times|ast)(?![A-Za-z])"), "*"),
    (re.compile(r"\\div(?![A-Za-z])"), "/"),
    (re.compile(r"\*\*"), "^"),
    (
        re.compile(r"(?<![0-9.,])([0-9]{1,3}(?:(?:,|\{,\})[0-9]{3})+)(?![0-9])"),
        lambda found: re.sub("[^0-9]", "", found[1]),
    ),
    (re.compile(r"(?<![0-9.^])([0-9]+)\s+([0-9]+)\s*/\s*([0-9]+)(?![0-9.])"), r"(\1+\2/\3)"),
    (re.compile(r"(?<![0-9.^])([0-9]+)\s*\\frac\{\s*([0-9]+)\s*\}\{\s*([0-9]+)\s*\}"), r"(\1+\2/\3)"),
    (re.compile(r"(?<![A-Za-z0-9.])([0-9]+(?:\.[0-9]+)?)[eE]([+-]?[0-9]{1,3})(?![A-Za-z0-9.])"), r"(\1*10^(\2))"),
)
_SYMBOLS = re.compile(r"\s*(?:([0-9]+\.?[0-9]*|\.[0-9]+)|\\?([A-Za-z]+)|([-+*/^(){}\[\]!_]))")
_MATH = re.compile(r"[0-9^*+/\\]")


def _cleaned(text: str) -> str:
    for pattern, replacement in _PLAINER:
        text = pattern.sub(replacement, text.translate(_SIGNS))
    return text


class _Reader:
    """Recursive descent: sum, product, sign, power, atom."""

    def __init__(self, text: str) -> None:
        self._symbols: list[str] = []
        self._place = 0
        self._depth = 0
        self._letters: set[str] = set()
        self._split = bool(_MATH.search(text))  # "xy" is a product beside a number or sign; alone it is a word
        place, text = 0, text.strip()
        while place < len(text):
            found = _SYMBOLS.match(text, place)
            if found is None:
                raise NotMathError(f"{text[place]!r} is no part of an expression")
            self._symbols.extend(self._words(found[2]) if found[2] else [found[1] or found[3]])
            place = found.end()

    def whole(self) -> Expression:
        node = self._sum()
        if self._next():
            raise NotMathError("something is left over")
        return Expression(node, frozenset(self._letters))

    def _words(self, word: str) -> list[str]:
        if len(word) == 1 or word in _FUNCTIONS or word in _CONSTANTS or word in _GREEK or word in ("sqrt", "frac"):
            return [word]
        if len(word) == 2 and self._split:
            return list(word)
        raise NotMathError(f"{word!r} is a word")

    def _next(self) -> str:
        return self._symbols[self._place] if self._place < len(self._symbols) else ""

    def _take(self, wanted: str = "") -> str:
        symbol = self._next()
        if not symbol or (wanted and symbol != wanted):
            raise NotMathError(f"{wanted or 'more'} is missing")
        self._place += 1
        return symbol

    def _sum(self) -> Node:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotMathError("too deep")
        node = self._product()
        while self._next() in ("+", "-"):
            sign = Fraction(1 if self._take() == "+" else -1)
            node = _added(node, self._product(), sign)
        self._depth -= 1
        return node

    def _product(self) -> Node:
        node = self._signed()
        while (symbol := self._next()) in ("*", "/") or symbol in ("(", "{") or symbol[:1].isalpha():
            if symbol in ("*", "/"):
                self._take()
            node = _both(_over if symbol == "/" else _times, node, self._signed())
        return node

    def _signed(self) -> Node:
        sign = 1
        while self._next() in ("+", "-"):
            sign *= 1 if self._take() == "+" else -1
        node = self._powered()
        return node if sign == 1 else _both(_times, _constant(Fraction(-1)), node)

    def _powered(self) -> Node:
        node = self._atom()
        while self._next() == "!":
            self._take()
            node = _mapped(_factorial, node)
        if self._next() == "^":
            self._take()
            self._depth += 1
            if self._depth > _DEEPEST:
                raise NotMathError("too deep")
            node = _both(_power, node, self._signed())
            self._depth -= 1
        return node

    def _atom(self) -> Node:
        symbol = self._take()
        if symbol in ("(", "{", "["):
            node = self._sum()
            self._take({"(": ")", "{": "}", "[": "]"}[symbol])
            return node
        if symbol[0].isdigit() or symbol[0] == ".":
            return _constant(Fraction(symbol))
        if symbol == "frac":
            return _both(_over, self._braced(), self._braced())
        if symbol == "sqrt":
            return self._root()
        if symbol in _FUNCTIONS:
            return self._applied(symbol)
        if symbol in _CONSTANTS:
            return _constant(_CONSTANTS[symbol])
        if not symbol.isalpha():
            raise NotMathError(f"{symbol!r} stands alone")
        return self._letter(symbol)

    def _letter(self, name: str) -> Node:
        if self._next() == "_":
            self._take()
            braced = self._next() == "{"
            name += "_" + self._take("{" if braced else "").strip("{") + (self._take() if braced else "")
            if braced:
                self._take("}")
        self._letters.add(name)
        return lambda values: values[name]

    def _braced(self) -> Node:
        self._take("{")
        node = self._sum()
        self._take("}")
        return node

    def _root(self) -> Node:
        degree = _constant(Fraction(2))
        if self._next() == "[":
            degree = self._atom()
        return _both(_power, self._atom(), _both(_over, _constant(Fraction(1)), degree))

    def _applied(self, name: str) -> Node:
        """sin x, sin(x), sin^2 x, log_2 8."""
        function, base, power = _FUNCTIONS[name], None, None
        if name == "log" and self._next() == "_":
            self._take()
            base = self._atom()
        if self._next() == "^":
            self._take()
            power = self._atom()
        self._depth += 1
        if self._depth > _DEEPEST:
            raise NotMathError("too deep")
        argument = self._powered()
        self._depth -= 1
        node = _mapped(lambda value: function(complex(value)), argument)
        if base is not None:
            node = _both(_over, node, _mapped(lambda value: cmath.log10(complex(value)), base))
        return _both(_power, node, power) if power is not None else node


def _constant(value: Value) -> Node:
    return lambda _values: value


def _mapped(function: Callable[[Value], Value], node: Node) -> Node:
    return lambda values: function(node(values))


def _both(function: Callable[[Value, Value], Value], first: Node, second: Node) -> Node:
    return lambda values: function(first(values), second(values))


def _added(first: Node, second: Node, sign: Fraction) -> Node:
    return lambda values: _plus(first(values), _times(sign, second(values)))
