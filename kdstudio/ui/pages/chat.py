"""Chat: the student beside its teacher, streaming, with tokens per second. The models run in a child process."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QApplication, QHBoxLayout, QLineEdit, QScrollArea, QStackedWidget, QVBoxLayout, QWidget

from kdstudio import secrets
from kdstudio.errors import KnownError
from kdstudio.registry import Parameter
from kdstudio.ui.chat_models import ChatChoices, ChatModel, file_model, read_choices
from kdstudio.ui.chat_process import ChatProcess
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.pages import Page
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.chat_turn import ChatTurn
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.fields import Number, WholeNumber
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.message_edit import MessageEdit
from kdstudio.ui.widgets.model_picker import ModelPicker

ROLES = ("student", "teacher")


class ChatPage(Page):
    """Two pickers, a transcript and a message box. The server starts with the first message and stays loaded."""

    key: ClassVar[str] = "chat"

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self.server = ChatProcess(self)
        self._numbers = itertools.count(1)
        self._turns: list[ChatTurn] = []
        self._open: dict[str, tuple[ChatTurn, str]] = {}
        self._stopped: set[str] = set()
        self._loaded: dict[str, ChatModel] = {}
        self._reading: Task | None = None
        self._suggested: tuple[str, ...] = ()
        self.pickers = {role: ModelPicker(f"chat_{role}", role.capitalize()) for role in ROLES}
        self._build()
        self._connect()
        self.reload()

    # ---------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        bar = QHBoxLayout()
        bar.setSpacing(8)
        for role, picker in self.pickers.items():
            bar.addWidget(label(role.capitalize(), "dim"))
            bar.addWidget(picker, 1)
        self.temperature = Number(Parameter("temperature", "float", 0.0, "", 0.0, 2.0))
        self.limit = WholeNumber(Parameter("max_tokens", "int", 256, "", 1, 32768))
        self.limit.setValue(256)
        for words, field in (("Temperature", self.temperature), ("Limit", self.limit)):
            caption = label(words, "dim")
            caption.setBuddy(field)
            bar.addWidget(caption)
            bar.addWidget(field)
        self.temperature.setObjectName("chat_temperature")
        self.temperature.setAccessibleName("Temperature")
        self.temperature.setToolTip("0 always takes the likeliest token; 1 samples freely.")
        self.temperature.setFixedWidth(74)
        self.limit.setObjectName("chat_limit")
        self.limit.setAccessibleName("Most tokens an answer may have")
        self.limit.setToolTip("An answer longer than this many tokens is cut off.")
        self.limit.setFixedWidth(82)
        self.clear_button = button("Clear", icon="trash", name="chat_clear", clicked=self.clear)
        bar.addWidget(self.clear_button)
        self.content.addLayout(bar)
        self.system = QLineEdit()
        self.system.setObjectName("chat_system")
        self.system.setAccessibleName("System message")
        self.system.setPlaceholderText("System message (optional): what the model is told about its job")
        self.content.addWidget(self.system)
        self.content.addWidget(self._transcript(), 1)
        self.content.addLayout(self._message_row())

    def _transcript(self) -> QWidget:
        self.stack = QStackedWidget()
        self.empty = EmptyState("message-circle", "", "Choose a file…", self._ask_file, name="chat_empty")
        self.suggestions = QHBoxLayout()
        self.suggestions.setSpacing(8)
        first = QWidget()
        column = QVBoxLayout(first)
        column.addWidget(self.empty, 1)
        column.addLayout(self.suggestions)
        inside = QWidget()
        inside.setProperty("role", "scrolled")
        self.column = QVBoxLayout(inside)
        self.column.setContentsMargins(0, 0, 6, 0)
        self.column.setSpacing(12)
        self.column.addStretch(1)
        self.area = QScrollArea()
        self.area.setWidgetResizable(True)
        self.area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.area.setWidget(inside)
        self.area.verticalScrollBar().rangeChanged.connect(self._follow)
        self.stack.addWidget(first)
        self.stack.addWidget(self.area)
        return self.stack

    def _message_row(self) -> QHBoxLayout:
        row = QHBoxLayout()
        row.setSpacing(8)
        self.message = MessageEdit()
        self.send_button = button("Send", icon="send", kind="primary", name="chat_send", clicked=self.send)
        self.stop_button = button("Stop", icon="stop", name="chat_stop", clicked=self.stop)
        self.stop_button.hide()
        row.addWidget(self.message, 1)
        row.addWidget(self.send_button, 0, Qt.AlignmentFlag.AlignBottom)
        row.addWidget(self.stop_button, 0, Qt.AlignmentFlag.AlignBottom)
        return row

    def _connect(self) -> None:
        self.message.sent.connect(self.send)
        self.message.escaped.connect(self.stop)
        for picker in self.pickers.values():
            picker.picked.connect(self._picked)
        self.server.ready.connect(self._model_ready)
        self.server.delta.connect(self._grow)
        self.server.done.connect(self._done)
        self.server.failed.connect(self._failed)
        self.server.died.connect(self._died)
        self.session.project_changed.connect(self._project_changed)
        self.session.teachers_changed.connect(self.reload)
        app = QApplication.instance()
        if app is not None:
            app.aboutToQuit.connect(self.server.stop)
        self.destroyed.connect(self.server.stop)

    # -------------------------------------------------------------------------------------------- what to ask
    def shown_with(self, arguments: dict[str, Any]) -> None:
        """`student=` is a GGUF file to chat with, as the Export page's "Open in Chat" gives it."""
        if arguments.get("student"):
            self.pickers["student"].choose(file_model(Path(arguments["student"])))
        self.reload()
        self.message.setFocus()

    def reload(self) -> None:
        """Look again for exports and teachers."""
        if self._reading is not None:
            self._reading.cancel()
        self._reading = background(read_choices, self.session.project, owner=self)
        self._reading.done.connect(self._show_choices)
        self._reading.failed.connect(self.show_error)

    def _show_choices(self, choices: ChatChoices) -> None:
        everything = [*choices.exports, *choices.teachers]
        self.pickers["student"].fill(everything, prefer=choices.exports[0] if choices.exports else None)
        self.pickers["teacher"].fill(everything, prefer=choices.teachers[0] if choices.teachers else None)
        if not self.system.text():
            self.system.setText(choices.system)
        self._show_suggestions(choices.suggestions)
        self._picked()

    def _show_suggestions(self, texts: tuple[str, ...]) -> None:
        if texts == self._suggested:
            return
        self._suggested = texts
        while (item := self.suggestions.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        self.suggestions.addStretch(1)
        for number, text in enumerate(texts):
            chip = button(text, name=f"chat_suggestion_{number}", clicked=partial(self._send_text, text))
            self.suggestions.addWidget(chip)
        self.suggestions.addStretch(1)

    def _project_changed(self) -> None:
        self.server.stop()
        self.system.clear()
        self.clear()
        self.reload()

    def _picked(self) -> None:
        chosen = self._chosen()
        self.send_button.setEnabled(bool(chosen) and not self._open)
        if chosen:
            names = " and ".join(model.label for model in chosen.values())
            self.empty.say(f"Ask {names} something. The models are loaded with the first message.")
        else:
            self.empty.say("Chat needs a model: export a student, or choose a GGUF file.", "Choose a file…")
        if chosen != self._loaded and self.server.running and not self._open:
            self.server.stop()

    def _chosen(self) -> dict[str, ChatModel]:
        found = {role: picker.model_chosen() for role, picker in self.pickers.items()}
        return {role: model for role, model in found.items() if model is not None}

    def _ask_file(self) -> None:
        self.pickers["student"].ask_file()

    # ------------------------------------------------------------------------------------------------ talking
    def send(self) -> None:
        """Ask the chosen models what stands in the message box."""
        self._send_text(self.message.toPlainText().strip())

    def _send_text(self, text: str) -> None:
        chosen = self._chosen()
        if not text or self._open:
            return
        if not chosen:
            self.show_error(KnownError("No model is chosen", "", "Choose a student or a teacher above."))
            return
        self.banner.dismiss()
        if not self.server.running or chosen != self._loaded:
            names = [model.key_name for model in chosen.values() if model.key_name]
            task = background(lambda: {name: secrets.find(name) for name in names}, owner=self)
            task.done.connect(lambda keys: self._start_and_ask(text, chosen, keys))
            task.failed.connect(self.show_error)
        else:
            self._ask(text, chosen)

    def _start_and_ask(self, text: str, chosen: dict[str, ChatModel], keys: dict[str, str]) -> None:
        self._loaded = chosen
        project = self.session.project
        models = [model.entry(role) for role, model in chosen.items()]
        self.server.start(models, keys, project.folder if project else None)
        self._ask(text, chosen)

    def _ask(self, text: str, chosen: dict[str, ChatModel]) -> None:
        turn = ChatTurn(text, {role: model.label for role, model in chosen.items()}, loaded=bool(self._turns))
        self.column.addWidget(turn)
        self.stack.setCurrentWidget(self.area)
        self.message.clear()
        sampling = {"temperature": self.temperature.value(), "max_tokens": self.limit.value()}
        for role in chosen:
            request = f"{role}-{next(self._numbers)}"
            self._open[request] = (turn, role)
            self.server.send(request, role, self._messages(role, text), sampling)
        self._turns.append(turn)
        self._show_busy()

    def _messages(self, role: str, text: str) -> list[dict[str, Any]]:
        """The conversation as this model knows it: its own answers, nobody else's."""
        messages: list[dict[str, Any]] = []
        if self.system.text().strip():
            messages.append({"role": "system", "content": self.system.text().strip()})
        for turn in self._turns:
            answer = turn.answers.get(role)
            if answer is not None and answer.text():
                messages.append({"role": "user", "content": turn.said})
                messages.append({"role": "assistant", "content": answer.text()})
        return [*messages, {"role": "user", "content": text}]

    def busy(self) -> bool:
        """Whether an answer is still growing."""
        return bool(self._open)

    def stop(self) -> None:
        """End the answers that are still growing; what they said stays."""
        for request in list(self._open):
            self._stopped.add(request)
            self.server.cancel(request)

    def clear(self) -> None:
        """Forget the conversation; the models stay loaded."""
        self.stop()
        self._open.clear()
        for turn in self._turns:
            self.column.removeWidget(turn)
            turn.deleteLater()
        self._turns.clear()
        self.stack.setCurrentIndex(0)
        self._show_busy()

    # ---------------------------------------------------------------------------------------------- answering
    def _model_ready(self, role: str) -> None:
        for turn, asked in self._open.values():
            if asked == role:
                turn.answers[role].say("thinking…")

    def _grow(self, request: str, piece: str) -> None:
        if request in self._open:
            turn, role = self._open[request]
            turn.answers[role].add_piece(piece)

    def _done(self, request: str, reply: dict[str, Any]) -> None:
        if request not in self._open:
            return
        turn, role = self._open.pop(request)
        stopped = request in self._stopped
        self._stopped.discard(request)
        rate, tokens = float(reply.get("tokens_per_second") or 0.0), int(reply.get("tokens") or 0)
        turn.answers[role].finish(
            str(reply.get("text", "")), tokens, rate, str(reply.get("finish_reason", "")), stopped=stopped
        )
        if role == "student" and tokens:
            self.session.remember("chatted")
        self._show_busy()

    def _failed(self, request: str, error: KnownError) -> None:
        if request in self._open:
            turn, role = self._open.pop(request)
            turn.answers[role].fail(error)
            self._show_busy()

    def _died(self, error: KnownError) -> None:
        """The server ended between two messages: say so only if a person would miss it."""
        self._loaded = {}
        if not self._turns:
            self.show_error(error)

    def _show_busy(self) -> None:
        busy = bool(self._open)
        self.stop_button.setVisible(busy)
        self.send_button.setVisible(not busy)
        self.send_button.setEnabled(bool(self._chosen()))
        self.clear_button.setEnabled(bool(self._turns))
        if not busy and self.isVisible():
            QTimer.singleShot(0, self.message, self.message.setFocus)

    def _follow(self, _low: int, high: int) -> None:
        """Keep the newest line in sight unless the person scrolled up to read."""
        bar = self.area.verticalScrollBar()
        if high - bar.value() < self.area.height() // 2 + 200:
            bar.setValue(high)
