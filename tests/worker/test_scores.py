"""Scores of given rates, and diagnostics of given losses."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models import Architecture, ReferenceLosses, metrics
from store.states import ModelState
from store.tables import CurvePoint, Model
from worker.diagnostics import PREDICTED_ONLY, diagnose
from worker.latents import LatentsRequest
from worker.scores import ScoredData, score
from worker.slice_work import Work

TRIALS, BINS, NEURONS = 30, 12, 4
VALID = np.arange(TRIALS) % 3 == 0
LENGTHS = np.where(np.arange(TRIALS) % 5 == 0, 9, BINS)
INSIDE = np.arange(BINS)[None] < LENGTHS[:, None]
CONDITIONS: list[int | str | None] = [("left", "right", "up", None)[trial % 4] for trial in range(TRIALS)]


def request_of(**architecture: Any) -> LatentsRequest:
    """What scores read of a request."""
    built, split = Architecture(neurons=NEURONS, **architecture), np.where(VALID, "valid", "train")
    return cast(
        LatentsRequest,
        SimpleNamespace(architecture=built, split=split, trial_length_bins=LENGTHS, bin_width_s=0.02),
    )


def work_of(**architecture: Any) -> Work:
    """What diagnostics read of a slice."""
    built = Architecture(neurons=NEURONS, **architecture)
    return cast(
        Work,
        SimpleNamespace(
            architecture=lambda: built,
            dataset=SimpleNamespace(bins=BINS),
            models=[model(3, 0.5, 0.5)],
            job=SimpleNamespace(selected_model_id="mod_3"),
        ),
    )


def model(number: int, sv_loss: float | None, ordinary_loss: float | None, **columns: Any) -> Model:
    scores = {"sv_loss": sv_loss, "ordinary_loss": ordinary_loss}
    return Model(id=f"mod_{number}", number=number, scores=scores, **{"state": ModelState.TRAINED, **columns})


@pytest.fixture
def data() -> ScoredData:
    random = np.random.default_rng(0)
    true_rates = np.exp(random.normal(size=(TRIALS, BINS, NEURONS))).astype(np.float32)
    true_rates[..., 2] = 0.5  # constant: no R²
    rates = (true_rates * np.exp(0.2 * random.normal(size=true_rates.shape))).astype(np.float32)
    rates[~INSIDE] = np.nan
    spikes = np.where(INSIDE[:, :, None], random.poisson(true_rates), 0)
    return ScoredData(rates, spikes, true_rates, CONDITIONS)


def nothing() -> None:
    pass


def test_scores_are_those_of_their_definitions(data: ScoredData) -> None:
    mask = INSIDE[:, :, None]
    found = score(request_of(), data, nothing)
    assert set(found) == {"bits_per_spike_valid", "r2_true_rates", "r2_true_rates_valid", "psth_r2_valid"}
    rates, spikes = data.rates[VALID], data.spikes[VALID]
    assert found["bits_per_spike_valid"] == metrics.bits_per_spike(rates, spikes, mask=mask[VALID])
    assert data.true_rates is not None
    whole = metrics.r2_true_rates(data.rates, data.true_rates, mask=mask)
    assert found["r2_true_rates"] == pytest.approx(whole)
    of_valid = metrics.r2_true_rates(rates, data.true_rates[VALID], mask=mask[VALID])
    assert found["r2_true_rates_valid"] == pytest.approx(of_valid)
    known = np.array([condition is not None for condition in CONDITIONS])
    names = np.array([condition for condition in CONDITIONS if condition is not None])
    psth = metrics.psth_r2(
        data.rates[known], data.spikes[known], names, bin_width_s=0.02, scored_trials=VALID[known], mask=INSIDE[known]
    )  # fmt: skip
    assert found["psth_r2_valid"] == pytest.approx(psth)


def test_trials_that_the_job_never_saw_are_scored_all(data: ScoredData) -> None:
    request = request_of()
    request.split[:] = "test"
    found, mask = score(request, data, nothing), INSIDE[:, :, None]
    assert set(found) == {"bits_per_spike", "r2_true_rates", "psth_r2"}
    assert found["bits_per_spike"] == metrics.bits_per_spike(data.rates, data.spikes, mask=mask)
    request.split[0] = "train"
    assert "bits_per_spike_valid" in score(request, data, nothing)


def test_what_models_never_read_has_scores_of_its_own(data: ScoredData) -> None:
    request = request_of(held_out_neurons=(1,), encoded_bins=8, initial_condition_bins=2)
    data.rates[:, :2] = np.nan
    found = score(request, data, nothing)
    bins = np.arange(BINS)
    rates, spikes, inside = data.rates[VALID], data.spikes[VALID], INSIDE[VALID]

    def bits(chosen: np.ndarray[Any, Any]) -> float:
        return metrics.bits_per_spike(rates, spikes, mask=np.broadcast_to(chosen, spikes.shape))

    everything = (inside & (bins >= 2))[:, :, None]
    assert found["bits_per_spike_valid"] == pytest.approx(bits(everything))
    co_smoothing = everything & (bins < 8)[:, None] & (np.arange(NEURONS) == 1)
    assert found["co_smoothing_bits_per_spike_valid"] == pytest.approx(bits(co_smoothing))
    forward = everything & (bins >= 8)[:, None]
    assert found["forward_prediction_bits_per_spike_valid"] == pytest.approx(bits(forward))
    assert found["r2_true_rates"] is not None


def test_a_score_that_is_not_defined_is_none(data: ScoredData) -> None:
    silent = data.spikes.copy()
    silent[..., 1] = 0
    unknown = ScoredData(data.rates, silent, None, [None] * TRIALS)
    found = score(request_of(held_out_neurons=(1,)), unknown, nothing)
    assert found["co_smoothing_bits_per_spike_valid"] is None
    assert set(found) == {"bits_per_spike_valid", "co_smoothing_bits_per_spike_valid"}


@pytest.mark.parametrize("conditions", [list(range(TRIALS)), [None] * TRIALS])
def test_a_condition_of_one_trial_has_no_psth(data: ScoredData, conditions: list[int | str | None]) -> None:
    found = score(request_of(), ScoredData(data.rates, data.spikes, None, conditions), nothing)
    assert "psth_r2_valid" not in found


REFERENCE = ReferenceLosses(sv_loss=0.5424, ordinary_loss=0.5424, held_out_samples=50_000)
LEAKING = {"sv_loss": 0.9, "ordinary_loss": 0.1}


def test_models_that_leak_are_named() -> None:
    models = [model(0, **LEAKING), model(2, 0.48, 0.47), model(3, 0.45, 0.44), model(4, 0.5, 0.5)]
    models.append(model(5, 0.1, 0.1, state=ModelState.DIVERGED))
    found = diagnose(work_of(), models, None, REFERENCE, 0.3)
    assert (found["leaking"], found["selected"], found["best_by_ordinary"]) == ([0], 3, 0)
    assert found["note"] is None
    assert "model 3, not model 0 as ordinary validation would have" in found["warning"]
    assert [entry["number"] for entry in found["models"]] == [0, 2, 3, 4]
    assert found["models"][0]["gap"] == pytest.approx(0.8)
    assert found["models"][0]["lost_share"] > 1


def test_the_selected_model_is_judged_by_the_weights_that_gave_the_latents() -> None:
    """It leaks at its last epoch, and did not at the one whose weights are kept."""
    models = [model(2, 0.48, 0.47), model(3, **LEAKING)]
    kept = CurvePoint(model_id="mod_3", epoch=4, sv_loss=0.45, ordinary_loss=0.44)
    found = diagnose(work_of(), models, kept, REFERENCE, 0.3)
    assert (found["leaking"], found["warning"]) == ([], None)
    assert found["models"][1]["sv_loss"] == 0.45
    found = diagnose(work_of(), models, None, REFERENCE, 0.3)
    assert "The selected model 3 is one of them" in found["warning"]


@pytest.mark.parametrize(
    ("bits_per_spike", "is_told"), [(0.0007, True), (-0.1, True), (0.02, False), (None, False)]
)
def test_a_model_that_learnt_nothing_is_told(bits_per_spike: float | None, is_told: bool) -> None:
    found = diagnose(work_of(), [model(2, 0.48, 0.47), model(3, 0.45, 0.44)], None, REFERENCE, bits_per_spike)
    assert ("hardly better than constant rates" in (found["warning"] or "")) == is_told


@pytest.mark.parametrize("architecture", [{"held_out_neurons": (1,)}, {"encoded_bins": 8}])
def test_leaks_are_not_judged_where_sv_scores_what_no_model_reads(architecture: dict[str, Any]) -> None:
    found = diagnose(
        work_of(**architecture), [model(0, **LEAKING), model(3, 0.45, 0.44)], None, REFERENCE, 0.3
    )
    assert (found["leaking"], found["warning"], found["note"]) == (None, None, PREDICTED_ONLY)
    assert found["models"][0]["lost_share"] is None
    whole = diagnose(
        work_of(encoded_bins=BINS), [model(0, **LEAKING), model(3, 0.45, 0.44)], None, REFERENCE, 0.3
    )
    assert whole["leaking"] == [0]


def test_samples_that_were_not_observed_do_not_count(data: ScoredData) -> None:
    missing = np.random.default_rng(1).random(data.spikes.shape) < 0.3
    masked = replace(data, missing=missing)
    found = score(request_of(held_out_neurons=(1, 3)), masked, nothing)
    mask = INSIDE[:, :, None] & ~missing
    rates, spikes = data.rates[VALID], data.spikes[VALID]
    assert found["bits_per_spike_valid"] == metrics.bits_per_spike(rates, spikes, mask=mask[VALID])
    expected = metrics.co_smoothing_bits_per_spike(rates, spikes, [1, 3], mask[VALID])
    assert found["co_smoothing_bits_per_spike_valid"] == expected
    # What stands in these samples changes nothing.
    other = replace(masked, spikes=np.where(missing, 50, data.spikes))
    assert score(request_of(held_out_neurons=(1, 3)), other, nothing) == found
