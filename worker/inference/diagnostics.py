"""Diagnostics of a job, computed when it ends: whether its models leak, and whether the selected one beats the baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

from domain.job_specification import JobSpecification
from domain.scores import ModelLosses, ReferenceLosses, ValidationDisagreement, validation_disagreement
from domain.search_space import SAFE_CD_RATE, Range, bounds
from domain.states import ModelState
from domain.strategies import PbtStrategy
from store.tables import Model
from worker.context.slices import Work
from worker.inference.baselines import BaselineScores, Scores

PREDICTED_ONLY = (
    "With held_out_neurons or encoded_bins, models never read some samples. The SV loss includes these samples and the "
    "validation loss does not, so a gap between both is no sign of a leak. Leaks are therefore not judged."
)


def diagnose(work: Work, models: list[Model], reference: ReferenceLosses) -> dict[str, Any]:
    """Compare sample validation and ordinary validation over the models of a job, at the kept weights and at the last epoch.

    Parameters
    ----------
    work
        The slice of inference.
    models
        Of the job's search, by number. All models with losses are judged, also those that stopped early, but none that diverged.
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
    is_judged = not work.architecture().leaves_unread(work.dataset.bins or 0)
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
    """Return a warning if hyperparameters of the selected model's kept weights lie outside their ranges, else nothing."""
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


def losses_of(model: Model) -> ModelLosses:
    """Return the losses of a model after its last slice of training."""
    scores = model.scores
    return ModelLosses(
        model.number,
        scores.get("sv_loss"),
        scores.get("validation_loss"),
        scores.get("last_sv_loss"),
        scores.get("last_validation_loss"),
    )


def leak_warnings(
    found: ValidationDisagreement,
    models: Sequence[Model],
    selected: Model,
    reference: ReferenceLosses,
    specification: JobSpecification,
) -> list[str]:
    """Return warnings that say which models leak, whether the latents are affected, and what to change.

    Parameters
    ----------
    found
        How validation and sample validation disagree about `models`.
    models
        The judged models.
    selected
        The selected model, one of them.
    reference
        Losses of constant rates.
    specification
        Of the job. The advice names its fields.
    """
    texts = []
    if found.leaking:
        texts.append(_kept_weights_leak(found, models, selected, reference))
    if found.leaking_later:
        texts.append(_last_epochs_leak(found, models, selected))
    return [*texts, _leak_advice(specification)] if texts else []


def ramp_warning(selected: Model, leaks: bool, specification: JobSpecification) -> str | None:
    """Return a warning if the kept weights are from an epoch before KL and L2 count in full, else None."""
    if not is_in_ramp(selected, specification):
        return None
    ramp, trained = specification.training.ramp_epochs, selected.epochs_trained
    happened = (
        f"The weights of the selected model {selected.number} are from epoch {selected.scores['best_epoch']} of {trained}: the "
        f"penalties of KL and L2 rise until epoch {ramp} (training.ramp_epochs) and do not count in full before."
    )
    if trained <= ramp:
        return (
            f"{happened} Training ended within this ramp: give more epochs (budget.epochs) or a shorter ramp."
        )
    happened += " After that epoch the smoothed SV loss was never as low again."
    if leaks:
        return f"{happened} This is a sign of the leak."
    return (
        f"{happened} Either the model overfits (try a space.cd_rate of {SAFE_CD_RATE:g} or more, more dropout or a lower "
        "learning rate), or the full penalties are too strong (try lower weights of KL and L2)."
    )


def is_in_ramp(selected: Model, specification: JobSpecification) -> bool:
    """Return whether the kept weights of a model are from an epoch in the ramp."""
    best = selected.scores.get("best_epoch")
    return best is not None and best <= specification.training.ramp_epochs


def _kept_weights_leak(
    found: ValidationDisagreement, models: Sequence[Model], selected: Model, reference: ReferenceLosses
) -> str:
    leaking = [losses_of(model) for model in models if model.number in found.leaking]
    worst = min(leaking, key=lambda losses: _known(losses.validation_loss, losses.last_validation_loss))
    sv_loss = _known(worst.sv_loss, worst.last_sv_loss)
    validation_loss = _known(worst.validation_loss, worst.last_validation_loss)
    happened = (
        f"{_who(found.leaking, len(models))} single spikes from input to output instead of inferring firing rates. On samples "
        f"of validation trials that it reads, model {worst.number} scores {validation_loss:.4g} nats per sample; on held-out "
        f"samples, which it does not read, it scores {sv_loss:.4g} (constant rates score {reference.validation_loss:.4g} and "
        f"{reference.sv_loss:.4g}; lower is better)."
    )
    if selected.number in found.leaking:
        return f"{happened} The selected model {selected.number} leaks: do not interpret its rates and factors on single trials."
    misled = found.best_by_validation_loss in found.leaking
    other = f", not model {found.best_by_validation_loss} as ordinary validation would have" if misled else ""
    return (
        f"{happened} The SV loss (the loss on held-out samples) chose model {selected.number}{other}. The kept weights of "
        f"model {selected.number} do not leak."
    )


def _last_epochs_leak(found: ValidationDisagreement, models: Sequence[Model], selected: Model) -> str:
    leaking = [model for model in models if model.number in found.leaking_later]
    shown = min(leaking, key=lambda model: (model is not selected, model.scores["last_validation_loss"]))
    scores = shown.scores
    happened = (
        f"{_who(found.leaking_later, len(models), 'learned to pass')} single spikes from input to output in the course of "
        f"training. From epoch {scores['best_epoch']} to epoch {shown.epochs_trained} of model {shown.number}, the loss on "
        f"samples that it reads went from {scores['validation_loss']:.4g} to {scores['last_validation_loss']:.4g} nats per "
        f"sample, but the SV loss (on held-out samples) from {scores['sv_loss']:.4g} to {scores['last_sv_loss']:.4g} (lower is "
        f"better)."
    )
    if selected.number not in found.leaking_later:
        return f"{happened} The selected model {selected.number} is none of these."
    return (
        f"{happened} The latents come from the earlier epoch, so the leak affects them less. More epochs do not help; a model "
        "that does not leak can train longer and reach a lower SV loss."
    )


def _who(numbers: Sequence[int], models: int, verb: str = "pass") -> str:
    """Return the subject and verb of a sentence about some of the models."""
    ending = "es" if verb == "pass" and len(numbers) == 1 else ""
    if models == 1:
        return f"Model {numbers[0]} {verb}{ending}"
    listed = ", ".join(map(str, numbers[:-1])) + " and " if len(numbers) > 1 else ""
    of_these = f"number{'s' if len(numbers) > 1 else ''} {listed}{numbers[-1]}"
    return f"{len(numbers)} of {models} models ({of_these}) {verb}{ending}"


def _known(kept: float | None, last: float | None) -> float:
    """Return the loss of the kept weights, or that of the last epoch if an older checkpoint lacks it."""
    loss = last if kept is None else kept
    assert loss is not None
    return loss


def _leak_advice(specification: JobSpecification) -> str:
    """Return a sentence that says which fields of the job to change."""
    space, architecture = specification.space, specification.architecture
    changes = []
    if (lowest := bounds(space.cd_rate)[0]) < SAFE_CD_RATE:
        changes.append(f"raise space.cd_rate, here {lowest:g} or more, to {SAFE_CD_RATE:g} or more")
    if bounds(space.cd_pass_rate)[1] > 0:
        changes.append("set space.cd_pass_rate to 0")
    if architecture.has_controller:
        inputs = architecture.inferred_inputs
        changes.append("raise space.kl_weight_inputs")
        if (max(inputs) if isinstance(inputs, list) else inputs) > 1:
            changes.append("infer fewer inputs (architecture.inferred_inputs)")
    else:
        changes.append("raise space.kl_weight_initial_condition")
        changes.append("lower architecture.initial_condition_dim")
    listed = ", ".join(changes[:-1]) + " or " if len(changes) > 1 else ""
    return f"To prevent leaks, {listed}{changes[-1]}."


_BASELINES = {
    "mean": "each neuron's mean",
    "psth": "the mean by bin over training trials",
    "smoothed_spikes": "Gaussian-smoothed spikes",
}
_LATE = 0.85
"""Share of the epochs. A model whose best epoch is later may improve with more epochs."""


def baseline_warning(
    scores: Scores,
    found: BaselineScores,
    compared: Sequence[Mapping[str, Any]],
    best_epoch: int,
    epochs: int,
    *,
    who: str = "selected model",
) -> str | None:
    """Return a warning if the model predicts held-out samples no better than a baseline, else None.

    Test trials decide where they were compared, otherwise validation trials. The advice depends on whether the best epoch is near
    the last one.

    Parameters
    ----------
    scores, found
        Of the model by name, and of the baselines by score and name.
    compared
        The comparisons that count.
    best_epoch, epochs
        Of the model.
    who
        The subject of the sentence.
    """
    names = [f"sv_bits_per_spike_{part}" for part in ("test", "valid")]
    name = next((one for one in names if any(row["score"] == one for row in compared)), None)
    if name is None:
        return None
    verdicts = {row["baseline"]: row["verdict"] for row in compared if row["score"] == name}
    for verdict, words in (
        ("below", "worse than"),
        ("about_as_good", "about as well as"),
    ):
        which = [one for one in _BASELINES if verdicts.get(one) == verdict]
        if not which:
            continue
        listed = " and ".join(f"{_BASELINES[one]} ({found[name][one]:.3g})" for one in which)
        meaning = (
            "These simple rates are better than those of its latents."
            if verdict == "below"
            else "The difference is within its sampling error, so its latents may be no better than this."
        )
        part = "test" if name.endswith("test") else "validation"
        return (
            f"The {who} predicts held-out samples of {part} trials {words} {listed}: it reaches {scores[name]:.3g} "
            f"bits per spike. {meaning} {_baseline_advice(which, best_epoch, epochs)}"
        )
    return None


def _baseline_advice(which: Sequence[str], best_epoch: int, epochs: int) -> str:
    last = " Check whether the rates change within the trials." if "mean" in which else ""
    if best_epoch >= _LATE * epochs:
        return (
            f"Its best epoch is {best_epoch} of {epochs}: train for more (budget.epochs), or search more models or wider ranges."
            + last
        )
    return (
        f"Its SV loss has not fallen since epoch {best_epoch} of {epochs}, so more epochs do not help: search more models or "
        f"wider ranges, or record more trials.{last}"
    )
