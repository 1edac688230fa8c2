"""Fusion, dressed by our own palette, fonts and one style sheet, so that every system shows the same window.

The style sheet (`resources/theme.qss`) is a template over the theme's tokens. A style sheet cannot colour an SVG, so
the few marks it needs (arrows, ticks) are written once, coloured, into the cache folder.
"""

from __future__ import annotations

import string
import sys
import tempfile
from dataclasses import asdict
from importlib import resources
from pathlib import Path

from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication

from kdstudio import settings
from kdstudio.ui.icons import svg_text
from kdstudio.ui.theme import Tokens, mix, tone_colours

TEXT_POINTS = 10.0
_MARKS = (
    ("chevron-down", "dim"),
    ("chevron-up", "dim"),
    ("chevron-right", "dim"),
    ("chevrons-up-down", "dim"),
    ("check", "on_primary"),
    ("minus", "on_primary"),
    ("x", "dim"),
)


def load_fonts() -> None:
    """Register Inter and JetBrains Mono NL and make Inter the application's font."""
    folder = resources.files("kdstudio").joinpath("resources", "fonts")
    for name in ("Inter-Regular", "Inter-Medium", "Inter-SemiBold", "JetBrainsMonoNL-Regular"):
        QFontDatabase.addApplicationFontFromData(folder.joinpath(f"{name}.ttf").read_bytes())
    font = QFont("Inter")
    # A point is 1/72 inch, which macOS draws as one pixel and the others as 4/3 of one.
    font.setPointSizeF(TEXT_POINTS * 4 / 3 if sys.platform == "darwin" else TEXT_POINTS)
    font.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
    QApplication.setFont(font)


def mono_font(points: float = TEXT_POINTS - 0.5) -> QFont:
    """The font of code, prompts and ids."""
    font = QFont("JetBrains Mono NL")
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPointSizeF(points * 4 / 3 if sys.platform == "darwin" else points)
    return font


def apply(tokens: Tokens) -> None:
    """Give the running application the palette and the style sheet of `tokens`."""
    app = QApplication.instance()
    if not isinstance(app, QApplication):
        return
    if app.style().objectName().lower() != "fusion":
        app.setStyle("Fusion")
    app.setPalette(palette(tokens))
    app.setStyleSheet(style_sheet(tokens))


def palette(tokens: Tokens) -> QPalette:
    """Every role that Fusion reads, for widgets that the style sheet leaves alone."""
    made = QPalette()
    role = QPalette.ColorRole
    colours = {
        role.Window: tokens.window,
        role.WindowText: tokens.text,
        role.Base: tokens.surface,
        role.AlternateBase: tokens.surface_alt,
        role.Text: tokens.text,
        role.PlaceholderText: tokens.dim,
        role.Button: tokens.raised,
        role.ButtonText: tokens.text,
        role.BrightText: tokens.bad,
        role.ToolTipBase: tokens.raised,
        role.ToolTipText: tokens.text,
        role.Highlight: tokens.selection,
        role.HighlightedText: tokens.text,
        role.Link: tokens.accent,
        role.LinkVisited: tokens.accent,
        role.Light: tokens.hover,
        role.Midlight: tokens.hover,
        role.Mid: tokens.border,
        role.Dark: tokens.border_strong,
        role.Shadow: tokens.window,
        role.Accent: tokens.primary,
    }
    for key, colour in colours.items():
        made.setColor(key, QColor(colour))
    faded = QColor(mix(tokens.dim, tokens.surface, 0.6))
    for key in (role.WindowText, role.Text, role.ButtonText):
        made.setColor(QPalette.ColorGroup.Disabled, key, faded)
    return made


def style_sheet(tokens: Tokens) -> str:
    """`theme.qss` with every `$token` filled in. Raises `KeyError` for a token that does not exist."""
    values = asdict(tokens)
    values["disabled"] = mix(tokens.dim, tokens.surface, 0.6)
    values["disabled_fill"] = mix(tokens.primary, tokens.surface, 0.18)
    values["disabled_on_fill"] = mix(tokens.accent, tokens.surface, 0.6)
    for tone in ("good", "bad", "warn", "busy", "idle"):
        ground, text = tone_colours(tokens, tone)
        values[f"{tone}_ground"], values[f"{tone}_text"] = ground, text
        values[f"{tone}_line"] = mix(text, tokens.surface, 0.4)
    folder = _marks_folder()
    for name, token in _MARKS:
        values[f"mark_{name.replace('-', '_')}"] = _mark(folder, name, getattr(tokens, token))
    values["mark_chevron_down_faded"] = _mark(folder, "chevron-down", values["disabled"])
    for name in ("check", "minus"):  # of a box that cannot be changed: its ground is the window's, not the fill's
        values[f"mark_{name}_faded"] = _mark(folder, name, tokens.dim)
    template = resources.files("kdstudio").joinpath("resources", "theme.qss").read_text("utf-8")
    return string.Template(template).substitute(values)


def _marks_folder() -> Path:
    folder = settings.cache_folder() / "marks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: the marks are made anew for this session
        folder = Path(tempfile.mkdtemp(prefix="kdstudio-marks-"))
    return folder


def _mark(folder: Path, name: str, colour: str) -> str:
    """A style-sheet path of that icon in that colour, written on first use."""
    path = folder / f"{name}-{colour.lstrip('#')}.svg"
    if not path.exists():
        path.write_text(svg_text(name, colour), "utf-8")
    return path.as_posix()
