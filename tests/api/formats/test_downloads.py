"""Downloads of whole groups: a data set that comes back as it was, latents in the keys of LFADS, NWB, npz and Zarr."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pynwb
import pytest
import scipy.io
import xarray
import zarr
from fastapi.testclient import TestClient
from pyarrow import parquet
from zarr.storage import ZipStore

from api.arrays.downloads import encode_stored_zarr, gather
from api.arrays.groups import ArrayGroup
from api.errors import WrongState
from store.array_store import delete_objects, read_object
from store.arrays import ArrayGroupWriter, NamedArray
from tests.api.api_examples import PROBLEM, Example
from tests.api.formats.download_lab import (
    BINS,
    LENGTHS,
    NAMES,
    SPLIT,
    STARTS_S,
    TRIALS,
    WIDTH_S,
    Lab,
    open_lab,
)
from tests.api.formats.format_examples import context
from tests.api.test_guide import DOCS, run_commands
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.hdf5.lfads import LfadsHdf5Reader


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from open_lab(tmp_path_factory.mktemp("lab"))


def test_a_data_set_as_hdf5_is_read_as_it_was(lab: Lab, tmp_path: Path) -> None:
    path = lab.file(lab.dataset_id, "?format=hdf5", tmp_path / "again.h5")
    reader = LfadsHdf5Reader()
    assert reader.recognises(path)
    again, before = reader.read(path, ReadOptions()), lab.recording
    np.testing.assert_array_equal(again.spikes[:], before.spikes[:])
    assert again.spikes.dtype == before.spikes.dtype
    assert again.bin_width_s == before.bin_width_s
    np.testing.assert_array_equal(again.trial_length_bins, before.trial_length_bins)
    np.testing.assert_array_equal(again.split, before.split)
    assert again.true_rates_hz is not None
    assert again.external_inputs is not None
    assert before.true_rates_hz is not None
    assert before.external_inputs is not None
    np.testing.assert_allclose(again.true_rates_hz[:], before.true_rates_hz[:], rtol=1e-6)
    np.testing.assert_array_equal(again.external_inputs[:], before.external_inputs[:])
    assert list(again.behaviour) == ["hand_velocity"]
    np.testing.assert_array_equal(again.behaviour["hand_velocity"][:], before.behaviour["hand_velocity"][:])
    metadata = dict(before.trial_metadata)
    metadata["data_as_uploaded"] = metadata.pop("data")  # `train_data` would be spikes
    assert again.trial_metadata == metadata


def test_a_data_set_without_split_is_all_training(lab: Lab, tmp_path: Path) -> None:
    path = lab.file(lab.unsplit_id, "?format=hdf5", tmp_path / "again.h5")
    again = LfadsHdf5Reader().read(path, ReadOptions())
    np.testing.assert_array_equal(again.spikes[:], lab.recording.spikes[:])
    assert set(again.split.tolist()) == {0}


def test_latents_as_hdf5_have_the_keys_of_lfads(lab: Lab, tmp_path: Path) -> None:
    path = lab.file(lab.model_id, "?format=hdf5", tmp_path / "latents.h5")
    with h5py.File(path) as file:
        assert file.attrs["bin_width_s"] == WIDTH_S
        assert file.attrs["dataset_digest"] == "d1ge570"
        for split, code in (("train", 0), ("valid", 1), ("test", -1)):
            rows = np.flatnonzero(code == SPLIT)
            np.testing.assert_array_equal(file[f"{split}_inds"][()], rows)
            assert file[f"{split}_output_params"].attrs["units"] == "spikes/bin"
            np.testing.assert_allclose(
                file[f"{split}_output_params"][()], lab.latents["rates"][rows] * WIDTH_S, rtol=1e-6
            )
            for key, name in (
                ("factors", "factors"),
                ("ic_mean", "initial_conditions"),
                ("gen_inputs", "inputs"),
            ):
                np.testing.assert_array_equal(file[f"{split}_{key}"][()], lab.latents[name][rows])
            np.testing.assert_array_equal(file[f"{split}_trial_length_bins"][()], LENGTHS[rows])
            words = [word.decode() for word in file[f"{split}_condition"][()]]
            assert words == [lab.recording.trial_metadata["condition"][row] for row in rows]
        np.testing.assert_array_equal(file["time_s"][()], np.arange(BINS) * WIDTH_S - 0.04)


@pytest.mark.parametrize("query", ["", "&arrays=rates_1"])
def test_each_session_has_keys_of_its_own(lab: Lab, tmp_path: Path, query: str) -> None:
    path = lab.file(lab.sessions_id, f"?format=hdf5{query}", tmp_path / "sessions.h5")
    with h5py.File(path) as file:
        assert file["valid_inds_1"][()].tolist() == [7]
        assert file["test_inds_1"][()].tolist() == [5]
        rates = lab.latents["rates"][[7], :, :1]
        np.testing.assert_allclose(file["valid_output_params_1"][()], rates * WIDTH_S, rtol=1e-6)
        assert file["valid_trial_length_bins_1"][()].tolist() == [LENGTHS[7]]
        assert file["valid_condition_1"][()].tolist() == [b"right"]
        assert file["neuron_1"][()].tolist() == [0]
        if not query:
            assert file["valid_inds"][()].tolist() == [0, 7]
            assert file["valid_inds_0"][()].tolist() == [0]
            assert file["valid_session"][()].tolist() == [0, 1]
            np.testing.assert_array_equal(file["valid_factors"][()], lab.latents["factors"][[0, 7]])


def test_latents_as_nwb(lab: Lab, tmp_path: Path) -> None:
    path = lab.file(lab.model_id, "?format=nwb", tmp_path / "latents.nwb")
    assert pynwb.validate(path=str(path)) == []
    with pynwb.NWBHDF5IO(path, "r") as io:
        file = io.read()
        assert lab.model_id in file.session_description
        assert "dataset_digest=d1ge570" in file.identifier
        module = file.processing["ecephys"]
        assert set(module.data_interfaces) == {
            "rates",
            "factors",
            "inputs",
            "initial_conditions",
            "neuron",
        }
        rates, trials = module["rates"], file.trials.to_dataframe()
        assert rates.unit == "spikes/s"
        assert list(trials.index) == list(range(TRIALS))
        assert list(trials["condition"]) == lab.recording.trial_metadata["condition"]
        assert list(trials["split"]) == [
            {0: "train", 1: "valid", -1: "test"}[code] for code in SPLIT.tolist()
        ]
        np.testing.assert_allclose(trials["start_time"], STARTS_S)
        np.testing.assert_allclose(trials["stop_time"], STARTS_S + LENGTHS * WIDTH_S)
        for trial, row in trials.iterrows():  # each trial is cut out by its own times
            half = WIDTH_S / 2
            times = rates.timestamps[()]
            inside = (times > row["start_time"] - half) & (times < row["stop_time"] - half)
            np.testing.assert_array_equal(
                rates.data[()][inside], lab.latents["rates"][trial, : LENGTHS[trial]]
            )
        table = module["initial_conditions"]
        np.testing.assert_array_equal(table["initial_conditions"].data[()], lab.latents["initial_conditions"])


def test_data_set_as_nwb(lab: Lab, tmp_path: Path) -> None:
    path = lab.file(lab.dataset_id, "?format=nwb", tmp_path / "data.nwb")
    assert pynwb.validate(path=str(path)) == []
    with pynwb.NWBHDF5IO(path, "r") as io:
        file = io.read()
        module = file.processing["ecephys"]
        kept = np.concatenate([lab.recording.spikes[trial][: LENGTHS[trial]] for trial in range(TRIALS)])
        np.testing.assert_array_equal(module["spikes"].data[()], kept)
        assert list(file.trials["split"][:]) == [NAMES[code] or "" for code in SPLIT.tolist()]
        assert list(module["neuron"]["area"].data[()]) == ["M1", "PMd", "M1"]


def test_npz_of_a_data_set_has_its_split(lab: Lab) -> None:
    with np.load(io.BytesIO(lab.get(lab.dataset_id).content), allow_pickle=False) as file:
        np.testing.assert_array_equal(file["split"], SPLIT, strict=True)
        np.testing.assert_array_equal(file["spikes"], lab.recording.spikes[:], strict=True)
        np.testing.assert_array_equal(file["trial_start_s"], STARTS_S)


def test_a_group_that_goes_meanwhile_is_no_whole_archive(lab: Lab) -> None:
    """Zarr would read a chunk that is not there as zeros."""
    writer = ArrayGroupWriter(lab.store, "models/gone", {})
    for name in ("factors", "inputs"):
        writer.write(NamedArray(name, lab.latents[name], ("trial", "time_s", name)))
    writer.close()
    group = ArrayGroup("models/gone", lab.dataset_id, "the model mod_0")
    whole = gather(group, lab.store, None, context(TRIALS), is_dataset=False)
    pieces = encode_stored_zarr(whole).pieces
    assert next(pieces)
    delete_objects(lab.store, "models/gone")
    with pytest.raises(WrongState, match="replaced while they were read"):
        list(pieces)
    with pytest.raises(WrongState):
        encode_stored_zarr(whole)


def test_coordinates_alone_can_be_asked_for(lab: Lab) -> None:
    answer = lab.get(lab.model_id, "?arrays=split,trial_length_bins")
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as file:
        assert file["split"].shape == file["trial_length_bins"].shape == (TRIALS,)


def test_npz_has_all_with_units_and_order(lab: Lab) -> None:
    with np.load(io.BytesIO(lab.get(lab.model_id).content), allow_pickle=False) as file:
        for name, values in lab.latents.items():
            np.testing.assert_array_equal(file[name], values, strict=True)
        assert {"trial", "time_s", "split", "trial_length_bins", "bin_width_s"} <= set(file.files)
        about = json.loads(str(file["metadata"]))
        assert about["arrays"]["rates"]["units"] == "spikes/s"
        assert about["arrays"]["split"]["attributes"]["flag_meanings"] == "train valid test"
        assert file["bin_width_s"] == WIDTH_S


def test_mat_of_a_data_set_keeps_order_words_and_nan(lab: Lab, tmp_path: Path) -> None:
    file = scipy.io.loadmat(lab.file(lab.dataset_id, "?format=mat", tmp_path / "all.mat"), squeeze_me=True)
    before = lab.recording
    np.testing.assert_array_equal(file["spikes"], before.spikes[:])
    assert file["spikes"].dtype == before.spikes.dtype
    assert file["bin_width_s"] == WIDTH_S
    np.testing.assert_array_equal(file["trial"], np.arange(TRIALS))
    assert file["split"].tolist() == [{0: "train", 1: "valid", -1: "none"}[code] for code in SPLIT]
    about = file["latentry"]["variables"].item()
    assert about["spikes"].item()["dims"].item().tolist() == ["trial", "time_s", "neuron"]
    latents = scipy.io.loadmat(lab.file(lab.model_id, "?format=mat", tmp_path / "latents.mat"))
    past_end = np.arange(BINS)[None] >= np.asarray(LENGTHS)[:, None]
    np.testing.assert_array_equal(np.isnan(latents["rates"][:, :, 0]), past_end)


def test_zarr_is_what_is_stored(lab: Lab, tmp_path: Path) -> None:
    path = lab.file(lab.model_id, "?format=zarr", tmp_path / "latents.zarr.zip")
    with ZipStore(path, mode="r") as store:
        with xarray.open_zarr(store) as found:
            assert set(found.coords) == {"trial", "time_s", "neuron", "split", "trial_length_bins"}
            np.testing.assert_array_equal(found["rates"], lab.latents["rates"])
        for name in store._zf.namelist():
            assert store._zf.read(name) == read_object(lab.store, f"models/a/{name}"), name


def test_some_arrays_come_with_their_coordinates(lab: Lab, tmp_path: Path) -> None:
    with np.load(io.BytesIO(lab.get(lab.model_id, "?arrays=factors, inputs").content)) as file:
        assert set(file.files) == {
            "factors", "inputs", "trial", "time_s", "split", "trial_length_bins", "bin_width_s", "metadata",
        }  # fmt: skip
    path = lab.file(lab.model_id, "?arrays=factors&format=zarr", tmp_path / "some.zarr.zip")
    with ZipStore(path, mode="r") as store:
        group = zarr.open_group(store, mode="r")
        assert sorted(name for name, _ in group.arrays()) == [
            "factors", "split", "time_s", "trial", "trial_length_bins",
        ]  # fmt: skip
        with xarray.open_zarr(store) as found:
            np.testing.assert_array_equal(found["factors"], lab.latents["factors"])


@pytest.mark.parametrize(
    ("query", "pointer", "says"),
    [
        ("?arrays=rate", "arrays", "has no array 'rate'"),
        ("?arrays=", "arrays", "has no array ''"),
        ("?format=csv", "format", "npz"),
        ("?formats=npz", "formats", "there is no such parameter"),
    ],
)
def test_what_there_is_not_is_refused(lab: Lab, query: str, pointer: str, says: str) -> None:
    answer = lab.get(lab.model_id, query)
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert pointer in answer.json()["errors"][0]["pointer"]
    assert says in answer.text


@pytest.mark.parametrize("form", ["npz", "hdf5", "nwb", "zarr"])
def test_what_one_has_is_not_sent_again(lab: Lab, form: str) -> None:
    path = f"/v1/models/{lab.model_id}/download?format={form}"
    first = lab.client.get(path)
    ending = {"npz": "npz", "hdf5": "h5", "nwb": "nwb", "zarr": "zarr.zip"}[form]
    assert f'filename="{lab.model_id}.{ending}"' in first.headers["Content-Disposition"]
    assert first.headers["ETag"].startswith("W/") == (form == "nwb")  # NWB says when it was made
    again = lab.client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "Content-Encoding" not in first.headers
    if form != "nwb":
        assert lab.client.get(path).content == first.content


@pytest.mark.parametrize("form", ["npz", "hdf5", "nwb", "zarr"])
def test_any_group_can_be_downloaded(reader: TestClient, example: Example, form: str) -> None:
    """One whose trials are not those of its data set, without a coordinate."""
    answer = reader.get(f"/v1/models/{example.model_id}/download?format={form}")
    assert answer.status_code == 200, answer.text
    assert len(answer.content) > 10_000
    foreign = reader.get(f"/v1/models/{example.other_model_id}/download?format={form}")
    assert (foreign.status_code, foreign.headers["content-type"]) == (404, PROBLEM)
    assert reader.get(f"/v1/datasets/{example.other_dataset_id}/download").status_code == 404


def test_commands_of_the_guide(example_url: str, example: Example, tmp_path: Path) -> None:
    ids = {"MODEL": example.model_id, "DATASET": example.dataset_id}
    names_of_columns, _, _ = run_commands(DOCS / "formats.md", tmp_path, LATENTRY=example_url, **ids)
    assert names_of_columns.startswith('"some_trial","some_time","factor_0"')
    assert parquet.read_table(tmp_path / "rates.parquet").num_rows == 300 * 50
    with h5py.File(tmp_path / "latents.h5") as file:
        assert "train_output_params" in file
    assert scipy.io.loadmat(tmp_path / "latents.mat")["rates"].shape == (300, 50, 20)
    with pynwb.NWBHDF5IO(tmp_path / "latents.nwb", "r") as io:
        assert {"rates", "factors"} <= set(io.read().processing["ecephys"].data_interfaces)
    with ZipStore(tmp_path / "spikes.zarr.zip", mode="r") as store:
        assert "spikes" in zarr.open_group(store, mode="r")
