"""Whether ordinary validation misleads in a job: computed when it ends, from the losses of its models."""

from typing import Any

from torch import Tensor

from models import ReferenceLosses, validation_disagreement
from store.states import ModelState
from store.tables import CurvePoint, Model
from worker.slice_work import Work

PREDICTED_ONLY = (
    "held_out_neurons or encoded_bins leave samples that no model reads. The SV loss has them too, the ordinary loss has "
    "not, so a gap between them is no sign of a leak: which models leak is not judged."
)

LEAST_BITS_PER_SPIKE = 0.005
LEARNT_NOTHING = (
    "The selected model predicts samples that it did not read hardly better than constant rates ({:.2g} bits per spike): its "
    "latents say next to nothing of the data. Give more epochs (beyond training.ramp_epochs), more models or wider ranges; "
    "if that does not help, look whether rates change within the trials at all."
)


def diagnose(
    work: Work,
    models: list[Model],
    kept: CurvePoint | None,
    reference: ReferenceLosses,
    bits_per_spike: float | None,
) -> dict[str, Any]:
    """Compare SV and ordinary validation over the models of a job.

    Every model stands with the losses of its last epoch, which is what a search by ordinary validation would go by; but
    the selected one with those of the epoch whose weights gave the latents.

    Parameters
    ----------
    work
        The slice of inference.
    models
        Of the job, by number.
    kept
        Point of the selected model's learning curve at the epoch of its best weights.
    reference
        Losses of constant rates.
    bits_per_spike
        What the selected model gains over constant rates, in bits per spike by the SV loss; None if that is not defined.

    Returns
    -------
    dict
        The document `diagnostics` of the job.
    """
    selected = next(model for model in models if model.id == work.job.selected_model_id)
    losses = {
        model.number: _losses(model, kept if model.id == work.models[0].id else None)
        for model in models
        if model.state == ModelState.TRAINED or model.id == selected.id
    }
    found = validation_disagreement(
        [sv_loss for sv_loss, _ in losses.values()],
        [ordinary_loss for _, ordinary_loss in losses.values()],
        reference,
        numbers=list(losses),
        selected=selected.number,
    )
    is_judged = not _predicts_only(work)
    warnings = [found.warning] if is_judged and found.warning else []
    if bits_per_spike is not None and bits_per_spike < LEAST_BITS_PER_SPIKE:
        warnings.append(LEARNT_NOTHING.format(bits_per_spike))
    return {
        "rank_correlation": found.rank_correlation,
        "leaking": list(found.leaking) if is_judged else None,
        "best_by_sv": found.best_by_sv,
        "best_by_ordinary": found.best_by_ordinary,
        "selected": found.selected,
        "constant_sv_loss": reference.sv_loss,
        "constant_ordinary_loss": reference.ordinary_loss,
        "warning": " ".join(warnings) or None,
        "note": None if is_judged else PREDICTED_ONLY,
        "models": [
            {
                "number": number,
                "sv_loss": pair[0],
                "ordinary_loss": pair[1],
                "gap": gap,
                "lost_share": lost_share if is_judged else None,
            }
            for (number, pair), gap, lost_share in zip(
                losses.items(), found.gaps, found.lost_shares, strict=True
            )
        ],
    }


def best_epoch(state: dict[str, Tensor]) -> int:
    """Epoch of the best weights in a checkpoint; 0 if there is none."""
    return int(state["best_epoch"])


def _losses(model: Model, kept: CurvePoint | None) -> tuple[float | None, float | None]:
    if kept is not None:
        return kept.sv_loss, kept.ordinary_loss
    return model.scores.get("sv_loss"), model.scores.get("ordinary_loss")


def _predicts_only(work: Work) -> bool:
    architecture = work.architecture()
    bins = work.dataset.bins or 0
    return bool(architecture.held_out_neurons) or 0 < architecture.encoded_bins < bins
