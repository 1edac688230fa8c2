"""When our own code fails: a dialog with a report to copy, keys blanked out, and the window goes on if it can.

`faulthandler` writes what even Python cannot catch into a file of this process; the next start finds and shows it.
"""

from __future__ import annotations

import faulthandler
import os
import platform
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from PySide6.QtCore import QObject, Signal, qVersion
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from kdstudio import __version__, secrets, settings
from kdstudio.ui import style
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label

_fault_file: list[IO[str]] = []


def report(error_text: str) -> str:
    """What to send us: versions, system and the trace; no keys, and the home folder as `~`."""
    head = f"KD Studio {__version__} · Python {platform.python_version()} · Qt {qVersion()} · {platform.platform()}"
    text = f"{head}\n\n{error_text.strip()}\n"
    return secrets.redact(text.replace(str(Path.home()), "~"))


class CrashDialog(QDialog):
    """Says that something unexpected happened, and offers the report."""

    def __init__(self, error_text: str, *, earlier: bool = False, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("crash_dialog")
        self.setWindowTitle("KD Studio")
        self.resize(680, 420)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(18, 16, 18, 14)
        layout.setSpacing(10)
        what = "KD Studio ended unexpectedly last time" if earlier else "Something unexpected happened"
        layout.addWidget(label(what, "title"))
        words = (
            "Your project is safe: every change is written at once, and running jobs go on by themselves. "
            "Please copy this report and send it to us; keys are blanked out."
        )
        layout.addWidget(label(words, "dim", wrap=True))
        self.text = QPlainTextEdit(report(error_text))
        self.text.setObjectName("crash_text")
        self.text.setAccessibleName("Report")
        self.text.setReadOnly(True)
        self.text.setFont(style.mono_font(8.5))
        layout.addWidget(self.text, 1)
        actions = QHBoxLayout()
        actions.addWidget(button("Copy report", icon="copy", name="crash_copy", clicked=self._copy))
        actions.addStretch(1)
        if not earlier:
            actions.addWidget(button("Quit", name="crash_quit", clicked=QGuiApplication.quit))
        actions.addWidget(button("Continue", kind="primary", name="crash_continue", clicked=self.accept))
        layout.addLayout(actions)

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(self.text.toPlainText())


class CrashGuard(QObject):
    """Takes `sys.excepthook`; errors of any thread reach the dialog in the window's thread, one at a time."""

    caught = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._open: CrashDialog | None = None
        self.caught.connect(self._show)

    def install(self) -> None:
        """Catch from now on, in every thread."""
        import threading

        sys.excepthook = self._hook
        threading.excepthook = lambda args: self._hook(
            args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback
        )

    def _hook(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            QGuiApplication.quit()
            return
        text = "".join(traceback.format_exception(kind, error, trace))
        sys.stderr.write(secrets.redact(text))
        self.caught.emit(text)

    def _show(self, text: str) -> None:
        if self._open is not None and self._open.isVisible():
            return  # one report at a time; the rest is on stderr
        self._open = CrashDialog(text)
        self._open.setModal(False)
        self._open.show()


def watch_for_faults() -> str:
    """Let `faulthandler` write into a file of this process; returns what an earlier one that died left ("" if none)."""
    folder = settings.data_folder() / "faults"
    found = ""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(folder.glob("*.txt")):
            if not _alive(path.stem):
                found = path.read_text("utf-8", "replace").strip() or found
                path.unlink()
        _fault_file[:] = [(folder / f"{os.getpid()}.txt").open("w", encoding="utf-8")]
        faulthandler.enable(_fault_file[0])
    return found


def _alive(pid: str) -> bool:
    import psutil

    return pid.isdigit() and psutil.pid_exists(int(pid))


def end_watch() -> None:
    """A good end: nothing to report."""
    faulthandler.disable()
    for stream in _fault_file:
        stream.close()
        Path(stream.name).unlink(missing_ok=True)
    _fault_file.clear()
