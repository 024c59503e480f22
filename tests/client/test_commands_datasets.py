"""``latentry datasets``: a real file from upload to report, and what each command says."""

import hashlib
import io
from pathlib import Path
from typing import Any

import h5py
import matplotlib.image
import numpy as np
import pytest
from latentry import Client
from latentry.commands.report_page import print_page
from rich.console import Console

from domain.states import DatasetState, JobState
from store.array_store import open_array_store
from store.database import Database
from store.settings import Settings
from store.tables import Dataset
from tests.api.api_examples import Example, add_dataset, add_job, add_model
from tests.client.command_line import CommandLine
from worker.ingest.service import ingest_dataset


@pytest.fixture
def reads_files(monkeypatch: pytest.MonkeyPatch, sqlite_database: Database, settings: Settings) -> None:
    """The worker of a service without one: who waits for a data set reads its file."""
    wait, arrays = Client.wait_for_dataset, open_array_store("sql:", sqlite_database)

    def read(self: Client, dataset_id: str) -> Any:
        ingest_dataset(sqlite_database, arrays, settings, dataset_id, "test")
        return wait(self, dataset_id)

    monkeypatch.setattr(Client, "wait_for_dataset", read)


@pytest.mark.usefixtures("reads_files")
def test_a_file_from_upload_to_report(light_url: str, tmp_path: Path, spikes_file: Path) -> None:
    latentry = CommandLine(light_url)
    done = latentry(
        "datasets", "upload", spikes_file, "--name", "reaches", "--json", "--option", "rebin_s=0.04"
    )
    dataset = done.json()
    assert (dataset["name"], dataset["options"], dataset["bins"]) == ("reaches", {"rebin_s": 0.04}, 10)
    for warning in dataset["report"]["warnings"]:
        assert warning["message"] in done.messages
    page = latentry("datasets", "show", dataset["id"]).out
    for part in (
        "reaches", "40 trials × 10 bins × 8 neurons, bins of 40 ms", "mean rate (spikes/s)", "condition",
        "number, 4 distinct: ", "spikes (40 × 20 × 8), by its name",
    ):  # fmt: skip
        assert part in page, part
    assert latentry("datasets", "show", dataset["id"], "--json").json() == dataset
    assert latentry("datasets", "list", "--json").json() == [dataset]
    assert "reaches" in latentry("datasets", "list").out
    picture = tmp_path / "preview.png"
    latentry("datasets", "preview", dataset["id"], "-o", picture)
    refused = latentry("datasets", "preview", dataset["id"], "-o", tmp_path / "preview.pdf", expect=2)
    assert "ends with .png or .svg" in refused.messages
    assert matplotlib.image.imread(picture).shape[1] == 1200


@pytest.mark.usefixtures("reads_files")
def test_what_else_could_have_been_taken(light_url: str, tmp_path: Path) -> None:
    path = tmp_path / "two.nwb"
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.6.0"
        file["units/spike_times"], file["units/spike_times_index"] = np.arange(0, 20, 0.05), [200, 400]
        for name, rows in (("encoding", 5), ("recognition", 9)):
            file[f"intervals/{name}/start_time"] = np.arange(rows) * 1.0
            file[f"intervals/{name}/stop_time"] = np.arange(rows) * 1.0 + 0.5
    latentry = CommandLine(light_url)
    done = latentry("datasets", "upload", path, "--json")
    assert "`recognition` (9 rows) was used" in done.messages
    page = " ".join(latentry("datasets", "show", done.json()["id"]).out.split())
    assert "not taken: encoding (5 trials)" in page
    assert '{"mapping": {"trials": "encoding"}}' in page


@pytest.mark.usefixtures("reads_files")
def test_a_file_that_is_rejected(light_url: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.npz"
    np.savez(path, spikes=np.full((4, 5, 3), 0.5), bin_width_s=0.02)
    latentry = CommandLine(light_url)
    rejected = latentry("datasets", "upload", path, "--json", expect=6)
    assert rejected.out == ""
    assert "the data set dat_" in rejected.messages
    assert "was rejected" in rejected.messages
    dataset = latentry("datasets", "list", "--json").json()[0]
    page = latentry("datasets", "show", dataset["id"]).out
    assert "Rejected" in page
    assert dataset["problems"][0]["message"][:40] in page.replace("\n", " ")


def test_files_and_options_that_make_no_sense(light_url: str, tmp_path: Path) -> None:
    latentry = CommandLine(light_url)
    assert "is not a file" in latentry("datasets", "upload", tmp_path / "no.npz", expect=2).messages
    path = tmp_path / "a.npz"
    path.write_bytes(b"abc")
    refused = latentry(
        "datasets", "upload", path, "--option", "rebin=0.04", "--option", "nonsense=1", expect=2
    )
    assert "rebin" in refused.messages
    assert "nonsense" in refused.messages


def test_trials(example: Example, example_url: str) -> None:
    latentry = CommandLine(example_url)
    found = latentry("datasets", "trials", example.dataset_id, "--json").json()
    assert [one["trial"] for one in found] == list(range(20))
    some = latentry("datasets", "trials", example.dataset_id, "--where", "condition:in:1,2", "--json").json()
    assert [one["trial"] for one in some] == [trial for trial in range(20) if trial % 4 in (1, 2)]
    lines = latentry("datasets", "trials", example.dataset_id, "--limit", "3").out.splitlines()
    assert lines[0].split() == ["trial", "bins", "split", "condition"]
    assert lines[3].split() == ["2", "5", "–", "2"]


@pytest.fixture
def waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a data set has it as it is."""
    monkeypatch.setattr(Client, "wait_for_dataset", Client.get_dataset)


@pytest.mark.usefixtures("waits_for_nothing")
def test_data_sets_of_others(light_url: str, sqlite_database: Database) -> None:
    latentry = CommandLine(light_url)
    options = ("--option", "conditions=4", "--option", "neurons=6", "--json")
    made = latentry("datasets", "synthesize", "driven", *options).json()
    assert (made["source"]["system"], made["source"]["neurons"]) == ("driven", 6)
    assert "system" in latentry("datasets", "synthesize", "nonsense", expect=2).messages
    with sqlite_database.write() as session:
        ids = [add_dataset(session, neurons=neurons, array_path="groups/a") for neurons in (3, 4)]
    together = latentry("datasets", "combine", *ids, "--name", "both", "--json").json()
    assert together["name"] == "both"
    assert all(one in str(together["source"]) for one in ids)
    assert latentry("datasets", "combine", ids[0], expect=2).messages
    sha256 = hashlib.sha256(b"spikes").hexdigest()
    with sqlite_database.write() as session:
        session.get_one(Dataset, ids[0]).original = sha256
    derived = latentry(
        "datasets", "derive", ids[0], "--name", "fine", "--option", "rebin_s=0.04", "--json"
    ).json()
    assert (derived["derived_from"], derived["name"], derived["options"]) == (
        ids[0],
        "fine",
        {"rebin_s": 0.04},
    )


def test_a_data_set_that_is_not_read_yet(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session, state=DatasetState.INGESTING)
    assert f"{dataset_id} is ingesting" in CommandLine(light_url)("datasets", "show", dataset_id).out


def test_what_stands_in_a_file_is_no_markup() -> None:
    dataset = {
        "id": "dat_1", "name": "[red]name[/red]", "state": "rejected", "source": {"filename": "[bold]a.npz"},
        "created_at": "2026-01-02T03:04:05Z", "report": None,
        "problems": [{"message": "variable [x] is odd", "hint": "see [y]"}],
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=100)
    print_page(dataset, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("[red]name[/red]", "[bold]a.npz", "variable [x] is odd", "see [y]"):
        assert part in shown


def test_what_goes_is_shown_before_it_is_deleted(
    light_url: str, sqlite_database: Database, light_dataset_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    latentry = CommandLine(light_url)
    with sqlite_database.write() as session:
        job_id = add_job(session, light_dataset_id, state=JobState.DONE)
        model_id = add_model(session, job_id, latents_path="groups/a")
    delete = ("datasets", "delete", light_dataset_id)
    refused = latentry(*delete, "--yes", expect=1)
    assert "cascade=true" in refused.messages
    shown = latentry(*delete, "--cascade", "--dry-run").out
    assert f"1 jobs: {job_id}" in shown
    assert "20 trials" in shown
    assert "give --yes" in latentry(*delete, "--cascade", expect=2).messages
    for answer, expected in ((False, 1), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        assert f"1 models: {model_id}" in latentry("jobs", "delete", job_id, expect=expected).messages
    assert latentry("jobs", "list", "--json").json() == []
    assert latentry("jobs", "list", "--state", "deleting", "--json").json()[0]["id"] == job_id
    planned = latentry(*delete, "--cascade", "--yes", "--json").json()
    assert planned["dry_run"] is False
    assert latentry("datasets", "show", light_dataset_id, "--json").json()["state"] == "deleting"
