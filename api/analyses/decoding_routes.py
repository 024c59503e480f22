"""Routes of behaviour decoded from latents."""

from dataclasses import replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Header, Query, Response

from api.analyses.asking import (
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
from api.analyses.conditions import split_of
from api.analyses.decoding import TOLERANCE, Decoding, behaviours_in
from api.analyses.schemas import DecodingDocument, DecodingQuery, PredictionsQuery, Tested
from api.analyses.trajectories import ask_trajectories, shared_query
from api.arrays.answering import ConditionsDependency, answer, coding_of, unchanged
from api.arrays.formats import FORMATS, Context, choose_format
from api.arrays.group import FindGroup
from api.arrays.origin import find_origin
from api.arrays.query import ArrayQuery, what_decides
from api.arrays.schemas import ArrayValues
from api.arrays.service import REVALIDATED
from api.arrays.transformations.surroundings import Surroundings
from api.arrays.transformations.time_axis import bin_width_s
from api.arrays.transformations.wording import listed, refusal
from api.errors import problem_responses

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
            decoding, behaviours = begin_decoding(query, surroundings)
            return lambda: json_response(document(query, decoding, behaviours))

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

            decoding, behaviours = begin_decoding(query, surroundings)

            def work() -> Response:
                told = document(query, decoding, behaviours)
                return picture_response(draw(told, decoding, picture), picture)

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
            decoding, _ = begin_decoding(query, surroundings)
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


def begin_decoding(query: DecodingQuery, surroundings: Surroundings) -> tuple[Decoding, list[str]]:
    """Look at a question about behaviour; also the names of all behaviours there are.

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
    latents = ask_trajectories(query.array, shared_query(query), surroundings)
    asked = {one: getattr(query, one) for one in _OF_BOTH if getattr(query, one) is not None}
    behaviour = ask_trajectories(name, ArrayQuery.model_validate(asked), of_dataset, "behaviour")
    width_s = bin_width_s(latents.array, surroundings) or 1.0
    decoding = Decoding(
        latents,
        behaviour,
        _lag_bins(query.lag_s, width_s),
        width_s,
        query.held_out,
        query.folds,
        query.seed,
        split_of(latents.trials, surroundings) if query.held_out == "valid" else None,
    )
    return decoding, behaviours


def _lag_bins(lag_s: float, width_s: float) -> int:
    bins = round(lag_s / width_s)
    if abs(lag_s - bins * width_s) > TOLERANCE * width_s:
        raise refusal(
            "lag_s",
            f"expected a whole multiple of the bin width, {width_s:g} s; got {lag_s:g}",
            f"{bins * width_s:g} is the nearest",
        )
    return bins


def document(query: DecodingQuery, decoding: Decoding, behaviours: list[str]) -> DecodingDocument:
    """What a question about behaviour is answered; decodes it."""
    found = decoding.decoded
    known = found.r2[np.isfinite(found.r2)]
    return DecodingDocument(
        array=query.array,
        behaviour=decoding.behaviour.array.name,
        lag_s=query.lag_s,
        held_out=query.held_out,
        folds=query.folds,
        r2=float(known.mean()) if len(known) else None,
        r2_of_components=or_none(found.r2.tolist()),
        alphas=[one.alpha for one in found.fitted],
        features=decoding.latents.components,
        tested=Tested(
            trials=len(decoding.tested_rows),
            fitted_bins=found.train_samples,
            tested_bins=found.test_samples,
        ),
        behaviours=behaviours,
    )
