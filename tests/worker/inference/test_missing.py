"""Samples that were not observed, from an NWB file to what is read over HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pynwb
import pytest

from tests.worker.lab import Lab

TRIALS, BINS, NEURONS, WIDTH_S = 20, 20, 5, 0.02
INVALID_S = (1.1, 1.3)
OBSERVED_UNTIL_S = 6.2
"""Of neuron 0. Trials begin at 0, 0.5, 1, … s and last 0.4 s."""


def write(path: Path) -> Path:
    file, random = pynwb.NWBFile("session", "id", datetime(2024, 1, 1, tzinfo=UTC)), np.random.default_rng(0)
    for unit in range(NEURONS):
        spikes_s = np.sort(random.uniform(0, 10, 200))
        if unit == 0:
            spikes_s = spikes_s[spikes_s < OBSERVED_UNTIL_S]
        until_s = 10.0 if unit else OBSERVED_UNTIL_S
        file.add_unit(spike_times=spikes_s, obs_intervals=[[0.0, until_s]])
    file.add_trial_column("condition", "condition")
    for trial in range(TRIALS):
        file.add_trial(start_time=trial / 2, stop_time=trial / 2 + 0.4, condition="ab"[trial % 2])
    file.add_invalid_time_interval(*INVALID_S)
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file, cache_spec=False)
    return path


def expected_missing() -> np.ndarray:
    middles_s = np.arange(TRIALS)[:, None] / 2 + (np.arange(BINS) + 0.5) * WIDTH_S
    missing = np.repeat(((middles_s > INVALID_S[0]) & (middles_s < INVALID_S[1]))[..., None], NEURONS, axis=2)
    missing[..., 0] |= middles_s > OBSERVED_UNTIL_S
    return missing


class Observed(Lab):
    """With a data set of which samples are missing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.dataset_id = self.ingest(write(folder / "file.nwb"), bin_width_s=WIDTH_S)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    lab = Observed(tmp_path_factory.mktemp("observed"))
    yield lab
    lab.database.close()


def test_the_data_set_says_what_is_missing(lab: Observed) -> None:
    missing, spikes = (lab.array(f"datasets/{lab.dataset_id}", name) for name in ("missing", "spikes"))
    np.testing.assert_array_equal(missing, expected_missing())
    assert spikes.sum() > 500
    assert not spikes[missing == 1].any()
    averaged = lab.array(f"datasets/{lab.dataset_id}", "spikes?average=condition")
    counts = np.where(expected_missing(), np.nan, spikes)
    for condition in range(2):
        mean = np.nanmean(counts[condition::2], axis=0)
        np.testing.assert_allclose(averaged[condition], mean, rtol=1e-5)
    part = lab.array(f"datasets/{lab.dataset_id}", "spikes?slice=2:14:3,:,0:2&rebin_s=0.04")
    whole = np.where(expected_missing(), np.nan, spikes)[2:14:3, :, :2].reshape(4, 10, 2, 2).sum(axis=2)
    np.testing.assert_array_equal(part, whole)


def test_sessions_keep_it(lab: Observed) -> None:
    other = lab.ingest(
        write(lab.settings.data_dir / "again.nwb"), bin_width_s=WIDTH_S, trials={"where": {"condition": "a"}}
    )
    both = lab.combine([lab.dataset_id, other])
    np.testing.assert_array_equal(lab.array(f"datasets/{both}", "missing_0"), expected_missing())
    np.testing.assert_array_equal(lab.array(f"datasets/{both}", "missing_1"), expected_missing()[::2])
    counts = lab.array(f"datasets/{both}", "spikes_1?average=condition")
    assert counts.shape == (1, BINS, NEURONS)
