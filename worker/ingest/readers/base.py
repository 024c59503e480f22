"""The protocol of a reader of a file format, and what readers share."""

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from domain.dataset_options import DatasetOptions
from store.disk_errors import is_disk_error
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.recording import MetadataValue, Recording
from worker.ingest.spike_trains import SpikeTrains

MOST_AXES = 8
MOST_ARRAYS = 1000
_USABLE_NAME = re.compile(r"[^\W_][\w .()/%^-]{0,99}")


class ReadOptions(DatasetOptions):
    """Options of the request about a file, and how much of it may be read."""

    max_expanded_bytes: int = Field(
        4 * 2**30, description="What is read of the file may be at most this many bytes, uncompressed."
    )


class Reader(Protocol):
    """Reads one file format. Members of the registry in `readers/__init__.py` keep its contract test."""

    format: str

    def recognises(self, path: Path) -> bool:
        """Return whether the content of a file (never its name) looks like this format. Raise nothing."""

    def read(self, path: Path, options: ReadOptions) -> Recording | SpikeTrains:
        """Read the file: counts become a recording, spike times become trains, which the caller bins.

        A reader looks at `options.mapping`, at the bin width of counts and at the unit of times; it writes into `understood`
        the meaning of each variable, and into `warnings` what it left out. Selection of trials and neurons and everything
        after it is done by the caller.

        Raises
        ------
        RejectedFile
            For unreadable files; a damaged file may raise other exceptions.
        """


def refuse_giant(
    declared_bytes: int, options: ReadOptions, what: str = "", hint: str = "", pointer: str = ""
) -> None:
    """Reject a file whose arrays declare more bytes than the options allow.

    Parameters
    ----------
    declared_bytes
        Uncompressed size.
    options
        Options with the limit.
    what, hint, pointer
        What is too large, the remedy, and the option to change; by default the arrays of the file.
    """
    if declared_bytes > options.max_expanded_bytes:
        raise rejected(
            "file_too_large_expanded",
            f"{what or 'The arrays of this file are'} {_size(declared_bytes)} uncompressed; "
            f"at most {_size(options.max_expanded_bytes)} are read.",
            hint
            or "Bin the spikes wider, store counts as uint8, leave out arrays that are not needed, or upload in parts.",
            pointer,
        )


def _size(number_of_bytes: int) -> str:
    if number_of_bytes >= 2**30:
        return f"{number_of_bytes / 2**30:.1f} GiB"
    return f"{number_of_bytes / 2**20:.1f} MiB"


def refuse_shape_of_spikes(name: str, shape: tuple[int, ...], kind: str) -> None:
    """Reject spikes that are not numbers in three axes.

    Parameters
    ----------
    name
        Name of the array in the file.
    shape
        Shape of the array; trials × bins × neurons is expected.
    kind
        Kind of its dtype, as in numpy.
    """
    if len(shape) != 3:
        said = f"`{name}` has shape {shape}: expected three axes, trials × bins × neurons."
        hint = "Give one row for each trial, one column for each bin, and neurons last."
        raise rejected("spikes_wrong_axes", said, hint, f"/{name}")
    refuse_text_for_spikes(name, kind)


def refuse_empty(name: str, shape: tuple[int, ...]) -> None:
    """Reject spikes that have an axis of length 0."""
    if 0 in shape:
        said = f"`{name}` has shape {shape}: it is empty."
        hint = "Check how it was written, or name another variable with mapping.spikes."
        raise rejected("recording_too_small", said, hint, f"/{name}")


def refuse_text_for_spikes(name: str, kind: str) -> None:
    """Reject spikes that are not numbers."""
    if kind not in "buif":
        said = f"`{name}` does not hold numbers."
        raise rejected("spikes_not_numbers", said, "Give whole spike counts, such as uint8.", f"/{name}")


def left_out(name: str, shape: tuple[int, ...], why: str) -> Problem:
    """Return the warning for an array that was left out."""
    return Problem(
        "array_left_out",
        f"`{name[:100]}`, of shape {shape}, was left out: {why}.",
        "Arrays are kept if their axes are trials or neurons (metadata), trials × bins, or trials × bins × k (behaviour).",
        f"/{name[:100]}",
    )


UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What numpy, zipfile and h5py raise for one array that is damaged."""

DAMAGED_FILE = (
    *UNREADABLE, IndexError, OverflowError, SyntaxError, NotImplementedError, RecursionError, struct.error,
)  # fmt: skip
"""What numpy, zipfile and h5py raise for a damaged file."""


def is_short_of_memory(error: Exception) -> bool:
    """Return whether an array could not be read for lack of memory."""
    # HDF5 reports a lack of memory with this word. For a damaged file it says 'past end of allocation'.
    return "allocat" in str(error) and "end of allocation" not in str(error)


def why_unreadable(error: Exception) -> str:
    """Return why an array of metadata was left out; raise the error again if memory was short or the disk is full."""
    if is_short_of_memory(error) or is_disk_error(error):
        raise error
    return f"it cannot be read ({str(error)[:100]})"


@contextmanager
def unless_needed(unreadable: Mapping[str, Problem]) -> Iterator[None]:
    """Add the problems of unreadable arrays to a rejection for something missing.

    Parameters
    ----------
    unreadable
        Array → why it cannot be read. The reader leaves these arrays out with a warning.
    """
    try:
        yield
    except RejectedFile as error:
        is_missing = any(problem.code.endswith(("_missing", "_unknown")) for problem in error.problems)
        if not unreadable or not is_missing:
            raise
        raise RejectedFile([*unreadable.values(), *error.problems]) from error


def neurons_merged(other: str, neuron: str) -> Problem:
    """Return the warning for labels that differ among the spikes of one neuron and may be labels of neurons too."""
    said = (
        f"`{neuron[:100]}` was read as the neuron of each spike, and `{other[:100]}` differs among the spikes of one. If "
        "both together name a neuron, several neurons became one."
    )
    hint = (
        "If so, name the right array with mapping.neuron, or add one with a separate label for each neuron."
    )
    return Problem("neurons_merged", said, hint, "/mapping/neuron")


def name_is_usable(name: str) -> bool:
    """Return whether a name is usable in tables and URLs: at most 100 letters, digits and plain punctuation."""
    return _USABLE_NAME.fullmatch(name) is not None and ".." not in name


def metadata_values(values: NDArray[np.generic]) -> list[MetadataValue]:
    """Convert one value for each trial to plain Python values; None where a number is not finite.

    Parameters
    ----------
    values : bool, integer, float or string, [trials]
        Bytes are read as UTF-8.
    """
    if values.dtype.kind == "S":
        return [value.decode("utf-8", "replace").replace("\x00", "") for value in values.tolist()]
    if values.dtype.kind == "U":
        texts = (str(value).encode("utf-8", "replace").decode() for value in values.tolist())
        return [text.replace("\x00", "") for text in texts]
    if values.dtype.kind == "f":
        return [value if np.isfinite(value) else None for value in values.astype(np.float64).tolist()]
    plain: list[MetadataValue] = values.tolist()
    return plain


def parse_trial_lengths(values: NDArray[np.generic], name: str, bins: int) -> NDArray[np.int64]:
    """Read trial lengths in bins: whole numbers from 1 to the number of bins."""
    numbers = values.astype(np.float64) if values.dtype.kind in "uif" else np.full(values.shape, np.nan)
    wrong = ~((numbers >= 1) & (numbers <= bins) & (numbers == np.trunc(numbers)))
    if wrong.any():
        trial = int(np.argmax(wrong))
        raise rejected(
            "trial_length_invalid",
            f"`{name}` says {values[trial].item()!r} at trial {trial} (counted from 0): "
            f"expected a whole number of bins from 1 to {bins}.",
            "Lengths are in bins, not in seconds or milliseconds; leave out trials without any bin.",
            f"/{name}",
        )
    return numbers.astype(np.int64)
