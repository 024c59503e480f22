"""Tables: what their rows and columns are, arrays beside the first, words for codes, formulas that are none."""

import io
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from api.arrays.formats.json import Json
from api.arrays.formats.npy import Npz
from api.arrays.formats.tables import MOST_COLUMNS, Csv, Parquet
from api.errors import Invalid
from tests.api.formats.format_contract import CASES
from tests.api.formats.format_examples import array, content, context, index, time_s


def frame(*arrays: object) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(content(Csv().encode(arrays, context()))))  # type: ignore[arg-type]


def test_rows_are_trials_and_bins_and_columns_are_neurons() -> None:
    found = frame(CASES["rates"])
    assert list(found.columns) == ["trial", "time_s", "split", "neuron_4", "neuron_7", "neuron_9"]
    values = CASES["rates"].values()
    row = found[(found["trial"] == 3) & np.isclose(found["time_s"], 0.04)].iloc[0]
    np.testing.assert_allclose(row[["neuron_4", "neuron_7", "neuron_9"]].astype(float), values[3, 2])
    assert row["split"] == "train"
    assert found.groupby("trial")["neuron_7"].count().tolist() == [
        5,
        5,
        5,
        5,
        5,
        5,
    ]  # NaN is `nan`, inf `inf`


def test_time_stays_in_the_rows() -> None:
    found = frame(CASES["one neuron"])
    assert list(found.columns) == ["trial", "time_s", "split", "rates"]
    assert len(found) == 30


def test_what_belongs_to_an_array_is_beside_it() -> None:
    mean = array("rates", np.arange(12.0).reshape(2, 3, 2), ("target", "time_s", "neuron"), time_s(3), rows=1)
    error = array("rates_sem", mean.values() / 10, mean.dims, time_s(3), rows=2)
    count = array("count", np.array([7, 9]), ("target",))
    found = frame(mean, error, count)
    assert list(found.columns) == [
        "target", "time_s", "rates_neuron_0", "rates_neuron_1", "rates_sem_neuron_0", "rates_sem_neuron_1", "count",
    ]  # fmt: skip
    np.testing.assert_allclose(found["rates_sem_neuron_1"], mean.values()[..., 1].ravel() / 10)
    assert found["count"].tolist() == [7] * 3 + [9] * 3
    document = json.loads(content(Json().encode([mean, error, count], context())))
    assert [one["name"] for one in document["beside"]] == ["rates_sem", "count"]
    with np.load(io.BytesIO(content(Npz().encode([mean, error, count], context())))) as file:
        assert file.files == ["rates", "rates_sem", "count", "time_s", "metadata"]


def test_what_does_not_fit_beside_is_refused() -> None:
    other = array("other", np.zeros(3), ("elsewhere",))
    with pytest.raises(Invalid, match="does not fit a table of rates"):
        Csv().encode([CASES["rates"], other], context())


def test_too_many_columns_are_refused() -> None:
    wide = array("wide", np.zeros((1, MOST_COLUMNS + 1), np.uint8), ("trial", "neuron"))
    with pytest.raises(Invalid, match=f"{MOST_COLUMNS + 1} columns"):
        Parquet().encode([wide], context())


def test_codes_are_categories_in_parquet_and_unknown_ones_are_null() -> None:
    table = parquet.read_table(io.BytesIO(content(Parquet().encode([CASES["rates"]], context()))))
    split = table.to_pandas()["split"]
    assert isinstance(split.dtype, pd.CategoricalDtype)
    assert split[::5].astype(object).where(split[::5].notna(), None).tolist() == [
        "train", "valid", "test", "train", None, "valid",
    ]  # fmt: skip
    assert pa.types.is_dictionary(table.schema.field("split").type)


@pytest.mark.parametrize(
    ("word", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+1-cmd|'/C calc'!A0", "'+1-cmd|'/C calc'!A0"),
        ("-2+3", "'-2+3"),
        ("\t=1", "'\t=1"),
        ("-45deg", "-45deg"),
        ("-0.5", "-0.5"),
        ("+x_1", "+x_1"),
        ('say "a, b"\nand c', 'say "a, b"\nand c'),
        ("ünïcode", "ünïcode"),
    ],
)
def test_no_word_is_a_formula_in_csv(word: str, cell: str) -> None:
    written = array("n", np.arange(2), ("target",), index("target", np.array([word, "b"], object)))
    text = content(Csv().encode([written], context()))
    assert pd.read_csv(io.BytesIO(text), dtype=str)["target"].tolist() == [cell, "b"]
    table = parquet.read_table(io.BytesIO(content(Parquet().encode([written], context()))))
    assert table["target"].to_pylist() == [word, "b"]


def test_names_of_columns_are_no_formulas_and_each_its_own() -> None:
    same = index("neuron", np.array([1, 1, 2]))
    written = array("=x", np.zeros((2, 3)), ("=trial", "neuron"), same, index("neuron_1", [0, 1], "=trial"))
    assert list(frame(written).columns) == ["'=trial", "neuron_1", "neuron_1_2", "neuron_1_3", "neuron_2"]


def test_large_arrays_are_read_block_by_block() -> None:
    read = []

    def blocks() -> object:
        for start in range(0, 400, 40):
            read.append(start)
            yield np.full((40, 100, 50), start, np.float32)

    whole = array(
        "rates",
        np.zeros((400, 100, 50), np.float32),
        ("trial", "time_s", "neuron"),
        index("trial", range(400)),
    )
    whole = type(whole)(**{**vars(whole), "blocks": blocks})
    pieces = Csv().encode([whole], context()).pieces
    first = next(pieces)
    assert len(read) <= 8  # of 10
    rest = b"".join(pieces)
    found = pd.read_csv(io.BytesIO(first + rest))
    assert len(found) == 40_000
    np.testing.assert_array_equal(found["neuron_49"], found["trial"] // 40 * 40)
