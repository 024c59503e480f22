"""Arrays on disk behave as numpy's do, whatever the block."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ingest import rows
from worker.ingest.readers.axes import Axes
from worker.ingest.readers.axis_evidence import orders_of_counts
from worker.ingest.rows import RowFile, blocks, filled, load_npy, save_npy, zeros


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large, and blocks are of a few rows."""
    monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 16)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 200)


def on_disk(array: np.ndarray) -> RowFile:
    file = RowFile.zeros(array.shape, array.dtype)
    file[0 : len(array)] = array
    return file


@given(
    picks=st.lists(st.integers(0, 19), max_size=30),
    bounds=st.tuples(st.integers(-25, 25), st.integers(-25, 25), st.integers(1, 4)),
)
def test_reading_as_numpy_does(picks: list[int], bounds: tuple[int, int, int]) -> None:
    array = np.random.default_rng(0).integers(0, 1000, (20, 3, 2)).astype(np.uint16)
    file = on_disk(array)
    chosen = np.array(picks, np.int64)
    np.testing.assert_array_equal(file[chosen], array[chosen])
    np.testing.assert_array_equal(file[slice(*bounds)], array[slice(*bounds)])
    np.testing.assert_array_equal(np.asarray(file), array)
    np.testing.assert_array_equal(file[-1], array[-1])


@given(order=st.permutations(list(range(12))))
def test_writing_rows_in_any_order(order: list[int]) -> None:
    array = np.random.default_rng(1).random((12, 5))
    file = RowFile.zeros((12, 5), np.float32)
    for part in np.array_split(np.array(order), 5):
        file[part] = array[part]
    np.testing.assert_array_equal(file[:], array.astype(np.float32))


def test_large_arrays_are_on_disk_and_come_back(tiny: None, tmp_path: Path) -> None:
    array = np.random.default_rng(2).integers(0, 9, (50, 4, 3)).astype(np.uint8)
    held = zeros(array.shape, array.dtype)
    assert isinstance(held, RowFile)
    for first, block in blocks(held):
        assert block.nbytes <= 200
        held[first : first + len(block)] = array[first : first + len(block)]
    save_npy(held, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    loaded = load_npy(tmp_path / "a.npy")
    assert isinstance(loaded, RowFile)
    np.testing.assert_array_equal(loaded[:], array)
    np.testing.assert_array_equal(loaded.reshape(-1, 3)[:], array.reshape(-1, 3))
    assert np.isnan(filled((9, 9), np.float32, np.nan)[:]).all()


def test_an_array_that_ends_early_is_told(tmp_path: Path) -> None:
    save_npy(np.zeros((100, 100)), tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:5000])
    with pytest.raises(EOFError), (tmp_path / "a.npy").open("rb") as file:
        RowFile(file, (100, 100), np.dtype(float), 128)[:]


@pytest.mark.parametrize("on_disk_too", [False, True])
@pytest.mark.parametrize(
    "names",
    [
        ("trial", "bin", "neuron"),
        ("trial", "neuron", "bin"),
        ("bin", "trial", "neuron"),
        ("bin", "neuron", "trial"),
        ("neuron", "trial", "bin"),
        ("neuron", "bin", "trial"),
    ],
)
def test_every_order_of_axes(
    names: tuple[str, ...], on_disk_too: bool, request: pytest.FixtureRequest
) -> None:
    if on_disk_too:
        request.getfixturevalue("tiny")
    array = np.random.default_rng(3).integers(0, 200, (5, 6, 7)).astype(np.uint8)
    stored = np.ascontiguousarray(array.transpose([("trial", "bin", "neuron").index(name) for name in names]))
    axes = Axes(names)
    assert axes.canonical(stored.shape) == (5, 6, 7)
    held = zeros(axes.as_stored(stored.shape), np.uint8)
    held[0 : len(stored)] = axes.block(stored)
    np.testing.assert_array_equal(np.asarray(axes.arranged(held)), array)


@pytest.mark.parametrize("names", [("bin", "neuron"), ("neuron", "bin")])
@pytest.mark.parametrize("on_disk_too", [False, True])
def test_a_continuous_recording(
    names: tuple[str, ...], on_disk_too: bool, request: pytest.FixtureRequest
) -> None:
    if on_disk_too:
        request.getfixturevalue("tiny")
    array = np.random.default_rng(4).integers(0, 200, (40, 7)).astype(np.uint8)
    stored = array if names[0] == "bin" else np.ascontiguousarray(array.T)
    for given_axes in (list(names), None):
        axes = Axes(tuple(given_axes) if given_axes else orders_of_counts(stored.shape, "npz")[0][0])
        assert axes.is_continuous
        held = zeros(axes.as_stored(stored.shape), np.uint8)
        held[0 : len(stored)] = axes.block(stored)
        np.testing.assert_array_equal(np.asarray(axes.arranged(held)), array[None])
