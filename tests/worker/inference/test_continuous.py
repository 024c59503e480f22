"""A continuous recording: cut into windows, trained on, and read again as one series."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store.arrays import open_group
from tests.worker.lab import Lab

BINS, NEURONS, WIDTH_S = 900, 8, 0.02


def spike_times(path: Path, seed: int = 0, neurons: int = NEURONS) -> Path:
    """Spikes of neurons whose rates follow two slow waves, for 18 s that begin at 100 s, without trials."""
    random = np.random.default_rng(seed)
    time_s = 100 + np.arange(BINS) * WIDTH_S
    waves = np.stack([np.sin(time_s), np.cos(0.7 * time_s)], axis=1)
    rates_hz = 15 * np.exp(waves @ random.normal(0, 0.6, (2, neurons)))
    times, ids = [np.array([100.0, 100 + BINS * WIDTH_S - 1e-3])], [np.array([0, 0])]
    for neuron in range(neurons):
        counts = random.poisson(rates_hz[:, neuron] * WIDTH_S)
        times.append(np.repeat(time_s, counts) + random.uniform(0, WIDTH_S, counts.sum()))
        ids.append(np.full(counts.sum(), neuron))
    np.savez(path, spike_times=np.concatenate(times), spike_clusters=np.concatenate(ids))
    return path


OPTIONS: dict[str, Any] = {"bin_width_s": WIDTH_S, "chop": {"window_s": 0.6, "overlap_s": 0.2}}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = Lab(tmp_path_factory.mktemp("lab"))
    yield found
    found.database.close()


def test_latents_of_windows_are_merged_into_one_series(lab: Lab, tmp_path: Path) -> None:
    dataset_id = lab.ingest(spike_times(tmp_path / "spikes.npz"), **OPTIONS)
    model = lab.selected(lab.search(dataset_id))
    latents, data = lab.open(f"models/{model.id}"), lab.open(f"datasets/{dataset_id}")
    assert latents["continuous_rates"].dims == ("continuous_time_s", "neuron")
    assert latents["continuous_rates"].attrs["units"] == "spikes/s"
    np.testing.assert_allclose(latents["continuous_time_s"], 100 + np.arange(BINS) * WIDTH_S)
    assert np.isfinite(latents["continuous_factors"]).all()

    first = data["segment_first_bin"].values
    assert data["spikes"].shape == (len(first), 30, NEURONS)
    for window in (0, 7, 20):  # away from its edges a window is the series
        inside = slice(first[window] + 10, first[window] + 20)
        np.testing.assert_allclose(
            latents["continuous_rates"].values[inside], latents["rates"].values[window, 10:20], rtol=1e-5
        )
    shared = slice(first[3], first[3] + 10)
    before, after = latents["rates"].values[2, 20:], latents["rates"].values[3, :10]
    merged = latents["continuous_rates"].values[shared]
    assert (merged >= np.minimum(before, after) * (1 - 1e-5)).all()
    assert (merged <= np.maximum(before, after) * (1 + 1e-5)).all()


def test_continuous_recordings_as_sessions(lab: Lab, tmp_path: Path) -> None:
    ids = [
        lab.ingest(spike_times(tmp_path / f"{number}.npz", number, neurons), **OPTIONS)
        for number, neurons in enumerate((NEURONS, 5))
    ]
    dataset_id = lab.combine(ids)
    model = lab.selected(lab.search(dataset_id))
    group = open_group(lab.arrays, model.latents_path or "")
    for number, neurons in enumerate((NEURONS, 5)):
        assert group[f"continuous_rates_{number}"].shape == (BINS, neurons)
        assert group[f"continuous_factors_{number}"].shape == (BINS, 3)
        factors = np.asarray(group["factors"][...])
        windows = len(factors) // 2
        series = np.asarray(group[f"continuous_factors_{number}"][...])
        np.testing.assert_allclose(series[10:20], factors[number * windows, 10:20], rtol=1e-4, atol=1e-6)
    lab.open(f"models/{model.id}")
