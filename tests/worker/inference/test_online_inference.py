"""Latents of a few trials at once: the worker's side."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from domain.sessions import sessions_of
from models import infer_latents
from store.rpc import pack_array, unpack_array
from store.tables import Dataset, Model
from tests.worker.lab import Lab
from worker.context.checkpoints import load_checkpoint
from worker.context.slices import architecture_of
from worker.inference.online_inference import LoadedModels, infer_now
from worker.rpc_server import CannotAnswer


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def model(lab: Lab, spikes_file: Path) -> Model:
    return lab.selected(lab.search(lab.ingest(spikes_file), budget={"models": 1, "epochs": 2}))


@pytest.fixture
def loaded(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> LoadedModels:
    found = LoadedModels(lab.arrays, "cpu", most_bytes=2**20)
    monkeypatch.setattr("worker.inference.online_inference._models", lambda: found)
    return found


def spikes_of(lab: Lab, model: Model) -> NDArray[Any]:
    [dataset_id] = {one["id"] for one in lab.client.get("/v1/datasets").json()["items"]}
    return lab.array(f"datasets/{dataset_id}", "spikes")


def ask(model: Model, spikes: NDArray[Any], **changes: Any) -> dict[str, NDArray[Any]]:
    asked = {
        "checkpoint_key": model.checkpoint_key, "architecture": model.architecture, "neurons": [8], "session": 0,
        "spikes": pack_array(spikes), "trial_length_bins": [spikes.shape[1]] * len(spikes), "external_inputs": None,
        "posterior_samples": 4, "seed": model.seed, "first_trial": 0, "arrays": ["rates", "factors"], "seconds": 30,
    }  # fmt: skip
    return {name: unpack_array(packed) for name, packed in infer_now(**asked | changes).items()}


def test_it_is_what_the_job_stored_for_the_same_trials(lab: Lab, model: Model, loaded: LoadedModels) -> None:
    spikes = spikes_of(lab, model)
    stored = lab.array(f"models/{model.id}", "factors")
    whole = ask(model, spikes)
    np.testing.assert_array_equal(whole["factors"], stored)
    np.testing.assert_array_equal(whole["rates"] / np.float32(0.02), lab.array(f"models/{model.id}", "rates"))
    some = ask(model, spikes[7:9], first_trial=7)
    np.testing.assert_allclose(some["factors"], stored[7:9], rtol=1e-4, atol=1e-5)
    assert not np.allclose(ask(model, spikes[7:9])["factors"], stored[7:9], atol=1e-3), "other draws"


def test_it_is_what_the_models_package_infers(lab: Lab, model: Model, loaded: LoadedModels) -> None:
    with lab.database.read() as session:
        [dataset] = session.query(Dataset).all()
    state = load_checkpoint(lab.arrays, model.checkpoint_key or "")
    spikes = spikes_of(lab, model)[:3]
    expected = infer_latents(
        architecture_of(model, sessions_of(dataset)),
        state,
        spikes,
        np.array([20, 9, 20]),
        posterior_samples=5,
        seed=11,
    )
    lengths = {"trial_length_bins": [20, 9, 20], "posterior_samples": 5, "seed": 11}
    names = ["rates", "factors", "initial_conditions", "generator_states", "inputs"]
    found = ask(model, spikes, arrays=names, **lengths)
    assert set(found) == {*names} - {"inputs"}, "it has no controller"
    for name, values in found.items():
        np.testing.assert_array_equal(values, getattr(expected, name))
    np.testing.assert_array_equal(ask(model, spikes, **lengths)["rates"], expected.rates, "the same again")


def test_models_used_last_stay_loaded(lab: Lab, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    key, read = model.checkpoint_key or "", []

    def load(_arrays: Any, key: str) -> Any:
        read.append(key)
        return load_checkpoint(lab.arrays, model.checkpoint_key or "")

    monkeypatch.setattr("worker.context.checkpoints.load_checkpoint", load)
    one_model = sum(values.nbytes for values in LoadedModels(lab.arrays, "cpu", 0).weights(key).values())
    loaded = LoadedModels(lab.arrays, "cpu", most_bytes=2 * one_model)
    read.clear()
    for name in ("a", "b", "a", "c", "a", "b"):
        loaded.weights(name)
    assert read == ["a", "b", "c", "b"], "b was used longest ago when c came"
    assert all(name.startswith("best.") for name in loaded.weights("a"))


def test_what_it_can_t_do_is_told(lab: Lab, model: Model, loaded: LoadedModels) -> None:
    spikes = spikes_of(lab, model)[:2]
    with pytest.raises(CannotAnswer, match="not there") as gone:
        ask(model, spikes, checkpoint_key="models/none")
    assert gone.value.code == "no_weights"
    with pytest.raises(CannotAnswer, match="for 8 neurons") as refused:
        ask(model, spikes[:, :, :5])
    assert refused.value.code == "refused"
    with pytest.raises(CannotAnswer) as late:
        ask(model, spikes, seconds=-1.0)
    assert late.value.code == "too_slow"
