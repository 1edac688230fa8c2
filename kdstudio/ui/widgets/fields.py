"""The editors a form is made of: one widget per kind of parameter, each with `value`, `set_value` and `changed`."""

from __future__ import annotations

from typing import Any, Protocol

from PySide6.QtCore import QSize, Qt, Signal, SignalInstance
from PySide6.QtGui import QPaintEvent, QPalette, QValidator, QWheelEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDoubleSpinBox,
    QLineEdit,
    QPlainTextEdit,
    QSizePolicy,
    QSpinBox,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QWidget,
)

from kdstudio.registry import Parameter

_INT_LIMIT = 2**31 - 1
_FLOAT_LIMIT = 1e12
_COMBO_LEAST = 110
_COMBO_MARGIN = 4  # what the style leaves free inside the edit field
_MARGIN = 6  # Qt takes no left padding for a spin box from a style sheet


class Field(Protocol):
    """What a form needs of an editor."""

    changed: SignalInstance

    def value(self) -> Any:
        """What the person set, as the parameter's type."""
        ...

    def set_value(self, value: Any) -> None:
        """Show a value."""
        ...


class WholeNumber(QSpinBox):
    """An int. The wheel scrolls the page unless the field has the focus."""

    changed = Signal()

    def __init__(self, parameter: Parameter) -> None:
        super().__init__()
        low = 0 if parameter.minimum is None else int(parameter.minimum)
        high = _INT_LIMIT if parameter.maximum is None else min(int(parameter.maximum), _INT_LIMIT)
        self.setRange(low, high)
        if parameter.zero and low == 0:
            self.setSpecialValueText(parameter.zero)
        self.lineEdit().setTextMargins(_MARGIN, 0, 0, 0)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setStepType(QSpinBox.StepType.AdaptiveDecimalStepType if high > 100 else QSpinBox.StepType.DefaultStepType)
        self.valueChanged.connect(self.changed)

    def set_value(self, value: Any) -> None:
        """Show a value."""
        self.setValue(int(value))

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Do not change a number while a person scrolls past it."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class Number(QDoubleSpinBox):
    """A float from 1e-9 to 1e12, shown as short as it reads; scientific notation may be typed."""

    changed = Signal()

    def __init__(self, parameter: Parameter) -> None:
        super().__init__()
        self.setDecimals(12)
        low = 0.0 if parameter.minimum is None else parameter.minimum
        self.setRange(low, _FLOAT_LIMIT if parameter.maximum is None else parameter.maximum)
        self.lineEdit().setTextMargins(_MARGIN, 0, 0, 0)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._exact: tuple[float, float] | None = None  # as shown and as it was set: a spin box rounds
        self.valueChanged.connect(self.changed)

    def value(self) -> float:
        """The number typed, or exactly the one that was set."""
        shown = super().value()
        return self._exact[1] if self._exact is not None and self._exact[0] == shown else shown

    def textFromValue(self, value: float) -> str:
        """`0.001`, `1e-05`."""
        return f"{value:.6g}"

    def valueFromText(self, text: str) -> float:
        """The number typed; what cannot be read keeps the old one."""
        try:
            return float(text.replace(",", ".").strip())
        except ValueError:
            return self.value()

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        """Let unfinished numbers such as `1e-` stand while they are typed."""
        try:
            inside = self.minimum() <= float(text.replace(",", ".")) <= self.maximum()
        except ValueError:
            state = QValidator.State.Intermediate if set(text) <= set("0123456789.,eE+- ") else QValidator.State.Invalid
            return state, text, position
        return QValidator.State.Acceptable if inside else QValidator.State.Intermediate, text, position

    def stepBy(self, steps: int) -> None:
        """Step by a tenth of the value's power of ten, so that 0.001 and 1000 both move sensibly."""
        power = 10.0 ** (len(f"{abs(self.value()):.0f}") - 1) if abs(self.value()) >= 1 else 0.1
        while self.value() and power > 1e-9 and abs(self.value()) < power * 0.999:
            power /= 10
        self.setValue(round(self.value() + steps * power / (1 if self.value() < 1 else 10), 12))

    def set_value(self, value: Any) -> None:
        """Show a value, to six digits, and keep all of them."""
        self._exact = None
        self.setValue(float(value))
        self._exact = (super().value(), float(value))

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Do not change a number while a person scrolls past it."""
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class Switch(QCheckBox):
    """A bool; its label stands beside the box."""

    changed = Signal()

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.toggled.connect(self.changed)

    def value(self) -> bool:
        """Whether it is ticked."""
        return self.isChecked()

    def set_value(self, value: Any) -> None:
        """Tick or untick it."""
        self.setChecked(bool(value))


class ElidedCombo(QComboBox):
    """A combo box that shortens what does not fit, which the style sheet would clip, and leaves the wheel alone.

    However long its entries are, it may become narrow; its placeholder stands where nothing is chosen.
    """

    def minimumSizeHint(self) -> QSize:
        """No wider than a few words: a long name must not push other fields out of the page."""
        return super().minimumSizeHint().boundedTo(QSize(_COMBO_LEAST, 1 << 12))

    def paintEvent(self, _event: QPaintEvent) -> None:
        """Draw the frame, then the shortened text."""
        painter, option = QStylePainter(self), QStyleOptionComboBox()
        self.initStyleOption(option)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        edit = QStyle.SubControl.SC_ComboBoxEditField
        room = (
            self.style().subControlRect(QStyle.ComplexControl.CC_ComboBox, option, edit, self).width() - _COMBO_MARGIN
        )
        if self.currentIndex() < 0 and self.placeholderText():
            option.currentText = self.placeholderText()
            option.palette.setBrush(QPalette.ColorRole.ButtonText, option.palette.placeholderText())
        option.currentText = self.fontMetrics().elidedText(option.currentText, Qt.TextElideMode.ElideRight, room)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)

    def wheelEvent(self, event: QWheelEvent) -> None:
        """Leave the wheel to the page."""
        event.ignore()


class Choice(ElidedCombo):
    """One of several words."""

    changed = Signal()

    def __init__(self, choices: tuple[str, ...], words: dict[str, str] | None = None) -> None:
        super().__init__()
        for choice in choices:
            self.addItem((words or {}).get(choice, choice.replace("_", " ")), choice)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.currentIndexChanged.connect(self.changed)

    def value(self) -> str:
        """The key of the chosen entry."""
        return str(self.currentData() or "")

    def set_value(self, value: Any) -> None:
        """Choose by key; an unknown key changes nothing."""
        index = self.findData(str(value))
        if index >= 0:
            self.setCurrentIndex(index)


class Text(QLineEdit):
    """A str on one line."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.textChanged.connect(self.changed)

    def value(self) -> str:
        """The text as typed."""
        return self.text()

    def set_value(self, value: Any) -> None:
        """Show a text."""
        self.setText(str(value))


class Paragraph(QPlainTextEdit):
    """A str of several lines; Tab goes on to the next field."""

    changed = Signal()

    def __init__(self, lines: int = 3) -> None:
        super().__init__()
        self.setTabChangesFocus(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFixedHeight(lines * self.fontMetrics().lineSpacing() + 18)
        self.textChanged.connect(self.changed)

    def value(self) -> str:
        """The text as typed."""
        return self.toPlainText()

    def set_value(self, value: Any) -> None:
        """Show a text."""
        if self.toPlainText() != str(value):
            self.setPlainText(str(value))


class Listing(QLineEdit):
    """A tuple, written as `0, 1, 4` or `stop, end`; empty for none."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.setPlaceholderText("none")
        self.textChanged.connect(self.changed)

    def value(self) -> list[int | str]:
        """The parts between the commas; whole numbers as int."""
        parts = [part.strip() for part in self.text().split(",") if part.strip()]
        return [int(part) if part.lstrip("-").isdigit() else part for part in parts]

    def set_value(self, value: Any) -> None:
        """Show the parts."""
        self.setText(", ".join(str(part) for part in value or ()))


def make_field(parameter: Parameter, words: str = "") -> QWidget:
    """The editor for that kind of parameter, without its value."""
    made: QWidget
    if parameter.kind == "int":
        made = WholeNumber(parameter)
    elif parameter.kind == "float":
        made = Number(parameter)
    elif parameter.kind == "bool":
        made = Switch(words)
    elif parameter.kind == "choice":
        made = Choice(parameter.choices, dict(parameter.words))
    elif parameter.kind == "str":
        made = Text()
    else:
        made = Listing()
    made.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
    return made
