"""The workflow and the notebook of docs/pipelines, run as they stand on a whole service."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from latentry import Client
from nbclient import NotebookClient
from pynwb import NWBHDF5IO

from worker.embedded import EmbeddedService

PIPELINES = Path(__file__).resolve().parents[2] / "docs" / "pipelines"
SNAKEMAKE = Path(sys.prefix) / "snakemake" / "bin" / "snakemake"
SESSIONS = ["monday", "tuesday"]
BEHAVIOUR = {"monday": "hand_velocity", "tuesday": None}
SMALL_SEARCH: dict[str, Any] = {
    "architecture": {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3},
    "training": {"batch_size": 16, "ramp_epochs": 2},
    "budget": {"models": 2, "epochs": 3},
    "inference": {"posterior_samples": 4},
}


class Laboratory:
    """A folder with the workflow, its configuration and two recordings; one has behaviour."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.results = folder, folder / "results"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        cache = {"XDG_CACHE_HOME": str(folder / "cache")}
        self.environment = {**os.environ, **cache, "LATENTRY_URL": url, "PATH": path}
        shutil.copy(PIPELINES / "Snakefile", folder)
        config = yaml.safe_load((PIPELINES / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({**config, "search": SMALL_SEARCH}))
        (folder / "data").mkdir()
        for seed, session in enumerate(SESSIONS):
            random = np.random.default_rng(seed)
            recording: dict[str, Any] = {
                "spikes": random.poisson(0.5, (32, 15, 6)).astype(np.uint8),
                "bin_width_s": 0.02,
                "condition": np.arange(32) % 4,
            }
            if name := BEHAVIOUR[session]:
                recording[name] = random.normal(size=(32, 15, 2)).astype(np.float32)
            np.savez(folder / "data" / f"{session}.npz", **recording)

    def begin(self) -> subprocess.Popen[str]:
        command = [str(SNAKEMAKE), "--cores", "4", "--keep-going", "--rerun-incomplete"]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self) -> str:
        """What Snakemake said; it has to end well."""
        process = self.begin()
        said, _ = process.communicate(timeout=280)
        assert process.returncode == 0, said[-4000:]
        return said

    def read(self, session: str, name: str) -> Any:
        return json.loads((self.results / session / f"{name}.json").read_text())

    def interrupt(self) -> None:
        """Run until all searches are begun, then press Ctrl-C; on a slow machine all may be done by then, which is well too."""
        process = self.begin()
        while not all((self.results / session / "submitted.json").exists() for session in SESSIONS):
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=240)


@pytest.fixture
def client(service: EmbeddedService) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.mark.slow
@pytest.mark.skipif(not SNAKEMAKE.exists(), reason="no Snakemake in .venv/snakemake: `make test` installs it")
def test_the_workflow(service: EmbeddedService, client: Client, tmp_path: Path) -> None:
    before = {job.id for job in client.jobs()}
    lab = Laboratory(tmp_path, service.url)
    lab.interrupt()
    lab.run()
    for session in SESSIONS:
        check_session(lab, session, client)
    with (lab.results / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["session"] for row in rows] == SESSIONS
    for row in rows:
        model = client.get_model(row["model"])
        assert (row["job"], row["trials"], row["neurons"]) == (model.job_id, "32", "6")
        assert float(row["sv_loss"]) == model.scores["smoothed_sv_loss"]
        assert (row["decoding_r2"] == "") == (BEHAVIOUR[row["session"]] is None)
    jobs = {row["job"] for row in rows}

    assert "Nothing to be done" in lab.run()
    (lab.results / "summary.csv").unlink()
    assert "rule submit" not in lab.run()
    # Whatever is lost, the service knows the search again.
    shutil.rmtree(lab.results / "monday")
    assert "rule submit" in lab.run()
    assert {lab.read(session, "job")["id"] for session in SESSIONS} == jobs
    assert {job.id for job in client.jobs()} - before == jobs


def check_session(lab: Laboratory, session: str, client: Client) -> None:
    """What the workflow made of a recording is what the client reads."""
    job = client.get_job(lab.read(session, "job")["id"])
    model = job.selected_model
    assert model is not None
    assert lab.read(session, "submitted")["id"] == job.id
    folder = lab.results / session
    with NWBHDF5IO(folder / "latents.nwb", "r") as file:
        rates = file.read().processing["ecephys"]["rates"].data[:]
    np.testing.assert_allclose(rates, np.asarray(model.rates).reshape(-1, 6))
    factors = pd.read_parquet(folder / "factors.parquet").filter(like="factor_").to_numpy()
    np.testing.assert_array_equal(factors, np.asarray(model.factors).reshape(-1, 3))
    table = pd.read_csv(folder / "psth.csv")
    trials = np.asarray(model.rates).reshape(8, 4, 15, 6)  # conditions take turns
    means = table.filter(regex=r"^rates_neuron_").to_numpy().reshape(4, 15, 6)
    np.testing.assert_allclose(means, trials.mean(0), rtol=1e-4)
    errors = table.filter(regex=r"^rates_sem_neuron_").to_numpy().reshape(4, 15, 6)
    np.testing.assert_allclose(errors, trials.std(0, ddof=1) / np.sqrt(8), rtol=1e-3, atol=1e-5)
    for statistic, ours in (("mean", means), ("sem", errors)):
        asked = model.rates.query(average="condition", statistic=statistic).to_xarray()
        np.testing.assert_allclose(ours, asked, rtol=1e-5)
    decoding = lab.read(session, "decoding")
    behaviour = BEHAVIOUR[session]
    assert decoding == (dict(model.decoding(behaviour=behaviour)) if behaviour else None)


@pytest.mark.slow
def test_the_notebook(service: EmbeddedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(PIPELINES / "latents.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "commit it without outputs"
    monkeypatch.setenv("LATENTRY_URL", service.url)
    client = NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    shown = [output.get("data", {}) for output in outputs]
    pages = "".join(data.get("text/html", "") for data in shown)
    for part in ("<strong>Data set</strong>", "<strong>Job</strong>", "<strong>Model</strong>", "xr-wrap"):
        assert part in pages, part
    assert sum("image/png" in data for data in shown) == 3
    said = "".join(output.get("text", "") for output in outputs)
    assert float(said.split("R² from factors ")[1].split(",")[0]) > 0.5
