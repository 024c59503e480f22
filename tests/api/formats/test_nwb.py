"""NWB: when its bins are, for trials whose starts are known, unknown or overlap, for windows and for several sessions."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pynwb

from api.arrays.formats.base import WriteContext
from api.arrays.formats.nwb import Nwb
from api.arrays.labelled import LabelledArray
from tests.api.formats.format_examples import WIDTH_S, array, content, context, index, time_s

TRIALS, BINS = 4, 5
VALUES = np.random.default_rng(0).random((TRIALS, BINS, 2)).astype(np.float32)


def latents(**attributes: Any) -> LabelledArray:
    return array(
        "factors",
        VALUES,
        ("trial", "time_s", "factor"),
        index("trial", range(TRIALS)),
        time_s(BINS),
        **attributes,
    )


@contextmanager
def opened(path: Path, about: WriteContext, *arrays: LabelledArray) -> Iterator[Any]:
    path.write_bytes(content(Nwb().encode(arrays, about)))
    with pynwb.NWBHDF5IO(path, "r") as io:
        yield io.read()


def test_trials_without_known_starts_are_laid_end_to_end(tmp_path: Path) -> None:
    with opened(tmp_path / "a.nwb", context(TRIALS, None), latents()) as file:  # of 1, 2, 3, 4 bins
        factors = file.processing["ecephys"]["factors"]
        assert (factors.starting_time, round(factors.rate, 6)) == (0.0, 1 / WIDTH_S)
        expected = np.concatenate([VALUES[trial, : trial + 1] for trial in range(TRIALS)])
        np.testing.assert_array_equal(factors.data[()], expected)
        np.testing.assert_allclose(file.trials["start_time"][:], np.array([0, 1, 3, 6]) * WIDTH_S)
        np.testing.assert_allclose(file.trials["stop_time"][:], np.array([1, 3, 6, 10]) * WIDTH_S)
        assert "end to end" in file.session_description


def test_known_starts_give_every_bin_its_time(tmp_path: Path) -> None:
    starts_s = np.array([1.0, 2.0, 4.0, 8.0])
    with opened(tmp_path / "a.nwb", context(TRIALS, None, starts_s), latents()) as file:
        times = file.processing["ecephys"]["factors"].timestamps[()]
        expected = [starts_s[trial] + bin_ * WIDTH_S for trial in range(TRIALS) for bin_ in range(trial + 1)]
        np.testing.assert_allclose(times, expected)
        np.testing.assert_allclose(file.trials["start_time"][:], starts_s)
        assert "end to end" not in file.session_description


def test_a_part_of_the_bins_keeps_its_times(tmp_path: Path) -> None:
    part = array(
        "factors", VALUES[1:3, 1:4], ("trial", "time_s", "factor"), index("trial", [1, 2]),
        index("time_s", np.arange(1, 4) * WIDTH_S),
    )  # fmt: skip
    with opened(tmp_path / "a.nwb", context(TRIALS, 3, np.arange(TRIALS) * 1.0), part) as file:
        factors = file.processing["ecephys"]["factors"]
        np.testing.assert_allclose(factors.timestamps[()], [1.02, 1.04, 2.02, 2.04])  # a trial ends after 3
        np.testing.assert_array_equal(factors.data[()], VALUES[1:3, 1:3].reshape(4, 2))
        assert file.trials["trial"][:].tolist() == [1, 2]


def test_overlapping_trials_are_a_table_and_merged_ones_a_series(tmp_path: Path) -> None:
    merged = array(
        "continuous_factors", VALUES[0], ("continuous_time_s", "factor"),
        index("continuous_time_s", 10 + np.arange(BINS) * WIDTH_S), units="a.u.",
    )  # fmt: skip
    starts_s = 10 + np.arange(TRIALS) * WIDTH_S
    with opened(tmp_path / "a.nwb", context(TRIALS, BINS, starts_s), latents(), merged) as file:
        module = file.processing["ecephys"]
        np.testing.assert_array_equal(module["factors"]["factors"].data[()], VALUES)
        assert module["factors"]["trial"].data[()].tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(module["time_s"]["time_s"].data[()], np.arange(BINS) * WIDTH_S)
        series = module["continuous_factors"]
        assert (series.starting_time, round(series.rate, 6), series.unit) == (10.0, 1 / WIDTH_S, "a.u.")
        np.testing.assert_array_equal(series.data[()], VALUES[0])
        np.testing.assert_allclose(file.trials["start_time"][:], starts_s)


def test_windows_around_an_event_are_a_table(tmp_path: Path) -> None:
    with opened(tmp_path / "a.nwb", context(TRIALS), latents(aligned_to="go")) as file:
        np.testing.assert_array_equal(file.processing["ecephys"]["factors"]["factors"].data[()], VALUES)


def test_wider_bins_keep_their_width(tmp_path: Path) -> None:
    wide = array(
        "factors",
        VALUES[:1, :1],
        ("trial", "time_s", "factor"),
        index("trial", [0]),
        time_s(1),
        bin_width_s=0.1,
    )
    with opened(tmp_path / "a.nwb", context(TRIALS), wide) as file:
        assert file.processing["ecephys"]["factors"].rate == 10


def test_sessions_have_their_own_trials(tmp_path: Path) -> None:
    sessions = [
        array(
            f"rates_{number}", VALUES[rows], (f"trial_{number}", "time_s", f"neuron_{number}"),
            index(f"trial_{number}", range(TRIALS)[rows]), time_s(BINS), index(f"neuron_{number}", [5, 6]),
        )
        for number, rows in enumerate((slice(0, 3), slice(3, 4)))
    ]  # fmt: skip
    with opened(tmp_path / "a.nwb", context(TRIALS), *sessions) as file:
        module = file.processing["ecephys"]
        assert file.trials["trial"][:].tolist() == [0, 1, 2, 3]
        starts_s = [module[f"rates_{number}"].starting_time for number in (0, 1)]
        np.testing.assert_allclose(starts_s, [0, 3 * BINS * WIDTH_S])
        np.testing.assert_array_equal(module["rates_1"].data[()], VALUES[3])
        assert module["neuron_1"]["neuron_1"].data[()].tolist() == [5, 6]


def test_metadata_of_every_kind_are_columns(tmp_path: Path) -> None:
    with opened(
        tmp_path / "a.nwb", context(TRIALS, hit=True, rt=None, go=3, note="a/b:c"), latents()
    ) as file:
        trials = file.trials.to_dataframe()
        assert trials["hit"].tolist() == [True] * TRIALS
        assert trials["rt"].isna().all()
        assert trials["go"].tolist() == [3] * TRIALS
        assert trials["note"].tolist() == ["a/b:c"] * TRIALS
