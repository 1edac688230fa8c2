"""Icons: one-line SVGs drawn in a theme colour at any scale, recoloured when the theme changes."""

from __future__ import annotations

import weakref
from functools import lru_cache
from importlib import resources

import shiboken6
from PySide6.QtCore import QByteArray, QObject, QRectF, QSize, Qt
from PySide6.QtGui import QAction, QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer
from PySide6.QtWidgets import QAbstractButton

from kdstudio.ui.theme import mix, theme

SIZE = 16


@lru_cache(maxsize=256)
def _source(name: str) -> str:
    return resources.files("kdstudio").joinpath("resources", "icons", f"{name}.svg").read_text("utf-8")


def svg_text(name: str, colour: str) -> str:
    """The SVG of that icon with `currentColor` replaced. Raises `FileNotFoundError` for an unknown name."""
    return _source(name).replace("currentColor", colour)


@lru_cache(maxsize=512)
def _pixmap(name: str, colour: str, size: int, ratio: float, gap: int = 0) -> QPixmap:
    renderer = QSvgRenderer(QByteArray(svg_text(name, colour).encode()))
    pixels = QPixmap(round((size + gap) * ratio), round(size * ratio))
    pixels.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixels)
    renderer.render(painter, QRectF(0, 0, pixels.height(), pixels.height()))
    painter.end()
    pixels.setDevicePixelRatio(ratio)
    return pixels


def pixmap(name: str, colour: str = "dim", size: int = SIZE, ratio: float = 1.0) -> QPixmap:
    """One icon in the colour of a token, `size` logical pixels wide, for a screen with that pixel ratio."""
    return _pixmap(name, theme().colour(colour).name(), size, ratio)


def icon(name: str, colour: str = "dim", size: int = SIZE, gap: int = 0) -> QIcon:
    """An icon in the colour of a token, sharp at pixel ratios 1 and 2, with `gap` empty pixels at its right.

    It does not follow the theme by itself; `set_icon` makes one that does.
    """
    made = QIcon()
    faded = mix(theme().tokens.dim, theme().tokens.surface, 0.5)
    for ratio in (1.0, 2.0):
        made.addPixmap(_pixmap(name, theme().colour(colour).name(), size, ratio, gap))
        made.addPixmap(_pixmap(name, faded, size, ratio, gap), QIcon.Mode.Disabled)
    return made


class _Follower(QObject):
    """Knows which buttons and actions carry icons, and redraws them when the theme changes."""

    def __init__(self) -> None:
        super().__init__(theme())
        self._targets: weakref.WeakKeyDictionary[QAbstractButton | QAction, tuple[str, str, int, int]]
        self._targets = weakref.WeakKeyDictionary()
        theme().changed.connect(self._redraw)

    def add(self, target: QAbstractButton | QAction, name: str, colour: str, size: int, gap: int) -> None:
        self._targets[target] = (name, colour, size, gap)
        target.setIcon(icon(name, colour, size, gap))

    def _redraw(self) -> None:
        for target, (name, colour, size, gap) in list(self._targets.items()):
            if shiboken6.isValid(target):
                target.setIcon(icon(name, colour, size, gap))


_follower: list[_Follower] = []


def set_icon(
    target: QAbstractButton | QAction, name: str, colour: str = "text", size: int = SIZE, gap: int = 0
) -> None:
    """Give a button or action an icon that follows the theme, with `gap` pixels between it and the text."""
    if not _follower:
        _follower.append(_Follower())
    if isinstance(target, QAbstractButton):
        target.setIconSize(QSize(size + gap, size))
    _follower[0].add(target, name, colour, size, gap)
