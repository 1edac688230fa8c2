"""The token view: grounds that can be read in both themes, walking by keys, pointing, and what else there might be."""

from __future__ import annotations

import math

import pytest
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QColor, QTextCursor
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from kdstudio.ui.theme import DARK, LIGHT, Tokens, theme
from kdstudio.ui.widgets.token_text import STEPS, ShownToken, TokenText, likelihood, marked, step_of, tokens_of

SAID = (
    ShownToken("The", -0.01, (("The", -0.01), ("A", -5.0))),
    ShownToken(" sky", -0.5, ((" sky", -0.5), (" sea", -1.2))),
    ShownToken(" 🦊\n", -3.0, ((" is", -0.2), (" 🦊\n", -3.0))),
    ShownToken("blue", -9.0, (("red", -0.1),)),
    ShownToken(".", -1.0),
)


@pytest.fixture
def shown(qtbot: QtBot) -> TokenText:
    made = TokenText()
    qtbot.addWidget(made)
    made.resize(480, 300)
    made.show()
    made.show_tokens(SAID)
    return made


def luminance(colour: str) -> float:
    parts = [part / 255 for part in QColor(colour).getRgb()[:3]]  # type: ignore[index]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])


@pytest.mark.parametrize("tokens", [LIGHT, DARK], ids=["light", "dark"])
def test_every_ground_can_be_read(tokens: Tokens) -> None:
    grounds = [step.ground(tokens) for step in STEPS]
    for ground in grounds:
        bright, dim = sorted((luminance(tokens.text), luminance(ground)), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5
    assert len(set(grounds)) == len(STEPS)


def ground_at(view: TokenText, position: int) -> str:
    cursor = QTextCursor(view.view.document())
    cursor.setPosition(position + 1)  # a cursor tells the format of the character before it
    return cursor.charFormat().background().color().name()


def test_colours_follow_the_tokens_and_the_theme(shown: TokenText) -> None:
    places = {0: STEPS[0], 8: STEPS[3], 12: STEPS[4], 15: STEPS[2]}
    assert shown.view.toPlainText() == "The sky 🦊\nblue."
    assert [ground_at(shown, place) for place in places] == [step.ground(LIGHT) for step in places.values()]
    theme().set_choice("dark")
    assert [ground_at(shown, place) for place in places] == [step.ground(DARK) for step in places.values()]


def test_the_legend_names_the_steps_in_nats(shown: TokenText) -> None:
    words = [one.text() for one in shown.legend.findChildren(QLabel)]
    assert words == ["nats at least", *(step.words for step in STEPS)]
    for step in STEPS[:-1]:
        assert step.words.startswith(f"{math.log(step.probability):.1f}".replace("-", "−"))
    assert not shown.readout.isHidden()
    assert shown.readout.text().startswith("5 tokens, −2.70 nats")


def test_walking_with_the_keys(shown: TokenText, qtbot: QtBot) -> None:
    shown.view.setFocus()
    press = QTest.keyClick
    press(shown.view, Qt.Key.Key_Right)
    assert shown.current == 0
    press(shown.view, Qt.Key.Key_Right)
    assert shown.readout.text() == "“␣sky”   −0.50 nats (61 %)"
    assert shown.others.text().replace("\u00a0", " ") == "Instead: “␣sea” −1.20 nats (30 %)"
    press(shown.view, Qt.Key.Key_Right, Qt.KeyboardModifier.ControlModifier)
    assert shown.current == 2
    press(shown.view, Qt.Key.Key_Right, Qt.KeyboardModifier.ControlModifier)
    assert shown.current == 3
    press(shown.view, Qt.Key.Key_Right, Qt.KeyboardModifier.ControlModifier)
    assert shown.current == 3  # there is none further on
    press(shown.view, Qt.Key.Key_Up)
    assert shown.current in (0, 1)
    press(shown.view, Qt.Key.Key_End)
    assert shown.current == 4
    assert shown.others.text() == "The likeliest tokens at its place were not given."
    press(shown.view, Qt.Key.Key_Right)
    assert shown.current == 4
    press(shown.view, Qt.Key.Key_Home)
    press(shown.view, Qt.Key.Key_Left)
    assert shown.current == 0
    assert "Token 1" in shown.view.accessibleDescription()


def test_pointing_with_the_mouse(shown: TokenText, qtbot: QtBot) -> None:
    cursor = QTextCursor(shown.view.document())
    cursor.setPosition(5)
    where = shown.view.cursorRect(cursor).center()
    QTest.mouseMove(shown.view.viewport(), where)
    qtbot.waitUntil(lambda: shown.current == 1, timeout=2000)
    assert "sea" in shown.view.toolTip()
    QTest.mouseClick(shown.view.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(6, 6))
    assert shown.current == 0


def test_plain_text_and_nothing(shown: TokenText) -> None:
    shown.show_text("Hello")
    shown.append(" there")
    assert shown.view.toPlainText() == "Hello there"
    assert shown.legend.isHidden()
    QTest.keyClick(shown.view, Qt.Key.Key_Right)
    QTest.keyClick(shown.view, Qt.Key.Key_Down)
    assert shown.current == -1
    shown.show_tokens(())
    assert shown.view.isHidden()


def test_a_long_answer_scrolls_and_keeps_the_token_in_sight(qtbot: QtBot) -> None:
    view = TokenText()
    qtbot.addWidget(view)
    view.resize(400, 400)
    view.show()
    view.show_tokens([ShownToken(f" word{number}", -(number % 7)) for number in range(3000)])
    assert view.view.height() <= 260
    view.choose(2999)
    qtbot.waitUntil(lambda: view.view.verticalScrollBar().value() > 0, timeout=2000)


def test_words_and_strange_figures() -> None:
    assert [step_of(math.log(p)).words for p in (1.0, 0.6, 0.2, 0.05, 0.001)] == [step.words for step in STEPS]
    assert step_of(math.nan) is STEPS[-1]
    assert step_of(0.3) is STEPS[0]  # rounding above certainty
    assert likelihood(-math.inf) == likelihood(math.nan) == "never"
    assert likelihood(0.0) == "0.00 nats (100 %)"
    assert likelihood(-12.0) == "−12.00 nats (below 0.1 %)"
    assert marked("\n\x1b" + "x" * 40) == "“↵·" + "x" * 21 + "…”"
    reply = [["a", -1.0, [["b", -2]]], ["a"], None, ["c", "far", []], ["\r\n\x00", -1, []]]
    assert [one.text for one in tokens_of(reply)] == ["a", "\r\n\x00"]
