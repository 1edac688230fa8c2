"""The gate before an endpoint: places, minutes, rests, on a clock that the test turns."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest

from kdstudio.teachers import limits as gate
from kdstudio.teachers.limits import Bucket, Limits


class Clock:
    """A monotonic clock by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def soon(waiting: Awaitable[object]) -> bool:
    """Whether something is through within a moment."""
    task = asyncio.ensure_future(waiting)
    done, _ = await asyncio.wait([task], timeout=0.02)
    task.cancel()
    await asyncio.wait([task])
    return bool(done)


async def one(limits: Limits, *, overloaded: bool = False, tokens: float = 1) -> None:
    await limits.approach(tokens)
    limits.leave(await limits.enter(), overloaded=overloaded)


def test_a_bucket_lets_a_minutes_worth_through_in_a_minute() -> None:
    clock = Clock()
    bucket, taken = Bucket(120, clock), 0
    for _ in range(600):
        if bucket.wait() == 0:
            bucket.take(1)
            taken += 1
        clock.now += 0.1
    assert 120 <= taken <= 126


def test_a_bucket_in_debt_waits_and_gets_back_what_was_not_used() -> None:
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(32)
    assert bucket.wait() == pytest.approx(30.0)
    bucket.take(-20)
    assert bucket.wait() == pytest.approx(10.0)


def test_the_window_doubles_until_the_first_complaint_and_then_grows_by_one_a_round() -> None:
    async def scene() -> None:
        clock = Clock()
        limits = Limits(64, clock=clock)
        assert limits.at_once == 32
        for _ in range(16):
            await one(limits)
        assert limits.at_once == 48
        clock.now += 1
        await one(limits, overloaded=True)
        assert limits.at_once == 32
        for _ in range(33):
            await one(limits)
        assert limits.at_once == 33
        for _ in range(20):
            clock.now += 1
            await one(limits, overloaded=True)
        assert limits.at_once == 1
        for _ in range(5000):
            await one(limits)
        assert limits.at_once == 64

    asyncio.run(scene())


def test_what_was_sent_before_a_decrease_does_not_decrease_again() -> None:
    async def scene() -> None:
        clock = Clock()
        limits = Limits(64, clock=clock)
        entered = [await limits.enter() for _ in range(32)]
        clock.now += 1
        for moment in entered:
            limits.leave(moment, overloaded=True)
        assert limits.at_once == 21

    asyncio.run(scene())


def test_no_more_are_in_flight_than_the_window_and_few_are_ahead() -> None:
    async def scene() -> None:
        limits = Limits(8, clock=Clock())
        for _ in range(10):
            await limits.approach(1)
        assert not await soon(limits.approach(1))
        for _ in range(8):
            await limits.enter()
        assert not await soon(limits.enter())
        limits.leave(0.0)
        assert await soon(limits.enter())

    asyncio.run(scene())


def test_a_rest_holds_all_and_lasts_two_minutes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_LOOK_SECONDS", 0.005)

    async def scene() -> None:
        clock = Clock()
        limits = Limits(4, clock=clock)
        limits.rest(3600)
        assert not await soon(limits.approach(1))
        clock.now += 119
        assert not await soon(limits.approach(1))
        assert not await soon(limits.enter())  # it approached before the rest began
        clock.now += 2
        assert await soon(limits.approach(1))
        assert await soon(limits.enter())

    asyncio.run(scene())


def test_tokens_a_minute_hold_as_requests_do() -> None:
    async def scene() -> None:
        clock = Clock()
        limits = Limits(64, tokens_per_minute=600, clock=clock)
        await one(limits, tokens=30)
        assert not await soon(limits.approach(30))
        clock.now += 1.1
        assert await soon(limits.approach(30))

    asyncio.run(scene())


def test_a_closed_gate_turns_away_those_before_both_doors() -> None:
    async def scene() -> None:
        limits = Limits(1, clock=Clock())
        await limits.approach(1)
        entered = await limits.enter()
        waiting = [asyncio.ensure_future(limits.enter()), asyncio.ensure_future(limits.approach(1))]
        await asyncio.sleep(0)
        refused = ValueError("no such key")
        limits.close(refused)
        limits.close(ValueError("and again"))
        limits.leave(entered)
        assert (
            await asyncio.gather(*waiting, limits.approach(1), limits.enter(), return_exceptions=True) == [refused] * 4
        )
        assert limits.in_flight == 0

    asyncio.run(scene())


def test_a_place_goes_to_who_has_waited_longest_and_not_to_one_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "_LOOK_SECONDS", 3600)

    async def scene() -> None:
        limits = Limits(1, clock=Clock())
        await limits.enter()
        first, second, third = (asyncio.ensure_future(limits.enter()) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        limits.leave(0.0)
        await second
        assert not third.done()
        limits.leave(0.0)
        await third
        assert first.cancelled()

    asyncio.run(scene())
