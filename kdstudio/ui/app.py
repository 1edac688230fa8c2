"""Starting the window: fonts and theme, the frame, first paint, and only then the last project.

Nothing heavy is imported here; the pages are imported when they are first shown, plots and models never at start-up.
"""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QGuiApplication, QIcon, QPixmap
from PySide6.QtWidgets import QApplication

from kdstudio import __version__
from kdstudio.ui import crash, style
from kdstudio.ui.job_bridge import wait_for_background
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.session import Session
from kdstudio.ui.theme import theme

# A background thread that computes gives the interpreter's lock back after this long. At Python's own 5 ms each of the
# hundred calls that painting a table takes may wait so long, which freezes the window; measured: 700 ms against 70.
_SWITCH_SECONDS = 0.0005
DESKTOP_ID = "io.github.kdstudio.KDStudio"


def make_application(arguments: list[str]) -> QApplication:
    """The Qt application with our fonts; reuses one that exists."""
    running = QApplication.instance()
    if isinstance(running, QApplication):
        return running
    sys.setswitchinterval(_SWITCH_SECONDS)
    QGuiApplication.setHighDpiScaleFactorRoundingPolicy(Qt.HighDpiScaleFactorRoundingPolicy.PassThrough)
    QGuiApplication.setDesktopFileName(DESKTOP_ID)
    app = QApplication([sys.argv[0], *arguments])
    app.setApplicationName("KD Studio")
    app.setApplicationVersion(__version__)
    app.setStyle("Fusion")
    style.load_fonts()
    app.setWindowIcon(_window_icon())
    return app


def start(arguments: list[str]) -> tuple[QApplication, MainWindow]:
    """Build and show the window; the project is opened after the first paint."""
    app = make_application(arguments)
    session = Session()
    theme().set_choice(session.settings.theme)
    window = MainWindow(session)
    session.setParent(window)
    app.commitDataRequest.connect(lambda _manager: window.leave())
    window.show()
    QTimer.singleShot(0, window, lambda: _open_first(window, arguments))
    return app, window


def main(arguments: list[str] | None = None) -> int:
    """`kdstudio [PROJECT]`: run the window until it is closed; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    guard = crash.CrashGuard(make_application(words))
    guard.install()
    found = crash.watch_for_faults()
    app, window = start(words)
    signal.signal(signal.SIGINT, lambda _number, _frame: app.quit())
    QTimer.singleShot(0, window, _settle)
    if found:
        QTimer.singleShot(0, window, lambda: crash.CrashDialog(found, earlier=True, parent=window).open())
    code = app.exec()
    window.session.close()
    wait_for_background(5.0)
    crash.end_watch()
    return code


def _settle() -> None:
    """What start-up made stays for the whole session: no later collection need walk through it."""
    gc.collect()
    gc.freeze()


def _open_first(window: MainWindow, arguments: list[str]) -> None:
    """The project that was named, else the last one that still exists, else none."""
    if arguments:
        window.open_project(Path(arguments[0]).expanduser())
        return
    recent = [Path(item) for item in window.session.settings.recent_projects[:1]]
    if recent and recent[0].is_dir():
        window.session.open_project(recent[0]).failed.connect(window.banner.show_error)


def _window_icon() -> QIcon:
    from importlib import resources

    picture = QPixmap()
    picture.loadFromData(resources.files("kdstudio").joinpath("resources", "icons", "kdstudio.png").read_bytes())
    return QIcon(picture)
