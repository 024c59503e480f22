"""Files of acquisition systems: Blackrock, Plexon, NeuroExplorer, Spike2, Neuralynx. neo is the witness of what they hold."""

import random
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.ingest.acquisition_files import (
    write_neuralynx,
    write_nev,
    write_nex,
    write_plx,
    write_smr,
)
from tests.worker.ingest.ingest_examples import ExampleFile
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions, read_file
from worker.ingest.recording import Recording
from worker.ingest.spike_trains import SpikeTrains

DRAW = np.random.default_rng(0)
TIMES_S = np.sort(DRAW.choice(np.arange(1, 2000), 160, replace=False)) / 1000 + 0.0002
CHANNELS = DRAW.integers(1, 4, 160)
UNITS = DRAW.integers(0, 3, 160)
SPIKES = [
    (float(time), int(channel), int(unit))
    for time, channel, unit in zip(TIMES_S, CHANNELS, UNITS, strict=True)
]
PAIRS = sorted({(channel, unit) for _, channel, unit in SPIKES})
GO_S = (0.1, 0.4, 0.9, 1.5)
EVENTS = [(time, 7 + number % 2) for number, time in enumerate(GO_S)]
AROUND = {"window_s": [-0.05, 0.15]}
NEURONS = {
    f"sig{channel:03d}{'iab'[unit]}": [time for time, *of in SPIKES if tuple(of) == (channel, unit)]
    for channel, unit in PAIRS
}
TRIALS = [(0.1, 0.3), (0.4, 0.6), (0.9, 1.1), (1.5, 1.7)]


def counted(starts_s: tuple[float, ...], pairs: list[tuple[int, int]] = PAIRS) -> np.ndarray:
    """Spikes of each pair of channel and unit in 20 bins of 10 ms from each start."""
    out = np.zeros((len(starts_s), 20, len(pairs)), np.uint8)
    for time, channel, unit in SPIKES:
        for trial, start in enumerate(starts_s):
            place = int(np.floor((time - start) / 0.01 + 1e-6))
            if (channel, unit) in pairs and 0 <= place < 20:
                out[trial, place, pairs.index((channel, unit))] += 1
    return out


MARKER = 544 + 208 * (len(NEURONS) + 3)
"""Where the header of the marker stands in the NEX file, after those of `go` and two intervals."""
LABELS = -12

BEFORE_GO = tuple(time - 0.05 for time in GO_S)
BY_FILE = {
    f"TT{channel}.ntt": [(time, unit) for time, one, unit in SPIKES if one == channel]
    for channel in (1, 2, 3)
}
WRITERS: dict[str, Callable[[Path], Path]] = {
    "nev": lambda path: write_nev(path, SPIKES, EVENTS, comments=[(0.2, "hello")]),
    "nev 2.1": lambda path: write_nev(path, SPIKES, EVENTS, version=(2, 1)),
    "nev 3.0": lambda path: write_nev(path, SPIKES, EVENTS, version=(3, 0), comments=[(0.2, "hello")]),
    "plx": lambda path: write_plx(path, SPIKES, EVENTS),
    "nex": lambda path: write_nex(
        path,
        NEURONS,
        {"go": GO_S},
        {"Trial": TRIALS, "AllFile": [(0.0, 2.0)]},
        {"code": [(0.2, "left"), (0.3, "right")]},
    ),
    "smr": lambda path: write_smr(path, SPIKES, GO_S),
    "neuralynx": lambda path: write_neuralynx(path, BY_FILE, [(time, "go") for time in GO_S]),
}
ALIGNED = {
    "nev": "digital_input_port",
    "nev 2.1": "digital_input_port",
    "nev 3.0": "digital_input_port",
    "plx": "Strobed",
    "nex": "go",
    "smr": "ch4",
    "neuralynx": "Events",
}
EXAMPLE_FILES = [
    ExampleFile("neo", write, counted(BEFORE_GO), {"trials": {"align_to": ALIGNED[name], **AROUND}})
    for name, write in WRITERS.items()
]
EXAMPLE_FILES.append(ExampleFile("neo", WRITERS["nex"], counted(GO_S)))


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**options))


def trains_of(path: Path, **options: Any) -> SpikeTrains:
    found = read_file(path, ReadOptions(**options))
    assert isinstance(found, SpikeTrains)
    return found


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0]


class TestWhatIsRead:
    @pytest.mark.parametrize("number", range(len(EXAMPLE_FILES)))
    def test_counts(self, number: int, tmp_path: Path) -> None:
        example = EXAMPLE_FILES[number]
        path = example.write(tmp_path / "upload")
        assert [name for name, reader in READERS.items() if reader.recognises(path)] == ["neo"]
        np.testing.assert_array_equal(read(path, **example.options).spikes, example.expected)

    @pytest.mark.parametrize("name", WRITERS)
    def test_times_and_metadata(self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.ingest.rows.BLOCK_BYTES", 1000)
        trains = trains_of(WRITERS[name](tmp_path / "upload"))
        assert trains.neurons == len(PAIRS)
        for neuron, pair in enumerate(PAIRS):
            wanted = [time for time, *of in SPIKES if tuple(of) == pair]
            np.testing.assert_allclose(trains.times_of(neuron), wanted, atol=2e-5)
        np.testing.assert_allclose(trains.events[ALIGNED[name]], GO_S, atol=2e-5)
        if name != "nex":
            assert trains.neuron_metadata["unit"] == [unit for _, unit in PAIRS]
            classes = ["sorted" if unit else "unsorted" for _, unit in PAIRS]
            assert trains.neuron_metadata["unit_class"] == classes
            assert any("Unit 0" in note for note in trains.notes) or name == "smr"

    @pytest.mark.parametrize(
        ("name", "reader"),
        [
            ("nev", "BlackrockRawIO"),
            ("nev 2.1", "BlackrockRawIO"),
            ("nev 3.0", "BlackrockRawIO"),
            ("plx", "PlexonRawIO"),
        ],
    )
    def test_neo_agrees(self, name: str, reader: str, tmp_path: Path) -> None:
        import neo.rawio

        trains = trains_of(WRITERS[name](tmp_path / f"upload.{name[:3]}"))
        raw = getattr(neo.rawio, reader)(str(tmp_path / f"upload.{name[:3]}"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            raw.parse_header()
        assert len(raw.header["spike_channels"]) == trains.neurons
        for neuron in range(trains.neurons):
            ticks = raw.get_spike_timestamps(0, 0, neuron, None, None)
            np.testing.assert_allclose(raw.rescale_spike_timestamp(ticks, "float64"), trains.times_of(neuron))
        ticks, _, labels = raw.get_event_timestamps(0, 0, 0, None, None)
        np.testing.assert_allclose(
            raw.rescale_event_timestamp(ticks, "float64", 0), trains.events[ALIGNED[name]]
        )
        for label in set(labels.tolist()):
            assert len(trains.events[f"{ALIGNED[name]}={label}"]) == labels.tolist().count(label)

    def test_neo_agrees_on_a_single_electrode(self, tmp_path: Path) -> None:
        from neo.rawio import NeuralynxRawIO

        path = write_neuralynx(tmp_path / "f", {"SE1.nse": BY_FILE["TT1.ntt"]})
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "out")
        raw = NeuralynxRawIO(str(tmp_path / "out/session"), keep_original_times=True)
        raw.parse_header()
        trains = trains_of(path)
        assert trains.neurons == len(raw.header["spike_channels"])
        for neuron in range(trains.neurons):
            ticks = raw.get_spike_timestamps(0, 0, neuron, None, None)
            np.testing.assert_allclose(raw.rescale_spike_timestamp(ticks, "float64"), trains.times_of(neuron))

    def test_labels_of_electrodes(self, tmp_path: Path) -> None:
        metadata = trains_of(WRITERS["nev"](tmp_path / "f")).neuron_metadata
        assert metadata["neuron_id"][:2] == ["elec1#0", "elec1#1"]
        assert metadata["channel"] == [channel for channel, _ in PAIRS]
        assert trains_of(WRITERS["plx"](tmp_path / "f")).neuron_metadata["channel_name"][0] == "sig001"
        assert trains_of(WRITERS["neuralynx"](tmp_path / "f")).neuron_metadata["channel_name"][0] == "TT1"

    def test_chosen_by_class(self, tmp_path: Path) -> None:
        path = WRITERS["plx"](tmp_path / "f")
        found = read(
            path, neurons={"where": {"unit_class": "sorted"}}, trials={"align_to": "Strobed=7", **AROUND}
        )
        sorted_pairs = [pair for pair in PAIRS if pair[1]]
        np.testing.assert_array_equal(found.spikes, counted(BEFORE_GO[::2], sorted_pairs))

    def test_noise_is_left_out_and_told(self, tmp_path: Path) -> None:
        path = write_nev(tmp_path / "f", [*SPIKES, (0.5, 1, 255), (0.6, 2, 255)])
        trains = trains_of(path)
        assert trains.neurons == len(PAIRS)
        assert "2 spikes" in next(one.message for one in trains.warnings if one.code == "noise_left_out")
        everything = trains_of(path, neurons={"where": {"unit_class": ["sorted", "noise"]}})
        assert everything.neuron_metadata["unit_class"].count("noise") == 2

    def test_a_clock_that_was_set_back(self, tmp_path: Path) -> None:
        spikes = [(0.5, 1, 1), (5.0, 1, 1), (5.5, 1, 1), (12.0, 1, 1)]
        trains = trains_of(write_nev(tmp_path / "f", spikes, resets_s=[5.2, 11.9]))
        np.testing.assert_allclose(trains.times_of(0), [0.5, 5.0, 6.0, 7.0], atol=1e-4)
        np.testing.assert_allclose(trains.tables["segments"].start_s, [0.5, 6.0, 7.0], atol=1e-4)
        np.testing.assert_allclose(trains.tables["segments"].stop_s, [5.0, 6.0, 7.0], atol=1e-4)

    def test_pauses_of_plexon(self, tmp_path: Path) -> None:
        pauses = [(0.0, 258), (0.8, 259), (1.0, 258)]
        trains = trains_of(write_plx(tmp_path / "f", SPIKES, pauses=pauses))
        np.testing.assert_allclose(trains.tables["segments"].start_s, [0.0, 1.0])
        np.testing.assert_allclose(trains.tables["segments"].stop_s, [0.8, TIMES_S[-1]], atol=1e-4)
        assert "segments" not in trains_of(write_plx(tmp_path / "f", SPIKES, pauses=pauses[:2])).tables

    def test_intervals_are_tables(self, tmp_path: Path) -> None:
        path = WRITERS["nex"](tmp_path / "f")
        trains = trains_of(path)
        assert list(trains.tables) == ["Trial"]
        assert any("AllFile" in note for note in trains.notes)
        assert read(path, mapping={"trials": "AllFile"}).trial_length_bins.tolist() == [200]
        assert sorted(name for name in trains.events if name.startswith("code")) == [
            "code",
            "code=left",
            "code=right",
        ]

    @pytest.mark.parametrize(
        ("place", "value", "events", "kept"),
        [
            (LABELS, b"\xff\x02\x01\xfe\x02\xfd", "code", True),  # no text
            (MARKER + 136, (2**30).to_bytes(4, "little"), "code", True),  # length of a label
            (MARKER + 136, bytes(4), "code", True),
            (MARKER + 132, bytes(4), "code", True),  # number of fields
            (MARKER + 136, (7).to_bytes(4, "little"), "code", True),  # the last label ends after the file
            (MARKER + 72, (2**31).to_bytes(4, "little"), "code", False),  # place of its times
            (MARKER + 76, (2**30).to_bytes(4, "little"), "code", False),  # number of its times
            (MARKER + 76, b"\xff\xff\xff\xff", "code", False),
            (MARKER - 208 * 2 + 76, (2**30).to_bytes(4, "little"), "Trial", False),  # an interval
        ],
    )
    def test_broken_markers_of_nex_do_not_reject_whole_spikes(
        self, place: int, value: bytes, events: str, kept: bool, tmp_path: Path
    ) -> None:
        path = WRITERS["nex"](tmp_path / "f")
        data = bytearray(path.read_bytes())
        place = len(data) - 12 if place == LABELS else place
        data[place : place + len(value)] = value
        path.write_bytes(data)
        trains = trains_of(path)
        assert [trains.times_of(neuron).tolist() for neuron in range(trains.neurons)] == [
            pytest.approx(list(times), abs=2e-5) for times in NEURONS.values()
        ]
        np.testing.assert_allclose(trains.events["go"], GO_S, atol=2e-5)
        [warning] = [one for one in trains.warnings if one.code == "events_left_out"]
        assert warning.message.startswith(f"`{events}`: its ")
        assert not any(name.startswith("code=") for name in trains.events) or events == "Trial"
        if kept:
            np.testing.assert_allclose(trains.events["code"], [0.2, 0.3], atol=2e-5)
        else:
            assert events not in trains.events
            assert events not in trains.tables

    def test_labels_and_names_of_nex_in_latin_1(self, tmp_path: Path) -> None:
        path = WRITERS["nex"](tmp_path / "f")
        data = path.read_bytes()
        data = data.replace(b"left\x00", b"l\xe9ft\x00").replace(b"code\x00", b"c\xf6de\x00")
        path.write_bytes(data)
        trains = trains_of(path)
        np.testing.assert_allclose(trains.events["cöde=léft"], [0.2], atol=2e-5)
        assert not [one for one in trains.warnings if one.code == "events_left_out"]

    def test_broken_events_of_neuralynx_do_not_reject_whole_spikes(self, tmp_path: Path) -> None:
        path = WRITERS["neuralynx"](tmp_path / "f")
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, b"broken" + data[6:] if name.lower().endswith(".nev") else data)
        trains = trains_of(path)
        assert (trains.times.total, trains.events) == (len(SPIKES), {})
        assert "Events.nev" in next(one.message for one in trains.warnings if one.code == "events_left_out")

    def test_broken_events_of_spike2_do_not_reject_whole_spikes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from neo.rawio.spike2rawio import Spike2RawIO

        def fail(*_: Any) -> None:
            raise IndexError("no such label")

        monkeypatch.setattr(Spike2RawIO, "_get_event_timestamps", fail)
        trains = trains_of(WRITERS["smr"](tmp_path / "f"))
        assert (trains.times.total, trains.events) == (len(SPIKES), {})
        assert "no such label" in next(
            one.message for one in trains.warnings if one.code == "events_left_out"
        )

    def test_waveforms_are_no_second_neuron(self, tmp_path: Path) -> None:
        trains = trains_of(write_nex(tmp_path / "f", NEURONS, waveforms=list(NEURONS)[:2]))
        assert trains.neurons == len(NEURONS)
        assert any("_wf" in note for note in trains.notes)

    def test_a_late_five_byte_time(self, tmp_path: Path) -> None:
        trains = trains_of(write_plx(tmp_path / "f", [(200_000.5, 1, 1)]))
        np.testing.assert_allclose(trains.times_of(0), [200_000.5])

    def test_two_wires(self, tmp_path: Path) -> None:
        path = write_neuralynx(tmp_path / "f", {"ST1.nst": [(0.5, 1), (0.75, 1)], "SE2.NSE": [(0.25, 2)]})
        trains = trains_of(path)
        assert trains.neuron_metadata["neuron_id"] == ["SE2#2", "ST1#1"]
        np.testing.assert_allclose(trains.times_of(1), [0.5, 0.75])

    def test_a_mapping_of_arrays_is_refused(self, tmp_path: Path) -> None:
        assert rejected(WRITERS["nev"](tmp_path / "f"), mapping={"spikes": "y"}).code == "variable_unknown"

    def test_no_events_is_continuous(self, tmp_path: Path) -> None:
        found = read(write_nev(tmp_path / "f", SPIKES), chop={"window_s": 0.2, "overlap_s": 0.0})
        assert found.spikes.shape[1:] == (20, len(PAIRS))
        assert int(np.asarray(found.spikes).sum()) >= len(SPIKES)

    def test_neo_is_imported_only_when_needed(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from worker.ingest.readers import read_file, ReadOptions;"
            "read_file(Path(sys.argv[1]), ReadOptions()); sys.exit('neo' in sys.modules)"
        )
        path = WRITERS["nev"](tmp_path / "f")
        assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 0


class TestHostile:
    @pytest.mark.parametrize("name", WRITERS)
    def test_damage(self, name: str, tmp_path: Path) -> None:
        """Whatever bytes change, the file is read or rejected."""
        whole = WRITERS[name](tmp_path / "f").read_bytes()
        draw = random.Random(1)
        changed, outcomes = tmp_path / "changed", {"read": 0, "rejected": 0}
        table = min(len(whole), 3000)
        for _ in range(150):
            data = bytearray(whole[: draw.randrange(20, len(whole))] if draw.random() < 0.2 else whole)
            for _ in range(draw.randrange(1, 8)):
                within = table if draw.random() < 0.7 else len(data)
                data[min(draw.randrange(16, within), len(data) - 1)] = draw.choice(
                    (0, 255, 127, draw.randrange(256))
                )
            changed.write_bytes(data)
            try:
                read_file(changed, ReadOptions())
                outcomes["read"] += 1
            except RejectedFile:
                outcomes["rejected"] += 1
        assert min(outcomes.values()) > 0

    @pytest.mark.parametrize("name", ["nev", "plx", "neuralynx"])
    def test_a_file_that_ends_early(self, name: str, tmp_path: Path) -> None:
        path = WRITERS[name](tmp_path / "f")
        if name == "neuralynx":
            with zipfile.ZipFile(path) as archive:
                members = {one: archive.read(one) for one in archive.namelist()}
            with zipfile.ZipFile(path, "w") as archive:
                for one, data in members.items():
                    archive.writestr(one, data[:-5])
        else:
            path.write_bytes(path.read_bytes()[:-5])
        trains = trains_of(path)
        assert "file_ends_early" in {one.code for one in trains.warnings}
        assert trains.times.total > len(SPIKES) - 10

    def test_headers_that_declare_too_much(self, tmp_path: Path) -> None:
        path = WRITERS["nex"](tmp_path / "f")
        whole = path.read_bytes()
        for place in (280, 544 + 72, 544 + 76):  # number of variables, place and number of the first
            data = bytearray(whole)
            data[place : place + 4] = (2**30).to_bytes(4, "little")
            path.write_bytes(data)
            assert rejected(path).code == "file_damaged"
        path = WRITERS["smr"](tmp_path / "g")
        data = bytearray(path.read_bytes())
        data[512 + 140 + 14 : 512 + 140 + 16] = (30_000).to_bytes(2, "little")
        path.write_bytes(data)
        assert rejected(path).code == "file_damaged"

    def test_variables_that_share_their_bytes(self, tmp_path: Path) -> None:
        """Many variables that each point at the whole file would take many times its size."""
        path = write_nex(tmp_path / "f", {f"n{number}": [0.1] * 10 for number in range(200)})
        data = bytearray(path.read_bytes())
        for number in range(200):
            place = 544 + 208 * number + 72
            data[place : place + 8] = (544).to_bytes(4, "little") + (10_000).to_bytes(4, "little")
        path.write_bytes(data)
        assert rejected(path).code == "file_damaged"

    def test_a_clock_that_never_settles(self, tmp_path: Path) -> None:
        times = [(5.0 if number % 2 else 9.0) + number / 1000 for number in range(5000)]
        path = write_nev(tmp_path / "f", [(number / 100, 1, 1) for number in range(5000)])
        data = bytearray(path.read_bytes())
        for number, time in enumerate(times):
            place = len(data) - 60 * (5000 - number)
            data[place : place + 4] = int(time * 30_000).to_bytes(4, "little")
        path.write_bytes(data)
        assert rejected(path).code == "file_damaged"

    def test_versions_that_are_not_known(self, tmp_path: Path) -> None:
        assert rejected(write_nev(tmp_path / "f", SPIKES, version=(4, 0))).code == "version_unknown"

    def test_recordings_in_two_folders(self, tmp_path: Path) -> None:
        path = WRITERS["neuralynx"](tmp_path / "f")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("other/TT1.ntt", b"")
        assert rejected(path).code == "several_recordings"
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("../TT1.ntt", b"")
        assert rejected(path).code == "archive_unsafe_path"

    def test_too_much_in_a_zip(self, tmp_path: Path) -> None:
        assert (
            rejected(WRITERS["neuralynx"](tmp_path / "f"), max_expanded_bytes=1000).code
            == "file_too_large_expanded"
        )


@pytest.mark.parametrize("tick", [0, 2**31])
def test_an_event_of_blackrock_at_an_impossible_time(tick: int, tmp_path: Path) -> None:
    """It is no reset of the clock, which would shift all spikes after it."""

    def spikes(trains: SpikeTrains) -> list[list[float]]:
        return [trains.times_of(neuron).tolist() for neuron in range(trains.neurons)]

    path = WRITERS["nev"](tmp_path / "f")
    whole = trains_of(path)
    data = bytearray(path.read_bytes())
    packets = range(int.from_bytes(data[12:16], "little"), len(data), 60)
    events = [place for place in packets if data[place + 4 : place + 6] == b"\x00\x00"]
    data[events[2] : events[2] + 4] = tick.to_bytes(4, "little")
    path.write_bytes(data)
    trains = trains_of(path)
    assert spikes(trains) == spikes(whole)
    assert "segments" not in trains.tables
    assert len(trains.events["digital_input_port"]) == len(whole.events["digital_input_port"]) - 1
    [warning] = [one for one in trains.warnings if one.code == "events_left_out"]
    assert "the times of 1 of them" in warning.message
