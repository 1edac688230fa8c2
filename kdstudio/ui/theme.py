"""Colours as named tokens, light and dark, and the one place that says which of them is in force.

Every colour in the window is a token: the palette, the style sheet, icons, pills and plots read it here and follow
`Theme.changed`. Contrast of the text tokens on their grounds is at least 4.5 : 1, and a test computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PySide6.QtCore import QCoreApplication, QObject, Qt, Signal
from PySide6.QtGui import QColor, QGuiApplication

Choice = Literal["system", "light", "dark"]
Tone = Literal["good", "bad", "warn", "busy", "idle"]


@dataclass(frozen=True)
class Tokens:
    """The colours of one theme, as `#rrggbb`.

    Grounds: `window` behind everything, `surface` for panels and tables, `surface_alt` for every second row, `raised`
    for buttons. Lines: `border`, `border_strong` (controls under the pointer). Text: `text`, `dim`, `on_primary`.
    Accents: `primary` fills, `accent` is readable as text on a surface, `selection` is the ground of a chosen row.
    """

    name: Literal["light", "dark"]
    window: str
    surface: str
    surface_alt: str
    raised: str
    hover: str
    border: str
    border_strong: str
    text: str
    dim: str
    primary: str
    primary_hover: str
    primary_pressed: str
    on_primary: str
    accent: str
    nav_selected: str
    selection: str
    good: str
    bad: str
    warn: str
    track: str
    code: str


LIGHT = Tokens(
    name="light",
    window="#f5f6f8",
    surface="#ffffff",
    surface_alt="#f8f9fb",
    raised="#ffffff",
    hover="#eef1f6",
    border="#dfe3ea",
    border_strong="#b9c1ce",
    text="#1b1f27",
    dim="#5b6472",
    primary="#3f63e0",
    primary_hover="#3557cf",
    primary_pressed="#2c49b3",
    on_primary="#ffffff",
    accent="#3153cf",
    nav_selected="#dbe4ff",
    selection="#d4ddf7",
    good="#0f6b45",
    bad="#b3202e",
    warn="#8a5200",
    track="#dfe3ea",
    code="#f1f3f7",
)

DARK = Tokens(
    name="dark",
    window="#14161b",
    surface="#1b1e25",
    surface_alt="#1e222a",
    raised="#232731",
    hover="#292e39",
    border="#2f3440",
    border_strong="#4a5264",
    text="#e6e8ee",
    dim="#9aa3b2",
    primary="#3f63e0",
    primary_hover="#5073ec",
    primary_pressed="#3554c4",
    on_primary="#ffffff",
    accent="#8fa8ff",
    nav_selected="#2c3a66",
    selection="#2f3f73",
    good="#3ecf8e",
    bad="#ff7b7b",
    warn="#f0b45a",
    track="#2f3440",
    code="#14161b",
)

SERIES = {
    "light": ("#3f63e0", "#12805a", "#b3202e", "#8b46c9", "#a36200", "#0b7285", "#c2255c"),
    "dark": ("#6c8cff", "#3ecf8e", "#ff7b7b", "#b98cff", "#f0b45a", "#3bc9db", "#f783ac"),
}
"""Line colours for plots, by theme name, in the order in which lines are added."""


def mix(first: str, second: str, share: float) -> str:
    """A colour with `share` (0..1) of `first` over `second`."""
    a, b = QColor(first), QColor(second)
    parts = [round(x * share + y * (1 - share)) for x, y in zip(a.getRgb()[:3], b.getRgb()[:3], strict=True)]  # type: ignore[index]
    return QColor(*parts).name()


def tone_colours(tokens: Tokens, tone: Tone) -> tuple[str, str]:
    """(ground, text) of a pill or banner of that tone."""
    text = str(getattr(tokens, {"busy": "accent", "idle": "dim"}.get(tone, tone)))
    return mix(text, tokens.surface, 0.14), text


class Theme(QObject):
    """Which theme is in force. `changed` is sent after the application's palette and style sheet were replaced."""

    changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.choice: Choice = "system"
        self.tokens = LIGHT
        QGuiApplication.styleHints().colorSchemeChanged.connect(self._follow_system)

    def set_choice(self, choice: Choice) -> None:
        """Use light, dark or whatever the system says, and repaint everything that is open."""
        from kdstudio.ui import style

        self.choice = choice
        self.tokens = DARK if self._wants_dark() else LIGHT
        style.apply(self.tokens)
        self.changed.emit()

    def _wants_dark(self) -> bool:
        if self.choice == "system":
            return QGuiApplication.styleHints().colorScheme() == Qt.ColorScheme.Dark
        return self.choice == "dark"

    def _follow_system(self) -> None:
        if self.choice == "system":
            self.set_choice("system")

    def colour(self, token: str) -> QColor:
        """The colour of a token by name, e.g. `theme().colour("dim")`."""
        return QColor(getattr(self.tokens, token))

    def series(self, index: int) -> QColor:
        """The colour of the plot line with that index."""
        colours = SERIES[self.tokens.name]
        return QColor(colours[index % len(colours)])


_current: list[Theme] = []


def theme() -> Theme:
    """The application's theme; made on first use, when a `QApplication` exists."""
    if not _current:
        _current.append(Theme(QCoreApplication.instance()))
    return _current[0]
