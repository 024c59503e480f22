"""Long computations: tenants take turns, a deadline ends them, and so does a client that leaves."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from api.computing import fair_executor
from api.computing.fair_executor import MOST_PAUSED, QUANTUM_S, Abandoned, FairExecutor, FairTurns, Turn
from api.errors import ComputationTimeout, TooManyComputations, Unavailable
from api.limits.request_turns import _SHORT_SECONDS, AtWork, at_work
from domain.cancellation import cancellation_point


class Machine:
    """Two slots and a clock that the test moves: in each step every running computation works for 10 ms."""

    STEP_S = 0.01

    def __init__(self, slots: int = 2) -> None:
        self.now = 0.0
        self.turns = FairTurns(slots, lambda: self.now)
        self.running: list[Turn] = []
        self.left: dict[Turn, float] = {}
        self.ended: dict[Turn, float] = {}
        self.most_begun = 0

    def ask(self, tenant: str, seconds: float) -> Turn:
        turn = Turn(tenant, lambda: self.running.append(turn))
        turn.resumed.set = lambda: self.running.append(turn)  # type: ignore[method-assign]  # instead of a thread
        self.left[turn] = seconds
        self.turns.ask(turn)
        return turn

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            self.now += self.STEP_S
            for turn in list(self.running):
                self.left[turn] -= self.STEP_S
                if self.left[turn] < 1e-9:
                    self.running.remove(turn)
                    self.ended[turn] = self.now
                    self.turns.end(turn)
                elif self.turns.pause_if_due(turn):
                    self.running.remove(turn)
            assert len(self.running) <= 2
            begun = [turn for turn in self.left if turn.has_begun and turn not in self.ended]
            self.most_begun = max(self.most_begun, len(begun))


def test_a_short_computation_beside_eight_long_ones_of_another_tenant() -> None:
    machine = Machine()
    for _ in range(8):
        machine.ask("a", 60.0)
    machine.run(lambda: machine.now > 10)
    for _ in range(3):
        asked = machine.now
        mine = machine.ask("b", 0.2)
        machine.run(lambda mine=mine: mine in machine.ended)  # type: ignore[misc]  # bound at once
        assert machine.ended[mine] - asked <= 0.2 + 2 * max(QUANTUM_S, machine.STEP_S)


def test_three_tenants_get_equal_shares() -> None:
    machine = Machine()
    turns = {name: machine.ask(name, 100.0) for name in "abc"}
    machine.run(lambda: machine.now > 9)
    assert [round(turn.used_s) for turn in turns.values()] == [6, 6, 6]


def test_within_a_tenant_short_ones_do_not_wait_for_long_ones() -> None:
    machine = Machine()
    for _ in range(2):
        machine.ask("a", 30.0)
    machine.run(lambda: machine.now > 5)
    mine = machine.ask("a", 0.1)
    machine.run(lambda: mine in machine.ended)
    assert machine.now < 5.3


def test_few_computations_have_begun_and_wait() -> None:
    machine = Machine()
    for number in range(60):
        machine.ask(f"tenant {number % 20}", 0.5)
    machine.run(lambda: len(machine.ended) == 60)
    assert machine.most_begun <= 2 + MOST_PAUSED
    assert machine.now == pytest.approx(60 * 0.5 / 2, rel=0.05)


class Gate:
    """A computation that a test lets run on; it stops at its next cancellation point."""

    def __init__(self) -> None:
        self.begun, self.goes_on, self.was_stopped = threading.Event(), threading.Event(), False

    def __call__(self) -> str:
        self.begun.set()
        try:
            while not self.goes_on.wait(0.001):
                cancellation_point()
        except Exception:
            self.was_stopped = True
            raise
        return "done"


class Holder:
    """A computation that keeps its slot until it may end: without cancellation points it is never paused."""

    def __init__(self) -> None:
        self.begun, self.goes_on = threading.Event(), threading.Event()

    def __call__(self) -> bool:
        self.begun.set()
        return self.goes_on.wait(20)


def run(test: Callable[[], Any]) -> None:
    async def limited() -> None:
        with anyio.fail_after(20):
            await test()

    asyncio.run(limited())


async def begun(gate: Gate | Holder) -> None:
    while not gate.begun.is_set():
        await asyncio.sleep(0.001)


def test_a_computation_whose_time_is_over_ends() -> None:
    async def test() -> None:
        executor, gate = FairExecutor(1, 0.05, 1), Gate()
        with pytest.raises(ComputationTimeout):
            await executor.result(executor.submit("a", gate))
        assert gate.was_stopped

    run(test)


def test_a_computation_that_waits_too_long_never_begins() -> None:
    async def test() -> None:
        executor, holder, gate = FairExecutor(1, 0.1, 2), Holder(), Gate()
        held = executor.submit("a", holder)
        await begun(holder)
        with pytest.raises(Unavailable):
            await executor.result(executor.submit("a", gate))
        assert not gate.begun.is_set()
        holder.goes_on.set()
        assert await executor.result(held)

    run(test)


def test_a_cancelled_task_ends_its_computation() -> None:
    async def test() -> None:
        executor, gate = FairExecutor(1, 20, 1), Gate()
        task = asyncio.create_task(executor.result(executor.submit("a", gate)))
        await asyncio.sleep(0)
        await begun(gate)
        with pytest.raises(TooManyComputations):
            executor.submit("a", Gate())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.was_stopped
        assert await executor.result(executor.submit("a", lambda: "there is a place again"))

    run(test)


def test_a_cancelled_task_that_waits_never_begins() -> None:
    async def test() -> None:
        executor, holder, gate = FairExecutor(1, 20, 2), Holder(), Gate()
        held = executor.submit("a", holder)
        await begun(holder)
        task = asyncio.create_task(executor.result(executor.submit("a", gate)))
        other = executor.submit("b", lambda: "another tenant is not refused")
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        holder.goes_on.set()
        assert await executor.result(held)
        assert await executor.result(other)
        assert not gate.begun.is_set()

    run(test)


def test_a_paused_computation_can_be_abandoned() -> None:
    async def test() -> None:
        executor, first, second = FairExecutor(1, 20, 2), Gate(), Gate()
        paused = executor.submit("a", first)
        await begun(first)
        other = executor.submit("b", second)
        await begun(second)
        executor.abandon(paused)
        with pytest.raises(Abandoned):
            await executor.result(paused)
        second.goes_on.set()
        assert await executor.result(other) == "done"

    run(test)


def test_long_computations_wait_for_requests_and_short_ones_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(at_work, "wait_until_idle", waits.append)

    def compute(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            cancellation_point()

    async def test() -> None:
        executor = FairExecutor(1, 20, 1)
        monkeypatch.setattr(fair_executor, "_SHORT_S", 20.0)
        await executor.result(executor.submit("a", lambda: compute(0.05)))
        assert not waits
        monkeypatch.setattr(fair_executor, "_SHORT_S", 0.01)
        await executor.result(executor.submit("a", lambda: compute(0.05)))
        assert waits

    run(test)


def test_a_computation_waits_for_what_is_short_alone() -> None:
    now, seconds = 0.0, 60.0
    work = AtWork(lambda: now)
    work.add("a request that waits for another service")
    now += _SHORT_SECONDS
    began = time.monotonic()
    work.wait_until_idle(seconds)
    work.add("a request")
    threading.Timer(0.001, lambda: [work.discard(one) for one in list(work._members)]).start()
    work.wait_until_idle(seconds)
    assert time.monotonic() - began < seconds
    assert not work._members
