"""``latentry latents``: arrays of the served example, to files of every kind, compared with the arrays themselves."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from latentry.commands import downloads
from latentry.commands.calling import Call

from api.arrays.query import ArrayQuery
from domain.states import JobState
from store.database import Database
from tests.api.api_examples import Example, add_dataset, add_job, example_arrays
from tests.client.command_line import CommandLine

RATES = example_arrays()["rates"]
SPIKES = example_arrays()["spikes"]


@pytest.fixture
def latentry(example_url: str) -> CommandLine:
    return CommandLine(example_url)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_arrays_are_listed(latentry: CommandLine, example: Example) -> None:
    for owner in (example.model_id, example.dataset_id):
        found = latentry("latents", "list", owner, "--json").json()
        assert {one["name"] for one in found["items"]} == set(example_arrays())
        assert "trial 300 × time_s 50 × neuron 20" in latentry("latents", "list", owner).out


def test_a_folder_that_is_not_there(latentry: CommandLine, example: Example) -> None:
    asked = ("latents", "get", example.model_id, "rates", "-o", "nowhere/a.npy")
    assert "the folder 'nowhere' does not exist" in latentry(*asked, expect=2).messages


def test_an_array_in_files_of_several_formats(latentry: CommandLine, example: Example) -> None:
    told = latentry("latents", "get", example.model_id, "rates", "-o", "all.npy", "--json").json()
    assert told == {"path": "all.npy", "bytes": Path("all.npy").stat().st_size, "format": "npy"}
    np.testing.assert_array_equal(np.load("all.npy"), RATES)
    part = ("latents", "get", example.model_id, "rates", "--slice", "0:2,0:10,0:5")
    for name in ("a.npz", "a.csv", "a.parquet", "a.h5", "a.json"):
        assert latentry(*part, "-o", name).out.startswith(f"{name} (")
    expected = RATES[:2, :10, :5]
    np.testing.assert_array_equal(np.load("a.npz")["rates"], expected)
    with h5py.File("a.h5") as file:
        np.testing.assert_array_equal(file["rates"][...], expected)
    np.testing.assert_array_equal(json.loads(Path("a.json").read_text())["values"], expected)
    for table in (pd.read_csv("a.csv"), pyarrow.parquet.read_table("a.parquet").to_pandas()):
        np.testing.assert_allclose(table.filter(like="neuron_").to_numpy(), expected.reshape(20, 5))
    assert list(Path().glob("*.part")) == []


def test_an_array_of_a_job_is_that_of_its_selected_model(latentry: CommandLine, example: Example) -> None:
    assert latentry("latents", "get", example.job_id, "spikes").out.startswith("spikes.npy (")
    np.testing.assert_array_equal(np.load("spikes.npy"), SPIKES)


def test_parts_of_an_array(latentry: CommandLine, example: Example) -> None:
    options = ("--trial", "3,5", "--time-s", "0.1:0.2", "--neuron", "0:2")
    latentry("latents", "get", example.model_id, "rates", *options, "-o", "part.npy")
    np.testing.assert_array_equal(np.load("part.npy"), RATES[[3, 5]][:, 5:10, :2])
    latentry("latents", "get", example.model_id, "rates", "--parameter", "trial=7", "-o", "one.npy")
    np.testing.assert_array_equal(np.load("one.npy"), RATES[[7]])


def test_every_option_is_a_parameter_of_the_request(
    latentry: CommandLine, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []

    def save(_call: Call, path: str, parameters: dict[str, Any], to: Path, **_told: Any) -> None:
        sent.append({"path": path, "to": to, **{name: value for name, value in parameters.items() if value}})

    monkeypatch.setattr(downloads, "save", save)
    options = {
        "slice": "0:3", "trial": "1", "time_s": "0:1", "neuron": "2", "factor": "0", "split": "valid",
        "align_to": "go", "window_s": "-0.1:0.4", "event_clock": "trial", "smooth_s": 0.05, "rebin_s": 0.1,
        "rotate_to": "mod_1", "rotation": "cca", "components": 3, "average": "condition", "statistic": "sem",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    where = ["condition:in:3,4", "rt:lt:0.5"]
    for condition in where:
        words += ["--where", condition]
    latentry("latents", "get", "inf_1", "rates", *words, "--parameter", "input=1", "-o", "a.nwb")
    path = "/v1/inferences/inf_1/arrays/rates"
    assert sent == [
        {"path": path, "to": Path("a.nwb"), "format": "nwb", "where": where, "input": ["1"], **options}
    ]
    known = set(ArrayQuery.model_fields) - {"slice_", "format_", "where"}
    assert set(options) - {"slice"} <= known


def test_values_as_json(latentry: CommandLine, example: Example) -> None:
    found = latentry("latents", "get", example.model_id, "rates", "--slice", "0,0:2,0:3", "--json").json()
    np.testing.assert_array_equal(found["values"], RATES[0, :2, :3])
    assert not any(Path().iterdir())


def test_values_on_standard_output(example_url: str, example: Example) -> None:
    command = [
        sys.executable,
        "-m",
        "latentry.main",
        "latents",
        "get",
        example.model_id,
        "spikes",
        "--url",
        example_url,
    ]
    done = subprocess.run([*command, "-o", "-", "-f", "npy"], capture_output=True, timeout=240, check=True)
    np.testing.assert_array_equal(np.load(io.BytesIO(done.stdout)), SPIKES)


def test_the_whole_group_in_one_file(latentry: CommandLine, example: Example) -> None:
    told = latentry(
        "latents",
        "download",
        example.model_id,
        "--array",
        "spikes",
        "--array",
        "is_valid",
        "-o",
        "a.npz",
        "--json",
    ).json()
    assert told["format"] == "npz"
    whole = np.load("a.npz")
    assert {"spikes", "is_valid"} <= set(whole.files)
    assert "rates" not in whole.files
    np.testing.assert_array_equal(whole["spikes"], SPIKES)


def test_what_is_refused_leaves_no_file(latentry: CommandLine, example: Example) -> None:
    model = example.model_id
    for arguments, code in (
        ((model, "nothing", "-o", "a.npy"), 3),
        ((example.other_model_id, "rates", "-o", "a.npy"), 3),
        ((model, "rates", "--slice", "9:x", "-o", "a.npy"), 2),
        ((model, "rates", "-o", "a.unknown"), 2),
        (("key_1", "rates", "-o", "a.npy"), 2),
        ((model, "rates", "-o", "-", "-f", "npy", "--json"), 2),
        ((model, "rates", "--parameter", "trial", "-o", "a.npy"), 2),
        ((model, "rates", "--parameter", "no_such_parameter=1", "-o", "a.npy"), 2),
        ((model, "rates", "-o", "no_such_folder/a.npy"), 2),
    ):
        assert latentry("latents", "get", *arguments, expect=code).messages.startswith("Error: "), arguments
    assert not any(Path().iterdir())


def test_a_job_that_has_selected_nothing(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.RUNNING)
    refused = CommandLine(light_url)("latents", "get", job_id, "rates", expect=1)
    assert "is running and has selected no model yet" in refused.messages


def test_a_file_that_breaks_off_is_none(
    latentry: CommandLine, example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_arguments: object) -> Iterator[bytes]:
        yield b"some"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(httpx.Response, "iter_bytes", breaks)
    Path("rates.npy").write_text("an earlier one")
    full = latentry("latents", "get", example.model_id, "rates", expect=1)
    assert "No space left on device" in full.messages
    assert [path.name for path in Path().iterdir()] == ["rates.npy"]
    assert Path("rates.npy").read_text() == "an earlier one"
