"""What the diagnostics of a job say about leaks: which models pass spikes to their output, since when, and what to change."""

from collections.abc import Sequence

from domain.job_specification import JobSpecification
from domain.scores import ModelLosses, ReferenceLosses, ValidationDisagreement
from domain.search_space import SAFE_CD_RATE, bounds
from store.tables import Model


def losses_of(model: Model) -> ModelLosses:
    """Return the losses of a model as its last slice of training left them."""
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
    """Say which models leak, whether the latents are affected, and what to change; nothing if none leaks.

    Parameters
    ----------
    found
        Of `models`.
    models
        That were judged.
    selected
        The one among them that the job selected.
    reference
        Losses of constant rates.
    specification
        Of the job: the advice names what the job has.
    """
    texts = []
    if found.leaking:
        texts.append(_kept_weights_leak(found, models, selected, reference))
    if found.leaking_later:
        texts.append(_last_epochs_leak(found, models, selected))
    return [*texts, _advice(specification)] if texts else []


def ramp_warning(selected: Model, leaks: bool, specification: JobSpecification) -> str | None:
    """Say that the kept weights are from an epoch in which KL and L2 did not count in full, if they are."""
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
    """Return whether the kept weights of a model are from an epoch within the ramp."""
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
        f"sample, "
        f"but the SV loss (on held-out samples) from {scores['sv_loss']:.4g} to {scores['last_sv_loss']:.4g} (lower is better)."
    )
    if selected.number not in found.leaking_later:
        return f"{happened} The selected model {selected.number} is none of these."
    return (
        f"{happened} The latents come from the earlier epoch, so the leak affects them less. More epochs do not help; a model "
        "that does not leak can train longer and reach a lower SV loss."
    )


def _who(numbers: Sequence[int], models: int, verb: str = "pass") -> str:
    """Begin a sentence: which of the models do something."""
    ending = "es" if verb == "pass" and len(numbers) == 1 else ""
    if models == 1:
        return f"Model {numbers[0]} {verb}{ending}"
    listed = ", ".join(map(str, numbers[:-1])) + " and " if len(numbers) > 1 else ""
    of_these = f"number{'s' if len(numbers) > 1 else ''} {listed}{numbers[-1]}"
    return f"{len(numbers)} of {models} models ({of_these}) {verb}{ending}"


def _known(kept: float | None, last: float | None) -> float:
    """Return the loss of the kept weights, or of the last epoch where a checkpoint of an older version lacks it."""
    loss = last if kept is None else kept
    assert loss is not None
    return loss


def _advice(specification: JobSpecification) -> str:
    """Say what to change, of what the job has."""
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
