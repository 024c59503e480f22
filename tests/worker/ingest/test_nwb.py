"""NWB files, as pynwb writes and reads them, real ones, and hostile ones."""

import contextlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pynwb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynwb.behavior import BehavioralEvents, BehavioralTimeSeries, CompassDirection, Position, SpatialSeries
from pynwb.epoch import TimeIntervals
from pynwb.image import ImageSeries
from pynwb.misc import AnnotationSeries, Units

from tests.worker.ingest.ingest_examples import ExampleFile
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.quality_control.checks import examine
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions
from worker.ingest.recording import SPLIT_NOT_GIVEN, SPLIT_TRAIN, SPLIT_VALID, Recording
from worker.ingest.spike_trains import SpikeTrains

pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated", "ignore:OpticalSeries")

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
ON_THE_EDGE = 1e-6
"""Of a bin: spikes of real recordings lie on the edges of bins but for the last digits of their times."""
UNITS, TRIALS, TRIAL_S = 5, 6, 0.8
START_S = np.arange(TRIALS) * 1.0 + 0.5


def spikes_s(unit: int) -> np.ndarray:
    """Spike times of a unit; unit 2 has none."""
    random = np.random.default_rng(unit)
    return np.sort(random.uniform(0, 7, 0 if unit == 2 else 40 + 10 * unit))


def expected_counts(width_s: float = 0.1) -> np.ndarray:
    bins = round(TRIAL_S / width_s)
    return np.stack(
        [
            np.stack(
                [np.histogram(spikes_s(u), start + np.arange(bins + 1) * width_s)[0] for u in range(UNITS)],
                -1,
            )
            for start in START_S
        ]
    )


def new_file() -> pynwb.NWBFile:
    day = datetime(2024, 1, 1, tzinfo=UTC)
    return pynwb.NWBFile("a session", "id", day, file_create_date=day)


def save(file: pynwb.NWBFile, path: Path) -> Path:
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file, cache_spec=False)
    return path


def add_plain_units(file: pynwb.NWBFile) -> None:
    for unit in range(UNITS):
        file.add_unit(spike_times=spikes_s(unit), id=10 + unit)


def add_plain_trials(file: pynwb.NWBFile) -> None:
    for start in START_S:
        file.add_trial(start_time=start, stop_time=start + TRIAL_S)


def write_plain(path: Path) -> Path:
    file = new_file()
    add_plain_units(file)
    add_plain_trials(file)
    return save(file, path)


def write_continuous(path: Path) -> Path:
    file = new_file()
    add_plain_units(file)
    file.add_epoch(0.0, 7.0, ["whole", "session"])
    return save(file, path)


def write_units_elsewhere(path: Path) -> Path:
    file = new_file()
    units = Units(name="sorted", description="spikes")
    for unit in range(UNITS):
        units.add_unit(spike_times=spikes_s(unit))
    file.create_processing_module("ecephys", "sorting").add(units)
    add_plain_trials(file)
    return save(file, path)


def chopped_counts() -> np.ndarray:
    last_s = max(spikes_s(unit).max() for unit in range(UNITS) if unit != 2)
    first_s = np.floor(min(spikes_s(unit).min() for unit in range(UNITS) if unit != 2) / 0.1) * 0.1
    edges = first_s + np.arange(int((last_s - first_s) / 0.1) + 2) * 0.1
    counts = np.stack([np.histogram(spikes_s(unit), edges)[0] for unit in range(UNITS)], -1)
    return np.stack([counts[first : first + 10] for first in range(0, len(counts) - 9, 10)])


EXAMPLE_FILES = [
    ExampleFile("nwb", write_plain, expected_counts(), {"bin_width_s": 0.1}),
    ExampleFile(
        "nwb",
        write_units_elsewhere,
        expected_counts(),
        {"bin_width_s": 0.1, "mapping": {"spike_times": "processing/ecephys/sorted"}},
    ),
    ExampleFile(
        "nwb",
        write_continuous,
        chopped_counts(),
        {"bin_width_s": 0.1, "chop": {"window_s": 1.0, "overlap_s": 0.0}},
    ),
]


def write_rich(path: Path) -> Path:
    """A file with everything that is read, and what is not."""
    file = new_file()
    device = file.create_device("probe")
    groups = [file.create_electrode_group(f"shank{n}", "a shank", "M1", device) for n in range(2)]
    for number in range(4):
        file.add_electrode(location=("M1", "PMd")[number % 2], group=groups[number // 2])
    region = file.create_electrode_table_region([0, 1, 2, 3], "all")
    voltages = {"data": np.zeros((50, 4), np.int16), "electrodes": region, "rate": 30000.0}
    file.add_acquisition(pynwb.ecephys.ElectricalSeries(name="raw", **voltages))
    add_rich_units(file, groups)
    add_rich_intervals(file)
    add_rich_series(file)
    return save(file, path)


def add_rich_units(file: pynwb.NWBFile, groups: list[Any]) -> None:
    file.add_unit_column("quality", "of the sorting")
    file.add_unit_column("heldout", "of the benchmark")
    file.add_unit_column("depths", "several", index=True)
    for unit in range(UNITS):
        file.add_unit(
            spike_times=spikes_s(unit),
            obs_intervals=[[0.0, 7.0]] if unit else [[0.0, 4.0], [4.2, 6.9]],
            electrodes=[unit % 4] if unit else [0, 1],
            electrode_group=groups[unit % 2],
            waveform_mean=np.zeros(12),
            quality="good" if unit else "mua — µ",
            heldout=unit == 4,
            depths=[1.0, 2.0],
            id=10 + unit,
        )


def add_rich_intervals(file: pynwb.NWBFile) -> None:
    for name in ("go_cue_time", "target", "split", "correct"):
        file.add_trial_column(name, name)
    file.add_trial_column("notes", "texts", index=True)
    file.add_trial_column("path", "several numbers", index=True)
    for trial, start in enumerate(START_S):
        file.add_trial(
            start_time=start,
            stop_time=start + TRIAL_S,
            go_cue_time=start + 0.2 if trial else np.nan,
            target=("left", "right")[trial % 2],
            split=("train", "train", "val", "train", "test", "none")[trial],
            correct=bool(trial % 2),
            notes=["a", "b"][: 1 + trial % 2],
            path=[0.0, 1.0, 2.0],
        )
    baseline = TimeIntervals(name="baseline", description="before each trial")
    for start in np.linspace(0, 6, 8):
        baseline.add_interval(start_time=start, stop_time=start + 0.5)
    file.add_time_intervals(baseline)
    file.add_epoch(0.0, 3.0, ["one"])
    file.add_epoch(3.0, 7.0, ["two"])
    file.add_invalid_time_interval(2.6, 2.7)


def series(kind: Any, name: str, data: Any, **how: Any) -> Any:
    return kind(name=name, data=data, **how)


def add_rich_series(file: pynwb.NWBFile) -> None:
    times_s = np.arange(0, 7, 0.01)
    position, evenly = np.stack([times_s * 100, -times_s], 1), {"rate": 10.0, "starting_time": 0.0}
    desk = {"reference_frame": "desk"}
    hand = series(SpatialSeries, "hand", position, unit="cm", conversion=0.01, timestamps=times_s, **desk)
    cursor = series(SpatialSeries, "cursor", position, timestamps=hand, **desk)
    heading = series(SpatialSeries, "heading", times_s % 6.28, unit="radians", rate=100.0, **desk)
    lick = series(pynwb.TimeSeries, "lick", [0.5, 0.7], unit="ml", timestamps=[1.0, 2.0])
    other_hand = series(
        pynwb.TimeSeries, "hand", np.arange(70, dtype=np.int16), unit="mm", offset=1.0, **evenly
    )
    module = file.create_processing_module("behavior", "of the animal")
    module.add(Position(spatial_series=[hand, cursor], name="Position"))
    module.add(CompassDirection(spatial_series=heading))
    module.add(BehavioralEvents(time_series=lick))
    module.add(BehavioralTimeSeries(time_series=other_hand))
    event_codes, at = np.array([1, 3, 1, 3, 7], np.int8), START_S[:5] + 0.1
    file.add_acquisition(series(pynwb.TimeSeries, "events", event_codes, unit="NA", timestamps=at))
    file.add_acquisition(series(AnnotationSeries, "remarks", ["start", "reward"], timestamps=[0.2, 2.2]))
    file.add_acquisition(series(pynwb.TimeSeries, "wide", np.zeros((4, 100)), unit="V", **evenly))
    camera = {"external_file": ["../elsewhere.avi"], "format": "external", "timestamps": [0.0, 1.0]}
    file.add_acquisition(ImageSeries(name="camera", unit="n.a.", **camera))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rich(tmp_path_factory.mktemp("nwb") / "rich.nwb")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(tmp_path_factory.mktemp("nwb") / "plain.nwb")


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**{"bin_width_s": 0.1, **options}))


def trains(path: Path, **options: Any) -> SpikeTrains:
    found = READERS["nwb"].read(path, ReadOptions(**options))
    assert isinstance(found, SpikeTrains)
    return found


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0]


def codes(recording: Recording | SpikeTrains) -> list[str]:
    return [warning.code for warning in recording.warnings]


@pytest.mark.parametrize("example", EXAMPLE_FILES, ids=lambda example: example.write.__name__)
def test_examples(example: ExampleFile, tmp_path: Path) -> None:
    recording = read_recording(example.write(tmp_path / "f.nwb"), ReadOptions(**example.options))
    np.testing.assert_array_equal(recording.spikes, example.expected)
    assert recording.source_format == "nwb"


class TestUnits:
    def test_counts_are_those_of_pynwb(self, rich: Path) -> None:
        recording = read(rich, trials={"unobserved": "keep"})
        with pynwb.NWBHDF5IO(str(rich), "r") as io:
            units = io.read().units
            for unit in range(UNITS):
                for trial, start in enumerate(START_S):
                    of_unit = units.get_unit_spike_times(unit)
                    counts = np.histogram(of_unit, start + np.arange(9) * 0.1)[0]
                    np.testing.assert_array_equal(recording.spikes[trial, :, unit], counts)

    def test_columns(self, rich: Path) -> None:
        found = read(rich)
        assert found.neuron_metadata == {
            "neuron_id": [10, 11, 12, 13, 14],
            "electrode_group": ["shank0", "shank1", "shank0", "shank1", "shank0"],
            "heldout": [False, False, False, False, True],
            "location": ["M1, PMd", "PMd", "M1", "PMd", "M1"],
            "group_name": ["shank0", "shank0", "shank1", "shank1", "shank0"],
            "quality": ["mua — µ", "good", "good", "good", "good"],
        }
        left = {w.pointer for w in found.warnings if w.code == "column_left_out"}
        assert {"/units/depths", "/units/waveform_mean", "/units/electrodes"} < left
        assert any("obs_intervals" in note for note in found.notes)

    def test_neurons_are_chosen_by_them(self, rich: Path) -> None:
        kept = read(rich, neurons={"where": {"heldout": False}})
        assert kept.neuron_metadata["neuron_id"] == [10, 11, 12, 13]

    def test_blocks_give_the_same(self, rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.ingest.rows.BLOCK_BYTES", 24 * 7)
        found = trains(rich)
        for unit in range(UNITS):
            np.testing.assert_array_equal(found.times_of(unit), spikes_s(unit))

    def test_times_that_are_not_finite_or_of_no_unit(self, plain: Path, tmp_path: Path) -> None:
        path = edited(plain, tmp_path, lambda file: file["units/spike_times"].__setitem__(0, np.nan))
        found = read(path)
        assert codes(found) == ["times_not_finite"]
        assert "1 spike times" in found.warnings[0].message

    def test_the_mapping_names_a_table(self, tmp_path: Path) -> None:
        path = write_units_elsewhere(tmp_path / "f.nwb")
        assert read(path).understood[0].variable == "processing/ecephys/sorted/spike_times"
        for name in ("sorted", "/processing/ecephys/sorted", "processing/ecephys/sorted/spike_times"):
            found = read(path, mapping={"spike_times": name})
            assert found.understood[0].how == "given in the mapping"
            assert codes(found) == []
        problem = rejected(path, mapping={"spike_times": "units"})
        assert problem.code == "variable_unknown"
        assert "processing/ecephys/sorted" in problem.message

    def test_counts_cannot_be_asked_for(self, plain: Path) -> None:
        assert rejected(plain, mapping={"spikes": "y"}).pointer == "/mapping/spikes"
        assert codes(read(plain, mapping={"neuron": "unit"})) == ["option_not_used"]

    def test_without_units_it_says_what_there_is(self, tmp_path: Path) -> None:
        file = new_file()
        file.add_acquisition(series(pynwb.TimeSeries, "lever", np.zeros(5), unit="V", rate=10.0))
        problem = rejected(save(file, tmp_path / "f.nwb"))
        assert problem.code == "units_missing"
        assert "acquisition/lever (TimeSeries)" in problem.message


class TestTrials:
    def test_the_table_of_trials_goes_first(self, rich: Path) -> None:
        found = read(rich)
        (trials,) = [u for u in found.understood if u.what == "trials"]
        assert (trials.variable, trials.shape) == ("trials", (6,))
        assert trials.alternatives[:2] == ("baseline (8 trials)", "epochs (2 trials)")
        metadata = found.trial_metadata
        assert metadata["target"] == ["left", "right"] * 3
        assert metadata["notes"] == ["a", "a, b"] * 3
        assert metadata["correct"] == [False, True] * 3
        assert metadata["go_cue_time"][0] is None
        assert metadata["start_time"] == START_S.tolist()
        assert "path" not in metadata
        assert any(w.pointer == "/intervals/trials/path" for w in found.warnings)

    def test_its_split_is_taken(self, rich: Path) -> None:
        found = read(rich)
        train, valid, neither = SPLIT_TRAIN, SPLIT_VALID, SPLIT_NOT_GIVEN
        assert found.split.tolist() == [train, train, valid, train, neither, neither]
        assert any(u.what == "split" and u.variable == "split" for u in found.understood)
        few = read(rich, trials={"where": {"target": "left"}})
        assert few.split.tolist() == [train, valid, neither]
        with pytest.raises(RejectedFile, match="the trials of this file have"):
            read(rich, mapping={"split": "phase"})

    def test_invalid_times_are_warned_of(self, rich: Path) -> None:
        found = read(rich)
        assert found.trial_metadata["in_invalid_times"] == [False, False, True, False, False, False]
        assert "trials_in_invalid_times" in codes(found)
        kept = read(rich, trials={"where": {"in_invalid_times": False}})
        assert len(kept.spikes) == 5

    @pytest.mark.parametrize("name", ["baseline", "intervals/baseline", "/intervals/baseline"])
    def test_the_mapping_names_another(self, rich: Path, name: str) -> None:
        assert read(rich, mapping={"trials": name}).spikes.shape == (8, 5, UNITS)
        assert rejected(rich, mapping={"trials": "reaches"}).code == "trials_unknown"

    def test_one_epoch_is_no_table_of_trials_unless_named(self, tmp_path: Path) -> None:
        path = write_continuous(tmp_path / "f.nwb")
        found = read(path)
        assert found.windows is not None
        assert any("intervals/epochs" in note for note in found.notes)
        named = read(path, mapping={"trials": "epochs"})
        assert named.spikes.shape == (1, 70, UNITS)
        assert named.trial_metadata["tags"] == ["whole, session"]

    def test_alignment_to_a_column_and_to_events(self, rich: Path) -> None:
        found = read(rich, trials={"align_to": "go_cue_time", "window_s": [-0.1, 0.3]})
        assert found.spikes.shape == (5, 4, UNITS)
        edges = START_S[1] + 0.1 + np.arange(5) * 0.1
        np.testing.assert_array_equal(found.spikes[0, :, 1], np.histogram(spikes_s(1), edges)[0])
        by_event = read(rich, trials={"align_to": "events=3", "window_s": [0.0, 0.4]})
        assert by_event.trial_start_s is not None
        np.testing.assert_allclose(by_event.trial_start_s, START_S[[1, 3]] + 0.1)

    def test_only_some_metadata(self, rich: Path) -> None:
        found = read(rich, mapping={"trial_metadata": ["target"]}).trial_metadata
        assert "target" in found
        assert "correct" not in found


class TestSeries:
    def test_behaviours(self, rich: Path) -> None:
        found = trains(rich).signals
        assert set(found) == {"BehavioralTimeSeries.hand", "heading", "Position.hand", "cursor"}
        times_s = np.arange(0, 7, 0.01)
        np.testing.assert_allclose(found["Position.hand"].values[:, 0], times_s, rtol=1e-6)
        assert found["Position.hand"].unit == "cm"
        np.testing.assert_array_equal(found["BehavioralTimeSeries.hand"].values[:, 0], np.arange(70) + 1)
        assert found["cursor"].times_s is found["Position.hand"].times_s
        assert (found["heading"].rate_hz, found["heading"].unit) == (100.0, "radians")

    def test_they_come_in_the_bins_of_the_spikes(self, rich: Path) -> None:
        hand = read(rich).behaviour["Position.hand"]
        assert hand.shape == (TRIALS, 8, 2)
        np.testing.assert_allclose(hand[:, 0, 0], START_S + 0.045, atol=0.01)

    def test_the_mapping_chooses(self, rich: Path) -> None:
        assert list(trains(rich, mapping={"behaviour": []}).signals) == []
        by_name = trains(rich, mapping={"behaviour": ["heading", "processing/behavior/Position/hand"]})
        assert set(by_name.signals) == {"heading", "Position.hand"}
        assert list(trains(rich, mapping={"behaviour": ["acquisition/events"]}).signals) == ["events"]
        problem = rejected(rich, mapping={"behaviour": ["raw"]})
        assert problem.code == "variable_unknown"
        assert "processing/behavior/Position/hand (700, 2)" in problem.message

    def test_what_is_left_out_is_told(self, rich: Path) -> None:
        found = trains(rich)
        (wide,) = [warning for warning in found.warnings if warning.code == "behaviour_left_out"]
        assert "100 channels" in wide.message
        (told,) = [note for note in found.notes if note.startswith("Raw signals")]
        assert "acquisition/raw (ElectricalSeries)" in told
        assert "acquisition/camera (ImageSeries)" in told

    @pytest.mark.parametrize("limit", ["LARGEST_BEHAVIOUR_BYTES", "MOST_TIMESTAMP_BYTES"])
    def test_large_ones_are_left_out(self, limit: str, rich: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(f"worker.ingest.readers.nwb.series.{limit}", 5599)
        found = trains(rich)
        evenly = {"BehavioralTimeSeries.hand"} | ({"heading"} if "TIMESTAMP" in limit else set())
        assert set(found.signals) == evenly
        assert codes(found).count("behaviour_left_out") == 5 - len(evenly)

    def test_events(self, rich: Path) -> None:
        found = trains(rich).events
        assert set(found) == {
            "events", "events=1", "events=3", "events=7", "lick", "remarks", "remarks=start", "remarks=reward",
        }  # fmt: skip
        np.testing.assert_allclose(found["events=1"], START_S[[0, 2]] + 0.1)
        assert found["lick"].tolist() == [1.0, 2.0]
        assert found["remarks=reward"].tolist() == [2.2]

    def test_a_table_of_events(self, tmp_path: Path) -> None:
        file = new_file()
        add_plain_units(file)
        table = file.create_events_table(name="stimuli", description="sounds and lights")
        table.add_column(name="kind", description="of stimulus")
        for time_s, kind in ((1.0, "tone"), (2.0, "light"), (3.0, "tone")):
            table.add_row(timestamp=time_s, kind=kind)
        found = trains(save(file, tmp_path / "f.nwb")).events
        assert found["stimuli"].tolist() == [1.0, 2.0, 3.0]
        assert found["stimuli=tone"].tolist() == [1.0, 3.0]

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda s: s.__setitem__("timestamps", [3.0, 1.0, 2.0]), "do not increase"),
            (lambda s: s.__setitem__("timestamps", [np.nan, 1.0, 2.0]), "do not increase"),
            (lambda s: s.__setitem__("timestamps", [0.0, 1.0]), "3 samples, and timestamps of shape (2,)"),
            (lambda s: s.__setitem__("timestamps", h5py.SoftLink("/nowhere")), "timestamps of shape ()"),
            (lambda s: None, "neither timestamps nor a starting_time"),
            (lambda s: s.__setitem__("starting_time", 0.0), "neither timestamps nor a starting_time"),
        ],
    )
    def test_times_that_do_not_fit(
        self, change: Callable[[h5py.Group], None], why: str, plain: Path, tmp_path: Path
    ) -> None:
        def add(file: h5py.File) -> None:
            series = file.create_group("processing/behavior/lever")
            series["data"] = [0.5, 1.5, 2.5]
            change(series)

        (problem,) = trains(edited(plain, tmp_path, add)).warnings
        assert problem.code == "behaviour_left_out"
        assert why in problem.message


def edited(source: Path, folder: Path, change: Callable[[h5py.File], Any]) -> Path:
    path = folder / "edited.nwb"
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replace(file: h5py.File, path: str, values: Any, **how: Any) -> None:
    del file[path]
    file.create_dataset(path, data=values, **how)


class TestHostile:
    @pytest.mark.parametrize(
        "ends",
        [
            [3, 2, 4, 5, 6],
            [1, 2, 3, 4, 10**9],
            [-1, 2, 3, 4, 5],
            np.array([1, 2, 3, 4, 2**64 - 1], np.uint64),
            [1.5, 2, 3, 4, 5],
        ],
    )
    def test_an_index_that_does_not_rise(self, ends: Any, plain: Path, tmp_path: Path) -> None:
        path = edited(plain, tmp_path, lambda file: replace(file, "units/spike_times_index", ends))
        assert rejected(path).code == "spike_index_invalid"

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            (lambda f: f.__delitem__("units/spike_times_index"), "neuron_of_spikes_missing"),
            (lambda f: replace(f, "units/spike_times_index", np.zeros(0, int)), "neuron_of_spikes_missing"),
            (lambda f: replace(f, "units/spike_times", ["a", "b"]), "times_not_numbers"),
            (lambda f: replace(f, "units/spike_times_index", np.zeros(30_000, int)), "too_many_neurons"),
            (
                lambda f: f.__setitem__("acquisition/x", h5py.ExternalLink("/etc/passwd", "/")),
                "external_link",
            ),
            (lambda f: f["units"].__delitem__("spike_times"), "units_missing"),
        ],
    )
    def test_refused(
        self, change: Callable[[h5py.File], None], code: str, plain: Path, tmp_path: Path
    ) -> None:
        assert rejected(edited(plain, tmp_path, change)).code == code

    def test_giant_declared_data(self, plain: Path, tmp_path: Path) -> None:
        def declare(path: str, shape: tuple[int, ...]) -> Callable[[h5py.File], None]:
            def change(file: h5py.File) -> None:
                file.pop(path, None)
                file.create_dataset(path, shape, np.float64, chunks=(1000,))

            return change

        giant = declare("units/spike_times", (10**12,))
        assert rejected(edited(plain, tmp_path, giant)).code == "file_too_large_expanded"
        column = trains(edited(plain, tmp_path, declare("intervals/trials/giant", (10**8,))))
        assert codes(column) == ["column_left_out"]

    def test_a_table_of_too_many_rows(self, plain: Path, tmp_path: Path) -> None:
        def change(file: h5py.File) -> None:
            for name in ("start_time", "stop_time"):
                file.create_dataset(f"intervals/many/{name}", (10**7,), np.float64, chunks=(1000,))

        found = trains(edited(plain, tmp_path, change))
        assert codes(found) == ["table_left_out"]
        assert list(found.tables) == ["trials"]

    def test_references_that_point_nowhere(self, rich: Path, tmp_path: Path) -> None:
        def change(file: h5py.File) -> None:
            del file["general/extracellular_ephys/shank0"]
            column = file["units/electrode_group"]
            column[1] = h5py.Reference()
            column[3] = file["units"].ref

        found = trains(edited(rich, tmp_path, change)).neuron_metadata["electrode_group"]
        assert found[1] is None
        assert found[3] == "units"
        assert len(found) == UNITS

    def test_links_in_circles(self, plain: Path, tmp_path: Path) -> None:
        def change(file: h5py.File) -> None:
            file["processing/loop"] = file["/processing"]
            file["acquisition/one"] = h5py.SoftLink("/acquisition/two")
            file["acquisition/two"] = h5py.SoftLink("/acquisition/one")
            file["intervals/trials/a"] = h5py.SoftLink("/intervals/trials/a")
            file["intervals/trials/b"] = h5py.SoftLink("/intervals/trials/start_time")

        found = read(edited(plain, tmp_path, change))
        assert found.trial_metadata["b"] == START_S.tolist()
        (problem,) = found.warnings
        assert "a link that leads nowhere" in problem.message

    def test_long_texts(self, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.ingest.readers.nwb.file.MOST_TEXT_BYTES", 1000)

        def add(file: h5py.File) -> None:
            file["intervals/trials/text"] = ["x" * 300] * TRIALS
            file["intervals/trials/word"] = ["x"] * TRIALS

        found = read(edited(plain, tmp_path, add))
        (left,) = [one for one in found.warnings if one.code == "column_left_out"]
        assert left.pointer == "/intervals/trials/text"
        assert found.trial_metadata["word"] == ["x"] * TRIALS

    def test_a_damaged_column_is_left_out(self, plain: Path, tmp_path: Path) -> None:
        def add(file: h5py.File) -> None:
            file.create_dataset(
                "intervals/trials/score", data=np.arange(TRIALS) * 1.0, chunks=(TRIALS,), fletcher32=True
            )

        path = edited(plain, tmp_path, add)
        with h5py.File(path, "r") as file:
            chunk = file["intervals/trials/score"].id.get_chunk_info(0)
        data = bytearray(path.read_bytes())
        data[chunk.byte_offset + 9] ^= 255
        path.write_bytes(data)
        found = read(path)
        (left,) = [one for one in found.warnings if one.code == "column_left_out"]
        assert "cannot be read" in left.message
        assert "score" not in found.trial_metadata
        np.testing.assert_array_equal(found.spikes, read(plain).spikes)

    def test_odd_attributes(self, plain: Path, tmp_path: Path) -> None:
        def change(file: h5py.File) -> None:
            series = file.create_group("processing/behavior/lever")
            series["data"] = np.arange(3.0)
            series["timestamps"] = np.arange(3.0)
            series.attrs["neurodata_type"] = file["units"].ref
            series["data"].attrs["unit"] = [b"cm", b"mm"]
            series["data"].attrs["conversion"] = np.nan
            series["data"].attrs["offset"] = "far"

        (signal,) = trains(edited(plain, tmp_path, change)).signals.values()
        assert signal.unit == ""
        np.testing.assert_array_equal(signal.values[:, 0], np.arange(3))


@pytest.fixture(scope="module")
def rich_bytes(rich: Path) -> bytes:
    return rich.read_bytes()


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    keep=st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1)),
)
def test_damage_never_gives_another_error(
    edits: list[tuple[float, int]], keep: float, rich_bytes: bytes, tmp_path: Path
) -> None:
    changed = bytearray(rich_bytes[: max(8, int(len(rich_bytes) * keep))])
    for place, value in edits:
        changed[int(place * (len(changed) - 1))] = value
    path = tmp_path / "f"
    path.write_bytes(changed)
    with contextlib.suppress(RejectedFile):
        read(path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no recordings in {SHARED}")
class TestRealRecordings:
    @pytest.mark.parametrize("table", ["recognition_table", "encoding_table"])
    def test_trials_of_a_human(self, table: str) -> None:
        path = SHARED / "human_mtl.nwb"
        recording = read(path, bin_width_s=0.05, mapping={"trials": table})
        with pynwb.NWBHDF5IO(str(path), "r") as io:
            file = io.read()
            intervals = file.intervals[table]
            for unit in range(0, 35, 3):
                times_s = file.units.get_unit_spike_times(unit)
                for trial in range(0, len(recording.spikes), 7):
                    bins = int(recording.trial_length_bins[trial])
                    edges = intervals["start_time"][trial] + (np.arange(bins + 1) - ON_THE_EDGE) * 0.05
                    counts = np.histogram(times_s, edges)[0]
                    np.testing.assert_array_equal(recording.spikes[trial, :bins, unit], counts)
            assert recording.trial_metadata["id"] == list(intervals.id[:])
            assert recording.neuron_metadata["neuron_id"] == list(file.units.id[:])

    def test_the_default_table_of_a_human(self) -> None:
        recording = read(SHARED / "human_mtl.nwb", bin_width_s=0.05)
        (trials,) = [item for item in recording.understood if item.what == "trials"]
        assert (trials.variable, trials.shape) == ("recognition_table", (180,))
        others = ("timediscrimination_table (180 trials)", "encoding_table (90 trials)")
        assert trials.alternatives[:2] == others
        assert "events=1 (450 events)" in trials.alternatives
        assert recording.neuron_metadata["location"][0] == "hippocampus_right"
        assert codes(recording) == ["trials_table_guessed", "trials_overlap"]

    def test_a_mouse_without_trials(self) -> None:
        path = SHARED / "mouse_head_direction.nwb"
        recording = read(path, bin_width_s=0.05, chop={"window_s": 1.0, "overlap_s": 0.0})
        windows = recording.windows
        assert windows is not None
        assert recording.neuron_metadata["electrode_group"] == ["group0_psb"] * 3
        edges = windows.segment_start_s[0] + (np.arange(windows.segment_bins[0] + 1) - ON_THE_EDGE) * 0.05
        bins = windows.first_bin[:, None] + np.arange(20)
        with pynwb.NWBHDF5IO(str(path), "r") as io:
            units = io.read().units
            for unit in range(3):
                counts = np.histogram(units.get_unit_spike_times(unit), edges)[0]
                np.testing.assert_array_equal(recording.spikes[:, :, unit], counts[bins])


@pytest.mark.parametrize("kind", ["fixed", "of any length", "axis of one"])
def test_nwb_1_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "old.nwb"
    with h5py.File(path, "w") as file:
        data = {"fixed": np.bytes_(b"NWB-1.0.6"), "of any length": "NWB-1.0.6", "axis of one": [b"NWB-1.0.6"]}
        file["nwb_version"] = data[kind]
        file["epochs/trial_1/start_time"] = 0.5
        file["processing/units/UnitTimes/unit_0/times"] = np.arange(50) / 10
        file["spikes"] = np.ones((5, 6, 7), np.uint8)  # would be read as plain HDF5
    assert [name for name, reader in READERS.items() if reader.recognises(path)] == ["nwb"]
    problem = rejected(path)
    assert problem.code == "version_unknown"
    assert problem.message == "This is NWB 1.0.6: expected NWB 2."
    assert "pynwb" in problem.hint


def test_a_data_set_named_nwb_version_of_something_else_is_plain_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "plain.h5"
    with h5py.File(path, "w") as file:
        file["nwb_version"] = 7
        file["spikes"], file["bin_width_s"] = np.ones((5, 6, 7), np.uint8), 0.01
    assert read(path).source_format == "hdf5"


class TestTimesThatWereNotObserved:
    @pytest.fixture(scope="class")
    def interrupted(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Units at 8 Hz over 100 s, with 150 Hz of artefacts from 30 to 50 s, which the file calls invalid."""
        random = np.random.default_rng(0)
        file = new_file()
        for _ in range(4):
            file.add_unit(
                spike_times=np.sort(np.r_[random.uniform(0, 100, 800), random.uniform(30, 50, 3000)])
            )
        file.add_invalid_time_interval(30.0, 50.0)
        return save(file, tmp_path_factory.mktemp("invalid") / "f.nwb")

    def test_rates_leave_invalid_times_out(self, interrupted: Path) -> None:
        found = read(interrupted)
        report = examine(found)
        assert all(7 < rate < 9 for rate in report.rates_hz)
        assert report.duration_s == pytest.approx(80, abs=0.2)
        warning = next(one for one in report.warnings if one.code == "trials_in_invalid_times")
        assert "26 of 125 windows overlap the file's invalid_times, for 20 s in all" in warning.message
        assert '{"in_invalid_times": false}' in warning.hint
        starts_s = np.array(found.trial_metadata["start_time"])
        overlaps = (starts_s < 50 - 1e-6) & (starts_s + 1 > 30 + 1e-6)
        assert found.trial_metadata["in_invalid_times"] == overlaps.tolist()
        assert overlaps.sum() == 2  # those that lie in them as a whole are left out
        assert np.asarray(found.missing).any(axis=(1, 2)).tolist() == overlaps.tolist()

    @pytest.mark.parametrize("trials", [{"where": {"in_invalid_times": False}}, {"unobserved": "drop"}])
    def test_windows_are_left_out(self, interrupted: Path, trials: dict[str, Any]) -> None:
        found = read(interrupted, trials=trials)
        assert len(found.spikes) == 99
        assert found.missing is None or not np.asarray(found.missing).any()
        assert not any(found.trial_metadata["in_invalid_times"])
        assert all(7 < rate < 9 for rate in examine(found).rates_hz)

    def test_the_counts_are_kept_if_asked_for(self, interrupted: Path) -> None:
        found = read(interrupted, trials={"unobserved": "keep"})
        assert len(found.spikes) == 125
        assert examine(found).total_spikes == 4 * 3800
        assert "trials_in_invalid_times" in codes(found)

    def test_nothing_is_left(self, tmp_path: Path) -> None:
        file = new_file()
        file.add_unit(spike_times=np.arange(0.0, 10, 0.1))
        file.add_invalid_time_interval(-1.0, 50.0)
        problem = rejected(save(file, tmp_path / "f.nwb"))
        assert problem.code == "no_trials_left"
        assert "trials.unobserved" in problem.hint

    def test_units_are_masked_outside_their_intervals(self, rich: Path) -> None:
        found = read(rich)
        missing = np.asarray(found.missing)
        invalid = np.zeros((TRIALS, 8), bool)
        invalid[2, 1] = True  # 2.6 to 2.7 s
        assert (missing[:, :, 1:] == invalid[:, :, None]).all()
        own = invalid.copy()
        own[3, 5:7] = True  # 4 to 4.2 s
        np.testing.assert_array_equal(missing[:, :, 0], own)
        np.testing.assert_array_equal(found.spikes, expected_counts() * (missing == 0))
        assert any("by the file's obs_intervals: units 0 (0.2 s)" in note for note in found.notes)
        finer = read(rich, bin_width_s=0.05)
        warning = next(one for one in finer.warnings if one.code == "units_not_observed")
        assert "0 (0.2 s)" in warning.message

    def test_intervals_that_cannot_be_read_are_told(self, rich: Path, tmp_path: Path) -> None:
        def change(file: h5py.File) -> None:
            replace(file, "units/obs_intervals_index", np.arange(3))

        found = read(edited(rich, tmp_path, change))
        assert any(one.pointer == "/units/obs_intervals" for one in found.warnings)
        assert "units_not_observed" not in codes(found)


class TestSeveralTables:
    @staticmethod
    def file_with(**tables: int) -> pynwb.NWBFile:
        file = new_file()
        add_plain_units(file)
        for name, number in tables.items():
            table = TimeIntervals(name=name, description=name)
            table.add_column(f"{name}_cue_time", "a time")
            for start in np.linspace(0, 6, number):
                table.add_interval(start_time=start, stop_time=start + 0.5, **{f"{name}_cue_time": start})
            file.add_time_intervals(table)
        return file

    def test_a_guess_among_them_is_told(self, tmp_path: Path) -> None:
        path = save(self.file_with(encoding=5, recognition=9, discrimination=9), tmp_path / "f.nwb")
        found = read(path)
        warning = next(one for one in found.warnings if one.code == "trials_table_guessed")
        assert "`discrimination` (9 rows) was used" in warning.message
        assert "`recognition` (9 rows), `encoding` (5 rows)" in warning.message
        assert '{"mapping": {"trials": "recognition"}}' in warning.hint
        assert warning.pointer == "/mapping/trials"
        named = read(path, mapping={"trials": "encoding"})
        assert (len(named.spikes), codes(named)) == (5, [])
        by_column = read(path, trials={"align_to": "encoding_cue_time", "window_s": [0.0, 0.5]})
        assert (len(by_column.spikes), codes(by_column)) == (5, [])

    def test_a_table_of_trials_is_no_guess(self, rich: Path, tmp_path: Path) -> None:
        assert "trials_table_guessed" not in codes(read(rich))
        one = save(self.file_with(reaches=5), tmp_path / "f.nwb")
        assert codes(read(one)) == []

    def test_a_guess_among_tables_of_units_is_told(self, tmp_path: Path) -> None:
        path = write_plain(tmp_path / "f.nwb")
        with h5py.File(path, "r+") as file:
            file.copy("units", file.require_group("processing/ecephys"), name="multi_units")
        warning = next(one for one in read(path).warnings if one.code == "units_table_guessed")
        assert f"`units` ({UNITS} units) was used" in warning.message
        assert "processing/ecephys/multi_units" in warning.hint
        assert codes(read(path, mapping={"spike_times": "units"})) == []
