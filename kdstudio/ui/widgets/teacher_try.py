"""Trying a teacher: a question, its answer as it comes, how fast, and how sure it was of each token.

The teacher is opened in a child process of its own, which ends when the panel closes.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QApplication, QHBoxLayout, QVBoxLayout, QWidget

from kdstudio import secrets
from kdstudio.errors import KnownError
from kdstudio.models.spec import TeacherSpec
from kdstudio.ui.chat_process import ChatProcess
from kdstudio.ui.job_bridge import background
from kdstudio.ui.widgets.banner import ErrorBanner
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.message_edit import MessageEdit
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.teacher_price import dollars
from kdstudio.ui.widgets.teacher_words import ENDPOINTS
from kdstudio.ui.widgets.token_text import TokenText, tokens_of
from kdstudio.ui.widgets.wording import plural, speed

ANSWER_TOKENS, ALTERNATIVES = 256, 8
_TRIES = 2  # somebody is waiting: a run tries longer
_FLUSH_MILLISECONDS = 50
_MODEL = "teacher"
_WITHOUT = {
    "openai": "This endpoint sent no log-probs with its answer, so that its tokens cannot be coloured.",
    "anthropic": "Anthropic gives no log-probs, so that its tokens cannot be coloured.",
    "scripted": "A script gives no log-probs, so that its tokens cannot be coloured.",
}


class TryPanel(QWidget):
    """`closed`: the person is done with it; `paid`: an answer cost something. Enter asks, Escape stops.

    What is asked counts as spent in the `project` folder.
    """

    closed = Signal()
    paid = Signal()

    def __init__(
        self,
        spec: TeacherSpec,
        parent: QWidget | None = None,
        *,
        project: Path | None = None,
        server: ChatProcess | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName("teacher_try_panel")
        self.spec, self.project = spec, project
        self.server = server or ChatProcess(self)
        self._numbers = itertools.count(1)
        self._open, self._stopped, self._waiting = "", False, ""
        self._pieces, self._first, self._asked_at = 0, 0.0, 0.0
        self.question = MessageEdit()
        self.ask_button = button("Ask", icon="send", kind="primary", name="teacher_try_ask", clicked=self.ask)
        self.stop_button = button("Stop", icon="stop", name="teacher_try_stop", clicked=self.stop)
        self.fault = label("", "error", wrap=True, name="teacher_try_fault")
        self.banner = ErrorBanner("teacher_try_error")
        self.pill = Pill("")
        self.figures = label("", "small", wrap=True, name="teacher_try_figures")
        self.answer = TokenText("teacher_try_answer")
        self.without = label("", "small", wrap=True, name="teacher_try_without")
        self._timer = QTimer(self)
        self._build()
        self._connect()

    def _build(self) -> None:
        self.question.setObjectName("teacher_try_question")
        self.question.setAccessibleName(f"A question for {self.spec.name}")
        self.question.setPlaceholderText("Ask it something. Enter sends it.")
        row = QHBoxLayout()
        row.setSpacing(8)
        for part in (self.question, self.ask_button, self.stop_button):
            row.addWidget(part, 1 if part is self.question else 0)
        told = QHBoxLayout()
        told.setSpacing(8)
        told.addWidget(self.pill)
        told.addWidget(self.figures, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 4, 0, 0)
        column.setSpacing(8)
        column.addLayout(row)
        column.addWidget(self.fault)
        column.addWidget(self.banner)
        column.addLayout(told)
        column.addWidget(self.answer)
        column.addWidget(self.without)
        for hidden in (self.fault, self.pill, self.figures, self.without, self.stop_button):
            hidden.hide()

    def _connect(self) -> None:
        self._timer.setSingleShot(True)
        self._timer.setInterval(_FLUSH_MILLISECONDS)
        self._timer.timeout.connect(self._flush)
        self.question.sent.connect(self.ask)
        self.question.escaped.connect(self._escaped)
        self.question.textChanged.connect(self.fault.hide)
        self.server.ready.connect(self._ready)
        self.server.delta.connect(self._grow)
        self.server.done.connect(self._done)
        self.server.failed.connect(self._failed)
        self.destroyed.connect(self.server.stop)
        if (app := QApplication.instance()) is not None:
            app.aboutToQuit.connect(self.server.stop)

    # -------------------------------------------------------------------------------------------------- asking
    @property
    def busy(self) -> bool:
        """Whether an answer is still growing."""
        return bool(self._open)

    def ask(self) -> None:
        """Ask what stands in the box; the teacher is opened with the first question."""
        text = self.question.toPlainText().strip()
        if self.busy:
            return
        if not text:
            self.fault.setText("Type a question first.")
            self.fault.show()
            self.question.setFocus()
            return
        self._begin()
        if self.server.running:
            self._send(text)
            return
        task = background(_keys_of, self.spec, owner=self)
        task.done.connect(lambda keys: self._start(text, keys))
        task.failed.connect(lambda error: self._failed(self._open, error))

    def _begin(self) -> None:
        self.banner.dismiss()
        self.without.hide()
        self.pill.hide()
        self.answer.clear()
        self._open, self._stopped, self._waiting = f"try-{next(self._numbers)}", False, ""
        self._pieces, self._asked_at = 0, time.monotonic()
        self._say("thinking…" if self.server.running else "opening it…")
        self._show_busy()

    def _start(self, text: str, keys: dict[str, str]) -> None:
        if self.busy:
            patient = {"tries": _TRIES, **self.spec.options} if self.spec.kind in ENDPOINTS else self.spec.options
            models = [{"id": _MODEL, "teacher": asdict(replace(self.spec, options=patient))}]
            self.server.start(models, keys, self.project)
            self._send(text)

    def _send(self, text: str) -> None:
        sampling = {"max_tokens": ANSWER_TOKENS, "temperature": 0.0, "log_probs": ALTERNATIVES}
        self.server.send(self._open, _MODEL, [{"role": "user", "content": text}], sampling)
        if self._stopped:
            self.server.cancel(self._open)

    def stop(self) -> None:
        """End the answer that is growing; what it said stays."""
        if self.busy:
            self._stopped = True
            self._say("stopping…")
            self.server.cancel(self._open)

    def end(self) -> None:
        """Let the teacher go: its process ends and its memory is free."""
        self._open = ""
        self.server.stop()
        self._show_busy()

    def _escaped(self) -> None:
        if self.busy:
            self.stop()
        else:
            self.closed.emit()

    # ----------------------------------------------------------------------------------------------- answering
    def _ready(self, _model: str) -> None:
        if self.busy and not self._pieces:
            self._say("thinking…")

    def _grow(self, request: str, piece: str) -> None:
        if request != self._open:
            return
        if not self._pieces:
            self._first = time.monotonic()
        self._pieces += 1
        self._waiting += piece
        if not self._timer.isActive():
            self._timer.start()

    def _flush(self) -> None:
        piece, self._waiting = self._waiting, ""
        if piece and self.busy:
            self.answer.append(piece)
            passed = time.monotonic() - self._first
            if passed > 0.3 and not self._stopped:
                self._say(f"{(self._pieces - 1) / passed:.0f} tokens/s")

    def _done(self, request: str, reply: dict[str, Any]) -> None:
        if request != self._open:
            return
        self._open = ""
        text, tokens = str(reply.get("text", "")), tokens_of(reply.get("log_probs") or ())
        if tokens:
            self.answer.show_tokens(tokens)
        else:
            self.answer.show_text(text)
            self._say_without(text)
        self._say(self._figures(reply))
        word = "stopped" if self._stopped else {"length": "cut at the limit"}.get(str(reply.get("finish_reason")), "")
        self.pill.set_word(word or "answered", "idle" if self._stopped else "warn" if word else "good")
        self.pill.show()
        self._show_busy()
        if reply.get("cost") or self._stopped:
            self.paid.emit()

    def _say_without(self, text: str) -> None:
        words = _WITHOUT.get(self.spec.kind, "It gave no log-probs, so that its tokens cannot be coloured.")
        if self._stopped:
            words = "It was stopped: the log-probs of an answer come with its end."
        self.without.setText(words if text or self._stopped else "It said nothing.")
        self.without.show()

    def _figures(self, reply: dict[str, Any]) -> str:
        rate, count = float(reply.get("tokens_per_second") or 0.0), int(reply.get("tokens") or 0)
        cost = float(reply.get("cost") or 0.0)
        waited = f"first word after {self._first - self._asked_at:.1f} s" if self._pieces else ""
        parts = (plural(count, "token") if count else "", speed(rate) if rate else "", waited)
        return " · ".join(part for part in (*parts, dollars(cost) if cost else "") if part)

    def _failed(self, request: str, error: KnownError) -> None:
        if request != self._open or not request:
            return
        self._flush()
        self._open = ""
        self._say("")
        self.banner.show_error(error)
        self._show_busy()
        if not self.answer.view.toPlainText():
            self.server.stop()  # a teacher that did not open, or whose key was refused, is opened anew

    def _say(self, words: str) -> None:
        self.figures.setText(words)
        self.figures.setVisible(bool(words))

    def _show_busy(self) -> None:
        self.stop_button.setVisible(self.busy)
        self.ask_button.setVisible(not self.busy)
        if not self.busy and self.isVisible():
            QTimer.singleShot(0, self.question, self.question.setFocus)


def _keys_of(spec: TeacherSpec) -> dict[str, str]:
    """The secrets that it needs. Raises `KnownError` when one is nowhere."""
    if not spec.key_name:
        return {}
    found = secrets.find(spec.key_name)
    if not found:
        raise KnownError(
            "The key is missing",
            f"No API key called {spec.key_name!r} is known in this session, the keyring or the environment.",
            "Enter it under “Terms, price and key” on this card.",
        )
    return {spec.key_name: found}
