"""Several teachers as one: who is asked what, who answers for one that fails, and that nothing is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from kdstudio.elicitation.members import Member, Turn
from kdstudio.elicitation.routing import Sharing, sharing_of
from kdstudio.elicitation.speakers import Speakers, open_speakers
from kdstudio.errors import BadInput, BugError, KnownError
from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.jobs.events import Warned
from kdstudio.jobs.journal import read_journal
from kdstudio.models.spec import TeacherSpec
from kdstudio.teachers.base import Completion, Request, Sampling, Teacher
from kdstudio.teachers.llama import LlamaTeacher
from kdstudio.teachers.scripted import ScriptedTeacher
from tests.tiny import tiny_model


class Failing(ScriptedTeacher):
    """Answers so many questions as its script says, then fails; `error` None leaves the rest without an answer."""

    def __init__(self, spec: TeacherSpec, answers: int, error: Exception | None) -> None:
        super().__init__(spec)
        self.left, self.error = answers, error

    def generate(
        self, requests: Iterable[Request], *, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Completion]:
        for completion in super().generate(requests, stop=stop):
            if not self.left:
                if self.error is None:
                    return
                raise self.error
            self.left -= 1
            yield completion


def scripted(name: str, **script: Any) -> Member:
    spec = TeacherSpec(name, "scripted", options={"script": {"default": f"{name} {{prompt}}", **script}})
    return Member(name, lambda: ScriptedTeacher(spec))


def failing(name: str, answers: int, error: Exception | None = None, delay: float = 0) -> Member:
    spec = TeacherSpec(name, "scripted", options={"script": {"default": f"{name} {{prompt}}", "delay": delay}})
    return Member(name, lambda: Failing(spec, answers, error))


def asks(count: int, **fields: Any) -> list[Request]:
    return [Request(f"{n}:0:0", ({"role": "user", "content": f"q{n}"},), **fields) for n in range(1, count + 1)]


def answers(teacher: Teacher, requests: Iterable[Request]) -> dict[str, Completion]:
    found = list(teacher.generate(requests))
    assert not (again := [key for key, count in Counter(item.key for item in found).items() if count > 1]), again
    return {item.key: item for item in found}


def who(found: Mapping[str, Completion]) -> Counter[str]:
    return Counter(item.teacher for item in found.values())


NAMES = ("a", "b", "c")


def test_questions_are_spread_evenly_and_the_same_way_each_time() -> None:
    shares = []
    for delay in (0.0, 0.002):
        speakers = Speakers([scripted("a", delay=delay), scripted("b"), scripted("c")], Sharing(NAMES, default="a"))
        found = answers(speakers, asks(90))
        assert who(found) == {"a": 30, "b": 30, "c": 30}
        assert all(item.text == f"{item.teacher} q{key.partition(':')[0]}" for key, item in found.items())
        shares.append({key: item.teacher for key, item in found.items()})
        speakers.close()
    assert shares[0] == shares[1]


def test_samples_of_one_prompt_go_to_different_teachers() -> None:
    sharing = Sharing(NAMES, default="a")
    asked = [Request(f"17:0:{sample}", ()) for sample in range(3)]
    assert {sharing.speaker_of(request, NAMES) for request in asked} == set(NAMES)
    assert sharing.speaker_of(Request("no number", ()), NAMES) in NAMES


def test_rows_are_routed_by_tag() -> None:
    sharing = Sharing(NAMES, "route", {"code": "b", "math": "c"}, default="a")
    speakers = Speakers([scripted(name) for name in NAMES], sharing)
    tags = [(), ("code",), ("math", "code"), ("math",), ("poem",)]
    found = answers(speakers, [Request(f"{n}:0:0", asks(1)[0].messages, tags=tag) for n, tag in enumerate(tags)])
    assert [found[f"{n}:0:0"].teacher for n in range(5)] == ["a", "b", "b", "c", "a"]
    speakers.close()


def test_all_are_asked_by_name_and_others_by_role() -> None:
    sharing = Sharing(("a", "b"), "all", default="a", judge="j", student="s")
    speakers = Speakers([scripted(name) for name in ("a", "b", "j", "s")], sharing)
    messages = asks(1)[0].messages
    speaking = {"1@a": "teacher:a", "1@b": "teacher:b", "2": "judge", "3": "student", "4": "teacher", "5": "teacher:x"}
    found = answers(speakers, [Request(key, messages, speaker=speaker) for key, speaker in speaking.items()])
    assert {key: item.teacher for key, item in found.items()} == {
        "1@a": "a",
        "1@b": "b",
        "2": "j",
        "3": "s",
        "4": "a",
        "5": "",
    }
    assert found["5"].finish_reason == "error"
    assert "no teacher called x" in found["5"].error
    speakers.close()


def test_without_a_judge_the_first_teacher_judges_and_says_so() -> None:
    speakers = Speakers([scripted("a"), scripted("b")], Sharing(("a", "b"), default="a"))
    assert who(answers(speakers, asks(6, speaker="judge"))) == {"a": 6}
    assert speakers.notes == ["No judge was named: a judges too."]
    speakers.close()


@pytest.mark.parametrize("after", [0, 7])
def test_what_a_teacher_leaves_goes_to_the_others(after: int) -> None:
    error = KnownError("The key was revoked", "status 401", "Get another.")
    speakers = Speakers([failing("a", after, error), scripted("b"), scripted("c")], Sharing(NAMES, default="a"))
    found = answers(speakers, asks(300))
    assert len(found) == 300
    assert who(found)["a"] == after
    assert all(item.finish_reason == "stop" for item in found.values())
    assert len(speakers.notes) == 1
    assert "a was set aside" in speakers.notes[0]
    assert "The key was revoked. status 401." in speakers.notes[0]
    assert who(answers(speakers, asks(10))) == {"b": 5, "c": 5}  # it stays aside
    speakers.close()


def test_a_teacher_that_cannot_be_opened_is_set_aside_too() -> None:
    def never() -> Teacher:
        raise BadInput("There is no such file", "/nowhere.gguf")

    speakers = Speakers([Member("a", never), scripted("b")], Sharing(("a", "b"), "route", {"x": "a"}, default="b"))
    assert who(answers(speakers, asks(20, tags=("x",)))) == {"b": 20}
    assert "There is no such file" in speakers.notes[0]
    speakers.close()


def test_when_the_last_one_fails_its_error_is_raised() -> None:
    first, last = KnownError("First"), KnownError("Last")
    speakers = Speakers([failing("a", 2, first), failing("b", 40, last, 0.005)], Sharing(("a", "b"), default="a"))
    with pytest.raises(KnownError, match="Last"):
        list(speakers.generate(asks(100)))
    with pytest.raises(KnownError):
        list(speakers.generate(asks(1)))
    speakers.close()


@pytest.mark.parametrize("role", ["judge", "student"])
def test_a_judge_and_a_student_have_no_substitute(role: str) -> None:
    sharing = Sharing(("a",), default="a", judge="j", student="s")
    fails = failing(role[0], 1, KnownError("Gone"))
    other = scripted("s" if role == "judge" else "j")
    speakers = Speakers([scripted("a"), fails, other], sharing)
    with pytest.raises(KnownError, match="Gone"):
        list(speakers.generate(asks(5, speaker=role)))
    speakers.close()


def test_a_question_for_one_that_was_set_aside_is_no_ones_else() -> None:
    speakers = Speakers([failing("a", 0, KnownError("Gone")), scripted("b")], Sharing(("a", "b"), "all", default="b"))
    found = answers(speakers, [*asks(3, speaker="teacher:a"), Request("x@b", asks(1)[0].messages, speaker="teacher:b")])
    assert [item.finish_reason for _, item in sorted(found.items())] == ["error", "error", "error", "stop"]
    assert found["1:0:0"].error == "a was set aside. Gone"
    speakers.close()


def test_a_bug_is_no_failure_of_the_world() -> None:
    for broken, kind in ((failing("a", 1, ValueError("ours")), ValueError), (failing("a", 1), BugError)):
        speakers = Speakers([broken, scripted("b")], Sharing(("a", "b"), default="a"))
        with pytest.raises(kind):
            list(speakers.generate(asks(20)))
        speakers.close()


def test_slow_and_fast_ones_work_at_once() -> None:
    speakers = Speakers(
        [scripted("a", delay=0.05), scripted("b", delay=0.05), scripted("c", delay=0.05)], Sharing(NAMES, default="a")
    )
    began = time.monotonic()
    answers(speakers, asks(30))
    assert time.monotonic() - began < 1.2  # one after the other takes 1.5 s
    speakers.close()


def test_questions_are_taken_as_there_is_room_and_in_the_callers_thread() -> None:
    taken: list[int] = []

    def source() -> Iterator[Request]:
        for request in asks(5000):
            assert threading.current_thread() is threading.main_thread()
            taken.append(1)
            yield request

    speakers = Speakers([scripted("a", delay=0.001), scripted("b")], Sharing(("a", "b"), "route", default="a"))
    running = speakers.generate(source())
    next(running)
    assert len(taken) <= 1024 + 64
    assert isinstance(running, Generator)
    running.close()
    speakers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("teacher-")]


def test_answers_lead_to_questions_in_the_same_stream() -> None:
    """As a pipeline does: what grows out of an answer is asked before new prompts, and by whoever it is for."""
    grown: list[Request] = []

    def source() -> Iterator[Request]:
        for request in asks(40):
            while grown:
                yield grown.pop()
            yield request
        while grown:
            yield grown.pop()

    speakers = Speakers([scripted("a"), scripted("b"), scripted("j")], Sharing(("a", "b"), default="a", judge="j"))
    seen = []
    for completion in speakers.generate(source()):
        seen.append(completion)
        if completion.teacher != "j":
            grown.append(Request(f"{completion.key}:j", asks(1)[0].messages, speaker="judge"))
    rest = list(speakers.generate(iter(grown)))
    assert sum(item.teacher == "j" for item in (*seen, *rest)) == 40
    speakers.close()


def test_a_stop_ends_all_and_a_pause_holds_all() -> None:
    speakers = Speakers([scripted("a", delay=0.01), scripted("b", delay=0.01)], Sharing(("a", "b"), default="a"))
    stopped, paused = threading.Event(), threading.Event()

    def stop() -> bool:
        while paused.is_set() and not stopped.is_set():
            time.sleep(0.01)
        return stopped.is_set()

    found: list[Completion] = []
    began = time.monotonic()
    for completion in speakers.generate(asks(1000), stop=stop):
        found.append(completion)
        if len(found) == 10:
            stopped.set()
    assert time.monotonic() - began < 3
    assert 10 <= len(found) < 100
    stopped.clear()
    paused.set()
    threading.Timer(1.5, paused.clear).start()
    began = time.monotonic()
    assert len(list(speakers.generate(asks(4), stop=stop))) == 4
    assert time.monotonic() - began > 1.4
    speakers.close()


def test_what_does_not_fit_together_takes_turns() -> None:
    open_now: list[str] = []
    most = 0

    class Large(ScriptedTeacher):
        def __init__(self, name: str) -> None:
            nonlocal most
            super().__init__(TeacherSpec(name, "scripted", options={"script": {"delay": 0.001}}))
            self.name = name
            open_now.append(name)
            most = max(most, len(open_now))

        def close(self) -> None:
            open_now.remove(self.name)

    turn = Turn()
    members = [Member("a", lambda: Large("a"), turn), Member("b", lambda: Large("b"), turn), scripted("c")]
    speakers = Speakers(members, Sharing(NAMES, default="a"))
    assert who(answers(speakers, asks(300))) == {"a": 100, "b": 100, "c": 100}
    assert most == 1
    speakers.close()
    assert open_now == []


def test_local_teachers_answer_side_by_side_as_alone() -> None:
    specs = [
        TeacherSpec(f"t{seed}", "gguf", str(tiny_model(layers=2, seed=seed)), options={"threads": 1}) for seed in (0, 1)
    ]
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=5)
    requests = asks(16, sampling=sampling)
    alone: dict[str, Completion] = {}
    for spec in specs:
        teacher = LlamaTeacher(spec)
        alone |= {f"{spec.name} {item.key}": item for item in teacher.generate(requests)}
        teacher.close()
    members = [Member(spec.name, partial(LlamaTeacher, spec)) for spec in specs]
    speakers = Speakers(members, Sharing(("t0", "t1"), default="t0"))
    found = answers(speakers, requests)
    assert who(found) == {"t0": 8, "t1": 8}
    assert all(item.text == alone[f"{item.teacher} {key}"].text for key, item in found.items())
    speakers.close()


def test_what_a_job_may_say() -> None:
    assert sharing_of({}, ("a", "b"), "", "") == Sharing(("a", "b"), "spread", {}, "a")
    assert sharing_of({"routes": {"x": "b"}}, ("a", "b"), "j", "").share == "route"
    with pytest.raises(BadInput, match="shared so"):
        sharing_of({"share": "half"}, ("a",), "", "")
    with pytest.raises(BadInput, match="takes no part"):
        sharing_of({"routes": {"x": "z"}}, ("a",), "", "")


def spec_of(name: str) -> dict[str, Any]:
    return asdict(TeacherSpec(name, "scripted", options={"script": {"default": f"{name} {{prompt}}"}}))


@pytest.fixture
def speakers_in(tmp_path: Path) -> Iterator[Callable[..., Teacher]]:
    """Opens whoever a job with these parameters asks."""
    jobs: list[Job] = []

    def opened(**parameters: Any) -> Teacher:
        folder = tmp_path / "p" / "runs" / str(len(jobs))
        run_files.write_job(folder, run_files.JobFile("elicit", {"teacher": spec_of("a"), **parameters}))
        jobs.append(Job(folder))
        return open_speakers(jobs[-1])

    yield opened
    for job in jobs:
        job._journal.close()


def test_a_job_with_one_teacher_asks_it_directly(speakers_in: Callable[..., Teacher]) -> None:
    assert isinstance(speakers_in(), ScriptedTeacher)
    assert isinstance(speakers_in(teachers=[spec_of("a")]), ScriptedTeacher)


def test_who_is_not_there_is_said_once_before_the_first_question(
    speakers_in: Callable[..., Teacher], tmp_path: Path
) -> None:
    gone = [asdict(TeacherSpec(name, "gguf", path=str(tmp_path / f"{name}.gguf"))) for name in ("g", "h")]
    teacher = speakers_in(teachers=[gone[0], spec_of("a"), gone[1]])
    told = [line.event for line in read_journal(tmp_path / "p" / "runs" / "0")]
    (warning,) = [event for event in told if isinstance(event, Warned)]
    assert warning.title == "2 of 3 teachers are not there"
    assert f"g: there is no {tmp_path / 'g.gguf'}; h: there is no" in warning.detail
    assert "The run goes on with a." in warning.detail
    assert who(answers(teacher, asks(9))) == {"a": 9}
    assert teacher.notes == []
    teacher.close()


@pytest.mark.parametrize("role", ["judge", "student", "teachers"])
def test_without_whom_a_run_cannot_be_it_does_not_begin(
    speakers_in: Callable[..., Teacher], tmp_path: Path, role: str
) -> None:
    gone = [asdict(TeacherSpec(name, "gguf", path=str(tmp_path / f"{name}.gguf"))) for name in ("g", "h")]
    with pytest.raises(KnownError, match="is not there") as caught:
        speakers_in(**({"teachers": gone} if role == "teachers" else {role: gone[0]}))
    assert "g.gguf" in caught.value.detail


def test_a_job_says_who_speaks(speakers_in: Callable[..., Teacher]) -> None:
    asking = {"step": [{"type": "sample", "speaker": "student"}]}
    with pytest.raises(BadInput, match="asks the student"):
        speakers_in(recipe=asking)
    with pytest.raises(BadInput, match="named twice"):
        speakers_in(teachers=[spec_of("a"), spec_of("a")])
    teacher = speakers_in(
        recipe=asking,
        teachers=[spec_of("a"), spec_of("b")],
        routes={"x": "b"},
        judge=spec_of("b"),
        student=spec_of("s"),
    )
    messages = asks(1)[0].messages
    found = answers(
        teacher,
        [
            Request("1", messages, tags=("x",)),
            Request("2", messages),
            Request("3", messages, speaker="judge"),
            Request("4", messages, speaker="student"),
        ],
    )
    assert [found[key].teacher for key in ("1", "2", "3", "4")] == ["b", "a", "b", "s"]
    teacher.close()
