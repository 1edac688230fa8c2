"""What the machine offers, compactly: processor, memory, graphics, and whether local models can run."""

from __future__ import annotations

from PySide6.QtWidgets import QGridLayout, QLabel

from kdstudio.ui.job_bridge import background
from kdstudio.ui.machine import Machine, read_machine
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.labels import ElidedLabel, label
from kdstudio.ui.widgets.pill import Pill


class MachineCard(Card):
    """Measures in the background when it is made."""

    def __init__(self) -> None:
        super().__init__("This machine", name="machine_card")
        grid = QGridLayout()
        grid.setHorizontalSpacing(12)
        grid.setVerticalSpacing(5)
        grid.setColumnStretch(1, 1)
        self._values: dict[str, ElidedLabel] = {}
        for row, name in enumerate(("Processor", "Memory", "Graphics", "Local models")):
            value = ElidedLabel("…")
            value.setObjectName(f"machine_{name.split()[0].lower()}")
            self._values[name] = value
            grid.addWidget(label(name, "small"), row, 0)
            grid.addWidget(value, row, 1)
        self.local = Pill("")
        self.local.hide()
        self.advice: QLabel = label("", "small", wrap=True, name="machine_advice")
        self.advice.hide()
        self.body.addLayout(grid)
        self.add(self.advice)
        background(read_machine, owner=self).done.connect(self._show)

    def _show(self, machine: Machine) -> None:
        gibibytes = machine.memory / 2**30
        self._values["Processor"].setText(f"{machine.cores} cores · {machine.cpu}")
        self._values["Memory"].setText(f"{machine.free_memory / 2**30:.1f} of {gibibytes:.1f} GiB free")
        cards = [f"{name} · {memory / 1024:.0f} GiB" if memory else name for name, memory in machine.gpus]
        self._values["Graphics"].setText(", ".join(cards) or "None found")
        if machine.missing:
            self._values["Local models"].setText(f"{len(machine.missing)} parts are missing")
            self.advice.setText(
                f"Missing: {', '.join(machine.missing)}. Install them with: pip install 'kdstudio[local]'"
            )
        else:
            self._values["Local models"].setText("Ready")
        self.advice.setVisible(bool(machine.missing))
