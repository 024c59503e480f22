"""How well rates predict each neuron."""

from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from domain.scores import bits_per_spike
from domain.states import JobState, ModelState
from store.array_store import open_array_store
from store.arrays import NamedArray
from store.database import Database
from store.settings import Settings
from tests.api.analyses.conftest import WIDTH_S, write
from tests.api.api_examples import add_dataset, add_job, add_model
from tests.app_copies import app_of


@pytest.mark.parametrize("suffix", ["", "_1"])
def test_scores_of_neurons_are_those_of_the_samples_that_exist(
    tmp_path: Path, sqlite_database: Database, suffix: str
) -> None:
    random = np.random.default_rng(0)
    trials, bins, neurons = 20, 9, 4
    counts = random.gamma(2.0, 0.5, (trials, bins, neurons))
    spikes = random.poisson(counts).astype(np.uint8)
    spikes[:, :, 3] = 0
    lengths = np.where(np.arange(trials) % 5 == 0, 6, bins)
    past = np.arange(bins) >= lengths[:, None]
    spikes[past] = 0
    rates = (counts / WIDTH_S).astype(np.float32)
    rates[past] = np.nan
    rates[:, 0] = np.nan  # bins of the initial condition have no rates
    store = open_array_store("sql:", sqlite_database)
    split = (np.arange(trials) % 2).astype(np.int8)
    of_split = {"flag_values": [0, 1, 2], "flag_meanings": "train valid test"}
    dims = (f"trial{suffix}", "time_s", f"neuron{suffix}")
    beside = [
        NamedArray(f"trial{suffix}", np.arange(trials), (f"trial{suffix}",)),
        NamedArray("time_s", WIDTH_S * np.arange(bins), ("time_s",), "s"),
        NamedArray(f"neuron{suffix}", np.arange(neurons), (f"neuron{suffix}",)),
    ]
    write(store, "latents", [*beside, NamedArray(f"rates{suffix}", rates, dims, "spikes/s"),
                             NamedArray("split", split, ("trial",), "", "", of_split)], model_id="any")  # fmt: skip
    write(store, "data", [*beside, NamedArray(f"spikes{suffix}", spikes, dims, "spikes"),
                          NamedArray("trial_length_bins", lengths, (f"trial{suffix}",), "bins"),
                          NamedArray("unit", np.array([7, 8, 9, 12]), (f"neuron{suffix}",))],
          coordinates="split trial_length_bins unit")  # fmt: skip
    with sqlite_database.write() as session:
        dataset = add_dataset(session, splits=["test"] * trials, array_path="data", lengths=lengths.tolist())
        job = add_job(session, dataset, state=JobState.DONE)
        model = add_model(session, job, state=ModelState.TRAINED, latents_path="latents")
    client = TestClient(app_of(Settings(data_dir=tmp_path), sqlite_database, store))
    path = f"/v1/models/{model}/neurons?array=rates{suffix}"
    answer = client.get(f"{path}&split=valid")
    assert answer.status_code == 200, answer.text
    found, valid = answer.json(), split == 1
    known = np.broadcast_to(np.isfinite(rates), rates.shape)[valid]
    assert (found["trials"], found["neuron"], found["labels"]) == (10, [0, 1, 2, 3], {"unit": [7, 8, 9, 12]})
    for neuron in range(3):
        expected = bits_per_spike(
            np.nan_to_num(rates[valid][..., [neuron]]) * WIDTH_S, spikes[valid][..., [neuron]],
            mask=known[..., [neuron]],
        )  # fmt: skip
        assert found["reconstruction_bits_per_spike"][neuron] == pytest.approx(expected, rel=1e-5)
    assert found["reconstruction_bits_per_spike"][3] is None
    in_samples = (spikes[valid] * known).sum((0, 1))
    assert found["spikes"] == in_samples.tolist()
    assert found["rate_hz"] == pytest.approx((in_samples / known.sum((0, 1)) / WIDTH_S).tolist())
    assert found["inferred_rate_hz"] == pytest.approx(np.nanmean(rates[valid], (0, 1)).tolist(), rel=1e-5)
    assert client.get(path, headers={"If-None-Match": client.get(path).headers["ETag"]}).status_code == 304
    if not suffix:
        chosen = client.get(f"{path}&neuron=1,2").json()
        assert (chosen["neuron"], chosen["spikes"]) == ([1, 2], client.get(path).json()["spikes"][1:3])
    assert client.get(f"{path}&split=test").status_code == 422
    assert client.get(f"{path}&slice=:,2:5").status_code == 422
