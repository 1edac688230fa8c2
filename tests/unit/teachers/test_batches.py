"""A run in batches: what is sent when, what it costs, and how it ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdstudio.errors import BadInput, KnownError
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Event, Progress
from kdstudio.models.spec import TeacherKind, TeacherSpec
from kdstudio.project import Project
from kdstudio.teachers.openai_batch import OpenAIBatches
from tests.loopback import Loopback
from tests.support.batch_server import SHARE, BatchServer
from tests.support.paid_runs import PRICE, paid_teacher
from tests.unit.elicitation.runs import attempt, drops, finish, lines, new_project, new_run, recipe_of, rows, warnings

KEY = "batch-key-4412"
QUICK: dict[str, Any] = {"batch": True, "batch_seconds": 0.05, "price": PRICE | {"batch": SHARE}}
KINDS = [pytest.param("openai", id="openai"), pytest.param("anthropic", id="anthropic", marks=pytest.mark.slow)]
TWICE = """
[[step]]
type = "prompt"
[[step]]
type = "sample"
max_tokens = 64
into = "draft"
[[step]]
type = "prompt"
start = ""
user = "Better: {{ draft }}"
into = "talk"
[[step]]
type = "sample"
request = "talk"
max_tokens = 64
into = "response"
[[step]]
type = "emit"
text = "response"
"""
SHORT = """
[[step]]
type = "prompt"
[[step]]
type = "sample"
max_tokens = 10
into = "response"
[[step]]
type = "emit"
text = "response"
"""


def prompted(folder: Path, count: int) -> Project:
    return new_project(folder, [f"p{number}" for number in range(1, count + 1)])


def batches_of(server: BatchServer) -> Counter[str]:
    """How many questions each batch held; those asked by themselves are under ""."""
    return Counter(entry["batch"] for entry in server.entries())


def stages(folder: Path) -> list[str]:
    return [line.event.stage for line in lines(folder) if isinstance(line.event, Progress)]


def watched(folder: Path, see: Callable[[Job, Event], None]) -> dict[str, Any]:
    """Run the job in this process; `see` gets each event that is emitted by itself."""
    job = Job(folder, {"k": KEY})
    emit = job.emit

    def emitted(event: Event, *, durable: bool = False) -> None:
        emit(event, durable=durable)
        see(job, event)

    job.emit = emitted  # type: ignore[method-assign]
    return finish(job)


def stops_while_away(job: Job, event: Event) -> None:
    if isinstance(event, Progress) and "at the provider since" in event.stage:
        job.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_leaves_the_batch_with_the_provider_and_a_resumed_run_fetches_it(
    tmp_path: Path, kind: TeacherKind
) -> None:
    with BatchServer(tmp_path / "server.jsonl", KEY, {"seconds": 0.6}) as server, prompted(tmp_path, 5) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, kind, **QUICK))
        result = watched(folder, stops_while_away)
        assert (result["rows"], result["at_provider"], result["possibly_billed"]["count"]) == (1, 4, 0)
        said = next(warning for warning in warnings(folder) if "with the provider" in warning.title)
        assert (said.title, "batch_001" in said.detail) == ("4 questions are still with the provider", True)
        away = [stage for stage in stages(folder) if " of 4 answered, at the provider since " in stage]
        assert away
        assert all(stage.endswith(" (batch_001)") for stage in away)
        result = attempt(folder, k=KEY)
        assert (result["rows"], "at_provider" in result) == (5, False)
        assert batches_of(server) == {"": 1, "batch_001": 4}
        assert result["spend"] == pytest.approx(sum(entry["cost"] for entry in server.entries()), abs=1e-6)
        assert KEY.encode() not in (folder / "events.jsonl").read_bytes()


def test_a_recipe_with_two_questions_for_each_row_takes_a_batch_for_each_wave(tmp_path: Path) -> None:
    with BatchServer(tmp_path / "server.jsonl", KEY) as server, prompted(tmp_path, 6) as project:
        folder = new_run(project, recipe=recipe_of(TWICE), teacher=paid_teacher(server.url, **QUICK))
        assert attempt(folder, k=KEY)["rows"] == 6
        assert batches_of(server) == {"": 2, "batch_001": 5, "batch_002": 5}  # the first of each wave by itself
        asked = [entry["prompt"] for entry in server.entries()]
        assert sum(text.startswith("Better: Answer to p") for text in asked) == 6


def test_the_ceiling_makes_batches_smaller_and_then_ends_the_run(tmp_path: Path) -> None:
    count, ceiling = 20, 0.0003  # one question may cost 0.00006 by itself, and half of that in a batch
    with BatchServer(tmp_path / "server.jsonl", KEY) as server, prompted(tmp_path, count) as project:
        recipe = recipe_of(SHORT)
        folder = new_run(project, recipe=recipe, teacher=paid_teacher(server.url, **QUICK), ceiling=ceiling)
        result = attempt(folder, k=KEY)
        billed = sum(entry["cost"] for entry in server.entries())
        sizes = list(batches_of(server).values())
        assert sizes == [1, *sorted(sizes[1:], reverse=True)]
        assert len(sizes) >= 3
        assert sum(sizes) == result["rows"] == count - result["left"] < count
        assert ceiling * 0.8 < billed == pytest.approx(result["spend"], abs=1e-6)
        assert billed <= ceiling
        assert (result["ceiling_reached"], result["possibly_billed"]["count"]) == (True, 0)
        assert any("The ceiling of $0.0003 is reached" in warning.title for warning in warnings(folder))


def test_what_one_batch_cannot_hold_goes_into_several_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenAIBatches, "most_bytes", 1000)
    with BatchServer(tmp_path / "server.jsonl", KEY, {"seconds": 0.6}) as server, prompted(tmp_path, 10) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, **QUICK, batch_requests=4))
        assert attempt(folder, k=KEY)["rows"] == 10
        sizes = [size for batch, size in batches_of(server).items() if batch]
        assert (sum(sizes), max(sizes) <= 4, len(sizes) >= 3) == (9, True, True)
        assert any(stage.endswith(" batches)") for stage in stages(folder))


def test_a_provider_that_holds_too_much_gets_smaller_batches(tmp_path: Path) -> None:
    told = {"batches": ["crowded", "crowded"]}
    with BatchServer(tmp_path / "server.jsonl", KEY, told) as server, prompted(tmp_path, 13) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, **QUICK))
        assert attempt(folder, k=KEY)["rows"] == 13
        assert list(batches_of(server).values()) == [1, 12, 6, 3, 3, 3, 3]
        assert any("a smaller batch is sent in a while" in stage for stage in stages(folder))


def test_a_batch_that_is_refused_as_a_whole_ends_the_run_and_can_be_sent_again_later(tmp_path: Path) -> None:
    told = {"batches": ["failed"]}
    with BatchServer(tmp_path / "server.jsonl", KEY, told) as server, prompted(tmp_path, 4) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, **QUICK))
        with pytest.raises(KnownError, match="refused the batch"):
            attempt(folder, k=KEY)
        result = attempt(folder, k=KEY)
        assert (result["rows"], result["possibly_billed"]["count"]) == (4, 0)


def test_a_question_that_fails_in_one_batch_after_the_other_is_given_up_after_its_tries(tmp_path: Path) -> None:
    told = {"batches": ["half", "half", "half"]}
    with BatchServer(tmp_path / "server.jsonl", KEY, told) as server, prompted(tmp_path, 9) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, **QUICK | {"tries": 2}))
        result = attempt(folder, k=KEY)
        assert (result["rows"], result["dropped"], result["possibly_billed"]["count"]) == (7, 2, 0)
        assert list(batches_of(server).values()) == [1, 8, 4]
        assert {reason.split(":")[-1] for _, _, reason in drops(folder)} == {" too many requests", " the server failed"}


@pytest.mark.parametrize(("kind", "name"), [("openai", "seed"), ("anthropic", "temperature")])
def test_the_first_question_is_asked_by_itself_and_tells_what_the_endpoint_refuses(
    tmp_path: Path, kind: TeacherKind, name: str
) -> None:
    told = {"refuses": name}
    with BatchServer(tmp_path / "server.jsonl", KEY, told) as server, prompted(tmp_path, 4) as project:
        folder = new_run(project, teacher=paid_teacher(server.url, kind, **QUICK))
        assert attempt(folder, k=KEY)["rows"] == 4
        assert [entry["outcome"] for entry in server.entries()] == ["answered"] * 4
        assert any(f"does not take {name}" in warning.title for warning in warnings(folder))


def test_a_batch_that_the_provider_no_longer_has_is_said_and_not_sent_again(tmp_path: Path) -> None:
    with prompted(tmp_path, 3) as project:
        with BatchServer(tmp_path / "server.jsonl", KEY, {"seconds": 60}) as server:
            folder = new_run(project, teacher=paid_teacher(server.url, **QUICK))
            watched(folder, stops_while_away)
        with BatchServer(tmp_path / "other.jsonl", KEY) as other:
            described = (folder / "job.toml").read_text("utf-8")
            (folder / "job.toml").write_text(described.replace(server.url, other.url), "utf-8")
            with pytest.raises(KnownError, match="no longer has a batch"):
                attempt(folder, k=KEY)
            assert not other.ledger.exists()


def test_an_endpoint_without_batches_says_so_after_one_question(tmp_path: Path) -> None:
    with Loopback() as server, prompted(tmp_path, 3) as project:
        spec = TeacherSpec(
            "api", "openai", url=server.url, model="tiny", options={"batch": True, "batch_seconds": 0.05}
        )
        folder = new_run(project, teacher=spec)
        with pytest.raises(KnownError, match="offers no batches"):
            attempt(folder)
        assert len(server.asked) == 1
        assert len(rows(folder)) == 1


def test_the_run_says_whether_it_waits_for_batches_and_a_trial_never_does(tmp_path: Path) -> None:
    with BatchServer(tmp_path / "server.jsonl", KEY) as server, prompted(tmp_path, 3) as project:
        at_once, batched = paid_teacher(server.url), paid_teacher(server.url, **QUICK)
        attempt(new_run(project, teacher=batched, trial=1), k=KEY)
        attempt(new_run(project, teacher=batched, batch=False, limit=1), k=KEY)
        assert set(batches_of(server)) == {""}
        wish = new_run(
            project, teacher=TeacherSpec(**{**vars(at_once), "options": QUICK | {"batch": False}}), batch=True
        )
        attempt(wish, k=KEY)
        assert batches_of(server)["batch_001"] == 2
        with pytest.raises(BadInput, match="Nobody here answers in batches"):
            attempt(new_run(project, batch=True))


def test_several_teachers_each_send_their_own_batches(tmp_path: Path) -> None:
    with BatchServer(tmp_path / "server.jsonl", KEY) as server, prompted(tmp_path, 12) as project:
        ours = paid_teacher(server.url, **QUICK)
        other = TeacherSpec(**{**vars(paid_teacher(server.url, "anthropic", **QUICK)), "name": "other"})
        specs = [vars(ours), vars(other)]
        folder = new_run(project, teacher=ours, teachers=specs, share="spread", default="api", routes={})
        assert attempt(folder, k=KEY)["rows"] == 12
        assert {row["teacher"] for row in rows(folder)} == {"api", "other"}
        assert sum(batches_of(server).values()) == 12
        assert len(batches_of(server)) >= 3
