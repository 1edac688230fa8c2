"""Exported files as the Export page shows them: each with the figures of its check, and the model card below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtGui import QTextCursor
from PySide6.QtWidgets import QWidget

from kdstudio.files import readable_bytes
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.markdown_view import MarkdownView
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import number

_MAXIMUM_CARD_BYTES = 1 << 20
_CHECK_TIP = (
    "The file was loaded again and compared with the trained student on held-out text. F16 must choose the same token "
    "on 99 % of them; what smaller formats lose is shown, not hidden."
)


class FileRow(Card):
    """One exported file with its check and a way into Chat."""

    def __init__(
        self, item: dict[str, Any], path: Path, chat: Callable[[str], None], parent: QWidget | None = None
    ) -> None:
        """`item`: an entry of the job's `files`; `path`: where the file is now."""
        super().__init__(margin=10, parent=parent)
        key, there = str(item["quantization"]), path.exists()
        self.setObjectName(f"export_file_{key}")
        self.body.setSpacing(4)
        head = self.header
        head.setSpacing(10)
        head.addWidget(label(key, "heading"))
        head.addWidget(ElidedLabel(path.name, "dim"), 1)
        passed = bool(item.get("passed"))
        pill = Pill("passed" if passed else "missed", "good" if passed else "warn") if there else Pill("gone", "bad")
        pill.setToolTip(_CHECK_TIP if there else f"{path} is not there any more. Export it again.")
        head.addWidget(pill)
        if path.suffix == ".gguf":
            opened = button(
                "Open in Chat", icon="message-circle", name=f"export_chat_{key}", clicked=lambda: chat(str(path))
            )
            opened.setEnabled(there)
            head.addWidget(opened)
        self.body.addLayout(head)
        facts = label(" · ".join(file_facts(item)), "small", selectable=True, wrap=True)
        facts.setToolTip(_CHECK_TIP)
        self.body.addWidget(facts)
        if item.get("note"):
            self.body.addWidget(label(str(item["note"]), "small", wrap=True))


def file_facts(item: dict[str, Any]) -> list[str]:
    """Size and outcome of the check, in words."""
    facts = [readable_bytes(float(item.get("bytes", 0)))]
    if isinstance(item.get("top1_agreement"), int | float):
        facts.append(f"same first choice {item['top1_agreement']:.2%}")
    if isinstance(item.get("kl"), int | float):
        facts.append(f"KL {item['kl']:.2g} nats a token")
    if item.get("positions"):
        facts.append(f"over {number(item['positions'])} tokens")
    return facts


class ModelCard(Card):
    """The README that was written beside the files, as a reader will see it."""

    def __init__(self, name: str, show_folder: Callable[[], None], parent: QWidget | None = None) -> None:
        super().__init__("Model card", name=name, margin=14, parent=parent)
        self.path = Path()
        show = button("Show folder", icon="folder-open", name="export_show", clicked=show_folder)
        self.header.addWidget(show)
        self.view = MarkdownView(name=f"{name}_text")
        self.view.setAccessibleName("Model card")
        self.add(self.view, 1)

    def show_card(self, path: Path) -> bool:
        """Show this README without its front matter; False, and hidden, when there is none."""
        self.path = path
        try:
            text = path.read_text("utf-8") if path.stat().st_size <= _MAXIMUM_CARD_BYTES else ""
        except (OSError, UnicodeDecodeError):
            text = ""
        shown = _for_reading(text)
        if shown != self.view.text():
            self.view.set_markdown(shown)
            self.view.moveCursor(QTextCursor.MoveOperation.Start)
        self.setVisible(bool(text))
        return bool(text)


def _for_reading(text: str) -> str:
    """The card from its first heading on, in the sizes of a panel: the YAML before it is for programs."""
    if text.startswith("---\n"):
        text = text[4:].partition("\n---\n")[2].lstrip()
    lines = [f"##{line}" if line.startswith(("# ", "## ")) else line for line in text.splitlines()]
    return "\n".join("| Fact | Value |" if line == "| | |" else line for line in lines)
