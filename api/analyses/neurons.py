"""The route that says how well a model predicts each neuron."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray
from pydantic import Field

from api.analyses.analysis_request import RequestDependency, Work, dataset_context, json_response, or_none
from api.analyses.schemas import ArrayOfTrials, NeuronsDocument
from api.analyses.trajectories import Trajectories, query_trajectories, shared_query
from api.arrays.axes import bin_width_s
from api.arrays.groups import ArrayResource, ReadContext
from api.arrays.labelled import as_words
from api.arrays.messages import invalid_parameter
from api.arrays.query import ArrayQuery
from api.arrays.selection import Selection
from api.errors import problem_responses
from api.http.http_cache import NOT_MODIFIED
from domain.scores.likelihood import LOWEST_RATE, SampleCounts


class NeuronsQuery(ArrayOfTrials, Selection):
    """Parameters of the scores of neurons."""

    array: str = Field(
        "rates",
        pattern="^rates(_[0-9]+)?$",
        max_length=20,
        description="`rates`; with several sessions `rates_0`, `rates_1`, …",
    )


def make_neurons_router(resource: ArrayResource) -> APIRouter:
    """Return the route of the scores of neurons of one kind of resource."""
    router = APIRouter(tags=["analyses"])

    @router.get(
        f"/v1/{resource.plural}/{{owner_id}}/neurons",
        operation_id=f"get_{resource.kind}_neurons",
        response_model=NeuronsDocument,
        responses=NOT_MODIFIED | problem_responses(404, 409, 422),
    )
    async def get_neurons(query: Annotated[NeuronsQuery, Query()], request: RequestDependency) -> Response:
        """Compare the rates with the spikes, neuron by neuron: bits per spike on the selected trials."""

        def begin(context: ReadContext) -> Work:
            rates, spikes, width_s = _query(query, context)
            return lambda: json_response(_score(query, rates, spikes, width_s))

        return await request.answer(resource, query, shared_query(query), begin)

    return router


def _query(query: NeuronsQuery, context: ReadContext) -> tuple[Trajectories, Trajectories, float]:
    """Return the rates, the spikes in the same trials and bins, and the bin width in seconds.

    Raises
    ------
    Invalid
        If no trial is selected, or the rates have other bins or neurons than the spikes.
    """
    selected = shared_query(query)
    rates = query_trajectories(query.array, selected, context)
    if not len(rates.trials):
        raise invalid_parameter("split", "no trial is selected", "choose other trials: split=, where=")
    # The split of a job may differ from that of its data set, so the trials are chosen by their numbers.
    labels: dict[str, Any] = {
        name: getattr(query, name) for name in ("time_s", "neuron") if getattr(query, name)
    }
    labels[rates.array.dims[0]] = [",".join(map(str, rates.trials.tolist()))]
    of_spikes = ArrayQuery.model_construct(set(labels), **labels)
    spikes = query_trajectories(query.array.replace("rates", "spikes"), of_spikes, dataset_context(context))
    width_s = bin_width_s(rates.array, context)
    if rates.array.shape != spikes.array.shape or width_s is None:
        message = f"expected rates in the bins of the spikes, {spikes.array.shape}; got {rates.array.shape}"
        raise invalid_parameter(
            "array", message, "select trials, bins or neurons by their labels, not by slice="
        )
    return rates, spikes, width_s


def _score(query: NeuronsQuery, rates: Trajectories, spikes: Trajectories, width_s: float) -> NeuronsDocument:
    neurons = rates.components
    total, likelihood, samples, predicted = (np.zeros(neurons) for _ in range(4))
    for inferred, counted in _paired(rates, spikes):
        counts = np.maximum(inferred * width_s, LOWEST_RATE)
        known = np.isfinite(counts) & np.isfinite(counted)
        counts, observed = np.where(known, counts, 1.0), np.where(known, counted, 0.0)
        likelihood += (observed * np.log(counts) - np.where(known, counts, 0.0)).sum((0, 1))
        predicted += np.where(known, counts, 0.0).sum((0, 1))
        total += observed.sum((0, 1))
        samples += known.sum((0, 1))
    found = SampleCounts(total, samples)
    seconds = np.where(samples > 0, samples * width_s, np.nan)
    index = rates.array.index("neuron" + query.array.removeprefix("rates"))
    dim = spikes.array.dims[-1]
    labels = [one for one in spikes.array.coordinates if one.dim == dim and one.name != dim]
    return NeuronsDocument(
        array=query.array,
        trials=len(rates.trials),
        neuron=list(range(neurons)) if index is None else index.values.tolist(),
        labels={one.name: as_words(one.values, one.attributes).tolist() for one in labels},
        spikes=total.astype(int).tolist(),
        rate_hz=or_none((total / seconds).tolist()),
        inferred_rate_hz=or_none((predicted / seconds).tolist()),
        reconstruction_bits_per_spike=or_none(found.bits_per_spike_by_neuron(likelihood).tolist()),
    )


def _paired(
    first: Trajectories, second: Trajectories
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield equal rows of both, some at a time. Their blocks may end at different rows."""
    others = (values for _, values in second.blocks())
    rest = np.empty((0, second.bins, second.components))
    for _, values in first.blocks():
        while len(values):
            if not len(rest):
                rest = next(others)
            rows = min(len(values), len(rest))
            yield values[:rows], rest[:rows]
            values, rest = values[rows:], rest[rows:]
