"""MATLAB files that are hostile or damaged."""

import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse

from tests.worker.ingest.matlab_files import (
    ARRAYS,
    COUNTS,
    Matlab73,
    Write,
    by_hand,
    by_trial_and_neuron,
    cells,
    codes,
    read,
    rejected,
    save_v4,
    save_v5,
    save_v7,
    save_v73,
    structs,
    structs_of_counts,
)
from worker.ingest.problems import RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.readers.matlab.reader import MatlabReader
from worker.ingest.recording import Recording


def v5_element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def v5_matrix(name: bytes, kind: int, shape: tuple[int, ...], rest: bytes) -> bytes:
    body = v5_element(6, struct.pack("<II", kind, 0)) + v5_element(5, struct.pack(f"<{len(shape)}i", *shape))
    body += v5_element(1, name) + rest
    return struct.pack("<II", 14, len(body)) + body


V5_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


class TestHostileFiles:
    def test_zlib_bombs(self, tmp_path: Path) -> None:
        declared = struct.pack("<II", 14, 2**31) + b"\0" * 100
        path = tmp_path / "f"
        packed = zlib.compress(declared)
        path.write_bytes(V5_HEADER + struct.pack("<II", 15, len(packed)) + packed)
        assert rejected(path, max_expanded_bytes=2**20) == "file_too_large_expanded"
        # One that declares little and holds much is not decompressed beyond what it declares.
        packed = zlib.compress(struct.pack("<II", 14, 56) + b"\0" * 2**26)
        path.write_bytes(V5_HEADER + struct.pack("<II", 15, len(packed)) + packed)
        assert rejected(path) == "file_damaged"
        many = zlib.compress(v5_matrix(b"a", 9, (1, 2**20), v5_element(2, b"\0" * 2**20)))
        path.write_bytes(V5_HEADER + (struct.pack("<II", 15, len(many)) + many) * 50)
        assert rejected(path, max_expanded_bytes=2**24) == "file_too_large_expanded"

    def test_cells_ten_thousand_deep(self, tmp_path: Path) -> None:
        inner = v5_matrix(b"", 6, (1, 1), v5_element(9, b"\0" * 8))
        for _ in range(10_000):
            inner = v5_matrix(b"", 1, (1, 1), inner)
        path = tmp_path / "f"
        path.write_bytes(V5_HEADER + inner)
        assert rejected(path) == "nested_too_deep"

        def make(matlab: Matlab73) -> None:
            reference = matlab.reference(1.0)
            for number in range(1000):
                dataset = matlab.refs.create_dataset(
                    f"d{number}", data=np.array([[reference]], h5py.ref_dtype)
                )
                dataset.attrs["MATLAB_class"] = np.bytes_("cell")
                reference = dataset.ref
            matlab.file["c"] = dataset

        assert rejected(by_hand(make)(path)) == "nested_too_deep"

    @pytest.mark.parametrize("kind", [1, 2, 4, 6])
    @pytest.mark.parametrize("shape", [(2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (-1, -1), (1,) * 100])
    def test_giant_declared_arrays(self, kind: int, shape: tuple[int, ...], tmp_path: Path) -> None:
        rest = v5_element(9, b"\0" * 8)
        if kind == 2:
            rest = v5_element(5, struct.pack("<i", 8)) + v5_element(1, b"spikes\0\0") + rest
        path = tmp_path / "f"
        path.write_bytes(V5_HEADER + v5_matrix(b"spikes", kind, shape, rest))
        assert rejected(path) in ("file_damaged", "absurd_shape", "spikes_missing", "spikes_not_numbers")

    def test_giant_sparse_matrices(self, tmp_path: Path) -> None:
        rest = v5_element(5, b"\0" * 4) + v5_element(5, b"\0" * 8) + v5_element(9, b"\0" * 8)
        path = tmp_path / "f"
        path.write_bytes(V5_HEADER + v5_matrix(b"spikes", 5, (2**31 - 1, 1), rest))
        assert rejected(path) == "file_too_large_expanded"

    def test_giant_arrays_of_version_73(self, tmp_path: Path) -> None:
        def make(matlab: Matlab73) -> None:
            dataset = matlab.file.create_dataset("spikes", (2**20, 2**10, 2**10), "f8", chunks=(1, 64, 64))
            dataset.attrs["MATLAB_class"] = np.bytes_("double")

        assert rejected(by_hand(make)(tmp_path / "f"), bin_width_s=0.01) == "file_too_large_expanded"

    def test_cyclic_and_shared_references(self, tmp_path: Path) -> None:
        def cycle(matlab: Matlab73) -> None:
            dataset = matlab.file.create_dataset("c", (1, 1), h5py.ref_dtype)
            dataset.attrs["MATLAB_class"] = np.bytes_("cell")
            dataset[0, 0] = dataset.ref

        def group_in_itself(matlab: Matlab73) -> None:
            group = matlab.struct(matlab.file, "s", {"x": 1.0})
            group["inner"] = group

        def doubling(matlab: Matlab73) -> None:
            reference = matlab.reference(1.0)
            for number in range(30):
                data = np.array([[reference, reference]], h5py.ref_dtype)
                dataset = matlab.refs.create_dataset(f"d{number}", data=data)
                dataset.attrs["MATLAB_class"] = np.bytes_("cell")
                reference = dataset.ref
            matlab.file["c"] = dataset

        for make in (cycle, group_in_itself, doubling):
            assert rejected(by_hand(make)(tmp_path / "f")) == "cyclic_reference"

    def test_links_and_storage_elsewhere(self, tmp_path: Path) -> None:
        def external(matlab: Matlab73) -> None:
            matlab.file["spikes"] = h5py.ExternalLink("/etc/passwd", "x")

        def external_in_struct(matlab: Matlab73) -> None:
            matlab.struct(matlab.file, "s", {"x": 1.0})["y"] = h5py.ExternalLink("/etc/passwd", "x")

        def storage(matlab: Matlab73) -> None:
            dataset = matlab.refs.create_dataset("d", (4, 4), "u1", external=[("/etc/passwd", 0, 16)])
            data = matlab.file.create_dataset("c", data=np.array([[dataset.ref]], h5py.ref_dtype))
            data.attrs["MATLAB_class"] = np.bytes_("cell")

        path = tmp_path / "f"
        assert rejected(by_hand(external)(path)) == "external_link"
        assert rejected(by_hand(external_in_struct)(path)) == "external_link"
        assert rejected(by_hand(storage)(path)) == "external_storage"

    def test_what_is_not_read_is_left_out_with_a_warning(self, tmp_path: Path) -> None:
        function = v5_matrix(b"f", 16, (1, 1), v5_matrix(b"", 1, (0, 0), b""))
        body = v5_element(6, struct.pack("<II", 17, 0)) + v5_element(1, b"t") + v5_element(1, b"MCOS")
        opaque = struct.pack("<II", 14, len(body)) + body
        old_object = v5_matrix(b"o", 3, (1, 1), v5_element(1, b"inline"))
        path = save_v5(tmp_path / "f", {**ARRAYS, "z": np.ones((2, 2)) * 1j})
        path.write_bytes(path.read_bytes() + function + opaque + old_object)
        recording = read(path)
        np.testing.assert_array_equal(recording.spikes, COUNTS)
        assert codes(recording) == ["array_left_out"] * 4
        said = " ".join(warning.message for warning in recording.warnings)
        assert all(what in said for what in ("function handle", "a table", "an object", "complex"))

        def make(matlab: Matlab73) -> None:
            matlab.numbers(matlab.file, "spikes", COUNTS)
            matlab.numbers(matlab.file, "f", [1]).attrs["MATLAB_class"] = np.bytes_("function_handle")
            matlab.numbers(matlab.file, "t", [1]).attrs["MATLAB_object_decode"] = np.int32(3)
            matlab.file["z"] = np.ones((2, 2), [("real", "f8"), ("imag", "f8")])

        assert codes(read(by_hand(make)(tmp_path / "g"), bin_width_s=0.01)) == [
            "axes_guessed",
            *["array_left_out"] * 3,
        ]


def accepts_only_clean_ends(path: Path, options: ReadOptions) -> None:
    try:
        found = read_recording(path, options)
    except RejectedFile:
        return
    assert isinstance(found, Recording)


DAMAGED = [
    (save_v4, {"spike_times": np.arange(9) / 10, "neuron": np.arange(9.0), "t": "text"}),
    (save_v5, {"spike_times": by_trial_and_neuron(), "s": structs(structs_of_counts()), "t": "text"}),
    (save_v7, {"spike_times": by_trial_and_neuron(), "s": structs(structs_of_counts()), "t": "text"}),
    (save_v5, {"spikes": scipy.sparse.csc_matrix(COUNTS[0].astype(float)), "x": np.ones((2, 3))}),
    (save_v73, {"spikes": COUNTS.astype(float), "c": cells(["a", "b"]), "s": {"x": 1.0, "y": "z"}}),
]


@pytest.mark.parametrize(("write", "variables"), DAMAGED)
class TestDamage:
    def test_truncation(self, write: Write, variables: dict[str, Any], tmp_path: Path) -> None:
        whole = write(tmp_path / "whole", variables).read_bytes()
        path = tmp_path / "f"
        for length in np.linspace(0, len(whole) - 1, 60).astype(int):
            path.write_bytes(whole[:length])
            accepts_only_clean_ends(path, ReadOptions(bin_width_s=0.1))

    def test_mutation(self, write: Write, variables: dict[str, Any], tmp_path: Path) -> None:
        whole = write(tmp_path / "whole", variables).read_bytes()
        random = np.random.default_rng(11)
        path = tmp_path / "f"
        options = ReadOptions(bin_width_s=0.1, max_expanded_bytes=2**24)
        # Headers and tags lie at the beginning, and at the beginning of every variable.
        for number in range(100):
            damaged = bytearray(whole)
            for _ in range(int(random.integers(1, 4))):
                end = len(whole) if number % 2 else min(len(whole), 1500)
                damaged[random.integers(0, end)] = random.integers(0, 256)
            path.write_bytes(damaged)
            accepts_only_clean_ends(path, options)


def test_it_recognises_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for content in (
        b"",
        b"\0" * 200,
        b"trial,bin\n1,2\n" * 20,
        b"\x89HDF\r\n\x1a\n" * 20,
        bytes(range(256)),
        b"PK\3\4" * 99,
    ):
        path.write_bytes(content)
        assert not MatlabReader().recognises(path)
    with h5py.File(path, "w") as file:
        file["spikes"] = COUNTS
    assert not MatlabReader().recognises(path)


@pytest.mark.parametrize("write", [save_v5, save_v7, save_v73])
def test_a_truncated_file_is_called_damaged(write: Write, tmp_path: Path) -> None:
    path = write(tmp_path / "f", ARRAYS)
    path.write_bytes(path.read_bytes()[:-40])
    assert rejected(path) == "file_damaged"
