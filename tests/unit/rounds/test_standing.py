"""How far rounds have come, what a person wanted of them, and what is led on by itself when a project is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdstudio.jobs import folder as run_files
from kdstudio.jobs.supervisor import Supervisor
from kdstudio.project import Project
from kdstudio.rounds.chain import Part
from kdstudio.rounds.leading import Leader
from kdstudio.rounds.plan import Plan
from kdstudio.rounds.standing import plans_under_way, read_standing
from kdstudio.rounds.wish import WISH_NAME, Wish, read_wish, write_wish
from tests.e2e.rounds_setting import make_rounds
from tests.unit.rounds.in_process import plan_of


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Project, Plan]:
    """A plan of two rounds in an open project."""
    path, recipe = make_rounds(tmp_path)
    project = Project.open(path)
    return project, plan_of(project, recipe)


def entered(project: Project, plan: Plan, number: int, part: Part, state: str, **result: Any) -> str:
    """A run with its job file, as the chain leaves it."""
    kind = "evaluate" if part == "start" else part
    parameters = {"rounds": {"id": plan.id, "round": number, "part": part, "rows": 3}}
    run_id = project.runs.add(kind, part, parameters)
    run_files.write_job(project.runs_folder / run_id, run_files.JobFile(kind, parameters))
    project.runs.set_state(run_id, state, result=result)
    return run_id


def test_figures_follow_each_other(chain: tuple[Project, Plan]) -> None:
    project, plan = chain
    assert read_standing(project, plan).state == "stopped"
    funnel = [{"step": 0, "type": "sample", "entered": 6, "left": 5, "fell": {}}]
    entered(project, plan, 1, "elicit", "finished", rows=5, funnel=funnel)
    entered(project, plan, 1, "train", "finished")
    entered(project, plan, 1, "start", "finished", student_nll=2.0)
    assert read_standing(project, plan).seconds_left() is None
    entered(project, plan, 1, "evaluate", "finished", student_nll=1.5)
    entered(project, plan, 2, "elicit", "interrupted")
    standing = read_standing(project, plan)
    first, second = standing.rounds
    assert (first.asked, first.made, first.learnt, first.before, first.after) == (6, 5, 3, 2.0, 1.5)
    assert (second.asked, second.made, second.before, second.after) == (None, None, 1.5, None)
    assert standing.state == "interrupted"
    assert standing.seconds_left() is not None
    write_wish(plan.folder, Wish(error={"title": "No", "detail": "", "hint": ""}))
    assert read_standing(project, plan).state == "failed"


def test_a_wish_that_cannot_be_read_is_none(chain: tuple[Project, Plan]) -> None:
    project, plan = chain
    assert plans_under_way(project) == []
    write_wish(plan.folder, Wish(go=True, reason="They were asked."))
    assert read_wish(plan.folder) == Wish(go=True, reason="They were asked.")
    assert [found.id for found in plans_under_way(project)] == [plan.id]
    (plan.folder / WISH_NAME).write_text('{"go": ')
    assert read_wish(plan.folder) == Wish()


def test_a_part_that_broke_waits_for_a_person(chain: tuple[Project, Plan]) -> None:
    project, plan = chain
    run_id = entered(project, plan, 1, "elicit", "interrupted")
    run_files.write_status(project.runs_folder / run_id, run_files.Status(pid=2**22, process_started=1.0))
    write_wish(plan.folder, Wish(go=True))
    assert Leader(project, Supervisor(project), plan, {}, found=True).lead() is None
    assert not read_wish(plan.folder).go
    assert project.runs.get(run_id).state == "interrupted"


def test_stopped_before_a_part_is_launched_it_is_stopped_too(chain: tuple[Project, Plan]) -> None:
    project, plan = chain
    run_id = entered(project, plan, 1, "elicit", "starting")
    leader = Leader(project, Supervisor(project), plan, {})
    leader.stop()
    assert leader.lead() is None
    assert read_standing(project, plan).state == "stopped"
    assert project.runs.get(run_id).state == "stopped"


def test_left_while_the_project_closes_they_shall_go_on(chain: tuple[Project, Plan]) -> None:
    project, plan = chain
    leader = Leader(project, Supervisor(project), plan, {})
    leader.leave()
    assert leader.lead() is None
    assert read_wish(plan.folder).go
