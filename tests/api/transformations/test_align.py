"""Alignment to an event against a loop over trials and bins."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.arrays.transformations.alignment import find_event
from api.errors import Invalid
from store.array_store import open_array_store
from store.database import Database
from store.tables import Trial
from tests.api.transformations.laboratory import (
    BINS,
    START_S,
    TRIALS,
    WIDTH_S,
    Laboratory,
    build,
    events_s,
    spikes,
    trial_lengths,
    trial_starts_s,
)


def by_hand(first: int, last: int) -> np.ndarray:
    """Spikes around the event: looked up one by one."""
    counts, found = spikes(), np.full((TRIALS, last - first, 5), np.nan)
    for trial, event_s in enumerate(events_s()):
        if np.isnan(event_s):
            continue
        edges = START_S + np.arange(-200, 200) * WIDTH_S
        at_event = int(np.abs(edges - event_s).argmin()) - 200
        for place, offset in enumerate(range(first, last)):
            if 0 <= at_event + offset < trial_lengths()[trial]:
                found[trial, place] = counts[trial, at_event + offset]
    return found


@given(st.integers(-BINS, BINS - 1), st.integers(1, BINS))
@settings(deadline=None, max_examples=20)
def test_windows_are_cut_around_the_event(lab: Laboratory, first: int, length: int) -> None:
    window = f"{first * WIDTH_S:.6g}:{(first + length) * WIDTH_S:.6g}"
    for event in ("go_cue", "reaction_s"):  # in the session's clock, and in the trial's
        found = lab.one(lab.dataset_id, "spikes", align_to=event, window_s=window)
        np.testing.assert_array_equal(found.values(), by_hand(first, first + length))
        time = found.index("time_s")
        assert time is not None
        np.testing.assert_allclose(time.values, np.arange(first, first + length) * WIDTH_S, atol=1e-12)


def test_what_was_done_is_told(lab: Laboratory) -> None:
    found = lab.one(lab.dataset_id, "spikes", align_to="go_cue", window_s="-0.05:0.1")
    told = dict(found.attributes)
    exact = (events_s() - START_S) / WIDTH_S
    nearest = np.abs(exact - np.rint(exact)) * WIDTH_S
    has_bins = ~np.isnan(by_hand(-2, 5)).all(axis=(1, 2))
    nearest[~has_bins] = np.nan
    assert told.pop("alignment_largest_jitter_s") == pytest.approx(np.nanmax(nearest), abs=1e-9)
    assert 0.008 < np.nanmax(nearest) <= told["alignment_jitter_s"]
    assert told == {
        "aligned_to": "go_cue", "event_clock": "session", "bin_width_s": WIDTH_S, "alignment_jitter_s": WIDTH_S / 2,
        "trials_without_event": 1, "trials_without_bins": int((~has_bins).sum()) - 1,
    }  # fmt: skip
    assert (found.dtype, found.units, found.dims) == (np.float32, "spikes", ("trial", "time_s", "neuron"))
    assert found.description == "spike counts; aligned to go_cue"
    # the first bin that begins in the window is at -0.04
    np.testing.assert_allclose(found.index("time_s").values[[0, -1]], [-0.04, 0.08])
    [at] = [one for one in found.coordinates if one.name == "event_time_s"]
    np.testing.assert_allclose(at.values, events_s())
    assert not [one for one in found.coordinates if one.name == "trial_length_bins"]


def test_latents_are_aligned_by_the_times_of_their_data_set(lab: Laboratory) -> None:
    there = ~np.isnan(lab.array(lab.model_id, "rates").values()[..., 0])
    found = lab.one(lab.model_id, "rates", align_to="go_cue", window_s="-0.1:0.2")
    np.testing.assert_array_equal(np.isnan(found.values()), np.isnan(by_hand(-5, 10)))
    assert there.any()
    assert found.attributes["event_clock"] == "session"


def test_selected_trials_and_bins_keep_their_events(lab: Laboratory) -> None:
    whole = lab.array(lab.dataset_id, "spikes")
    trials, bins = np.array([2, 7, 20]), slice(4, 22)
    part = replace(
        whole,
        shape=(3, 18, 5),
        coordinates=tuple(
            one.taken({"trial": trials, "time_s": bins}.get(one.dim, slice(None)))
            for one in whole.coordinates
        ),
        blocks=lambda: iter([whole.values()[trials][:, bins]]),
    )
    found = lab.one(lab.dataset_id, part, align_to="go_cue", window_s="-0.1:0.2").values()
    expected = by_hand(-5, 10)[trials]
    for row, trial in enumerate(trials):
        if trial == 7:
            continue
        places = round((events_s()[trial] - START_S) / WIDTH_S) + np.arange(-5, 10)
        expected[row, (places < 4) | (places >= 22)] = np.nan
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).any()


def test_bins_on_an_edge_do_not_hang_on_rounding(lab: Laboratory) -> None:
    with lab.context(lab.dataset_id) as context:
        found = find_event("go_cue", None, context, WIDTH_S)
    np.testing.assert_allclose(found.time_s, events_s())  # 100 s and more into the session


@pytest.mark.parametrize(
    ("wanted", "pointer", "says"),
    [
        ({"align_to": "go"}, "align_to", "the trials have no metadata 'go'"),
        ({"align_to": "condition"}, "align_to", "no time but text, such as 'left'"),
        ({"window_s": "0.1"}, "window_s", "expected from:to in seconds"),
        ({"window_s": "nan:1"}, "window_s", "got 'nan:1'"),
        ({"window_s": "0.2:0.1"}, "window_s", "a window with a bin of 0.02 s or more"),
        ({"window_s": "0.001:0.002"}, "window_s", "a window with a bin"),
        ({"window_s": "-100:400"}, "window_s", "at most 1.2 s, twice"),
        ({"window_s": "1e300:2e300"}, "window_s", "at most 1.2 s, twice"),
        ({"window_s": "1e18:1000000000000000128"}, "window_s", "expected a window"),
    ],
)
def test_what_cannot_be_aligned_is_refused(
    lab: Laboratory, wanted: dict[str, str], pointer: str, says: str
) -> None:
    with pytest.raises(Invalid) as caught:
        lab.one(lab.dataset_id, "spikes", **{"align_to": "go_cue", "window_s": "-0.1:0.2", **wanted})
    [problem] = caught.value.errors or []
    assert problem.pointer == pointer
    assert says in problem.message
    if "go" in wanted.values():
        assert caught.value.hint == "their metadata: condition, go_cue, reaction_s, speed"


@pytest.mark.parametrize("name", ["initial_conditions", "continuous_factors"])
def test_arrays_without_trials_and_time_are_refused(lab: Laboratory, name: str) -> None:
    with pytest.raises(Invalid, match="expected an array"):
        lab.one(lab.model_id, name, align_to="go_cue", window_s="-0.1:0.2")


def test_clock_that_cannot_be_told_is_asked_for(sqlite_database: Database) -> None:
    lab = build(sqlite_database, open_array_store("sql:", sqlite_database))
    # Half of the times are the session's, half the trial's.
    with sqlite_database.write() as session:
        for trial in range(TRIALS):
            row = session.get_one(Trial, (lab.dataset_id, trial))
            row.details = row.details | {"mixed": 0.1 + (trial_starts_s()[trial] if trial % 2 else 0.0)}
    with pytest.raises(Invalid, match=r"is ambiguous: 12 trials .* trial and 12 trials .* session") as caught:
        lab.one(lab.dataset_id, "spikes", align_to="mixed", window_s="0:0.1")
    assert "event_clock=session" in (caught.value.hint or "")
    for clock, rows in (("trial", slice(0, None, 2)), ("session", slice(1, None, 2))):
        found = lab.one(lab.dataset_id, "spikes", align_to="mixed", window_s="0:0.1", event_clock=clock)
        at_event = {"trial": 10, "session": 5}[clock]
        expected = np.where(np.arange(BINS)[:, None] < trial_lengths()[:, None, None], spikes(), np.nan)
        np.testing.assert_array_equal(found.values()[rows], expected[rows, at_event : at_event + 5])
        assert found.attributes["event_clock"] == clock


def test_numbers_that_are_no_times_are_refused(sqlite_database: Database) -> None:
    lab = build(sqlite_database, open_array_store("sql:", sqlite_database), with_starts=False)
    with sqlite_database.write() as session:
        for trial in range(TRIALS):
            row = session.get_one(Trial, (lab.dataset_id, trial))
            row.details = row.details | {"condition_number": trial % 4}
    with pytest.raises(Invalid, match=r"lies within its trial in \d+ of the \d+ trials .* is it a time"):
        lab.one(lab.dataset_id, "spikes", align_to="condition_number", window_s="0:0.1")
    found = lab.one(
        lab.dataset_id, "spikes", align_to="condition_number", window_s="0:0.1", event_clock="trial"
    )
    assert found.attributes["event_clock"] == "trial"


def test_without_times_of_trials_there_is_only_the_trial_s_clock(sqlite_database: Database) -> None:
    lab = build(sqlite_database, open_array_store("sql:", sqlite_database), with_starts=False)
    found = lab.one(lab.dataset_id, "spikes", align_to="reaction_s", window_s="-0.1:0.2")
    np.testing.assert_array_equal(found.values(), by_hand(-5, 10))
    with pytest.raises(Invalid, match="is ambiguous: 0 trials"):
        lab.one(lab.dataset_id, "spikes", align_to="go_cue", window_s="-0.1:0.2")
    with pytest.raises(Invalid, match="does not know when its trials begin"):
        lab.one(lab.dataset_id, "spikes", align_to="go_cue", window_s="0:0.1", event_clock="session")
