"""Exporting rows to a file that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from PySide6.QtCore import QUrl
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QFormLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.project.content import KINDS, STATUSES, Kind
from kdstudio.project.formats import FORMATS
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_bars import KIND_WORDS
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.path_picker import PathPicker
from kdstudio.ui.widgets.wording import plural

_SUFFIXES = {".jsonl", ".csv", ".txt"}


def formats_for(kind: Kind) -> tuple[str, ...]:
    """The formats that hold rows of that kind."""
    if kind == "preference":
        return ("preference", "csv")
    return tuple(key for key in FORMATS.keys() if key != "preference")  # noqa: SIM118 - a registry, not a dict


class ExportDialog(Sheet):
    """Format, which rows, and where to."""

    def __init__(self, session: Session, kind: Kind, status: str = "", parent: QWidget | None = None) -> None:
        super().__init__(session, "export_sheet", "Export rows", "", parent)
        self._suggested = ""
        self._counts = session.project.rows.counts() if session.project is not None else {}
        self.kind = Choice(KINDS, {str(kind): words for kind, words in KIND_WORDS.items()})
        self.status = Choice(("", *STATUSES), {"": "All statuses", **{one: one.capitalize() for one in STATUSES}})
        self.format = Choice(())
        self.when = label("", "small", wrap=True, name="export_when")
        self.path = PathPicker("export_path", "File to write", kind="save")
        self.count = label("", "dim", name="export_count")
        self._build()
        self.kind.set_value(kind)
        has_accepted = bool(self._counts.get((kind, "accepted")))
        self.status.set_value(status or ("accepted" if has_accepted else ""))
        self._offer_formats()
        self.kind.changed.connect(self._offer_formats)
        self.status.changed.connect(self._show_count)
        self.format.changed.connect(self._format_changed)
        self.path.changed.connect(lambda _text: self._show_count())
        self._show_count()
        self.resize(560, self.sizeHint().height())

    def _build(self) -> None:
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        for widget, name, words in (
            (self.kind, "export_kind", "Rows"),
            (self.status, "export_status", "Status"),
            (self.format, "export_format", "Format"),
        ):
            widget.setObjectName(name)
            widget.setAccessibleName(words)
            form.addRow(words, widget)
        form.addRow("", self.when)
        form.addRow("File", self.path)
        self.body.addLayout(form)
        self.body.addWidget(self.count)
        self.cancel = self.add_cancel()
        self.start = self.add_button(
            button("Export", kind="primary", name="export_start", clicked=self._start), default=True
        )

    def _offer_formats(self) -> None:
        before, keys = self.format.value(), formats_for(cast("Kind", self.kind.value()))
        self.format.blockSignals(True)
        self.format.clear()
        for key in keys:
            self.format.addItem(FORMATS[key].label, key)
        self.format.set_value(before)
        self.format.blockSignals(False)
        self._format_changed()

    def _format_changed(self) -> None:
        self.when.setText(FORMATS[self.format.value()].when)
        self._suggest()
        self._show_count()

    def _suggest(self) -> None:
        """A name in the project's folder, until the person names one; then only its ending follows the format."""
        project, path, suffix = self.session.project, self.path.path(), FORMATS[self.format.value()].suffix
        if path is not None and str(path) != self._suggested:
            if path.suffix in _SUFFIXES:
                self.path.set_path(path.with_suffix(suffix))
        elif project is not None:
            name = f"{project.name} {KIND_WORDS[cast('Kind', self.kind.value())].lower()}{suffix}"
            self._suggested = str(project.exports_folder / name)
            self.path.set_path(self._suggested)

    def chosen_count(self) -> int:
        """How many rows that would be, by the counts kept with the rows."""
        kind, status = self.kind.value(), self.status.value()
        return sum(count for (one, state), count in self._counts.items() if one == kind and status in ("", state))

    def _show_count(self) -> None:
        count, kind = self.chosen_count(), self.kind.value()
        words = f"{plural(count, kind)} to write." if count else f"No {kind} has this status."
        if kind == "response" and count:
            words += " Answers to rejected prompts are left out."
        path = self.path.path()
        if path is not None and path.exists():
            words += " The file exists and will be replaced."
        self.count.setText(words)
        self.start.setEnabled(count > 0 and path is not None)

    def _start(self) -> None:
        project, path = self.session.project, self.path.path()
        if project is None or path is None:
            return
        from kdstudio.project.exchange import export_file

        kind, status, format_ = cast("Kind", self.kind.value()), self.status.value(), self.format.value()
        self.banner.dismiss()
        self.start.setEnabled(False)
        self.start.setText("Writing…")
        task = background(lambda: export_file(project, path, format_, kind=kind, status=status), owner=self)
        task.done.connect(lambda count: self._done(path, count))
        task.failed.connect(self._failed)

    def _done(self, path: Path, count: int) -> None:
        self.banner.show_message(
            f"{plural(count, 'row')} written",
            str(path),
            tone="good",
            action="Open the folder",
            on_action=lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(path.parent))),
        )
        self.start.setText("Export again")
        self.cancel.setText("Close")
        self._show_count()

    def _failed(self, error: KnownError) -> None:
        self.start.setText("Export")
        self.start.setEnabled(True)
        self.show_error(error)
