"""What a teacher may cost, as three fields: dollars for a million tokens in and out, and a ceiling for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from kdstudio.ui.widgets.labels import label, set_role

_MOST = 1_000_000.0
FIELDS = ("input", "output", "ceiling")
_CAPTIONS = {
    "input": ("$ in", "US dollars for a million tokens of prompts"),
    "output": ("$ out", "US dollars for a million tokens of answers"),
    "ceiling": ("ceiling $", "A run stops before more US dollars than this are spent"),
}


def dollars(amount: float) -> str:
    """`$0.0004`, `$1.25`, `$1 204`: as many digits as say something."""
    if amount >= 1000:
        return f"${amount:,.0f}".replace(",", "\u202f")
    if amount >= 0.1 or amount == 0:
        return f"${amount:.2f}"
    return f"${amount:.4f}" if amount >= 0.0001 else "less than $0.0001"


def price_words(price: Any) -> str:
    """`$0.15 in and $0.60 out for a million tokens` of a mapping or a pair; "" for what is neither."""
    pair: Any = (price.get("input"), price.get("output")) if isinstance(price, Mapping) else price
    try:
        given, taken = (float(one) for one in pair)
    except (TypeError, ValueError):
        return ""
    if not given and not taken:
        return "free of charge"
    return f"{dollars(given)} in and {dollars(taken)} out for a million tokens"


def amount_of(text: str) -> float | None:
    """A field's amount of dollars; None for what is none. Raises `ValueError` for words that are no amount."""
    cleaned = text.strip().replace("$", "").replace(",", ".").replace("\u202f", "")
    if not cleaned:
        return None
    amount = float(cleaned)
    if not math.isfinite(amount) or not 0 <= amount <= _MOST:
        raise ValueError(text)
    return amount


class PriceFields(QWidget):
    """`changed`: something was typed. Empty prices stand for the price list's, an empty ceiling for none."""

    changed = Signal()

    def __init__(self, name: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.lines: dict[str, QLineEdit] = {}
        self.fault: QLabel = label("", "error", wrap=True, name=f"{name}_fault")
        self.fault.hide()
        row = QHBoxLayout()
        row.setSpacing(6)
        for field in FIELDS:
            caption, tip = _CAPTIONS[field]
            line = QLineEdit()
            line.setObjectName(f"{name}_{field}")
            line.setAccessibleName(tip)
            line.setToolTip(tip)
            line.setPlaceholderText("none" if field == "ceiling" else "list")
            line.textChanged.connect(lambda _text: self._typed())
            words = label(caption, "small")
            words.setBuddy(line)
            row.addWidget(words)
            row.addWidget(line, 1)
            self.lines[field] = line
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(row)
        column.addWidget(self.fault)

    def _typed(self) -> None:
        self.say_fault("")
        self.changed.emit()

    def say_fault(self, words: str, field: str = "") -> None:
        """Say below the fields what is wrong with one of them."""
        self.fault.setText(words)
        self.fault.setVisible(bool(words))
        for name, line in self.lines.items():
            wrong = bool(words) and name == field
            if bool(line.property("invalid")) != wrong:
                set_role(line, invalid=wrong)

    def set_options(self, options: Mapping[str, Any]) -> None:
        """Show a teacher's options `price` and `ceiling`."""
        price = options.get("price")
        values: dict[str, Any] = {**(price if isinstance(price, Mapping) else {}), "ceiling": options.get("ceiling")}
        for field, line in self.lines.items():
            value = values.get(field)
            line.setText("" if value is None else f"{float(value):g}")

    def error(self) -> str:
        """What cannot be used, also shown; "" when all is well."""
        for field, line in self.lines.items():
            try:
                amount_of(line.text())
            except ValueError:
                self.say_fault(f"“{line.text().strip()[:20]}” is no amount of dollars.", field)
                return self.fault.text()
        if bool(self.lines["input"].text().strip()) != bool(self.lines["output"].text().strip()):
            missing = "output" if self.lines["input"].text().strip() else "input"
            self.say_fault("A price needs both figures: for tokens in and for tokens out.", missing)
        return self.fault.text()

    def options(self) -> dict[str, Any]:
        """As a teacher's options, None for what is not given; ask `error` first."""
        given, taken, ceiling = (amount_of(self.lines[field].text()) for field in FIELDS)
        price = None if given is None or taken is None else {"input": given, "output": taken}
        return {"price": price, "ceiling": ceiling or None}
