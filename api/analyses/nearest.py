"""Routes of the nearest trials and states: exact, by comparing all of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from api.analyses.analysis_request import AnalysisRequest, RequestDependency, Work, json_response
from api.analyses.schemas import (
    Asked,
    NearestDocument,
    NearestOfOne,
    NearestQuery,
    NearestToTrialQuery,
    Neighbour,
    Vectors,
)
from api.analyses.trajectories import (
    Trajectories,
    metadata_of,
    query_trajectories,
    shared_query,
    split_of,
)
from api.arrays.axes import trials_of
from api.arrays.groups import ArrayResource, ReadContext
from api.arrays.messages import invalid_parameter
from api.arrays.query import ArrayQuery, query_array
from api.errors import problem_responses
from api.http.http_cache import NOT_MODIFIED
from api.json_bodies import NumbersRoute
from domain.scores.distances import Nearest, nearest_states, nearest_trials

Floats = NDArray[np.float64]


def make_nearest_router(resource: ArrayResource) -> APIRouter:
    """Return the routes of the nearest trials and states of one kind of resource."""
    router = APIRouter(tags=["analyses"], route_class=NumbersRoute)
    base = "/v1/" + resource.plural + "/{owner_id}/nearest"

    @router.get(
        base,
        operation_id=f"find_{resource.kind}_nearest",
        response_model=NearestDocument,
        responses=NOT_MODIFIED | problem_responses(404, 409, 422),
    )
    async def find_nearest(
        query: Annotated[NearestToTrialQuery, Query()], request: RequestDependency
    ) -> Response:
        """Find the trials nearest to a trial, or the states nearest to its state at a time."""

        def begin(context: ReadContext) -> Work:
            search = Search.begin(query, context, request)
            return search.nearest_to_trial if query.time_s is None else search.nearest_to_state

        shared = shared_query(query, "trial", "time_s")
        return await request.answer(resource, query, shared, begin)

    @router.post(
        base,
        operation_id=f"find_{resource.kind}_nearest_to_vectors",
        response_model=NearestDocument,
        responses=problem_responses(400, 404, 409, 413, 415, 422),
    )
    async def find_nearest_to_vectors(
        query: Annotated[NearestQuery, Query()], vectors: Vectors, request: RequestDependency
    ) -> Response:
        """Find the states nearest to vectors, or the trials where an array has no time."""

        def begin(context: ReadContext) -> Work:
            search = Search.begin(query, context, request)
            return lambda: search.nearest_to_vectors(vectors.all)

        return await request.compute(resource, begin)

    return router


@dataclass(frozen=True)
class Search:
    """A search for the nearest trials or states.

    Attributes
    ----------
    query
        The request.
    trajectories
        All trials: principal components and the like are those of all trials, whichever are candidates.
    candidates
        bool [rows], trials to search.
    split
        [rows], split of each trial; None where there is none.
    row, alone
        Row of the given trial, and its trajectory by itself; None where it depends on the other trials.
    context, request
        Where the trajectories and the metadata of their trials are.
    """

    query: NearestQuery
    trajectories: Trajectories
    candidates: NDArray[np.bool_]
    split: NDArray[np.str_] | None
    row: int | None
    alone: Trajectories | None
    context: ReadContext
    request: AnalysisRequest

    @classmethod
    def begin(cls, query: NearestQuery, context: ReadContext, request: AnalysisRequest) -> "Search":
        """Return the search that a request describes.

        Raises
        ------
        Invalid
            If the request does not fit the array.
        """
        shared = shared_query(query, "where", "split", "trial", "time_s")
        trajectories = query_trajectories(query.array, shared, context)
        chosen = ArrayQuery(where=query.where, split=query.split)
        among = trials_of(query_array(query.array, chosen, context)[0], "array")
        candidates = np.isin(trajectories.trials, among)
        split = split_of(trajectories.trials, context)
        row = alone = None
        if isinstance(query, NearestToTrialQuery):
            row = _row_of(query.trial, trajectories)
            if not shared.is_transformation:
                by_itself = ArrayQuery.model_validate({"slice": f"{row}:{row + 1}"})
                alone = query_trajectories(query.array, by_itself, context)
        return cls(
            query,
            trajectories,
            candidates,
            split=split,
            row=row,
            alone=alone,
            context=context,
            request=request,
        )

    def nearest_to_trial(self) -> Response:
        """Return the trials nearest to the given trial."""
        query = self.query
        assert isinstance(query, NearestToTrialQuery)
        trajectory = self._trajectory()
        if not np.isfinite(trajectory).all(1).any():
            raise invalid_parameter(
                "trial", f"trial {query.trial} has no values in the bins that are asked for"
            )
        found = nearest_trials(
            self.trajectories, self._without(self.row), trajectory, k=query.k, metric=query.metric
        )
        return self._response([Asked(trial=query.trial)], [found], are_trials=True)

    def nearest_to_state(self) -> Response:
        """Return the states nearest to that of the given trial at the given time."""
        query, time_s = self.query, self.trajectories.time_s
        assert isinstance(query, NearestToTrialQuery)
        place = self._bin(query.time_s or 0.0)
        assert time_s is not None
        state = self._trajectory()[place]
        if not np.isfinite(state).all():
            raise invalid_parameter("time_s", f"trial {query.trial} has no values at {query.time_s:g} s")
        candidates = self._without(self.row if query.exclude_own_trial else None)
        found = nearest_states(self.trajectories, candidates, state[None], k=query.k, metric=query.metric)
        asked = Asked(trial=query.trial, time_s=float(time_s[place]))
        return self._response([asked], found, are_trials=False)

    def nearest_to_vectors(self, vectors: Sequence[Sequence[float]]) -> Response:
        """Return the states nearest to vectors; the trials where the array has no time."""
        query, wanted = self.query, self.trajectories.components
        for number, vector in enumerate(vectors):
            if len(vector) != wanted:
                raise invalid_parameter(
                    "vectors",
                    f"expected {wanted} numbers, one for each component of {query.array}; "
                    f"vector {number} has {len(vector)}",
                )
        states = np.array(vectors, np.float64)
        found = nearest_states(self.trajectories, self.candidates, states, k=query.k, metric=query.metric)
        asked = [Asked(vector=number) for number in range(len(vectors))]
        return self._response(asked, found, are_trials=self.trajectories.time_s is None)

    def _without(self, row: int | None) -> NDArray[np.bool_]:
        """Return the candidates without one row."""
        kept = self.candidates.copy()
        if row is not None:
            kept[row] = False
        return kept

    def _trajectory(self) -> Floats:
        """Return the states of the given trial, [bins, D]."""
        trajectories, row = (self.trajectories, self.row) if self.alone is None else (self.alone, 0)
        assert row is not None
        for rows, values in trajectories.blocks():
            if row < rows.stop:
                return np.asarray(values[row - rows.start])
        raise IndexError(row)

    def _bin(self, wanted_s: float) -> int:
        """Return the bin that contains a time."""
        time_s = self.trajectories.time_s
        if time_s is None or not len(time_s):
            raise invalid_parameter(
                "time_s", f"{self.query.array} has no time", "leave time_s out: the nearest trials"
            )
        width_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else np.inf
        place = int(np.searchsorted(time_s, wanted_s + 1e-6 * width_s, "right")) - 1
        if place < 0 or wanted_s >= time_s[place] + width_s:
            raise invalid_parameter(
                "time_s",
                f"expected a time of {self.query.array}, {time_s[0]:g} to {time_s[-1] + width_s:g} s; got {wanted_s:g}",
            )
        return place

    def _response(self, asked: list[Asked], found: list[Nearest], *, are_trials: bool) -> Response:
        """Return what was found, with the metadata of its trials."""
        bins = 1 if are_trials else self.trajectories.bins
        trials, time_s = self.trajectories.trials, None if are_trials else self.trajectories.time_s
        rows = np.concatenate([nearest.positions // bins for nearest in found])
        with self.request.service.database.read() as session:
            context = replace(self.context, session=session)
            details = metadata_of(context, np.unique(trials[rows]).tolist())

        def neighbour(position: int, distance: float) -> Neighbour:
            row = position // bins
            trial = int(trials[row])
            return Neighbour(
                trial=trial,
                time_s=None if time_s is None else float(time_s[position % bins]),
                distance=distance,
                split=None if self.split is None else str(self.split[row]) or None,
                details=details.get(trial, {}),
            )

        answers = [
            NearestOfOne(
                asked=one,
                nearest=list(map(neighbour, nearest.positions.tolist(), nearest.distances.tolist())),
            )
            for one, nearest in zip(asked, found, strict=True)
        ]
        return json_response(
            NearestDocument(
                array=self.query.array,
                metric=self.query.metric,
                of="trials" if are_trials else "states",
                units="" if self.query.metric == "cosine" else self.trajectories.array.units,
                answers=answers,
            )
        )


def _row_of(trial: int, trajectories: Trajectories) -> int:
    rows, trials = np.flatnonzero(trajectories.trials == trial), trajectories.trials
    if not len(rows):
        told = f"{trials.min()} to {trials.max()}" if len(trials) else "none"
        raise invalid_parameter("trial", f"{trajectories.array.name} has no trial {trial}; it has {told}")
    return int(rows[0])
