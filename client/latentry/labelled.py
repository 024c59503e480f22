"""Values that were read, with their meaning: arrays with dims, units and coordinates, and learning curves."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from latentry.documents import CurvePoint, Document
from latentry.errors import LatentryError

if TYPE_CHECKING:
    import pandas
    import xarray
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Coordinate:
    """A value for each entry along one dim, such as its time, or the condition of its trial."""

    name: str
    dim: str
    values: NDArray[Any]
    units: str = ""
    description: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledArray:
    """An array in memory with its meaning.

    Attributes
    ----------
    name, dims, units, description
        As the service describes them; `units` is empty for numbers without units.
    values
        The values.
    coords
        Coordinates by name.
    attributes
        Further attributes, such as ``flag_meanings`` where the values are codes.
    """

    name: str
    dims: tuple[str, ...]
    values: NDArray[Any]
    units: str
    description: str
    coords: Mapping[str, Coordinate]
    attributes: Document

    def to_xarray(self) -> xarray.DataArray:
        """Return the array for xarray; needs `pip install xarray`."""
        data_array = needed("xarray", "xarray").DataArray
        coords = {
            one.name: (one.dim, one.values, _attributes(one.units, one.description, one.attributes))
            for one in self.coords.values()
        }
        attributes = _attributes(self.units, self.description, self.attributes)
        made: xarray.DataArray = data_array(self.values, coords, self.dims, self.name, attributes)
        return made

    def to_pandas(self) -> pandas.DataFrame:
        """Return a table with a row for each value and a column for each coordinate; needs `pip install pandas xarray`."""
        needed("pandas", "pandas")
        return self.to_xarray().to_dataframe().reset_index()


def read_npz(name: str | None, content: bytes) -> LabelledArray:
    """Return an array and its coordinates from an npz file of the service: the array of this name, or the first."""
    import numpy as np

    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        members = {member: archive[member] for member in archive.files}
    described = json.loads(str(members.pop("metadata")))["arrays"]
    name = next(iter(described)) if name is None else name
    dims = described[name]["dims"]
    coords = {
        other: Coordinate(other, along[0], members[other], *_described(one))
        for other, one in described.items()
        if other != name and len(along := one["dims"]) == 1 and along[0] in dims
    }
    units, description, attributes = _described(described[name])
    return LabelledArray(name, tuple(dims), members[name], units, description, coords, attributes)


class LearningCurve(Sequence[CurvePoint]):
    """The epochs of a model so far.

    ``curve[-1]`` is the last epoch, ``curve["sv_loss"]`` is one loss over all epochs.

    Parameters
    ----------
    points
        The epochs as the service returned them.
    """

    def __init__(self, points: list[CurvePoint]) -> None:
        self.points = points

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Any) -> Any:
        """Return an epoch by its position, or by its name a value over all epochs (NaN where an epoch has none)."""
        if not isinstance(index, str):
            return self.points[index]
        return self.values(index)

    def values(self, name: str) -> NDArray[Any]:
        """Return a value over all epochs; NaN where an epoch has none."""
        import numpy as np

        points: Any = self.points
        return np.array([np.nan if point[name] is None else point[name] for point in points], float)

    def __repr__(self) -> str:
        return f"<learning curve of {len(self)} epochs>"

    def _repr_html_(self) -> str:
        from latentry.notebook.pages import curve_html

        return curve_html(self)


def needed(module: str, packages: str) -> Any:
    """Import a module that only some methods need.

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


def _described(array: Document) -> tuple[str, str, Document]:
    return array.get("units", ""), array.get("description", ""), array.get("attributes", {})


def _attributes(units: str, description: str, further: Mapping[str, Any]) -> Document:
    named = {"units": units, "description": description}
    return {**{name: text for name, text in named.items() if text}, **further}
