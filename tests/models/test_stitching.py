import numpy as np
import pytest
import torch

from domain.synthetic import two_sessions
from models import (
    Architecture,
    ConfigurationError,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    principal_components_initial_values,
)

D = 3


@pytest.fixture(scope="module")
def recordings():
    return two_sessions(
        conditions=12, trials_per_condition=20, bins=40, neurons=(25, 18), mean_count_per_bin=0.5
    )


def sessions_of(recordings):
    return [Session(r.spikes, np.full(len(r.spikes), 40), r.is_validation) for r in recordings]


def architecture(**changes):
    sizes = {"encoder_units": 8, "initial_condition_dim": 4, "generator_units": 12, "factors": D}
    return Architecture(neurons=(25, 18), **({"read_in_dim": D} | sizes | changes))


def test_read_ins_bring_the_sessions_into_common_coordinates(recordings):
    sessions = sessions_of(recordings)
    start = principal_components_initial_values(architecture(), sessions, [r.condition for r in recordings])
    read = []
    for number, recording in enumerate(recordings):
        weight = start[f"session{number}.read_in.weight"].numpy()
        bias = start[f"session{number}.read_in.bias"].numpy()
        rates = recording.true_rates_hz * recording.bin_width_s
        by_condition = np.stack([rates[recording.condition == c][0] for c in range(12)])  # trials share rates
        read.append((by_condition @ weight + bias).reshape(-1, D))
    correlations = [np.corrcoef(read[0][:, k], read[1][:, k])[0, 1] for k in range(D)]
    assert min(correlations) > 0.8
    # read-outs: what a factor does to the neurons is what the component does to their log-rates
    logs = [np.log(r.true_rates_hz).reshape(-1, r.true_rates_hz.shape[2]) for r in recordings]
    for number, log in enumerate(logs):
        conditions = recordings[number].condition.repeat(40)
        first = np.unique(
            conditions * 1000 + np.tile(np.arange(40), len(conditions) // 40), return_index=True
        )[1]
        predicted = read[number] @ start[f"session{number}.rates.weight"].numpy()
        measured = log[first] - log[first].mean(0)
        explained = np.corrcoef(predicted.ravel(), measured.ravel())[0, 1]
        assert explained > 0.7


def test_without_conditions_all_trials_are_averaged(recordings):
    start = principal_components_initial_values(architecture(factors=5), sessions_of(recordings))
    assert start["session0.read_in.weight"].shape == (25, D)
    assert start["session1.rates.weight"].shape == (5, 18)
    assert all(torch.isfinite(values).all() for values in start.values())


def test_read_ins_are_of_the_size_of_random_ones(recordings):
    start = principal_components_initial_values(
        architecture(), sessions_of(recordings), [r.condition for r in recordings]
    )
    squares = [float(start[f"session{number}.read_in.weight"].square().sum()) for number in range(2)]
    assert np.mean(squares) == pytest.approx(D, rel=1e-4)  # N weights of variance 1 / N for each of D


def test_every_model_of_a_population_begins_there(recordings):
    sessions = sessions_of(recordings)
    start = principal_components_initial_values(architecture(), sessions, [r.condition for r in recordings])
    data = TrainingData(sessions, sv_rate=0.2, sv_seed=0)
    options = TrainingOptions(64)
    population = Population(
        architecture(), [Hyperparameters()] * 2, [0, 1], data, options, order_seed=0, initial_values=start
    )
    for model in range(2):
        state = population.state(model)
        for name, values in start.items():
            assert torch.equal(state[f"weights.{name}"], values)


def test_validation_trials_are_not_looked_at(recordings):
    sessions = sessions_of(recordings)
    changed = []
    for session in sessions:
        spikes = session.spikes.copy()
        spikes[session.is_validation] = 99
        changed.append(Session(spikes, session.trial_length_bins, session.is_validation))
    conditions = [r.condition for r in recordings]
    first, second = (
        principal_components_initial_values(architecture(), s, conditions) for s in (sessions, changed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_does_not_fit_is_refused(recordings):
    sessions = sessions_of(recordings)
    with pytest.raises(ConfigurationError, match="no read-in"):
        principal_components_initial_values(Architecture(neurons=25), sessions[:1])
    with pytest.raises(ConfigurationError, match="expected 2 sessions, got 1"):
        principal_components_initial_values(architecture(), sessions[:1])
    conditions = [recordings[0].condition, recordings[1].condition + 100]
    with pytest.raises(ConfigurationError, match="no condition in common"):
        principal_components_initial_values(architecture(), sessions, conditions)
    with pytest.raises(ConfigurationError, match="read_in_dim is 50"):
        principal_components_initial_values(architecture(read_in_dim=50), sessions)
