"""The options of a job and those of the models have the same names: a slice would fail with a field that only one of them has."""

import dataclasses

from domain.job_specification import Training
from domain.search_space import LIMITS, Space
from models import Architecture, Hyperparameters, TrainingOptions
from models.objective import PackHyperparameters

NOT_FOR_THE_MODEL = {"sv_rate", "valid_fraction", "test_fraction", "evaluation_seed"}
"""Fields of `Training` that choose the samples to train on."""


def names(of: type) -> set[str]:
    return {field.name for field in dataclasses.fields(of)}


def test_models_have_every_option_of_training():
    assert names(TrainingOptions) == set(Training.model_fields) - NOT_FOR_THE_MODEL


def test_models_have_every_hyperparameter_of_a_search():
    assert names(Hyperparameters) == names(PackHyperparameters) == set(Space.model_fields)


def test_defaults_of_hyperparameters_may_be_searched():
    for name, value in dataclasses.asdict(Hyperparameters()).items():
        LIMITS[name].check(value)


def test_options_are_those_of_the_job():
    given = {"batch_size": 8, "ramp_epochs": 3, "precision": "float32", "sv_rate": 0.3}
    options = TrainingOptions.of(Training.model_validate(given), "float32")
    assert options == TrainingOptions(8, ramp_epochs=3, precision="float32")
    assert TrainingOptions.of(Training.model_validate(given), "bfloat16").precision == "bfloat16", (
        "what was chosen"
    )


def test_a_growing_window_reaches_all_bins() -> None:
    options = TrainingOptions(batch_size=1, window_epochs=10, window_start_bins=5)
    plain = Architecture(neurons=2)
    lengths = [options.window(epoch, 50, plain) for epoch in range(12)]
    assert lengths[0] == 5
    assert lengths == sorted(lengths)
    assert lengths[10:] == [50, 50]
    assert len({options.window(epoch, 1000, plain) for epoch in range(10)}) <= 20
    assert options.window(0, 3, plain) == 3
    lagging = Architecture(
        neurons=2, controller_units=2, inferred_inputs=1, controller_lag_bins=4, initial_condition_bins=6
    )
    assert options.window(0, 50, lagging) == 11
    assert TrainingOptions(batch_size=1).window(0, 50, plain) == 50
