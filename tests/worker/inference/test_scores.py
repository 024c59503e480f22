"""Scores of given rates, and diagnostics of given losses."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from domain.job_specification import JobSpecification
from domain.scores import (
    ReferenceLosses,
    bits_per_spike,
    co_smoothing_bits_per_spike,
    forward_prediction_bits_per_spike,
    psth_r2,
    r2_true_rates,
)
from domain.states import ModelState
from models import Architecture
from store.tables import Model
from worker.context.slices import Work
from worker.inference.diagnostics import PREDICTED_ONLY, beyond_ranges, diagnose
from worker.inference.latents import LatentsRequest
from worker.inference.scores import ScoredData, score

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


def work_of(of_job: dict[str, Any] | None = None, **architecture: Any) -> Work:
    """What diagnostics read of a slice."""
    built = Architecture(neurons=NEURONS, **architecture)
    return cast(
        Work,
        SimpleNamespace(
            architecture=lambda: built,
            dataset=SimpleNamespace(bins=BINS),
            job=SimpleNamespace(selected_model_id="mod_3"),
            specification=JobSpecification.model_validate({"dataset_id": "dat", **(of_job or {})}),
        ),
    )


def model(
    number: int,
    sv_loss: float | None,
    validation_loss: float | None,
    last: tuple[float, float] | None = None,
    **columns: Any,
) -> Model:
    """A model that trained 200 epochs; the last is as good as the kept one of epoch 150, unless it is given."""
    last_sv_loss, last_validation_loss = last or (sv_loss, validation_loss)
    scores = {
        "best_epoch": columns.pop("best_epoch", 150), "sv_loss": sv_loss, "validation_loss": validation_loss,
        "last_sv_loss": last_sv_loss, "last_validation_loss": last_validation_loss,
    }  # fmt: skip
    given = {"state": ModelState.TRAINED, "epochs_trained": 200, "hyperparameters": {}, **columns}
    return Model(id=f"mod_{number}", number=number, scores=scores, **given)


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
    assert set(found) == {
        "reconstruction_bits_per_spike_valid",
        "r2_true_rates",
        "r2_true_rates_valid",
        "psth_r2_valid",
    }
    rates, spikes = data.rates[VALID], data.spikes[VALID]
    assert found["reconstruction_bits_per_spike_valid"] == bits_per_spike(rates, spikes, mask=mask[VALID])
    assert data.true_rates is not None
    whole = r2_true_rates(data.rates, data.true_rates, mask=mask)
    assert found["r2_true_rates"] == pytest.approx(whole)
    of_valid = r2_true_rates(rates, data.true_rates[VALID], mask=mask[VALID])
    assert found["r2_true_rates_valid"] == pytest.approx(of_valid)
    known = np.array([condition is not None for condition in CONDITIONS])
    names = np.array([condition for condition in CONDITIONS if condition is not None])
    psth = psth_r2(
        data.rates[known], data.spikes[known], names, bin_width_s=0.02, scored_trials=VALID[known], mask=INSIDE[known]
    )  # fmt: skip
    assert found["psth_r2_valid"] == pytest.approx(psth)


def test_trials_that_the_job_never_saw_are_scored_all(data: ScoredData) -> None:
    request = request_of()
    request.split[:] = "test"
    found, mask = score(request, data, nothing), INSIDE[:, :, None]
    assert set(found) == {
        "reconstruction_bits_per_spike_test",
        "r2_true_rates",
        "r2_true_rates_test",
        "psth_r2_test",
    }
    assert found["r2_true_rates"] == found["r2_true_rates_test"]
    assert found["reconstruction_bits_per_spike_test"] == bits_per_spike(data.rates, data.spikes, mask=mask)


def test_test_trials_get_the_scores_of_validation_trials(data: ScoredData) -> None:
    """And neither part changes the other's."""
    request = request_of(held_out_neurons=(1,), encoded_bins=8)
    alone = score(request, data, nothing)
    tested = ~VALID & (np.arange(TRIALS) % 2 == 0)
    request.split[tested] = "test"
    found = score(request, data, nothing)
    assert {name: value for name, value in found.items() if not name.endswith("_test")} == alone
    names = {name.removesuffix("_valid") for name in alone if name.endswith("_valid")}
    assert {name.removesuffix("_test") for name in found.keys() - alone.keys()} == names
    mask = np.broadcast_to(INSIDE[:, :, None], data.spikes.shape)[tested]
    rates, spikes = data.rates[tested], data.spikes[tested]
    assert found["reconstruction_bits_per_spike_test"] == bits_per_spike(rates, spikes, mask=mask)
    expected = forward_prediction_bits_per_spike(rates, spikes, 8, mask)
    assert found["forward_prediction_bits_per_spike_test"] == pytest.approx(expected)
    assert data.true_rates is not None
    expected = r2_true_rates(rates, data.true_rates[tested], mask=mask)
    assert found["r2_true_rates_test"] == pytest.approx(expected)


def test_what_models_never_read_has_scores_of_its_own(data: ScoredData) -> None:
    request = request_of(held_out_neurons=(1,), encoded_bins=8, initial_condition_bins=2)
    data.rates[:, :2] = np.nan
    found = score(request, data, nothing)
    bins = np.arange(BINS)
    rates, spikes, inside = data.rates[VALID], data.spikes[VALID], INSIDE[VALID]

    def bits(chosen: np.ndarray[Any, Any]) -> float:
        return bits_per_spike(rates, spikes, mask=np.broadcast_to(chosen, spikes.shape))

    everything = (inside & (bins >= 2))[:, :, None]
    assert found["reconstruction_bits_per_spike_valid"] == pytest.approx(bits(everything))
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
    assert set(found) == {"reconstruction_bits_per_spike_valid", "co_smoothing_bits_per_spike_valid"}


@pytest.mark.parametrize("conditions", [list(range(TRIALS)), [None] * TRIALS])
def test_a_condition_of_one_trial_has_no_psth(data: ScoredData, conditions: list[int | str | None]) -> None:
    found = score(request_of(), ScoredData(data.rates, data.spikes, None, conditions), nothing)
    assert "psth_r2_valid" not in found


REFERENCE = ReferenceLosses(sv_loss=0.5424, validation_loss=0.5424, held_out_samples=50_000)
LEAKING = 0.9, 0.1


def test_models_that_leak_are_named_at_whatever_state_they_ended() -> None:
    models = [model(0, *LEAKING), model(2, 0.48, 0.47), model(3, 0.45, 0.44), model(4, 0.5, 0.5)]
    models += [model(5, 0.1, 0.1, state=ModelState.DIVERGED), model(6, None, None)]
    models += [model(7, *LEAKING, state=ModelState.STOPPED), model(8, *LEAKING, state=ModelState.TRAINING)]
    found = diagnose(work_of(), models, REFERENCE)
    assert (found["leaking"], found["leaking_later"]) == ([0, 7, 8], [])
    assert (found["selected"], found["best_by_sv"], found["best_by_validation_loss"]) == (3, 3, 0)
    assert found["note"] is None
    assert [entry["number"] for entry in found["models"]] == [0, 2, 3, 4, 7, 8]
    assert found["models"][0] == {
        "number": 0, "best_epoch": 150, "sv_loss": 0.9, "validation_loss": 0.1, "gap": pytest.approx(0.8),
        "lost_share": pytest.approx(1 + (0.9 - 0.5424) / (0.5424 - 0.1)), "last_epoch": 200, "last_sv_loss": 0.9,
        "last_validation_loss": 0.1, "last_lost_share": pytest.approx(1 + (0.9 - 0.5424) / (0.5424 - 0.1)),
    }  # fmt: skip
    assert found["warning"] == (
        "3 of 6 models (numbers 0, 7 and 8) pass single spikes from input to output instead of inferring firing rates. On "
        "samples of validation trials that it reads, model 0 scores 0.1 nats per sample; on held-out samples, which it does "
        "not read, it scores 0.9 (constant rates score 0.5424 and 0.5424; lower is better). The SV loss (the loss on held-out "
        "samples) chose model 3, not model 0 as ordinary validation would have. The kept weights of model 3 do not leak. To "
        "prevent leaks, raise space.cd_rate, here 0.01 or more, to 0.2 or more, raise space.kl_weight_initial_condition or "
        "lower architecture.initial_condition_dim."
    )


ALONE = {"budget": {"models": 1, "epochs": 200}, "training": {"ramp_epochs": 20}}


def test_a_model_alone_is_judged_at_its_kept_epoch_and_at_its_last() -> None:
    kept_leaks = diagnose(work_of(ALONE), [model(3, *LEAKING)], REFERENCE)
    assert (kept_leaks["leaking"], kept_leaks["leaking_later"]) == ([3], [])
    assert kept_leaks["warning"].startswith("Model 3 passes single spikes from input to output instead of")
    assert "The selected model 3 leaks: do not interpret its rates and factors" in kept_leaks["warning"]

    later = diagnose(work_of(ALONE), [model(3, 0.45, 0.44, last=LEAKING)], REFERENCE)
    assert (later["leaking"], later["leaking_later"], later["is_best_epoch_in_ramp"]) == ([], [3], False)
    assert later["warning"].startswith(
        "Model 3 learned to pass single spikes from input to output in the course of training. From epoch 150 to epoch 200 "
        "of model 3, the loss on samples that it reads went from 0.44 to 0.1 nats per sample, but the SV loss (on held-out "
        "samples) from 0.45 to 0.9 (lower is better). The latents come from the earlier epoch, so the leak affects them less. "
        "More epochs do not help; a model that does not leak can train longer and reach a lower SV loss. To prevent leaks,"
    )
    assert (later["models"][0]["sv_loss"], later["models"][0]["last_sv_loss"]) == (0.45, 0.9)
    assert later["models"][0]["lost_share"] < 0.2
    assert later["models"][0]["last_lost_share"] > 1

    calm = diagnose(work_of(ALONE), [model(3, 0.45, 0.44)], REFERENCE)
    assert (calm["leaking"], calm["leaking_later"], calm["warning"]) == ([], [], None)


def test_a_leak_that_begins_later_in_another_model_is_said_not_to_be_of_the_selected() -> None:
    models = [model(2, 0.46, 0.45, last=LEAKING), model(3, 0.45, 0.44)]
    found = diagnose(work_of(), models, REFERENCE)
    assert (found["leaking"], found["leaking_later"]) == ([], [2])
    assert found["warning"].startswith("1 of 2 models (number 2) learned to pass single spikes")
    assert "The selected model 3 is none of these." in found["warning"]


CONTROLLER = {"controller_units": 8, "inferred_inputs": 1}


@pytest.mark.parametrize(
    ("of_job", "advice"),
    [
        (
            {"space": {"cd_rate": 0.5}},
            "raise space.kl_weight_initial_condition or lower architecture.initial_condition_dim.",
        ),
        (
            {"space": {"cd_rate": [0.0, 0.3]}, "architecture": CONTROLLER},
            "raise space.cd_rate, here 0 or more, to 0.2 or more or raise space.kl_weight_inputs.",
        ),
        (
            {"space": {"cd_rate": 0.3, "cd_pass_rate": 0.5}, "architecture": {**CONTROLLER, "inferred_inputs": [1, 4]}},
            "set space.cd_pass_rate to 0, raise space.kl_weight_inputs or infer fewer inputs (architecture.inferred_inputs).",
        ),
    ],
)  # fmt: skip
def test_the_advice_names_what_the_job_has(of_job: dict[str, Any], advice: str) -> None:
    found = diagnose(work_of(of_job), [model(3, *LEAKING)], REFERENCE)
    assert found["warning"].endswith(f"To prevent leaks, {advice}")


@pytest.mark.parametrize(
    ("best_epoch", "epochs", "last", "said"),
    [
        (
            12,
            15,
            None,
            "Training ended within this ramp: give more epochs (budget.epochs) or a shorter ramp.",
        ),
        (
            20,
            200,
            None,
            "Either the model overfits (try a space.cd_rate of 0.2 or more, more dropout or a lower",
        ),
        (20, 200, LEAKING, "never as low again. This is a sign of the leak."),
        (21, 200, None, None),
    ],
)
def test_kept_weights_from_within_the_ramp_are_told(
    best_epoch: int, epochs: int, last: tuple[float, float] | None, said: str | None
) -> None:
    alone = model(3, 0.45, 0.44, last, best_epoch=best_epoch, epochs_trained=epochs)
    found = diagnose(work_of(ALONE), [alone], REFERENCE)
    assert found["is_best_epoch_in_ramp"] == (said is not None)
    if said is None:
        assert found["warning"] is None
        return
    assert said in found["warning"]
    assert f"The weights of the selected model 3 are from epoch {best_epoch} of {epochs}" in found["warning"]


def test_hyperparameters_beyond_their_ranges_are_told() -> None:
    """Those of the best weights count, not those that the model went on with."""
    given = {"dataset_id": "dat_1", "strategy": {"kind": "pbt"}, "space": {"cd_rate": 0.5}}
    specification = JobSpecification.model_validate(given)
    best = {"kl_weight_initial_condition": 3.2e-7, "l2_weight_generator": 2.5, "dropout": 0.6, "cd_rate": 0.5}
    selected = model(3, 0.45, 0.44, hyperparameters=best | {"dropout": 0.7}, best_hyperparameters=best)
    [told] = beyond_ranges(specification, selected)
    assert "kl_weight_initial_condition 3.2e-07, below its range 1e-06 … 0.001" in told
    assert "l2_weight_generator 2.5, above its range 0.0001 … 1" in told
    assert "strategy.bounds" in told
    assert "dropout" not in told
    within = model(3, 0.45, 0.44, hyperparameters=best, best_hyperparameters={"dropout": 0.1})
    assert beyond_ranges(specification, within) == []
    found = diagnose(work_of(), [model(2, 0.48, 0.47), selected], REFERENCE)
    assert "the range may be too narrow" in found["warning"]
    assert "strategy" not in found["warning"], "nothing perturbs a random search"


@pytest.mark.parametrize("architecture", [{"held_out_neurons": (1,)}, {"encoded_bins": 8}])
def test_leaks_are_not_judged_where_sv_scores_what_no_model_reads(architecture: dict[str, Any]) -> None:
    models = [model(0, *LEAKING), model(2, 0.48, 0.47, last=LEAKING), model(3, 0.45, 0.44)]
    found = diagnose(work_of(**architecture), models, REFERENCE)
    assert (found["leaking"], found["leaking_later"], found["warning"]) == (None, None, None)
    assert found["note"] == PREDICTED_ONLY
    assert (found["models"][0]["lost_share"], found["models"][0]["last_lost_share"]) == (None, None)
    whole = diagnose(work_of(encoded_bins=BINS), models, REFERENCE)
    assert (whole["leaking"], whole["leaking_later"]) == ([0], [2])


def test_samples_that_were_not_observed_do_not_count(data: ScoredData) -> None:
    missing = np.random.default_rng(1).random(data.spikes.shape) < 0.3
    masked = replace(data, missing=missing)
    found = score(request_of(held_out_neurons=(1, 3)), masked, nothing)
    mask = INSIDE[:, :, None] & ~missing
    rates, spikes = data.rates[VALID], data.spikes[VALID]
    assert found["reconstruction_bits_per_spike_valid"] == bits_per_spike(rates, spikes, mask=mask[VALID])
    expected = co_smoothing_bits_per_spike(rates, spikes, [1, 3], mask[VALID])
    assert found["co_smoothing_bits_per_spike_valid"] == expected
    # What stands in these samples changes nothing.
    other = replace(masked, spikes=np.where(missing, 50, data.spikes))
    assert score(request_of(held_out_neurons=(1, 3)), other, nothing) == found
