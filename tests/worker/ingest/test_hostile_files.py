"""How single hostile files are refused, to the word; `test_hostile_corpus` has them by the hundred."""

import contextlib
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.worker.ingest.hostile_archives import HEADERS, Members, archive, npy_header
from tests.worker.ingest.ingest_examples import example_recording, write_lfads_hdf5, write_npz
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.quality_control.checks import examine
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions


def rejected(path: Path) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read_recording(path, ReadOptions())
    return caught.value.problems[0]


def archive_at(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    archive(members, path, method=method)
    return path


class TestNpz:
    def test_a_bomb_is_refused_before_it_goes_off(self, tmp_path: Path) -> None:
        path = tmp_path / "bomb.npz"
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("spikes.npy", "w") as member,
        ):
            member.write(npy_header("(64, 1024, 1024)"))
            for _ in range(64):
                member.write(bytes(2**20))
        assert path.stat().st_size < 2**18
        with pytest.raises(RejectedFile) as caught:
            read_recording(path, ReadOptions(max_expanded_bytes=2**25))
        assert caught.value.problems[0].code == "file_too_large_expanded"

    def test_a_header_that_declares_more_than_there_is(self, tmp_path: Path) -> None:
        members = {"spikes.npy": npy_header("(100000, 100000, 1000)") + bytes(100)}
        problem = rejected(archive_at(tmp_path / "f.npz", members))
        assert problem.code == "file_damaged"
        assert "declares shape (100000, 100000, 1000)" in problem.message

    @pytest.mark.parametrize("name", ["spikes", "labels"])
    def test_pickled_arrays_are_never_opened(self, name: str, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
                return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

        array = np.array([Trap(), None], dtype=object)
        path = write_npz(tmp_path / "f.npz", example_recording(), **{name: array})
        if name == "spikes":
            with pytest.raises(RejectedFile) as caught:
                read_recording(path, ReadOptions())
            problem = caught.value.problems[0]
            assert problem.code == "object_array"
        else:  # metadata are left out, and the rest is read
            found = read_recording(path, ReadOptions())
            np.testing.assert_array_equal(found.spikes, example_recording().spikes)
            (problem,) = [one for one in found.warnings if one.code == "array_left_out"]
            assert "Pickles are never opened" in problem.message
        assert problem.pointer == f"/{name}"
        assert not (tmp_path / "sprung").exists()

    def test_a_pickle_in_place_of_an_array(self, tmp_path: Path) -> None:
        path = archive_at(tmp_path / "f.npz", {"spikes.npy": pickle.dumps([1, 2])})
        assert rejected(path).code == "file_damaged"

    @pytest.mark.parametrize("name", sorted(HEADERS))
    def test_absurd_headers(self, name: str, tmp_path: Path) -> None:
        code = rejected(archive_at(tmp_path / "f.npz", {"spikes.npy": HEADERS[name] + bytes(8)})).code
        assert code in (
            "absurd_shape",
            "file_damaged",
            "object_array",
            "spikes_wrong_axes",
            "spikes_not_numbers",
        )

    def test_other_compressions_and_members(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.ones((3, 3, 3)))
        array = buffer.getvalue()
        assert (
            rejected(archive_at(tmp_path / "a", {"spikes.npy": array}, zipfile.ZIP_LZMA)).code == "not_an_npz"
        )
        assert (
            rejected(archive_at(tmp_path / "b", {"spikes.npy": array, "run.sh": b"x"})).code == "not_an_npz"
        )
        many = {f"a{number}.npy": array for number in range(1001)}
        assert rejected(archive_at(tmp_path / "c", many)).code == "too_many_arrays"


def hostile_hdf5(path: Path, build: Callable[[h5py.File], object]) -> Path:
    write_lfads_hdf5(path, example_recording())
    with h5py.File(path, "a", libver="latest") as file:
        build(file)
    return path


class TestHdf5:
    def test_an_external_link_in_a_group_is_found(self, tmp_path: Path) -> None:
        link = h5py.ExternalLink("/etc/other.h5", "/secret")
        path = hostile_hdf5(tmp_path / "f.h5", lambda file: file.create_group("a/b").__setitem__("c", link))
        assert rejected(path).pointer == "/a/b/c"

    def test_references_and_ragged_arrays(self, tmp_path: Path) -> None:
        for dtype in (
            h5py.ref_dtype,
            h5py.vlen_dtype(np.int32),
            np.dtype([("t", h5py.vlen_dtype(np.int32))]),
        ):
            path = hostile_hdf5(
                tmp_path / "f.h5", lambda file, dtype=dtype: file.create_dataset("x", (3,), dtype)
            )
            found = read_recording(path, ReadOptions())
            np.testing.assert_array_equal(found.spikes, example_recording().spikes)
            (problem,) = [one for one in found.warnings if one.code == "array_left_out"]
            assert "variable length" in problem.message

    def test_spikes_that_cannot_be_read_reject_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "f.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("spikes", (3,), h5py.vlen_dtype(np.int32))
        with pytest.raises(RejectedFile) as caught:
            read_recording(path, ReadOptions())
        assert [one.code for one in caught.value.problems] == ["object_array", "spikes_missing"]

    def test_links_in_circles_end(self, tmp_path: Path) -> None:
        def build(file: h5py.File) -> None:
            group = file.create_group("a")
            group["up"] = file["/"]
            group["self"] = group
            file["soft"] = h5py.SoftLink("/soft")
            file["train_soft"] = h5py.SoftLink("/train_data")

        found = read_recording(hostile_hdf5(tmp_path / "f.h5", build), ReadOptions())
        left_out = " ".join(warning.message for warning in found.warnings)
        assert "`soft`" in left_out
        assert "`train_soft`" in left_out

    def test_the_layout_of_another_kind(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["smoothed"] = np.full((3, 4, 5), 0.5)
        problem = rejected(tmp_path / "f.h5")
        assert problem.code == "spikes_missing"
        assert "smoothed (3, 4, 5)" in problem.message

    def test_a_data_set_of_no_shape(self, tmp_path: Path) -> None:
        path = hostile_hdf5(tmp_path / "f.h5", lambda file: file.__setitem__("train_x", h5py.Empty("f4")))
        assert [warning.code for warning in read_recording(path, ReadOptions()).warnings] == [
            "array_left_out"
        ]

    def test_nwb_is_named(self, tmp_path: Path) -> None:
        path = hostile_hdf5(tmp_path / "f.h5", lambda file: file.attrs.__setitem__("nwb_version", "2.6.0"))
        assert "NWB" in rejected(path).message


@pytest.fixture(scope="module")
def valid_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("valid")
    recording = example_recording()
    return {
        "npz": write_npz(folder / "f.npz", recording).read_bytes(),
        "hdf5": write_lfads_hdf5(folder / "f.h5", recording).read_bytes(),
    }


def mutate(content: bytes, edits: list[tuple[float, int]], keep: float) -> bytes:
    changed = bytearray(content[: max(8, int(len(content) * keep))])
    for place, value in edits:
        changed[int(place * (len(changed) - 1))] = value
    return bytes(changed)


edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)
keep = st.one_of(st.just(1.0), st.floats(0, 1))


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(edits=edits, keep=keep)
@example(edits=[], keep=1.0)
@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_damage_never_gives_another_error(
    kind: str, edits: list[tuple[float, int]], keep: float, valid_bytes: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "f"
    path.write_bytes(mutate(valid_bytes[kind], edits, keep))
    with contextlib.suppress(RejectedFile):
        examine(read_recording(path, ReadOptions()))
