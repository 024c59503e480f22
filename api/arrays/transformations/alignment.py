"""Alignment to another event: each trial is shifted by whole bins, and a window around the event is cut out.

Times of events are metadata of the trials. If the data set knows when its trials begin in the session (`trial_start_s`), times
may be in seconds of the session. Else they are on the time axis of the trials, whose 0 is what the trials are aligned to.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from api.arrays.axes import (
    LENGTH,
    TimeAxis,
    column,
    first_bin_s,
    floating,
    recorded_bins,
    time_axis,
    trials_of,
)
from api.arrays.groups import ReadContext, dims_of, open_cached
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.messages import described, invalid_parameter
from domain.errors import listed
from store.tables import Dataset, Trial

EventClock = Literal["session", "trial"]

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?"
_WINDOW = re.compile(rf"\s*({_NUMBER})\s*:\s*({_NUMBER})\s*")
_TOLERANCE = 1e-6
"""Share of a bin by which times may be off, because times such as 0.3 have no exact binary form."""
_FAR = 2**40
"""A number of bins beyond the length of any recording."""


@dataclass(frozen=True)
class Event:
    """The times of an event in the trials of a data set.

    Attributes
    ----------
    time_s
        On the time axis of the trials, by trial; NaN where a trial has no such event.
    clock
        The clock in which the times were given.
    """

    time_s: NDArray[np.float64]
    clock: EventClock


def align(
    array: LabelledArray, event: str, window_s: str, clock: EventClock | None, context: ReadContext
) -> LabelledArray:
    """Return a window around an event in each trial; NaN outside the recorded bins, and in trials without the event.

    Parameters
    ----------
    array
        Trials × bins × ….
    event
        The metadata of trials with its times, in seconds.
    window_s
        ``from:to`` in seconds around the event: the bins that begin within.
    clock
        Clock of the times; by default derived from the data.
    context
        Context of the request.

    Raises
    ------
    Invalid
        If the array has no trials and time, there is no such event, or its clock is ambiguous.
    """
    trials, time = trials_of(array, "align_to"), time_axis(array, context, "align_to")
    if time.axis != 1:
        raise invalid_parameter(
            "align_to", f"expected trials × bins × …; {array.name} has {listed(array.dims)}"
        )
    bins = _window(window_s, time)
    found = find_event(event, clock, context, time.width_s)
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
    return aligned.with_coordinate(
        Coordinate(
            "event_time_s",
            array.dims[0],
            times_s,
            "s",
            f"when {event} was, from what trials were aligned to before",
        ),
    )


def _window(text: str, time: TimeAxis) -> NDArray[np.int64]:
    """Return the bins of a window, counted from the bin of the event."""
    match = _WINDOW.fullmatch(text)
    if match is None:
        raise invalid_parameter(
            "window_s", f"expected from:to in seconds around the event, such as -0.1:0.4; got {text!r}"
        )
    first, last = (np.ceil(float(part) / time.width_s - _TOLERANCE) for part in match.groups())
    if not first < last:
        raise invalid_parameter(
            "window_s", f"expected a window with a bin of {time.width_s:g} s or more in it; got {text!r}"
        )
    longest = 2 * time.bins
    if last - first > longest or max(abs(first), abs(last)) > _FAR:
        raise invalid_parameter(
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


def find_event(event: str, clock: EventClock | None, context: ReadContext, width_s: float) -> Event:
    """Return when an event happens in each trial of the data set.

    Without `clock`, choose the clock that places more events inside their trials: more than half of all events, and at least
    twice as many as the other clock.

    Raises
    ------
    Invalid
        If there is no such event, or its clock is ambiguous.
    """
    given_s = _given_times_s(event, context)
    zero_s = first_bin_s(context) or 0.0
    by_clock: dict[EventClock, NDArray[np.float64]] = {"trial": given_s}
    if (starts_s := _trial_starts_s(context, len(given_s))) is not None:
        by_clock["session"] = given_s - starts_s + zero_s
    if clock is not None and clock not in by_clock:
        raise invalid_parameter(
            "event_clock",
            "the data set does not know when its trials begin in the session: expected trial",
            "files with spike times and a table of trials tell it",
        )
    if clock is None:
        ends_s = zero_s + _lengths(context, len(given_s)) * width_s
        within: dict[EventClock, int] = {
            name: int(((times_s >= zero_s - width_s) & (times_s <= ends_s + width_s)).sum())
            for name, times_s in by_clock.items()
        }
        clock = _likeliest(event, within)
        if 2 * within[clock] <= (known := int(np.isfinite(given_s).sum())):
            raise invalid_parameter(
                "align_to",
                f"{event} lies within its trial in {within[clock]} of the {known} trials that have it: is it a time in seconds?",
                f"if it is, choose event_clock={clock}",
            )
    return Event(by_clock[clock], clock)


def _given_times_s(event: str, context: ReadContext) -> NDArray[np.float64]:
    """Return the times of an event as in the metadata, by trial; NaN where a trial has none."""
    values = column(context, event, "align_to")
    given_s = np.full(max(values, default=-1) + 1, np.nan)
    for trial, value in values.items():
        if isinstance(value, str):
            raise invalid_parameter(
                "align_to",
                f"{event} is no time but text, such as {value[:50]!r}",
                f"name metadata with times in seconds: {_names_of_numbers(context)}",
            )
        given_s[trial] = float(value) if isinstance(value, int | float) else np.nan
    return given_s


def _likeliest(event: str, within: dict[EventClock, int]) -> EventClock:
    """Return the clock by which clearly more times lie within their trials, given these numbers by clock."""
    for name, number in within.items():
        if number and all(number >= 2 * other for clock, other in within.items() if clock != name):
            return name
    counted = " and ".join(
        f"{number} trials contain the event by the clock of the {name}" for name, number in within.items()
    )
    raise invalid_parameter(
        "align_to",
        f"the clock of {event} is ambiguous: {counted}",
        "choose event_clock=session, or event_clock=trial for times from what trials are aligned to",
    )


def _names_of_numbers(context: ReadContext) -> str:
    """Return the names of metadata that hold numbers."""
    query = select(Trial.details).where(Trial.dataset_id == context.group.dataset_id).limit(1)
    details = context.session.execute(query).scalar() or {}
    return listed(sorted(name for name, value in details.items() if isinstance(value, int | float)))


def _lengths(context: ReadContext, trials: int) -> NDArray[np.int64]:
    query = select(Trial.trial, Trial.length_bins)
    lengths = np.zeros(trials, np.int64)
    for trial, length in context.session.execute(query.where(Trial.dataset_id == context.group.dataset_id)):
        lengths[trial] = length
    return lengths


def _trial_starts_s(context: ReadContext, trials: int) -> NDArray[np.float64] | None:
    """Return when the first bin of each trial begins in its session, over all sessions; None if no session knows it."""
    dataset = context.session.get_one(Dataset, context.group.dataset_id)
    group = open_cached(context.store, dataset.array_path or "")
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
