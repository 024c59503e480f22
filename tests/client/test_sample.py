"""The sample is the same each time, and its neurons encode the movement."""

from pathlib import Path

import numpy as np
from latentry.sample import reaches, write_sample


def test_the_sample_is_deterministic(tmp_path: Path) -> None:
    write_sample(tmp_path / "a")
    with np.load(tmp_path / "a") as file:
        assert file["spikes"].shape == (120, 50, 36)
        for name, values in reaches().items():
            np.testing.assert_array_equal(file[name], values)
    assert (reaches(1)["spikes"] != reaches()["spikes"]).any()


def test_reaches_go_where_they_are_told_after_the_cue() -> None:
    found = reaches()
    assert np.bincount(found["condition"]).tolist() == [15] * 8
    end = found["hand_position"][:, -1]
    angle = np.deg2rad(found["direction"])
    np.testing.assert_allclose(end, 10 * np.stack([np.cos(angle), np.sin(angle)], -1), atol=0.5)
    np.testing.assert_allclose(found["move_onset"], found["go_cue"] + found["reaction_time"])


def test_the_neurons_encode_the_movement() -> None:
    found = reaches()
    counts = found["spikes"][:, 15:35].sum(axis=1).astype(float)
    inputs, end = np.c_[counts, np.ones(120)], found["hand_position"][:, -1].astype(float)
    weights = np.linalg.lstsq(inputs[::2], end[::2], rcond=None)[0]
    rest = ((end[1::2] - inputs[1::2] @ weights) ** 2).sum() / (end[1::2] ** 2).sum()
    assert rest < 0.4
