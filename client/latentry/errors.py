"""What the client raises."""

from typing import Any

import httpx


class LatentryError(Exception):
    """The service answered with a problem, or a job did not end well.

    Parameters
    ----------
    message
        What was expected, and what came.
    hint
        What to do.
    status
        HTTP status; 0 when the request itself was answered well.
    problem
        The whole problem document.
    """

    def __init__(
        self, message: str, hint: str = "", status: int = 0, problem: dict[str, Any] | None = None
    ) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.message, self.hint, self.status, self.problem = message, hint, status, problem or {}


def error_of(answer: httpx.Response) -> LatentryError:
    """The error that an answer tells."""
    try:
        problem = answer.json()
    except ValueError:
        return LatentryError(f"the service answered {answer.status_code}", status=answer.status_code)
    return LatentryError(
        str(problem.get("detail", problem)), str(problem.get("hint") or ""), answer.status_code, problem
    )
