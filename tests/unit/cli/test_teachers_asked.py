"""Flags that name teachers become a job's parameters; what makes no sense is refused before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kdstudio.cli.teachers_asked import mixture_of, names_of, speakers_of, teachers_of
from kdstudio.errors import BadInput
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "p") as opened:
        for name in ("a", "b", "c"):
            opened.teachers.add(
                TeacherSpec(name, "openai", url="http://localhost:1", model="m", key_name=f"KEY_{name}")
            )
        yield opened


def test_one_teacher_is_named_as_ever(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_a", "secret")
    found, keys = speakers_of(project, ["a"])
    assert (set(found), found["teacher"]["name"], keys) == ({"teacher"}, "a", {"KEY_a": "secret"})
    with pytest.raises(BadInput, match="Which teacher"):
        speakers_of(project, [])


def test_several_share_the_questions(project: Project) -> None:
    found, _ = speakers_of(project, ["b", "a"])
    assert names_of(found) == "b, a"
    assert (found["teacher"]["name"], found["share"], found["default"]) == ("b", "spread", "b")
    assert speakers_of(project, ["b", "a"], share="all")[0]["share"] == "all"


def test_whoever_is_routed_to_takes_part(project: Project) -> None:
    found, _ = speakers_of(project, ["a"], routes=["code=b", "math = c"], judge="c", student="b")
    assert names_of(found) == "a, b, c"
    assert (found["share"], found["routes"]) == ("route", {"code": "b", "math": "c"})
    assert (found["judge"]["name"], found["student"]["name"]) == ("c", "b")


def test_a_mixture_has_a_weight_for_each(project: Project) -> None:
    found, _ = mixture_of(project, ["a", "b"], [0.7, 0.3])
    assert (names_of(found), found["weights"]) == ("a, b", [0.7, 0.3])
    assert mixture_of(project, ["a", "b"], [])[0]["weights"] == [1.0, 1.0]
    assert "weights" not in mixture_of(project, ["a"], [])[0]
    for weights in ([0.5], [0.5, 0], [1.0, 1.0, 1.0]):
        with pytest.raises(BadInput, match="weights do not fit"):
            mixture_of(project, ["a", "b"], weights)


def test_what_makes_no_sense(project: Project) -> None:
    with pytest.raises(BadInput, match="named twice"):
        teachers_of(project, ["a", "a"])
    with pytest.raises(BadInput, match="route makes no sense"):
        speakers_of(project, ["a"], routes=["code"])
    with pytest.raises(BadInput, match="Two ways"):
        speakers_of(project, ["a"], share="all", routes=["code=b"])
    with pytest.raises(BadInput, match="Unknown teacher"):
        speakers_of(project, ["a", "z"])
