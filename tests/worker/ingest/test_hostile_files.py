"""Files built to read what they should not, to run code, or to exhaust the server."""

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

from tests.worker.ingest.ingest_examples import example_recording, write_lfads_hdf5, write_npz
from worker.ingest.checks import examine
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.readers import ReadOptions, read_recording


def rejected(path: Path) -> Problem:
    with pytest.raises(RejectedFile) as caught:
        read_recording(path, ReadOptions())
    return caught.value.problems[0]


def npz_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy_header(shape: str, dtype: str = "'|u1'") -> bytes:
    text = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    padded = text + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


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
        problem = rejected(npz_of(tmp_path / "f.npz", members))
        assert problem.code == "file_damaged"
        assert "declares shape (100000, 100000, 1000)" in problem.message

    @pytest.mark.parametrize("name", ["spikes", "labels"])
    def test_pickled_arrays_are_never_opened(self, name: str, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
                return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

        array = np.array([Trap(), None], dtype=object)
        path = write_npz(tmp_path / "f.npz", example_recording(), **{name: array})
        problem = rejected(path)
        assert problem.code == "object_array"
        assert problem.pointer == f"/{name}"
        assert not (tmp_path / "sprung").exists()

    def test_a_pickle_in_place_of_an_array(self, tmp_path: Path) -> None:
        path = npz_of(tmp_path / "f.npz", {"spikes.npy": pickle.dumps([1, 2])})
        assert rejected(path).code == "file_damaged"

    @pytest.mark.parametrize(
        "header",
        [
            npy_header("(" + "1, " * 30 + ")"),
            npy_header("(-1, 5, 5)"),
            npy_header("(2, 2, 2)", "[('f0', '|O')]"),
            npy_header("(2, 2, 2)", "'" + "(" * 5000 + "'"),
            npy_header("(" * 4000),
            npy_header("__import__('os').system('true')"),
            b"\x93NUMPY\x09\x00",
            b"",
        ],
    )
    def test_absurd_headers(self, header: bytes, tmp_path: Path) -> None:
        code = rejected(npz_of(tmp_path / "f.npz", {"spikes.npy": header + bytes(8)})).code
        assert code in ("absurd_shape", "file_damaged", "object_array")

    def test_other_compressions_and_members(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, np.ones((3, 3, 3)))
        array = buffer.getvalue()
        assert rejected(npz_of(tmp_path / "a", {"spikes.npy": array}, zipfile.ZIP_LZMA)).code == "not_an_npz"
        assert rejected(npz_of(tmp_path / "b", {"spikes.npy": array, "run.sh": b"x"})).code == "not_an_npz"
        many = {f"a{number}.npy": array for number in range(1001)}
        assert rejected(npz_of(tmp_path / "c", many)).code == "too_many_arrays"


def hostile_hdf5(path: Path, build: Callable[[h5py.File], object]) -> Path:
    write_lfads_hdf5(path, example_recording())
    with h5py.File(path, "a", libver="latest") as file:
        build(file)
    return path


def _replace_with_external_storage(file: h5py.File) -> None:
    del file["train_data"]
    file.create_dataset("train_data", (5, 4, 3), "u1", external=[("/etc/passwd", 0, 60)])


def _replace_with_virtual(file: h5py.File) -> None:
    del file["train_data"]
    layout = h5py.VirtualLayout((5, 4, 3), "u1")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "secret", (5, 4, 3))
    file.create_virtual_dataset("train_data", layout)


def _foreign_filter(file: h5py.File) -> None:
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_chunk((5, 4))
    properties.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 1, 20))
    space = h5py.h5s.create_simple((5, 4))
    h5py.h5d.create(file.id, b"train_extra", h5py.h5t.NATIVE_FLOAT, space, properties)


HOSTILE_HDF5: dict[str, Callable[[h5py.File], object]] = {
    "external_link": lambda file: file.__setitem__(
        "train_extra", h5py.ExternalLink("/etc/other.h5", "/secret")
    ),
    "external_storage": _replace_with_external_storage,
    "virtual_dataset": _replace_with_virtual,
    "filter_not_allowed": _foreign_filter,
    "object_array": lambda file: file.create_dataset(
        "train_names", data=["a", "b"], dtype=h5py.string_dtype()
    ),
    "absurd_shape": lambda file: file.create_dataset("train_extra", (1,) * 30, "u1"),
    "file_too_large_expanded": lambda file: file.create_dataset(
        "train_extra", (2**20, 2**20, 8), "u1", chunks=(1, 64, 8)
    ),
}


class TestHdf5:
    @pytest.mark.parametrize("code", sorted(HOSTILE_HDF5))
    def test_each_kind_is_refused_by_name(self, code: str, tmp_path: Path) -> None:
        problem = rejected(hostile_hdf5(tmp_path / "f.h5", HOSTILE_HDF5[code]))
        assert problem.code == code
        assert problem.hint

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
            assert rejected(path).code == "object_array"

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

    def test_a_giant_chunk(self, tmp_path: Path) -> None:
        path = hostile_hdf5(
            tmp_path / "f.h5",
            lambda file: file.create_dataset("x", (1, 1), "u1", maxshape=(None, None), chunks=(2**15, 2**15)),
        )
        assert rejected(path).code == "absurd_shape"

    def test_the_layout_of_another_kind(self, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "f.h5", "w") as file:
            file["y"] = np.zeros((3, 4, 5))
        problem = rejected(tmp_path / "f.h5")
        assert problem.code == "spikes_missing"
        assert "y (3, 4, 5)" in problem.message

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
