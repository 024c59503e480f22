"""Arrays of the service, of which only the requested part is read, when it is requested."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentry.documents import ArrayDocument, Document, settled
from latentry.errors import NotFound
from latentry.labelled import Coordinate, LabelledArray, needed, read_npz
from latentry.notebook.pages import array_html, arrays_html, shown
from latentry.query_params import (
    Label,
    Where,
    check_spelling,
    format_of,
    label_text,
    parameters_of,
    slice_of,
    where_texts,
)

if TYPE_CHECKING:
    import pandas
    import xarray
    from numpy.typing import NDArray

    from latentry.asynchronous.client import AsyncClient


class AsyncArray:
    """One array of a data set, a model or an inference.

    Only the part in brackets is read: ``factors[0:5, ::2]`` requests exactly that. `sel` and `query` return another array of this
    kind, which the service computes when it is read.

    Parameters
    ----------
    arrays
        The arrays of its resource.
    name
        Name of the array, such as ``rates``.
    labels
        Labels to select along dims, or values of the metadata of trials.
    parameters
        Further parameters of the request.
    """

    def __init__(
        self,
        arrays: AsyncArrays,
        name: str,
        labels: dict[str, Label] | None = None,
        parameters: Document | None = None,
    ) -> None:
        self.name = name
        self._arrays, self._labels, self._parameters = arrays, labels or {}, parameters or {}
        self._read: LabelledArray | None = None

    @property
    def path(self) -> str:
        """Return its path on the service."""
        return f"{self._arrays.path}/{self.name}"

    @property
    async def dims(self) -> tuple[str, ...]:
        """Return the name of each axis."""
        return (await self._labelled()).dims if self._is_asked else tuple((await self._about())["dims"])

    @property
    async def shape(self) -> tuple[int, ...]:
        """Return the length of each axis."""
        if self._is_asked:
            return tuple((await self._labelled()).values.shape)
        return tuple((await self._about())["shape"])

    @property
    async def dtype(self) -> str:
        """Return NumPy's name for the type of the values."""
        return (
            str((await self._labelled()).values.dtype) if self._is_asked else (await self._about())["dtype"]
        )

    @property
    async def units(self) -> str:
        """Return the units of the values; empty for numbers without units."""
        return (await self._labelled()).units if self._is_asked else (await self._about())["units"]

    @property
    async def coords(self) -> dict[str, Coordinate]:
        """Return the coordinates along the dims, by name."""
        if self._is_asked:
            return dict((await self._labelled()).coords)
        return await self._arrays.coordinates(self.name)

    async def __getitem__(self, index: Any) -> NDArray[Any]:
        """Read a part: integers, slices (also with negative steps) and ``...``, as in NumPy."""
        if self._is_asked:
            values: NDArray[Any] = (await self._labelled()).values[index]
            return values
        text, turns = slice_of(index, await self.shape)
        part = await self.read(text or None)
        return part[turns]

    async def __aiter__(self) -> AsyncIterator[NDArray[Any]]:
        """Read entry by entry along the first axis."""
        for position in range((await self.shape)[0]):
            yield await self[position]

    async def read(self, slice: str | None = None) -> NDArray[Any]:
        """Read the values, or a slice of them in the service's grammar (``0:5,::2``)."""
        import numpy as np

        parameters = {**await self._question(), "slice": slice or None, "format": "npy"}
        answer = await self._arrays.client.request("GET", self.path, params=parameters)
        values: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return values

    def sel(self, **labels: Label) -> AsyncArray:
        """Select by label.

        Parameters
        ----------
        labels
            For a dim, a label, a list of labels or a ``slice`` of labels: ``time_s=slice(0.1, 0.4)``, ``trial=[3, 5]``. For
            metadata of trials, a value or a list of values: ``condition=[3, 4]``. ``split="valid"`` selects the trials of
            that split.

        Returns
        -------
        AsyncArray
            An array that is not read yet.
        """
        return AsyncArray(self._arrays, self.name, {**self._labels, **labels}, self._parameters)

    def query(
        self,
        *,
        where: Where = None,
        split: str | Sequence[str] | None = None,
        align_to: str | None = None,
        window_s: tuple[float, float] | None = None,
        event_clock: str | None = None,
        smooth_s: float | None = None,
        rebin_s: float | None = None,
        rotate_to: str | None = None,
        rotation: str | None = None,
        components: int | None = None,
        average: str | None = None,
        statistic: str | None = None,
        **labels: Label,
    ) -> AsyncArray:
        """Let the service transform the array; it applies the parameters in this order.

        Parameters
        ----------
        where
            Conditions on the metadata of trials: ``{"condition": [3, 4]}``, ``"condition:in:3,4"``, or a list of such texts.
        split
            ``train``, ``valid``, or both.
        align_to, window_s, event_clock
            An event of the trials, the seconds to keep around it, and the clock of its times: ``session`` or ``trial``.
        smooth_s
            Standard deviation of a Gaussian over time, in seconds.
        rebin_s
            Width of the new bins, in seconds.
        rotate_to, rotation
            Id of the model onto whose array this one is rotated; ``procrustes`` or ``cca``.
        components
            Number of principal components.
        average, statistic
            Metadata of trials to average by (``condition``); ``mean``, ``sem`` or ``count``.
        labels
            As in `sel`.

        Returns
        -------
        AsyncArray
            An array that is not read yet.

        Raises
        ------
        TypeError
            If a label is spelt nearly as one of these parameters.
        """
        parameters = {
            "split": split, "align_to": align_to, "window_s": window_s, "event_clock": event_clock, "smooth_s": smooth_s,
            "rebin_s": rebin_s, "rotate_to": rotate_to, "rotation": rotation, "components": components, "average": average,
            "statistic": statistic,
        }  # fmt: skip
        check_spelling(labels, parameters)
        asked = parameters_of(where, **parameters)
        return AsyncArray(self._arrays, self.name, {**self._labels, **labels}, {**self._parameters, **asked})

    async def download(self, path: str | Path, format: str | None = None) -> Path:
        """Write it to a file.

        The formats are ``npy``, ``npz``, ``csv``, ``arrow``, ``parquet``, ``hdf5``, ``mat``, ``nwb``, ``zarr`` and ``json``.
        Default: the format for the file's ending, else npy.
        """
        parameters = {**await self._question(), "format": format or format_of(path, "npy")}
        return await self._arrays.client.download(self.path, path, parameters)

    async def to_labelled(self) -> LabelledArray:
        """Read it with its dims, units and coordinates."""
        return await self._labelled()

    async def to_xarray(self) -> xarray.DataArray:
        """Read it into xarray, with coordinates and units; needs `pip install xarray`."""
        needed("xarray", "xarray")
        return (await self._labelled()).to_xarray()

    async def to_pandas(self) -> pandas.DataFrame:
        """Read it as a table with a row for each value; needs `pip install pandas xarray`."""
        needed("pandas", "pandas")
        return (await self._labelled()).to_pandas()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read the whole array, for ``np.asarray``."""
        import numpy as np

        if copy is False:
            raise ValueError(
                "an array that is read from the service is always a copy: copy=False is not possible"
            )
        return np.asarray(settled(self.read(), otherwise=_cannot_wait), dtype)

    def __repr__(self) -> str:
        asked = {**self._labels, **self._parameters}
        return f"<array {self.path}{f' with {asked}' if asked else ''}, not read>"

    def _repr_html_(self) -> str:
        return shown(self.html, otherwise=self.__repr__)

    async def html(self) -> str:
        """Return what a notebook shows of it."""
        about = {
            **await self._about(), "dims": await self.dims, "shape": await self.shape, "dtype": await self.dtype,
            "units": await self.units,
        }  # fmt: skip
        return array_html(about, {name: one.dim for name, one in (await self.coords).items()})

    @property
    def _is_asked(self) -> bool:
        return bool(self._labels or self._parameters)

    async def _about(self) -> ArrayDocument:
        return await self._arrays.about(self.name)

    async def _question(self) -> Document:
        """Return the parameters of the request: labels of dims are selectors, all other labels are conditions on trials."""
        if not self._labels:
            return dict(self._parameters)
        dims = (await self._about())["dims"]
        asked = dict(self._parameters)
        conditions = list(asked.get("where", ()))
        for name, label in self._labels.items():
            if name in dims or name == "split":
                asked[name] = label_text(label)
            else:
                conditions += where_texts({name: label})
        return {**asked, "where": conditions or None}

    async def _labelled(self) -> LabelledArray:
        if self._read is None:
            self._read = await self._fetch_labelled()
        return self._read

    async def _fetch_labelled(self) -> LabelledArray:
        parameters = {**await self._question(), "format": "npz"}
        answer = await self._arrays.client.request("GET", self.path, params=parameters)
        return read_npz(None, answer.content)  # with a `statistic`, the array has another name


class AsyncArrays:
    """The arrays of a data set, a model or an inference, by name.

    Parameters
    ----------
    client
        Client of the service.
    owner_path
        Path of the resource that has the arrays.
    """

    def __init__(self, client: AsyncClient, owner_path: str) -> None:
        self.client = client
        self.path = f"{owner_path}/arrays"
        self._documents: dict[str, ArrayDocument] | None = None
        self._coordinates: dict[str, Coordinate] = {}

    def __getitem__(self, name: str) -> AsyncArray:
        if not isinstance(name, str):  # else `in` and loops would ask for 0, 1, 2 and so on without end
            raise TypeError(f"arrays are taken by name, as in arrays['rates']; got {name!r}")
        return AsyncArray(self, name)

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the names of the arrays."""
        for document in (await self._list()).values():
            yield document["name"]

    async def names(self) -> list[str]:
        """Return the names of the arrays."""
        return list(await self._list())

    async def about(self, name: str) -> ArrayDocument:
        """Return the description of an array.

        Raises
        ------
        NotFound
            If no array has this name.
        """
        documents = await self._list()
        if name not in documents:
            raise NotFound(f"{self.path} has no array {name!r}", f"it has {', '.join(documents)}", 404)
        return documents[name]

    async def coordinates(self, name: str) -> dict[str, Coordinate]:
        """Return the coordinates along the dims of an array; each is read once, because it never changes."""
        return {other: await self._coordinate(other) for other in (await self.about(name))["coordinates"]}

    def __repr__(self) -> str:
        return f"<arrays at {self.path}>"

    def _repr_html_(self) -> str:
        return shown(self.html, otherwise=self.__repr__)

    async def html(self) -> str:
        """Return what a notebook shows of them."""
        return arrays_html(list((await self._list()).values()))

    async def _list(self) -> dict[str, ArrayDocument]:
        # The list never changes, so it is read once.
        if self._documents is None:
            answer = await self.client.get(self.path)
            self._documents = {document["name"]: document for document in answer["items"]}
        return self._documents

    async def _coordinate(self, name: str) -> Coordinate:
        if name not in self._coordinates:
            document = await self.about(name)
            self._coordinates[name] = Coordinate(
                name, document["dims"][0], await self[name].read(), document["units"], document["description"],
                document["attributes"],
            )  # fmt: skip
        return self._coordinates[name]


def _cannot_wait() -> Any:
    raise TypeError("NumPy cannot await: use `await array.read()`")
