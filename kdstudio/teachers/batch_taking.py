"""What becomes of the questions in batches: kept, read and settled; answered, or to be asked again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum

from kdstudio.errors import KnownError
from kdstudio.teachers.asking import Asking, Terms
from kdstudio.teachers.base import Completion, Request
from kdstudio.teachers.batch_courier import Ended
from kdstudio.teachers.batch_results import ResultLine, result_lines
from kdstudio.teachers.batch_wire import BatchDialect, OpenBatch, UnansweredError, line_of, name_in, name_of
from kdstudio.teachers.ledger import JournalLedger, Question
from kdstudio.teachers.openai_body import UnreadableError
from kdstudio.teachers.wire import Failure, Provider

_TOGETHER, _MOST_ADAPTED = 256, 16


class Again(Enum):
    """What a question without an answer waits for: to be asked, or the batch that it is in."""

    ASK = "ask"
    WAIT = "wait"


class Taking:
    """The questions of one teacher that wait for a batch. `ends_run` is what a batch's errors say of all others."""

    def __init__(
        self,
        dialect: BatchDialect,
        provider: Provider,
        alone: Asking,
        batched: Asking,
        terms: Terms,
        ledger: JournalLedger,
    ) -> None:
        """`alone` and `batched` read what was asked by itself and in a batch, each at its price."""
        self._dialect, self._provider, self._alone, self._batched = dialect, provider, alone, batched
        self._terms, self._ledger, self.tries = terms, ledger, terms.tries
        self.ends_run: KnownError | None = None
        self._waiting: dict[Question, Request] = {}
        self._reserved: dict[tuple[Question, int], float] = {}
        self._tried, self._adapted = Counter[Question](), Counter[Question]()

    def taken_in(self, request: Request) -> Completion | Again:
        """What is known of a question: its answer, whose body an earlier process kept, or what it waits for."""
        question = self._terms.teacher, request.key
        if (kept := self._ledger.body(question)) is not None:
            found = self._read(request, *kept)
            return found if isinstance(found, Completion) else Again.ASK
        for batch in self._ledger.batches(self._terms.teacher):
            if question in batch.numbers and question not in batch.done:
                self._waiting[question] = request
                return Again.WAIT
        return Again.ASK

    def planned(
        self, batch: OpenBatch, requests: Mapping[Question, Request], reserved: Mapping[Question, float]
    ) -> None:
        """A batch is about to be sent: it is on the disk when this returns. Its amounts are reserved already."""
        self._waiting |= requests
        self._reserved |= {(question, number): reserved[question] for question, number in batch.numbers.items()}
        self._ledger.plan(batch, reserved)

    def not_taken(self, batch: OpenBatch, state: str = "refused") -> list[Request]:
        """A batch that the provider did not take, so that nothing of it is billed: its questions are to be asked."""
        again = self._unbilled(batch, batch.left)
        self._ledger.note(batch, state)
        return again

    def _unbilled(self, batch: OpenBatch, questions: Sequence[Question]) -> list[Request]:
        for question in questions:
            self._ledger.settle(question, batch.numbers[question], None)
            self._pay((question, batch.numbers[question]), 0.0)
        return [request for question in questions if (request := self._waiting.pop(question, None)) is not None]

    def results(self, ended: Ended) -> Iterator[Completion | Request]:
        """All that came of a batch: answers, and requests that are to be asked again. A line is kept before it is read.

        A question without a line is unbilled in a batch that ended early. Otherwise its answer may be among the lines
        that belong to nobody; then it is not bought again.
        """
        batch, nobody, names = ended.batch, list[str](), ended.batch.names(self._ledger.run)
        together = list[ResultLine]()
        for line in result_lines(ended.file, names):
            question = names.get(line.name)
            if question is not None and question in batch.done:
                continue
            if question is None:
                nobody.append(f"batch:{batch.id}#{line.number}")
            together.append(line)
            if len(together) >= _TOGETHER:
                yield from self._kept(batch, names, together)
                together = []
        yield from self._kept(batch, names, together)
        yield from self._missing(ended, nobody)
        self._ledger.note(batch, "ended")

    def _kept(
        self, batch: OpenBatch, names: Mapping[str, Question], lines: Sequence[ResultLine]
    ) -> Iterator[Completion | Request]:
        bodies = [self._body(batch, names, line) for line in lines]
        self._ledger.keep_all(bodies)
        for question, number, raw in bodies:
            if (request := self._waiting.pop(question, None)) is not None:
                yield self._read(request, number, raw)

    def _body(self, batch: OpenBatch, names: Mapping[str, Question], line: ResultLine) -> tuple[Question, int, str]:
        raw = line.raw.replace(self._terms.key, "[key]") if self._terms.key else line.raw
        if (question := names.get(line.name)) is not None:
            return question, batch.numbers[question], raw
        return (batch.teacher, f"batch:{batch.id}#{line.number}"), 1, raw

    def _missing(self, ended: Ended, nobody: Sequence[str]) -> Iterator[Completion | Request]:
        """The questions of which no line told anything; `nobody` are the lines that belong to none."""
        batch, left = ended.batch, ended.batch.left
        if nobody and len(left) <= len(nobody):
            run, lost = self._ledger.run, {"its answer is one of": list(nobody)}
            self._ledger.keep_all(
                [
                    (one, batch.numbers[one], json.dumps({"custom_id": name_of(run, one, batch.numbers[one]), **lost}))
                    for one in left
                ]
            )
            for one in left:
                if (request := self._waiting.pop(one, None)) is not None:
                    yield self._read(request, batch.numbers[one], self._ledger_body(one))
        elif not nobody and ended.state.outcome != "completed":
            for request in self._unbilled(batch, left):
                yield self._again(request, "the batch ended before its turn came")
        else:
            for one in left:
                self._pay((one, batch.numbers[one]), None)
                if (request := self._waiting.pop(one, None)) is not None:
                    yield self._again(request, "the batch's results do not mention it")

    def _ledger_body(self, question: Question) -> str:
        kept = self._ledger.body(question)
        return kept[1] if kept else ""

    def _read(self, request: Request, number: int, raw: str) -> Completion | Request:
        """The answer in a body that is kept; the request, where it is to be asked again."""
        question, line = (self._terms.teacher, request.key), line_of(raw)
        if not name_in(line):  # asked by itself, or a line that is broken
            return self._answer(question, number, self._alone.read(request, number, raw))
        try:
            body = self._dialect.answer(line)
        except UnreadableError:
            body = raw
        except Exception as error:  # noqa: BLE001 -- sorted by the provider, which raises what is not the endpoint's
            self._ledger.settle(question, number, None)
            self._pay((question, number), 0.0)
            return self._failed(request, error)
        return self._answer(question, number, self._batched.read(request, number, body))

    def _answer(self, question: Question, number: int, completion: Completion) -> Completion:
        self._pay((question, number), completion.cost)
        return completion

    def _failed(self, request: Request, error: Exception) -> Completion | Request:
        """What a line's error means, as that of a single request would."""
        question = self._terms.teacher, request.key
        if isinstance(error, UnansweredError):
            return self._again(request, str(error))
        failure = self._provider.failure(error)
        if self._provider.adapted(error, request) and self._adapted[question] < _MOST_ADAPTED:
            self._adapted[question] += 1
            return request
        if failure.kind == "ends_run":
            self.ends_run = self.ends_run or failure.error
            return request
        if failure.kind == "permanent":
            return _error(request, failure)
        return self._again(request, failure.words)

    def _again(self, request: Request, words: str) -> Completion | Request:
        question = self._terms.teacher, request.key
        self._tried[question] += 1
        if self._tried[question] < self.tries:
            return request
        return Completion(request.key, "", "error", error=words)

    def _pay(self, place: tuple[Question, int], cost: float | None) -> None:
        """Count what one of this process's attempts cost in place of what was reserved; None: perhaps all of that."""
        if (reserved := self._reserved.pop(place, None)) is not None:
            self._ledger.spend.settle(reserved, reserved if cost is None else cost)

    def leave(self) -> None:
        """What is still with the provider may cost all that was reserved for it."""
        for place in list(self._reserved):
            self._pay(place, None)


def _error(request: Request, failure: Failure) -> Completion:
    return Completion(request.key, "", "error", error=failure.words)
