"""The lineage of a model: whose weights it has, from epoch to epoch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from store.tables import Decision, Model

OWN_LOSS = "own_smoothed_sv_loss"
"""Score of a model of a population: its lowest smoothed SV loss since it last copied another; None until it has trained on."""


@dataclass(frozen=True)
class Segment:
    """Epochs that were trained by one model with unchanged hyperparameters.

    Parameters
    ----------
    model_number
        Who trained them.
    from_epoch
        Epochs trained before.
    to_epoch
        Epochs trained at its end, when another model copied it; None for the last segment.
    hyperparameters
        By name, with searched sizes.
    reason
        Why it began.
    """

    model_number: int
    from_epoch: int
    to_epoch: int | None
    hyperparameters: dict[str, float]
    reason: str


def lineage(decisions: Sequence[Decision], number: int) -> list[Segment]:
    """Follow a model back through the models that it, or whom it copied, copied.

    Parameters
    ----------
    decisions
        Of the job, in order.
    number
        Of the model.

    Returns
    -------
    list of Segment
        From the first epoch on; empty if nothing was decided about the model.
    """
    segments: list[Segment] = []
    current: int | None = number
    end: int | None = None
    while current is not None:
        # Copies of one generation are made at once: whoever was copied at an epoch is what it was before.
        own = [one for one in decisions if one.model_number == current and (end is None or one.epoch < end)]
        starts = [place for place, one in enumerate(own) if one.kind in ("begin", "copy")]
        if not starts:
            break
        start = own[starts[-1]]
        changes = [start]  # a refit changes its hyperparameters on the way, as the model that it follows did
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

    The lowest smoothed SV loss comes first. Where several models hold the same best weights, the one that trained them comes
    before those that copied them.
    """
    loss = math.inf if model.smoothed_sv_loss is None else model.smoothed_sv_loss
    return loss, is_inherited(model), model.number


def without_copies(models: Sequence[Model]) -> list[Model]:
    """Return the models, in their order, without those that hold the same best weights as one before them."""
    kept: dict[object, Model] = {}
    for model in models:
        weights = model.id if model.trained_by is None else (model.trained_by, model.best_epoch)
        kept.setdefault(weights, model)
    return list(kept.values())
