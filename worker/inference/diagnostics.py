"""Diagnostics of a job: whether its models leak, and what its scores are worth. Computed when the job ends."""

from typing import Any

from domain.job_specification import JobSpecification
from domain.read_bins import leaves_unread
from domain.scores import ReferenceLosses, validation_disagreement
from domain.search_space import Range
from domain.states import ModelState
from domain.strategies import PbtStrategy
from store.tables import Model
from worker.context.slices import Work
from worker.inference.leaks import is_in_ramp, leak_warnings, losses_of, ramp_warning

PREDICTED_ONLY = (
    "held_out_neurons or encoded_bins leave samples that no model reads. The SV loss has them too, the validation loss has "
    "not, so a gap between them is no sign of a leak: which models leak is not judged."
)


def diagnose(work: Work, models: list[Model], reference: ReferenceLosses) -> dict[str, Any]:
    """Compare SV and ordinary validation over the models of a job, at the kept weights and at the last epoch of each.

    Parameters
    ----------
    work
        The slice of inference.
    models
        Of the job's search, by number. All are judged that have losses, also those that were stopped early; not those
        that diverged.
    reference
        Losses of constant rates.

    Returns
    -------
    dict
        The document `diagnostics` of the job.
    """
    selected = next(model for model in models if model.id == work.job.selected_model_id)
    judged = [model for model in models if model.state != ModelState.DIVERGED and _has_losses(model)]
    found = validation_disagreement([losses_of(model) for model in judged], reference)
    is_judged = not leaves_unread(work.architecture(), work.dataset.bins or 0)
    warnings = leak_warnings(found, judged, selected, reference, work.specification) if is_judged else []
    leaks = is_judged and selected.number in (*found.leaking, *found.leaking_later)
    if (of_ramp := ramp_warning(selected, leaks, work.specification)) is not None:
        warnings.append(of_ramp)
    warnings += beyond_ranges(work.specification, selected)
    shares = zip(judged, found.lost_shares, found.last_lost_shares, strict=True)
    return {
        "rank_correlation": found.rank_correlation,
        "leaking": list(found.leaking) if is_judged else None,
        "leaking_later": list(found.leaking_later) if is_judged else None,
        "best_by_sv": found.best_by_sv,
        "best_by_validation_loss": found.best_by_validation_loss,
        "selected": selected.number,
        "is_best_epoch_in_ramp": is_in_ramp(selected, work.specification),
        "constant_sv_loss": reference.sv_loss,
        "constant_validation_loss": reference.validation_loss,
        "warning": " ".join(warnings) or None,
        "note": None if is_judged else PREDICTED_ONLY,
        "models": [
            _of_model(model, *((share, last_share) if is_judged else (None, None)))
            for model, share, last_share in shares
        ],
    }


def _of_model(model: Model, lost_share: float | None, last_lost_share: float | None) -> dict[str, Any]:
    losses = losses_of(model)
    gap = None
    if losses.sv_loss is not None and losses.validation_loss is not None:
        gap = losses.sv_loss - losses.validation_loss
    return {
        "number": model.number,
        "best_epoch": model.scores.get("best_epoch"),
        "sv_loss": losses.sv_loss,
        "validation_loss": losses.validation_loss,
        "gap": gap,
        "lost_share": lost_share,
        "last_epoch": model.epochs_trained,
        "last_sv_loss": losses.last_sv_loss,
        "last_validation_loss": losses.last_validation_loss,
        "last_lost_share": last_lost_share,
    }


def beyond_ranges(specification: JobSpecification, selected: Model) -> list[str]:
    """Return in words which hyperparameters of the selected model's kept weights lie beyond their ranges; empty if none does."""
    found = []
    for name, values in specification.searched_space().items():
        value = selected.shown_hyperparameters.get(name)
        if value is None or not isinstance(values, Range) or values.low <= value <= values.high:
            continue
        side = "below" if value < values.low else "above"
        found.append(f"{name} {value:.3g}, {side} its range {values.low:g} … {values.high:g}")
    if not found:
        return []
    again = (
        "; to keep a search within its ranges, give strategy.unbounded: [], or bounds in strategy.bounds"
        if isinstance(specification.strategy, PbtStrategy)
        else ""
    )
    return [
        f"The kept weights of the selected model were trained with {' and '.join(found)}: the range may be too narrow. Widen it "
        f"in `space` and search again{again}."
    ]


def _has_losses(model: Model) -> bool:
    losses = losses_of(model)
    return losses.sv_loss is not None or losses.last_sv_loss is not None
