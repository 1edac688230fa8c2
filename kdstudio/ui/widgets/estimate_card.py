"""What a run will take, before it starts: parameters, memory broken down, time. It warns and never blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PySide6.QtWidgets import QGridLayout, QWidget

from kdstudio.errors import KnownError
from kdstudio.files import readable_bytes
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.wording import duration, number, short_number, told

_WIDTH = 290
_TIPS = {
    "Student": "Parameters of the student",
    "of the teacher's": "Parameters of the teacher, and the student’s share of them",
    "Trained weights": "Parameters that the run changes; the others stay as they are",
    "Rows": "Accepted answers to learn from, and those that only measure the gap",
    "Steps": "Times that the optimiser changes the weights",
    "Time, about": "Reckoned from the sizes and this machine’s cores; other programs make it longer",
    "Memory, about": "The most that the training process holds at once",
    "weights": "The student’s parameters",
    "gradients": "One number for each trained parameter",
    "optimiser": "Two numbers of AdamW for each trained parameter",
    "activations": "What each layer keeps for the way back",
    "logits": "Tokens × vocabulary of one block: student, teacher and gradient",
    "teacher": "The teacher that runs beside the student",
    "reference": "The student as it began, for objectives that compare with it",
    "program and margin": "Python, torch and some air",
    "free now": "Memory that other programs leave free at this moment",
}


@dataclass(frozen=True)
class RunEstimate:
    """What `training_estimate.estimate_run` found. Bytes and seconds; `notes` are warnings in words."""

    student_parameters: int
    teacher_parameters: int
    trained_parameters: int
    memory: Mapping[str, int]
    memory_free: int
    rows: int
    held_out: int
    steps: int
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> str:
        """fits, tight or unlikely: the estimate against the memory that is free now."""
        share = sum(self.memory.values()) / max(1, self.memory_free)
        return "fits" if share < 0.75 else "tight" if share < 1 else "unlikely"


class EstimateCard(Card):
    """Shows a `RunEstimate`, or why there is none yet."""

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__("Before you start", name=name, parent=parent)
        self._name = name
        self.setFixedWidth(_WIDTH)
        self.verdict = Pill("")
        self.verdict.setObjectName(f"{name}_verdict")
        self.verdict.hide()
        self.header.addWidget(self.verdict)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(12)
        self._grid.setVerticalSpacing(4)
        self._grid.setColumnStretch(0, 1)
        self.body.addLayout(self._grid)
        self.notes = label("", "warn", wrap=True, name=f"{name}_notes")
        self.notes.hide()
        self.add(self.notes)
        self.footnote = label("An estimate; it never keeps you from starting.", "small", wrap=True)
        self.add(self.footnote)

    def show_estimate(self, estimate: RunEstimate) -> None:
        """Show all parts."""
        rows: list[tuple[str, str, str]] = [("Student", short_number(estimate.student_parameters), "body")]
        if estimate.teacher_parameters:
            share = estimate.student_parameters / estimate.teacher_parameters
            rows.append(("   of the teacher's", f"{short_number(estimate.teacher_parameters)}: {share:.0%}", "small"))
        rows += [
            ("Trained weights", short_number(estimate.trained_parameters), "body"),
            ("Rows", f"{number(estimate.rows)} + {number(estimate.held_out)} held out", "body"),
            ("Steps", number(estimate.steps), "body"),
            ("Time, about", duration(estimate.seconds), "body"),
            ("Memory, about", readable_bytes(sum(estimate.memory.values())), "body"),
            *((f"   {name}", readable_bytes(size), "small") for name, size in estimate.memory.items() if size),
            ("   free now", readable_bytes(estimate.memory_free), "small"),
        ]
        self._fill(rows)
        tone = {"fits": "good", "tight": "warn", "unlikely": "bad"}[estimate.verdict]
        self.verdict.set_word(estimate.verdict, tone)  # type: ignore[arg-type]
        self.verdict.show()
        self.notes.setText("\n".join(estimate.notes))
        self.notes.setVisible(bool(estimate.notes))
        self.footnote.show()

    def show_fault(self, error: KnownError) -> None:
        """Say why nothing can be estimated yet."""
        self._fill([])
        self.verdict.hide()
        self.notes.setText(told(error))
        self.notes.show()
        self.footnote.hide()

    def _fill(self, rows: list[tuple[str, str, str]]) -> None:
        while item := self._grid.takeAt(0):
            widget = item.widget()
            if widget is not None:
                widget.hide()
                widget.deleteLater()
        for number_, (name, value, role) in enumerate(rows):
            caption = label(name, "small" if role == "small" else "dim")
            self._grid.addWidget(caption, number_, 0)
            shown = label(value, "small" if role == "small" else "body", selectable=True)
            for part in (caption, shown):
                part.setToolTip(_TIPS.get(name.strip(), ""))
            shown.setAccessibleName(f"{name.strip()}: {value}")
            shown.setObjectName(f"{self._name}_{number_}")
            self._grid.addWidget(shown, number_, 1)
