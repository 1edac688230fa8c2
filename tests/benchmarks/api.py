"""An API teacher, with its ledger on the disk, against a client that asks one question after the other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from openai import OpenAI

from kdstudio.jobs import folder as run_files
from kdstudio.jobs.child import Job
from kdstudio.models.spec import TeacherSpec
from kdstudio.project import Project
from kdstudio.teachers.base import Request, Sampling
from kdstudio.teachers.ledger import ledger_of
from kdstudio.teachers.openai_api import OpenAITeacher
from tests.benchmarks.figures import Figure
from tests.support.paid_server import PaidServer

REQUESTS, AT_ONCE, SECONDS, OF_THE_PEER = 10_000, 64, 0.2, 50
_PEER = f"openai's client, one by one ({OF_THE_PEER} requests, extrapolated)"


def api() -> Iterator[Figure]:
    """10,000 requests to a loopback server in a process of its own that takes 200 ms; arithmetic allows 320 a second.

    Ours write each attempt and each raw body to the disk, waiting for it, as in any run.
    """
    with (
        tempfile.TemporaryDirectory() as place,
        PaidServer(Path(place) / "server.jsonl", told={"seconds": SECONDS}) as it,
    ):
        peer, peer_cost = _one_by_one(it.url)
        spec = TeacherSpec("bench", "openai", url=it.url, model="tiny", options={"requests_at_once": AT_ONCE})
        rate, cost = _ours(Path(place), spec)
        work = f"ask {REQUESTS:,} times, {AT_ONCE} in flight"
        yield Figure(work, rate, "requests/s", ">= 300 (320 is the limit)", peer, _PEER, smaller_is_better=False)
        yield Figure(f"{work}: processor time", cost, "s for 1,000 requests", "", peer_cost, _PEER)


def _one_by_one(url: str) -> tuple[float, float]:
    """Of the SDK as its documentation shows it: requests a second, and seconds of the processor for 1,000 of them."""
    with OpenAI(base_url=url, api_key="none") as client:
        began, busy = time.perf_counter(), time.process_time()
        for number in range(OF_THE_PEER):
            stream = client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": f"question {number}"}], stream=True
            )
            for _ in stream:
                continue
        return _figures(OF_THE_PEER, began, busy)


def _figures(requests: int, began: float, busy: float) -> tuple[float, float]:
    return requests / (time.perf_counter() - began), (time.process_time() - busy) / requests * 1000


def _ours(place: Path, spec: TeacherSpec) -> tuple[float, float]:
    """The same of ours."""
    with Project.create(place / "p") as project:
        parameters = {"teacher": asdict(spec)}
        folder = project.runs_folder / project.runs.add("elicit", "Bench", parameters)
        run_files.write_job(folder, run_files.JobFile("elicit", parameters))
        job = Job(folder)
        teacher = OpenAITeacher(spec, {}, ledger_of(job))
        requests = (
            Request(f"{number}:0:0", ({"role": "user", "content": f"question {number}"},), Sampling(max_tokens=32))
            for number in range(REQUESTS)
        )
        began, busy = time.perf_counter(), time.process_time()
        answered = sum(completion.finish_reason == "stop" for completion in teacher.generate(requests))
        return _figures(answered, began, busy)
