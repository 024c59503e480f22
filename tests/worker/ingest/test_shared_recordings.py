"""The real and synthetic recordings beside the checkout, which are not part of the repository."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.ingest.problems import RejectedFile
from worker.ingest.quality_control.checks import Report, examine
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "data"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recordings in {FOLDER}")


def read(name: str, **options: Any) -> tuple[Recording, Report]:
    recording = read_recording(FOLDER / name, ReadOptions(**options))
    return recording, examine(recording)


@pytest.mark.parametrize(
    ("name", "shape", "width_s", "codes"),
    [
        ("mc_maze_large_subset.npz", (165, 100, 162), 0.005, []),
        ("chewie_2013-10-03_50ms.npz", (159, 16, 174), 0.05, ["silent_neurons", "correlated_neurons"]),
        ("chewie_2013-12-19_100ms.npz", (180, 9, 155), 0.1, ["silent_neurons", "correlated_neurons"]),
        ("mihi_2014-03-03_100ms.npz", (209, 8, 187), 0.1, ["silent_neurons"]),
        ("lorenz_lfads_format.h5", (800, 100, 60), 0.01, ["bin_width_derived", "array_left_out"]),
        (
            "lorenz_tiny.h5",
            (8, 100, 30),
            0.01,
            ["bin_width_derived", "array_left_out", "counts_clipped_maybe", "no_preset_fits"],
        ),
    ],
)
def test_shapes_and_warnings(name: str, shape: tuple[int, ...], width_s: float, codes: list[str]) -> None:
    recording, report = read(name)
    assert recording.spikes.shape == shape
    assert recording.spikes.dtype == np.uint8
    assert report.bin_width_s == pytest.approx(width_s)
    assert list(dict.fromkeys(warning.code for warning in report.warnings)) == codes


def test_ragged_reaches() -> None:
    recording, report = read("chewie_2013-10-03_50ms.npz")
    assert (report.trial_length_bins["min"], report.trial_length_bins["max"]) == (7, 16)
    assert set(recording.trial_metadata["direction"]) == set(range(8))
    inside = recording.inside_trials()
    assert np.isfinite(recording.behaviour["hand_velocity"][inside]).all()
    assert np.isnan(recording.behaviour["hand_velocity"][~inside]).all()


def test_lorenz_trials_are_in_their_original_order() -> None:
    recording, report = read("lorenz_lfads_format.h5")
    assert report.split == {"train": 640, "valid": 160, "not_given": 0, "gap": 0}
    assert recording.true_rates_hz is not None
    assert recording.spikes.sum() / recording.true_rates_hz.sum() == pytest.approx(0.01, rel=0.01)
    by_condition = recording.behaviour["true_latents"].reshape(20, 40, 100, 3)
    np.testing.assert_allclose(
        by_condition, np.broadcast_to(by_condition[:, :1], by_condition.shape), atol=1e-6
    )


def test_lorenz_tiny_has_test_trials() -> None:
    recording, report = read("lorenz_tiny.h5")
    assert report.split == {"train": 5, "valid": 1, "not_given": 2, "gap": 0}
    assert list(recording.behaviour) == ["behaviours", "true_latents"]


def test_long_trials_are_cut_into_windows() -> None:
    recording, report = read(
        "lorenz_long_trials.h5", bin_width_s=0.01, chop={"window_s": 1.0, "overlap_s": 0.2}
    )
    assert recording.spikes.shape == (10 * 13, 100, 50)
    assert recording.true_rates_hz is not None
    assert recording.windows is not None
    assert recording.windows.first_bin[:13].tolist() == [*range(0, 900, 80), 900]
    assert [(one.what, one.variable) for one in recording.understood] == [
        ("spikes", "y"),
        ("true_rates", "rate"),
    ]
    assert report.split["train"] + report.split["valid"] == 130


def test_rates_in_counts_per_bin_do_not_tell_the_bin_width() -> None:
    with pytest.raises(RejectedFile) as caught:
        read("lorenz_long_trials.h5")
    assert [problem.code for problem in caught.value.problems] == ["bin_width_missing"]
