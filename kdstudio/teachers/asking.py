"""One question to a hosted teacher, with its tries: what every API has in common.

The SDK's own retries are off: one call whose answer is late would be sent three times, and billed three times. Ours
wait with full jitter, never repeat what cannot succeed, and never send again what was answered: a body is in the ledger
before it is read, and one that cannot be read is kept and shown instead of bought again.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace
from urllib.parse import quote

from kdstudio.errors import in_one_line
from kdstudio.teachers.base import Completion, Request
from kdstudio.teachers.ledger import Ledger, Question
from kdstudio.teachers.limits import LONGEST_REST, Limits
from kdstudio.teachers.prices import Price
from kdstudio.teachers.spend import most_cost, most_tokens
from kdstudio.teachers.wire import Answered, Failure, Provider, Show

_BASE_WAIT, _LONGEST_BACKOFF = 0.5, 30.0
_MOST_ADAPTED = 16
_NAME_CHARACTERS, _SHOWN_CHARACTERS = 512, 300


@dataclass(frozen=True)
class Failed:
    """A request that got no answer, and why."""

    key: str
    failure: Failure


@dataclass(frozen=True)
class TooDear:
    """A request that was not sent, since it might cost more than the ceiling leaves: `least` US dollars."""

    key: str
    least: float


@dataclass(frozen=True)
class Terms:
    """On what terms one teacher is asked. `key` must not reach the ledger; `price` is None where it is not known."""

    teacher: str
    model: str
    key: str
    tries: int
    price: Price | None


@dataclass
class _Attempt:
    """One attempt between its reservation and its settlement."""

    question: Question
    reserved: float
    number: int = 0
    sent: bool = False


class Asking:
    """Asks through one provider, on one event loop; `notes` grows by what the person should know."""

    def __init__(self, provider: Provider, terms: Terms, ledger: Ledger, limits: Limits, notes: list[str]) -> None:
        self.provider = provider
        self._terms, self._ledger, self._limits, self._notes = terms, ledger, limits, notes
        self._answered = ledger.answered(terms.teacher)
        self._called = ""

    async def ask(self, request: Request, show: Show | None = None) -> Completion | Failed | TooDear:
        """Ask until there is an answer or the tries are used up. Raises `KnownError` for what ends the whole run.

        An answer that broke off each time is returned as "incomplete" with the text that came: it may be paid for.
        """
        question = self._terms.teacher, request.key
        if (kept := self._ledger.body(question)) is not None:
            return self._read(request, question, *kept)
        tried = adapted = 0
        while True:
            outcome = await self._try(request, question, show)
            if not isinstance(outcome, _Tried):
                return outcome
            failure = outcome.failure
            if outcome.adapted and adapted < _MOST_ADAPTED:
                adapted += 1
                continue
            tried += 1
            shown = failure.kind == "cut" and show is not None and failure.partial and failure.partial.text
            if failure.kind == "permanent" or shown or tried >= self._terms.tries:
                # what was shown cannot be taken back
                return failure.partial or Failed(request.key, failure)
            await asyncio.sleep(self._wait(failure, tried))

    def read(self, request: Request, number: int, raw: str) -> Completion:
        """Read a body that is in the ledger as attempt `number`, and settle it."""
        return self._read(request, (self._terms.teacher, request.key), number, raw)

    async def _try(self, request: Request, question: Question, show: Show | None) -> Completion | TooDear | _Tried:
        attempt = _Attempt(question, most_cost(request, self._terms.price))
        if not await self._ledger.spend.reserve(attempt.reserved):
            return TooDear(request.key, attempt.reserved)
        tokens = sum(most_tokens(request))
        taken: float = 0
        spent = 0.0
        try:
            await self._limits.approach(tokens)
            try:
                outcome = await self._sent(attempt, request, show)
                if isinstance(outcome, Completion):
                    taken, spent = outcome.prompt_tokens + outcome.tokens, outcome.cost
                elif attempt.sent:
                    spent = attempt.reserved
                return outcome
            except BaseException:
                spent = attempt.reserved if attempt.sent else 0.0
                raise
            finally:
                self._limits.give_back(tokens - taken)
        finally:
            self._ledger.spend.settle(attempt.reserved, spent)

    async def _sent(self, attempt: _Attempt, request: Request, show: Show | None) -> Completion | _Tried:
        """Write the attempt down, send it, write down what came, read it. `attempt.sent` stays if it may be billed."""
        try:
            attempt.number = await self._ledger.begin(attempt.question, attempt.reserved)
            entered = await self._limits.enter()
        except BaseException:
            self._limits.withdraw()
            if attempt.number:  # written, and not sent
                self._ledger.settle(attempt.question, attempt.number, None)
            raise
        attempt.sent, overloaded = True, False
        try:
            raw = await self.provider.attempt(request, self._name(attempt), show)
        except Exception as error:  # noqa: BLE001 -- sorted by the provider; what is not the endpoint's is raised there
            tried = self._failed(attempt, request, error)
            overloaded = tried.failure.overloaded
            return tried
        finally:
            self._limits.leave(entered, overloaded=overloaded)
        if self._terms.key:
            raw = raw.replace(self._terms.key, "[key]")
        await self._ledger.keep(attempt.question, attempt.number, raw)
        return self._read(request, attempt.question, attempt.number, raw)

    def _failed(self, attempt: _Attempt, request: Request, error: Exception) -> _Tried:
        failure = self.provider.failure(error)
        if not failure.may_be_billed:
            attempt.sent = False
            self._ledger.settle(attempt.question, attempt.number, None)
        if failure.retry_after:
            self._limits.rest(failure.retry_after)
        if failure.kind == "ends_run" and not (failure.unless_answered and self._may_be_answered()):
            ends = failure.error or error
            self._limits.close(ends)  # one that is refused for good tells on all that would follow
            raise ends from error
        return _Tried(failure, self.provider.adapted(error, request))

    def _may_be_answered(self) -> bool:
        """Whether the endpoint has answered, or others than the request at hand are still waiting for its answer."""
        return self._answered or self._limits.in_flight > 1

    def _read(self, request: Request, question: Question, number: int, raw: str) -> Completion:
        """Parse a body that is in the ledger; one that cannot be read is an answer all the same, an unusable one."""
        try:
            answered = self.provider.read(raw, request)
            wrong = self._wrong_model(answered.model)
        except Exception as error:  # noqa: BLE001 -- sorted by the provider, as above
            answered, wrong = Answered(Completion(request.key, "", "error")), self.provider.failure(error).words
            cost = most_cost(request, self._terms.price)
        else:
            cost = self._cost(request, answered)
            self._answered = True
        completion = replace(answered.completion, cost=cost)
        if wrong:
            completion = replace(completion, text="", finish_reason="error", error=_kept_words(wrong, raw))
        self._ledger.settle(question, number, replace(answered, completion=completion))
        return completion

    def _cost(self, request: Request, answered: Answered) -> float:
        """US dollars. Where the server did not count the prompt's tokens, the most that they can be."""
        completion = answered.completion
        prompt_tokens = completion.prompt_tokens or most_tokens(request)[0]
        price = self._terms.price
        return price.cost(prompt_tokens, completion.tokens, answered.cached_tokens) if price else 0.0

    def _wrong_model(self, name: str) -> str:
        """Words for an answer that came from another model than was asked, "" for the right one.

        Many servers call a model by a longer name, and local ones answer whatever they are called: the first name that
        a server uses for itself is taken, with a note, as long as it has not used the right one.
        """
        asked, said = _plain(self._terms.model), _plain(name)
        if not said or not asked or said in asked or asked in said:
            self._called = self._called or (asked if said else "")
            return ""
        if not self._called:
            self._called = said
            self._notes.append(f"{self._terms.model!r} is called {name!r} by its server.")
        return "" if said == self._called else f"another model answered: {name!r} instead of {self._terms.model!r}"

    def _name(self, attempt: _Attempt) -> str:
        """The attempt's name for the server's log, in ASCII."""
        parts = (self._ledger.run, *attempt.question, str(attempt.number))
        return "/".join(quote(part, safe=":#") for part in parts)[-_NAME_CHARACTERS:]

    @staticmethod
    def _wait(failure: Failure, tried: int) -> float:
        """Seconds before the next try: full jitter below a doubling bound, on top of what the endpoint asks for."""
        jitter = random.uniform(0, min(_LONGEST_BACKOFF, _BASE_WAIT * 2 ** (tried - 1)))
        return jitter if failure.retry_after is None else min(LONGEST_REST, failure.retry_after + min(jitter, 1.0))


@dataclass(frozen=True)
class _Tried:
    """An attempt that failed; `adapted`: the question is put anew, without what the endpoint refuses."""

    failure: Failure
    adapted: bool


def _plain(model: str) -> str:
    return model.rsplit("/", 1)[-1].lower().removesuffix(":latest").removesuffix(":free")


def _kept_words(words: str, raw: str) -> str:
    shown = " ".join(raw.split())[:_SHOWN_CHARACTERS]
    return in_one_line(
        f"{words}\nIt is paid for and not asked again; the run's journal keeps all of it\nIt begins: {shown}"
    )
