"""Every command of every page of the documentation runs as it stands, on one service, with the data set of `latentry sample`."""

import ast
import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import isawaitable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import scipy.io
from latentry import Client
from latentry.sample import write_sample

from worker.embedded import EmbeddedService

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

RUN_HERE = (
    "docs/tutorial.md", "docs/analyses.md", "docs/api.md", "docs/client.md", "docs/command-line.md", "docs/data.md",
    "docs/formats.md", "docs/models.md", "docs/querying.md", "docs/scores.md", "docs/searches.md",
    "docs/transformations.md", "client/README.md",
)  # fmt: skip
RUN_ELSEWHERE = {
    "README.md": "tests/integration/test_readme.py",
    "docs/sessions.md": "tests/integration/test_sessions_guide.py",
}
"""Pages whose commands need data or a service of their own, and the test that runs all of them."""

NOT_RUN = {
    ("README.md", "make demo"): "tests/integration/test_demo.py runs it",
    ("docs/deployment.md", ""): "needs Docker, several machines or a cluster; tests/docker holds its files",
    ("docs/installation.md", "pip install"): "installs",
    ("docs/client.md", "pip install"): "installs",
    ("client/README.md", "pip install"): "installs",
    ("docs/pipelines.md", "snakemake --cores"): "tests/integration/test_pipelines.py runs the workflow",
    ("docs/pipelines.md", "jupyter lab"): "tests/integration/test_pipelines.py runs the notebook",
    ("docs/pipelines.md", "HTTPServer"): "serves for ever, and needs a webhook's secret",
    ("docs/pipelines.md", "lab.example.org"): "names a host of the reader's",
    (
        "docs/pipelines.md",
        "whsec_…",
    ): "needs a message; tests/worker/maintenance/test_webhooks.py verifies one",
    (
        "docs/models.md",
        "model.pt2",
    ): "takes a program that is 10 s in the making; tests/worker/inference/test_program_export.py runs it",
    ("docs/models.md", "model.onnx"): "the same",
    (
        "docs/querying.md",
        "continuous_factors_0",
    ): "asks several continuous sessions; tests/api/test_selection.py does",
}
"""Blocks that no test can run as they stand, by their page and a part of their text, with the reason."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each block of commands of a page, but for those that are not run."""
    found = [(one[1], one[2]) for one in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]
    skipped = [part for other, part in NOT_RUN if other == page]
    return [
        (language, text)
        for language, text in found
        if language in ("bash", "sh", "python") and not any(part in text for part in skipped)
    ]


def pages() -> list[str]:
    return ["README.md", "client/README.md", *(f"docs/{one.name}" for one in (ROOT / "docs").glob("*.md"))]


def test_every_block_of_every_page_is_run() -> None:
    """A new block is run by this module, or it is named above with a reason."""
    left = {page for page in pages() if blocks(page)} - {*RUN_HERE, *RUN_ELSEWHERE}
    assert not left, "run these pages, or name their blocks in NOT_RUN"
    for page, part in NOT_RUN:
        texts = [one[2] for one in BLOCK.finditer((ROOT / page).read_text(encoding="utf-8"))]
        assert any(part in text for text in texts), f"{page} has no block with {part!r} any more"
    for page, test in RUN_ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text()


def test_commands_fail_where_the_service_refuses() -> None:
    for page in pages():
        for language, text in blocks(page):
            for line in text.splitlines() if language != "python" else ():
                is_asked_to_fail = "--fail" in line or "-o problem.json" in text
                assert "curl -" not in line or is_asked_to_fail, f"{page}: {line}"


@dataclass
class Shell:
    """What a reader has after the README: a folder with the sample and a MATLAB file, a service, and a job that is done."""

    folder: Path
    url: str
    ids: dict[str, str]

    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, **self.ids, "LATENTRY": self.url, "LATENTRY_URL": self.url, "PATH": path}


@pytest.fixture(scope="module")
def shell(service: EmbeddedService, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    folder = tmp_path_factory.mktemp("reader")
    write_sample(folder / "spikes.npz")
    sample = np.load(folder / "spikes.npz")
    scipy.io.savemat(
        folder / "recording.mat",
        {"counts": sample["spikes"].transpose(2, 1, 0), "target": sample["direction"]},
    )
    with Client(service.url) as client:
        dataset = client.upload_dataset(folder / "spikes.npz", name="sample of the pages")
        assert dataset.warnings == []
        search = {"budget": {"models": 2, "epochs": 3}, "training": {"batch_size": 32, "ramp_epochs": 2}}
        job = client.submit(dataset, **search).wait(display=False)
        assert job.selected_model_id is not None
    return Shell(folder, service.url, {"DATASET": dataset.id, "JOB": job.id, "MODEL": job.selected_model_id})


def run_bash(shell: Shell, text: str) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text.replace("http://127.0.0.1:8000", shell.url)],
        cwd=shell.folder, env=shell.environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def run_python(shell: Shell, page: str, texts: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "page"}
    for text in texts:
        source = text.replace("http://127.0.0.1:8000", shell.url)
        code = compile(source, page, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        waiting = FunctionType(code, names)()
        if isawaitable(waiting):
            asyncio.run(waiting)  # type: ignore[arg-type]
    return names


CHECKS: dict[str, Callable[[Path, str], None]] = {
    "docs/formats.md": lambda folder, _: np.testing.assert_equal(
        scipy.io.loadmat(folder / "latents.mat")["rates"].shape, (120, 50, 36)
    ),
    "docs/tutorial.md": lambda folder, _: np.testing.assert_equal(
        [(folder / name).stat().st_size > 1000 for name in ("psth.png", "latents.nwb", "model.zip")],
        [True] * 3,
    ),
    "docs/transformations.md": lambda folder, _: np.testing.assert_equal(
        np.load(folder / "psth.npz")["rates"].shape[1:], (35, 36)
    ),
}
"""What a page leaves behind."""


def _marked(page: str) -> object:
    """The pages that train most are of `make test-all`."""
    return pytest.param(page, marks=[pytest.mark.slow] if page == "docs/tutorial.md" else [])


@pytest.mark.timeout(900)  # pages train; a busy machine needs its time
@pytest.mark.parametrize("page", [_marked(page) for page in RUN_HERE])
def test_the_commands_of_a_page(page: str, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shell.folder)
    for name, value in shell.environment().items():
        monkeypatch.setenv(name, value)
    found = blocks(page)
    assert found
    said = run_bash(shell, "".join(text for language, text in found if language == "bash"))  # one shell
    in_python = [text for language, text in found if language == "python"]
    of_the_export = [text for text in in_python if "from load import load" in text]
    run_python(shell, page, [text for text in in_python if text not in of_the_export])
    if of_the_export:  # the shell of this page ends in the folder of the model
        monkeypatch.chdir(shell.folder / "model")
        monkeypatch.syspath_prepend(".")
        run_python(shell, page, of_the_export)
    if page in CHECKS:
        CHECKS[page](shell.folder, said)
    with Client(shell.url) as client:  # what a page leaves training would keep the next one waiting
        for state in ("queued", "running", "paused"):
            for job in client.jobs(state=state).all():
                job.cancel()
