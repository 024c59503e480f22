"""Every format of answers keeps the contract, by NumPy, json, pandas, pyarrow, h5py, xarray, Zarr and pynwb."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pynwb
import pytest
import scipy.io
import xarray
import zarr
from numpy.typing import NDArray
from pyarrow import parquet
from zarr.storage import ZipStore

from api.arrays.formats import FORMATS
from api.arrays.formats.hdf5 import Hdf5
from api.arrays.formats.naming import MatlabNames
from api.arrays.formats.zarr import Zarr
from api.arrays.labelled import Coordinate, LabelledArray, as_words
from api.errors import Invalid
from tests.api.formats.format_contract import CASES, FormatContract
from tests.api.formats.format_examples import Found, content, context


class TestNpy(FormatContract):
    name = "npy"

    def read(self, path: Path, written: LabelledArray) -> Found:
        values = np.load(path, allow_pickle=False)
        assert values.dtype == written.dtype
        return Found(values)


class TestNpz(FormatContract):
    name = "npz"

    def read(self, path: Path, written: LabelledArray) -> Found:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file[file.files[-1]]))
            own, *others = file.files[:-1]
            assert list(about["arrays"]) == [own, *others]
            assert about["arrays"][own]["dims"] == list(written.dims)
            assert about["arrays"][own].get("units", "") == written.units
            assert about["model_id"] == "mod_1"
            assert file[own].dtype == written.dtype
            names = [one.name for one in written.coordinates]
            return Found(file[own], {name: file[key] for name, key in zip(names, others, strict=True)})


class TestJson(FormatContract):
    name = "json"

    def read(self, path: Path, written: LabelledArray) -> Found:
        document = json.loads(path.read_text())
        assert (document["name"], document["dims"]) == (written.name, list(written.dims))
        assert (document["units"], document["dtype"]) == (written.units, str(written.dtype))
        assert document["attributes"] == dict(written.attributes)
        assert {name: one["dim"] for name, one in document["coordinates"].items()} == {
            one.name: one.dim for one in written.coordinates
        }
        coordinates = {
            name: np.array(one["values"], dtype=object) for name, one in document["coordinates"].items()
        }
        return Found(np.array(document["values"], dtype=object).reshape(document["shape"]), coordinates)

    def expected(self, written: LabelledArray) -> NDArray[Any]:
        return _without_nan(written.values())

    def coordinate(self, one: Any) -> NDArray[Any]:
        return _without_nan(one.values)


def _without_nan(values: NDArray[Any]) -> NDArray[Any]:
    objects = values.astype(object)
    if values.dtype.kind == "f":
        objects[~np.isfinite(values)] = None
    return objects


class TableContract(FormatContract):
    """Of the formats that are tables."""

    def table(self, written: LabelledArray, frame: pd.DataFrame) -> Found:
        """Values and coordinates of an array by its rows: those of all dims, or of all but the last."""
        is_wide = len(written.dims) > 1 and not written.dims[-1].endswith("_s")
        rows = written.shape[:-1] if is_wide else written.shape
        width = written.shape[-1] if is_wide else 1
        assert len(frame) == int(np.prod(rows, dtype=int))
        values = frame.iloc[:, len(frame.columns) - width :]
        if "flag_values" in written.attributes:
            values = values.astype(object).where(values.notna(), "")
        coordinates = {}
        for one in written.coordinates:
            if one.dim in written.dims[: len(rows)] and one.name in frame.columns and 0 not in rows:
                axis = written.dims.index(one.dim)
                column = frame[one.name].astype(object).where(frame[one.name].notna(), None)
                by_axis = np.moveaxis(column.to_numpy().reshape(rows), axis, 0).reshape(rows[axis], -1)
                assert all(len(set(map(repr, entry))) == 1 for entry in by_axis)
                coordinates[one.name] = by_axis[:, 0]
        return Found(values.to_numpy().reshape(written.shape), coordinates)

    def expected(self, written: LabelledArray) -> NDArray[Any]:
        return as_words(written.values(), written.attributes)

    def coordinate(self, one: Any) -> NDArray[Any]:
        words = as_words(one.values, one.attributes).astype(object)
        return np.array([None if word in ("", None) or word != word else word for word in words], object)


class TestParquet(TableContract):
    name = "parquet"

    def read(self, path: Path, written: LabelledArray) -> Found:
        table = parquet.read_table(path)
        _check_schema(table.schema, written)
        return self.table(written, _frame(table))


class TestArrow(TableContract):
    name = "arrow"

    def read(self, path: Path, written: LabelledArray) -> Found:
        with pa.ipc.open_stream(path) as reader:
            table = reader.read_all()
        _check_schema(table.schema, written)
        return self.table(written, _frame(table))


def _frame(table: pa.Table) -> pd.DataFrame:
    # pandas can't keep names that come twice apart, and some types of columns without rows
    return table.to_pandas()


def _check_schema(schema: pa.Schema, written: LabelledArray) -> None:
    about = json.loads(schema.metadata[b"latentry"])
    assert about["arrays"][written.name]["dims"] == list(written.dims)
    assert about["arrays"][written.name]["units"] == written.units
    if 0 not in written.shape[-1:]:
        told = schema.field(len(schema) - 1)
        assert (told.metadata or {}).get(b"units", b"").decode() == written.units
        if "flag_values" not in written.attributes:
            assert told.type == pa.from_numpy_dtype(written.dtype)


class TestCsv(TableContract):
    name = "csv"

    def read(self, path: Path, written: LabelledArray) -> Found:
        frame = pd.read_csv(path, keep_default_na=False, na_values=["", "nan"])
        if 0 in written.shape and len(frame.columns) == 0:
            frame = pd.DataFrame(index=range(int(np.prod(written.shape[:-1], dtype=int))))
        found = self.table(written, frame)
        if written.dtype.kind == "f" and found.values.dtype != object:
            found.values = found.values.astype(written.dtype)
        return found

    def coordinate(self, one: Coordinate) -> NDArray[Any]:
        words = super().coordinate(one)
        return np.array([f"'{word}" if word == "=1+1" else word for word in words], object)


class TestHdf5(FormatContract):
    name = "hdf5"

    def read(self, path: Path, written: LabelledArray) -> Found:
        with h5py.File(path) as file:
            own = file[next(iter(file))]
            assert own.attrs.get("units", "") == written.units
            assert own.dtype == written.dtype
            values = own[()]
            if not own.is_scale:
                assert [own.dims[axis].label for axis in range(own.ndim)] == list(written.dims)
                assert all(len(own.dims[axis]) == 1 for axis in range(own.ndim))
            names = [one.name for one in written.coordinates]
            keys = list(file)[1 : len(names) + 1]
            coordinates = {
                name: file[key].asstr()[()] if file[key].dtype.kind == "O" else file[key][()]
                for name, key in zip(names, keys, strict=True)
            }
        return Found(np.asarray(values), coordinates)


class TestMat(FormatContract):
    name = "mat"

    def read(self, path: Path, written: LabelledArray) -> Found:
        file = scipy.io.loadmat(path)
        variables = file["latentry"]["variables"][0, 0]
        assert file["latentry"]["model_id"][0, 0].item() == "mod_1"
        names = variables.dtype.names
        assert all(re.fullmatch(r"[A-Za-z]\w{0,62}", name, re.ASCII) for name in file if name[0] != "_")
        told = {name: variables[name][0, 0] for name in names}
        by_name = {_char(one["name"]): name for name, one in told.items()}
        own = told[names[0]]
        assert _char(own["units"]) == written.units
        assert [_char(one) for one in own["dims"][0, 0].ravel()] == list(written.dims)
        values = file[names[0]]
        if "flag_values" in written.attributes:
            values = np.array([_char(one) for one in values.ravel()])
        else:
            assert values.dtype == (np.uint8 if written.dtype.kind == "b" else written.dtype)
        coordinates = {one.name: _vector(file[by_name[one.name]]) for one in written.coordinates}
        return Found(values.reshape(written.shape), coordinates)

    def expected(self, written: LabelledArray) -> NDArray[Any]:
        return as_words(written.values(), written.attributes)

    def coordinate(self, one: Any) -> NDArray[Any]:
        return as_words(one.values, one.attributes)

    def test_names_are_those_that_matlab_takes(self) -> None:
        names = MatlabNames()
        wanted = ["rates", "1st", "end", "µ/x", "_a", "", "r" * 70, "r" * 71, "rates"]
        assert [names.free(one) for one in wanted] == [
            "rates", "x_1st", "x_end", "x_x", "x_a", "x_", "r" * 63, "r" * 61 + "_2", "rates_2",
        ]  # fmt: skip

    def test_what_is_too_large_is_refused(self) -> None:
        def blocks() -> Iterator[NDArray[Any]]:
            raise AssertionError("nothing is read")

        huge = LabelledArray(
            "rates", ("trial", "time_s"), (600_000, 1000), np.dtype("f4"), "", "", (), {}, blocks
        )
        with pytest.raises(
            Invalid, match=r"rates has 2\.4 GB, and a variable of a MAT-file has at most 2\.1 GB"
        ) as refused:
            self.format.encode([huge], context())
        assert "format=hdf5" in str(refused.value.hint)


def _char(value: Any) -> str:
    """A MATLAB text, which may lie in arrays of one element."""
    while isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return str(value)


def _vector(values: NDArray[Any]) -> NDArray[Any]:
    return np.array([_char(one) for one in values.ravel()]) if values.dtype == object else values.ravel()


class TestZarr(FormatContract):
    name = "zarr"

    def read(self, path: Path, written: LabelledArray) -> Found:
        with ZipStore(path, mode="r") as store:
            group = zarr.open_group(store, mode="r")
            assert group.attrs["model_id"] == "mod_1"
            assert len(set(store._zf.namelist())) == len(store._zf.namelist())
            arrays = dict(group.arrays())
            [own] = [
                one
                for name, one in arrays.items()
                if one.attrs.get("description") == f"the {written.name}"
                and (one.metadata.dimension_names or ()) == written.dims
            ]  # type: ignore[union-attr]
            assert own.attrs.get("units", "") == written.units
            assert own.dtype == written.dtype
            coordinates = {}
            for one in written.coordinates:
                if one.name in arrays:
                    attributes = dict(arrays[one.name].attrs)
                    values = np.asarray(arrays[one.name][...])
                    is_text = one.values.dtype.kind == "U"
                    coordinates[one.name] = as_words(values, attributes) if is_text else values
            return Found(np.asarray(own[...]), coordinates)

    def coordinate(self, one: Any) -> NDArray[Any]:
        is_text = one.values.dtype.kind == "U"
        return np.char.replace(one.values, " ", "_") if is_text else one.values


class TestNwb(FormatContract):
    name = "nwb"
    most_examples = 4

    def read(self, path: Path, written: LabelledArray) -> Found:
        with pynwb.NWBHDF5IO(path, "r") as io:
            file = io.read()
            assert "mod_1" in file.identifier
            objects = [*file.processing["ecephys"].data_interfaces.values()]
            own = next(one for one in objects if one.description.startswith(f"the {written.name}"))
            if isinstance(own, pynwb.TimeSeries):
                assert own.unit == (written.units or "n.a.")
                return Found(own.data[()].reshape(written.shape))
            of_values = f"the {written.name} [{written.units or 'n.a.'}]"
            [values] = [one.data[()] for one in own.columns if one.description == of_values]
            return Found(values if written.dims else values[0])

    def test_files_are_valid(self, tmp_path: Path) -> None:
        self.found(CASES["text along a dim"], tmp_path)
        assert pynwb.validate(path=str(tmp_path / "answer.nwb")) == []


def test_every_format_keeps_the_contract() -> None:
    members = {kind.name for kind in _members(FormatContract) if hasattr(kind, "name")}
    assert members == {one.name for one in FORMATS}


def _members(kind: type[FormatContract]) -> list[type[FormatContract]]:
    return [one for sub in kind.__subclasses__() for one in (sub, *_members(sub))]


def test_xarray_opens_hdf5_as_netcdf_and_zarr(tmp_path: Path) -> None:
    written = CASES["rates"]
    netcdf, archive = tmp_path / "a.h5", tmp_path / "a.zarr.zip"
    netcdf.write_bytes(content(Hdf5().encode([written], context())))
    archive.write_bytes(content(Zarr().encode([written], context())))
    with (
        xarray.open_dataset(netcdf, engine="h5netcdf") as by_netcdf,
        xarray.open_zarr(ZipStore(archive, mode="r")) as by_zarr,
    ):
        for found in (by_netcdf, by_zarr):
            assert found["rates"].dims == written.dims
            assert set(found.coords) == {"trial", "time_s", "neuron", "split"}
            assert found["rates"].attrs["units"] == "spikes/s"
            np.testing.assert_array_equal(found["rates"].sel(neuron=7), written.values()[:, :, 1])
