"""Formats of files that are downloaded, by the ending of their names."""

from pathlib import Path

BY_ENDING = {
    ".npy": "npy", ".npz": "npz", ".json": "json", ".csv": "csv", ".arrow": "arrow", ".arrows": "arrow",
    ".parquet": "parquet", ".h5": "hdf5", ".hdf5": "hdf5", ".mat": "mat", ".nwb": "nwb", ".zip": "zarr",
}  # fmt: skip


def format_of(path: str | Path, otherwise: str) -> str:
    """The format that a file's name tells; `otherwise` of folders and other names."""
    path = Path(path)
    return otherwise if path.is_dir() else BY_ENDING.get(path.suffix, otherwise)
