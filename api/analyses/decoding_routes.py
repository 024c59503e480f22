"""Routes of behaviour decoded from latents."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Header, Query, Response
from numpy.typing import NDArray

from api.analyses.analysis_request import (
    VERSION,
    RequestDependency,
    Work,
    dataset_context,
    json_response,
    or_none,
)
from api.analyses.baselines import SmoothedSpikes, smoothed_spikes, spikes_of
from api.analyses.decoding import MOST_FEATURES, TOLERANCE, Decoding, behaviours_in
from api.analyses.schemas import (
    DecodedBaseline,
    DecodingDocument,
    DecodingQuery,
    PredictionsQuery,
    Tested,
    TrialGroups,
)
from api.analyses.trajectories import Trajectories, query_trajectories, shared_query, split_of
from api.arrays.axes import bin_width_s
from api.arrays.formats import WriteContext, choose_format
from api.arrays.groups import ArrayResource, ReadContext
from api.arrays.messages import invalid_parameter
from api.arrays.provenance import find_provenance
from api.arrays.query import ArrayQuery, cache_key
from api.arrays.responses import ArrayResponse, ConditionsDependency, values_responses
from api.computing.picture_types import PictureKind, picture_answers, picture_response
from api.errors import problem_responses
from api.http.http_cache import NOT_MODIFIED, REVALIDATED
from domain.errors import listed
from domain.scores.ridge import r2
from store.datasets import given_splits

_OF_BOTH = ("align_to", "window_s", "event_clock", "rebin_s")
"""Transformations that are done to the behaviour, too, because they change the bins."""


def make_decoding_router(resource: ArrayResource) -> APIRouter:
    """Return the routes of the decoding of one kind of resource."""
    router = APIRouter(tags=["analyses"])
    base = "/v1/" + resource.plural + "/{owner_id}/decoding"

    @router.get(
        base,
        operation_id=f"get_{resource.kind}_decoding",
        response_model=DecodingDocument,
        responses=NOT_MODIFIED | problem_responses(404, 409, 422),
    )
    async def get_decoding(query: Annotated[DecodingQuery, Query()], request: RequestDependency) -> Response:
        """Decode behaviour by ridge regression, and score it on trials that the decoder was not fitted on."""

        def begin(context: ReadContext) -> Work:
            asked = begin_decoding(query, context)
            return lambda: json_response(document(query, asked))

        return await request.answer(resource, query, shared_query(query), begin)

    for picture in ("png", "svg"):
        _add_picture(router, base, resource, picture)
    _add_predictions(router, base, resource)
    return router


def _add_picture(router: APIRouter, base: str, resource: ArrayResource, picture: PictureKind) -> None:
    @router.get(
        f"{base}.{picture}",
        operation_id=f"draw_{resource.kind}_decoding_{picture}",
        response_class=Response,
        responses=picture_answers(picture) | problem_responses(404, 409, 422),
    )
    async def draw_decoding(query: Annotated[DecodingQuery, Query()], request: RequestDependency) -> Response:
        """Draw true and decoded behaviour of some trials that the decoder was not fitted on."""

        def begin(context: ReadContext) -> Work:
            from api.analyses.pictures import draw_decoding as draw  # matplotlib takes a second to import

            asked = begin_decoding(query, context)

            def work() -> Response:
                told = document(query, replace(asked, spikes=""))
                return picture_response(draw(told, asked.decoding, picture), picture)

            return work

        return await request.answer(resource, query, shared_query(query), begin, picture)


def _add_predictions(router: APIRouter, base: str, resource: ArrayResource) -> None:
    @router.get(
        f"{base}/predictions",
        operation_id=f"read_{resource.kind}_decoding_predictions",
        response_class=Response,
        responses=values_responses("The predictions, trials × time × components of the behaviour.")
        | problem_responses(404, 406, 409, 422),
    )
    async def read_predictions(
        query: Annotated[PredictionsQuery, Query()],
        request: RequestDependency,
        conditions: ConditionsDependency,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Response:
        """Read the behaviour as it is decoded, of trials that the decoder was not fitted on."""
        chosen = choose_format(query.format_, accept)
        shared = shared_query(query, "format_")

        def begin(context: ReadContext) -> Work:
            asked = query.model_dump_json(exclude={"format_"}, exclude_defaults=True)
            key = (VERSION, "predictions", asked, *cache_key(query.array, shared, context))
            response = ArrayResponse(chosen, key, REVALIDATED, conditions)
            if (unchanged := response.unchanged()) is not None:
                return lambda: unchanged
            decoding = begin_decoding(query, context).decoding
            provenance = find_provenance(context, request.service.database)
            writing = WriteContext(request.service.settings.json_max_elements, provenance)

            def work() -> Response:
                found = decoding.predictions()
                return response.send(found.name, lambda: chosen.encode((found,), writing), found)

            return work

        return await request.compute(resource, begin)


@dataclass(frozen=True)
class AskedDecoding:
    """A checked request for a decoding.

    Attributes
    ----------
    decoding
        The latents and the behaviour.
    behaviours
        Names of all behaviours of the data set.
    spikes
        Spikes of the data set, to decode from for comparison; or the reason why not, empty if it was not asked for.
    """

    decoding: Decoding
    behaviours: list[str]
    spikes: Trajectories | str


def _array_of(query: DecodingQuery, context: ReadContext) -> str:
    """Return the name of the array to decode from: by default the first that exists and is small enough."""
    if "array" in query.model_fields_set:
        return query.array
    arrays = context.opened.arrays
    for name in ("rates", "factors", "spikes"):
        if name in arrays and arrays[name].shape[-1] <= MOST_FEATURES:
            return name
    return query.array


def begin_decoding(query: DecodingQuery, context: ReadContext) -> AskedDecoding:
    """Check a request for a decoding.

    Raises
    ------
    Invalid
        If the request does not fit the arrays.
    """
    of_dataset = dataset_context(context)
    behaviours = behaviours_in(of_dataset.opened.group)
    name = query.behaviour or (behaviours[0] if len(behaviours) == 1 else "")
    if name not in behaviours:
        came = "none is named" if query.behaviour is None else f"got {query.behaviour!r}"
        raise invalid_parameter(
            "behaviour",
            f"expected a behaviour of {of_dataset.group.owner}; {came}",
            f"it has {listed(behaviours)}" if behaviours else "it has none: upload behaviour with the spikes",
        )
    latents = query_trajectories(_array_of(query, context), shared_query(query), context)
    asked = ArrayQuery.model_validate(
        {one: getattr(query, one) for one in _OF_BOTH if getattr(query, one) is not None}
    )
    behaviour = query_trajectories(name, asked, of_dataset, "behaviour")
    _, groups = given_splits(context.session, context.group.dataset_id)
    width_s = bin_width_s(latents.array, context) or 1.0
    decoding = Decoding(
        latents,
        behaviour,
        lag_bins=_lag_bins(query.lag_s, width_s),
        bin_width_s=width_s,
        held_out=query.held_out,
        folds=query.folds,
        seed=query.seed,
        groups=groups.take(latents.trials),
        split=split_of(latents.trials, context) if query.held_out != "folds" else None,
    )
    is_of_model = context.group.path != of_dataset.group.path
    is_wanted = is_of_model and query.baseline is not False
    return AskedDecoding(decoding, behaviours, spikes_of(decoding, asked, of_dataset) if is_wanted else "")


def _lag_bins(lag_s: float, width_s: float) -> int:
    bins = round(lag_s / width_s)
    if abs(lag_s - bins * width_s) > TOLERANCE * width_s:
        raise invalid_parameter(
            "lag_s",
            f"expected a whole multiple of the bin width, {width_s:g} s; got {lag_s:g}",
            f"{bins * width_s:g} is the nearest",
        )
    return bins


def document(query: DecodingQuery, asked: AskedDecoding) -> DecodingDocument:
    """Decode the behaviour, and return the result."""
    decoding, spikes = asked.decoding, asked.spikes
    fitted, r2_of_components = decoding.fitted, r2(decoding.fitted)
    mean_r2 = mean_or_none(r2_of_components)
    baseline = (
        spikes if isinstance(spikes, str) else smoothed_spikes(decoding, spikes, is_wanted=query.baseline)
    )
    return DecodingDocument(
        array=decoding.latents.array.name,
        behaviour=decoding.behaviour.array.name,
        lag_s=query.lag_s,
        held_out=query.held_out,
        folds=query.folds,
        r2=mean_r2,
        r2_of_components=or_none(r2_of_components.tolist()),
        alphas=[one.alpha for one in fitted],
        features=decoding.latents.components,
        tested=Tested(
            trials=len(decoding.tested_rows),
            fitted_bins=round(float(np.mean([one.fitted_samples for one in fitted]))),
            tested_bins=sum(one.tested_samples for one in fitted),
        ),
        groups=TrialGroups(
            number=decoding.groups.number,
            kept_together=decoding.keeps_groups_together,
            left_out=round(float(np.mean([one.left_out for one in decoding.divisions])), 1),
        ),
        baselines=[]
        if isinstance(baseline, str)
        else [
            DecodedBaseline(
                name="smoothed_spikes",
                width_s=baseline.width_s,
                r2=mean_or_none(baseline.r2),
                r2_of_components=or_none(baseline.r2.tolist()),
            )
        ],
        notes=_notes(decoding.latents.array.name, mean_r2, baseline),
        behaviours=asked.behaviours,
    )


def mean_or_none(values: NDArray[np.float64]) -> float | None:
    """Return the mean of the finite values, or None if there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _notes(array: str, score: float | None, baseline: SmoothedSpikes | str) -> list[str]:
    """Return notes that compare the score with that of smoothed spikes."""
    if isinstance(baseline, str):
        return [f"Smoothed spikes were not decoded: {baseline}."] if baseline else []
    simple = mean_or_none(baseline.r2)
    if score is None or simple is None or score >= simple:
        return []
    advice = "train more epochs or more models, with a smaller batch if there are few trials"
    if not array.startswith("rates"):
        advice = f"decode from the rates (array=rates), or {advice}"
    return [
        f"Smoothed spikes decode this behaviour better than {array}: R² {simple:.3f} against {score:.3f}. Try this: {advice}."
    ]
