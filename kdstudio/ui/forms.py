"""Forms made from parameter models: the same description that the command line and the docs are made from.

`Form(ForwardKLParams)` shows one labelled editor per field with its range, default and help; `values()` gives a plain
dict back, `errors()` says in place what the model refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QLabel, QVBoxLayout, QWidget

from kdstudio.registry import Parameter, parameters_of
from kdstudio.ui.widgets.fields import Field, Switch, make_field
from kdstudio.ui.widgets.labels import label, set_role

CAPTION_WIDTH = 112
"""Pixels that `align` gives every caption."""
_ABBREVIATIONS = {"lora": "LoRA", "kl": "KL", "gae": "GAE", "sft": "SFT"}


class Form(QWidget):
    """Editors for the fields of a parameter model. `changed` follows every edit.

    `include` chooses fields and their order, `exclude` leaves some out, `labels` renames them, `advanced` are put
    behind a "More" switch, `editors` makes the editor of some fields. The object name of an editor is `<name>_<field>`,
    with `name` the form's own object name.
    """

    changed = Signal()

    def __init__(
        self,
        model: type[BaseModel],
        values: Mapping[str, Any] | None = None,
        *,
        name: str = "form",
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        advanced: Iterable[str] = (),
        editors: Mapping[str, Callable[[], QWidget]] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.setObjectName(name)
        self.model = model
        self.fields: dict[str, QWidget] = {}
        self._labels = dict(labels or {})
        self._faults: dict[str, QLabel] = {}
        self._advanced = set(advanced)
        self._editors = dict(editors or {})
        self._showing = False
        self.layout_ = _form_layout()
        self._more = QWidget()
        self._more_layout = _form_layout()
        self._build(_chosen(model, include, set(exclude)))
        self.set_values(values or {})

    def _build(self, parameters: list[Parameter]) -> None:
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(8)
        outer.addLayout(self.layout_)
        for parameter in parameters:
            self._add(parameter, self._more_layout if parameter.name in self._advanced else self.layout_)
        if self._advanced & set(self.fields):
            self._more.setLayout(self._more_layout)
            self._more.hide()
            switch = Switch("More settings")
            switch.setObjectName(f"{self.objectName()}_more")
            switch.toggled.connect(self._more.setVisible)
            outer.addWidget(switch)
            outer.addWidget(self._more)

    def _add(self, parameter: Parameter, layout: QFormLayout) -> None:
        words = self._labels.get(parameter.name) or _words(parameter.name)
        own = self._editors.get(parameter.name)
        field = own() if own is not None else make_field(parameter, words)
        field.setObjectName(f"{self.objectName()}_{parameter.name}")
        field.setAccessibleName(words)
        field.setAccessibleDescription(parameter.help)
        field.setToolTip(_tip(parameter))
        fault = label("", "error", wrap=True)
        fault.hide()
        self.fields[parameter.name], self._faults[parameter.name] = field, fault
        cast(Field, field).changed.connect(self._edited)
        holder = QWidget()
        column = QVBoxLayout(holder)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addWidget(field)
        column.addWidget(fault)
        if isinstance(field, Switch):
            layout.addRow("", holder)
            return
        caption = label(words)
        caption.setToolTip(_tip(parameter))
        caption.setBuddy(field)
        caption.setMinimumHeight(28)
        layout.addRow(caption, holder)

    def values(self) -> dict[str, Any]:
        """What the person set, by field; plain values that the model accepts or refuses."""
        return {name: cast(Field, field).value() for name, field in self.fields.items()}

    def set_values(self, values: Mapping[str, Any]) -> None:
        """Show these values; fields that are not named show their default. `changed` follows once, if any did."""
        before, self._showing = self.values(), True
        for parameter in parameters_of(self.model):
            field = self.fields.get(parameter.name)
            value = values.get(parameter.name, parameter.default)
            if field is not None and value is not None:
                cast(Field, field).set_value(value)
        self._showing = False
        if self.values() != before:
            self._edited()

    def errors(self) -> dict[str, str]:
        """What the model refuses, by field; also shown under the editors. Empty when all is well."""
        faults: dict[str, str] = {}
        try:
            self.model.model_validate(self.values())
        except ValidationError as error:
            for item in error.errors():
                field = str(item["loc"][0]) if item["loc"] else ""
                if field in self.fields:
                    faults.setdefault(field, str(item["msg"]).removeprefix("Value error, "))
        for name, shown in self._faults.items():
            shown.setText(faults.get(name, ""))
            shown.setVisible(name in faults)
            if bool(self.fields[name].property("invalid")) != (name in faults):
                set_role(self.fields[name], invalid=name in faults)
        return faults

    def set_field_visible(self, name: str, visible: bool) -> None:
        """Show or hide one field with its label, e.g. LoRA's rank while all weights are trained."""
        field = self.fields[name]
        layout = self._more_layout if name in self._advanced else self.layout_
        layout.setRowVisible(cast(QWidget, field.parentWidget()), visible)

    def _edited(self) -> None:
        if self._showing:
            return
        self.errors()
        self.changed.emit()


def align(form: Form) -> None:
    """Give all captions of a form one width, so that the editors of several forms stand under each other."""
    for layout in form.findChildren(QFormLayout):
        for row in range(layout.rowCount()):
            item = layout.itemAt(row, QFormLayout.ItemRole.LabelRole)
            caption = item.widget() if item is not None else None
            if caption is not None:
                caption.setMinimumWidth(CAPTION_WIDTH)


def _words(name: str) -> str:
    """`lora_rank` -> `LoRA rank`."""
    words = [_ABBREVIATIONS.get(word, word) for word in name.split("_")]
    return " ".join([words[0] if words[0] in _ABBREVIATIONS.values() else words[0].capitalize(), *words[1:]])


def _form_layout() -> QFormLayout:
    layout = QFormLayout()
    layout.setContentsMargins(0, 0, 0, 0)
    layout.setHorizontalSpacing(14)
    layout.setVerticalSpacing(8)
    layout.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.ExpandingFieldsGrow)
    return layout


def _chosen(model: type[BaseModel], include: Iterable[str] | None, exclude: set[str]) -> list[Parameter]:
    known = {parameter.name: parameter for parameter in parameters_of(model)}
    names = list(known) if include is None else list(include)
    return [known[name] for name in names if name not in exclude]


def _tip(parameter: Parameter) -> str:
    """Help, range and default, as a tool tip shows them."""
    parts = [parameter.help] if parameter.help else []
    low, high = parameter.minimum, parameter.maximum
    if low is not None and high is not None:
        parts.append(f"{low:g} to {high:g}.")
    elif low is not None or high is not None:
        parts.append(f"At least {low:g}." if low is not None else f"At most {high:g}.")
    if parameter.default not in (None, "", ()):
        shown = f"{parameter.default:g}" if isinstance(parameter.default, float) else parameter.default
        parts.append(f"Default: {shown}.")
    return " ".join(parts)
