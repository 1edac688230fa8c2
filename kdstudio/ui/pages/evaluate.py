"""Evaluate: how far a student is from its teacher on rows it never saw, and both answers side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout

from kdstudio.files import files_below
from kdstudio.jobs.events import Line, Progress, Sample
from kdstudio.project import Run
from kdstudio.ui.pages import Page
from kdstudio.ui.session import ACTIVE_STATES, Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.card import Card
from kdstudio.ui.widgets.empty_state import EmptyState
from kdstudio.ui.widgets.fields import ElidedCombo
from kdstudio.ui.widgets.labels import label
from kdstudio.ui.widgets.live_plot import LivePlot
from kdstudio.ui.widgets.sample_list import SampleList
from kdstudio.ui.widgets.train_figures import Figures
from kdstudio.ui.widgets.wording import ago, number

SAMPLES = 6
_FIGURES = {
    "forward_kl": ("Forward KL", "Mean of KL(teacher, student) over held-out tokens, in nats. 0 is equal."),
    "reverse_kl": ("Reverse KL", "Mean of KL(student, teacher) over held-out tokens, in nats. 0 is equal."),
    "top1_agreement": ("Same first choice", "Share of tokens at which both think the same token likeliest."),
    "teacher_nll": ("Teacher's surprise", "Mean negative log-likelihood of the answers under the teacher, in nats."),
    "student_nll": ("Student's surprise", "The same under the student. Close to the teacher's is good."),
    "rouge_l": ("ROUGE-L", "Overlap of the free answers of student and teacher, 0 to 1."),
    "rows": ("Rows", "How many held-out rows were measured."),
}


class EvaluatePage(Page):
    """Choose a student and a teacher, measure, read the figures and the answers; earlier measurements stay."""

    key: ClassVar[str] = "evaluate"

    def __init__(self, session: Session, parent: Any = None) -> None:
        super().__init__(session, parent)
        self.run_id = ""
        self.student = _combo("evaluate_student", "Student")
        self.teacher = _combo("evaluate_teacher", "Teacher")
        self.earlier = _combo("evaluate_earlier", "Earlier measurement")
        self.start = button("Evaluate", icon="play", kind="primary", name="evaluate_start", clicked=self._start)
        self.stop = button("Stop", icon="stop", name="evaluate_stop", clicked=lambda: session.stop(self.run_id))
        self.figures = Figures("evaluate_figures", _FIGURES)
        self.text = label("", "small", wrap=True, name="evaluate_text")
        self.progress = QProgressBar()
        self.progress.setTextVisible(False)
        self.plot = LivePlot("evaluate_plot", "How the gap closed while it was trained", logarithmic=True)
        self.plot.add_line("gap", "held-out divergence", colour=1, points=True)
        self.samples = SampleList("evaluate_samples", "Answers to held-out prompts", steps=False)
        self.empty = EmptyState("scale", "", "", lambda: session.go(self._where), name="evaluate_empty")
        self._where = "home"
        self._build()
        self.student.activated.connect(lambda _index: self._show_curve())
        self.earlier.activated.connect(lambda index: self._show_run(str(self.earlier.itemData(index))))
        for signal in (session.project_changed, session.teachers_changed):
            signal.connect(self.refresh)
        session.run_changed.connect(self._run_changed)
        session.events.connect(self._take)
        self.refresh()

    def _build(self) -> None:
        head = QHBoxLayout()
        head.setSpacing(8)
        for words, combo in (("Student", self.student), ("Teacher", self.teacher)):
            head.addWidget(label(words, "dim"))
            head.addWidget(combo, 2)
        head.addWidget(self.start)
        head.addWidget(self.stop)
        below = QHBoxLayout()
        below.setSpacing(8)
        below.addWidget(self.text, 1)
        below.addWidget(self.progress)
        below.addWidget(self.earlier)
        card = Card(margin=12)
        card.body.addWidget(self.plot, 1)
        self._parts: list[Any] = [self.figures, self.text, self.earlier, card, self.samples]
        self.content.addLayout(head)
        self.content.addWidget(self.empty, 1)
        self.content.addWidget(self.figures)
        self.content.addLayout(below)
        columns = QVBoxLayout()
        columns.setSpacing(10)
        columns.addWidget(card, 1)
        columns.addWidget(self.samples, 1)
        self.content.addLayout(columns, 1)

    # ------------------------------------------------------------------------------------------------- showing
    def shown_with(self, arguments: dict[str, Any]) -> None:
        """`run=ID` chooses that training run's student."""
        self.refresh()
        index = self.student.findData(str(arguments.get("run", "")))
        if arguments.get("run") and index >= 0:
            self.student.setCurrentIndex(index)
            self._show_curve()

    def refresh(self) -> None:
        """Read students, teachers and measurements again."""
        project = self.session.project
        _fill(self.student, _students(self.session))
        teachers = project.teachers.list() if project is not None else []
        _fill(self.teacher, [(item.spec.name, item.spec.name) for item in teachers])
        measured = [run for run in self.session.runs("evaluate") if run.result.get("rows")]
        _fill(self.earlier, [(f"{run.title} · {ago(run.finished or run.created)}", run.id) for run in measured])
        if self.run_id not in {run.id for run in self.session.runs("evaluate")}:
            self.run_id = measured[0].id if measured else ""
        ready = bool(self.student.count() and self.teacher.count())
        for part in self._parts:
            part.setVisible(ready)
        self.earlier.setVisible(ready and len(measured) > 1)
        self.empty.setVisible(not ready)
        self.start.setEnabled(ready)
        self._say_what_is_missing()
        self._show_curve()
        if self.run_id:
            self._show_run(self.run_id)
        else:
            self._show_state(None)

    def _say_what_is_missing(self) -> None:
        if self.session.project is None:
            self._where = "home"
            self.empty.say("Open a project to measure its students.", "Go to Home")
        elif not self.teacher.count():
            self._where = "teachers"
            self.empty.say("A gap has two sides: add the teacher first.", "Add a teacher")
        else:
            self._where = "train"
            self.empty.say("There is no student yet. Train one, then measure how close it came.", "Train a student")

    def _show_curve(self) -> None:
        project, run_id = self.session.project, str(self.student.currentData() or "")
        if project is None or not run_id or run_id.endswith(".gguf"):
            self.plot.set_line("gap", [], [])
            return
        self.plot.set_line("gap", *project.runs.metrics(run_id, "held_out_forward_kl"))

    def _show_run(self, run_id: str) -> None:
        project = self.session.project
        if project is None or not run_id:
            return
        self.run_id = run_id
        self.earlier.setCurrentIndex(max(0, self.earlier.findData(run_id)))
        self.samples.show_samples(project.runs.samples(run_id))
        self._show_state(project.runs.get(run_id))

    def _show_state(self, run: Run | None) -> None:
        active = run is not None and run.state in ACTIVE_STATES
        self.start.setVisible(not active)
        self.stop.setVisible(active)
        self.progress.setVisible(active)
        self.figures.clear()
        self.text.setText("" if run is not None else "Nothing measured yet: choose a student and press Evaluate.")
        if run is None:
            return
        for key in _FIGURES:
            self.figures.show_figure(key, _figure(key, run.result.get(key)))
        if run.result.get("text"):
            self.text.setText(f"Measured on {run.result['text']}.{self._before()}")
        if run.state in ("failed", "interrupted") and run.error:
            self.banner.show_error(run.error)

    def _before(self) -> str:
        """What the student's own run measured before its first step, to set the figures beside."""
        project, run_id = self.session.project, str(self.student.currentData() or "")
        if project is None or not run_id or run_id.endswith(".gguf"):
            return ""
        steps, divergence = project.runs.metrics(run_id, "held_out_forward_kl")
        agreement = project.runs.metrics(run_id, "held_out_top1_agreement")[1]
        if not steps or steps[0] != 0 or not agreement:
            return ""
        return f" Before training: forward KL {divergence[0]:.3f}, same first choice {agreement[0]:.1%}."

    def _run_changed(self, run_id: str) -> None:
        project = self.session.project
        if project is None:
            return
        run = project.runs.get(run_id)
        if run.kind == "train" and run.state not in ACTIVE_STATES:
            self.refresh()
        elif run.kind == "evaluate" and run_id == self.run_id:
            if run.state in ACTIVE_STATES:
                self._show_state(run)
            else:
                self.refresh()

    def _take(self, run_id: str, lines: list[Line]) -> None:
        if run_id != self.run_id:
            return
        for line in lines:
            if isinstance(line.event, Sample):
                self.samples.add_sample(line.event)
            elif isinstance(line.event, Progress):
                self.progress.setMaximum(max(1, line.event.total))
                self.progress.setValue(line.event.done)
                self.text.setText(line.event.stage.capitalize())

    # ------------------------------------------------------------------------------------------------ starting
    def _start(self) -> None:
        project = self.session.project
        if project is None:
            return
        self.banner.dismiss()
        chosen = str(self.student.currentData())
        spec = project.teachers.get(self.teacher.currentText()).spec
        student = {"gguf": chosen} if chosen.endswith(".gguf") else {"run": chosen}
        parameters = {**student, "teacher": asdict(spec), "limit": 0, "samples": SAMPLES}
        title = f"{self.student.currentText().split(' · ')[0]} against {spec.name}"
        keys = (spec.key_name,) if spec.key_name else ()
        task = self.session.start("evaluate", parameters, title=title, key_names=keys, anew=True)
        task.done.connect(self._started)
        task.failed.connect(self.show_error)

    def _started(self, run_id: str) -> None:
        self.run_id = run_id
        self.samples.show_samples([])
        self.progress.setMaximum(0)
        project = self.session.project
        if project is not None:
            self._show_state(project.runs.get(run_id))


def _combo(name: str, caption: str) -> ElidedCombo:
    made = ElidedCombo()
    made.setObjectName(name)
    made.setAccessibleName(caption)
    made.setPlaceholderText("None yet")
    return made


def _fill(combo: ElidedCombo, items: list[tuple[str, str]]) -> None:
    """Offer items, keeping the chosen one where it is still there."""
    chosen = combo.currentData()
    combo.clear()
    for text, data in items:
        combo.addItem(text, data)
    combo.setCurrentIndex(max(0, combo.findData(chosen)) if items else -1)


def _students(session: Session) -> list[tuple[str, str]]:
    """Trained students first, then exported files."""
    project = session.project
    if project is None:
        return []
    trained = [
        (f"{run.title} · trained {ago(run.finished or run.created)}", run.id)
        for run in session.runs("train")
        if (project.runs_folder / run.id / "student").is_dir()
    ]
    exported = sorted(files_below(project.exports_folder, ".gguf"))
    return trained + [(path.name, str(path)) for path in exported]


def _figure(key: str, value: Any) -> str:
    if not isinstance(value, int | float):
        return ""
    if key == "rows":
        return number(value)
    return f"{value:.1%}" if key == "top1_agreement" else f"{value:.3f}"
