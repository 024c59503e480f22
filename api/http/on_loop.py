"""Dependencies of routes that run on the event loop."""

import inspect
from collections.abc import Callable
from typing import Any

from fastapi import Depends


def on_loop(build: Callable[..., Any]) -> Any:
    """Return the dependency that calls a function or a class on the event loop.

    FastAPI runs every other dependency that is not `async` in a thread. A request had ten of them, and each change of threads
    takes a part of a millisecond, or several while other threads compute. What waits or computes must stay in a thread.
    """

    async def dependency(**values: Any) -> Any:
        return build(**values)

    dependency.__signature__ = inspect.signature(build)  # type: ignore[attr-defined]  # FastAPI reads the parameters there
    return Depends(dependency)
