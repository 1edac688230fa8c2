"""Colours: readable in both themes, and switched live."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QApplication, QCheckBox, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from kdstudio.ui import icons, style
from kdstudio.ui.theme import DARK, LIGHT, SERIES, Theme, Tokens, mix, theme, tone_colours
from kdstudio.ui.widgets.pill import TONES, Pill
from kdstudio.ui.widgets.toast import Toast


def luminance(colour: str) -> float:
    """WCAG 2.2 relative luminance."""
    shown = QColor(colour)
    parts = (shown.redF(), shown.greenF(), shown.blueF())
    red, green, blue = (part / 12.92 if part <= 0.04045 else float(((part + 0.055) / 1.055) ** 2.4) for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=lambda tokens: tokens.name)
@pytest.mark.parametrize(
    "ground", ["window", "surface", "surface_alt", "raised", "hover", "nav_selected", "selection", "code"]
)
def test_text_reads_on_every_ground(tokens: Tokens, ground: str) -> None:
    assert contrast(tokens.text, getattr(tokens, ground)) >= 7


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=lambda tokens: tokens.name)
@pytest.mark.parametrize("text", ["dim", "good", "bad", "warn", "accent"])
@pytest.mark.parametrize("ground", ["window", "surface", "surface_alt", "raised"])
def test_dim_and_status_text_reads(tokens: Tokens, text: str, ground: str) -> None:
    assert contrast(getattr(tokens, text), getattr(tokens, ground)) >= 4.5


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=lambda tokens: tokens.name)
@pytest.mark.parametrize("tone", ["good", "bad", "warn", "busy", "idle"])
def test_pills_read(tokens: Tokens, tone: str) -> None:
    ground, text = tone_colours(tokens, tone)  # type: ignore[arg-type]
    assert contrast(text, ground) >= 4.5


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=lambda tokens: tokens.name)
def test_buttons_and_lines_read(tokens: Tokens) -> None:
    assert tokens.primary == "#3f63e0"
    for fill in (tokens.primary, tokens.primary_pressed):
        assert contrast(tokens.on_primary, fill) >= 4.5
    assert contrast(tokens.on_primary, tokens.primary_hover) >= 4.0
    for line in SERIES[tokens.name]:
        assert contrast(line, tokens.surface) >= 3


def test_style_sheet_knows_all_its_tokens(qapp: QApplication) -> None:
    for tokens in (LIGHT, DARK):
        sheet = style.style_sheet(tokens)
        assert "$" not in sheet
        assert tokens.surface in sheet


def test_style_sheet_uses_no_colour_of_its_own() -> None:
    template = resources.files("kdstudio").joinpath("resources", "theme.qss").read_text("utf-8")
    assert re.findall(r"#[0-9a-fA-F]{3,8}\b|rgba?\(", template) == []


def test_no_page_or_widget_names_a_colour() -> None:
    folder = Path(str(resources.files("kdstudio").joinpath("ui")))
    for path in (*folder.glob("pages/*.py"), *folder.glob("widgets/*.py")):
        assert not re.findall(r"[\"']#[0-9a-fA-F]{6}[\"']", path.read_text("utf-8")), path.name


def test_switching_is_live(qapp: QApplication) -> None:
    theme().set_choice("light")
    light = qapp.palette().color(QPalette.ColorRole.Window).name()
    theme().set_choice("dark")
    assert qapp.palette().color(QPalette.ColorRole.Window).name() == DARK.window != light
    assert DARK.surface in qapp.styleSheet()


def test_icons_follow_the_theme(qapp: QApplication) -> None:
    button = QPushButton()
    icons.set_icon(button, "play", "text")
    before = button.icon().pixmap(16).toImage()
    theme().set_choice("dark")
    assert button.icon().pixmap(16).toImage() != before
    button.deleteLater()


def test_a_toasts_mark_follows_the_theme(qtbot: QtBot) -> None:
    over = QWidget()
    qtbot.addWidget(over)
    toast = Toast("Saved", "good", over)
    before = toast.mark.pixmap().toImage()
    theme().set_choice("dark")
    assert toast.mark.pixmap().toImage() != before


@pytest.mark.parametrize("choice", ["light", "dark"])
def test_a_box_that_cannot_be_changed_shows_whether_it_is_ticked(choice: str, qtbot: QtBot) -> None:
    theme().set_choice(choice)  # type: ignore[arg-type]
    box = QCheckBox()
    qtbot.addWidget(box)
    box.setChecked(True)
    box.setEnabled(False)
    box.show()
    pixels = box.grab().toImage()
    colours = {pixels.pixelColor(x, y).name() for x in range(3, 14) for y in range(4, pixels.height() - 4)}
    assert max(contrast(colour, theme().tokens.window) for colour in colours) >= 3


def test_system_choice_follows_the_system(qapp: QApplication) -> None:
    own = Theme()
    own.set_choice("system")
    assert own.tokens.name in ("light", "dark")


def test_status_is_never_colour_alone(qapp: QApplication) -> None:
    for word in TONES:
        pill = Pill(word)
        assert pill.accessibleName() == word
        assert pill.sizeHint().width() > 20


def test_mix_is_a_share() -> None:
    assert mix("#ffffff", "#000000", 0.0) == "#000000"
    assert mix("#ffffff", "#000000", 1.0) == "#ffffff"
