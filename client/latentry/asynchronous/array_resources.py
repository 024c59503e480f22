"""What data sets, models and inferences have in common: arrays."""

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

    ended_at = TimeField("When it came to its end (UTC); None before.")
    links = Field[dict[str, str]]("Paths of what belongs to it.")

    def __init__(self, client: AsyncClient, document: Document) -> None:
        super().__init__(client, document)
        self._arrays: AsyncArrays | None = None

    @property
    def arrays(self) -> AsyncArrays:
        """Its arrays by name: ``arrays["rates"]``."""
        if self._arrays is None:
            self._arrays = AsyncArrays(self._client, self.path)
        return self._arrays

    async def download(
        self, path: str | Path, format: str | None = None, arrays: Sequence[str] | None = None
    ) -> Path:
        """Have all arrays in one file.

        Parameters
        ----------
        path
            Of the file, or a folder to put it into.
        format
            ``npz``, ``hdf5``, ``mat``, ``nwb`` or ``zarr``; by the file's ending unless given, and npz where that tells none.
        arrays
            Those that are wanted; all unless given.

        Returns
        -------
        Path
            The file.
        """
        parameters = parameters_of(format=format or format_of(path, "npz"), arrays=arrays)
        return await self._client.download(f"{self.path}/download", path, parameters)

    def open_zarr(self, **arguments: Any) -> xarray.Dataset:
        """Open all arrays lazily over HTTP with xarray; needs `pip install "latentry-client[xarray]"`.

        Parameters
        ----------
        arguments
            Further ones of `xarray.open_zarr`, such as ``chunks``.
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
        """Read all arrays as xarray has them, with coordinates and units; needs what `open_zarr` needs."""
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
        """Distances between the mean trajectories of conditions.

        Parameters
        ----------
        array
            Whose trajectories: an array of trials.
        by
            Metadata of the trials, or ``split``, whose values are the conditions; unless given, the conditions that the
            data set's report names.
        metric
            ``euclidean``; ``mahalanobis``: in units of how single trials vary around their means.
        unbiased
            Take off what noise adds to squared distances.
        over_time
            Also those of every bin.
        where, asked
            As of `AsyncArray.query`: which trials, and what is done to them first.
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
        """How well behaviour is decoded from trajectories, on trials that the decoder did not see.

        Parameters
        ----------
        array
            Whose trajectories: an array of trials. Unless given, the rates of a model (factors, if it is of several sessions), or
            the spikes of a data set.
        behaviour
            Array of the data set that is decoded; its only behaviour unless given.
        lag_s
            Behaviour comes so much later, in seconds.
        held_out
            ``folds``, or ``valid``: the validation trials of the job.
        where, asked
            As of `AsyncArray.query`; also ``folds``, ``seed`` and ``baseline``: whether smoothed spikes are decoded too.
        """
        own = {"array": array, "behaviour": behaviour, "lag_s": lag_s, "held_out": held_out}
        return await self._client.get(f"{self.path}/decoding", parameters_of(where, **own, **asked))

    async def decoding_predictions(self, *, where: Where = None, **asked: Any) -> LabelledArray:
        """Behaviour as it is decoded; arguments as those of `decoding`."""
        parameters = {**parameters_of(where, **asked), "format": "npz"}
        answer = await self._client.request("GET", f"{self.path}/decoding/predictions", params=parameters)
        return read_npz(None, answer.content)

    async def picture(
        self, analysis: str, *, format: str = "png", where: Where = None, **asked: Any
    ) -> bytes:
        """A picture of ``distances`` or ``decoding``, as ``png`` or ``svg``; further arguments as theirs."""
        parameters = parameters_of(where, **asked)
        path = f"{self.path}/{analysis}.{format}"
        return (await self._client.request("GET", path, params=parameters)).content


class AsyncLatentsOwner(AsyncArrayOwner):
    """A resource whose arrays are latents, in your order of trials."""

    @property
    def rates(self) -> AsyncArray:
        """Firing rates in spikes/s: trials × bins × neurons."""
        return self.arrays["rates"]

    @property
    def factors(self) -> AsyncArray:
        """Factors: trials × bins × factors."""
        return self.arrays["factors"]

    @property
    def initial_conditions(self) -> AsyncArray:
        """Initial conditions of the generator: trials × dimensions."""
        return self.arrays["initial_conditions"]

    @property
    def inputs(self) -> AsyncArray:
        """Inferred inputs, of models with a controller: trials × bins × inputs."""
        return self.arrays["inputs"]

    @property
    def generator_states(self) -> AsyncArray:
        """States of the generator: trials × bins × units."""
        return self.arrays["generator_states"]

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
        """The trials, or the states at single times, whose latents lie nearest.

        Parameters
        ----------
        to
            To a vector, or to each of several: one number for each component, or vectors × components.
        trial, time_s
            Or to a trial, or to its state at a time in seconds.
        array
            Whose trajectories: an array of trials.
        k
            How many.
        metric
            ``euclidean``, or ``cosine``: one minus the cosine of the angle.
        where, asked
            As of `AsyncArray.query`; also ``exclude_own_trial``.
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
