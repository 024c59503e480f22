"""An array that was read, with what it means: dims, units, coordinates."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentry.documents import Document
from latentry.errors import LatentryError

if TYPE_CHECKING:
    import pandas
    import xarray
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Coordinate:
    """What is known of each entry along one dim, such as its time, or the condition of its trial."""

    name: str
    dim: str
    values: NDArray[Any]
    units: str = ""
    description: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledArray:
    """Values with what they mean.

    Attributes
    ----------
    name, dims, units, description
        As the service tells them; units are empty for numbers without any.
    values
        In memory.
    coords
        By name.
    attributes
        Further ones, such as ``flag_meanings`` where the values are codes.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any]
    units: str
    description: str
    coords: Mapping[str, Coordinate]
    attributes: Document

    def to_xarray(self) -> xarray.DataArray:
        """As xarray has it; `pip install xarray`."""
        data_array = needed("xarray", "xarray").DataArray
        coords = {
            one.name: (one.dim, one.values, _attributes(one.units, one.description, one.attributes))
            for one in self.coords.values()
        }
        attributes = _attributes(self.units, self.description, self.attributes)
        made: xarray.DataArray = data_array(self.values, coords, self.dims, self.name, attributes)
        return made

    def to_pandas(self) -> pandas.DataFrame:
        """A table with a row for each value, and a column for each coordinate; `pip install pandas xarray`."""
        needed("pandas", "pandas")
        return self.to_xarray().to_dataframe().reset_index()


def read_npz(name: str | None, content: bytes) -> LabelledArray:
    """The array of a name, else the first, and its coordinates, from an npz file of the service."""
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        members = {member: archive[member] for member in archive.files}
    described = json.loads(str(members.pop("metadata")))["arrays"]
    name = next(iter(described)) if name is None else name
    dims = described[name]["dims"]
    coords = {
        other: Coordinate(other, along[0], members[other], *_said(told))
        for other, told in described.items()
        if other != name and len(along := told["dims"]) == 1 and along[0] in dims
    }
    units, description, attributes = _said(described[name])
    return LabelledArray(name, tuple(dims), members[name], units, description, coords, attributes)


def needed(module: str, packages: str) -> Any:
    """Import a module that the client does without elsewhere.

    Raises
    ------
    LatentryError
        If it is not installed; the hint says what to install.
    """
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise LatentryError(
            f"this needs {module}, which is not installed", f"pip install {packages}"
        ) from error


def _said(told: Document) -> tuple[str, str, Document]:
    return told.get("units", ""), told.get("description", ""), told.get("attributes", {})


def _attributes(units: str, description: str, further: Mapping[str, Any]) -> Document:
    named = {"units": units, "description": description}
    return {**{name: text for name, text in named.items() if text}, **further}
