"""Several teachers, shared by the tags of the prompts: the same parameters as `kdstudio elicit --route tag=NAME`."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from kdstudio.elicitation.routing import sharing_of
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.recipe import find_elicitation_recipe
from kdstudio.ui.widgets.recipe_speakers import Speakers
from tests.gui.conftest import Click


@pytest.fixture
def speakers(qtbot: QtBot) -> Speakers:
    made = Speakers()
    qtbot.addWidget(made)
    specs = [TeacherSpec(name, "scripted", path=f"{name}.json") for name in ("Ann", "Ben", "Cy")]
    made.offer(find_elicitation_recipe("answer"), specs, ("code", "story"))
    made.resize(500, 300)
    made.show()
    for name in ("Ben", "Cy"):
        made.tick(name)
    return made


def test_tags_are_routed_with_clicks(speakers: Speakers, click: Click) -> None:
    assert not speakers.routes.isVisible()
    speakers.share.set_value("route")
    assert speakers.routes.isVisible()
    with pytest.raises(BadInput, match="No tag has a teacher"):
        speakers.parameters()
    click("generate_route_add")
    click("generate_route_add")
    assert not speakers.routes.add.isEnabled(), "each tag is routed"
    speakers.routes.lines[0].teacher.set_value("Ben")
    found = speakers.parameters()
    assert (found["share"], found["default"]) == ("route", "Ann")
    assert found["routes"] == {"code": "Ben", "story": "Cy"}
    assert sharing_of(found, ("Ann", "Ben", "Cy"), "", "").routes == found["routes"]
    click("generate_route_away_0")
    assert speakers.parameters()["routes"] == {"story": "Cy"}
    assert "all others go to Ann" in speakers.routes.rest.text()


def test_a_teacher_that_takes_no_part_is_routed_to_no_longer(speakers: Speakers, click: Click) -> None:
    speakers.share.set_value("route")
    click("generate_route_add")
    assert speakers.parameters()["routes"] == {"code": "Cy"}
    next(action for action in speakers.others.menu().actions() if action.text() == "Cy").setChecked(False)
    assert speakers.parameters()["routes"] == {"code": "Ann"}
    speakers.share.set_value("spread")
    assert speakers.parameters()["routes"] == {}


def test_without_tags_nothing_can_be_shared_by_them(speakers: Speakers) -> None:
    speakers.offer(find_elicitation_recipe("answer"), [TeacherSpec("Ann", "scripted")], ())
    assert speakers.share.findData("route") < 0
