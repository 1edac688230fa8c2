"""The navigation at the left: seven pages, the jobs panel's switch below, and how much memory is in use."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, QTimer, Signal
from PySide6.QtWidgets import QButtonGroup, QFrame, QLabel, QProgressBar, QSizePolicy, QToolButton, QVBoxLayout, QWidget

from kdstudio.ui.icons import set_icon
from kdstudio.ui.pages import PAGES
from kdstudio.ui.widgets.labels import label

WIDTH = 186
_MEMORY_SECONDS = 3


class NavigationButton(QToolButton):
    """One entry: icon and word, checkable."""

    def __init__(self, key: str, words: str, icon: str, tip: str) -> None:
        super().__init__()
        self.setObjectName(f"nav_{key}")
        self.setProperty("role", "nav")
        self.setCheckable(True)
        self.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setToolTip(tip)
        self._icon = icon
        self.set_words(words)
        self.toggled.connect(self._colour)
        self._colour(False)
        self.setIconSize(QSize(16, 16))

    def set_words(self, words: str) -> None:
        """Another word beside the icon."""
        self.setText(f"  {words}")
        self.setAccessibleName(words)

    def _colour(self, checked: bool) -> None:
        set_icon(self, self._icon, "text" if checked else "dim")


class Navigation(QFrame):
    """`chosen(key)` follows a click; `jobs_wanted(bool)` the switch of the jobs panel."""

    chosen = Signal(str)
    jobs_wanted = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("navigation")
        self.setProperty("role", "sidebar")
        self.setFixedWidth(WIDTH)
        self.buttons: dict[str, NavigationButton] = {}
        self._group = QButtonGroup(self)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(10, 12, 10, 12)
        layout.setSpacing(3)
        for number, entry in enumerate(PAGES, start=1):
            made = NavigationButton(entry.key, entry.label, entry.icon, f"{entry.label} (Ctrl+{number})")
            made.clicked.connect(lambda _checked=False, key=entry.key: self.chosen.emit(key))
            self._group.addButton(made)
            self.buttons[entry.key] = made
            layout.addWidget(made)
        layout.addStretch(1)
        self.jobs = NavigationButton("jobs", "Jobs", "jobs", "Show or hide the jobs panel (Ctrl+J)")
        self.jobs.clicked.connect(self.jobs_wanted)
        layout.addWidget(self.jobs)
        layout.addSpacing(8)
        self.memory = MemoryMeter()
        layout.addWidget(self.memory)

    def choose(self, key: str) -> None:
        """Mark a page as the one shown."""
        self.buttons[key].setChecked(True)

    def set_running(self, count: int) -> None:
        """Say beside "Jobs" how many are running."""
        self.jobs.set_words(f"Jobs · {count} running" if count else "Jobs")


class MemoryMeter(QWidget):
    """Memory of the machine in use, as words and a bar."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("memory_meter")
        self.words: QLabel = label("", "small", name="memory_words")
        self.bar = QProgressBar()
        self.bar.setTextVisible(False)
        self.bar.setAccessibleName("Memory in use")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2, 0, 2, 0)
        layout.setSpacing(5)
        layout.addWidget(self.words)
        layout.addWidget(self.bar)
        self._timer = QTimer(self)
        self._timer.timeout.connect(self.measure)
        self._timer.start(_MEMORY_SECONDS * 1000)
        QTimer.singleShot(0, self, self.measure)

    def measure(self) -> None:
        """Read the system's figures again."""
        import psutil

        memory = psutil.virtual_memory()
        used, total = memory.total - memory.available, memory.total
        self.words.setText(f"Memory {used / 2**30:.1f} / {total / 2**30:.0f} GiB")
        self.bar.setValue(round(100 * used / total))
