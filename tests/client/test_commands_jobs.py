"""``latentry jobs``: submitted, watched, steered and read."""

import json
import re
import threading
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from latentry import Client

from domain.states import JobState
from store import events
from store.database import Database
from store.tables import Dataset, Job
from tests.api.api_examples import Example, add_dataset, add_job, add_model, add_population
from tests.client.command_line import CommandLine


@pytest.fixture
def dataset_id(light_dataset_id: str) -> str:
    return light_dataset_id


@pytest.fixture
def latentry(light_url: str) -> CommandLine:
    return CommandLine(light_url)


def test_options_go_before_the_specification(latentry: CommandLine, dataset_id: str, tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text("budget: {models: 9, epochs: 50, top_k: 5}\nspace: {dropout: 0.1}\nname: of the file\n")
    job = latentry(
        "jobs", "submit", "--dataset", dataset_id, "-s", path, "--models", "3", "--name", "mine", "--seed", "7",
        "--priority", "2", "--set", "budget.patience_epochs=20", "--set", "strategy.kind=random", "--json",
    ).json()  # fmt: skip
    whole = job["specification"]
    assert (job["name"], whole["seed"], whole["priority"]) == ("mine", 7, 2)
    budget = whole["budget"]
    assert (budget["models"], budget["epochs"], budget["top_k"], budget["patience_epochs"]) == (3, 50, 5, 20)
    assert whole["space"]["dropout"] == 0.1
    assert latentry("jobs", "list", "--json").json()[0]["id"] == job["id"]
    assert latentry("jobs", "submit", "-d", dataset_id, "--preset", "quick").out.endswith(" is queued\n")


def test_a_preview_of_the_cost(latentry: CommandLine, dataset_id: str) -> None:
    asked = ("jobs", "submit", "-d", dataset_id, "--models", "2", "--epochs", "10", "--validate-only")
    preview = latentry(*asked, "--json").json()
    assert (preview["models"], preview["epochs"]) == (2, 20)
    shown = latentry(*asked).out
    for part in (
        "20 over all models",
        "16 for training, 4 for validation",
        "with 1 worker (from a short measurement of each worker",
        "Warning:",
    ):
        assert part in shown, part
    assert latentry("jobs", "list", "--json").json() == []


def test_every_mistake_is_named(latentry: CommandLine, dataset_id: str) -> None:
    asked = ("jobs", "submit", "-d", dataset_id, "--set", "budget.models=-1", "--set", "training.sv_rate=2")
    refused = latentry(*asked, "--json", expect=2)
    assert refused.out == ""
    assert "/budget/models" in refused.messages
    assert "/training/sv_rate" in refused.messages


def test_a_job_is_steered(latentry: CommandLine, dataset_id: str) -> None:
    job_id = latentry("jobs", "submit", "-d", dataset_id, "--models", "2", "--json").json()["id"]
    for verb, state in (
        ("pause", "paused"),
        ("resume", "queued"),
        ("cancel", "cancelled"),
        ("retry", "queued"),
    ):
        assert latentry("jobs", verb, job_id).out == f"{job_id} is {state}\n"
        assert latentry("jobs", "show", job_id, "--json").json()["state"] == state
    more = latentry("jobs", "extend", job_id, "--models", "3", "--epochs", "5", "--json").json()
    assert more["specification"]["budget"]["models"] == 5
    assert latentry("jobs", "stop", job_id, "--json").json()["state"] in ("stopping", "failed", "cancelled")


def test_a_job_shows_the_selected_model_against_simple_predictors(
    light_url: str, sqlite_database: Database
) -> None:
    compared = {"score": "sv_bits_per_spike_test", "baseline": "psth", "verdict": "below"}
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.DONE)
        session.get_one(Job, job_id).diagnostics = {
            "rank_correlation": None, "leaking": [], "best_by_sv": 0, "best_by_validation_loss": 0, "selected": 0,
            "constant_sv_loss": 0.5, "constant_validation_loss": 0.5, "warning": None, "note": None, "models": [],
            "baselines": [
                {**compared, "difference": -0.1234, "standard_error": 0.0211},
                {**compared, "baseline": "mean", "difference": 0.05, "standard_error": None},
            ],
        }  # fmt: skip
    shown = CommandLine(light_url)("jobs", "show", job_id).out
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "sv_bits_per_spike_test, against psth -0.123 ± 0.021" in lines
    assert "sv_bits_per_spike_test, against mean +0.05" in lines


def test_pages_of_jobs(example: Example, example_url: str) -> None:
    latentry = CommandLine(example_url)
    shown = latentry("jobs", "show", example.job_id).out
    for part in (example.job_id, "done", "1 of 8 have ended", "lowest smoothed SV loss", example.model_id):
        assert part in shown, part
    listed = latentry("jobs", "list", "--state", "done")
    assert example.model_id in listed.out
    assert latentry("jobs", "list", "--state", "failed", "--json").json() == []
    assert example.other_job_id not in listed.out


def test_bits_per_spike_stand_beside_the_loss_and_the_preset_is_told(
    latentry: CommandLine, sqlite_database: Database, dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, dataset_id, preset="quick")
        add_model(session, job_id, losses=(0.75, 0.5))  # which is 0.5 bits per spike, see `add_model`
        add_job(session, dataset_id)
    head, without, with_preset = latentry("jobs", "list").out.splitlines()
    assert "smoothed SV loss  bits/spike" in head
    assert "0.5000       0.500" in with_preset
    assert "quick" in with_preset
    assert "quick" not in without
    shown = latentry("jobs", "show", job_id).out
    for line in (r"bits per spike +0\.5", r"preset +quick", r"scored on +[0-9a-f]{8}"):
        assert re.search(line, shown), line


def test_losses_that_cannot_be_compared_are_told(
    latentry: CommandLine, sqlite_database: Database, dataset_id: str
) -> None:
    with sqlite_database.write() as session:
        other_dataset = add_dataset(session)
        jobs = [
            add_job(session, of, seed=seed, training={"evaluation_seed": evaluation_seed})
            for of, seed, evaluation_seed in ((dataset_id, 0, 0), (dataset_id, 1, 0), (other_dataset, 0, 3))
        ]
        for job_id in jobs:
            add_model(session, job_id, losses=(0.5,))
        untrained = add_job(session, dataset_id, training={"evaluation_seed": 1})
    assert "cannot be compared" not in latentry("jobs", "list").out
    with sqlite_database.write() as session:
        add_model(session, untrained, losses=(0.4,))
    said = latentry("jobs", "list").out.splitlines()[-1]
    assert said.startswith("SV losses of jobs scored on different samples cannot be compared.")
    first, second = said.split(": ")[-1].split("; ")
    assert first.startswith(f"{untrained} (")
    assert second.startswith(f"{jobs[1]}, {jobs[0]} (")
    assert jobs[2] not in said
    assert "cannot be compared" not in latentry("jobs", "list", "--json").out
    assert "cannot be compared" not in latentry("jobs", "list", "--dataset", other_dataset).out


def test_events_are_lines(example: Example, example_url: str) -> None:
    latentry = CommandLine(example_url)
    lines = latentry("jobs", "events", example.job_id, "--json").json_lines()
    assert [one["kind"] for one in lines] == ["job.state"]
    assert latentry("jobs", "events", example.job_id, "--follow", "--json").json_lines() == lines
    assert "state done" in latentry("jobs", "events", example.job_id).out


def _train_in(database: Database, job_id: str, end: JobState) -> threading.Thread:
    """Lets a job of two models come to its end, a moment from now."""

    def train() -> None:
        for epoch in (1, 2):
            time.sleep(0.2)
            points = [
                {"number": number, "epoch": epoch, "sv_loss": 1.0 / epoch + number, "validation_loss": 0.5,
                 "best_smoothed_sv_loss": 1.0 / epoch + number}
                for number in range(2)
            ]  # fmt: skip
            with database.write() as session:
                events.record(session, job_id, "progress", models=points)
        with database.write() as session:
            job = session.get_one(Job, job_id)
            job.state = end
            job.error = {"message": "every model diverged"} if end == JobState.FAILED else None
            events.record(session, job_id, "job.state", state=end)

    thread = threading.Thread(target=train)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("end", "code", "as_json"),
    [(JobState.DONE, 0, False), (JobState.FAILED, 6, False), (JobState.FAILED, 6, True)],
)
def test_watching_a_job(
    latentry: CommandLine, sqlite_database: Database, end: JobState, code: int, as_json: bool
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), budget={"models": 2, "epochs": 2})
    thread = _train_in(sqlite_database, job_id, end)
    watched = latentry("jobs", "watch", job_id, *(["--json"] if as_json else []), expect=code)
    thread.join()
    if as_json:
        kinds = [one["kind"] for one in watched.json_lines()]
        assert kinds == ["job.state", "progress", "progress", "job.state"]
    else:
        assert "running: 4 of 4 epochs, lowest SV loss 0.5000 (model 0)" in watched.messages
        assert ("state" in watched.out) == (code == 0)
    assert ("every model diverged" in watched.messages) == (code == 6)


def test_what_a_search_found(latentry: CommandLine, sqlite_database: Database, tmp_path: Path) -> None:
    with sqlite_database.write() as session:
        job_id = add_population(session, add_dataset(session))
    lineage = latentry("jobs", "lineage", job_id, "--model", "1", "--json").json()
    assert (lineage["model_number"], lineage["epochs"]) == (1, 30)
    picture = tmp_path / "lineage.svg"
    shown = latentry("jobs", "lineage", job_id, "--model", "1", "-o", picture)
    assert "ends with .svg" in latentry("jobs", "lineage", job_id, "-o", "lineage.png", expect=2).messages
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    assert "Model 1: 30 epochs" in shown.out
    assert "lost: 2 < 3 & <more>" in shown.out
    assert str(picture) in shown.messages
    decisions = latentry("jobs", "decisions", job_id, "--json").json()
    assert [one["kind"] for one in decisions].count("copy") == 3
    assert "continue" in latentry("jobs", "decisions", job_id).out
    importance = latentry("jobs", "importance", job_id, "--json").json()
    table = latentry("jobs", "importance", job_id).out
    assert all(one["name"] in table for one in importance["dimensions"])
    assert f"Over {importance['observations']} segments of a population" in table
    assert "lowest at" not in table


def test_a_job_of_a_file(
    latentry: CommandLine, dataset_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from latentry import Client

    path = tmp_path / "spikes.npz"
    path.write_bytes(b"spikes")
    sent = []

    def upload(self: Client, file: Path, **_fields: object) -> object:
        sent.append(file)
        return self.get_dataset(dataset_id)

    monkeypatch.setattr(Client, "upload_dataset", upload)
    ran = latentry("jobs", "submit", "--dataset", path, "--models", "1", "--json")
    assert sent == [path]
    assert ran.json()["dataset_id"] == dataset_id
    assert f"is {dataset_id}" in ran.messages
    assert json.loads(ran.out)["state"] == "queued"


@pytest.mark.parametrize(
    "arguments",
    [["jobs", "watch"], ["jobs", "watch", "--json"], ["jobs", "extend", "--epochs", "1", "--watch"]],
)
def test_ctrl_c_leaves_the_job_and_says_how_to_watch_it_again(
    latentry: CommandLine, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "events", interrupt)
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), budget={"models": 2, "epochs": 2})
    ran = latentry(*arguments, job_id, expect=130)
    assert "The job continues." in ran.messages
    assert f"latentry jobs watch {job_id}" in ran.messages
    with sqlite_database.read() as session:
        assert session.get_one(Job, job_id).state == JobState.RUNNING


def test_lists_are_filtered_and_say_how_to_go_on(latentry: CommandLine, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        dataset_id = add_dataset(session)
        session.get_one(Dataset, dataset_id).name = "Monday"
        jobs = [add_job(session, dataset_id) for _ in range(3)]
        add_job(session, add_dataset(session))
    of_data_set = ("jobs", "list", "--dataset", dataset_id)
    assert "Monday" in latentry(*of_data_set).out
    first = latentry(*of_data_set, "--limit", "2", "--json")
    token = first.messages.split("--page-token ")[1].split()[0]
    rest = latentry(*of_data_set, "--limit", "2", "--page-token", token, "--json")
    assert {one["id"] for one in first.json() + rest.json()} == set(jobs)
    assert (len(first.json()), len(rest.json()), rest.messages) == (2, 1, "")
    assert len(latentry(*of_data_set, "--limit", "1", "--all", "--json").json()) == 3
    assert latentry("jobs", "list", "--before", "2020-01-01", "--json").json() == []
    found = latentry(
        "datasets", "list", "--name", "mon", "--state", "ready", "--after", "2020-01-01", "--json"
    ).json()
    assert [one["id"] for one in found] == [dataset_id]
    assert "spikes.npz" in latentry("datasets", "list", "--name", "mon").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["datasets", "list", "--after", "yesterday"], "Error: --after: expected a time with a time zone"),
        (["jobs", "list", "--before", "x"], "Error: --before: expected a time"),
        (
            ["jobs", "list", "--dataset", "reaches"],
            "Error: --dataset: expected the id of a data set, such as dat_",
        ),
        (["jobs", "list", "--state", "resting"], "Error: --state: should be"),
        (["jobs", "list", "--page-token", "x"], "Error: --page-token: expected the next_page_token"),
        (["jobs", "submit", "--seed", str(2**40), "-d", "ID"], "Error: --seed: should be less than"),
        (["jobs", "submit", "--preset", "best", "-d", "ID"], "Error: --preset: "),
        (["jobs", "submit", "--set", "seed=-1", "-d", "ID"], "Error: /seed: should be greater"),
    ],
)
def test_errors_name_the_option_that_was_given(
    latentry: CommandLine, dataset_id: str, arguments: list[str], told: str
) -> None:
    asked = [dataset_id if one == "ID" else one for one in arguments]
    assert latentry(*asked, expect=2).messages.startswith(told)


def test_several_errors_name_their_options(latentry: CommandLine, dataset_id: str) -> None:
    asked = ("jobs", "submit", "-d", dataset_id, "--models", "2000", "--epochs", "200000")
    first, *rest = latentry(*asked, expect=2).messages.splitlines()
    assert "--models" in first
    assert [line.split(": ")[0].strip() for line in rest] == ["--models", "--epochs"]
