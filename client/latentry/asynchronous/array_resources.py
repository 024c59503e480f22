"""The base of data sets, models and inferences: resources with arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentry.asynchronous.arrays import AsyncArray, AsyncArrays
from latentry.asynchronous.resources import AsyncResource
from latentry.documents import Document, Field, TimeField
from latentry.labelled import LabelledArray, needed, read_npz
from latentry.query_params import Where, format_of, parameters_of

if TYPE_CHECKING:
    import xarray
    from numpy.typing import ArrayLike

    from latentry.asynchronous.client import AsyncClient


class AsyncArrayOwner(AsyncResource):
    """A resource that has arrays."""

    ended_at = TimeField("When it ended (UTC); None before.")
    links = Field[dict[str, str]]("Paths of related resources.")

    def __init__(self, client: AsyncClient, document: Document) -> None:
        super().__init__(client, document)
        self._arrays: AsyncArrays | None = None

    @property
    def arrays(self) -> AsyncArrays:
        """Return its arrays by name: ``arrays["rates"]``."""
        if self._arrays is None:
            self._arrays = AsyncArrays(self._client, self.path)
        return self._arrays

    async def download(
        self, path: str | Path, format: str | None = None, arrays: Sequence[str] | None = None
    ) -> Path:
        """Write all arrays to one file.

        Parameters
        ----------
        path
            The file, or a folder for it.
        format
            ``npz``, ``hdf5``, ``mat``, ``nwb`` or ``zarr``; default: by the file's ending, else npz.
        arrays
            Names of the arrays; default: all.

        Returns
        -------
        Path
            The file.
        """
        parameters = parameters_of(format=format or format_of(path, "npz"), arrays=arrays)
        return await self._client.download(f"{self.path}/download", path, parameters)

    def open_zarr(self, **arguments: Any) -> xarray.Dataset:
        """Open all arrays lazily over HTTP with xarray; needs `pip install "./client[xarray]"`.

        Parameters
        ----------
        arguments
            Arguments of `xarray.open_zarr`, such as ``chunks``.
        """
        open_zarr = needed("xarray", "xarray zarr fsspec aiohttp").open_zarr
        for module in ("zarr", "fsspec", "aiohttp"):
            needed(module, "xarray zarr fsspec aiohttp")
        options = {"client_kwargs": {"headers": self._client.headers}}
        opened: xarray.Dataset = open_zarr(
            f"{self._client.url}{self.path}/zarr", storage_options=options, **arguments
        )
        return opened

    def to_xarray(self) -> xarray.Dataset:
        """Read all arrays into xarray, with coordinates and units; needs the packages of `open_zarr`."""
        return self.open_zarr().load()

    async def distances(
        self,
        *,
        array: str = "factors",
        by: str | None = None,
        metric: str = "euclidean",
        unbiased: bool = False,
        over_time: bool = False,
        where: Where = None,
        **asked: Any,
    ) -> Document:
        """Return distances between the mean trajectories of conditions.

        Parameters
        ----------
        array
            Name of an array with an axis of trials.
        by
            Metadata of the trials, or ``split``, whose values are the conditions; default: the conditions in the report
            of the data set.
        metric
            ``euclidean``, or ``mahalanobis``: relative to the variance of single trials around their means.
        unbiased
            Whether to subtract the contribution of noise from squared distances.
        over_time
            Whether to return the distances of every bin too.
        where, asked
            As in `AsyncArray.query`: which trials, and how to transform them first.
        """
        own = {"array": array, "by": by, "metric": metric, "unbiased": unbiased, "over_time": over_time}
        return await self._client.get(f"{self.path}/distances", parameters_of(where, **own, **asked))

    async def decoding(
        self,
        *,
        array: str | None = None,
        behaviour: str | None = None,
        lag_s: float = 0.0,
        held_out: str = "folds",
        where: Where = None,
        **asked: Any,
    ) -> Document:
        """Return how well behaviour is decoded from trajectories, on trials that the decoder was not fitted on.

        Parameters
        ----------
        array
            Name of an array with an axis of trials. Default: the rates of a model (factors, if it has several sessions), or
            the spikes of a data set.
        behaviour
            Array of the data set to decode; default: its only behaviour.
        lag_s
            Delay of the behaviour, in seconds.
        held_out
            ``folds``, or ``valid``: the validation trials of the job.
        where, asked
            As in `AsyncArray.query`; also ``folds``, ``seed`` and ``baseline``: whether to decode smoothed spikes too.
        """
        own = {"array": array, "behaviour": behaviour, "lag_s": lag_s, "held_out": held_out}
        return await self._client.get(f"{self.path}/decoding", parameters_of(where, **own, **asked))

    async def decoding_predictions(self, *, where: Where = None, **asked: Any) -> LabelledArray:
        """Return the decoded behaviour; arguments as those of `decoding`."""
        parameters = {**parameters_of(where, **asked), "format": "npz"}
        answer = await self._client.request("GET", f"{self.path}/decoding/predictions", params=parameters)
        return read_npz(None, answer.content)

    async def picture(
        self, analysis: str, *, format: str = "png", where: Where = None, **asked: Any
    ) -> bytes:
        """Return a picture of ``distances`` or ``decoding``, as ``png`` or ``svg``; further arguments as theirs."""
        parameters = parameters_of(where, **asked)
        path = f"{self.path}/{analysis}.{format}"
        return (await self._client.request("GET", path, params=parameters)).content


class AsyncLatentsOwner(AsyncArrayOwner):
    """A resource whose arrays are latents, in the order of your trials."""

    @property
    def rates(self) -> AsyncArray:
        """Return the firing rates in spikes/s: trials × bins × neurons."""
        return self.arrays["rates"]

    @property
    def factors(self) -> AsyncArray:
        """Return the factors: trials × bins × factors."""
        return self.arrays["factors"]

    @property
    def initial_conditions(self) -> AsyncArray:
        """Return the initial conditions of the generator: trials × dimensions."""
        return self.arrays["initial_conditions"]

    @property
    def inputs(self) -> AsyncArray:
        """Return the inferred inputs of a model with a controller: trials × bins × inputs."""
        return self.arrays["inputs"]

    @property
    def generator_states(self) -> AsyncArray:
        """Return the states of the generator: trials × bins × units."""
        return self.arrays["generator_states"]

    async def neurons(self, array: str = "rates", *, where: Where = None, **asked: Any) -> Document:
        """Return how well the rates predict each neuron, as columns; ``where`` and ``split`` select the trials."""
        return await self._client.get(f"{self.path}/neurons", parameters_of(where, array=array, **asked))

    async def nearest(
        self,
        to: ArrayLike | None = None,
        *,
        trial: int | None = None,
        time_s: float | None = None,
        array: str = "factors",
        k: int = 10,
        metric: str = "euclidean",
        where: Where = None,
        **asked: Any,
    ) -> Document:
        """Return the trials, or the states at single times, with the nearest latents.

        Parameters
        ----------
        to
            Nearest to a vector, or to each of several: one number for each component, or vectors × components.
        trial, time_s
            Nearest to a trial, or to its state at a time in seconds.
        array
            Name of an array with an axis of trials.
        k
            Number of neighbours.
        metric
            ``euclidean``, or ``cosine``: one minus the cosine of the angle.
        where, asked
            As in `AsyncArray.query`; also ``exclude_own_trial``.
        """
        path = f"{self.path}/nearest"
        parameters = parameters_of(where, array=array, k=k, metric=metric, **asked)
        if to is None:
            own = parameters_of(trial=trial, time_s=time_s)
            return await self._client.get(path, {**parameters, **own})
        import numpy as np

        vectors = np.asarray(to, float)
        body = {"vector" if vectors.ndim == 1 else "vectors": vectors.tolist()}
        answer = await self._client.request("POST", path, json=body, params=parameters, is_repeatable=True)
        document: Document = answer.json()
        return document
