import dataclasses
import math

import numpy as np
import pytest
import torch

from domain.scores import poisson_nll, r2_true_rates
from domain.synthetic import lorenz
from models import (
    Architecture,
    ConfigurationError,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
    sample_validation_mask,
)
from models.data import evenly
from models.objective import PackHyperparameters, draw_noise, training_loss
from tests.models import reference

ARCHITECTURE = Architecture(neurons=4, encoder_units=6, initial_condition_dim=3, generator_units=8, factors=3)
OPTIONS = TrainingOptions(batch_size=8, ramp_epochs=3)
MODELS = [
    Hyperparameters(dropout=0.2, cd_rate=0.3),
    Hyperparameters(learning_rate=1e-3, dropout=0.0, cd_rate=0.0),
    Hyperparameters(learning_rate=8e-3, dropout=0.4, cd_rate=0.6, cd_pass_rate=0.2, l2_weight_generator=0.5),
]
SEEDS = [11, 12, 13]


def recording(trials=26):
    random = np.random.default_rng(2)
    spikes = random.poisson(0.6, (trials, 9, 4))
    return spikes, random.integers(3, 10, trials), np.arange(trials) % 4 == 3


def data(sv_rate=0.2):
    return TrainingData(Session(*recording()), sv_rate=sv_rate, sv_seed=4)


def population(members=(0, 1, 2), states=None, options=OPTIONS, models=MODELS, training_data=None):
    return Population(
        ARCHITECTURE,
        [models[m] for m in members],
        [SEEDS[m] for m in members],
        training_data or data(),
        options,
        order_seed=9,
        states=states,
    )


def assert_same_state(first, second, *, exactly):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].dtype == second[name].dtype
        tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-3, "atol": 2e-5}
        torch.testing.assert_close(first[name], second[name], **tolerance, msg=name)


def test_resuming_equals_not_stopping():
    whole, begun = population(), population()
    for _ in range(4):
        expected = whole.train_epoch()
    for _ in range(2):
        begun.train_epoch()
    resumed = population(states=[begun.state(m) for m in range(3)])
    assert resumed.epoch == 2
    resumed.train_epoch()
    assert resumed.train_epoch() == expected
    for m in range(3):
        assert_same_state(resumed.state(m), whole.state(m), exactly=True)


def test_a_model_has_the_same_curve_alone_and_in_any_pack():
    together, shuffled = population(), population((2, 0))
    alone = [population((m,)) for m in range(3)]
    for _ in range(3):
        scores = together.train_epoch()
        others = shuffled.train_epoch()
        single = [p.train_epoch()[0] for p in alone]
    for m in range(3):
        for other in (single[m], *([others[1]] if m == 0 else [others[0]] if m == 2 else [])):
            assert dataclasses.astuple(other) == pytest.approx(dataclasses.astuple(scores[m]), rel=1e-4)
        assert_same_state(alone[m].state(0), together.state(m), exactly=False)


@pytest.mark.parametrize(
    ("lengths", "most"),
    [([20], 8), ([20], 50), ([1, 1, 1], 2), ([3] * 10, 4), ([100, 7, 1], 16), ([5, 0], 2), ([0, 0], 4)],
)
def test_steps_are_of_even_size_with_every_session_spread_over_them(lengths, most):
    trials = [torch.arange(length) + 1000 * number for number, length in enumerate(lengths)]
    steps = list(evenly(trials, most))
    sizes = [sum(map(len, step)) for step in steps]
    assert len(steps) == max(1, -(-sum(lengths) // most))
    assert max(sizes) <= most
    assert max(sizes) - min(sizes) <= 1
    for number, whole in enumerate(trials):
        parts = [step[number] for step in steps]
        assert torch.equal(torch.cat(parts), whole)
        if len(whole) >= len(steps):
            assert max(map(len, parts)) - min(map(len, parts)) <= 2


def test_starts_of_unknown_parameters_are_refused():
    with pytest.raises(ConfigurationError, match=r"read_in\.weigth"):
        Population(
            ARCHITECTURE,
            MODELS[:1],
            [0],
            data(),
            OPTIONS,
            order_seed=0,
            initial_values={"read_in.weigth": torch.ones(1)},
        )


def test_validation_trials_that_end_before_rates_begin_are_refused():
    spikes, lengths, is_validation = recording()
    lengths[is_validation] = 3
    short = TrainingData(Session(spikes, lengths, is_validation), sv_rate=0.2, sv_seed=4)
    windowed = dataclasses.replace(ARCHITECTURE, initial_condition_bins=3)
    with pytest.raises(ConfigurationError, match="no held-out validation sample after the first 3 bins"):
        Population(windowed, MODELS[:1], [0], short, OPTIONS, order_seed=0)


def test_models_that_leave_change_nothing_for_those_that_stay():
    whole, left = population(), population()
    for together in (whole, left):
        together.train_epoch()
    left.keep([2, 0])
    assert (left.seeds, left.epoch) == ([whole.seeds[2], whole.seeds[0]], 1)
    for _ in range(2):
        expected, scores = whole.train_epoch(), left.train_epoch()
    for m, stayed in zip((2, 0), scores, strict=True):
        assert dataclasses.astuple(stayed) == pytest.approx(dataclasses.astuple(expected[m]), rel=1e-4)
    for index, m in enumerate((2, 0)):
        assert_same_state(left.state(index), whole.state(m), exactly=False)
    for wrong in ([], [2], [-1]):
        with pytest.raises(ConfigurationError):
            left.keep(wrong)


def test_a_state_moves_to_another_pack_and_other_hyperparameters():
    first = population((0, 1))
    first.train_epoch()
    states = [first.state(1), first.state(0), first.state(1)]
    copied = population((1, 0, 2), states=states)
    for m, state in enumerate(states):
        assert_same_state(copied.state(m), state, exactly=True)
    assert [s.learning_rate for s in copied.train_epoch()] == pytest.approx([1e-3, 4e-3, 8e-3])


def test_states_are_separate_contiguous_cpu_tensors():
    trained = population()
    trained.train_epoch()
    state = trained.state(1)
    assert len({value.untyped_storage().data_ptr() for value in state.values()}) == len(state)
    assert all(value.is_contiguous() and value.device.type == "cpu" for value in state.values())
    assert state["epoch"].dtype == torch.int64
    assert state["smoothed_sv_loss"].dtype == torch.float64
    before = state["weights.rates.bias"].clone()
    trained.train_epoch()
    assert torch.equal(before, state["weights.rates.bias"])


def test_a_diverging_model_is_frozen_and_disturbs_nobody():
    wild = [MODELS[0], Hyperparameters(learning_rate=1e30), MODELS[2]]
    pack, calm = population(models=wild), population((0, 2))
    for _ in range(3):
        scores, expected = pack.train_epoch(), calm.train_epoch()
    assert pack.alive == [True, False, True]
    assert [s.diverged for s in scores] == [False, True, False]
    for ours, theirs in zip((scores[0], scores[2]), expected, strict=True):
        assert dataclasses.astuple(ours) == pytest.approx(dataclasses.astuple(theirs), rel=1e-4)
    frozen = pack.state(1)
    pack.train_epoch()
    assert torch.equal(frozen["weights.rates.bias"], pack.state(1)["weights.rates.bias"])
    assert all(
        torch.isfinite(frozen[f"best.{name}"]).all() for name in ("rates.bias", "generator.recurrent_weight")
    )
    resumed = population(models=wild, states=[pack.state(m) for m in range(3)])
    assert resumed.alive == [True, False, True]


def test_a_batch_larger_than_the_data_trains_on_what_is_there():
    large = population(options=TrainingOptions(batch_size=10_000))
    before = large.state(0)["weights.rates.bias"]
    steps = []
    large.train_epoch(lambda: steps.append(1))
    assert len(steps) == 3  # one of training, one each for validation and training trials' scores
    assert not torch.equal(before, large.state(0)["weights.rates.bias"])


def test_every_training_trial_is_used_once_an_epoch_in_a_new_order():
    trained = population(options=TrainingOptions(batch_size=9))

    def batches():
        return [trials for (trials,) in trained._training_batches()]

    first = torch.cat(batches())
    assert sorted(first.tolist()) == trained.data.training_trials[0].tolist()
    assert [len(b) for b in batches()] == [7, 7, 6]  # as even as can be, none above the batch size
    trained.train_epoch()
    assert first.tolist() != torch.cat(batches()).tolist()


CONTROLLED = dataclasses.replace(
    ARCHITECTURE, controller_units=5, controller_encoder_units=4, inferred_inputs=2
)


@pytest.mark.parametrize("architecture", [ARCHITECTURE, CONTROLLED], ids=["off", "on"])
def test_scores_are_the_mean_likelihoods_from_the_posterior_mean(architecture):
    spikes, lengths, validation = recording()
    training = data()
    trained = Population(architecture, MODELS[:1], SEEDS[:1], training, OPTIONS, order_seed=9)
    (scores,) = trained.train_epoch()
    weights = {name: v[0].detach().double() for name, v in trained._named(trained._weights).items()}
    hidden = torch.from_numpy(sample_validation_mask(spikes.shape, 0.2, 4)[validation])
    x = torch.from_numpy(spikes[validation]).double()
    nothing = torch.zeros(x.shape, dtype=torch.bool)
    entered = torch.where(hidden, 0.0, x) / 0.8
    ends = lengths[validation].tolist()
    at_mean = torch.zeros(len(x), 3).double(), torch.zeros(len(x), 9, architecture.inferred_inputs).double()
    rates = reference.infer(architecture, weights, 0, entered, ends, nothing, None, *at_mean).rates
    inside = torch.arange(9)[None, :, None] < torch.tensor(ends)[:, None, None]
    nll = -torch.distributions.Poisson(rates.nan_to_num(1.0)).log_prob(x)
    assert scores.sv_loss == pytest.approx(nll[hidden & inside].mean().item(), rel=1e-5)
    assert scores.validation_loss == pytest.approx(nll[~hidden & inside].mean().item(), rel=1e-5)
    assert scores.smoothed_sv_loss == scores.sv_loss == scores.best_smoothed_sv_loss


def test_the_learning_rate_decays_while_the_score_does_not_improve():
    options = TrainingOptions(
        batch_size=8, ramp_epochs=2, decay_factor=0.5, decay_patience=2, min_learning_rate=1.5e-3
    )
    stuck = [Hyperparameters(learning_rate=1e-12), Hyperparameters(learning_rate=1e-2)]
    trained = population((0, 1), options=options, models=stuck)
    trained._best_smoothed[:] = -math.inf  # nothing improves on that
    rates = [scores.learning_rate for _ in range(8) for scores in trained.train_epoch()[1:]]
    # the ramp's two epochs do not count; then halved after every two epochs, but not below the least rate
    assert rates == pytest.approx([1e-2] * 4 + [5e-3] * 2 + [2.5e-3] * 2)
    resumed = population((0, 1), options=options, models=stuck, states=[trained.state(m) for m in range(2)])
    last = [resumed.train_epoch()[1].learning_rate for _ in range(4)]
    assert last == pytest.approx([1.5e-3] * 4)
    assert resumed._learning_rates()[0] == pytest.approx(1e-12)  # a rate below the least one stays


def test_sessions_are_mixed_in_every_step_and_all_their_trials_are_used():
    random = np.random.default_rng(3)
    sessions = [
        Session(random.poisson(0.6, (n, 9, neurons)), np.full(n, 9), np.arange(n) % 4 == 3)
        for n, neurons in ((24, 4), (8, 3))
    ]
    training = TrainingData(sessions, sv_rate=0.2, sv_seed=0)
    architecture = dataclasses.replace(ARCHITECTURE, neurons=(4, 3), read_in_dim=2)
    trained = Population(architecture, MODELS, SEEDS, training, OPTIONS, order_seed=0)
    steps = list(trained._training_batches())
    assert [[len(part) for part in step] for step in steps] == [[6, 2]] * 3
    for session in range(2):
        used = torch.cat([step[session] for step in steps])
        assert sorted(used.tolist()) == training.training_trials[session].tolist()
    before = trained.state(0)
    assert all(math.isfinite(scores.sv_loss) for scores in trained.train_epoch())
    after = trained.state(0)
    for name in ("session0.rates.weight", "session1.rates.weight", "session1.read_in.weight"):
        assert not torch.equal(before[f"weights.{name}"], after[f"weights.{name}"])


def test_held_out_counts_change_the_sv_score_and_nothing_else():
    spikes, lengths, validation = recording()
    inside = (np.arange(9) < lengths[:, None])[:, :, None]
    mask = sample_validation_mask(spikes.shape, 0.2, 4) & inside
    changed = np.where(mask, spikes + 3, spikes)
    runs = []
    for counts in (spikes, changed):
        session = Session(counts, lengths, validation)
        trained = population(training_data=TrainingData(session, sv_rate=0.2, sv_seed=4))
        for _ in range(2):
            scores = trained.train_epoch()
        runs.append((scores, trained.state(0)))
    for first, second in zip(runs[0][0], runs[1][0], strict=True):
        assert first.validation_loss == second.validation_loss
        assert first.train_loss == second.train_loss
        assert second.sv_loss > first.sv_loss + 0.5
        assert second.sv_loss_train > first.sv_loss_train + 0.5
    for name, value in runs[0][1].items():
        if name.startswith(("weights.", "adam")):
            assert torch.equal(value, runs[1][1][name]), name


def test_without_sample_validation_the_validation_loss_selects():
    (scores,) = population((0,), training_data=data(sv_rate=0.0)).train_epoch()
    assert scores.sv_loss == scores.validation_loss
    assert scores.sv_loss_train is None


def test_smoothing_and_best_weights():
    trained = population((2,), options=TrainingOptions(batch_size=8, ramp_epochs=0, score_smoothing=0.8))
    smoothed, best, best_weights = None, math.inf, None
    for epoch in range(1, 9):
        (scores,) = trained.train_epoch()
        smoothed = scores.sv_loss if smoothed is None else 0.8 * smoothed + 0.2 * scores.sv_loss
        assert scores.epoch == epoch
        assert scores.smoothed_sv_loss == pytest.approx(smoothed, rel=1e-12)
        state = trained.state(0)
        if smoothed < best:
            best, best_weights = smoothed, state["weights.rates.weight"]
            best_losses = scores.sv_loss, scores.validation_loss
            assert state["best_epoch"] == epoch
        assert scores.best_smoothed_sv_loss == pytest.approx(best, rel=1e-12)
        assert torch.equal(state["best.rates.weight"], best_weights)
        assert (scores.best_sv_loss, scores.best_validation_loss) == best_losses
        assert (state["best_sv_loss"], state["best_validation_loss"]) == best_losses


def test_losses_of_the_best_epoch_move_with_a_state_and_are_not_known_in_older_ones():
    first = population((0, 1))
    for _ in range(2):
        trained = first.train_epoch()
    copied = population((1, 0), states=[first.state(1), first.state(0)])
    copied._best_smoothed[:] = -math.inf  # nothing improves on that
    for scores, parent in zip(copied.train_epoch(), reversed(trained), strict=True):
        assert (scores.best_sv_loss, scores.best_validation_loss) == (
            parent.best_sv_loss,
            parent.best_validation_loss,
        )
        assert scores.sv_loss != scores.best_sv_loss
    older = {
        name: value
        for name, value in first.state(0).items()
        if name not in ("best_sv_loss", "best_validation_loss")
    }
    resumed = population((0,), states=[older])
    assert math.isnan(resumed.state(0)["best_sv_loss"])
    resumed._best_smoothed[:] = -math.inf
    (scores,) = resumed.train_epoch()
    assert math.isnan(scores.best_sv_loss)
    assert math.isnan(scores.best_validation_loss)
    resumed._best_smoothed[:] = math.inf  # the next epoch is the best
    (scores,) = resumed.train_epoch()
    assert (scores.best_sv_loss, scores.best_validation_loss) == (scores.sv_loss, scores.validation_loss)


def test_on_step_may_abort():
    def abort():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        population().train_epoch(abort)


def test_what_does_not_fit_is_refused():
    training = data()
    first = population()
    state = first.state(0)
    build = {"order_seed": 0}
    with pytest.raises(ConfigurationError, match=r"\(5,\) neurons \(by session\), the data have \(4,\)"):
        Population(Architecture(neurons=5), MODELS, SEEDS, training, OPTIONS, **build)
    with pytest.raises(ConfigurationError, match="at least one model"):
        Population(ARCHITECTURE, [], [], training, OPTIONS, **build)
    with pytest.raises(ConfigurationError, match="3 hyperparameters, got 2 seeds"):
        Population(ARCHITECTURE, MODELS, SEEDS[:2], training, OPTIONS, **build)
    first.train_epoch()
    with pytest.raises(ConfigurationError, match=r"at one epoch, got states at \[0, 1\]"):
        population((0, 1), states=[state, first.state(1)])
    with pytest.raises(ConfigurationError, match=r"lacks 'best.prior.mean'"):
        population((0,), states=[{k: v for k, v in state.items() if k != "best.prior.mean"}])
    other = dataclasses.replace(ARCHITECTURE, factors=2)
    with pytest.raises(ConfigurationError, match=r"shape \(3, 8\), the architecture needs \(2, 8\)"):
        Population(other, MODELS[:1], SEEDS[:1], training, OPTIONS, states=[state], **build)
    with pytest.raises(ConfigurationError, match="index must lie in 0 … 2, got 3"):
        first.state(3)


def test_a_short_run_learns_the_true_rates():
    made = lorenz(conditions=12, trials_per_condition=20, bins=25, neurons=20, mean_count_per_bin=0.5, seed=1)
    lengths = np.full(len(made.spikes), 25)
    training = TrainingData(Session(made.spikes, lengths, made.is_validation), sv_rate=0.2, sv_seed=0)
    architecture = Architecture(20, encoder_units=32, initial_condition_dim=16, generator_units=48, factors=8)
    models = [Hyperparameters(learning_rate=1e-2, cd_rate=rate) for rate in (0.3, 0.5)]
    trained = Population(
        architecture, models, [0, 1], training, TrainingOptions(32, ramp_epochs=10), order_seed=0
    )
    true_rates = made.true_rates_hz * made.bin_width_s
    ceiling = poisson_nll(true_rates, made.spikes)

    def r2(index):
        latents = infer_latents(architecture, trained.state(index), made.spikes, lengths, posterior_samples=5)
        return r2_true_rates(latents.rates, true_rates)

    first = trained.train_epoch()
    early = r2(0)
    for _ in range(24):
        last = trained.train_epoch()
    assert early < 0.3
    for m in range(2):
        assert last[m].smoothed_sv_loss < first[m].sv_loss - 0.03
        assert last[m].sv_loss > ceiling - 0.02  # nobody beats the truth on what it has not seen
        assert r2(m) > 0.8


@pytest.mark.parametrize("clip", [1e-3, 1e3], ids=["clipped", "free"])
def test_steps_are_those_of_torchs_adam(clip):
    options = TrainingOptions(batch_size=8, ramp_epochs=1, gradient_clip=clip, precision="float32")
    ours = population(options=options)
    expected = []
    for m in range(3):
        alone = population((m,), options=options)
        weights = alone._weights.clone().requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=MODELS[m].learning_rate, eps=1e-10)
        norms = []
        for epoch in range(2):
            alone.epoch = epoch
            batches = list(alone._training_batches())
            for step, trials in enumerate(batches):
                count = [len(part) for part in trials]
                noise = draw_noise(
                    ARCHITECTURE, [SEEDS[m]], epoch, step, bins=9, trials=count, device=torch.device("cpu")
                )
                loss = training_loss(
                    ARCHITECTURE,
                    alone._named(weights),
                    PackHyperparameters.of([MODELS[m]], torch.device("cpu")),
                    alone.data.batch(trials),
                    noise,
                    sv_rate=0.2,
                    ramp=min(1.0, epoch + step / len(batches)),
                )
                optimizer.zero_grad()
                loss.total.sum().backward()
                norms.append(torch.nn.utils.clip_grad_norm_([weights], clip).item())
                optimizer.step()
        assert (np.array(norms) > clip).all() if clip < 1 else (np.array(norms) < clip).all()
        expected.append(weights[0].detach())
    for _ in range(2):
        ours.train_epoch()
    torch.testing.assert_close(ours._weights, torch.stack(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("one_thread")
def test_precision_changes_training_and_no_score():
    """With a learning rate of next to nothing weights stay, so that scores are of the same model."""
    still = [dataclasses.replace(model, learning_rate=1e-30) for model in MODELS]
    in_float32, in_bfloat16 = (
        population(models=still, options=TrainingOptions(batch_size=8, precision=precision)).train_epoch()
        for precision in ("float32", "bfloat16")
    )
    for exact, rounded in zip(in_float32, in_bfloat16, strict=True):
        assert (rounded.sv_loss, rounded.validation_loss) == (exact.sv_loss, exact.validation_loss)
        assert rounded.train_loss == pytest.approx(exact.train_loss, rel=1e-3)
        assert rounded.train_loss != exact.train_loss


def test_an_exploded_loss_freezes_the_model_though_everything_is_finite():
    begun = population((0, 2))
    states = [begun.state(0), begun.state(1)]
    states[0]["weights.rates.bias"] += 7.0  # a thousand times the true rates
    pack, calm = population((0, 2), states=states), population((2,))
    scores, (expected,) = pack.train_epoch(), calm.train_epoch()
    assert math.isfinite(scores[0].train_loss)
    assert math.isfinite(scores[0].gradient_norm)
    assert [s.diverged for s in scores] == [True, False]
    assert torch.equal(pack.state(0)["weights.rates.bias"], states[0]["weights.rates.bias"])
    assert dataclasses.astuple(scores[1]) == pytest.approx(dataclasses.astuple(expected), rel=1e-4)
