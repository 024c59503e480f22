"""Sessions as the report of a data set tells them, the split of each, what a model of several takes."""

import pytest

from domain import cost
from domain.architecture import ArchitectureSpecification
from domain.job_specification import Training, split_trials
from domain.sessions import largest_read_in, neurons_per_trial, sessions_in, sessions_of
from domain.split_groups import SplitGroups
from store.datasets import session_coordinates
from store.tables import Dataset

REPORT = {
    "sessions": [
        {"dataset_id": "dat_a", "name": "a", "trials": 20, "bins": 12, "neurons": 5},
        {"dataset_id": "dat_b", "name": "b", "trials": 10, "bins": 9, "neurons": 11},
    ]
}


def combined() -> Dataset:
    return Dataset(id="dat_c", trials=30, bins=12, neurons=16, report=REPORT)


def test_an_ordinary_data_set_is_its_own_session() -> None:
    alone = Dataset(id="dat_a", trials=20, bins=12, neurons=5, report={"warnings": []})
    [session] = sessions_of(alone)
    assert (session.dataset_id, session.trials, session.bins, session.neurons) == ("dat_a", 20, 12, 5)
    assert (session.rows, session.named("spikes")) == (slice(0, 20), "spikes")
    assert neurons_per_trial(alone) == 5
    assert [array.name for array in session_coordinates([session])] == ["neuron"]


def test_sessions_follow_each_other() -> None:
    first, second = sessions_of(combined())
    assert (first.rows, second.rows) == (slice(0, 20), slice(20, 30))
    assert (first.named("spikes"), second.named("spikes")) == ("spikes_0", "spikes_1")
    assert neurons_per_trial(combined()) == 7  # 20 trials of 5 and 10 of 11
    assert largest_read_in([first, second]) == 9
    coordinates = {array.name: array.values.tolist() for array in session_coordinates([first, second])}
    assert coordinates["trial_1"] == list(range(20, 30))
    assert coordinates["session"] == [0] * 20 + [1] * 10
    assert set(coordinates) == {"neuron_0", "neuron_1", "trial_0", "trial_1", "session"}


def test_every_session_is_split_by_itself() -> None:
    sessions, training = sessions_in(REPORT), Training(evaluation_seed=3)
    split = split_trials([None] * 30, SplitGroups.alone(30), training, sessions)
    assert split[:20] == split_trials([None] * 20, SplitGroups.alone(20), training)
    assert (split[:20].count("valid"), split[20:].count("valid")) == (4, 2)
    assert split_trials([None] * 20, SplitGroups.alone(20), training, sessions[:1]) == split[:20]
    # A session that brings a split keeps it; the other one is drawn.
    given = ["train"] * 10 + ["valid"] * 5 + ["test"] * 5 + [None] * 10
    split = split_trials(given, SplitGroups.alone(len(given)), training, sessions)
    assert split[:20] == given[:20]
    assert split[20:].count("valid") == 2
    twice = [{**REPORT["sessions"][0]}, {**REPORT["sessions"][0]}]
    split = split_trials(
        [None] * 40,
        SplitGroups.alone(40),
        Training(valid_fraction=0.5, evaluation_seed=3),
        sessions_in({"sessions": twice}),
    )
    assert split[:20] != split[20:]


@pytest.mark.parametrize(
    ("given", "factors", "report", "expected"),
    [
        (None, 4, None, None),
        (None, 4, REPORT, 4),
        (None, 30, REPORT, 9),
        (7, 4, REPORT, 7),
        (3, 4, None, 3),
        ([2, 6], 4, REPORT, 6),
    ],
)
def test_read_in_has_a_default_for_several_sessions(
    given: int | list[int] | None, factors: int, report: dict[str, object] | None, expected: int | None
) -> None:
    architecture = ArchitectureSpecification(factors=factors, read_in_dim=given)
    assert architecture.of_model({"read_in_dim": 6.0}, report).get("read_in_dim") == expected


def test_weights_of_all_sessions_are_kept_and_those_of_one_are_used() -> None:
    described = ArchitectureSpecification(encoder_units=8, factors=4).of_model({}, REPORT)
    narrow, wide = (cost.parameters(described, neurons) for neurons in (7, 16))
    assert wide - narrow == 9 * (4 + 4 + 1)  # read-in, read-out and its bias
    alone = ArchitectureSpecification(encoder_units=8, factors=4).of_model({}, None)
    assert cost.parameters(alone, 16) - cost.parameters(alone, 7) == 9 * (2 * 3 * 8 + 4 + 1)
