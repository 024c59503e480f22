"""Routes of behaviour decoded from latents."""

from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Header, Query, Response
from numpy.typing import NDArray

from api.analyses.analysis_request import (
    UNCHANGED,
    VERSION,
    AskingDependency,
    Kind,
    Work,
    dataset_group,
    json_response,
    or_none,
    picture_answers,
    picture_response,
)
from api.analyses.baselines import SmoothedSpikes, smoothed_spikes, spikes_of
from api.analyses.conditions import split_of
from api.analyses.decoding import MOST_FEATURES, TOLERANCE, Decoding, behaviours_in
from api.analyses.schemas import (
    DecodedBaseline,
    DecodingDocument,
    DecodingQuery,
    PredictionsQuery,
    Tested,
    TrialGroups,
)
from api.analyses.trajectories import Trajectories, ask_trajectories, shared_query
from api.arrays.formats import FORMATS, Context, choose_format
from api.arrays.group import FindGroup
from api.arrays.provenance import find_origin
from api.arrays.query import ArrayQuery, what_decides
from api.arrays.responses import ConditionsDependency, answer, coding_of, unchanged
from api.arrays.schemas import ArrayValues
from api.arrays.service import REVALIDATED
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.time_axis import bin_width_s
from api.arrays.transformations.wording import listed, refusal
from api.errors import problem_responses
from domain.scores.ridge import r2
from store.datasets import given_splits

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_OF_BOTH = ("align_to", "window_s", "event_clock", "rebin_s")
"""Transformations that are done to the behaviour as well: they change which bins there are."""


def make_decoding_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """Routes of the decoding of one kind of resource; parameters as `api.arrays.routes.make_router`'s."""
    router = APIRouter(tags=["analyses"])
    base = "/v1/" + plural + "/{owner_id}/decoding"

    @router.get(
        base,
        operation_id=f"get_{kind}_decoding",
        response_model=DecodingDocument,
        responses=UNCHANGED | problem_responses(404, 409, 422),
    )
    async def get_decoding(query: Annotated[DecodingQuery, Query()], asking: AskingDependency) -> Response:
        """Decode behaviour by ridge regression, and score it on trials that the decoder was not fitted on."""

        def begin(surroundings: Surroundings) -> Work:
            asked = begin_decoding(query, surroundings)
            return lambda: json_response(document(query, asked))

        return await asking.answer(find_group, query, shared_query(query), begin)

    for picture in ("png", "svg"):
        _add_picture(router, base, kind, find_group, picture)
    _add_predictions(router, base, kind, find_group)
    return router


def _add_picture(router: APIRouter, base: str, kind: str, find_group: FindGroup, picture: Kind) -> None:
    @router.get(
        f"{base}.{picture}",
        operation_id=f"draw_{kind}_decoding_{picture}",
        response_class=Response,
        responses=picture_answers(picture) | problem_responses(404, 409, 422),
    )
    async def draw_decoding(query: Annotated[DecodingQuery, Query()], asking: AskingDependency) -> Response:
        """Draw true and decoded behaviour of some trials that the decoder was not fitted on."""

        def begin(surroundings: Surroundings) -> Work:
            from api.analyses.pictures import draw_decoding as draw  # matplotlib takes a second to import

            asked = begin_decoding(query, surroundings)

            def work() -> Response:
                told = document(query, replace(asked, spikes=""))
                return picture_response(draw(told, asked.decoding, picture), picture)

            return work

        return await asking.answer(find_group, query, shared_query(query), begin, picture)


def _add_predictions(router: APIRouter, base: str, kind: str, find_group: FindGroup) -> None:
    @router.get(
        f"{base}/predictions",
        operation_id=f"read_{kind}_decoding_predictions",
        response_class=Response,
        responses={
            200: {
                "description": "The predictions, trials × time × components of the behaviour.",
                "model": ArrayValues,
                "content": {one.media_type: _BINARY for one in FORMATS if one.name != "json"},
            },
            **UNCHANGED,
            **problem_responses(404, 406, 409, 422),
        },
    )
    async def read_predictions(
        query: Annotated[PredictionsQuery, Query()],
        asking: AskingDependency,
        conditions: ConditionsDependency,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Response:
        """Read the behaviour as it is decoded, of trials that the decoder was not fitted on."""
        chosen = choose_format(query.format_, accept)
        shared = shared_query(query, "format_")

        def begin(surroundings: Surroundings) -> Work:
            asked = query.model_dump_json(exclude={"format_"}, exclude_defaults=True)
            decides = (VERSION, "predictions", asked, *what_decides(query.array, shared, surroundings))
            if (same := unchanged(chosen, decides, conditions, REVALIDATED)) is not None:
                return lambda: same
            decoding = begin_decoding(query, surroundings).decoding
            origin = find_origin(surroundings.session, asking.database, asking.arrays, surroundings.group)
            context = Context(asking.settings.json_max_elements, origin)

            def work() -> Response:
                predictions = decoding.predictions()
                return answer(
                    chosen,
                    predictions.name,
                    decides,
                    conditions,
                    REVALIDATED,
                    coding_of(predictions, chosen, conditions),
                    lambda: chosen.encode((predictions,), context),
                )

            return work

        return await asking.compute(find_group, begin)


@dataclass(frozen=True)
class AskedDecoding:
    """A question about behaviour, before it is answered.

    Attributes
    ----------
    decoding
        What is decoded from what.
    behaviours
        Names of all behaviours that the data set has.
    spikes
        Of the data set, to be decoded from for comparison; or why not. Empty where nobody wants it.
    """

    decoding: Decoding
    behaviours: list[str]
    spikes: Trajectories | str


def _array_of(query: DecodingQuery, surroundings: Surroundings) -> str:
    """Return the array that is decoded from; where none is named, the first that there is and that is small enough."""
    if "array" in query.model_fields_set:
        return query.array
    arrays = surroundings.group.opened(surroundings.store).arrays
    for name in ("rates", "factors", "spikes"):
        if name in arrays and arrays[name].shape[-1] <= MOST_FEATURES:
            return name
    return query.array


def begin_decoding(query: DecodingQuery, surroundings: Surroundings) -> AskedDecoding:
    """Look at a question about behaviour.

    Raises
    ------
    Invalid
        If it does not fit.
    """
    of_dataset = replace(surroundings, group=dataset_group(surroundings))
    behaviours = behaviours_in(of_dataset.group.open(surroundings.store))
    name = query.behaviour or (behaviours[0] if len(behaviours) == 1 else "")
    if name not in behaviours:
        came = "none is named" if query.behaviour is None else f"got {query.behaviour!r}"
        raise refusal(
            "behaviour",
            f"expected a behaviour of {of_dataset.group.owner}; {came}",
            f"it has {listed(behaviours)}" if behaviours else "it has none: upload behaviour with the spikes",
        )
    latents = ask_trajectories(_array_of(query, surroundings), shared_query(query), surroundings)
    asked = ArrayQuery.model_validate(
        {one: getattr(query, one) for one in _OF_BOTH if getattr(query, one) is not None}
    )
    behaviour = ask_trajectories(name, asked, of_dataset, "behaviour")
    _, groups = given_splits(surroundings.session, surroundings.group.dataset_id)
    width_s = bin_width_s(latents.array, surroundings) or 1.0
    decoding = Decoding(
        latents,
        behaviour,
        _lag_bins(query.lag_s, width_s),
        width_s,
        query.held_out,
        query.folds,
        query.seed,
        groups.take(latents.trials),
        split_of(latents.trials, surroundings) if query.held_out != "folds" else None,
    )
    is_of_model = surroundings.group.path != of_dataset.group.path
    is_wanted = is_of_model and query.baseline is not False
    return AskedDecoding(decoding, behaviours, spikes_of(decoding, asked, of_dataset) if is_wanted else "")


def _lag_bins(lag_s: float, width_s: float) -> int:
    bins = round(lag_s / width_s)
    if abs(lag_s - bins * width_s) > TOLERANCE * width_s:
        raise refusal(
            "lag_s",
            f"expected a whole multiple of the bin width, {width_s:g} s; got {lag_s:g}",
            f"{bins * width_s:g} is the nearest",
        )
    return bins


def document(query: DecodingQuery, asked: AskedDecoding) -> DecodingDocument:
    """Return the answer to a question about behaviour; decodes it."""
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
    """Return sentences about the score beside that of smoothed spikes."""
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
