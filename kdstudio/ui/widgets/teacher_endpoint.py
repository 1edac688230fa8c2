"""Adding an endpoint: presets, address, model, key and its place, price and ceiling, and a test before it is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QCompleter, QFormLayout, QHBoxLayout, QLabel, QLineEdit, QVBoxLayout, QWidget

from kdstudio import secrets
from kdstudio.errors import BadInput, KnownError
from kdstudio.models.endpoint import base_url, is_local
from kdstudio.models.spec import TeacherSpec
from kdstudio.models.terms import terms_of
from kdstudio.models.terms_stamp import terms_stamp
from kdstudio.ui.job_bridge import background
from kdstudio.ui.session import Session
from kdstudio.ui.widgets.buttons import button
from kdstudio.ui.widgets.data_dialog import Sheet
from kdstudio.ui.widgets.fields import Choice
from kdstudio.ui.widgets.labels import label, set_role
from kdstudio.ui.widgets.pill import Pill
from kdstudio.ui.widgets.teacher_presets import PRESETS
from kdstudio.ui.widgets.teacher_price import PriceFields
from kdstudio.ui.widgets.teacher_probe import Probe
from kdstudio.ui.widgets.teacher_words import probe_words

PLACES = {
    "none": "No key",
    "keyring": "The system's keyring",
    "session": "This session only",
    "environment": "An environment variable",
}
_TEST_KEY = "kdstudio connection test"


def url_fault(url: str) -> str:
    """Why this is no address; "" when it is one."""
    try:
        base_url(url)
    except BadInput:
        return "An address starts with http:// or https:// and names a host."
    return ""


class EndpointDialog(Sheet):
    """`wanted(spec)`: add this teacher; its key is where the person wanted it."""

    wanted = Signal(object)

    def __init__(self, session: Session, parent: QWidget | None = None) -> None:
        words = "A server on this machine or a hosted one. Keys never enter the project."
        super().__init__(session, "endpoint_sheet", "Add an endpoint", words, parent)
        self._probe = Probe(session, self)
        self._probe.answered.connect(self._answered)
        self._probe.failed.connect(self._failed)
        self._named = False
        self.preset = Choice(tuple(PRESETS), {key: preset.label for key, preset in PRESETS.items()})
        self.url = _line("endpoint_url", "Address")
        self.model = _line("endpoint_model", "Model")
        self.title_ = _line("endpoint_name", "Name")
        self.place = Choice(tuple(PLACES), PLACES)
        self.key = _line("endpoint_key", "Key")
        self.hint = label("", "small", wrap=True, name="endpoint_hint")
        self.terms = label("", "small", wrap=True, name="endpoint_terms")
        self.price = PriceFields("endpoint_price")
        self.faults: dict[str, QLabel] = {}
        self.pill = Pill("")
        self.outcome = label("", "dim", wrap=True, name="endpoint_outcome", selectable=True)
        self._build()
        self._connect()
        self._take_preset()
        background(secrets.keyring_available, owner=self).done.connect(self._keyring_known)
        self.resize(560, self.sizeHint().height())

    # ----------------------------------------------------------------------------------------------- building
    def _build(self) -> None:
        form = QFormLayout()
        form.setHorizontalSpacing(14)
        form.setVerticalSpacing(8)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self.preset.setObjectName("endpoint_preset")
        self.preset.setAccessibleName("Kind of endpoint")
        self.place.setObjectName("endpoint_place")
        self.place.setAccessibleName("Where the key is")
        self.model.setPlaceholderText("as the endpoint calls it")
        self.title_.setPlaceholderText("what this project calls it")
        keys = QHBoxLayout()
        keys.setSpacing(8)
        keys.addWidget(self.place, 1)
        keys.addWidget(self.key, 1)
        form.addRow("Kind", self.preset)
        form.addRow("", self.hint)
        form.addRow("Address", self._with_fault("url", self.url))
        form.addRow("Model", self._with_fault("model", self.model))
        form.addRow("Name", self._with_fault("name", self.title_))
        form.addRow("Key", keys)
        form.addRow("", self._fault_of("key"))
        form.addRow("Price", self.price)
        form.addRow("", label("For a million tokens. Empty: the price list’s, or free on this machine.", "small"))
        form.addRow("Terms", self.terms)
        self.body.addLayout(form)
        self._result = QWidget()
        row = QHBoxLayout(self._result)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(8)
        row.addWidget(self.pill, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.outcome, 1)
        self._result.hide()
        self.body.addWidget(self._result)
        self.body.addStretch(1)
        self.test = button("Test connection", icon="plug", name="endpoint_test", clicked=self._test)
        self.test.setAutoDefault(False)
        self.foot.insertWidget(0, self.test)
        self.add_cancel()
        self.add = self.add_button(
            button("Add teacher", kind="primary", name="endpoint_add", clicked=self._add), default=True
        )

    def _with_fault(self, name: str, line: QLineEdit) -> QWidget:
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(line)
        column.addWidget(self._fault_of(name))
        return holder

    def _fault_of(self, name: str) -> QLabel:
        self.faults[name] = label("", "error", wrap=True, name=f"endpoint_{name}_fault")
        self.faults[name].hide()
        return self.faults[name]

    def _connect(self) -> None:
        self.preset.changed.connect(self._take_preset)
        self.place.changed.connect(self._show_place)
        self.model.textChanged.connect(self._suggest_name)
        self.title_.textEdited.connect(self._name_typed)
        self.url.textChanged.connect(self._show_terms)
        self.model.textChanged.connect(self._show_terms)
        for name, line in (("url", self.url), ("model", self.model), ("name", self.title_), ("key", self.key)):
            line.textChanged.connect(lambda _text, name=name: self._say_fault(name, ""))

    def _take_preset(self) -> None:
        preset = PRESETS[self.preset.value()]
        self.hint.setText(preset.hint)
        self.url.setText(preset.url)
        self.url.setPlaceholderText("https://host/v1")
        self.model.setText(preset.model)
        wanted = "none" if not preset.key else ("keyring" if self.place.findData("keyring") >= 0 else "session")
        self.place.set_value(wanted)
        self._show_place()
        self._show_terms()
        self._result.hide()

    def _show_terms(self) -> None:
        """What its provider asks of those who train from its answers; it can be changed on the card."""
        terms = terms_of(terms_stamp(self.spec()))
        known = (
            f"{terms.name}. {terms.says}" if terms.stated else "The model’s own licence counts: note it on its card."
        )
        self.terms.setText(known)
        self.grow()

    def _keyring_known(self, there: bool) -> None:
        if not there:
            before = self.place.value()
            self.place.removeItem(self.place.findData("keyring"))
            self.place.set_value("session" if before == "keyring" else before)
            self.place.setToolTip("This system has no keyring: a key is kept until KD Studio closes.")

    def _show_place(self) -> None:
        place = self.place.value()
        self.key.setVisible(place != "none")
        named = place == "environment"
        self.key.setEchoMode(QLineEdit.EchoMode.Normal if named else QLineEdit.EchoMode.Password)
        self.key.setPlaceholderText(PRESETS[self.preset.value()].variable if named else "paste the key")
        self._say_fault("key", "")

    def _suggest_name(self, model: str) -> None:
        if not self._named:
            self.title_.setText(model.rsplit("/", 1)[-1])

    def _name_typed(self, text: str) -> None:
        self._named = bool(text)

    # ------------------------------------------------------------------------------------------------ checking
    def _say_fault(self, name: str, words: str) -> None:
        self.faults[name].setText(words)
        self.faults[name].setVisible(bool(words))
        if words:
            self.grow()
        line = {"url": self.url, "model": self.model, "name": self.title_, "key": self.key}[name]
        if bool(line.property("invalid")) != bool(words):
            set_role(line, invalid=bool(words))

    def errors(self, *, named: bool) -> dict[str, str]:
        """What cannot be used, by field; also shown under the fields."""
        place, key = self.place.value(), self.key.text().strip()
        taken = {stored.spec.name for stored in self.session.project.teachers.list()} if self.session.project else set()
        name = self.title_.text().strip()
        found = {
            "url": url_fault(self.url.text()),
            "model": "" if self.model.text().strip() else "Which model? The endpoint needs its name.",
            "name": "" if not named or name else "Give it a name.",
            "key": _key_fault(place, key, self.url.text()),
        }
        if named and name in taken:
            found["name"] = f"The project has a teacher called {name} already."
        for field, words in found.items():
            self._say_fault(field, words)
        if words := self.price.error():
            found["price"] = words
            self.grow()
        return {field: words for field, words in found.items() if words}

    def spec(self) -> TeacherSpec:
        """The teacher as it would be kept. Keys go by the endpoint's host, so that its models share one."""
        place, url = self.place.value(), self.url.text().strip()
        names = {"environment": self.key.text().strip(), "none": ""}
        try:
            host = urlsplit(url).netloc
            options = {name: value for name, value in self.price.options().items() if value is not None}
        except ValueError:  # a half-typed address or amount, which `errors` names
            host, options = "", {}
        return TeacherSpec(
            self.title_.text().strip(),
            PRESETS[self.preset.value()].kind,
            url=url,
            model=self.model.text().strip(),
            key_name=names.get(place, host),
            options=options,
        )

    # ------------------------------------------------------------------------------------------------- testing
    def _test(self) -> None:
        if self.errors(named=False):
            return
        spec = self.spec()
        if self.place.value() in ("keyring", "session"):
            secrets.store(_TEST_KEY, self.key.text().strip(), "session")
            spec = replace(spec, key_name=_TEST_KEY)
        self.test.setEnabled(False)
        self.test.setText("Testing…")
        self._show("testing", "busy", "Asking it to say hello.")
        self._probe.start(spec)

    def _answered(self, result: dict[str, Any]) -> None:
        self._rest()
        models = [str(name) for name in result.get("models") or ()]
        if models:
            self.model.setCompleter(QCompleter(models, self.model))
        words = probe_words(result)
        if models and self.model.text().strip() not in (*models, *(name.removesuffix(":latest") for name in models)):
            words += f"\nIt does not list this model; it lists {', '.join(models[:8])}."
        self._show("answers", "good", words)

    def _failed(self, error: KnownError) -> None:
        self._rest()
        self._show("failed", "bad", "\n".join(part for part in (error.title, error.detail, error.hint) if part))

    def _rest(self) -> None:
        self.test.setEnabled(True)
        self.test.setText("Test connection")

    def _show(self, word: str, tone: Any, words: str) -> None:
        self.pill.set_word(word, tone)
        self.outcome.setText(words)
        self._result.show()
        self.grow()

    # -------------------------------------------------------------------------------------------------- adding
    def _add(self) -> None:
        if self.errors(named=True):
            return
        spec, place = self.spec(), self.place.value()
        if place not in ("keyring", "session"):
            self._added(spec, place)
            return
        self.add.setEnabled(False)
        task = background(secrets.store, spec.key_name, self.key.text().strip(), place, owner=self)
        task.done.connect(lambda kept: self._added(spec, kept))
        task.failed.connect(self._not_added)

    def _added(self, spec: TeacherSpec, kept: str) -> None:
        if self.place.value() == "keyring" and kept == "session":
            self.session.say("The keyring refused the key: it is kept for this session only", "warn")
        self.wanted.emit(spec)
        self.accept()

    def _not_added(self, error: KnownError) -> None:
        self.add.setEnabled(True)
        self.show_error(error)

    def done(self, code: int) -> None:
        """Forget the key that was only tested, and what stands in the field."""
        background(secrets.forget, _TEST_KEY)
        self.key.clear()
        super().done(code)


def _key_fault(place: str, key: str, url: str) -> str:
    if place == "environment":
        usable = key.replace("_", "").isalnum() and not key[:1].isdigit()
        return "" if usable else "A variable's name has letters, digits and underscores."
    if place != "none" and not key:
        return "Paste the key, or choose “No key”."
    if place != "none" and url.strip().startswith("http://") and not is_local(url):
        return "This address is not encrypted: the key could be read on its way. Use https://."
    return ""


def _line(name: str, caption: str) -> QLineEdit:
    made = QLineEdit()
    made.setObjectName(name)
    made.setAccessibleName(caption)
    return made
