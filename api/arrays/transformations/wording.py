"""What transformations say: why one can't be done, and what was done to an array."""

from collections.abc import Iterable

from api.errors import Invalid
from api.validation_errors import FieldProblem

_MOST_NAMED = 20


def refusal(parameter: str, message: str, hint: str | None = None) -> Invalid:
    """The error of one parameter of a request."""
    problem = FieldProblem(pointer=parameter, code=parameter, message=message, hint=hint)
    return Invalid(f"{parameter}: {message}", hint=hint, errors=[problem])


def listed(names: Iterable[object]) -> str:
    """Names for a message; none in words, and of many only the first."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - _MOST_NAMED} more" if len(texts) > _MOST_NAMED else ""
    return ", ".join(texts[:_MOST_NAMED]) + more if texts else "none"


def described(description: str, done: str) -> str:
    """The description of an array to which something was done."""
    return f"{description}; {done}" if description else done
