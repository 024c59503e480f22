"""Selections: labels, splits and conditions against xarray on the same data; what they read, and what they refuse."""

import io
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import xarray
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.abc.store import Store

from api.arrays.grammar import labelled_positions
from api.arrays.groups import ArrayGroup, StoredRows, open_cached
from api.arrays.labelled import Coordinate
from api.errors import Invalid, WrongState
from domain.states import JobState, ModelState
from store.array_store import SqlArrayStore, delete_objects, open_array_store
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from tests.api.api_examples import PROBLEM, add_dataset, add_job, add_model
from tests.api.conftest import serve
from tests.api.test_guide import DOCS, run_commands
from tests.app_copies import app_of

TRIALS, BINS, NEURONS, FACTORS = 60, 25, 6, 3
START_S, WIDTH_S = -0.2, 0.02
SPLIT = np.arange(TRIALS, dtype=np.int8) % 3
GIVEN_SPLIT = [("train", "valid")[trial % 2] for trial in range(TRIALS)]
CHUNK_BYTES = 8 * BINS * NEURONS * 4
"""Eight trials of the rates: a selection of few trials has few chunks."""


def made_up_arrays() -> list[NamedArray]:
    """Latents as workers store them, of one session and, with suffixes, of two."""
    chance = np.random.default_rng(0)
    rates = chance.random((TRIALS, BINS, NEURONS)).astype(np.float32)
    times_s = START_S + np.arange(BINS) * WIDTH_S
    continuous_s = np.concatenate([10 + np.arange(40) * WIDTH_S, 20 + np.arange(40) * WIDTH_S])
    meanings = {"flag_values": [0, 1, 2], "flag_meanings": "train valid test"}
    return [
        NamedArray("rates", rates, ("trial", "time_s", "neuron"), "spikes/s", "posterior mean"),
        NamedArray("factors", rates[:, :, :FACTORS].copy(), ("trial", "time_s", "factor")),
        NamedArray("rates_0", rates[:40, :, :4].copy(), ("trial_0", "time_s", "neuron_0")),
        NamedArray("rates_1", rates[40:].copy(), ("trial_1", "time_s", "neuron_1")),
        NamedArray("continuous_factors_0", chance.random((80, FACTORS)), ("continuous_time_s_0", "factor")),
        NamedArray("hand", rates[:, :, :2].copy(), ("trial", "time_s", "hand_component")),
        NamedArray("no_trials", np.zeros((0, FACTORS)), ("segment_index", "factor")),
        NamedArray("gain", np.array(0.25), ()),
        NamedArray("trial", np.arange(TRIALS), ("trial",), "", "index in the order given"),
        NamedArray("time_s", times_s, ("time_s",), "s", "start of the bin"),
        NamedArray("neuron", np.array([0, 1, 4, 5, 8, 9]), ("neuron",)),
        NamedArray("trial_0", np.arange(40), ("trial_0",)),
        NamedArray("trial_1", np.arange(40, TRIALS), ("trial_1",)),
        NamedArray("neuron_0", np.arange(4), ("neuron_0",)),
        NamedArray("continuous_time_s_0", continuous_s, ("continuous_time_s_0",), "s"),
        NamedArray("split", SPLIT, ("trial",), "", "part of the job", meanings),
    ]


ARRAYS = {array.name: np.asarray(array.values) for array in made_up_arrays()}


@dataclass(frozen=True)
class Latents:
    """A service with a model's latents, and a data set of the same arrays."""

    database: Database
    store: Store
    client: TestClient
    model_url: str
    dataset_url: str
    dataset_id: str

    def get(self, name: str, **query: Any) -> Any:
        return self.client.get(f"{self.model_url}/arrays/{name}", params=query)

    def read(self, name: str, **query: Any) -> NDArray[Any]:
        answer = self.get(name, **query)
        assert answer.status_code == 200, answer.text
        values: NDArray[Any] = np.load(io.BytesIO(answer.content))
        return values


def write(
    store: Store, path: str, arrays: list[NamedArray], chunk_bytes: int = CHUNK_BYTES, **attributes: Any
) -> None:
    with patch("store.arrays.CHUNK_BYTES", chunk_bytes):
        writer = ArrayGroupWriter(store, path, {"coordinates": "split", "bin_width_s": WIDTH_S, **attributes})
        writer.write_all(arrays)
        writer.close()


@pytest.fixture(scope="module")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Latents]:
    folder = tmp_path_factory.mktemp("selection")
    database = Database(f"sqlite:///{folder / 'test.db'}")
    migrate(database)
    store = open_array_store("sql:", database)
    write(store, "groups/model", made_up_arrays(), model_id="mod")
    write(store, "groups/dataset", [array for array in made_up_arrays() if array.name != "split"])
    with database.write() as session:
        dataset_id = add_dataset(session, splits=GIVEN_SPLIT, array_path="groups/dataset")
        bare_id = add_dataset(session, splits=(None,) * TRIALS, array_path="groups/dataset")
        job = add_job(session, dataset_id, state=JobState.DONE)
        model = add_model(session, job, state=ModelState.TRAINED, losses=(1.0,), latents_path="groups/model")
    app = app_of(Settings(data_dir=folder), database, store)
    client = TestClient(app, raise_server_exceptions=False)
    yield Latents(database, store, client, f"/v1/models/{model}", f"/v1/datasets/{dataset_id}", bare_id)
    database.close()


@pytest.fixture(scope="module")
def reference(latents: Latents) -> xarray.Dataset:
    """The same group as xarray opens it."""
    found: xarray.Dataset = xarray.open_zarr(latents.store, group="groups/model", zarr_format=3).load()
    return found


def bins_from(start: int, stop: int) -> str:
    """A range of seconds from one bin to before another, as people write it."""
    return f"{START_S + start * WIDTH_S:.2f}:{START_S + stop * WIDTH_S:.2f}"


@st.composite
def selections(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """Parameters, the labels for xarray and the split or condition."""
    query: dict[str, Any] = {}
    labels: dict[str, Any] = {}
    trials = draw(st.none() | st.lists(st.integers(0, TRIALS - 1), min_size=1, max_size=5))
    if trials is not None:
        start, count = draw(st.integers(0, TRIALS - 1)), draw(st.integers(1, 30))
        has_range = draw(st.booleans())
        query["trial"] = ",".join([*map(str, trials), *([f"{start}:{start + count}"] if has_range else [])])
        chosen = set(trials) | (set(range(start, min(TRIALS, start + count))) if has_range else set())
        labels["trial"] = sorted(chosen)
    if draw(st.booleans()):
        first = draw(st.integers(0, BINS - 1))
        stop = draw(st.integers(first + 1, BINS + 3))
        query["time_s"] = bins_from(first, stop)
        # In xarray both ends of a range of labels belong to it.
        labels["time_s"] = slice(START_S + (first - 0.5) * WIDTH_S, START_S + (stop - 0.5) * WIDTH_S)
    if draw(st.booleans()):
        neurons = draw(st.lists(st.sampled_from([0, 1, 4, 5, 8, 9]), min_size=1, unique=True))
        query["neuron"] = ",".join(map(str, neurons))
        labels["neuron"] = sorted(neurons)
    split = draw(st.none() | st.sampled_from(["train", "valid", "test", "train,test"]))
    if split is not None:
        query["split"] = split
    if draw(st.booleans()):
        query["where"] = "condition:in:1,2"
    return query, labels, split


def test_labels_select_what_xarray_selects(latents: Latents, reference: xarray.Dataset) -> None:
    @given(selections())
    @hypothesis_settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: tuple[dict[str, Any], dict[str, Any], str | None]) -> None:
        query, labels, split = case
        expected = reference["rates"].sel(labels)
        if split is not None:
            codes = [("train", "valid", "test").index(name) for name in split.split(",")]
            expected = expected.sel(trial=expected.trial[expected.split.isin(codes)])
        if "where" in query:
            expected = expected.sel(trial=expected.trial[(expected.trial % 4).isin([1, 2])])
        np.testing.assert_array_equal(latents.read("rates", **query), expected.values, strict=True)
        document = latents.get("rates", format="json", **query).json()
        assert document["dims"] == list(expected.dims)
        for name in ("trial", "time_s", "neuron", "split"):
            assert document["coordinates"][name]["values"] == expected[name].values.tolist()

    check()


CASES: list[tuple[str, dict[str, Any], Any]] = [
    ("rates", {"trial": "5,3,3,4"}, np.s_[3:6]),  # the order is the array's, and nothing comes twice
    ("rates", {"trial": ["5", "3"]}, np.s_[[3, 5]]),
    ("rates", {"trial": " 58: , :2 "}, np.s_[[0, 1, 58, 59]]),
    ("rates", {"trial": ":"}, np.s_[:]),
    ("rates", {"trial": "-5:2"}, np.s_[:2]),
    ("rates", {"time_s": "0"}, np.s_[:, [10]]),  # its coordinate is 2.8e-17
    ("rates", {"time_s": "0.1,-.2"}, np.s_[:, [0, 15]]),
    ("rates", {"time_s": "1e-1:0.14"}, np.s_[:, 15:17]),
    ("rates", {"time_s": ":-0.18"}, np.s_[:, :1]),
    ("rates", {"time_s": "0.101:0.121"}, np.s_[:, 16:17]),
    ("rates", {"neuron": "4:9"}, np.s_[:, :, 2:5]),  # labels, and no positions
    ("rates", {"neuron": "9", "slice": "1,:,:"}, np.s_[1, :, [5]]),
    ("rates", {"trial": "7", "slice": ":,2::5"}, np.s_[7:8, 2::5]),
    ("rates", {"trial": "1,9", "slice": ":,3,::2"}, np.s_[[1, 9], 3, ::2]),
    ("factors", {"factor": "0,2"}, np.s_[:, :, [0, 2]]),
    ("factors", {"factor": "1:", "trial": "59"}, np.s_[59:, :, 1:]),
    ("rates_1", {"trial_1": "40,45", "neuron_1": "1:3"}, np.s_[[0, 5], :, 1:3]),
    ("rates_0", {"split": "valid"}, np.s_[1:40:3]),
    ("rates_1", {"split": "train"}, np.s_[2::3]),  # trials 42, 45, …
    ("rates_1", {"where": "condition:eq:3"}, np.s_[3::4]),
    ("continuous_factors_0", {"continuous_time_s_0": "10.1:10.2"}, np.s_[5:10]),
    ("continuous_factors_0", {"continuous_time_s_0": "10.7:20.06", "factor": "2"}, np.s_[35:43, [2]]),
    ("hand", {"hand_component": "1"}, np.s_[:, :, [1]]),
    ("no_trials", {"segment_index": "0:5", "factor": "2"}, np.s_[:, [2]]),
    ("rates", {"where": "condition:eq:17"}, np.s_[:0]),
    ("rates", {"where": "condition:eq:17", "slice": ":,0:2"}, np.s_[:0, :2]),
    ("rates", {"where": ["condition:eq:3", "trial:lt:10"], "split": "train"}, np.s_[[3]]),
    ("split", {"split": "test"}, np.s_[2::3]),
    ("trial", {"where": "condition:eq:3"}, np.s_[3::4]),
]


@pytest.mark.parametrize(("name", "query", "index"), CASES, ids=str)
def test_grammar(latents: Latents, name: str, query: dict[str, Any], index: Any) -> None:
    # An axis at a time: NumPy would pair two lists.
    whole = ARRAYS[name]
    if isinstance(index, tuple):
        for axis in reversed(range(len(index))):
            whole = whole[(slice(None),) * axis + (index[axis],)]
    else:
        whole = whole[index]
    np.testing.assert_array_equal(latents.read(name, **query), whole, strict=True)


def test_a_data_set_has_the_split_that_came_with_it(latents: Latents) -> None:
    answer = latents.client.get(f"{latents.dataset_url}/arrays/rates", params={"split": "valid"})
    np.testing.assert_array_equal(np.load(io.BytesIO(answer.content)), ARRAYS["rates"][1::2])
    answer = latents.client.get(f"{latents.dataset_url}/arrays/rates", params={"split": "test"})
    assert np.load(io.BytesIO(answer.content)).shape == (0, BINS, NEURONS)
    answer = latents.client.get(f"/v1/datasets/{latents.dataset_id}/arrays/rates", params={"split": "valid"})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "split")
    assert answer.json()["detail"] == "split: no split came with the data set; each job makes its own"


def test_positions_of_what_was_selected_are_told(latents: Latents) -> None:
    def coordinates(**query: Any) -> Any:
        return latents.get("factors", format="json", slice="0:2,0:2", **query).json()["coordinates"]

    assert "factor" not in coordinates()
    assert coordinates(factor="0,2")["factor"]["values"] == [0, 2]
    sliced = latents.get("factors", format="json", slice="0:2,0:2,1::2").json()["coordinates"]
    assert sliced["factor"]["values"] == [1]
    assert sliced["trial"]["values"] == [0, 1]


REFUSALS: list[tuple[str, dict[str, Any], str, str, str | None]] = [
    ("rates", {"trial": "60"}, "trial", "there is no trial 60", "trial goes from 0 to 59"),
    ("rates", {"trial": "-1"}, "trial", "there is no trial -1", "trial goes from 0 to 59"),
    ("rates_1", {"trial_1": "39"}, "trial_1", "there is no trial_1 39", "trial_1 goes from 40 to 59"),
    ("rates", {"neuron": "2"}, "neuron", "there is no neuron 2", "neuron is one of 0, 1, 4, 5, 8, 9"),
    ("factors", {"factor": "3"}, "factor", "there is no factor 3", "factor goes from 0 to 2"),
    ("rates", {"trial": "1.5"}, "trial", "expected a whole number; got '1.5'", "trial goes from 0 to 59"),
    ("rates", {"trial": "a"}, "trial", "expected a whole number; got 'a'", None),
    ("rates", {"trial": ""}, "trial", "expected a whole number or start:stop; got ''", None),
    ("rates", {"trial": "1,,2"}, "trial", "expected a whole number or start:stop; got ''", None),
    ("rates", {"trial": "0:9:2"}, "trial", "expected a whole number or start:stop; got '0:9:2'", None),
    ("rates", {"trial": "٣"}, "trial", "expected a whole number; got '٣'", None),
    (
        "rates",
        {"time_s": "0.105"},
        "time_s",
        "there is no time_s 0.105; the nearest are 0.1 and 0.12",
        "time_s goes from -0.2 to 0.28 s",
    ),
    ("rates", {"time_s": "nan"}, "time_s", "expected a number; got 'nan'", None),
    (
        "rates",
        {"time_s": "100:250"},
        "time_s",
        "100:250 takes nothing; a range ends before its second label",
        "time_s goes from -0.2 to 0.28 s: did you mean seconds?",
    ),
    ("rates", {"time_s": "0.2:0.1"}, "time_s", "0.2:0.1 takes nothing", None),
    ("rates", {"trial": "5:5"}, "trial", "5:5 takes nothing", None),
    (
        "no_trials",
        {"segment_index": "0"},
        "segment_index",
        "there is no segment_index 0",
        "segment_index has no entries",
    ),
    (
        "factors",
        {"neuron": "0"},
        "neuron",
        "a dim of factors, whose dims are trial, time_s, factor; got 'neuron'",
        "docs/querying.md",
    ),
    ("factors", {"trails": "0"}, "trails", "got 'trails'", "did you mean trial? docs/querying.md"),
    ("rates", {"time": "0:0.1"}, "time", "got 'time'", "did you mean time_s? docs/querying.md"),
    ("rates", {"averge": "condition"}, "averge", "got 'averge'", "did you mean average? docs/querying.md"),
    ("gain", {"trial": "0"}, "trial", "whose dims are none", None),
    (
        "rates",
        {"split": "training"},
        "split",
        "expected train, valid, test, gap, or several of them; got 'training'",
        None,
    ),
    (
        "continuous_factors_0",
        {"split": "train"},
        "split",
        "continuous_factors_0 has no dim of trials; its dims are continuous_time_s_0, factor",
        None,
    ),
    ("gain", {"where": "condition:eq:3"}, "where", "gain has no dim of trials; its dims are none", None),
    (
        "rates",
        {"trial": "0:5", "slice": "0:5"},
        "trial",
        "slice and trial both select along trial, axis 0; expected one of them",
        "leave that axis whole in the slice",
    ),
    (
        "rates",
        {"where": "condition:eq:3", "slice": "3"},
        "where",
        "slice and where both select along trial",
        None,
    ),
    (
        "rates",
        {"trial": "0", "split": "train", "slice": "::2"},
        "split",
        "slice and split both select along trial",
        None,
    ),
    ("rates", {"trial": ["1"] * 51}, "trial", "expected at most 50 items; got 51", None),
]


@pytest.mark.parametrize(("name", "query", "pointer", "says", "hint"), REFUSALS, ids=str)
def test_what_is_not_there_is_told(
    latents: Latents, name: str, query: dict[str, Any], pointer: str, says: str, hint: str | None
) -> None:
    answer = latents.get(name, **query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [field] = answer.json()["errors"]
    assert field["pointer"] == pointer
    assert says in field["message"]
    assert (hint or "") in field.get("hint", "")


@given(st.text(alphabet="0123456789:,- +._ea٣", max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    index = Coordinate("time_s", "time_s", np.arange(20) * 0.1)
    for coordinate in (None, index):
        try:
            found = labelled_positions([text], "time_s", coordinate, 20)
        except Invalid:
            continue
        assert 0 < len(found) <= 20


@given(st.floats(-1e9, 1e9), st.sampled_from([1e-3, 0.01, 1 / 30, 0.5]), st.integers(0, 49))
def test_a_bin_is_found_by_what_is_shown_of_it(start_s: float, width_s: float, place: int) -> None:
    times_s = start_s + np.arange(50) * width_s
    index = Coordinate("time_s", "time_s", times_s)
    shown = np.format_float_positional(times_s[place], trim="-", precision=12)
    assert labelled_positions([shown], "time_s", index, 50).tolist() == [place]
    assert labelled_positions([f"{shown}:"], "time_s", index, 50).tolist() == list(range(place, 50))
    if place:
        assert labelled_positions([f":{shown}"], "time_s", index, 50).tolist() == list(range(place))


def test_entries_that_share_a_label_are_all_taken() -> None:
    index = Coordinate("continuous_time_s", "continuous_time_s", np.array([3.0, 1.0, 2.0, 1.0, np.nan]))
    assert labelled_positions(["1"], "continuous_time_s", index, 5).tolist() == [1, 3]
    assert labelled_positions(["1.5:9"], "continuous_time_s", index, 5).tolist() == [0, 2]


def test_only_chunks_with_selected_rows_are_read_each_once(latents: Latents) -> None:
    read: list[str] = []
    get = SqlArrayStore._values_of

    def noted(self: SqlArrayStore, keys: list[str]) -> Any:
        read.extend(keys)
        return get(self, keys)

    latents.read(
        "rates", trial="0", time_s="0", neuron="0", split="train"
    )  # coordinates are known from now on
    with patch.object(SqlArrayStore, "_values_of", noted):
        for query, chunks in [
            ({"trial": "3,5,7,33"}, [0, 4]),
            ({"trial": "6:18", "neuron": "0,8"}, [0, 1, 2]),
            ({"trial": "59", "time_s": "0:0.1", "neuron": "4"}, [7]),
            ({"split": "valid", "trial": "0:20"}, [0, 1, 2]),
            ({"where": ["condition:eq:3", "trial:ge:40"]}, [5, 6, 7]),
            ({"slice": "7:9,0"}, [0, 1]),
            ({"slice": "1::24"}, [0, 3, 6]),
            ({"where": "condition:eq:17"}, []),
        ]:
            read.clear()
            latents.read("rates", **query)
            assert read == [f"groups/model/rates/c/{chunk}/0/0" for chunk in chunks], query


def test_memory_does_not_grow_with_what_is_selected(latents: Latents) -> None:
    values = np.zeros((4000, 250), np.float32)  # 4 MB
    values[:, 0] = 1
    write(latents.store, "groups/long", [NamedArray("long", values, ("trial", "neuron"))], 2**16)
    array = open_cached(latents.store, "groups/long").arrays["long"]
    rows = np.flatnonzero(np.arange(4000) % 3)
    for first in (slice(0, 4000, 1), rows):
        for _ in StoredRows(array, (first, slice(0, 2, 1)))():
            break  # what the first reading brings with it
        tracemalloc.start()
        try:
            sizes = [block.nbytes for block in StoredRows(array, (first, slice(0, 250, 1)))()]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sum(sizes) > 2_500_000
        assert max(sizes) <= 2**16
        assert peak < 10 * 2**16


@pytest.mark.parametrize(
    "taken",
    [
        (slice(2, 58, 7), slice(0, 25, 1), 3),
        (np.array([1, 2, 30, 59]), 3, np.array([0, 4])),
        (5, slice(3, 20, 2), np.array([1, 2, 5])),
    ],
)
def test_reading_begins_at_any_row(latents: Latents, taken: Any) -> None:
    rows = StoredRows(open_cached(latents.store, "groups/model").arrays["rates"], taken)
    whole = np.concatenate(list(rows()))
    for row in range(len(whole)):
        np.testing.assert_array_equal(np.concatenate(list(rows.starting_at(row))), whole[row:])


def test_arrays_that_are_deleted_while_they_are_read_are_not_zeros(latents: Latents) -> None:
    zeros = NamedArray("zeros", np.zeros((TRIALS, BINS, NEURONS), np.float32), ("trial", "time_s", "neuron"))
    write(latents.store, "groups/gone", [*made_up_arrays(), zeros])
    group = ArrayGroup("groups/gone", "dat", "the model")
    # Chunks of zeros are not stored, and are no sign of anything.
    assert not group.array(latents.store, "zeros").values().any()
    blocks = group.array(latents.store, "rates").blocks()
    np.testing.assert_array_equal(next(blocks), ARRAYS["rates"][:8])
    delete_objects(latents.store, "groups/gone")
    with pytest.raises(WrongState, match="were replaced while they were read"):
        next(blocks)
    with pytest.raises(WrongState, match="were replaced while they were read"):
        open_cached(latents.store, "groups/never")


def test_groups_are_opened_once_for_each_store(latents: Latents, tmp_path: Path) -> None:
    first = open_cached(latents.store, "groups/model")
    assert open_cached(latents.store, "groups/model") is first
    assert first.values("time_s") is first.values("time_s")
    with pytest.raises(ValueError, match="read-only"):
        first.values("time_s")[0] = 1
    other = open_array_store(f"file://{tmp_path}", latents.database)
    write(other, "groups/model", [NamedArray("time_s", np.arange(3.0), ("time_s",))])
    assert open_cached(other, "groups/model").values("time_s").tolist() == [0, 1, 2]
    assert open_cached(latents.store, "groups/model") is first


def test_commands_of_the_guide(latents: Latents, tmp_path: Path) -> None:
    for url in serve(latents.client.app):  # type: ignore[arg-type]
        ids = {"DATASET": latents.dataset_url.split("/")[-1], "MODEL": latents.model_url.split("/")[-1]}
        outputs = run_commands(DOCS / "querying.md", tmp_path, LATENTRY=url, **ids)
    everything = "".join(outputs)
    assert "urn:latentry:problem" not in everything
    assert '"dims":["trial","time_s","factor"],"shape":[1,25,2]' in everything
    shapes = {path.stem: np.load(path).shape for path in tmp_path.glob("*.npy")}
    assert shapes == {
        "three": (3, 5, 1),
        "first": (50, 20, 6),
        "session": (5, 25, 1),
        "stretch": (15, 3),
        "valid": (20, 25, 3),
        "conditions": (20, 25, 1),
        "every_fifth_bin": (1, 5),
        "rates": (60, 25, 6),
    }
    trials = re.findall(r'"trial":(\d+)', everything)
    assert trials == ["3", "7", "1"]
