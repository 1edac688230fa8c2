"""A value with its unit, as people write it: $5, 5 cm, 50 %, 3 million, x = 4."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from kdstudio.quality.expressions import Expression, NotMathError, read_expression, same_value

_DIGITS_OF_A_ROUNDED = 6

_NAME = re.compile(r"^([A-Za-z](?:_\{?\w+\}?)?(?:\([a-z]\))?)\s*=\s*")
_CURRENCY = re.compile(r"^(-?)\s*(?:US)?([$€£¥])\s*(?=[-0-9.])")
_UNIT = re.compile(
    r"(?<=[0-9})!])(\s*)(%|°\s?[CF]?|\^\s*(?:\\circ|\{\s*\\circ\s*\})|[$€£¥]|"
    r"(?:(?:square|cubic|sq\.?|cu\.?) )?[A-Za-z]+(?:\^\{?-?[0-9]\}?|²|³)?"
    r"(?: ?/ ?[A-Za-z]+(?:\^\{?[0-9]\}?|²|³)?| [a-z]{2,})?)$"
)
_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_OTHER_NAMES = {
    "%": "percent percents",
    "$": "dollar dollars usd",
    "€": "euro euros eur",
    "°": "degree degrees deg",
    "°c": "celsius",
    "mm": "millimeter millimeters millimetre millimetres",
    "cm": "centimeter centimeters centimetre centimetres",
    "m": "meter meters metre metres",
    "km": "kilometer kilometers kilometre kilometres",
    "in": "inch inches",
    "ft": "foot feet",
    "mi": "mile miles",
    "mg": "milligram milligrams",
    "g": "gram grams",
    "kg": "kilogram kilograms kgs",
    "lb": "lbs",
    "ml": "milliliter milliliters millilitre millilitres",
    "l": "liter liters litre litres",
    "s": "second seconds sec secs",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "km/h": "kph kmh",
    "mph": "miles/hour",
}
_UNITS = {other: unit for unit, others in _OTHER_NAMES.items() for other in (unit, *others.split())}
_SPACED = {*"mgshlnjwvakcf"}  # letters that are units only after a space: 5m may be a product
_NO_UNITS = frozenset(
    {
        "pi",
        "sin",
        "cos",
        "tan",
        "ln",
        "log",
        "exp",
        "sqrt",
        "mod",
        "and",
        "or",
        "to",
        "of",
        "not",
        "below",
        "minus",
        "negative",
        "less",
        "fewer",
        "short",
        "loss",
    }
)


@dataclass(frozen=True)
class Quantity:
    """`name` is what it is said to be equal to ("x"), `unit` its unit in its usual short form; both may be ""."""

    value: Expression
    unit: str
    name: str
    decimals: int  # of a plain decimal with enough digits to have been rounded, else -1


def read_quantity(text: str) -> Quantity | None:
    """The quantity that a whole text is, or None."""
    name, unit = "", ""
    if named := _NAME.match(text):
        name, text = named[1], text[named.end() :]
    if money := _CURRENCY.match(text):
        unit, text = money[2], money[1] + text[money.end() :]
    text, scale, trailing = _without_unit(text)
    if unit and trailing and trailing != unit:
        return None
    try:
        value = read_expression(f"({text})*{scale}" if scale != 1 else text)
    except NotMathError:
        return None
    return Quantity(value, unit or trailing, name, _decimals(text) if scale == 1 else -1)


def same_quantity(first: Quantity, second: Quantity) -> bool:
    """Equal in value, and in unit and name where both have one."""
    if first.name and second.name and first.name != second.name:
        return False
    if first.unit and second.unit:
        return first.unit == second.unit and _equal(first, second)
    if "%" in (first.unit, second.unit) and _equal(_as_share(first), _as_share(second)):
        return True
    return _equal(first, second)


def _without_unit(text: str) -> tuple[str, int, str]:
    """The text before its unit, what a word such as million multiplies it by, and the unit."""
    scale = 1
    found = _UNIT.search(text)
    if found is None:
        return text, scale, ""
    first, _, rest = found[2].partition(" ")
    if first.lower() in _SCALES:
        scale, unit = _SCALES[first.lower()], rest
        return text[: found.start()], scale, _short(unit)
    unit = _short(found[2])
    return (text[: found.start()], scale, unit) if _is_unit(found[2], unit, bool(found[1])) else (text, scale, "")


def _is_unit(written: str, unit: str, spaced: bool) -> bool:
    first = re.split(r"[^A-Za-z]", written)[0]
    if any(word in _NO_UNITS for word in written.lower().split()):
        return False
    parts = [part for part in re.split(r"[^a-z]", unit) if part]
    known = bool(parts) and all(part in _UNITS or part in _SPACED for part in parts)
    if len(first) == 1 and not ("/" in unit and known):
        return spaced and first.lower() in _SPACED
    return known or not first or (spaced and len(first) >= 3)


def _short(unit: str) -> str:
    unit = re.sub(r"\^?\s*\{?\\circ\s*\}?|^\^", "°", unit).replace("²", "^2").replace("³", "^3")
    unit = re.sub(r"[{}]", "", " ".join(unit.split()).lower()).replace(" / ", "/").replace("° ", "°")
    if power := re.match(r"(square|sq\.?|cubic|cu\.?) (.+)", unit):
        unit = f"{_short(power[2])}^{2 if power[1].startswith('sq') else 3}"
    return _UNITS.get(unit) or (unit[:-1] if len(unit) > 3 and unit.endswith("s") else unit)


def _as_share(quantity: Quantity) -> Quantity:
    if quantity.unit != "%":
        return quantity
    node = quantity.value.node
    hundredth = Expression(lambda values: node(values) / 100, quantity.value.letters)
    return Quantity(hundredth, "", quantity.name, quantity.decimals + 2 if quantity.decimals >= 0 else -1)


def _equal(first: Quantity, second: Quantity) -> bool:
    return same_value(first.value, second.value) or _rounds_to(first, second) or _rounds_to(second, first)


def _rounds_to(rounded: Quantity, exact: Quantity) -> bool:
    """Whether a decimal with six or more digits is what the other value rounds to: 0.333333 is 1/3, 0.33 is not."""
    if rounded.decimals < 0 or rounded.value.letters or exact.value.letters:
        return False
    try:
        ours, theirs = rounded.value.value({}), exact.value.value({})
        if isinstance(theirs, complex):
            theirs = Fraction(theirs.real) if abs(theirs.imag) < 10.0 ** -(rounded.decimals + 2) else theirs
    except (NotMathError, OverflowError):
        return False
    if not isinstance(ours, Fraction) or not isinstance(theirs, Fraction):
        return False
    return abs(ours - theirs) * 2 <= Fraction(1, 10**rounded.decimals)


def _decimals(text: str) -> int:
    found = re.fullmatch(r"\s*-?([0-9]{1,30})\.([0-9]{1,30})\s*", text)
    digits = (found[1] + found[2]).lstrip("0") if found else ""
    return len(found[2]) if found and len(digits) >= _DIGITS_OF_A_ROUNDED else -1
