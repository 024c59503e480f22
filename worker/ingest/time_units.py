"""Units of time: from the request and from names, and conversion to seconds. docs/data.md has the order of precedence."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import DatasetOptions
from domain.errors import listed
from worker.ingest.problems import rejected
from worker.ingest.recording import MetadataValue

_LATEST_S = 1e11
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_WHOLE_FROM = 100.0
"""Floats that are all whole numbers, some of them this large, are probably in milliseconds or samples."""
UNITS = {
    "s": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "ms": "ms", "msec": "ms", "msecs": "ms",
    "millis": "ms", "millisecond": "ms", "milliseconds": "ms", "us": "us", "µs": "us", "μs": "us", "usec": "us", "usecs": "us",
    "microsecond": "us", "microseconds": "us", "sample": "samples", "samples": "samples",
}  # fmt: skip
_GLUED = re.compile(r"(?:spike)?(times?|timestamps?|onsets?|t)(ms|msec|us|usec|sec|secs|samples)")
_OF_TIMES = {
    "time", "times", "timestamp", "timestamps", "onset", "onsets", "latency", "latencies", "duration", "durations", "tstart",
    "tstop", "rt",
}  # fmt: skip
_NO_TIMES = {
    "n", "num", "number", "count", "counts", "bin", "bins", "index", "idx", "id", "step", "steps", "unit", "ntimes",
}  # fmt: skip


def _words(name: str) -> list[str]:
    """Return the words of a variable's own name in lower case: go, cue, ms for `trials/goCue (ms)`."""
    own = name.rsplit("/", 1)[-1]
    field = own.rsplit(".", 1)[-1]
    own = own if field.lower() in UNITS else field
    return [word.lower() for word in re.findall(r"[A-Zµμ]?[a-zµμ]+|[A-Z]+(?![a-z])|\d+", own)]


def unit_of(name: str) -> str | None:
    """Return the unit at the end of a variable's name, as in `time_ms`, `t (s)` and `goCueMs`; None without one."""
    words = _words(name)
    if not words:
        return None
    glued = _GLUED.fullmatch(words[-1])
    if glued is not None:
        return UNITS[glued[2]]
    return UNITS.get(words[-1]) if len(words) > 1 else None


def is_time(name: str) -> bool:
    """Return whether a name is one of times: `go_cue_time`, `stim_onset` and `cue_ms` are, `n_times` is not."""
    words = _words(name)
    if unit_of(name) in ("s", "ms", "us"):
        return True
    if not words or _NO_TIMES.intersection(words):
        return False
    return (
        words[-1] in _OF_TIMES or words[0] in ("time", "t") or words[-1].endswith(("time", "times", "onset"))
    )


def in_seconds(
    times: NDArray[Any],
    options: DatasetOptions,
    variable: str,
    file_unit: str | None = None,
    file_rate_hz: float | None = None,
) -> NDArray[np.float64]:
    """Convert spike times to seconds.

    Parameters
    ----------
    times
        Times in the file.
    options
        Options of the request: `spike_time_unit`, `time_unit` and `sampling_rate_hz` take precedence over the file.
    variable
        Name in the file.
    file_unit
        `s`, `ms`, `us` or `samples`, if the format or the file gives it.
    file_rate_hz
        Samples per second, if the file has it.

    Raises
    ------
    RejectedFile
        For whole numbers without a unit, samples without a rate, and impossible times.
    """
    unit = spike_unit(options, variable) or file_unit
    return _converted(times, unit, options, variable, file_rate_hz=file_rate_hz, option="spike_time_unit")


def spike_unit(options: DatasetOptions, variable: str) -> str | None:
    """Return the unit of spike times that the options or the variable's name say."""
    return options.spike_time_unit or options.time_unit or unit_of(variable)


def trial_seconds(
    times: NDArray[Any],
    options: DatasetOptions,
    variable: str,
    file_unit: str | None = None,
    file_rate_hz: float | None = None,
) -> NDArray[np.float64]:
    """Convert times of trials, events or behaviour to seconds; the parameters are those of `in_seconds`."""
    unit = options.trial_time_unit or unit_of(variable) or options.time_unit or file_unit
    return _converted(times, unit, options, variable, file_rate_hz=file_rate_hz, option="trial_time_unit")


def column_seconds(
    values: list[MetadataValue],
    options: DatasetOptions,
    name: str,
    file_unit: str | None = None,
    file_rate_hz: float | None = None,
) -> NDArray[np.float64]:
    """Convert a column of the table of trials to seconds, NaN for missing values; parameters as for `in_seconds`.

    Raises
    ------
    RejectedFile
        If the column holds text or truth values, or its unit is unclear.
    """
    other = next((value for value in values if isinstance(value, str | bool)), None)
    if other is not None:
        said = f"trials.align_to is `{name}`, whose values are not times, such as {other!r}."
        raise rejected("align_to_not_times", said, "Name a column of times in seconds.", "/trials/align_to")
    times = np.array([np.nan if value is None else value for value in values], np.float64)
    known = times[np.isfinite(times)]
    is_whole = len(known) > 0 and bool(
        (known == np.trunc(known)).all() and np.abs(known).max() >= _WHOLE_FROM
    )
    if is_whole and np.abs(known).max() < 2**53:
        trial_seconds(
            known.astype(np.int64), options, name, file_unit, file_rate_hz
        )  # raises if the unit is unclear
    return trial_seconds(times, options, name, file_unit, file_rate_hz)


def columns_in_seconds(
    columns: Mapping[str, list[MetadataValue]],
    options: DatasetOptions,
    file_rate_hz: float | None,
    notes: list[str],
) -> dict[str, list[MetadataValue]]:
    """Return columns of trials, times converted to seconds if the options give another unit; a note lists them.

    Columns whose name ends with a unit keep their values.
    """
    unit, found = options.trial_time_unit or options.time_unit, dict(columns)
    if unit in (None, "s"):
        return found
    changed = [
        name
        for name, values in columns.items()
        if (is_time(name) or name == options.trials.align_to)
        and unit_of(name) is None
        and _are_numbers(values)
    ]
    for name in changed:
        times_s = column_seconds(columns[name], options, name, None, file_rate_hz).tolist()
        found[name] = [time_s if np.isfinite(time_s) else None for time_s in times_s]
    if changed:
        notes.append(
            f"Metadata of trials that are times were converted from {unit} to seconds: {listed(changed, 30)}."
        )
    return found


def _are_numbers(values: Iterable[MetadataValue]) -> bool:
    return not any(isinstance(value, str | bool) for value in values)


def _converted(
    times: NDArray[Any],
    unit: str | None,
    options: DatasetOptions,
    variable: str,
    *,
    file_rate_hz: float | None,
    option: str,
) -> NDArray[np.float64]:
    if times.dtype.kind not in "iuf":
        said = f"`{variable}` does not hold numbers, but {times.dtype}."
        raise rejected("times_not_numbers", said, "Give times in seconds as floats.", f"/{variable}")
    if unit is None and times.dtype.kind in "iu" and times.size and int(times.max()) > 1:
        said = (
            f"The times in `{variable}` are whole numbers, up to {int(times.max())}: they may be samples or "
            "milliseconds, and the file does not say which."
        )
        hint = (
            "Give time_unit: `s`, `ms`, `us`, or `samples` with sampling_rate_hz (30000 for most systems). "
            f"If only these times are in that unit, give {option} instead."
        )
        raise rejected("time_unit_unclear", said, hint, "/time_unit")
    if unit != "samples":
        return _refuse_absurd(np.asarray(times, np.float64) * _SECONDS[unit or "s"], variable)
    rate_hz = options.sampling_rate_hz or file_rate_hz
    if rate_hz is None:
        said = f"The times in `{variable}` are in samples, and the sampling rate is unknown."
        hint = "Give sampling_rate_hz (30000 for most systems)."
        raise rejected("sampling_rate_missing", said, hint, "/sampling_rate_hz")
    return _refuse_absurd(np.asarray(times, np.float64) / rate_hz, variable)


def _refuse_absurd(times_s: NDArray[np.float64], variable: str) -> NDArray[np.float64]:
    """Reject times so large that bins cannot be numbered (times since 1970 can)."""
    finite_s = times_s[np.isfinite(times_s)]
    if max(finite_s.max(initial=0.0), -finite_s.min(initial=0.0)) > _LATEST_S:
        said = f"The times in `{variable}` go from {finite_s.min():g} to {finite_s.max():g} s."
        raise rejected("times_absurd", said, "Check their unit: time_unit.", f"/{variable}")
    return times_s
