"""The commands of docs/api.md, docs/searches.md, docs/scores.md and docs/data.md, run as they stand."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
from fastapi import FastAPI

from store.array_store import open_array_store
from store.database import Database
from tests.api.api_examples import fill

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run_commands(page: Path, folder: Path, first: int | None = None, **environment: str) -> list[str]:
    """Run the first or all blocks of curl commands of a page in a folder, and return the output of each.

    Blocks of the command line need a worker: tests/integration/test_pages.py runs them.
    """
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    return [
        subprocess.run(
            # these examples have no pictures; tests/integration/test_pages.py lets no request be refused
            ["bash", "-euo", "pipefail", "-c", block.replace("--fail-with-body ", "")],
            cwd=folder, env={**os.environ, **environment}, capture_output=True, check=True, text=True,
        ).stdout
        for block in [one for one in blocks if not one.startswith("latentry ")][:first]
    ]  # fmt: skip


def test_commands_of_the_guide_to_data(light_url: str, spikes_file: Path, tmp_path: Path) -> None:
    (tmp_path / "spikes.npz").write_bytes(spikes_file.read_bytes())
    (tmp_path / "recording.mat").write_bytes(b"no worker reads it here")
    _, with_options, derived = run_commands(DOCS / "data.md", tmp_path, LATENTRY=light_url)
    first = json.loads((tmp_path / "dataset.json").read_text())
    axes = ["neuron", "bin", "trial"]
    mapping = {"spikes": "counts", "axes": axes, "trial_metadata": ["target"]}
    assert json.loads(with_options)["options"] == {"bin_width_s": 0.02, "mapping": mapping}
    assert json.loads(derived)["derived_from"] == first["id"]
    assert {json.loads(text)["state"] for text in (with_options, derived)} == {"ingesting"}


def test_commands_of_the_guide(
    light_app: FastAPI, light_url: str, sqlite_database: Database, spikes_file: Path, tmp_path: Path
) -> None:
    example = fill(light_app, sqlite_database, open_array_store("sql:", sqlite_database))
    (tmp_path / "spikes.npz").write_bytes(spikes_file.read_bytes())
    ids = {"DATASET": example.dataset_id, "JOB": example.job_id, "MODEL": example.model_id}
    api, *others = (
        run_commands(DOCS / page, tmp_path, LATENTRY=light_url, **ids)
        for page in ("api.md", "searches.md", "scores.md")
    )
    outputs = [*api, *others[0], *others[1]]
    assert len(outputs) >= 7
    everything = "".join(outputs)
    assert everything.count('"state":"ingesting"') == 7  # uploaded, derived, named; three synthetic
    assert "upload-offset: 1000" in everything
    assert '"state":"complete"' in everything
    assert "urn:latentry:problem" not in everything
    assert '"detail":' not in everything
    jobs = re.findall(r'"id":"(job_[0-9a-f]+)"', next(text for text in outputs if '"state":"queued"' in text))
    assert len(jobs) == 2
    assert len(set(jobs)) == 1
    for state in ("paused", "cancelled", "stopping"):
        assert f'"state":"{state}"' in everything
    assert "'kind': 'pbt'" in everything
    assert "'seconds_basis': 'assumed'" in everything
    assert '"kind":"begin"' in everything
    assert '"segments":[{"model_number":0' in everything
    assert "<svg" in (tmp_path / "lineage.svg").read_text()
    assert "/space/cd_rate: 1.5 is outside 0 … 0.95" in api[-1]
    assert np.load(tmp_path / "rates.npy").shape == (5, 25, 20)
    assert json.loads((tmp_path / "page.json").read_text())["items"][1]["trial"] == 1
    assert '"trial":2' in everything  # the second page
