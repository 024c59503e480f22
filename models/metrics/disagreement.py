"""Whether ordinary validation of a job's models misleads, because they pass spikes through to their output.

Held-out and entering samples of a validation trial are draws of the same rates. A model of these rates gains as
much over constant rates on the one as on the other, up to sampling error and to what its latents owe to the
very spikes they were inferred from. A model that passes spikes through gains on the samples that it reads
alone (Keshtkaran & Pandarinath 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.config import require
from models.metrics.likelihood import ReferenceLosses

Floats = NDArray[np.floating]
LEAKING_SHARE = 0.5
"""Of its gain on the samples it reads, a leaking model loses more than this on those it does not read. On simulated
Lorenz recordings models with coordinated dropout end at 0.05 to 0.15 (0.3 early in training), those that pass
spikes through at 1.6 to 2.0: they do worse than constant rates."""
STANDARD_ERRORS = 5.0  # that the loss of gain must exceed as well
FEWEST_RANKED = 3  # models, for a rank correlation to say anything


@dataclass(frozen=True)
class ValidationDisagreement:
    """SV and ordinary validation of the models of a job, compared. Losses and gains in nats per sample.

    Parameters
    ----------
    rank_correlation
        Spearman's, between SV and ordinary losses over models; None for fewer than 3 models or equal losses.
    gaps
        SV loss - ordinary loss of each model; None for a model whose losses are not finite.
    lost_shares
        1 - (gain over constant rates at held-out samples) / (the same at samples that entered), of each model:
        near 0 for a model of the rates, 1 if the whole gain is lost, above 1 if held-out samples are predicted
        worse than by constant rates. None for a model that gains nothing at samples that entered.
    leaking
        Numbers of the models that leak.
    best_by_sv, best_by_ordinary
        Numbers of the models of lowest loss; None if no model has finite losses.
    selected
        Number of the model that the job selected: `best_by_sv` unless it was given.
    warning
        What a user must be told, in plain words; None if no model leaks.
    """

    rank_correlation: float | None
    gaps: tuple[float | None, ...]
    lost_shares: tuple[float | None, ...]
    leaking: tuple[int, ...]
    best_by_sv: int | None
    best_by_ordinary: int | None
    selected: int | None
    warning: str | None


def validation_disagreement(
    sv_losses: Sequence[float | None] | Floats,
    ordinary_losses: Sequence[float | None] | Floats,
    reference: ReferenceLosses,
    *,
    numbers: Sequence[int] | None = None,
    selected: int | None = None,
) -> ValidationDisagreement:
    """Compare SV and ordinary losses over the models of a job and say which models leak.

    With the gains g_ordinary = reference.ordinary_loss - ordinary loss and g_sv = reference.sv_loss - SV loss,
    a model leaks if the gain it loses, g_ordinary - g_sv, exceeds half of g_ordinary (`LEAKING_SHARE`), half of
    the best g_sv of the job (so that models that have hardly begun to learn are let be), and 5 standard errors
    √(2 g_ordinary / held_out_samples), since the variance of a log-likelihood ratio is about twice its mean. Taking
    differences to constant rates cancels what makes one set of samples harder than the other.

    Parameters
    ----------
    sv_losses, ordinary_losses
        [M], of the same epoch of each model; None or NaN where a model diverged.
    reference
        Of constant rates on the same samples, see `constant_rate_losses`; for training data as the service has them,
        and other observation models than Poisson, `models.constant_outputs.constant_output_losses`.
    numbers
        [M], what the models are called in the warning and in the result; None: 0 … M - 1.
    selected
        Number of the model that was selected, where that is not the one of lowest `sv_losses` (the smoothed
        loss or another epoch may have decided).
    """
    sv, ordinary = (
        np.array([np.nan if loss is None else loss for loss in losses], np.float64)
        for losses in (sv_losses, ordinary_losses)
    )
    require(sv.shape == ordinary.shape, f"got {len(sv)} SV losses and {len(ordinary)} ordinary losses")
    names = list(range(len(sv))) if numbers is None else [int(number) for number in numbers]
    require(len(set(names)) == len(sv), f"expected {len(sv)} different numbers of models, got {names}")
    require(
        selected is None or selected in names, f"selected must be one of the models' numbers, got {selected}"
    )
    require(reference.held_out_samples > 0, "there is nothing to compare where no sample is held out")
    finite = np.isfinite(sv) & np.isfinite(ordinary)
    g_sv, g_ordinary = reference.sv_loss - sv, reference.ordinary_loss - ordinary
    gains = finite & (g_ordinary > 0)
    shown = np.where(gains, g_ordinary, 1.0)
    error = np.sqrt(2 * shown / reference.held_out_samples)
    lost = shown - g_sv
    learned = np.max(g_sv, where=finite, initial=0.0)
    leaks = gains & (lost > LEAKING_SHARE * np.maximum(shown, learned)) & (lost > STANDARD_ERRORS * error)
    best = names[int(np.argmin(np.where(finite, sv, np.inf)))] if finite.any() else None
    best_ordinary = names[int(np.argmin(np.where(finite, ordinary, np.inf)))] if finite.any() else None
    correlation = spearman(sv[finite], ordinary[finite]) if finite.sum() >= FEWEST_RANKED else np.nan
    found = ValidationDisagreement(
        rank_correlation=float(correlation) if np.isfinite(correlation) else None,
        gaps=_or_none(sv - ordinary, finite),
        lost_shares=_or_none(lost / shown, gains),
        leaking=tuple(name for name, leak in zip(names, leaks, strict=True) if leak),
        best_by_sv=best,
        best_by_ordinary=best_ordinary,
        selected=best if selected is None else selected,
        warning=None,
    )
    if not found.leaking:
        return found
    worst = min(np.flatnonzero(leaks), key=lambda m: ordinary[m])
    warning = _warning(found, len(sv), names[worst], float(sv[worst]), float(ordinary[worst]), reference)
    return replace(found, warning=warning)


def spearman(a: Sequence[float] | Floats, b: Sequence[float] | Floats) -> float:
    """Rank correlation: Pearson's, of the ranks; equal values share the mean of their ranks.

    NaN for fewer than 2 pairs, or if all values on one side are equal.

    Parameters
    ----------
    a, b
        Finite, of one length.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    require(
        left.ndim == 1 and left.shape == right.shape,
        f"a and b must be of one length, got {left.shape} and {right.shape}",
    )
    require(bool(np.isfinite(left).all() and np.isfinite(right).all()), "a and b must be finite")
    if len(left) < 2:
        return float("nan")
    x, y = _centred_ranks(left), _centred_ranks(right)
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else float("nan")


def _centred_ranks(values: Floats) -> NDArray[np.float64]:
    """Ranks less their mean; equal values share the mean of their ranks."""
    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[position]
    centred: NDArray[np.float64] = ranks - ranks.mean()
    return centred


def _or_none(values: Floats, known: NDArray[np.bool_]) -> tuple[float | None, ...]:
    return tuple(float(value) if know else None for value, know in zip(values, known, strict=True))


def _warning(
    found: ValidationDisagreement,
    models: int,
    worst: int,
    sv_loss: float,
    ordinary_loss: float,
    reference: ReferenceLosses,
) -> str:
    """What happened, whether the selection stands, and what to change."""
    leaking = found.leaking
    happened = (
        f"{len(leaking)} of {models} models ({_listed(leaking)}) passed individual spikes from input to output "
        f"instead of learning firing rates: in validation trials, model {worst} scores {ordinary_loss:.4g} nats per "
        f"sample on the samples it was shown, but {sv_loss:.4g} on the held-out samples that it was not shown "
        f"(constant rates score {reference.ordinary_loss:.4g} and {reference.sv_loss:.4g}; lower is better)."
    )
    if found.selected in leaking:
        stands = (
            f"The selected model {found.selected} is one of them: the SV loss (the loss on held-out samples) chose "
            "it among the models of this job, but do not interpret its rates and inferred inputs on single trials."
        )
    else:
        misled = found.best_by_ordinary in leaking
        other = f", not model {found.best_by_ordinary} as ordinary validation would have" if misled else ""
        stands = (
            f"The SV loss (the loss on held-out samples) chose model {found.selected}{other}. That model does not "
            "leak: the selection stands."
        )
    change = (
        "To keep models from it, raise the lower bound of cd_rate (to 0.2 or more), or infer fewer inputs "
        "(inferred_inputs), or penalise them more (kl_weight_inputs)."
    )
    return f"{happened} {stands} {change}"


def _listed(numbers: Sequence[int]) -> str:
    """Return "number 3", "numbers 1, 2 and 5"."""
    if len(numbers) == 1:
        return f"number {numbers[0]}"
    return f"numbers {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
