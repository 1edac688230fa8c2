"""Facts about a row as a two-column table: hashes and names break where they must, and all of it can be copied."""

from __future__ import annotations

from html import escape

from PySide6.QtGui import QTextOption
from PySide6.QtWidgets import QTextBrowser, QWidget

from kdstudio.ui import style
from kdstudio.ui.theme import theme

MONO = ("Recipe hash", "Run", "Fingerprint")


class FactsView(QTextBrowser):
    """Shows pairs of a name and a value; values are text, whatever they hold."""

    def __init__(self, name: str = "data_facts", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.setAccessibleName("Where the row comes from")
        self.setProperty("role", "plain")
        self.setOpenLinks(False)
        self.setWordWrapMode(QTextOption.WrapMode.WrapAtWordBoundaryOrAnywhere)
        self.document().setDocumentMargin(10)
        self._facts: tuple[tuple[str, str], ...] = ()
        theme().changed.connect(self._render)

    def show_facts(self, facts: tuple[tuple[str, str], ...]) -> None:
        """Show these."""
        self._facts = facts
        self._render()

    def _render(self) -> None:
        dim = theme().tokens.dim
        mono = style.mono_font().families()[0]
        rows = []
        for name, value in self._facts:
            look = f"font-family: '{mono}'; font-size: 9pt;" if name in MONO else ""
            rows.append(
                f"<tr><td style='color: {dim}; padding: 3px 16px 3px 0; white-space: nowrap'>{escape(name)}</td>"
                f"<td style='padding: 3px 0; {look}'>{escape(value)}</td></tr>"
            )
        self.setHtml(f"<table cellspacing='0'>{''.join(rows)}</table>")
