"""Choose the variable for each role: from the mapping, else by name, else by shape. The report lists every choice."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import rejected
from worker.ingest.recording import Understood

SPIKES = ("spikes", "spike_counts", "counts", "binned_spikes", "spike_data", "data", "y", "x_spikes")
"""Names of arrays of counts, the likeliest first."""

SPIKE_LIKE = re.compile(r"spike|spk|raster|count")
"""Parts of names of spikes."""
STARTS = ("trial_start_s", "trial_start_times", "trial_starts", "trial_start", "start_time", "start_times")
STOPS = (
    "trial_stop_s", "trial_stop_times", "trial_stops", "trial_stop", "trial_end", "trial_ends", "stop_time", "stop_times",
)  # fmt: skip
"""Names of the starts and stops of trials, wherever they lie."""
TABLE_STARTS = (
    *STARTS,
    "start_s",
    "start",
    "start_time_s",
    "t_start",
    "tstart",
    "onset",
    "trialstart",
    "starttime",
)
TABLE_STOPS = (
    *STOPS, "stop_s", "stop", "stop_time_s", "end", "end_s", "t_stop", "tstop", "offset", "trialend", "trialstop", "stoptime",
    "endtime", "end_time",
)  # fmt: skip
"""Their names within a table of trials."""
OTHER_SPIKES = (
    "it looks like the counts of a second recording. mapping.spikes can name it, or list several; "
    "mapping.behaviour makes it a behaviour"
)
"""Why an array of counts beside the spikes was left out."""


@dataclass(frozen=True)
class Variable:
    """Shape and type of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_numbers(self) -> bool:
        """Whether it holds real numbers, and any at all."""
        return self.dtype.kind in "buif" and self.size > 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def length(self) -> int | None:
        """Number of values if at most one axis is longer than 1, as in (n,), (n, 1) and (1, n); else None."""
        return self.size if self.shape and self.size == max(self.shape) else None

    @property
    def is_column(self) -> bool:
        """Whether it holds one plain value after another."""
        return self.length is not None and self.dtype.kind in "buifSU"


_TABLE_COLUMN = re.compile(r"(.*)\(:,(\d+)\)")


def is_table_column(name: str) -> bool:
    """Return whether a name is a column of a MATLAB cell array of trials × columns, such as `data(:,3)`."""
    return _TABLE_COLUMN.fullmatch(name) is not None


def own_name(name: str) -> str:
    """Return the name of an array in the data set: `a.b` for `a/b`, `data_3` for `data(:,3)`."""
    return _TABLE_COLUMN.sub(r"\1_\2", name.replace("/", "."))


Variables = Mapping[str, Variable]


class ArrayFile(Protocol):
    """A file of named arrays, checked before anything is read.

    Attributes
    ----------
    format
        Name of its format.
    variables
        Shape and type of each array.
    numbers
        Single numbers beside the arrays, such as attributes.
    names
        Names of everything in the file, arrays or not.
    """

    format: str
    variables: dict[str, Variable]
    numbers: dict[str, float]

    @property
    def names(self) -> list[str]: ...  # noqa: D102 an attribute of the table above

    def read(self, name: str) -> NDArray[Any]:
        """Read one array whole."""

    def blocks(self, name: str, item_bytes: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Read one array by blocks of its first axis: yields where a block begins, and the block."""


def described(name: str, variable: Variable) -> str:
    """Return a variable as text: `y (10, 1000, 50)`."""
    return f"{name} {variable.shape}"


def given(variables: Variables, role: str, name: str | None, understood: list[Understood]) -> str | None:
    """Return the variable that the mapping gives for a role, or None.

    Raises
    ------
    RejectedFile
        If the file has no variable with that name.
    """
    if name is None:
        return None
    found = name if name in variables else name.strip("/")
    if found not in variables:
        seen = listed((described(*item) for item in variables.items()), 30)
        said = f"mapping.{role} is `{name}`, which is not in the file. It holds: {seen}."
        raise rejected("variable_unknown", said, "Name one of these.", f"/mapping/{role}")
    understood.append(Understood(role, found, "given in the mapping", variables[found].shape))
    return found


def named(
    variables: Variables, names: Iterable[str], fits: Callable[[Variable], bool] = lambda variable: True
) -> str | None:
    """Return the first variable with one of some names, in the order of the names; case and group do not matter."""
    for name in names:
        for full_name, variable in variables.items():
            if full_name.rsplit("/", 1)[-1].rsplit(".", 1)[-1].lower() == name and fits(variable):
                return full_name
    return None


def choose(
    variables: Variables,
    role: str,
    mapped: str | None,
    names: Iterable[str],
    understood: list[Understood],
    *,
    fits: Callable[[Variable], bool] = lambda variable: True,
) -> str | None:
    """Return the variable for a role: the mapping's, else the first of some names that fits, else None."""
    found = given(variables, role, mapped, understood)
    if found is None and (found := named(variables, names, fits)) is not None:
        understood.append(Understood(role, found, "by its name", variables[found].shape))
    return found


def looks_like_counts(file: ArrayFile, name: str) -> bool:
    """Return whether an array holds whole numbers from 0, judged by its first block."""
    for _, block in file.blocks(name, 8):
        return are_counts(block)
    return False


def are_counts(values: NDArray[Any]) -> bool:
    """Return whether all values are whole numbers from 0."""
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values == np.trunc(values)).all())


def is_named(name: str, names: Sequence[str]) -> bool:
    """Return whether a list of the mapping contains a variable, with or without a leading slash."""
    return name in names or name in {one.strip("/") for one in names}
