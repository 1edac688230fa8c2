"""Around a teacher: its file's card, its terms, price, ceiling and key, folders, what it cost, removing one in use."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
from PySide6.QtGui import QDragEnterEvent, QDropEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLabel, QLineEdit, QWidget
from pytestqt.qtbot import QtBot

from kdstudio import secrets
from kdstudio.jobs.events import Attempt, Settled
from kdstudio.jobs.journal import JournalWriter
from kdstudio.models.model_card import model_card
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.project.teachers import StoredTeacher
from kdstudio.ui.main_window import MainWindow
from kdstudio.ui.pages.teachers import TeachersPage
from kdstudio.ui.widgets.model_card_view import ModelCardSheet, ModelCardView, template_words
from kdstudio.ui.widgets.teacher_price import PriceFields, dollars, price_words
from kdstudio.ui.widgets.teacher_spend import spent_by_teacher
from kdstudio.ui.widgets.teacher_terms import TermsSheet
from kdstudio.ui.widgets.teacher_words import money_words
from tests.gui.conftest import Click
from tests.tiny import tiny_gguf, tiny_model

SECOND = 10_000


@pytest.fixture(autouse=True)
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "person"
    home.mkdir()
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(home))
    for name in ("OLLAMA_MODELS", "HF_HUB_CACHE", "HF_HOME", "KDSTUDIO_SAMPLE_TEACHER"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def page(window: MainWindow) -> TeachersPage:
    window.show_page("teachers")
    shown = window.page("teachers")
    assert isinstance(shown, TeachersPage)
    return shown


@pytest.fixture
def project(window: MainWindow) -> Project:
    assert window.session.project is not None
    return window.session.project


API = TeacherSpec("Api", "openai", url="https://api.openai.com/v1", model="m", key_name="api.openai.com")


def added(page: TeachersPage, project: Project, spec: TeacherSpec, qtbot: QtBot) -> None:
    project.teachers.add(spec)
    page.session.teachers_changed.emit()
    qtbot.waitUntil(lambda: spec.name in page.cards and page.cards[spec.name].isVisible(), timeout=SECOND)


def sheet(kind: type[QWidget]) -> Any:
    found = [one for one in QApplication.topLevelWidgets() if isinstance(one, kind) and one.isVisible()]
    return found[-1]


def put(line: QLineEdit, text: str) -> None:
    line.setFocus()
    line.selectAll()
    QTest.keyClick(line, Qt.Key.Key_Delete)
    QTest.keyClicks(line, text)


def words_of(widget: QWidget) -> list[str]:
    return [one.text() for one in widget.findChildren(QLabel)]


# ------------------------------------------------------------------------------------------------------ model card
def test_the_card_of_an_ollama_blob_opens_before_and_after_it_is_added(
    page: TeachersPage, person: Path, click: Click, qtbot: QtBot
) -> None:
    models, source = person / ".ollama" / "models", tiny_model(layers=2)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    manifest = models / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    manifest.parent.mkdir(parents=True)
    (models / "blobs").mkdir()
    blob = Path(shutil.copy(source, models / "blobs" / f"sha256-{digest}"))
    layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}"}
    manifest.write_text(json.dumps({"layers": [layer]}))
    qtbot.waitUntil(lambda: page.sources.state.text() != "Looking…", timeout=SECOND)
    click("teachers_look")
    qtbot.waitUntil(lambda: page.sources.findChild(QWidget, "teachers_found_card") is not None, timeout=SECOND)
    assert any(
        "Ollama" in words and "context 512" in words and "Apache 2.0" in words for words in words_of(page.sources)
    )
    click("teachers_found_card")
    qtbot.waitUntil(lambda: sheet(ModelCardSheet).view is not None, timeout=SECOND)
    said = words_of(sheet(ModelCardSheet).view)
    for words in ("llama", "512 tokens", "F32", "Apache 2.0", str(blob)):
        assert words in said
    click("model_card_sheet_cancel")
    click("teachers_found_add")
    qtbot.waitUntil(lambda: "tiny:latest" in page.cards and page.cards["tiny:latest"].isVisible(), timeout=SECOND)
    assert page.cards["tiny:latest"].stored.spec.path == str(blob.resolve())  # in place
    click("teacher_card_open")
    qtbot.waitUntil(lambda: sheet(ModelCardSheet).view is not None, timeout=SECOND)
    click("model_card_sheet_cancel")


def test_a_card_says_why_it_cannot_be_read(page: TeachersPage, tmp_path: Path, click: Click, qtbot: QtBot) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"<html>")
    page.open_card(path, "Bad")
    shown = sheet(ModelCardSheet)
    qtbot.waitUntil(shown.banner.isVisible, timeout=SECOND)
    assert shown.banner.title.text() == "This is not a GGUF file"
    click("model_card_sheet_cancel")


def test_a_card_shows_each_number_format_and_its_template(tmp_path: Path, qtbot: QtBot) -> None:
    path = tiny_gguf(tmp_path / "tiny.gguf", dtype="Q8_0", template="{{ messages }}")
    view = ModelCardView(model_card(path))
    qtbot.addWidget(view)
    said = words_of(view)
    assert {"Q8_0", "F32"} <= set(said)
    assert any(words.startswith("Its chat template is its own") for words in said)
    bare = replace(view.card, template="", types=(), license="", terms_stamp="")
    assert "base model" in template_words(bare)
    assert "cannot be used" in template_words(replace(bare, template_too_long=True))
    empty = ModelCardView(bare)
    qtbot.addWidget(empty)
    assert "It has no weights." in words_of(empty)


# ------------------------------------------------------------------------------------------------ terms, price, key
def test_terms_price_ceiling_and_key_are_changed_on_the_card(
    page: TeachersPage, project: Project, click: Click, qtbot: QtBot
) -> None:
    added(page, project, API, qtbot)
    assert page.cards["Api"].money.text() == "$0.00 spent · price not known: test it, or enter it"
    click("teacher_terms")
    shown: TermsSheet = sheet(TermsSheet)
    assert "compete" in shown.says.text()
    put(shown.price.lines["input"], "0.15")
    click("teacher_terms_keep")
    assert "both figures" in shown.price.fault.text()
    put(shown.price.lines["output"], "cheap")
    click("teacher_terms_keep")
    assert shown.price.fault.text() == "“cheap” is no amount of dollars."
    put(shown.price.lines["output"], "0,60")
    put(shown.price.lines["ceiling"], "5")
    shown.terms.choice.set_value("free")
    click("teacher_terms_keep")
    assert shown.fault.text() == "Say in a few words what was agreed."
    put(shown.terms.words, "agreed with them on 3 May")
    put(shown.key, "sk-new-key-123")
    click("teacher_terms_keep")
    qtbot.waitUntil(lambda: "stops at $5.00" in page.cards["Api"].money.text(), timeout=SECOND)
    stored = project.teachers.get("Api")
    assert stored.spec.options["price"] == {"input": 0.15, "output": 0.6}
    assert stored.spec.options["ceiling"] == 5
    assert stored.terms == "free: agreed with them on 3 May"
    assert secrets.find("api.openai.com") == "sk-new-key-123"
    assert not [one for one in project.folder.rglob("*") if one.is_file() and b"sk-new-key" in one.read_bytes()]
    qtbot.waitUntil(page.cards["Api"].isVisible, timeout=SECOND)
    click("teacher_terms")
    again: TermsSheet = sheet(TermsSheet)
    assert again.terms.words.text() == "agreed with them on 3 May"
    assert again.key.text() == ""
    again.terms.choice.set_value("stated")
    put(again.price.lines["input"], "")
    put(again.price.lines["output"], "")
    click("teacher_terms_keep")
    qtbot.waitUntil(lambda: project.teachers.get("Api").terms == "openai", timeout=SECOND)
    qtbot.waitUntil(lambda: "price" not in project.teachers.get("Api").spec.options, timeout=SECOND)
    secrets.forget("api.openai.com")


def test_an_endpoint_is_added_with_a_price_and_a_ceiling(
    page: TeachersPage, project: Project, click: Click, qtbot: QtBot
) -> None:
    from kdstudio.ui.widgets.teacher_endpoint import EndpointDialog

    click("teachers_endpoint")
    dialog: EndpointDialog = sheet(EndpointDialog)
    dialog.preset.set_value("openrouter")
    put(dialog.model, "openai/small")
    dialog.place.set_value("environment")
    put(dialog.key, "OPENROUTER_API_KEY")
    put(dialog.price.lines["input"], "-1")
    click("endpoint_add")
    assert dialog.price.fault.isVisible()
    put(dialog.price.lines["input"], "1")
    put(dialog.price.lines["output"], "2")
    put(dialog.price.lines["ceiling"], "3")
    assert "OpenRouter" in dialog.terms.text()
    click("endpoint_add")
    qtbot.waitUntil(lambda: "small" in page.cards, timeout=SECOND)
    assert project.teachers.get("small").spec.options == {"price": {"input": 1.0, "output": 2.0}, "ceiling": 3.0}


def test_a_known_licence_and_odd_words_are_kept_as_terms(page: TeachersPage, project: Project, qtbot: QtBot) -> None:
    added(page, project, TeacherSpec("File", "scripted", path="", options={"terms": "house rules"}), qtbot)
    shown = TermsSheet(page.session, project.teachers.get("File"))
    qtbot.addWidget(shown)
    assert shown.terms.stamp() == "house rules"
    shown.terms.choice.set_value("mit")
    assert shown.terms.stamp() == "mit"
    assert "allowed" in shown.says.text()
    assert not shown.price.isVisibleTo(shown)


def test_amounts_in_words(qtbot: QtBot) -> None:
    assert [dollars(amount) for amount in (0, 0.00001, 0.0004, 1.25, 1204)] == [
        "$0.00",
        "less than $0.0001",
        "$0.0004",
        "$1.25",
        "$1\u202f204",
    ]
    assert price_words([0.15, 0.6]) == "$0.15 in and $0.60 out for a million tokens"
    assert price_words({"input": 0, "output": 0}) == "free of charge"
    assert price_words(None) == price_words("dear") == ""
    fields = PriceFields("p")
    qtbot.addWidget(fields)
    fields.set_options({"price": "odd", "ceiling": 2})
    assert fields.options() == {"price": None, "ceiling": 2.0}
    local = StoredTeacher(TeacherSpec("L", "openai", url="http://localhost:1/v1", model="m"), {}, "")
    assert money_words(local, 0.0) == "Free of charge"
    assert money_words(StoredTeacher(TeacherSpec("F", "gguf"), {}, ""), 0.0) == ""


# ---------------------------------------------------------------------------------------------------- what it cost
def test_money_spent_is_summed_over_the_projects_runs(
    page: TeachersPage, project: Project, qtbot: QtBot, tmp_path: Path
) -> None:
    other = replace(API, name="Other")
    one = project.runs.add("elicit", "One", {"teacher": asdict(API)})
    project.runs.set_state(one, "finished", result={"spend": 1.25})
    both = project.runs.add("elicit", "Both", {"teachers": [asdict(API), asdict(other)], "teacher": asdict(API)})
    (project.runs_folder / both).mkdir(parents=True)
    journal = JournalWriter(project.runs_folder / both)
    journal.write_all([Settled("Api", "1", 1, cost=0.5), Settled("Other", "1", 1, cost=0.25)])
    journal.close()
    project.runs.set_state(both, "stopped", result={"spend": 0.75})
    project.runs.add("fetch_sample", "Sample", {})
    (project.folder / "asked").mkdir()
    by_hand = JournalWriter(project.folder / "asked")
    by_hand.write_all([Attempt("Other", "by-hand-1", 1, 0.5), Settled("Other", "by-hand-1", 1, cost=0.125)])
    by_hand.write_all([Attempt("Other", "by-hand-1", 2, 0.25)])  # it may have been billed
    by_hand.close()
    assert spent_by_teacher(project) == {"Api": 1.75, "Other": 0.625}
    added(page, project, API, qtbot)
    qtbot.waitUntil(lambda: page.cards["Api"].money.text().startswith("$1.75 spent"), timeout=SECOND)


def test_a_teacher_in_use_is_not_removed(
    page: TeachersPage, project: Project, click: Click, qtbot: QtBot, tmp_path: Path
) -> None:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"default": "Hello.", "delay": 30}))
    added(page, project, TeacherSpec("Slow", "scripted", path=str(script)), qtbot)
    click("teacher_test")
    qtbot.waitUntil(lambda: bool(page.session.active_runs()), timeout=SECOND)
    click("teacher_remove")
    card = page.cards["Slow"]
    assert card.warning.text().startswith("“Test Slow” is asking it now.")
    assert not card.confirm.isEnabled()
    page.remove("Slow")
    assert page.banner.title.text() == "This teacher is in use"
    assert [one.spec.name for one in project.teachers.list()] == ["Slow"]
    click("teacher_keep")
    page.session.stop(page.session.active_runs()[0].id)
    qtbot.waitUntil(lambda: not page.session.active_runs(), timeout=40_000)
    click("teacher_remove")
    click("teacher_confirm")
    qtbot.waitUntil(lambda: not page.cards, timeout=SECOND)


# --------------------------------------------------------------------------------------------------------- folders
def drop(widget: QWidget, path: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    action = Qt.DropAction.CopyAction
    QApplication.sendEvent(widget, QDragEnterEvent(QPointF(5, 5), action, data, buttons, keys))
    QApplication.sendEvent(widget, QDropEvent(QPointF(5, 5), action, data, buttons, keys))


def test_a_folder_with_one_model_with_several_and_with_none(page: TeachersPage, tmp_path: Path, qtbot: QtBot) -> None:
    one, several, none = (tmp_path / name for name in ("one", "several", "none"))
    for folder in (one, several, none):
        folder.mkdir()
    shutil.copy(tiny_model(layers=2), one / "single.gguf")
    for seed in (1, 2):
        shutil.copy(tiny_model(seed=seed), several / f"part{seed}.gguf")
    drop(page.sources.zone, one)
    qtbot.waitUntil(lambda: "single" in page.cards, timeout=SECOND)
    drop(page.sources.zone, several)
    qtbot.waitUntil(page.banner.isVisible, timeout=SECOND)
    assert page.banner.title.text() == "There are several models in this folder"
    assert page.session.settings.model_folders == [str(several)]
    qtbot.waitUntil(lambda: {"part1", "part2"} <= set(words_of(page.sources)), timeout=SECOND)
    drop(page.sources.zone, none)
    qtbot.waitUntil(lambda: page.banner.title.text() == "There is no model in this folder", timeout=SECOND)


def test_a_folder_of_hugging_face_is_added_or_refused_in_words(
    page: TeachersPage, tmp_path: Path, qtbot: QtBot
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    drop(page.sources.zone, folder)
    qtbot.waitUntil(page.banner.isVisible, timeout=SECOND)
    assert page.banner.title.text() == "Pickled weights are refused"
    assert not page.cards


def test_a_sound_folder_becomes_a_card_with_features(
    page: TeachersPage, tmp_path: Path, click: Click, qtbot: QtBot
) -> None:
    folder = tmp_path / "My-Model"
    folder.mkdir()
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"model_type": "qwen2", **sizes, "vocab_size": 100, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    header = json.dumps({"embed": {"dtype": "BF16", "shape": [100, 8], "data_offsets": [0, 1600]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    drop(page.sources.zone, folder)
    qtbot.waitUntil(lambda: "My-Model" in page.cards, timeout=SECOND)
    card = page.cards["My-Model"]
    said = words_of(card)
    assert "Features: hidden states, attention" in said
    assert "MIT: you may train students" in said
    assert any(words.startswith("Hugging Face folder · ") and "context 64" in words for words in said)
    assert card.try_it.isEnabled()
    click("teacher_card_open")
    qtbot.waitUntil(lambda: sheet(ModelCardSheet).view is not None, timeout=SECOND)
    told = words_of(sheet(ModelCardSheet).view)
    for words in ("qwen2", "BF16, 16 bits a weight on average", "MIT", str(folder)):
        assert words in told
    click("model_card_sheet_cancel")
