"""Another event as time 0: each trial is shifted by whole bins, and a window around the event is cut out.

Times of events are metadata of the trials. Where a data set knows when its trials begin in the session (`trial_start_s`), times
may be in seconds of the session; else they are on the time axis of the trials, whose 0 is what the trials are aligned to.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from api.arrays.group_cache import opened
from api.arrays.labelled import Coordinate, LabelledArray, dims_of
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.time_axis import TimeAxis, time_axis
from api.arrays.transformations.trials import (
    LENGTH,
    column,
    first_bin_s,
    floating,
    recorded_bins,
    trials_of,
    with_coordinate,
)
from api.arrays.transformations.wording import described, listed, refusal
from store.tables import Dataset, Trial

Clock = Literal["session", "trial"]

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_WINDOW = re.compile(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*")
_TOLERANCE = 1e-6
"""Of a bin, since times such as 0.3 have no exact binary form."""
_FAR = 2**40
"""Bins: farther than any recording is long."""


@dataclass(frozen=True)
class Event:
    """When an event happens in the trials of a data set.

    Attributes
    ----------
    time_s
        On the time axis of the trials, by trial; NaN where a trial has none.
    clock
        In which its times were given.
    """

    time_s: NDArray[np.float64]
    clock: Clock


def align(
    array: LabelledArray, event: str, window_s: str, clock: Clock | None, surroundings: Surroundings
) -> LabelledArray:
    """A window around an event in each trial; NaN where it leaves the recorded bins, and in trials without the event.

    Parameters
    ----------
    array
        Trials × bins × ….
    event
        The metadata of trials that has its times, in seconds.
    window_s
        ``from:to`` in seconds around it: the bins that begin in it.
    clock
        Of the times; told by the data if it is not given.
    surroundings
        Of the request.

    Raises
    ------
    Invalid
        If the array has no trials and time, there is no such event, or its clock can't be told.
    """
    trials, time = trials_of(array, "align_to"), time_axis(array, surroundings, "align_to")
    if time.axis != 1:
        raise refusal("align_to", f"expected trials × bins × …; {array.name} has {listed(array.dims)}")
    bins = _window(window_s, time)
    found = find_event(event, clock, surroundings, time.width_s)
    times_s = np.full(len(trials), np.nan)
    known = (trials >= 0) & (trials < len(found.time_s))
    times_s[known] = found.time_s[trials[known]]
    exact = (times_s - time.start_s) / time.width_s
    first = np.floor(np.clip(exact, -_FAR, _FAR) + 0.5 + _TOLERANCE)
    ends = recorded_bins(array)
    has_bins = (first + bins[-1] >= 0) & (first + bins[0] < (time.bins if ends is None else ends))
    source = floating(array)
    moved = Coordinate(
        time.dim,
        time.dim,
        bins * time.width_s,
        "s",
        f"start of the bin, from {event}, to the nearest bin",
    )
    others = tuple(one for one in array.coordinates if one.dim != time.dim and one.name != LENGTH)
    aligned = replace(
        source,
        shape=(array.shape[0], len(bins), *array.shape[2:]),
        coordinates=(*others, moved),
        description=described(array.description, f"aligned to {event}"),
        attributes={
            **array.attributes,
            "aligned_to": event,
            "event_clock": found.clock,
            "bin_width_s": time.width_s,
            "alignment_jitter_s": time.width_s / 2,
            "alignment_largest_jitter_s": float(np.abs(first - exact)[has_bins].max(initial=0))
            * time.width_s,
            "trials_without_event": int(np.isnan(times_s).sum()),
            "trials_without_bins": int((~has_bins & ~np.isnan(times_s)).sum()),
        },
        blocks=lambda: _cut(source, first, bins),
    )
    return with_coordinate(
        aligned,
        Coordinate(
            "event_time_s",
            array.dims[0],
            times_s,
            "s",
            f"when {event} was, from what trials were aligned to before",
        ),
    )


def _window(text: str, time: TimeAxis) -> NDArray[np.int64]:
    """The bins of a window, counted from that of the event."""
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise refusal(
            "window_s", f"expected from:to in seconds around the event, such as -0.1:0.4; got {text!r}"
        )
    first, last = (np.ceil(float(part) / time.width_s - _TOLERANCE) for part in match.groups())
    if not first < last:
        raise refusal(
            "window_s", f"expected a window with a bin of {time.width_s:g} s or more in it; got {text!r}"
        )
    longest = 2 * time.bins
    if last - first > longest or max(abs(first), abs(last)) > _FAR:
        raise refusal(
            "window_s",
            f"expected a window of at most {longest * time.width_s:g} s, twice what is selected of a trial; got {text!r}",
            "times are in seconds",
        )
    return np.arange(int(first), int(last))


def _cut(array: LabelledArray, first: NDArray[np.float64], bins: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
    row = 0
    for block in array.blocks():
        places = first[row : row + len(block), None] + bins
        inside = (places >= 0) & (places < block.shape[1])  # NaN is in none
        values = block[np.arange(len(block))[:, None], np.where(inside, places, 0).astype(np.int64)]
        values[~inside] = np.nan
        row += len(block)
        yield values


def find_event(event: str, clock: Clock | None, surroundings: Surroundings, width_s: float) -> Event:
    """When an event happens in each trial of the data set.

    The clock, unless it is given, is the one by which more of the times lie within their trials, more than half of them, and
    twice as many as by the other.

    Raises
    ------
    Invalid
        If there is no such event, or its clock can't be told.
    """
    given_s = _given_times_s(event, surroundings)
    zero_s = first_bin_s(surroundings) or 0.0
    by_clock: dict[Clock, NDArray[np.float64]] = {"trial": given_s}
    if (starts_s := _trial_starts_s(surroundings, len(given_s))) is not None:
        by_clock["session"] = given_s - starts_s + zero_s
    if clock is not None and clock not in by_clock:
        raise refusal(
            "event_clock",
            "the data set does not know when its trials begin in the session: expected trial",
            "files with spike times and a table of trials tell it",
        )
    if clock is None:
        ends_s = zero_s + _lengths(surroundings, len(given_s)) * width_s
        within: dict[Clock, int] = {
            name: int(((times_s >= zero_s - width_s) & (times_s <= ends_s + width_s)).sum())
            for name, times_s in by_clock.items()
        }
        clock = _likeliest(event, within)
        if 2 * within[clock] <= (known := int(np.isfinite(given_s).sum())):
            raise refusal(
                "align_to",
                f"{event} lies within its trial in {within[clock]} of the {known} trials that have it: is it a time in seconds?",
                f"if it is meant, say event_clock={clock}",
            )
    return Event(by_clock[clock], clock)


def _given_times_s(event: str, surroundings: Surroundings) -> NDArray[np.float64]:
    """Times of an event as they are in the metadata, by trial; NaN where a trial has none."""
    values = column(surroundings, event, "align_to")
    given_s = np.full(max(values, default=-1) + 1, np.nan)
    for trial, value in values.items():
        if isinstance(value, str):
            raise refusal(
                "align_to",
                f"{event} is no time but text, such as {value[:50]!r}",
                f"name metadata with times in seconds: {_names_of_numbers(surroundings)}",
            )
        given_s[trial] = float(value) if isinstance(value, int | float) else np.nan
    return given_s


def _likeliest(event: str, within: dict[Clock, int]) -> Clock:
    """The clock by which clearly more times of an event lie within their trials, of numbers by clock."""
    for name, number in within.items():
        if number and all(number >= 2 * other for clock, other in within.items() if clock != name):
            return name
    counted = " and ".join(
        f"{number} trials have theirs within by that of the {name}" for name, number in within.items()
    )
    raise refusal(
        "align_to",
        f"in which clock the times of {event} are can't be told: {counted}",
        "say it: event_clock=session or event_clock=trial (from what trials are aligned to)",
    )


def _names_of_numbers(surroundings: Surroundings) -> str:
    """Names of metadata that have numbers."""
    query = select(Trial.details).where(Trial.dataset_id == surroundings.group.dataset_id).limit(1)
    details = surroundings.session.execute(query).scalar() or {}
    return listed(sorted(name for name, value in details.items() if isinstance(value, int | float)))


def _lengths(surroundings: Surroundings, trials: int) -> NDArray[np.int64]:
    query = select(Trial.trial, Trial.length_bins)
    lengths = np.zeros(trials, np.int64)
    for trial, length in surroundings.session.execute(
        query.where(Trial.dataset_id == surroundings.group.dataset_id)
    ):
        lengths[trial] = length
    return lengths


def _trial_starts_s(surroundings: Surroundings, trials: int) -> NDArray[np.float64] | None:
    """When the first bin of each trial begins in the session, over all sessions of the data set; None if none tells it."""
    dataset = surroundings.session.get_one(Dataset, surroundings.group.dataset_id)
    group = opened(surroundings.store, dataset.array_path or "")
    starts_s = None
    for name, array in group.arrays.items():
        [dim, *others] = dims_of(array) or ("",)
        # a session's own arrays end as its dims do
        if others or name != "trial_start_s" + dim.removeprefix("trial") or dim not in group.arrays:
            continue
        if starts_s is None:
            starts_s = np.full(trials, np.nan)
        rows = group.values(dim).astype(np.int64)
        inside = (rows >= 0) & (rows < trials)
        starts_s[rows[inside]] = group.values(name)[inside]
    return starts_s
