"""What a hostile file is, and the secret that none may ever bring to light."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SECRET = b"QZCANARYXJWK"
"""Stands, many times over, in every file that lies beside the uploads; no file holds it by itself."""
_REPEATS = 40


@dataclass(frozen=True)
class Canary:
    """Files of the server that an upload may try to read, a file that it may try to make, and an address it may try to call.

    Attributes
    ----------
    folder
        Where the files are: `secret` (text), `secret.h5` (data set `/secret`), `secret.npz`, `secret.csv`, `secret.dat`.
    port
        On which 127.0.0.1 listens.
    """

    folder: Path
    port: int = 9

    @property
    def text(self) -> str:
        """The file of plain text, which may be taken for raw numbers too."""
        return str(self.folder / "secret")

    @property
    def hdf5(self) -> str:
        """The HDF5 file."""
        return str(self.folder / "secret.h5")

    @property
    def trap(self) -> str:
        """A file that is made only by code that should never run."""
        return str(self.folder / "sprung")

    @property
    def url(self) -> str:
        """An address that must never be called."""
        return f"http://127.0.0.1:{self.port}/secret"


def make_canary(folder: Path, port: int = 9) -> Canary:
    """Write the files of a canary."""
    folder.mkdir(parents=True, exist_ok=True)
    canary, content = Canary(folder, port), SECRET * _REPEATS
    counts = np.frombuffer(content, np.uint8).reshape(-1, 4, 3)
    for name in ("secret", "secret.dat", "secret.csv"):
        (folder / name).write_bytes(content)
    np.savez(folder / "secret.npz", spikes=counts, bin_width_s=0.01)
    with h5py.File(folder / "secret.h5", "w") as file:
        file["secret"], file["train_data"], file["spikes"] = counts, counts, counts
    return canary


def betrays(content: bytes) -> bool:
    """Say whether the secret is in an output: as text, as numbers of any width, as JSON."""
    numbers = np.frombuffer(SECRET, np.uint8)
    widths = ("u1", "<u2", "<i4", "<i8", "<f4", "<f8")
    forms = [numbers.astype(width).tobytes() for width in widths]
    forms += [", ".join(map(str, numbers.tolist())).encode(), SECRET.hex().encode()]
    return any(form in content for form in forms)


@dataclass(frozen=True)
class HostileFile:
    """One file built to do harm.

    Attributes
    ----------
    name
        Says what it tries.
    format
        The format whose reader it is for.
    make
        Writes it to a path.
    codes
        It must be refused with one of these; any refusal or a harmless reading will do if empty.
    options
        Of the request.
    is_slow
        Takes long to make or to read: for the benchmark, not for the tests.
    """

    name: str
    format: str
    make: Callable[[Path, Canary], object]
    codes: frozenset[str] = frozenset()
    options: dict[str, Any] = field(default_factory=dict)
    is_slow: bool = False


Corpus = Iterator[HostileFile]
