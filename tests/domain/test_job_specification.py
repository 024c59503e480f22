"""The job specification and the split of trials."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from domain.architecture import Architecture, ArchitectureSpecification, with_architecture
from domain.job_specification import Inference, JobSpecification, Training, scored_on, split_trials
from domain.presets import PRESETS
from domain.search_space import CONTROLLER_HYPERPARAMETERS, Range, Space
from domain.split_groups import SplitGroups
from domain.strategies import PbtStrategy, TpeStrategy
from store.tables import Dataset


def test_only_the_data_set_must_be_given() -> None:
    specification = JobSpecification(dataset_id="dat_1")
    assert specification.training.sv_rate == 0.2
    assert isinstance(specification.space.learning_rate, Range)
    assert JobSpecification.model_validate(specification.model_dump(mode="json")) == specification


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"cd_rate": {"low": 0.6, "high": 0.1}}, "low is 0.6 and high is 0.1"),
        ({"learning_rate": {"low": 0, "high": 0.1, "scale": "log"}}, "must begin above 0"),
        ({"cd_rate": 1.5}, "1.5 is outside 0 … 0.95"),
        ({"dropout": {"low": -0.1, "high": 0.5}}, "-0.1 is outside"),
        ({"dropout_rate": 0.1}, "Extra inputs are not permitted"),
        ({"learning_rate": float("nan")}, "finite"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(space: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpecification.model_validate({"dataset_id": "dat_1", "space": space})


CONTROLLER = {"controller_units": 8, "inferred_inputs": 2}


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ({"controller_units": 8}, "controller_units is 8 and inferred_inputs is 0: expected both above 0"),
        ({"inferred_inputs": 1}, "controller_units is 0 and inferred_inputs is 1"),
        (
            {"encoded_bins": 5, "initial_condition_bins": 5},
            "encoded_bins is 5 and initial_condition_bins is 5",
        ),
        ({"held_out_neurons": [4, 2, 7, 2]}, "held_out_neurons names 2 more than once"),
        ({"held_out_neurons": [-1]}, "greater than or equal to 0"),
        ({"observation": "gaussian"}, "should be 'poisson' or 'negative_binomial'"),
        ({"external_inputs": 2}, "Extra inputs are not permitted"),
    ],
)
def test_an_architecture_that_makes_no_sense_is_refused(
    architecture: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpecification.model_validate({"dataset_id": "dat_1", "architecture": architecture})


def test_only_a_controller_has_its_hyperparameters() -> None:
    without = JobSpecification(dataset_id="dat_1").searched_space()
    architecture = ArchitectureSpecification.model_validate(CONTROLLER)
    with_controller = JobSpecification(dataset_id="dat_1", architecture=architecture).searched_space()
    assert set(with_controller) == set(Space.model_fields)
    assert list(with_controller)[:-2] == list(without)
    assert set(with_controller) - set(without) == set(CONTROLLER_HYPERPARAMETERS)


@pytest.mark.parametrize(
    ("architecture", "report", "inputs"),
    [
        ({}, {"external_inputs": 3}, 3),
        ({"use_external_inputs": False}, {"external_inputs": 3}, 0),
        ({}, {"warnings": []}, 0),
        ({}, None, 0),
    ],
)
def test_external_inputs_are_counted_by_the_data(
    architecture: dict[str, Any], report: dict[str, Any] | None, inputs: int
) -> None:
    described = ArchitectureSpecification(**architecture).of_model({}, report)
    assert described["external_inputs"] == inputs
    assert "use_external_inputs" not in described


def test_arrays_are_named_once() -> None:
    assert "inputs" in Inference().arrays
    with pytest.raises(ValidationError, match="arrays contains a name more than once"):
        Inference(arrays=["rates", "rates"])
    with pytest.raises(ValidationError, match="at least 1"):
        Inference(arrays=[])


splits = st.lists(st.sampled_from([None, "train", "valid", "test"]), min_size=3, max_size=60)


@given(splits, st.floats(0.01, 0.5), st.floats(0.0, 0.4), st.integers(0, 1000))
def test_a_split_is_a_partition_that_keeps_what_was_given(
    given_splits: list[str | None], valid_fraction: float, test_fraction: float, seed: int
) -> None:
    training = Training(valid_fraction=valid_fraction, test_fraction=test_fraction, evaluation_seed=seed)
    split = split_trials(given_splits, SplitGroups.alone(len(given_splits)), training)
    assert split == split_trials(given_splits, SplitGroups.alone(len(given_splits)), training)
    usable = sum(one != "test" for one in given_splits)
    for part, fraction in (("valid", valid_fraction), ("test", test_fraction)):
        named = [trial for trial, one in enumerate(given_splits) if one == part]
        found = [trial for trial, one in enumerate(split) if one == part]
        if named:
            assert found == named
        elif fraction == 0:
            assert not found
        else:
            left = sum(one != "test" and one != "valid" for one in given_splits)
            assert len(found) <= min(left, max(1, round(fraction * usable)))
    if not {"valid", "test"} & set(given_splits) and usable > 20:
        assert split.count("valid") == max(1, round(valid_fraction * usable))
        assert split.count("test") == (max(1, round(test_fraction * usable)) if test_fraction else 0)


def test_other_evaluation_seeds_draw_other_trials() -> None:
    groups = SplitGroups.alone(50)
    drawn = [split_trials([None] * 50, groups, Training(evaluation_seed=seed)) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_test_trials_change_no_validation_trial() -> None:
    both = split_trials([None] * 50, SplitGroups.alone(50), Training(test_fraction=0.2))
    assert both.count("test") == 10
    without = split_trials([None] * 50, SplitGroups.alone(50), Training())
    assert [one == "valid" for one in both] == [one == "valid" for one in without]


def test_fractions_leave_trials_to_train_on() -> None:
    with pytest.raises(ValidationError, match=r"valid_fraction \+ test_fraction is 1"):
        Training(valid_fraction=0.5, test_fraction=0.5)


def test_a_preset_fills_in_what_is_not_given() -> None:
    given = {"dataset_id": "dat_1", "preset": "autolfads", "budget": {"models": 4}, "space": {"dropout": 0.1}}
    found = JobSpecification.model_validate(given)
    assert (found.strategy.kind, found.budget.models) == ("pbt", 4)
    assert found.for_trials(1040).budget.epochs == 1000
    assert (found.space.dropout, found.training.decay_factor) == (0.1, 1.0)
    assert found.space.learning_rate == Range(low=1e-5, high=5e-3, scale="log")
    assert JobSpecification.model_validate(found.model_dump(mode="json")) == found


def test_what_the_space_names_begins_as_the_space_says() -> None:
    given = {"dataset_id": "dat_1", "preset": "autolfads", "space": {"learning_rate": 0.002}}
    found = JobSpecification.model_validate(given)
    assert isinstance(found.strategy, PbtStrategy)
    assert found.strategy.start == {"cd_rate": 0.5}
    own = {**given, "space": {"cd_rate": {"low": 0.1, "high": 0.3}}, "strategy": {"start": {"cd_rate": 0.2}}}
    found = JobSpecification.model_validate(own)
    assert isinstance(found.strategy, PbtStrategy)
    assert found.strategy.start["cd_rate"] == 0.2


def test_another_strategy_replaces_the_preset_s() -> None:
    given = {"dataset_id": "dat_1", "preset": "autolfads", "strategy": {"kind": "tpe"}}
    found = JobSpecification.model_validate(given)
    assert found.strategy == TpeStrategy(kind="tpe")
    assert found.budget.models == 20


def test_sizes_may_be_lists() -> None:
    given = {"dataset_id": "dat_1", "architecture": {"factors": [4, 8], "generator_units": [16]}}
    found = JobSpecification.model_validate(given)
    assert found.architecture.searched() == {"factors": [4.0, 8.0], "generator_units": [16.0]}
    assert found.architecture.largest().factors == 8
    described = found.architecture.of_model({"factors": 4.0, "dropout": 0.1}, None)
    assert (described["factors"], described["generator_units"], described["encoder_units"]) == (4, 16, 64)


def test_kinds_of_generators_may_be_a_list() -> None:
    found = JobSpecification.model_validate({"dataset_id": "dat_1", "architecture": {"generator": ["gru"]}})
    assert found.searched_space()["generator"] == ["gru"]
    assert found.architecture.of_model({"generator": "gru"}, None)["generator"] == "gru"
    assert found.architecture.largest().generator == "gru"
    assert JobSpecification.model_validate(found.model_dump(mode="json")) == found
    for wrong, said in (
        ("gpu", "expected one of gru"),
        (["gru", "gru"], "contains gru more than once"),
        ([], "at least 1"),
    ):
        with pytest.raises(ValidationError, match=said):
            JobSpecification.model_validate({"dataset_id": "dat_1", "architecture": {"generator": wrong}})


def test_each_kind_of_generator_has_its_sizes() -> None:
    given = {"generator": ["gru", "node", "low_rank"], "generator_units": [50, 100], "node_units": [3, 10]}
    found = ArchitectureSpecification.model_validate(given)
    assert found.searched() == {
        "generator": ["gru", "node", "low_rank"],
        "generator_units": [50.0, 100.0],
        "node_units": [3.0, 10.0],
    }
    drawn = {"generator_units": 100.0, "node_units": 3.0, "node_hidden_units": 1.0}
    node, gru, low_rank = (
        found.of_model(drawn | {"generator": kind}, None) for kind in ("node", "gru", "low_rank")
    )
    assert (node["generator_units"], node["node_hidden_units"]) == (3, 128)
    assert (low_rank["generator_units"], low_rank["generator_rank"]) == (100, 3)
    assert {"node_units", "node_hidden_units", "generator_rank"}.isdisjoint(gru)
    searched = list(found.searched())
    assert with_architecture({}, node, searched) == {"generator": "node", "node_units": 3.0}
    assert with_architecture({}, gru, searched) == {"generator": "gru", "generator_units": 100.0}
    assert Architecture.of_model(node, 5).generator_sizes == (3, 0, 128, 3)
    assert (found.largest().generator, found.largest().generator_units) == ("gru", 100)
    assert (found.smallest().generator, found.smallest().node_units) == ("low_rank", 3)
    assert ArchitectureSpecification(generator="node", generator_units=[8, 9]).searched() == {}


def test_a_job_with_neural_odes_grows_its_window() -> None:
    def window(**architecture: Any) -> int:
        specification = JobSpecification.model_validate({"dataset_id": "dat_1", "architecture": architecture})
        return specification.for_trials(1000).training.window_epochs

    assert window() == 0
    assert window(generator=["gru", "node"]) > 0


@pytest.mark.parametrize("name", list(PRESETS))
@pytest.mark.parametrize("trials", [4, 36, 86, 1040, 20_000])
def test_every_preset_is_a_whole_search(name: str, trials: int) -> None:
    found = JobSpecification.model_validate({"dataset_id": "dat_1", "preset": name}).for_trials(trials)
    assert found.budget.epochs >= 3 * found.training.ramp_epochs
    assert found.architecture.has_controller
    steps_per_epoch = math.ceil(trials / found.training.batch_size)
    assert found.budget.epochs * steps_per_epoch >= 1000


@pytest.mark.parametrize(
    ("trials", "batch_size"), [(1, 8), (36, 8), (67, 8), (68, 16), (86, 16), (271, 32), (272, 64), (5000, 64)]
)
def test_small_data_sets_get_small_batches(trials: int, batch_size: int) -> None:
    found = JobSpecification.model_validate({"dataset_id": "dat_1"}).for_trials(trials)
    assert found.training.batch_size == batch_size


def test_epochs_are_chosen_for_steps() -> None:
    quick = JobSpecification.model_validate({"dataset_id": "dat_1", "preset": "quick"})
    small, large = quick.for_trials(86), quick.for_trials(1040)
    # 86 trials in batches of 16 are 6 steps an epoch, 1040 in batches of 64 are 17.
    assert (small.budget.epochs, small.training.ramp_epochs) == (167, 25)
    assert (large.budget.epochs, large.training.ramp_epochs) == (59, 9)
    published = JobSpecification.model_validate({"dataset_id": "dat_1", "preset": "autolfads"}).for_trials(
        1840
    )
    assert isinstance(published.strategy, PbtStrategy)
    assert (published.training.ramp_epochs, published.strategy.generation_epochs) == (80, 25)


def test_numbers_that_are_given_stand() -> None:
    given = {
        "dataset_id": "dat_1",
        "preset": "autolfads",
        "training": {"batch_size": 5, "ramp_epochs": 7, "decay_patience": 3},
        "budget": {"epochs": 12, "patience_epochs": None},
        "strategy": {"generation_epochs": 2},
    }
    found = JobSpecification.model_validate(given)
    chosen = found.for_trials(30)
    assert chosen == found
    assert chosen.for_trials(3000) == found  # a stored specification is never chosen for anew


def test_more_epochs_bring_more_patience() -> None:
    def patience(**budget: int) -> int | None:
        given = {"dataset_id": "dat_1", "preset": "quick", "budget": budget}
        return JobSpecification.model_validate(given).for_trials(86).budget.patience_epochs

    assert (patience(), patience(epochs=400), patience(epochs=5)) == (84, 200, 84)
    assert patience(epochs=400, patience_epochs=9) == 9


def test_the_ramp_fits_into_the_epochs_that_are_given() -> None:
    found = JobSpecification.model_validate(
        {"dataset_id": "dat_1", "preset": "quick", "budget": {"epochs": 5}}
    )
    assert found.for_trials(86).training.ramp_epochs == 1


def of_dataset(report: dict[str, Any] | None = None, dataset_id: str = "dat_1", **fields: Any) -> str:
    whole = JobSpecification.model_validate({"dataset_id": dataset_id, **fields})
    return scored_on(whole, Dataset(id=dataset_id, bins=40, report=report))


@pytest.mark.parametrize(
    "other",
    [
        {"dataset_id": "dat_2"},
        {"training": {"evaluation_seed": 1}},
        {"training": {"sv_rate": 0.3}},
        {"training": {"valid_fraction": 0.3}},
        {"training": {"test_fraction": 0.1}},
        {"architecture": {"observation": "negative_binomial"}},
        {"architecture": {"encoded_bins": 30}},
        {"architecture": {"initial_condition_bins": 5}},
        {"architecture": {"held_out_neurons": [3]}},
    ],
)
def test_what_decides_the_scored_samples_changes_their_fingerprint(other: dict[str, Any]) -> None:
    assert len(of_dataset()) == 8
    assert of_dataset(**other) != of_dataset()


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 5},
        {"name": "other", "priority": 3},
        {"preset": "autolfads"},
        {"training": {"batch_size": 8, "ramp_epochs": 1, "score_smoothing": 0}},
        {"architecture": {"generator_units": 50, "controller_units": 8, "inferred_inputs": 1}},
        {"architecture": {"encoded_bins": 40}},  # all of them
        {"budget": {"models": 1}},
        {"space": {"cd_rate": 0.1}},
    ],
)
def test_the_rest_of_a_specification_does_not(other: dict[str, Any]) -> None:
    assert of_dataset(**other) == of_dataset()


def test_fractions_do_not_matter_where_the_file_names_the_trials() -> None:
    fractions = {"training": {"valid_fraction": 0.4}}, {"training": {"test_fraction": 0.4}}
    named = {"train": 30, "valid": 5, "not_given": 5}
    assert len({of_dataset({"split": named}, **one) for one in ({}, *fractions)}) == 1
    without_test = {"train": 35, "valid": 5, "not_given": 0}
    assert len({of_dataset({"split": without_test}, **one) for one in ({}, *fractions)}) == 2
    nothing = {"train": 0, "valid": 0, "not_given": 40}
    assert len({of_dataset({"split": nothing}, **one) for one in ({}, *fractions)}) == 3
