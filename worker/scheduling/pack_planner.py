"""Which models train together: models of one architecture at the same epoch with the same target."""

import json
from collections.abc import Sequence
from itertools import pairwise

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from domain.states import JobState, SliceState
from store.settings import Settings
from store.tables import Job, Model, Slice
from store.workers import available_workers


def form_packs(
    session: Session, idle: Sequence[Model], busy: Sequence[Model], settings: Settings
) -> list[list[Model]]:
    """Divide the models that are to train into packs, and write the numbers of the packs.

    There are as few packs as `Settings.pack_models` allows, since on a GPU a pack takes hardly longer than one model. There are
    more while a worker would be idle and the job has less than its share of the workers. Where possible, packs do not change.

    Parameters
    ----------
    idle
        Models of the job that are to train and are in no slice.
    busy
        Models of the job in queued or running slices.
    """
    groups: dict[tuple[object, ...], list[Model]] = {}
    for model in idle:
        groups.setdefault(_kind(model), []).append(model)
    wanted = {kind: -(-len(members) // settings.pack_models) for kind, members in groups.items()}
    for _ in range(_spare_workers(session, sum(wanted.values()), len({model.pack for model in busy}))):
        kind = max(groups, key=lambda kind: len(groups[kind]) / wanted[kind])
        if wanted[kind] == len(groups[kind]):
            break
        wanted[kind] += 1
    taken = {model.pack for model in busy}
    unused = 1 + max((model.pack for model in (*idle, *busy)), default=0)
    packs = []
    for kind, members in groups.items():
        for pack in _divide(members, wanted[kind], settings.pack_models):
            number = pack[0].pack
            if number in taken:
                number, unused = unused, unused + 1
            taken.add(number)
            for model in pack:
                model.pack = number
            packs.append(pack)
    return packs


def _kind(model: Model) -> tuple[object, ...]:
    """Return what models must have in common to train together. A model whose pack failed first trains alone."""
    return (
        json.dumps(model.architecture, sort_keys=True),
        model.epochs_trained,
        model.target_epochs,
        model.checkpoint_key is None and model.start_key is None,
        model.refit_of,
        model.number if model.is_alone else -1,
    )


def _divide(members: Sequence[Model], packs: int, most: int) -> list[list[Model]]:
    there: dict[int, list[Model]] = {}
    for model in members:
        there.setdefault(model.pack, []).append(model)
    if len(there) == packs and all(len(pack) <= most for pack in there.values()):
        return list(there.values())
    in_order = [model for pack in there.values() for model in pack]
    ends = [len(in_order) * number // packs for number in range(packs + 1)]
    return [in_order[begin:end] for begin, end in pairwise(ends)]


def _spare_workers(session: Session, packs: int, busy_packs: int) -> int:
    """Return how many more packs the job may form: workers that would otherwise be idle, up to the job's share."""
    workers = len(available_workers(session))
    if workers <= 1:
        return 0
    active = Slice.state.in_([SliceState.QUEUED, SliceState.LEASED])
    slices = session.execute(select(func.count()).where(active)).scalar_one()
    training = Job.state.in_([JobState.QUEUED, JobState.RUNNING])
    jobs = session.execute(select(func.count()).where(training)).scalar_one()
    share = -(-workers // max(1, jobs)) - busy_packs
    return max(0, min(workers - slices, share) - packs)
