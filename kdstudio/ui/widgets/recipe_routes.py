"""Which teacher answers prompts with which tag: lines of a tag and a name, the first that fits deciding."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from kdstudio.ui.widgets.buttons import button, tool_button
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import label


class RouteLine(QWidget):
    """One tag and the teacher that answers it. `left_out` when a person takes it away."""

    changed = Signal()
    left_out = Signal()

    def __init__(self, number: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.tag = named_choice(f"generate_route_tag_{number}", f"Tag of route {number + 1}")
        self.teacher = named_choice(f"generate_route_teacher_{number}", f"Teacher of route {number + 1}")
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.tag, 1)
        row.addWidget(label("to", "dim"))
        row.addWidget(self.teacher, 1)
        away = tool_button("x", "Leave this tag out", name=f"generate_route_away_{number}", clicked=self.left_out.emit)
        away.setAccessibleName(f"Leave out route {number + 1}")
        row.addWidget(away)
        for one in (self.tag, self.teacher):
            one.changed.connect(self.changed)


class Routes(QWidget):
    """`changed()` follows every edit; `values()` is tag -> teacher in the order in which tags are looked for."""

    changed = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.lines: list[RouteLine] = []
        self._tags: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()
        self._made = 0
        self.add = button("Add a tag", icon="plus", name="generate_route_add", clicked=self.add_line)
        self.rest = label("", "small", wrap=True, name="generate_route_rest")
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(0, 0, 0, 0)
        self._column.setSpacing(6)
        self._column.addWidget(self.add, 0, Qt.AlignmentFlag.AlignLeft)
        self._column.addWidget(self.rest)

    def offer(self, tags: Sequence[str], names: Sequence[str]) -> None:
        """Offer the project's tags and the teachers that take part, of whom the first answers what has none of them."""
        self._tags, self._names = tuple(tags), tuple(names)
        for line in self.lines:
            fill(line.tag, self._tags)
            fill(line.teacher, self._names)
        self.rest.setText(
            f"The first line decides whose tag a prompt has; all others go to {names[0]}." if names else ""
        )
        self._settle()

    def add_line(self) -> None:
        """Route the first tag that is not routed yet, to the last teacher that takes part."""
        line = RouteLine(self._made, self)
        self._made += 1
        fill(line.tag, self._tags)
        fill(line.teacher, self._names)
        line.tag.set_value(next((tag for tag in self._tags if tag not in self.values()), ""))
        line.teacher.set_value(self._names[-1] if self._names else "")
        line.changed.connect(self._edited)
        line.left_out.connect(lambda: self._drop(line))
        self._column.insertWidget(len(self.lines), line)
        self.lines.append(line)
        line.show()
        line.tag.setFocus()
        self._edited()

    def _drop(self, line: RouteLine) -> None:
        self.lines.remove(line)
        self._column.removeWidget(line)
        line.hide()
        line.deleteLater()
        self.add.setFocus()
        self._edited()

    def _edited(self) -> None:
        self._settle()
        self.changed.emit()

    def _settle(self) -> None:
        self.add.setEnabled(len(self.values()) < len(self._tags))

    def values(self) -> dict[str, str]:
        """Tag -> teacher; of two lines with one tag the first."""
        found: dict[str, str] = {}
        for line in self.lines:
            if line.tag.value() and line.teacher.value():
                found.setdefault(line.tag.value(), line.teacher.value())
        return found


def named_choice(name: str, words: str, characters: int = 6) -> Choice:
    """An empty choice with its name for tests and for screen readers, at least so many characters wide."""
    made = Choice(())
    made.setObjectName(name)
    made.setAccessibleName(words)
    made.setSizeAdjustPolicy(Choice.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    made.setMinimumContentsLength(characters)
    return made


def fill(choice: Choice, names: Sequence[str], words: dict[str, str] | None = None) -> None:
    """Offer other names, keeping the chosen one if it is still among them."""
    before = choice.value()
    choice.blockSignals(True)
    choice.clear()
    for name in names:
        choice.addItem((words or {}).get(name, name), name)
    choice.set_value(before)
    choice.blockSignals(False)
