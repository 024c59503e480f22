"""Threads for long computations, which tenants use in turns.

A computation waits without a thread until a slot is free. Each slot goes to the tenant that has computed the least, and within
a tenant to the computation that has run the least. A computation that has used its slot for a while gives it up at its next
cancellation point if another one comes first. So short computations of a tenant do not wait for the long ones of others.

All threads of a process share Python's lock, and each that computes delays each step of the others. So a longer computation waits
at its cancellation points, for a short while, until no request and no short computation is at work.
"""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event, Lock
from typing import Any, TypeVar

import anyio

from api.errors import ComputationTimeout, TooManyComputations, Unavailable
from api.limits.request_turns import LatelyUsed, at_work
from domain.cancellation import cancellable
from domain.quotas import Use

T = TypeVar("T")

QUANTUM_S = 0.005
"""Time for which a computation keeps its slot although another one should come first."""
_SHORT_S = 0.02
"""A computation that has used less processor time than this does not wait for requests; longer ones do."""
_LITTLE_S = 0.2
"""Processor time after which all computations of a tenant are long, as are the pieces of its downloads (see `LatelyUsed`)."""
_YIELD_S = 0.02
"""Time for which a longer computation waits, at most, while requests run."""
_RUN_S = 0.005
"""Processor time after which it waits again. So requests that never end leave it a third of the time."""
MOST_PAUSED = 8
"""Most computations that have begun and wait for a slot: each of them holds memory, and may hold a database connection."""
_RETRY_AFTER_S = 5


class Abandoned(Exception):
    """The client of a computation has left."""


class Turn:
    """A computation that waits, runs, or is paused.

    Parameters
    ----------
    tenant_id
        The tenant.
    begin
        Starts the computation, when it gets its first slot.

    Attributes
    ----------
    used_s
        Time for which it had a slot, in seconds.
    """

    def __init__(self, tenant_id: str, begin: Callable[[], Any]) -> None:
        self.tenant_id, self.begin = tenant_id, begin
        self.has_begun, self.used_s = False, 0.0
        self.granted_at = self.charged_at = 0.0
        self.resumed = Event()

    def wake(self) -> None:
        """Begin, or go on."""
        if self.has_begun:
            self.resumed.set()
        else:
            self.has_begun = True
            self.begin()


class FairTurns:
    """Decides which computations have a slot. It contains no threads.

    Parameters
    ----------
    slots
        Number of computations that run at a time.
    clock
        Returns the time in seconds.
    """

    def __init__(self, slots: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._slots, self._clock = slots, clock
        self._used_s: dict[str, float] = {}  # of tenants that have a computation
        self._waiting: list[Turn] = []
        self._running: list[Turn] = []
        self._lock = Lock()

    def ask(self, turn: Turn) -> None:
        """Let a computation begin as soon as a slot is free."""
        with self._lock:
            self._charge()
            # A tenant that comes has no advantage over the others from the time when it did not compute.
            self._used_s.setdefault(turn.tenant_id, min(self._used_s.values(), default=0.0))
            self._waiting.append(turn)
            self._grant()

    def pause_if_due(self, turn: Turn) -> bool:
        """Take its slot from a computation that has used it for a while, if another one comes first.

        Return whether the computation has to wait until it is woken.
        """
        if self._clock() - turn.granted_at < QUANTUM_S:
            return False
        with self._lock:
            self._charge()
            if not self._waiting:
                return False
            first = min(self._waiting, key=self._order)
            if not self._comes_first(first, turn) or not self._may_pause(turn, first):
                return False
            turn.resumed.clear()
            self._running.remove(turn)
            self._waiting.append(turn)
            self._grant()
            return True

    def end(self, turn: Turn) -> None:
        """Free the slot of a computation that has ended."""
        with self._lock:
            self._charge()
            if turn in self._running:
                self._running.remove(turn)
            self._forget(turn.tenant_id)
            self._grant()

    def withdraw(self, turn: Turn) -> bool:
        """Return True if a waiting computation was removed before it began; the caller must then set its result."""
        with self._lock:
            if turn not in self._waiting:
                return False
            self._waiting.remove(turn)
            if turn.has_begun:
                turn.resumed.set()  # it ends without a slot
                return False
            self._forget(turn.tenant_id)
            return True

    def _charge(self) -> None:
        now = self._clock()
        for turn in self._running:
            elapsed, turn.charged_at = now - turn.charged_at, now
            turn.used_s += elapsed
            self._used_s[turn.tenant_id] += elapsed

    def _grant(self) -> None:
        while self._waiting and len(self._running) < self._slots:
            turn = min(self._waiting, key=self._order)
            self._waiting.remove(turn)
            self._running.append(turn)
            turn.granted_at = turn.charged_at = self._clock()
            turn.wake()

    def _order(self, turn: Turn) -> tuple[float, float]:
        return self._used_s[turn.tenant_id], turn.used_s

    def _comes_first(self, other: Turn, turn: Turn) -> bool:
        if other.tenant_id == turn.tenant_id:
            return other.used_s + QUANTUM_S <= turn.used_s
        return self._used_s[other.tenant_id] + QUANTUM_S <= self._used_s[turn.tenant_id]

    def _may_pause(self, turn: Turn, first: Turn) -> bool:
        """Return whether `turn` may be paused, in memory, while `first` runs.

        At most one computation of a tenant is paused for another of the same tenant.
        """
        paused = [one.tenant_id for one in self._waiting if one.has_begun]
        is_same_tenant = first.tenant_id == turn.tenant_id
        return first.has_begun or (
            len(paused) < MOST_PAUSED and not (is_same_tenant and turn.tenant_id in paused)
        )

    def _forget(self, tenant_id: str) -> None:
        if all(one.tenant_id != tenant_id for one in (*self._running, *self._waiting)):
            self._used_s.pop(tenant_id, None)


class Computation(Turn):
    """A computation with its result.

    Attributes
    ----------
    result
        Set when the computation has ended and its slot is free.
    stop
        The error that it raises at its next cancellation point.
    yields_at
        Processor time of its thread, in seconds, at which it waits for requests next.
    """

    def __init__(self, tenant_id: str, begin: Callable[["Computation"], Any]) -> None:
        super().__init__(tenant_id, lambda: begin(self))
        self.result: Future[Any] = Future()
        self.stop: Exception | None = None
        self.yields_at = 0.0


class FairExecutor:
    """Runs computations in threads, by turns.

    Parameters
    ----------
    threads
        Number of computations that run at a time.
    seconds
        Time for which a computation may run, and for which it may wait before it begins.
    most_of_tenant
        Number of computations of one tenant that may run and wait, without pieces of downloads.
    """

    def __init__(self, threads: int, seconds: float, most_of_tenant: int) -> None:
        self._seconds, self._most_of_tenant = seconds, most_of_tenant
        self._turns = FairTurns(threads)
        self._pool = ThreadPoolExecutor(max_workers=threads + MOST_PAUSED, thread_name_prefix="computation")
        self._under_way: set[Computation] = set()
        self._used = LatelyUsed()
        self._lock = Lock()

    def submit(self, tenant_id: str, work: Callable[[], T], *, is_piece: bool = False) -> Computation:
        """Let a computation begin when it is its turn.

        Parameters
        ----------
        tenant_id
            The tenant.
        work
            The computation, with cancellation points.
        is_piece
            Whether it is a piece of a response under way, which is never refused.

        Raises
        ------
        TooManyComputations
            If the tenant has as many under way as it may have.
        """
        run = contextvars.copy_context().run
        turn = Computation(tenant_id, lambda turn: self._pool.submit(run, self._run, turn, work))
        if not is_piece:
            self._count(turn)
        self._turns.ask(turn)
        return turn

    def _count(self, turn: Computation) -> None:
        with self._lock:
            number = self._number(turn.tenant_id)
            if number >= self._most_of_tenant:
                raise TooManyComputations(
                    f"{number} analyses and other long computations of yours run or wait; at most {self._most_of_tenant} may",
                    hint=f"wait for one of them, and try again in {_RETRY_AFTER_S} s",
                    headers={"Retry-After": str(_RETRY_AFTER_S)},
                    use=Use("analyses", number, self._most_of_tenant),
                )
            self._under_way.add(turn)
        turn.result.add_done_callback(lambda _: self._uncount(turn))

    def number(self, tenant_id: str) -> int:
        """Return how many computations of a tenant run and wait."""
        with self._lock:
            return self._number(tenant_id)

    def _number(self, tenant_id: str) -> int:
        return sum(one.tenant_id == tenant_id for one in self._under_way)

    def _uncount(self, turn: Computation) -> None:
        with self._lock:
            self._under_way.discard(turn)

    async def result(self, turn: Computation) -> Any:
        """Return the result of a computation, or raise its error. If the waiting task is cancelled, so is the computation."""
        ended = asyncio.wrap_future(turn.result)
        waits_too_long = asyncio.get_running_loop().call_later(self._seconds, self._give_up_waiting, turn)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.abandon(turn)
            with anyio.CancelScope(shield=True):
                await asyncio.wait([ended])
            if not ended.cancelled():
                ended.exception()  # nobody else asks for it
            raise
        finally:
            waits_too_long.cancel()

    def abandon(self, turn: Computation) -> None:
        """End a computation: at once if it has not begun, else at its next cancellation point."""
        self._stop(turn, Abandoned())

    def _give_up_waiting(self, turn: Computation) -> None:
        if not turn.has_begun:
            self._stop(
                turn,
                Unavailable(
                    f"the service is busy: this computation waited {self._seconds:g} s for its turn",
                    hint="try again later, or ask for less at the same time",
                    headers={"Retry-After": str(_RETRY_AFTER_S)},
                ),
            )

    def _stop(self, turn: Computation, error: Exception) -> None:
        turn.stop = error
        if self._turns.withdraw(turn):
            turn.result.set_exception(error)

    def _run(self, turn: Computation, work: Callable[[], T]) -> None:
        found: T | None = None
        failed: BaseException | None = None
        began = time.thread_time()
        with self._lock:
            is_short = self._used.of(turn.tenant_id) < _LITTLE_S
        turn.yields_at = began + (_SHORT_S if is_short else 0.0)
        if is_short:
            at_work.add(turn)
        try:
            with cancellable(lambda: self._check(turn)):
                self._check(turn)
                found = work()
        except BaseException as error:
            failed = error
        at_work.discard(turn)
        with self._lock:
            self._used.add(turn.tenant_id, time.thread_time() - began)
        self._turns.end(turn)
        if failed is not None:
            turn.result.set_exception(failed)
        else:
            turn.result.set_result(found)

    def _check(self, turn: Computation) -> None:
        """Stop a computation whose client has left or whose time is over; pause it if it is another's turn."""
        if turn.stop is None and self._turns.pause_if_due(turn):
            at_work.discard(turn)
            turn.resumed.wait()
        if turn.stop is None and time.thread_time() >= turn.yields_at:
            at_work.discard(turn)
            at_work.wait_until_idle(_YIELD_S)
            turn.yields_at = time.thread_time() + _RUN_S
        if turn.stop is not None:
            raise turn.stop
        if turn.used_s > self._seconds:
            raise ComputationTimeout(
                f"the computation took longer than {self._seconds:g} s and was stopped",
                hint="ask for less: fewer trials (where=, split=, trial=), a part of the time (time_s=), wider bins (rebin_s=), "
                "fewer components (components=) or folds; or download the arrays and compute on your machine. The operator of "
                "the service can raise LATENTRY_COMPUTATION_SECONDS",
            )
