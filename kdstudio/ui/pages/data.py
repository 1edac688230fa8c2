"""Data: the rows of the project, a million of them if need be, and everything that is done to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QDialog, QSplitter, QStackedWidget, QVBoxLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.project.content import KINDS, Kind, Status
from kdstudio.project.table import RowQuery, Sort
from kdstudio.ui.pages import Page
from kdstudio.ui.recipe_offer import ROUNDS, Offer, Offered
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.data_actions import RowActions
from kdstudio.ui.widgets.data_bars import KIND_WORDS, DataToolbar, FilterBar, Footer
from kdstudio.ui.widgets.data_filter import read_filter
from kdstudio.ui.widgets.data_inspector import PREVIEW, Inspector
from kdstudio.ui.widgets.data_judges import JudgeStrip
from kdstudio.ui.widgets.data_menu import row_menu
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.funnel_panel import FunnelPanel
from kdstudio.ui.widgets.row_table import RowTableView
from kdstudio.ui.widgets.row_table_feed import RowFeed
from kdstudio.ui.widgets.wording import number, plural

_INSPECTOR_SHARE = (720, 340)


class DataPage(Page):
    """A toolbar, a search, the table with its inspector, and a footer."""

    key: ClassVar[str] = "data"

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(session, parent)
        self._counts: dict[tuple[str, str], int] = {}
        self.toolbar = DataToolbar()
        self.filter = FilterBar()
        self.table = RowTableView(self._full_text)
        self.feed = RowFeed(self.table, self.isVisible)
        self.inspector = Inspector(session)
        self.footer = Footer()
        self.funnel = FunnelPanel(session)
        self.judges = JudgeStrip(session, self.isVisible)
        self.actions_ = RowActions(session, self.table)
        self._build()
        self._connect()
        self._open_project()

    # ----------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        self.empty = EmptyState("table", "", "", self._act_on_empty, name="data_empty")
        self.stack = QStackedWidget()
        left = QWidget()
        column = QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(6)
        column.addWidget(self.table, 1)
        column.addWidget(self.footer)
        self.splitter = QSplitter(Qt.Orientation.Horizontal)
        self.splitter.setObjectName("data_splitter")
        self.splitter.setHandleWidth(8)
        self.splitter.addWidget(left)
        self.splitter.addWidget(self.inspector)
        self.splitter.setCollapsible(0, False)
        self.splitter.setStretchFactor(0, 3)
        self.splitter.setStretchFactor(1, 2)
        self.splitter.setSizes(list(_INSPECTOR_SHARE))
        left.setMinimumWidth(430)
        self.inspector.setMinimumWidth(334)
        self.stack.addWidget(self.splitter)
        self.stack.addWidget(self.empty)
        self.content.setSpacing(8)
        self.content.addWidget(self.toolbar)
        self.content.addWidget(self.filter)
        self.content.addWidget(self.funnel)
        self.content.addWidget(self.judges)
        self.content.addWidget(self.stack, 1)

    def _connect(self) -> None:
        session = self.session
        session.project_closing.connect(self._close_project)
        session.project_changed.connect(self._open_project)
        session.rows_changed.connect(self.feed.refresh_soon)
        self.feed.asked.connect(self._asked)
        self.feed.found.connect(self._found)
        self.feed.failed.connect(self._failed)
        self.toolbar.kinds.chosen.connect(self.show_kind)
        self.toolbar.importing.clicked.connect(lambda _checked=False: self.import_file())
        self.toolbar.exporting.clicked.connect(self.export_file)
        self.toolbar.generate.clicked.connect(lambda _checked=False: self.generate())
        self.filter.changed.connect(self._filter_changed)
        self.filter.left.connect(self.table.setFocus)
        self.table.key_pressed.connect(self._key)
        self.table.sort_wanted.connect(self._sort)
        self.table.chosen_changed.connect(self._chosen_changed)
        self.table.menu_wanted.connect(self._show_menu)
        self.table.rows.edited.connect(lambda row_id, text: self.actions_.edit(self.query.kind, row_id, text))
        self.inspector.saved.connect(lambda kind, row_id, text: self.actions_.edit(cast("Kind", kind), row_id, text))
        self.inspector.decided.connect(lambda status: self.actions_.decide(cast("Status", status)))
        self.inspector.failed.connect(self.show_error)
        self.footer.all_decided.connect(lambda status: self.actions_.decide_all(cast("Status", status)))
        self.actions_.failed.connect(self.show_error)
        self.funnel.failed.connect(self.show_error)
        self.judges.failed.connect(self.show_error)
        self.judges.differing_wanted.connect(self.show_differing)
        self.actions_.working.connect(self.footer.show_working)
        find = QShortcut(QKeySequence.StandardKey.Find, self)
        find.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        find.activated.connect(self._find)

    # ------------------------------------------------------------------------------------------------ project
    def _open_project(self) -> None:
        project = self.session.project
        self.filter.show_filter("", "")
        if project is None:
            self._show_empty()
            return
        self._counts = project.rows.counts()
        self.funnel.open_project()
        self.judges.open_project()
        self.feed.open(project.folder)
        self.show_kind("response" if self._total("response") else "prompt")

    def _close_project(self) -> None:
        self.funnel.close_run()
        self.inspector.show_nothing()
        self.feed.close()

    @property
    def query(self) -> RowQuery:
        """Which rows are shown, or looked for."""
        return self.feed.query

    def _full_text(self, row_id: int) -> str | None:
        """The whole text of a row; one look-up by its primary key."""
        project = self.session.project
        if project is None:
            return None
        return project.rows.prompt(row_id).text if self.query.kind == "prompt" else project.rows.response(row_id).text

    # ------------------------------------------------------------------------------------------------- looking
    def show_kind(self, kind: str) -> None:
        """Show prompts, responses or preferences, with the filter as it is."""
        chosen = cast("Kind", kind)
        self.toolbar.kinds.choose(chosen)
        self.table.rows.clear(chosen)
        self.feed.query = replace(self.query, kind=chosen, sort="id", descending=False)
        self.table.show_sort("id", descending=False)
        self.judges.show_kind(kind)
        self._filter_changed()

    def show_differing(self, key: str) -> None:
        """Show the rows on which a judge's criterion and the person differ."""
        self.filter.show_filter(f'differs:"{key}"', "")
        self._filter_changed()

    def _filter_changed(self) -> None:
        found = read_filter(self.filter.search.text())
        status = self.filter.status.value() or found.status
        fault = found.fault
        if found.teacher and self.query.kind != "response":
            fault = "Only responses have a teacher."
        self.footer.show_fault(fault)
        wanted = replace(self.query, search=found.search, tag=found.tag, teacher=found.teacher, run=found.run)
        self.feed.ask(replace(wanted, status=status, differs=found.differs))

    def _sort(self, sort: Sort, descending: bool) -> None:
        self.feed.ask(replace(self.query, sort=sort, descending=descending))

    def _asked(self) -> None:
        self.footer.show_busy(busy=True)
        self._show_counts()

    def _found(self) -> None:
        self.footer.show_busy(busy=False)
        self._show_empty()
        self._chosen_changed()
        self.inspector.refresh()

    def _failed(self, error: KnownError) -> None:
        self.footer.show_busy(busy=False)
        self.show_error(error)

    def _show_counts(self) -> None:
        project = self.session.project
        self._counts = project.rows.counts() if project is not None else {}
        self.toolbar.kinds.show_counts(self._counts)

    def _total(self, kind: Kind) -> int:
        return sum(count for (one, _), count in self._counts.items() if one == kind)

    # --------------------------------------------------------------------------------------------- empty states
    def _show_empty(self) -> None:
        """Say what is missing instead of an empty table, with the one thing to do about it."""
        project, kind = self.session.project, self.query.kind
        for one in (self.toolbar.importing, self.toolbar.exporting, self.toolbar.generate):
            one.setEnabled(project is not None)
        self.toolbar.exporting.setEnabled(project is not None and any(self._counts.values()))
        self.filter.setVisible(project is not None and bool(self._total(kind)))
        self.stack.setCurrentIndex(0 if len(self.table.rows.ids) else 1)
        if project is None:
            self.toolbar.kinds.show_counts({})
            self.empty.say("Rows belong to a project. Open or create one first.", "Go to Home")
        elif self._total(kind):
            fault = self.footer.fault.text()
            self.empty.say(f"No {KIND_WORDS[kind].lower()} match this filter. {fault}".strip(), "Clear the filter")
        elif kind == "prompt":
            self.empty.say("No prompts yet. Import or drop a file, or let a recipe make some: Generate.", "Import…")
        elif kind == "preference":
            self.empty.say("No preferences yet. They come from files with a chosen and a rejected answer.", "Import…")
        elif self._total("prompt"):
            self.empty.say("No answers yet. Let a teacher answer your prompts, or import answers.", "Generate…")
        else:
            self.empty.say("No rows yet. Import a file with prompts or conversations, or drop it here.", "Import…")

    def _act_on_empty(self) -> None:
        word = self.empty.action.text()
        if word == "Go to Home":
            self.session.go("home")
        elif word == "Clear the filter":
            self.filter.show_filter("", "")
            self._filter_changed()
        elif word == "Generate…":
            self.generate()
        else:
            self.import_file()

    # -------------------------------------------------------------------------------------------------- choice
    def _chosen_changed(self) -> None:
        chosen = self.table.chosen_count()
        self.footer.show_rows(len(self.table.rows.ids), self._total(self.query.kind))
        self.inspector.show_row(self.query.kind, self.table.current_id(), chosen)
        self.session.selection_said.emit(self.selection_words())

    def selection_words(self) -> str:
        """`5 000 responses · 1 selected`."""
        if self.session.project is None or not len(self.table.rows.ids):
            return ""
        words = plural(len(self.table.rows.ids), self.query.kind)
        chosen = self.table.chosen_count()
        return f"{words} · {number(chosen)} selected" if chosen else words

    def _find(self) -> None:
        self.filter.search.setFocus()
        self.filter.search.selectAll()

    def _key(self, name: str) -> None:
        match name:
            case "accept":
                self.actions_.decide("accepted")
            case "reject":
                self.actions_.decide("rejected")
            case "reset":
                self.actions_.decide("pending")
            case "reason":
                self.ask_reason()
            case "edit":
                self._edit_in_place()
            case "preview":
                self.toggle_preview()
            case "copy":
                self.actions_.copy()

    def _edit_in_place(self) -> None:
        if not self.table.edit_current() and self.table.current_place() >= 0:
            self.session.say("A preference is not edited: reject it, or edit the responses", "idle")

    def toggle_preview(self) -> None:
        """Show the inspector's preview, or hide the inspector when it is shown already."""
        if self.inspector.isVisible() and self.inspector.tabs.currentIndex() == PREVIEW:
            self.inspector.hide()
        else:
            self.inspector.show()
            self.inspector.tabs.setCurrentIndex(PREVIEW)

    def ask_reason(self) -> None:
        """Reject the chosen rows with a reason."""
        from kdstudio.ui.widgets.data_reason import ReasonSheet

        chosen = self.table.chosen_count()
        if chosen:
            sheet = ReasonSheet(chosen, self)
            sheet.given.connect(lambda reason: self.actions_.decide("rejected", reason))
            sheet.open()

    def _show_menu(self, at: QPoint) -> None:
        chosen = self.table.chosen_count()
        if chosen:
            menu = row_menu(self, chosen, editable=self.table.rows.editable_column() >= 0, act=self._key)
            menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            menu.popup(at)

    # ------------------------------------------------------------------------------------------------- dialogs
    def import_file(self, path: Path | None = None) -> None:
        """Open the import dialog, with a file if one was dropped."""
        from kdstudio.ui.widgets.data_import import ImportDialog

        if self.session.project is None:
            self.show_error(
                KnownError("No project is open", "Rows belong to a project.", "Open or create one on Home.")
            )
            return
        dialog = ImportDialog(self.session, self)
        dialog.imported.connect(self.show_kind)
        if path is not None:
            dialog.set_path(path)
        self._open(dialog)

    def export_file(self) -> None:
        """Open the export dialog for the kind that is shown."""
        from kdstudio.ui.widgets.data_export import ExportDialog

        self._open(ExportDialog(self.session, self.query.kind, self.query.status, self))

    def generate(self, family: str = "") -> None:
        """Open the gallery of recipes, at a family."""
        from kdstudio.ui.widgets.data_generate import GenerateDialog

        if self.session.project is None:
            return
        dialog = GenerateDialog(self.session, self)
        dialog.gallery.wanted = family
        dialog.started.connect(self._generating)
        dialog.rounds_chosen.connect(self._set_up_rounds)
        self._open(dialog)

    def _set_up_rounds(self, offered: Offered, offer: Offer) -> None:
        """A recipe with rounds was chosen: it is set up in a sheet of its own."""
        from kdstudio.ui.widgets.rounds_sheet import RoundsSheet

        if offered.rounds is not None:
            sheet = RoundsSheet(self.session, offered.rounds, offer, self)
            sheet.left.connect(lambda: self.generate(ROUNDS))
            self._open(sheet)

    def _generating(self, run_id: str, kind: str) -> None:
        """A recipe runs: its rows come in below its funnel."""
        self.show_kind(kind)
        self.funnel.show_run(run_id)

    def _open(self, dialog: QDialog) -> None:
        self.banner.dismiss()
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.open()

    def take_files(self, paths: list[Path]) -> None:
        """A file was dropped on the window."""
        self.import_file(paths[0])

    def shown_with(self, arguments: dict[str, Any]) -> None:
        """`kind`, `status`, `search` narrow the rows, `funnel` shows a run; `importing`, `generating` open dialogs."""
        if self.session.project is not None and arguments.get("kind") in KINDS:
            self.filter.show_filter(str(arguments.get("search", "")), str(arguments.get("status", "")))
            self.show_kind(str(arguments["kind"]))
        else:
            self.feed.catch_up()
        self.judges.catch_up()
        if arguments.get("funnel"):
            self.funnel.show_run(str(arguments["funnel"]))
        if arguments.get("importing"):
            self.import_file()
        if arguments.get("generating"):
            self.generate(str(arguments.get("family", "")))
        self.table.setFocus()
