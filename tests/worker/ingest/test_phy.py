"""Folders of Phy and Kilosort in a ZIP archive."""

import io
import json
import random
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.ingest.ingest_examples import ExampleFile, example_recording, write_npz
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions
from worker.ingest.recording import Recording

RATE_HZ = 30_000
PARAMS = "dat_path = ['raw.dat']\nn_channels_dat = 4\nsample_rate = 30000.  # Hz\nhp_filtered = False\n"
GROUPS = "cluster_id\tgroup\n2\tgood\n5\tnoise\n7\tmua\n"
INFO = (
    "cluster_id\tKSLabel\tch\tdepth\tfr\tgroup\n"
    "2\tgood\t0\t20.5\t3.1\tgood\n5\tmua\t1\t\t1.0\tnoise\n7\tmua\t3\t60.0\t0.2\tmua\n"
)
TRIALS = "start,stop,target\n0.0,0.05,left\n0.05,0.10,right\n0.10,0.15,left\n"
SAMPLES = np.array([0, 299, 300, 1499, 1500, 1800, 2999, 3000, 3300, 4499, 4400, 4400])
CLUSTERS = np.array([2, 5, 2, 2, 7, 2, 2, 7, 9, 2, 9, 5])
"""Clusters 2, 7 and 9 are kept, the last is not in any table; 5 is noise."""

Files = dict[str, bytes | str | np.ndarray]


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def folder(**changes: bytes | str | np.ndarray | None) -> Files:
    """The files of a sorted recording; keyword arguments replace or drop (None) files, `__` standing for a dot."""
    files: dict[str, Any] = {
        "spike_times.npy": SAMPLES.astype(np.uint64)[:, None],
        "spike_clusters.npy": CLUSTERS.astype(np.int32),
        "params.py": PARAMS,
        "cluster_group.tsv": GROUPS,
        "trials.csv": TRIALS,
    }
    files |= {name.replace("__", "."): content for name, content in changes.items()}
    return {name: content for name, content in files.items() if content is not None}


def pack(path: Path, files: Files, top: str = "sorted/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(top + name, npy(content) if isinstance(content, np.ndarray) else content)
    return path


def counted(clusters: Iterable[int]) -> np.ndarray:
    """Spikes of clusters in bins of 10 ms, trials of 50 ms."""
    bins = SAMPLES // (RATE_HZ // 100)
    out = np.zeros((15, len(list(clusters))), np.uint8)
    for neuron, cluster in enumerate(clusters):
        np.add.at(out[:, neuron], bins[cluster == CLUSTERS], 1)
    return out.reshape(3, 5, -1)


def read(path: Path, **options: Any) -> Recording:
    return read_recording(path, ReadOptions(**options))


def rejected(path: Path, **options: Any) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read(path, **options)
    return caught.value.problems[0]


def fortran_column(path: Path) -> Path:
    """As MATLAB's Kilosort writes: columns in Fortran order, templates and no clusters, at the top of the archive."""
    stream = io.BytesIO()
    header = {"descr": "<u8", "fortran_order": True, "shape": (len(SAMPLES), 1)}
    np.lib.format.write_array_header_1_0(stream, header)
    stream.write(SAMPLES.astype("<u8").tobytes())
    files = folder(
        spike_times__npy=stream.getvalue(),
        spike_clusters__npy=None,
        spike_templates__npy=CLUSTERS.astype(np.uint32)[:, None],
        cluster_group__tsv=None,
        cluster_KSLabel__tsv="cluster_id\tKSLabel\n2\tgood\n5\tmua\n7\tmua\n9\tmua\n",
    )
    return pack(path, files, top="")


EXAMPLE_FILES = [
    ExampleFile("phy", lambda path: pack(path, folder()), counted((2, 7, 9))),
    ExampleFile("phy", fortran_column, counted((2, 5, 7, 9))),
    ExampleFile(
        "phy",
        lambda path: pack(path, folder(params__py=None)),
        counted((5,)),
        {"sampling_rate_hz": RATE_HZ, "neurons": {"where": {"group": "noise"}}},
    ),
]


class TestWhatIsRead:
    @pytest.mark.parametrize("number", range(len(EXAMPLE_FILES)))
    def test_counts(self, number: int, tmp_path: Path) -> None:
        example = EXAMPLE_FILES[number]
        path = example.write(tmp_path / "upload")
        np.testing.assert_array_equal(read(path, **example.options).spikes, example.expected)
        assert next(name for name, reader in READERS.items() if reader.recognises(path)) == "phy"

    def test_metadata_of_clusters_and_trials(self, tmp_path: Path) -> None:
        found = read(pack(tmp_path / "f", folder(cluster_info__tsv=INFO)))
        assert found.neuron_metadata == {
            "neuron_id": [2, 7, 9],
            "KSLabel": ["good", "mua", None],
            "ch": [0, 3, None],
            "depth": [20.5, 60.0, None],
            "fr": [3.1, 0.2, None],
            "group": ["good", "mua", "unsorted"],
        }
        assert found.trial_metadata["target"] == ["left", "right", "left"]
        assert found.trial_start_s is not None
        np.testing.assert_allclose(found.trial_start_s, [0, 0.05, 0.1])
        assert found.source_format == "phy"
        assert {"spike_times", "neuron", "sampling_rate_hz", "neuron_metadata", "trials"} <= {
            one.what for one in found.understood
        }

    def test_noise_is_told(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder())
        (warning,) = [one for one in read(path).warnings if one.code == "noise_left_out"]
        assert "1 clusters labelled noise, with 2 spikes" in warning.message
        everything = read(path, neurons={"where": {"group": ["good", "mua", "noise", "unsorted"]}})
        np.testing.assert_array_equal(everything.spikes, counted((2, 5, 7, 9)))
        np.testing.assert_array_equal(read(path, neurons={"where": {"group": "good"}}).spikes, counted((2,)))

    def test_without_trials_it_is_continuous(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder(trials__csv=None))
        found = read(path, chop={"window_s": 0.05, "overlap_s": 0.0})
        np.testing.assert_array_equal(found.spikes, counted((2, 7, 9)))

    def test_events(self, tmp_path: Path) -> None:
        events = "time;label\n0.02;go\n0.07;go\n0.03;stop\n"
        path = pack(tmp_path / "f", folder(trials__csv=None, events__csv=events))
        found = read(path, trials={"align_to": "go", "window_s": [0.0, 0.03]})
        assert found.spikes.shape == (2, 3, 3)

    def test_mapping(self, tmp_path: Path) -> None:
        templates = np.where(CLUSTERS == 9, 2, CLUSTERS).astype(np.int32)
        path = pack(tmp_path / "f", folder(spike_templates__npy=templates))
        assert read(path, mapping={"neuron": "spike_templates"}).neuron_metadata["neuron_id"] == [2, 7]
        problem = rejected(path, mapping={"neuron": "spike_labels"})
        assert problem.code == "variable_unknown"
        assert "spike_templates" in problem.message
        assert rejected(path, mapping={"spikes": "counts"}).code == "variable_unknown"
        assert rejected(path, mapping={"trials": "epochs"}).code == "trials_unknown"

    def test_blocks_and_large_files_beside(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("worker.ingest.rows.BLOCK_BYTES", 24)
        path = pack(tmp_path / "f", folder(pc_features__npy=b"not an array", notes__zip=b"PK\x03\x04"))
        np.testing.assert_array_equal(read(path).spikes, counted((2, 7, 9)))

    def test_windows_paths_and_files_of_macos(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder(), top="data\\sorted\\")
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("__MACOSX/sorted/._spike_times.npy", b"x")
        np.testing.assert_array_equal(read(path).spikes, counted((2, 7, 9)))

    def test_an_older_sorting_deeper_down_is_left(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("sorted/old/spike_times.npy", b"x")
        assert any("sorted/old/" in note for note in read(path).notes)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("other/spike_times.npy", b"x")
        assert rejected(path).code == "several_recordings"

    def test_arrays_of_spikes_alone_are_npz(self, tmp_path: Path) -> None:
        with (tmp_path / "f").open("wb") as file:
            np.savez(file, spike_times=SAMPLES / RATE_HZ, spike_clusters=CLUSTERS)
        assert not READERS["phy"].recognises(tmp_path / "f")
        assert not READERS["phy"].recognises(write_npz(tmp_path / "g", example_recording()))


class TestWhatIsOdd:
    def test_params_are_never_run(self, tmp_path: Path) -> None:
        target = tmp_path / "made"
        params = f"open({str(target)!r}, 'w')\nsample_rate = __import__('os').getpid()\n"
        path = pack(tmp_path / "f", folder(params__py=params))
        assert rejected(path).code == "sampling_rate_missing"
        assert not target.exists()
        assert read(path, sampling_rate_hz=RATE_HZ).spikes.shape == (3, 5, 3)

    @pytest.mark.parametrize("rate", ["0", "-1", "'fast'", "(" * 50, "1e999", "[30000.]", "nan"])
    def test_rates_that_are_none(self, rate: str, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder(params__py=f"sample_rate = {rate}\n"))
        assert rejected(path).code == "sampling_rate_missing"

    @pytest.mark.parametrize(
        "table",
        [
            "",
            "group\ngood\n",
            "cluster_id\tgroup\nx\tgood\n",
            "cluster_id\tcluster_id\n1\t2\n",
            "a" * 200_000,
        ],
    )
    def test_tables_that_are_none(self, table: str, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder(cluster_group__tsv=table, trials__csv="when\n1\n"))
        found = read(path, chop={"window_s": 0.05, "overlap_s": 0.0})
        assert {"table_left_out"} == {one.code for one in found.warnings}
        assert found.spikes.shape[2] == 4

    @pytest.mark.parametrize("line", ["7\tgood\tdeep\t7\tx", "7\tgood\tdeep\t", "7\tgood"])
    def test_lines_of_other_lengths_are_cut_or_filled_and_told(self, line: str, tmp_path: Path) -> None:
        """Noise stays left out, which a table that is left out whole would not tell."""
        table = f"cluster_id\tgroup\tlayer\n5\tnoise\tdeep\n{line}\n"
        found = read(pack(tmp_path / "f", folder(cluster_group__tsv=table)))
        ids = found.neuron_metadata["neuron_id"]
        assert 5 not in ids
        place = ids.index(7)
        assert found.neuron_metadata["group"][place] == "good"
        assert found.neuron_metadata["layer"][place] == ("deep" if "deep" in line else None)
        told = next(one for one in found.warnings if one.code == "table_lines_uneven")
        assert f"line 3 has {line.count(chr(9)) + 1}" in told.message
        assert "table_left_out" not in {one.code for one in found.warnings}

    def test_clusters_are_missing(self, tmp_path: Path) -> None:
        problem = rejected(pack(tmp_path / "f", folder(spike_clusters__npy=None)))
        assert problem.code == "neuron_of_spikes_missing"
        short = CLUSTERS[:-1].astype(np.int32)
        assert (
            rejected(pack(tmp_path / "g", folder(spike_clusters__npy=short))).code
            == "neuron_of_spikes_missing"
        )
        assert (
            rejected(pack(tmp_path / "h", folder(spike_clusters__npy=CLUSTERS * 1.0))).code
            == "label_not_whole"
        )


class TestHostile:
    @pytest.mark.parametrize(
        "name", ["../evil.txt", "/etc/evil", "C:\\evil", "sorted/../../evil", "..\\evil"]
    )
    def test_paths_that_lead_out(self, name: str, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, b"x")
        assert rejected(path).code == "archive_unsafe_path"

    def test_a_link_is_not_followed(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder(spike_clusters__npy=None))
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo("sorted/spike_clusters.npy")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
        assert rejected(path).code == "archive_member_unusable"

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_name_twice(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("sorted/spike_clusters.npy", npy(CLUSTERS[::-1].copy()))
        assert rejected(path).code == "archive_member_unusable"

    def test_encrypted(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder())
        data = bytearray(path.read_bytes())
        at = data.rfind(b"PK\x01\x02", 0, data.rfind(b"spike_clusters.npy"))
        data[at + 8] |= 1
        path.write_bytes(data)
        assert rejected(path).code == "archive_member_unusable"

    def test_too_many_members(self, tmp_path: Path) -> None:
        path = pack(tmp_path / "f", folder())
        with zipfile.ZipFile(path, "a") as archive:
            for number in range(10_001):
                archive.writestr(f"sorted/{number}", b"")
        assert rejected(path).code == "archive_too_many_members"

    def test_members_that_declare_too_much(self, tmp_path: Path) -> None:
        assert (
            rejected(pack(tmp_path / "f", folder()), max_expanded_bytes=100).code == "file_too_large_expanded"
        )
        huge = folder(cluster_info__tsv="cluster_id\n" + "1\n" * 17_000_000)
        assert rejected(pack(tmp_path / "g", huge)).code == "file_too_large_expanded"

    def test_pickles_stay_closed(self, tmp_path: Path) -> None:
        objects = np.array([{}] * len(CLUSTERS), object)
        stream = io.BytesIO()
        np.save(stream, objects, allow_pickle=True)
        assert (
            rejected(pack(tmp_path / "f", folder(spike_clusters__npy=stream.getvalue()))).code
            == "object_array"
        )

    def test_damage(self, tmp_path: Path) -> None:
        """Whatever bytes change, the file is read or rejected."""
        whole = pack(tmp_path / "f", folder(cluster_info__tsv=INFO)).read_bytes()
        draw = random.Random(0)
        changed, outcomes = tmp_path / "changed", {"read": 0, "rejected": 0}
        for _ in range(400):
            data = bytearray(whole[: draw.randrange(30, len(whole))] if draw.random() < 0.2 else whole)
            for _ in range(draw.randrange(1, 6)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            changed.write_bytes(data)
            try:
                read(changed)
                outcomes["read"] += 1
            except RejectedFile:
                outcomes["rejected"] += 1
        assert min(outcomes.values()) > 10


def test_another_zip_is_told_what_it_may_hold(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        archive.writestr("session/notes.txt", "hello")
    problem = rejected(tmp_path / "f")
    assert problem.code == "format_not_recognised"
    assert "Phy" in problem.hint
    assert "Neuralynx" in problem.hint


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """10 million spikes: 120 MB in the file, 160 MB as they are sorted; without blocks, several times that."""
    spikes = 10_000_000
    with zipfile.ZipFile(tmp_path / "f", "w") as archive:
        for name, kind in (("spike_times", np.int64), ("spike_clusters", np.int32)):
            with archive.open(f"s/{name}.npy", "w", force_zip64=True) as member:
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (spikes,)}
                np.lib.format.write_array_header_1_0(member, header)
                for first in range(0, spikes, 1_000_000):
                    block = np.arange(first, first + 1_000_000)
                    member.write((block * 3 if kind is np.int64 else block % 300).astype(kind).tobytes())
        archive.writestr("s/params.py", PARAMS)
    code = (
        "import json,re,sys;from pathlib import Path;from worker.ingest.readers import read_file,ReadOptions;"
        "t=read_file(Path(sys.argv[1]),ReadOptions());peak=re.search(r'VmHWM:\\s+(\\d+)',Path('/proc/self/status').read_text());"
        "print(json.dumps([t.times.total,t.neurons,int(peak[1])]))"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "f")], capture_output=True, check=True)
    total, neurons, kilobytes = json.loads(out.stdout)
    assert (total, neurons) == (spikes, 300)
    assert kilobytes < 300_000
