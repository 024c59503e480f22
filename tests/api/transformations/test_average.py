"""Averages by condition against pandas and xarray."""

import dataclasses

import numpy as np
import pandas
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st

from api.arrays.labelled import LabelledArray
from api.arrays.transformations import averages
from api.errors import Invalid
from store.array_store import open_array_store
from store.database import Database
from store.tables import Trial
from tests.api.transformations.laboratory import (
    BINS,
    CONDITIONS,
    NEURONS,
    TRIALS,
    Laboratory,
    build,
    past_the_end,
    spikes,
    with_values,
)

CONDITION = np.array([CONDITIONS[trial % 4] for trial in range(TRIALS)], dtype=object)
SPEED = np.arange(TRIALS) % 3


def coordinate(array: LabelledArray, name: str) -> np.ndarray:
    [found] = [one.values for one in array.coordinates if one.name == name]
    return found


def by_pandas(values: np.ndarray, key: object, statistic: str) -> np.ndarray:
    """A statistic over the trials of each group, NaN left out: [groups, …]."""
    table = pandas.DataFrame(values.reshape(len(values), -1).astype(np.float64))
    made = getattr(table.groupby(key, sort=True), statistic)()
    return made.to_numpy().reshape(-1, *values.shape[1:])


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.sampled_from([0.0, 1e6]))
@settings(deadline=None, max_examples=25)
def test_statistics_are_pandas_s(lab: Laboratory, seed: int, absent: float, offset: float) -> None:
    random = np.random.default_rng(seed)
    values = offset + random.normal(size=(TRIALS, BINS, NEURONS))
    values[past_the_end()] = np.nan
    values[random.random(values.shape) < absent] = np.nan
    whole = with_values(lab.array(lab.model_id, "rates"), values)
    for statistic in ("mean", "sem", "count", "std"):
        found = lab.one(lab.model_id, whole, average="condition", statistic=statistic)
        expected = by_pandas(values, CONDITION, statistic)
        assert found.shape == expected.shape == (3, BINS, NEURONS)
        np.testing.assert_allclose(found.values(), expected, rtol=1e-7, atol=1e-12 * max(1, offset))


def test_psths_of_spikes_leave_out_what_was_not_recorded(lab: Laboratory) -> None:
    found = lab.transform(lab.dataset_id, "spikes", average="condition")
    counts = np.where(past_the_end()[..., None], np.nan, spikes())
    for one, statistic in zip(found, ("mean", "sem", "count"), strict=True):
        np.testing.assert_allclose(one.values(), by_pandas(counts, CONDITION, statistic), rtol=1e-6)
        assert one.dims == ("condition", "time_s", "neuron")
        assert one.attributes["statistic"] == statistic
    assert [one.name for one in found] == ["spikes", "spikes_sem", "spikes_count"]
    assert [one.units for one in found] == ["spikes", "spikes", "trials"]
    assert [one.dtype for one in found] == [np.float32, np.float32, np.int32]
    mean = found[0]
    [codes] = [one for one in mean.coordinates if one.name == "condition"]
    assert codes.attributes == {"flag_values": [0, 1, 2], "flag_meanings": "left right up_and_away"}
    assert (codes.dim, codes.values.tolist()) == ("condition", [0, 1, 2])
    assert coordinate(mean, "trials").tolist() == [6, 6, 6]
    assert (mean.attributes["averaged_by"], mean.attributes["trials_without_condition"]) == ("condition", 6)
    assert not [one for one in mean.coordinates if one.dim == "trial"]


@pytest.mark.parametrize("statistic", ["mean", "sem", "count", "std"])
def test_the_statistic_that_is_asked_for_comes_first(lab: Laboratory, statistic: str) -> None:
    found = lab.transform(lab.model_id, "rates", average="speed", statistic=statistic)
    names = ["rates" if one == "mean" else f"rates_{one}" for one in ("mean", "sem", "count")]
    first = "rates" if statistic == "mean" else f"rates_{statistic}"
    assert [one.name for one in found] == [first, *(name for name in names if name != first)]
    assert coordinate(found[0], "speed").tolist() == [0, 1, 2]


def test_several_names_make_every_combination_that_occurs(lab: Laboratory) -> None:
    [mean, _, count] = lab.transform(lab.model_id, "rates", average="speed, condition")
    rates = lab.array(lab.model_id, "rates").values()
    expected = by_pandas(rates, [SPEED, CONDITION], "mean")
    np.testing.assert_allclose(mean.values(), expected, rtol=1e-6)
    assert mean.dims == ("speed_condition", "time_s", "neuron")
    assert coordinate(mean, "speed").tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert coordinate(mean, "condition").tolist() == [0, 1, 2] * 3
    assert coordinate(mean, "trials").tolist() == [2] * 9
    assert count.values().max() == 2


def test_averages_of_latents_by_the_split_of_their_job(lab: Laboratory) -> None:
    found = lab.one(lab.model_id, "factors", average="split")
    factors = lab.array(lab.model_id, "factors").values()
    split = xarray.DataArray(
        np.where(np.arange(TRIALS) % 3 == 0, "valid", "train"), dims="trial", name="split"
    )
    expected = xarray.DataArray(factors.astype(np.float64), dims=("trial", "t", "f"))
    np.testing.assert_allclose(
        found.values(),
        expected.groupby(split).mean(skipna=True).transpose("split", ...),
        rtol=1e-5,
        atol=1e-6,
    )
    assert coordinate(found, "trials").tolist() == [16, 8]


def test_averages_by_the_split_of_the_data_set(lab: Laboratory) -> None:
    found = lab.one(lab.dataset_id, "spikes", average="split")
    assert coordinate(found, "trials").tolist() == [6]  # valid; the others have none
    assert found.attributes["trials_without_condition"] == 18
    np.testing.assert_array_equal(coordinate(found, "split"), [0])


def test_averages_after_every_other_step(lab: Laboratory) -> None:
    steps = {
        "align_to": "go_cue",
        "window_s": "-0.1:0.3",
        "smooth_s": 0.03,
        "rebin_s": 0.04,
        "rotate_to": lab.reference_id,
        "components": 2,
    }
    before = lab.one(lab.model_id, "factors", **steps)
    found = lab.one(lab.model_id, "factors", **steps, average="speed")
    np.testing.assert_allclose(
        found.values(), by_pandas(before.values(), SPEED, "mean"), rtol=1e-4, atol=1e-5
    )
    assert found.dims == ("speed", "time_s", "component")
    told = {"aligned_to", "smoothed_s", "rebinned", "rotated_to", "explained_variance_ratio", "averaged_by"}
    assert told <= found.attributes.keys()


def test_large_averages_lie_in_a_file(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [one.values() for one in lab.transform(lab.model_id, "rates", average="condition")]
    monkeypatch.setattr(averages, "_ELEMENTS_IN_MEMORY", 10)
    found = lab.transform(lab.model_id, "rates", average="condition")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.values(), other)
    monkeypatch.setattr(averages, "_MOST_ELEMENTS", 3 * BINS * NEURONS - 1)
    with pytest.raises(
        Invalid, match="3 conditions by condition would be 450 averages; expected at most 449"
    ):
        lab.one(lab.model_id, "rates", average="condition")


def test_values_of_any_kind_are_conditions(sqlite_database: Database) -> None:
    lab = build(sqlite_database, open_array_store("sql:", sqlite_database))
    values = [True, 2, 1.5, "b", "a", None, float("nan"), [1], {"x": 1}, 2.0]
    with sqlite_database.write() as session:
        for trial, value in enumerate(values):
            row = session.get_one(Trial, (lab.dataset_id, trial))
            row.details = row.details | {"a key/with space": value, "choice": trial % 2 == 0}
    found = lab.one(lab.model_id, "rates", average="a key/with space")
    assert found.dims[0] == "a_key_with_space"
    assert coordinate(found, "trials").tolist() == [1, 1, 2, 1, 1]
    assert found.coordinates[-2].attributes["flag_meanings"] == "1.5 2 True a b"
    assert found.coordinates[-2].values.tolist() == [2, 0, 1, 3, 4]
    assert found.attributes["trials_without_condition"] == TRIALS - 6
    chosen = lab.one(lab.model_id, "rates", average="choice")
    assert coordinate(chosen, "choice").tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "wanted", "pointer", "says"),
    [
        ("rates", "direction", "average", "the trials have no metadata 'direction'"),
        ("rates", "condition,condition", "average", "expected names of metadata separated by commas"),
        ("rates", "condition,", "average", "expected names of metadata"),
        ("rates", "neuron", "average", "neuron is already an axis"),
        ("rates", "trials", "average", "trials is already an axis or a coordinate"),
        ("continuous_factors", "condition", "average", "first axis is trials"),
        ("split", "condition", "name", "split holds codes or coordinates"),
        ("time_s", "condition", "name", "time_s holds codes or coordinates"),
    ],
)
def test_what_cannot_be_averaged_is_refused(
    lab: Laboratory, name: str, wanted: str, pointer: str, says: str
) -> None:
    with pytest.raises(Invalid) as caught:
        lab.one(lab.model_id, name, average=wanted)
    [problem] = caught.value.errors or []
    assert (problem.pointer, says in problem.message) == (pointer, True)


def test_rows_without_numbers_are_all_trials(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "rates")
    nameless = dataclasses.replace(whole, coordinates=())
    found = lab.one(lab.model_id, nameless, average="condition")
    expected = lab.one(lab.model_id, whole, average="condition")
    np.testing.assert_array_equal(found.values(), expected.values())


def test_of_no_trials_there_are_no_conditions(lab: Laboratory) -> None:
    whole = lab.array(lab.model_id, "rates")
    none = with_values(
        whole,
        whole.values()[:0],
        coordinates=tuple(one.taken(slice(0, 0)) if one.dim == "trial" else one for one in whole.coordinates),
    )
    found = lab.one(lab.model_id, none, average="condition")
    assert (found.shape, found.values().shape) == ((0, BINS, NEURONS), (0, BINS, NEURONS))
