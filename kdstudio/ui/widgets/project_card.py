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

FACTS = {
    "Prompts": "What teachers are asked",
    "Answers": "What teachers wrote, whatever became of it",
    "Accepted": "Answers that students learn from",
    "Rejected": "Answers that stay in the project and are not learnt from",
    "Teachers": "Models and endpoints that the project can ask",
    "Students": "Training runs that finished",
    "Closest": (
        "The smallest gap of a student to its teacher: forward KL on rows it never saw, in nats a token. 0 is equal."
    ),
    "Exports": "GGUF files that were written",
    "On disk": "All files in the project’s folder",
}
"""Name -> what it says, in the order in which they are shown."""


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
    return dict(zip(FACTS, figures, strict=True))


class ProjectCard(Card):
    """Hidden while no project is open."""

    def __init__(self) -> None:
        super().__init__("In this project", name="project_card")
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(5)
        grid.setColumnStretch(1, 1)
        self.values: dict[str, ElidedLabel] = {}
        for row, (name, words) in enumerate(FACTS.items()):
            value = ElidedLabel("", tip=words)
            value.setObjectName(f"project_{name.lower().replace(' ', '_')}")
            self.values[name] = value
            caption = label(name, "small")
            caption.setToolTip(words)
            value.setAccessibleName(name)
            value.setAccessibleDescription(words)
            grid.addWidget(caption, row, 0)
            grid.addWidget(value, row, 1)
        self.body.addLayout(grid)
        self.hide()

    def show_facts(self, facts: dict[str, str]) -> None:
        """Show what was read; nothing hides the card."""
        for name, text in facts.items():
            self.values[name].setText(text)
        self.setVisible(bool(facts))
