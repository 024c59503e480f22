"""Problems of uploaded files, described so that a neuroscientist can act on them."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Self

MOST_TEXT = 4000


@dataclass(frozen=True)
class Problem:
    """One reason for a rejection, or one warning of a report.

    Attributes
    ----------
    code
        Stable and machine-readable, such as `counts_not_whole`.
    message
        What was expected and what was found.
    hint
        What to do about it.
    pointer
        Position: the array's name after a slash (`/spikes`), or an empty string for the whole file.
    """

    code: str
    message: str
    hint: str = ""
    pointer: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the four fields as a JSON object, long texts cut."""
        return {name: text[:MOST_TEXT] for name, text in asdict(self).items()}

    @classmethod
    def from_json(cls, fields: dict[str, str]) -> Self:
        """Make an object from what `to_json` returned."""
        return cls(**fields)


class RejectedFile(Exception):
    """The file cannot become a data set.

    Attributes
    ----------
    problems
        Every reason that was found, the most important first; at least one.
    """

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("; ".join(f"{problem.code}: {problem.message}" for problem in self.problems))


def rejected(code: str, message: str, hint: str = "", pointer: str = "") -> RejectedFile:
    """Return the exception that rejects a file for one reason; the parameters are the attributes of `Problem`."""
    return RejectedFile(Problem(code, message, hint, pointer))


class Gatherer:
    """Collects the problems of independent checks, so that one rejection reports all of them.

    Use it as a context manager around each check; then call `refuse`.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Collect the problems of a rejection; let any other exception pass."""
        if not isinstance(error, RejectedFile):
            return False
        self.problems += [problem for problem in error.problems if problem not in self.problems]
        return True

    def refuse(self) -> None:
        """Raise `RejectedFile` with all problems, if there are any."""
        if self.problems:
            raise RejectedFile(self.problems)
