"""Test trials and simple predictors in a job: scores by definition, from what the service stores."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from domain.scores import bits_per_spike, poisson_nll, r2_true_rates
from domain.scores.baselines import Recording, fit_baselines
from models import Hyperparameters, Population, Session, TrainingData, TrainingOptions
from models.evaluation import predict_held_out
from store.tables import Model
from tests.worker.fake_workers import read_job
from tests.worker.lab import Lab
from worker.context.checkpoints import load_checkpoint
from worker.context.data import read_sessions
from worker.context.slices import Work
from worker.inference.diagnostics import baseline_warning

TRAINING = {"batch_size": 16, "ramp_epochs": 2, "test_fraction": 0.25}
BUDGET = {"models": 2, "epochs": 4}
CONDITIONS = np.arange(60) % 3


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def dataset_id(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Ragged trials of three conditions whose rates differ much, and true rates."""
    random = np.random.default_rng(0)
    course = np.sin(np.arange(20) / 4 + 2 * CONDITIONS[:, None])[:, :, None] * random.normal(size=12)
    rates_hz = np.minimum(50 * np.exp(1.5 * course), 250)
    lengths = np.where(np.arange(60) % 4 == 0, 15, 20)
    spikes = random.poisson(rates_hz * 0.02)
    spikes[np.arange(20) >= lengths[:, None]] = 0
    path = tmp_path_factory.mktemp("files") / "conditions.npz"
    np.savez(
        path, spikes=spikes, bin_width_s=0.02, true_rates_hz=rates_hz, trial_length_bins=lengths, condition=CONDITIONS
    )  # fmt: skip
    return lab.ingest(path)


@pytest.fixture(scope="module")
def job_id(lab: Lab, dataset_id: str) -> str:
    return lab.search(dataset_id, training=TRAINING, budget=BUDGET)


@pytest.fixture(scope="module")
def work(lab: Lab, dataset_id: str) -> Work:
    """A slice of an equal job."""
    return lab.work(lab.begin(dataset_id, training=TRAINING, budget=BUDGET))


def split_of(lab: Lab, model: Model) -> NDArray[np.str_]:
    return np.array(["train", "valid", "test"])[lab.array(f"models/{model.id}", "split")]


def bits_of_loss(loss: float, spikes: NDArray[Any], chosen: NDArray[np.bool_]) -> float:
    """A loss in nats per sample as the gain over each neuron's mean over the samples that are chosen."""
    means = np.where(chosen, spikes, 0).sum((0, 1)) / chosen.sum((0, 1))
    reference = poisson_nll(np.broadcast_to(means, spikes.shape), spikes, chosen)
    return float((reference - loss) * chosen.sum() / (spikes[chosen].sum() * math.log(2)))


def test_test_trials_are_scored_as_validation_trials_are(lab: Lab, job_id: str, work: Work) -> None:
    model = lab.selected(job_id)
    split = split_of(lab, model)
    assert [(split == part).sum() for part in ("train", "valid", "test")] == [33, 12, 15]
    kinds = (
        "sv_bits_per_spike", "reconstruction_bits_per_spike", "r2_true_rates", "psth_r2",
    )  # fmt: skip
    for kind in kinds:
        assert isinstance(model.scores[f"{kind}_valid"], float), kind
        assert isinstance(model.scores[f"{kind}_test"], float), kind
    # The same weights, evaluated by the training program on a job whose validation trials are these test trials.
    given = read_sessions(lab.arrays, work)[0]
    swapped = Session(given.spikes, given.trial_length_bins, split == "test", is_test=split == "valid")
    state = load_checkpoint(lab.arrays, model.checkpoint_key or "")
    best = {name.replace("best.", "weights."): values for name, values in state.items() if "best." in name}
    data = TrainingData(swapped, sv_rate=0.2, sv_seed=0)
    population = Population(
        work.architecture(), [Hyperparameters()], [0], data, TrainingOptions(16), order_seed=0, states=[state | best]
    )  # fmt: skip
    [loss], _ = population._evaluate(data.validation_trials, lambda: None)
    assert model.scores["sv_loss_test"] == pytest.approx(float(loss), rel=1e-6)
    batch = data.batch(data.validation_trials)
    held_out = batch.parts[0].held_out.numpy().swapaxes(0, 1)
    expected = bits_of_loss(float(loss), given.spikes[split == "test"], held_out)
    assert model.scores["sv_bits_per_spike_test"] == pytest.approx(expected, rel=1e-4)


def test_the_held_out_samples_do_not_depend_on_test_trials(
    lab: Lab, job_id: str, dataset_id: str, work: Work
) -> None:
    """Nor do the validation trials."""
    other = lab.work(lab.begin(dataset_id, training={**TRAINING, "test_fraction": 0.0}, budget=BUDGET))
    both = lab.process.data.load(work).training, lab.process.data.load(other).training
    everything = torch.arange(60)
    first, second = (data.batch([everything]).parts[0] for data in both)
    assert torch.equal(first.held_out, second.held_out)
    assert torch.equal(first.visible, second.visible)
    assert torch.equal(both[0].validation_trials[0], both[1].validation_trials[0])
    assert (len(both[0].test_trials[0]), len(both[1].test_trials[0])) == (15, 0)
    of_training = set(both[1].training_trials[0].tolist())
    assert of_training == set(both[0].training_trials[0].tolist()) | set(both[0].test_trials[0].tolist())


def test_held_out_samples_of_test_trials_are_not_read(lab: Lab, job_id: str, work: Work) -> None:
    model, given = lab.selected(job_id), read_sessions(lab.arrays, work)[0]
    state, found = load_checkpoint(lab.arrays, model.checkpoint_key or ""), []
    held_out = (
        lab.process.data.load(work)
        .training.batch([torch.arange(60)])
        .parts[0]
        .held_out.numpy()
        .swapaxes(0, 1)
    )
    for spikes in (given.spikes, np.where(held_out, given.spikes + 5, given.spikes)):
        session = Session(spikes, given.trial_length_bins, given.is_validation, is_test=given.is_test)
        data = TrainingData(session, sv_rate=0.2, sv_seed=0)
        [predicted] = predict_held_out(work.architecture(), state, data, data.test_trials)
        found.append(predicted)
    np.testing.assert_array_equal(found[0].rates, found[1].rates)
    assert (found[1].values - found[0].values).max() == 5
    assert found[1].nll != found[0].nll


def test_baselines_are_scored_on_the_same_samples(lab: Lab, job_id: str, work: Work) -> None:
    model = lab.selected(job_id)
    split, given = split_of(lab, model), read_sessions(lab.arrays, work)[0]
    data = lab.process.data.load(work).training
    part = data.batch([torch.arange(60)]).parts[0]
    enters, held_out = (mask.numpy().swapaxes(0, 1) for mask in (part.visible, part.held_out))
    training = split == "train"
    fitted = fit_baselines(
        [Recording(given.spikes[training], enters[training], CONDITIONS[training].astype(np.int64))]
    )
    assert model.baselines is not None
    assert model.baseline_settings == {
        "psth": {
            "sd_s": fitted.psth.sd_bins * 0.02, "prior_spikes": fitted.psth.prior_spikes, "by_condition": True
        },
        "smoothed_spikes": {
            "sd_s": fitted.smoothed_spikes.sd_bins * 0.02, "prior_spikes": fitted.smoothed_spikes.prior_spikes,
        },
    }  # fmt: skip
    inside = np.broadcast_to((np.arange(20) < given.trial_length_bins[:, None])[:, :, None], enters.shape)
    for name in ("valid", "test"):
        chosen = split == name
        spikes, read, hidden = given.spikes[chosen], enters[chosen], held_out[chosen]
        constant = np.broadcast_to(fitted.means[0], spikes.shape)
        psth = fitted.predict_psth(0, CONDITIONS[chosen].astype(np.int64))
        of = {"mean": constant, "psth": psth, "smoothed_spikes": fitted.predict_smoothed(0, spikes, read)}
        expected = {one: bits_per_spike(rates, spikes, mask=hidden) for one, rates in of.items()}
        assert model.baselines[f"sv_bits_per_spike_{name}"] == pytest.approx(expected, rel=1e-4)
        of["smoothed_spikes"] = fitted.predict_smoothed(0, spikes, inside[chosen])
        for kind, against in (("reconstruction_bits_per_spike", spikes), ("r2_true_rates", None)):
            truth = lab.array(f"datasets/{work.dataset.id}", "true_rates_hz")[chosen] * 0.02
            expected = {
                one: bits_per_spike(rates, against, mask=inside[chosen])
                if against is not None
                else r2_true_rates(rates, truth, mask=inside[chosen])
                for one, rates in of.items()
            }
            assert model.baselines[f"{kind}_{name}"] == pytest.approx(expected, rel=1e-4, abs=1e-6), kind
    assert model.baselines.keys() == {
        name for name in model.scores if name.endswith(("_valid", "_test")) and "loss" not in name
    } | {"r2_true_rates"}
    answer = lab.client.get(f"/v1/models/{model.id}").json()
    assert answer["baselines"] == model.baselines
    assert answer["baseline_settings"] == model.baseline_settings


def test_constant_rates_are_the_mean_of_the_baselines(lab: Lab, job_id: str, work: Work) -> None:
    """The diagnostics' SV loss of constant rates and the baseline `mean` are one thing in two units."""
    model, diagnostics = lab.selected(job_id), read_job(lab.database, job_id).diagnostics
    assert diagnostics is not None
    data = lab.process.data.load(work).training
    batch = data.batch(data.validation_trials)
    held_out = batch.parts[0].held_out.numpy().swapaxes(0, 1)
    spikes = batch.parts[0].values.numpy().swapaxes(0, 1)
    expected = bits_of_loss(diagnostics["constant_sv_loss"], spikes, held_out)
    assert model.baselines is not None
    assert model.baselines["sv_bits_per_spike_valid"]["mean"] == pytest.approx(expected, rel=1e-3)


def test_a_model_below_a_baseline_is_told(lab: Lab, job_id: str) -> None:
    """After four epochs it knows less than the means by bin and condition, which the rates follow exactly."""
    model, job = lab.selected(job_id), lab.client.get(f"/v1/jobs/{job_id}").json()
    compared = {(one["score"], one["baseline"]): one for one in job["diagnostics"]["baselines"]}
    assert len(compared) == 6
    one = compared["sv_bits_per_spike_test", "psth"]
    assert model.baselines is not None
    difference = model.scores["sv_bits_per_spike_test"] - model.baselines["sv_bits_per_spike_test"]["psth"]
    assert one["difference"] == pytest.approx(difference)
    assert one["verdict"] == "below"
    assert one["difference"] < -2 * one["standard_error"] < 0
    warning = job["diagnostics"]["warning"]
    assert "held-out samples of test trials worse than" in warning
    assert (
        f"the mean by bin over training trials ({difference * -1 + model.scores['sv_bits_per_spike_test']:.3g})"
        in warning
    )
    assert "train for more (budget.epochs)" in warning, "its best epoch is the last"


SCORES: Any = {"sv_bits_per_spike_valid": 0.2, "sv_bits_per_spike_test": 0.1}
BESIDE: Any = {name: {"mean": 0.0, "psth": 0.15} for name in SCORES}


def compared(**verdicts: str) -> list[dict[str, str]]:
    """Comparisons by part and baseline, as in valid_mean."""
    return [
        {
            "score": f"sv_bits_per_spike_{name.split('_')[0]}",
            "baseline": name.split("_")[1],
            "verdict": verdict,
        }
        for name, verdict in verdicts.items()
    ]


def test_the_warning_advises_by_when_the_model_was_best() -> None:
    mean = compared(valid_mean="below")
    early = baseline_warning(SCORES, BESIDE, mean, 40, 100)
    assert early is not None
    assert "has not fallen since epoch 40 of 100, so more epochs do not help" in early
    assert "whether the rates change within the trials" in early
    late = baseline_warning(SCORES, BESIDE, mean, 95, 100)
    assert late is not None
    assert "Its best epoch is 95 of 100: train for more" in late


def test_the_warning_says_which_baselines_the_model_does_not_beat() -> None:
    best = baseline_warning(SCORES, BESIDE, compared(valid_mean="above", valid_psth="above"), 40, 100)
    assert best is None
    equal = baseline_warning(
        SCORES, BESIDE, compared(valid_mean="above", valid_psth="about_as_good"), 40, 100
    )
    assert equal is not None
    assert (
        "validation trials about as well as the mean by bin over training trials (0.15): it reaches 0.2"
        in equal
    )
    assert "within its sampling error" in equal
    both = compared(valid_mean="above", valid_psth="above", test_mean="about_as_good", test_psth="below")
    of_test = baseline_warning(SCORES, BESIDE, both, 40, 100)
    assert of_test is not None
    assert "test trials worse than the mean by bin over training trials (0.15): it reaches 0.1" in of_test
    assert "each neuron's mean" not in of_test
    assert baseline_warning({}, {}, [], 0, 0) is None


def test_a_last_fit_has_baselines_of_all_trials_that_it_was_trained_on(
    lab: Lab, dataset_id: str, work: Work
) -> None:
    inference = {"posterior_samples": 2, "refit": True}
    job_id = lab.search(dataset_id, training=TRAINING, budget={"models": 1, "epochs": 2}, inference=inference)
    model = lab.selected(job_id)
    assert model.refit_of == 0
    split, given = split_of(lab, model), read_sessions(lab.arrays, work)[0]
    part = lab.process.data.load(work).training.batch([torch.arange(60)]).parts[0]
    enters, held_out = (mask.numpy().swapaxes(0, 1) for mask in (part.visible, part.held_out))
    trained, tested = split != "test", split == "test"
    means = (np.where(enters, given.spikes, 0)[trained].sum((0, 1)) + 0.5) / (enters[trained].sum((0, 1)) + 1)
    constant = np.broadcast_to(means, given.spikes[tested].shape)
    expected = bits_per_spike(constant, given.spikes[tested], mask=held_out[tested])
    assert model.baselines is not None
    assert model.baselines["sv_bits_per_spike_test"]["mean"] == pytest.approx(expected, rel=1e-3)
