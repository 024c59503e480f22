"""Long computations of requests: in turns by tenant, with a deadline, and only while the client waits for them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Request, Response

from api.auth import CallerDependency
from api.computing.fair_executor import Abandoned, Computation, FairExecutor
from api.computing.streamed_response import Streamed
from api.errors import problem_responses
from api.http.on_loop import on_loop
from api.limits.request_turns import without_turn

COMPUTING_RESPONSES = problem_responses(429, 504)
"""Error responses of a route that computes, for the OpenAPI document."""
_CLIENT_LEFT = 499
"""Status in the access log if the client has left; nobody reads the response."""


@dataclass(frozen=True)
class Computing:
    """The executor of the service, for the tenant of a request. All shares of a tenant are like one more tenant.

    Everything that may take more than about 50 ms of a core belongs here: threads of other requests stay free.
    """

    request: Request
    caller: CallerDependency

    async def run(self, work: Callable[[], Response]) -> Response:
        """Return what `work` returns. It runs in a thread when it is the tenant's turn, unless the client leaves before.

        Raises
        ------
        TooManyComputations, ComputationTimeout, Unavailable
            See `api.computing.fair_executor.FairExecutor`.
        """

        def begin() -> Response:
            response = work()
            if isinstance(response, Streamed):
                response.begin()
            return response

        turn = self._executor.submit(self.caller.group, begin)
        watching = asyncio.create_task(self._abandon_without_client(turn))
        try:
            async with without_turn():
                response: Response = await self._executor.result(turn)
        except Abandoned:
            return Response(status_code=_CLIENT_LEFT)
        finally:
            watching.cancel()
        return self.in_turns(response)

    def in_turns(self, response: Response) -> Response:
        """Return a response whose body, if it is made piece by piece, is made in turns, too."""
        if isinstance(response, Streamed):
            response.produce_by(self._piece)
        return response

    @property
    def _executor(self) -> FairExecutor:
        executor: FairExecutor = self.request.app.state.executor
        return executor

    async def _piece(self, make: Callable[[], Any]) -> Any:
        return await self._executor.result(self._executor.submit(self.caller.group, make, is_piece=True))

    async def _abandon_without_client(self, turn: Computation) -> None:
        while (await self.request.receive())["type"] != "http.disconnect":
            pass
        self._executor.abandon(turn)


class OnlineInference(Computing):
    """The executor of online inference. A request that waits for a worker computes nothing, so it needs no slot of analyses."""

    @property
    def _executor(self) -> FairExecutor:
        executor: FairExecutor = self.request.app.state.inference_executor
        return executor


ComputingDependency = Annotated[Computing, on_loop(Computing)]
OnlineInferenceDependency = Annotated[OnlineInference, on_loop(OnlineInference)]
