"""A damaged column of metadata in a Parquet file is left out with a warning; damaged spikes reject the file."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from worker.ingest.problems import RejectedFile
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import Recording

SPIKES = np.random.default_rng(0).poisson(0.5, (12, 30, 5)).astype(np.uint8)
LABELS = np.arange(12) % 3
NOISE = np.random.default_rng(1).integers(0, 2**60, 12)


def damaged(path: Path, name: str) -> Path:
    """Write a table with one row for each count, and change bytes of the values of one column."""
    trial, bins, neuron = (part.reshape(-1) for part in np.indices(SPIKES.shape))
    columns = {"trial": trial, "bin": bins, "neuron": neuron, "count": SPIKES.reshape(-1)}
    columns |= {"label": LABELS[trial], "outcome": NOISE[trial]}
    pyarrow.parquet.write_table(pa.table(columns), path, compression="gzip")
    group = pyarrow.parquet.ParquetFile(path).metadata.row_group(0)
    [column] = [group.column(n) for n in range(6) if group.column(n).path_in_schema == name]
    content = bytearray(path.read_bytes())
    first = (column.dictionary_page_offset or column.data_page_offset) + 35
    content[first : first + 20] = bytes(byte ^ 0x5A for byte in content[first : first + 20])
    path.write_bytes(content)
    return path


def read(path: Path) -> Recording:
    return read_recording(path, ReadOptions(bin_width_s=0.01))


def test_damaged_metadata_are_left_out(tmp_path: Path) -> None:
    found = read(damaged(tmp_path / "f.parquet", "outcome"))
    np.testing.assert_array_equal(np.asarray(found.spikes), SPIKES)
    assert found.trial_metadata["label"] == LABELS.tolist()
    assert "outcome" not in found.trial_metadata
    [told] = [warning for warning in found.warnings if warning.pointer == "/outcome"]
    assert told.code == "column_left_out"
    assert "damaged" in told.message


@pytest.mark.parametrize("name", ["count", "neuron", "trial"])
def test_damaged_spikes_reject_the_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(RejectedFile) as caught:
        read(damaged(tmp_path / "f.parquet", name))
    assert [problem.code for problem in caught.value.problems] == ["file_damaged"]
