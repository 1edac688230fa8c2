"""What the open project holds, compactly: rows, teachers, students, files, and how close the best student came."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtWidgets import QGridLayout

from kdstudio.files import files_below, folder_bytes, readable_bytes
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.wording import number

if TYPE_CHECKING:
    from kdstudio.project import Project

NAMES = ("Prompts", "Answers", "Accepted", "Rejected", "Teachers", "Students", "Closest", "Exports", "On disk")


def read_facts(project: Project | None) -> dict[str, str]:
    """The facts by name, as they are shown. Walks the folder: for a background task."""
    if project is None:
        return {}
    counts = project.rows.counts()
    by_kind = {kind: sum(count for (one, _), count in counts.items() if one == kind) for kind in ("prompt", "response")}
    trained = [run for run in project.runs.list("train") if run.state == "finished"]
    gaps = [run.result.get("final", {}).get("held_out_forward_kl") for run in trained]
    known = [gap for gap in gaps if isinstance(gap, float)]
    exports = list(files_below(project.exports_folder, ".gguf"))
    figures = (
        number(by_kind["prompt"]),
        number(by_kind["response"]),
        number(counts.get(("response", "accepted"), 0)),
        number(counts.get(("response", "rejected"), 0)),
        number(len(project.teachers.list())),
        number(len(trained)),
        f"divergence {min(known):.2f}" if known else "–",
        number(len(exports)),
        readable_bytes(folder_bytes(project.folder)),
    )
    return dict(zip(NAMES, figures, strict=True))


class ProjectCard(Card):
    """Hidden while no project is open."""

    def __init__(self) -> None:
        super().__init__("In this project", name="project_card")
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(5)
        grid.setColumnStretch(1, 1)
        self.values: dict[str, ElidedLabel] = {}
        for row, name in enumerate(NAMES):
            value = ElidedLabel("")
            value.setObjectName(f"project_{name.lower().replace(' ', '_')}")
            self.values[name] = value
            grid.addWidget(label(name, "small"), row, 0)
            grid.addWidget(value, row, 1)
        self.body.addLayout(grid)
        self.hide()

    def show_facts(self, facts: dict[str, str]) -> None:
        """Show what was read; nothing hides the card."""
        for name, text in facts.items():
            self.values[name].setText(text)
        self.setVisible(bool(facts))
