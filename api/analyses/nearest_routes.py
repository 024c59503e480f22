"""Routes of the nearest trials and states."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from fastapi import APIRouter, Query, Response
from numpy.typing import NDArray

from api.analyses.analysis_request import UNCHANGED, Asking, AskingDependency, Work, json_response
from api.analyses.conditions import details_of, split_of
from api.analyses.nearest import Nearest, nearest_states, nearest_trials, trajectory_of
from api.analyses.schemas import (
    Asked,
    NearestDocument,
    NearestOfOne,
    NearestQuery,
    NearestToTrialQuery,
    Neighbour,
    Vectors,
)
from api.analyses.trajectories import Trajectories, ask_trajectories, is_transformed, shared_query
from api.arrays.group import FindGroup
from api.arrays.query import ArrayQuery, ask
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.trials import trials_of
from api.arrays.transformations.wording import refusal
from api.errors import problem_responses

if TYPE_CHECKING:
    from api.analyses.index import StateIndexes

Floats = NDArray[np.float64]


def make_nearest_router(kind: str, plural: str, find_group: FindGroup) -> APIRouter:
    """Routes of the nearest of one kind of resource; parameters as `api.arrays.routes.make_router`'s."""
    router = APIRouter(tags=["analyses"])
    base = "/v1/" + plural + "/{owner_id}/nearest"

    @router.get(
        base,
        operation_id=f"find_{kind}_nearest",
        response_model=NearestDocument,
        responses=UNCHANGED | problem_responses(404, 409, 422),
    )
    async def find_nearest(
        query: Annotated[NearestToTrialQuery, Query()], asking: AskingDependency
    ) -> Response:
        """Find the trials nearest to a trial, or the states nearest to its state at a time."""

        def begin(surroundings: Surroundings) -> Work:
            search = Search.begin(query, surroundings, asking)
            if query.time_s is None:
                return lambda: search.response(*search.nearest_to_trial(query))
            return lambda: search.response(*search.nearest_to_state(query))

        # An index may find the same with other last digits, so equal answers need not be equal bytes.
        shared = shared_query(query, "trial", "time_s")
        return await asking.answer(find_group, query, shared, begin, is_weak=True)

    @router.post(
        base,
        operation_id=f"find_{kind}_nearest_to_vectors",
        response_model=NearestDocument,
        responses=problem_responses(400, 404, 409, 413, 415, 422),
    )
    async def find_nearest_to_vectors(
        query: Annotated[NearestQuery, Query()], vectors: Vectors, asking: AskingDependency
    ) -> Response:
        """Find the states nearest to vectors, or the trials where an array has no time."""

        def begin(surroundings: Surroundings) -> Work:
            search = Search.begin(query, surroundings, asking)
            return lambda: search.response(*search.nearest_to_vectors(vectors.all))

        return await asking.compute(find_group, begin)

    return router


@dataclass(frozen=True)
class Search:
    """A search for what is nearest.

    Attributes
    ----------
    query
        What is asked.
    trajectories
        All of them: principal components and the like are those of all trials, whichever are looked among.
    candidates
        [rows] trials that are looked among.
    indexes
        Where an index of the states may be; None if the question is not for one.
    split
        [rows] of each trial; None where there is none.
    row, alone
        Of the trial that is asked about, and its trajectory by itself; None where it hangs on the others.
    surroundings, asking
        Where the trajectories and the metadata of their trials are.
    """

    query: NearestQuery
    trajectories: Trajectories
    candidates: NDArray[np.bool_]
    indexes: "StateIndexes | None"
    split: NDArray[np.str_] | None
    row: int | None
    alone: Trajectories | None
    surroundings: Surroundings
    asking: Asking

    @classmethod
    def begin(cls, query: NearestQuery, surroundings: Surroundings, asking: Asking) -> "Search":
        """Look at a question.

        Raises
        ------
        Invalid
            If it does not fit.
        """
        shared = shared_query(query, "where", "split", "trial", "time_s")
        trajectories = ask_trajectories(query.array, shared, surroundings)
        chosen = ArrayQuery(where=query.where, split=query.split)
        among = trials_of(ask(query.array, chosen, surroundings)[0], "array")
        is_plain = not (query.where or query.split or is_transformed(shared)) and query.metric == "euclidean"
        is_large = trajectories.array.nbytes >= asking.settings.nearest_index_bytes
        indexes = None
        if is_plain and is_large and trajectories.time_s is not None:
            from api.analyses.index import indexes_in  # faiss takes half a second to import

            folder = asking.settings.data_dir / "indexes"
            indexes = indexes_in(folder, asking.settings.nearest_index_max_bytes)
        is_candidate = np.isin(trajectories.trials, among)
        split = split_of(trajectories.trials, surroundings)
        row = alone = None
        if isinstance(query, NearestToTrialQuery):
            row = _row_of(query.trial, trajectories)
            if not is_transformed(shared):
                by_itself = ArrayQuery.model_validate({"slice": f"{row}:{row + 1}"})
                alone = ask_trajectories(query.array, by_itself, surroundings)
        return cls(query, trajectories, is_candidate, indexes, split, row, alone, surroundings, asking)

    def nearest_to_trial(self, query: NearestToTrialQuery) -> tuple[list[Asked], list[Nearest], bool, bool]:
        """The trials nearest to a trial."""
        its = self._trajectory()
        if not np.isfinite(its).all(1).any():
            raise refusal("trial", f"trial {query.trial} has no values in the bins that are asked for")
        found = nearest_trials(self.trajectories, self.candidates, its, query.k, query.metric, self.row)
        return [Asked(trial=query.trial)], [found], True, True

    def nearest_to_state(self, query: NearestToTrialQuery) -> tuple[list[Asked], list[Nearest], bool, bool]:
        """The states nearest to that of a trial at a time."""
        place = self._bin(query.time_s or 0.0)
        time_s = self.trajectories.time_s
        assert time_s is not None
        state = self._trajectory()[place]
        if not np.isfinite(state).all():
            raise refusal("time_s", f"trial {query.trial} has no values at {query.time_s:g} s")
        found, exact = self._states(state[None], self.row if query.exclude_own_trial else None)
        return [Asked(trial=query.trial, time_s=float(time_s[place]))], found, False, exact

    def nearest_to_vectors(
        self, vectors: Sequence[Sequence[float]]
    ) -> tuple[list[Asked], list[Nearest], bool, bool]:
        """The states nearest to vectors; the trials where there is no time."""
        wanted = self.trajectories.components
        for number, vector in enumerate(vectors):
            if len(vector) != wanted:
                raise refusal(
                    "vectors",
                    f"expected {wanted} numbers, one for each component of {self.query.array}; "
                    f"vector {number} has {len(vector)}",
                )
        found, exact = self._states(np.array(vectors, np.float64), None)
        asked = [Asked(vector=number) for number in range(len(vectors))]
        return asked, found, self.trajectories.time_s is None, exact

    def _states(self, vectors: Floats, left_out: int | None) -> tuple[list[Nearest], bool]:
        k = self.query.k
        if self.indexes is not None:
            path, name = self.surroundings.group.path, self.query.array
            index = self.indexes.find(path, name)
            if index is None:
                self.indexes.begin(path, name, self.trajectories)
            else:
                bins = self.trajectories.bins
                ids = range(0) if left_out is None else range(left_out * bins, (left_out + 1) * bins)
                found = index.search(vectors, k, ids)
                if all(len(distances) == k for distances, _ in found):
                    return [Nearest(k, distances, positions) for distances, positions in found], False
        return (
            nearest_states(self.trajectories, self.candidates, vectors, k, self.query.metric, left_out),
            True,
        )

    def _trajectory(self) -> Floats:
        """[bins, D] of the trial that is asked about."""
        if self.alone is not None:
            return trajectory_of(self.alone, 0)
        assert self.row is not None
        return trajectory_of(self.trajectories, self.row)

    def _bin(self, wanted_s: float) -> int:
        """The bin that a time lies in."""
        time_s = self.trajectories.time_s
        if time_s is None or not len(time_s):
            raise refusal("time_s", f"{self.query.array} has no time", "leave time_s out: the nearest trials")
        width_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else np.inf
        place = int(np.searchsorted(time_s, wanted_s + 1e-6 * width_s, "right")) - 1
        if place < 0 or wanted_s >= time_s[place] + width_s:
            raise refusal(
                "time_s",
                f"expected a time of {self.query.array}, {time_s[0]:g} to {time_s[-1] + width_s:g} s; got {wanted_s:g}",
            )
        return place

    def response(self, asked: list[Asked], found: list[Nearest], are_trials: bool, exact: bool) -> Response:
        """What was found, with what is known of its trials."""
        bins = 1 if are_trials else self.trajectories.bins
        rows = [nearest.positions // bins for nearest in found]
        trials = sorted({int(self.trajectories.trials[row]) for one in rows for row in one})
        with self.asking.database.read() as session:
            details = details_of(session, self.surroundings.group.dataset_id, trials)
        split = self.split
        time_s = None if are_trials else self.trajectories.time_s
        answers = [
            NearestOfOne(
                asked=one,
                nearest=[
                    Neighbour(
                        trial=int(self.trajectories.trials[row]),
                        time_s=None if time_s is None else float(time_s[position % bins]),
                        distance=float(distance),
                        split=(str(split[row]) or None) if split is not None else None,
                        details=details.get(int(self.trajectories.trials[row]), {}),
                    )
                    for row, position, distance in zip(
                        of_one, nearest.positions, nearest.distances, strict=True
                    )
                ],
            )
            for one, nearest, of_one in zip(asked, found, rows, strict=True)
        ]
        return json_response(
            NearestDocument(
                array=self.query.array,
                metric=self.query.metric,
                of="trials" if are_trials else "states",
                exact=exact,
                units="" if self.query.metric == "cosine" else self.trajectories.array.units,
                answers=answers,
            )
        )


def _row_of(trial: int, trajectories: Trajectories) -> int:
    rows, trials = np.flatnonzero(trajectories.trials == trial), trajectories.trials
    if not len(rows):
        told = f"{trials.min()} to {trials.max()}" if len(trials) else "none"
        raise refusal("trial", f"{trajectories.array.name} has no trial {trial}; it has {told}")
    return int(rows[0])
