"""Comparing finished runs on the Train page: pick two or more, read who is closer to the teacher, open earlier ones.

The figures are made by `kdstudio compare PROJECT --run ...` in a process of its own, which reads the project only.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QScrollArea, QVBoxLayout, QWidget

from kdstudio import settings
from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.launchers import child_environment
from kdstudio.project import Run
from kdstudio.ui.job_bridge import Task, background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.banner import ErrorBanner
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.train_compare_report import CompareReport, ShownReport, read_reports
from kdstudio.ui.widgets.wording import ago, number

_SECONDS = 300
_WIDTH = 300
_HINT = (
    "Runs that differ in their seed alone count as one recipe. To train several on the same rows and tokens: "
    "kdstudio compare PROJECT RECIPE.toml … --seeds 3"
)


class TrainCompare(QWidget):
    """Finished runs at the left, the comparison at the right. `refresh` reads both again."""

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.session = session
        self.reports: list[ShownReport] = []
        self._boxes: dict[str, QCheckBox] = {}
        self._asked: Task | None = None
        self._wanted = ""
        self.banner = ErrorBanner("compare_banner")
        self.start = button("Compare", icon="scale", kind="primary", name="compare_start", clicked=self._start)
        self.earlier = QComboBox()
        self.earlier.setObjectName("compare_earlier")
        self.earlier.setAccessibleName("Comparison to show")
        self.report = CompareReport("compare_report")
        self.empty = EmptyState("scale", "", name="compare_empty")
        self._build()
        self.earlier.activated.connect(lambda index: self.show_report(str(self.earlier.itemData(index))))
        session.project_changed.connect(self._project_changed)
        session.run_changed.connect(self._run_changed)
        self.refresh()

    def _build(self) -> None:
        runs = Card("Finished runs", name="compare_runs", margin=12)
        runs.setFixedWidth(_WIDTH)
        self._list = QVBoxLayout()
        self._list.setSpacing(4)
        inner = QWidget()
        inner.setProperty("role", "scrolled")
        column = QVBoxLayout(inner)
        column.setContentsMargins(0, 0, 0, 0)
        column.addLayout(self._list)
        column.addStretch(1)
        runs.add(_scrolled(inner), 1)
        runs.add(label(_HINT, "small", wrap=True, selectable=True))
        runs.add(self.start)
        shown = QVBoxLayout()
        shown.setSpacing(10)
        shown.addWidget(self.banner)
        shown.addWidget(self.earlier)
        self._area = _scrolled(self.report)
        shown.addWidget(self._area, 1)
        shown.addWidget(self.empty, 1)
        for part in (self.earlier, self._area):
            part.hide()
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(12)
        layout.addWidget(runs)
        layout.addLayout(shown, 1)

    # ------------------------------------------------------------------------------------------------- showing
    def refresh(self) -> None:
        """Read the finished runs, and the comparisons of the project, again."""
        self._list_runs()
        project = self.session.project
        if project is None:
            self._take([])
            return
        task = background(read_reports, project.folder, owner=self)
        task.done.connect(self._take)
        task.failed.connect(self.banner.show_error)

    def show_report(self, identity: str) -> None:
        """Show the comparison of that id, also one whose file comes with the next `refresh`."""
        self._wanted = identity
        found = next((report for report in self.reports if report.id == identity), None)
        if found is not None:
            self.earlier.setCurrentIndex(self.earlier.findData(identity))
            self.report.show_report(found)

    def chosen(self) -> list[str]:
        """Ids of the runs that are ticked."""
        return [run_id for run_id, box in self._boxes.items() if box.isChecked()]

    def choose(self, run_ids: list[str]) -> None:
        """Tick these runs and no other."""
        for run_id, box in self._boxes.items():
            box.setChecked(run_id in run_ids)

    def _take(self, reports: list[ShownReport]) -> None:
        self.reports = reports
        self.earlier.clear()
        for report in reports:
            self.earlier.addItem(f"{report.title} · {ago(report.created)}", report.id)
        self.earlier.setVisible(len(reports) > 1)
        self._area.setVisible(bool(reports))
        self.empty.setVisible(not reports)
        if reports:
            known = {report.id for report in reports}
            self.show_report(self._wanted if self._wanted in known else reports[0].id)

    def _say_what_is_missing(self) -> None:
        few = len(self._boxes) < 2
        sentence = (
            "Tick two runs or more to see which student is closer to its teacher, and whether chance explains it."
        )
        self.empty.say("A comparison needs two finished training runs." if few else sentence)

    def _list_runs(self) -> None:
        ticked = set(self.chosen())
        for box in self._boxes.values():
            self._list.removeWidget(box)
            box.hide()
            box.deleteLater()
        runs = [run for run in self.session.runs("train") if run.state == "finished"]
        self._boxes = {run.id: self._box(run, ticked=run.id in ticked) for run in runs}
        for box in self._boxes.values():
            self._list.addWidget(box, 0, Qt.AlignmentFlag.AlignLeft)
        self._allow()
        self._say_what_is_missing()

    def _box(self, run: Run, *, ticked: bool) -> QCheckBox:
        gap = (run.result.get("final") or {}).get("held_out_forward_kl")
        seed = ((run.parameters.get("recipe") or {}).get("run") or {}).get("seed", 0)
        said = "" if run.title.endswith(f"seed {seed}") else f" · seed {seed}"
        box = QCheckBox(f"{_short(run.title)}{said}")
        box.setObjectName(f"compare_run_{run.id}")
        box.setChecked(ticked)
        facts = [
            f"seed {seed}",
            f"{number(float(run.result.get('tokens', 0)))} tokens",
            ago(run.finished or run.created),
        ]
        box.setToolTip("\n".join([run.title, *facts, *([f"held-out divergence {gap:.4f}"] if gap is not None else [])]))
        box.toggled.connect(self._allow)
        return box

    def _allow(self, _on: bool = False) -> None:
        self.start.setEnabled(len(self.chosen()) >= 2 and self._asked is None)

    def _project_changed(self) -> None:
        self._wanted = ""
        self.banner.dismiss()
        self.refresh()

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is None or run_id in self._boxes:
            return
        run = project.runs.get(run_id)
        if run.kind == "train" and run.state == "finished":
            self.refresh()

    # ----------------------------------------------------------------------------------------------- comparing
    def _start(self) -> None:
        project = self.session.project
        if project is None:
            return
        self.banner.dismiss()
        self._asked = background(compare_runs, project.folder, tuple(self.chosen()), owner=self)
        self._asked.done.connect(self._done)
        self._asked.failed.connect(self.banner.show_error)
        self._asked.finished.connect(self._over)
        self.start.setText("Comparing…")
        self._allow()

    def _done(self, identity: str) -> None:
        self._wanted = identity
        self.refresh()

    def _over(self) -> None:
        self._asked = None
        self.start.setText("Compare")
        self._allow()


def compare_runs(project_folder: Path, run_ids: tuple[str, ...], seconds: float = _SECONDS) -> str:
    """Compare finished runs in a child process; returns the comparison's id. Raises with the child's own words."""
    command = [
        settings.load().interpreter or sys.executable,
        "-m",
        "kdstudio",
        "compare",
        str(project_folder),
        "--json",
    ]
    for run_id in run_ids:
        command += ["--run", run_id]
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=seconds,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise KnownError("The runs could not be compared", f"{error}", "Try it again.") from error
    if "error" in answer:
        fields = [str(answer["error"].get(key, "")) for key in ("title", "detail", "hint")]
        raise (BadInput if done.returncode == BadInput.exit_code else KnownError)(*fields)
    return str(answer["id"])


def _scrolled(inner: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(inner)
    return area


def _short(text: str, characters: int = 30) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"
