"""`make screenshots`: every page in light and dark, rendered offscreen from a real project with real content.

    python packaging/screenshots.py [--project NAME.kdstudio] [--out DIR] [--pages home,chat] [--size 1280x820]

Without `--project` the demo makes one first (minutes): its rows, curves, figures and files are what the pages show. A
copy is opened, so that the project itself is left as it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PySide6.QtGui import QPixmap

    from kdstudio.ui.main_window import MainWindow
    from kdstudio.ui.theme import Choice

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "kdstudio" / "resources" / "screenshots"
SIZE = (1280, 820)
SETTLE_SECONDS = 1.2
CHAT_SECONDS = 120.0
CHAT_MESSAGES = ("a brave mouse", "a frozen whale")


def settle(window: MainWindow, seconds: float = SETTLE_SECONDS) -> None:
    """Let timers, queries and plots come to rest."""
    from PySide6.QtTest import QTest

    from kdstudio.ui.job_bridge import wait_for_background

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QTest.qWait(50)
    wait_for_background(10.0)
    QTest.qWait(100)
    window.repaint()


def show(window: MainWindow, key: str) -> None:
    """Bring a page to the front: `train` with the newest finished run, `train_setup` with the forms of a new one.

    `generate` is the gallery of recipes over the rows.
    """
    finished = [run.id for run in window.session.runs("train") if run.state == "finished"]
    if key == "train" and finished:
        window.show_page("train", {"run": finished[0]})
    elif key == "train_setup":
        window.show_page("train", {"new": True})
    elif key == "generate":
        window.show_page("data", {"generating": True})
    else:
        window.show_page(key)


def grab(window: MainWindow) -> QPixmap:
    """The window, and the dialog that is open over it; that is closed then."""
    from PySide6.QtGui import QColor, QPainter
    from PySide6.QtWidgets import QApplication, QDialog

    pixels, dialog = window.grab(), QApplication.activeModalWidget()
    if isinstance(dialog, QDialog):
        over = dialog.grab()
        painter = QPainter(pixels)
        painter.fillRect(pixels.rect(), QColor(0, 0, 0, 90))
        painter.drawPixmap((pixels.width() - over.width()) // 2, (pixels.height() - over.height()) // 2, over)
        painter.end()
        dialog.reject()
    return pixels


def render_page(window: MainWindow, key: str, theme: Choice, path: Path, size: tuple[int, int] = SIZE) -> Path:
    """Bring a page to the front in a theme and write the whole window as a PNG of `size` pixels."""
    window.resize(*size)
    window.set_theme(theme)
    show(window, key)
    window.stack.setFocus()
    settle(window)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not grab(window).save(str(path)):
        raise SystemExit(f"{path} could not be written")
    return path


def chat(window: MainWindow) -> None:
    """Hold a real conversation, so that the chat page has something to show."""
    from PySide6.QtTest import QTest

    from kdstudio.ui.pages.chat import ChatPage

    window.show_page("chat")
    page = window.page("chat")
    assert isinstance(page, ChatPage)
    settle(window)
    for message in CHAT_MESSAGES:
        page.message.setPlainText(message)
        page.send()
        end = time.monotonic() + CHAT_SECONDS
        QTest.qWait(300)
        while page.busy() and time.monotonic() < end:
            QTest.qWait(100)


def make_project(folder: Path) -> Path:
    """The demo's project: the whole way on the sample teacher, in a process of its own."""
    command = [sys.executable, "-m", "kdstudio", "demo", "--out", str(folder / "Story starter")]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder / "Story starter.kdstudio"


def copy_of(project: Path, home: Path) -> Path:
    """A copy in a folder that reads well in a title, without the checkpoints, which no page shows."""
    target = home / "Documents" / project.name
    shutil.copytree(project, target, ignore=shutil.ignore_patterns("checkpoints", "project.lock*", "open"))
    return target


def move_teachers(project: Path, home: Path) -> None:
    """Let teachers that are files lie where a person's do, so that no picture shows a path of this machine."""
    from kdstudio.project import Project

    models = home / ".local" / "share" / "kdstudio" / "models"
    models.mkdir(parents=True, exist_ok=True)
    with Project.open(project) as opened:
        for stored in opened.teachers.list():
            source = Path(stored.spec.path)
            if stored.spec.path and source.is_file():
                target = models / source.name
                if not target.exists():
                    shutil.copyfile(source, target)
                opened.teachers.remove(stored.spec.name)
                opened.teachers.add(replace(stored.spec, path=str(target)), stored.capabilities)


def open_window(project: Path, size: tuple[int, int]) -> MainWindow:
    """Start the window on that project and wait until it is open."""
    from PySide6.QtTest import QTest

    from kdstudio.ui.app import start

    _, window = start([str(project)])
    end = time.monotonic() + 30
    while window.session.project is None and time.monotonic() < end:
        QTest.qWait(50)
    if window.session.project is None:
        raise SystemExit(f"{project} could not be opened: {window.banner.title.text()} {window.banner.detail.text()}")
    window.resize(*size)
    window.session.remember("chatted")
    return window


def render_all(
    window: MainWindow, out: Path, pages: list[str], size: tuple[int, int], say: Callable[[str], None]
) -> None:
    """All pages in both themes, as `{page}_{theme}.png`."""
    themes: tuple[Choice, ...] = ("light", "dark")
    for key in pages:
        for theme in themes:
            say(str(render_page(window, key, theme, out / f"{key}_{theme}.png", size)))


def main() -> int:
    """Read the arguments, make or copy a project, render."""
    from kdstudio.ui.pages import PAGES

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, help="an existing project with finished runs")
    parser.add_argument("--out", type=Path, default=OUT)
    further = {"train": "train_setup", "data": "generate"}
    every = [name for entry in PAGES for name in (entry.key, further.get(entry.key, "")) if name]
    parser.add_argument("--pages", default=",".join(every))
    parser.add_argument("--size", default="x".join(map(str, SIZE)))
    options = parser.parse_args()
    width, _, height = options.size.partition("x")
    size = (int(width), int(height))
    with tempfile.TemporaryDirectory(prefix="kdstudio-screenshots-") as temporary:
        home = Path(temporary)
        project = (options.project or make_project(home)).resolve()
        for name in ("KDSTUDIO_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        os.environ.update(HOME=str(home), QT_QPA_PLATFORM="offscreen")
        copied = copy_of(project, home)
        move_teachers(copied, home)
        window = open_window(copied, size)
        pages = options.pages.split(",")
        if "chat" in pages:
            chat(window)
        render_all(window, options.out, pages, size, print)
        window.leave()
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
