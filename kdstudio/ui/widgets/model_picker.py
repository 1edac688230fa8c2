"""A combo of models for the chat: exports, teachers, none, or a file."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QComboBox, QFileDialog

from kdstudio.ui.chat_models import ChatModel, file_model
from kdstudio.ui.widgets.fields import ElidedCombo

_FILE = "file"


class ModelPicker(ElidedCombo):
    """`picked` follows every change of the chosen model. Keeps its choice when the list is filled anew."""

    picked = Signal()

    def __init__(self, name: str, caption: str) -> None:
        super().__init__()
        self.setObjectName(name)
        self.setAccessibleName(caption)
        self.setMinimumContentsLength(18)
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self._models: list[ChatModel] = []
        self._files: list[ChatModel] = []
        self._touched = False
        self._last = 0
        self.activated.connect(self._chosen)
        self.fill([], prefer=None)

    def model_chosen(self) -> ChatModel | None:
        """The model, or None for "None"."""
        data = self.currentData()
        return data if isinstance(data, ChatModel) else None

    def fill(self, models: list[ChatModel], *, prefer: ChatModel | None) -> None:
        """List these and the files chosen so far; a choice the person made stays, else `prefer` is chosen."""
        before = self.model_chosen()
        self._models = models
        everything = [*models, *(model for model in self._files if model not in models)]
        self.blockSignals(True)
        self.clear()
        for model in everything:
            self.addItem(model.label, model)
        self.addItem("None", None)
        self.addItem("Choose a file…", _FILE)
        wanted = before if (self._touched and before in everything) else prefer
        self.setCurrentIndex(everything.index(wanted) if wanted in everything else len(everything))
        self.blockSignals(False)
        self._last = self.currentIndex()
        if self.model_chosen() != before:
            self.picked.emit()

    def choose(self, model: ChatModel) -> None:
        """Choose a model, listing it first if it is new."""
        if model not in self._models and model not in self._files:
            self._files.append(model)
        self._touched = True
        self.fill(self._models, prefer=model)
        self.setCurrentIndex(next(i for i in range(self.count()) if self.itemData(i) == model))
        self._last = self.currentIndex()
        self.picked.emit()

    def ask_file(self) -> None:
        """Let the person choose a GGUF file."""
        chosen, _ = QFileDialog.getOpenFileName(self, "A model to chat with", str(Path.home()), "GGUF models (*.gguf)")
        if chosen:
            self.choose(file_model(Path(chosen)))
        else:
            self.setCurrentIndex(self._last)

    def _chosen(self, index: int) -> None:
        if self.itemData(index) == _FILE:
            self.ask_file()
            return
        self._touched = True
        self._last = index
        self.picked.emit()
