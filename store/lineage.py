"""The lineage of a model: which models trained its weights, from epoch to epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from domain.search_space import Value
from store.tables import Decision, Model

OWN_LOSS = "own_smoothed_sv_loss"
"""Score of a model of a population: its lowest smoothed SV loss since its last copy; None before it has trained again."""


@dataclass(frozen=True)
class Segment:
    """Epochs that one model trained with the same hyperparameters.

    Parameters
    ----------
    model_number
        The model that trained them.
    from_epoch
        Number of epochs before the segment.
    to_epoch
        Number of epochs at its end, where another model copied it; None for the last segment.
    hyperparameters
        By name, with the searched sizes.
    reason
        Why the segment began.
    """

    model_number: int
    from_epoch: int
    to_epoch: int | None
    hyperparameters: dict[str, Value]
    reason: str


def lineage(decisions: Sequence[Decision], number: int) -> list[Segment]:
    """Follow a model back through the models that it copied, and that those copied.

    Parameters
    ----------
    decisions
        Decisions of the job, in order.
    number
        Number of the model.

    Returns
    -------
    list of Segment
        From the first epoch on; empty if there is no decision about the model.
    """
    segments: list[Segment] = []
    current: int | None = number
    end: int | None = None
    while current is not None:
        # All copies of a generation are made at the same time, so a copied model is as it was before that epoch.
        own = [one for one in decisions if one.model_number == current and (end is None or one.epoch < end)]
        starts = [place for place, one in enumerate(own) if one.kind in ("begin", "copy")]
        if not starts:
            break
        start = own[starts[-1]]
        changes = [
            start
        ]  # a refit changes its hyperparameters between epochs, as the model that it repeats did
        for one in own[starts[-1] + 1 :]:
            if one.kind == "continue" and one.hyperparameters != changes[-1].hyperparameters:
                changes.append(one)
        for change in reversed(changes):
            segments.append(Segment(current, change.epoch, end, change.hyperparameters, change.reason))
            end = change.epoch
        current = start.parent_number
    return segments[::-1]


def is_inherited(model: Model) -> bool:
    """Return whether another model trained the best weights of this one."""
    return model.trained_by not in (None, model.number)


def selection_order(model: Model) -> tuple[float, bool, int]:
    """Return the key that orders models from the best to the worst.

    The lowest smoothed SV loss comes first. If several models hold the same best weights, the one that trained them comes before
    those that copied them.
    """
    loss = math.inf if model.smoothed_sv_loss is None else model.smoothed_sv_loss
    return loss, is_inherited(model), model.number


def without_copies(models: Sequence[Model]) -> list[Model]:
    """Return the models in their order, without those that hold the same best weights as an earlier one."""
    kept: dict[object, Model] = {}
    for model in models:
        weights = model.id if model.trained_by is None else (model.trained_by, model.best_epoch)
        kept.setdefault(weights, model)
    return list(kept.values())
