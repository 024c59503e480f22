"""Which trials the rows of an array are, and which trials a split or conditions on their metadata select."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.group import ArrayGroup
from api.arrays.labelled import LabelledArray
from api.arrays.labels import label_problem
from api.arrays.trial_conditions import trial_conditions
from domain.split_groups import SPLITS
from store.tables import Trial

_TRIAL_DIM = re.compile(r"trial(_[0-9]+)?")
"""That of the only session of a data set, or of one of several."""


def trial_numbers(array: LabelledArray, parameter: str) -> tuple[str, NDArray[np.int64]]:
    """The dim of trials of an array, and which trial of the data set each entry is.

    Raises
    ------
    Invalid
        If it has no trials.
    """
    dim = next((dim for dim in array.dims if _TRIAL_DIM.fullmatch(dim)), None)
    if dim is None:
        dims = ", ".join(array.dims) or "none"
        raise label_problem(parameter, f"{array.name} has no dim of trials; its dims are {dims}")
    index = array.index(dim)
    return dim, np.arange(array.shape[array.dims.index(dim)]) if index is None else index.values


def trials_where(given: list[str], dataset_id: str, session: Session) -> NDArray[np.int64]:
    """Trials of a data set of which conditions hold.

    Raises
    ------
    Invalid
        If they can't be read or do not fit the metadata.
    """
    query = select(Trial.trial).where(Trial.dataset_id == dataset_id)
    query = query.where(*trial_conditions(session, dataset_id, given))
    return np.fromiter(session.execute(query).scalars(), np.int64)


def trials_of_splits(
    given: Sequence[str], group: ArrayGroup, store: Store, session: Session
) -> NDArray[np.int64]:
    """Trials of some splits: of latents those of the job, of a data set those that came with it.

    Raises
    ------
    Invalid
        If there is no such split, or none came with the data set.
    """
    wanted = [item.strip() for item in ",".join(given).split(",")]
    for name in wanted:
        if name not in SPLITS:
            raise label_problem("split", f"expected {', '.join(SPLITS)}, or several of them; got {name!r}")
    opened = group.opened(store)
    if "model_id" in opened.group.attrs and "split" in opened.arrays:
        meanings = str(opened.arrays["split"].attrs["flag_meanings"]).split()
        codes = [meanings.index(name) for name in wanted if name in meanings]
        numbers = (
            opened.values("trial") if "trial" in opened.arrays else np.arange(opened.arrays["split"].shape[0])
        )
        return numbers[np.isin(opened.values("split"), codes)]
    of_dataset = select(Trial.trial, Trial.split).where(Trial.dataset_id == group.dataset_id)
    rows = session.execute(of_dataset.where(Trial.split.is_not(None))).all()
    if not rows:
        message = "no split came with the data set; each job makes its own"
        raise label_problem("split", message, "ask for the arrays of a model")
    return np.array([trial for trial, split in rows if split in wanted], np.int64)
