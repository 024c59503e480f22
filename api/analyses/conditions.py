"""Which condition each trial is of, by the metadata of the trials."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.analyses.trajectories import Trajectories
from api.arrays.chosen_trials import trials_of_splits
from api.arrays.transformations.context import Surroundings
from api.arrays.transformations.trials import column
from api.arrays.transformations.wording import refusal
from api.arrays.trial_conditions import condition_candidates, condition_name, metadata_kinds
from api.errors import Invalid
from domain.split_groups import SPLITS
from store.tables import Trial

Value = str | int | float | bool

MOST_CONDITIONS = 200


def conditions_of(
    trajectories: Trajectories, by: str | None, surroundings: Surroundings
) -> tuple[str, list[Value], NDArray[np.int64]]:
    """Group the rows of trajectories by metadata of their trials, or by the split of the job.

    Returns
    -------
    name
        Of the metadata: `by`, or what it stands for, see `api.arrays.trial_conditions.condition_name`.
    conditions
        Its different values, in order.
    codes
        [rows] which of them each row has; -1 for none.

    Raises
    ------
    Invalid
        If the trials have no such metadata, or too many values of it; the message tells which there are.
    """
    of_rows: list[Any]
    session, dataset_id = surroundings.session, surroundings.group.dataset_id
    if (by := condition_name(session, dataset_id, by)) is None:
        there = ", ".join(metadata_kinds(session, dataset_id)) or "none"
        raise refusal(
            "by",
            "expected the metadata whose values are the conditions; no metadata of these trials look like conditions",
            f"name some with by=; their metadata: {there}",
        )
    if by == "split" and (split := split_of(trajectories.trials, surroundings)) is not None:
        of_rows = [one or None for one in split.tolist()]
    else:
        values = column(surroundings, by, "by")
        of_rows = [values.get(int(trial)) for trial in trajectories.trials]
    of_rows = [value if isinstance(value, Value) and value == value else None for value in of_rows]  # no NaN
    found = Counter(value for value in of_rows if value is not None)
    if not 2 <= len(found) <= MOST_CONDITIONS:
        raise refusal(
            "by",
            f"expected 2 to {MOST_CONDITIONS} conditions; the selected trials have {len(found)} values of {by!r}",
            f"choose other metadata, or other trials{_others(condition_candidates(session, dataset_id), by)}",
        )
    conditions = sorted(found, key=lambda value: (isinstance(value, str), value))
    place = {value: code for code, value in enumerate(conditions)}
    return by, conditions, np.array([-1 if value is None else place[value] for value in of_rows], np.int64)


def _others(candidates: list[str], by: str) -> str:
    others = [name for name in candidates if name != by]
    return f"; conditions may be: {', '.join(others)}" if others else ""


def split_of(trials: NDArray[np.int64], surroundings: Surroundings) -> NDArray[np.str_] | None:
    """[rows] split of each trial, by the job or else as it came with the data set: `train`, `valid`, `test`, or nothing.

    None where no trial has one.
    """
    found = np.full(len(trials), "", dtype="U5")
    for name in SPLITS:
        try:
            chosen = trials_of_splits([name], surroundings.group, surroundings.store, surroundings.session)
        except Invalid:
            return None
        found[np.isin(trials, chosen)] = name
    return found


def details_of(session: Session, dataset_id: str, trials: Sequence[int]) -> Mapping[int, dict[str, Any]]:
    """The metadata of some trials."""
    asked = select(Trial.trial, Trial.details).where(Trial.dataset_id == dataset_id, Trial.trial.in_(trials))
    return {row.trial: row.details for row in session.execute(asked)}
