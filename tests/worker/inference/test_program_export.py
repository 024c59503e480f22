"""A model on its way out: trained here, taken away over HTTP, run where nothing of ours is installed."""

import importlib.util
import io
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from api.models import export
from tests.worker.lab import Lab
from worker.inference import program_process, rpc_tasks
from worker.inference.program_process import write_program

ELSEWHERE = """
import sys
sys.path = [path for path in sys.path if path.endswith(("site-packages", ".zip", "dynload")) or "/lib/python" in path]
sys.path.insert(0, ".")

class Absent:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("api", "worker", "models", "store", "latentry"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
import numpy, torch
from load import load
weights = load("model.safetensors")
model = torch.export.load("model.pt2").module()
latents = model(torch.from_numpy(numpy.load("spikes.npy")).float())
numpy.savez("latents.npz", **latents, bias=weights["rates.bias"])
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """A service whose calls go to the process that writes programs, but for the broker between."""
    lab = Lab(tmp_path / "service")
    monkeypatch.setenv("LATENTRY_DATABASE_URL", lab.database.url)

    def answer(_task: str, arguments: Mapping[str, Any], *, timeout_s: float) -> Any:
        answers: dict[str, Any] = {}
        monkeypatch.setattr(
            rpc_tasks, "take_question", lambda _: msgpack.unpackb(msgpack.packb(dict(arguments)))
        )
        monkeypatch.setattr(rpc_tasks, "give_answer", answers.__setitem__)
        rpc_tasks._answer("call")
        return answers["call"]["answer"]

    monkeypatch.setattr(export, "call_worker", answer)
    return lab


@pytest.mark.slow
def test_a_trained_model_runs_elsewhere(lab: Lab, spikes_file: Path, tmp_path: Path) -> None:
    job_id = lab.search(lab.ingest(spikes_file), inference={"posterior_samples": 200})
    model = lab.selected(job_id)
    answer = lab.client.get(f"/v1/models/{model.id}/export?program=torch_export")
    assert answer.status_code == 200, answer.text
    zipfile.ZipFile(io.BytesIO(answer.content)).extractall(tmp_path)
    spikes = np.load(spikes_file)["spikes"]
    np.save(tmp_path / "spikes.npy", spikes)
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=tmp_path, check=True, timeout=120)
    latents = np.load(tmp_path / "latents.npz")
    assert latents["bias"].shape == (spikes.shape[2],)
    owner = f"models/{model.id}"
    np.testing.assert_allclose(
        latents["initial_conditions"], lab.array(owner, "initial_conditions"), rtol=1e-4, atol=1e-5
    )
    rates = lab.array(owner, "rates")  # averages over draws: near the rates at the mean, and not the same
    assert latents["rates"].shape == rates.shape
    error = np.abs(latents["rates"] / rates - 1)
    assert 0 < np.median(error) < 0.05


GONE: dict[str, Any] = {
    "checkpoint_key": "gone", "architecture": {"neurons": 4, "held_out_neurons": []}, "session": 0, "bin_width_s": 0.02,
    "bins": 5, "kind": "torch_export",
}  # fmt: skip


def test_onnx_wants_its_packages(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        program_process, "find_spec", lambda name: None if name == "onnxscript" else real(name)
    )
    assert write_program(lab.arrays, **GONE | {"kind": "onnx"}) == {
        "problem": {"code": "not_installed", "message": "onnxscript not installed"}
    }


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the task answers to a question, whose arguments are those of a model that is gone."""
    answers: dict[str, Any] = {}
    monkeypatch.setattr(rpc_tasks, "take_question", lambda call_id: GONE if call_id == "call" else None)
    monkeypatch.setattr(rpc_tasks, "give_answer", answers.__setitem__)
    return answers


def test_weights_that_are_gone_are_told(lab: Lab) -> None:
    assert write_program(lab.arrays, **GONE)["problem"]["code"] == "no_weights"


def test_a_process_that_fails_is_told_and_who_has_gone_is_not(
    answered: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    rpc_tasks._answer("another")
    assert answered == {}
    rpc_tasks._answer("call")
    assert answered["call"]["problem"]["code"] == "internal"
