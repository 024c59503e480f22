"""What a job will take: memory, bytes and time, from sizes alone. Rough where the docstrings say so.

Everywhere `architecture` is that of a model's row, and `neurons` those of a trial (the mean over trials, where sessions differ)
unless the docstring says "of all sessions".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from domain.architecture import Architecture
from domain.generators import Shape
from domain.parameter_shapes import parameter_shapes

FEWEST_VALIDATION_TRIALS = 2
FEWEST_TRAINING_TRIALS = 4
_FLOAT = 4
_KEPT_PER_PARAMETER = 4  # weights, best weights, Adam's two moments


@dataclass(frozen=True)
class Extent:
    """How large a data set is for a job.

    Attributes
    ----------
    neurons
        Of a trial: the mean over trials, where sessions differ.
    bins
        Of the longest trial's row.
    training_trials, validation_trials
        By the job's split.
    report
        Of the data set, which names its number of external inputs, and its sessions.
    """

    neurons: int
    bins: int
    training_trials: int
    validation_trials: int
    report: Mapping[str, Any] | None = None

    @property
    def has_enough_trials(self) -> bool:
        """Whether there are enough trials to train on and to validate with."""
        return (
            self.training_trials >= FEWEST_TRAINING_TRIALS
            and self.validation_trials >= FEWEST_VALIDATION_TRIALS
        )


# Times on one core of an AMD EPYC (Zen 4), fitted by least squares to steps of 8 … 128 trials, 20 … 250 bins, 15 … 160 neurons
# and 1 … 8 models, with and without a controller. `python -m benchmarks.estimates` compares them with actual times.
_STEP_S = 2e-3  # of a training step, whatever its size
_EVALUATION_S = 0.8e-3
_WEIGHT_UPDATE_S = 6.6e-9  # for each weight: Adam
_WEIGHT_S = 2.6e-11  # for each weight, bin and trial of a training step: products forward and backward
_NUMBER_S = 1.0e-9  # for each number that a training step keeps: element-wise operations
# For each unit of the controller and its encoders, bin and trial, in addition to _WEIGHT_S and _NUMBER_S.
_CONTROLLER_UNIT_S = 3.4e-8
# Fraction of _WEIGHT_S, _NUMBER_S and _CONTROLLER_UNIT_S that evaluation and inference take.
_FORWARD_SHARE = 0.4


@dataclass(frozen=True)
class Pace:
    """How many times as long as that core a device takes.

    Parameters
    ----------
    overhead
        For what each step takes whatever its size. On a GPU this is the launch of kernels.
    arithmetic
        For what grows with the sizes of models and data.
    """

    overhead: float = 1.0
    arithmetic: float = 1.0


@dataclass(frozen=True)
class CoreTime:
    """Time that a piece of work takes on that core, in the two parts of `Pace`.

    Parameters
    ----------
    overhead_s, arithmetic_s
        In seconds.
    """

    overhead_s: float
    arithmetic_s: float

    def __add__(self, other: "CoreTime") -> "CoreTime":
        return CoreTime(self.overhead_s + other.overhead_s, self.arithmetic_s + other.arithmetic_s)

    def seconds(self, pace: Pace) -> float:
        """Return the time that a device of this pace takes."""
        return self.overhead_s * pace.overhead + self.arithmetic_s * pace.arithmetic


_ENCODERS = ("read_in", "encoder", "controller_encoder", "posterior")
"""Prefixes of encoder parameters. A trial passes through them once, whatever the number of posterior draws."""


def _network(architecture: Mapping[str, Any], neurons: int) -> Architecture:
    return Architecture.of_model({**architecture, "held_out_neurons": ()}, max(1, neurons))


def parameters(architecture: Mapping[str, Any], neurons: int) -> int:
    """Return the number of parameters of a model; `neurons` of all sessions."""
    return sum(math.prod(shape) for shape in parameter_shapes(_network(architecture, neurons)).values())


def multiply_accumulates(shapes: Mapping[str, Shape]) -> int:
    """Return the multiply-accumulates that a bin of a trial takes in the products with these parameters, by name."""
    return sum(math.prod(shape) for name, shape in shapes.items() if name.endswith("weight"))


def step_bytes(architecture: Mapping[str, Any], neurons: int, bins: int, batch_trials: int) -> int:
    """Return the memory that a training step of one model takes, roughly: measured numbers for each bin of each trial."""
    return _FLOAT * batch_trials * bins * sum(_numbers(_network(architecture, neurons)))


def _numbers(network: Architecture) -> tuple[int, int]:
    """Return how many numbers a training step keeps for each bin of a trial: in the encoders, and in the rest.

    Measured with the generator `gru`; `node` also keeps its hidden layer, and other generators keep fewer.
    """
    encoders = 3 * network.read_in_dim + 18 * network.encoder_units
    encoders += 23 * network.controller_encoder_units if network.has_controller else 0
    hidden = 3 * network.node_hidden_units if network.generator == "node" else 0
    of_generator = 13 * network.generator_units + hidden
    return encoders, 11 * network.session_neurons[0] + of_generator + 9 * network.controller_units


def checkpoint_bytes(architecture: Mapping[str, Any], neurons: int) -> int:
    """Return the bytes of a checkpoint; `neurons` of all sessions."""
    return _FLOAT * _KEPT_PER_PARAMETER * parameters(architecture, neurons)


def latents_bytes(architecture: Mapping[str, Any], neurons: int, bins: int, trials: int) -> int:
    """Return the bytes of a model's latents before compression, all arrays."""
    network = _network(architecture, neurons)
    per_bin = neurons + network.factors + network.generator_units + network.inferred_inputs
    return _FLOAT * trials * (bins * per_bin + network.initial_condition_dim)


def epoch_time(
    architecture: Mapping[str, Any], extent: Extent, batch_trials: int, models: float = 1
) -> CoreTime:
    """Return the time of an epoch of `models` models that train together: training, and evaluation on both parts."""
    training, valid = extent.training_trials, extent.validation_trials
    steps = math.ceil(training / max(1, min(batch_trials, training)))
    trials = training + _FORWARD_SHARE * (valid + min(training, valid))
    encoders, rest = _bin_seconds(architecture, extent.neurons)
    update = steps * _WEIGHT_UPDATE_S * parameters(architecture, extent.neurons)
    return CoreTime(
        steps * _STEP_S + 2 * _EVALUATION_S, models * (trials * extent.bins * (encoders + rest) + update)
    )


def latents_time(architecture: Mapping[str, Any], extent: Extent, trials: int, draws: int) -> CoreTime:
    """Return the time of inferring latents: a trial passes the encoders once, and the rest in each of its draws."""
    encoders, rest = _bin_seconds(architecture, extent.neurons)
    return CoreTime(_EVALUATION_S, _FORWARD_SHARE * trials * extent.bins * (encoders + draws * rest))


def _bin_seconds(architecture: Mapping[str, Any], neurons: int) -> tuple[float, float]:
    """Return the time of a bin of a trial in training, without its share of the update: in the encoders, and in the rest."""
    network = _network(architecture, neurons)
    shapes = parameter_shapes(network)
    in_encoders = {name: shape for name, shape in shapes.items() if name.split(".")[0] in _ENCODERS}
    in_rest = {name: shape for name, shape in shapes.items() if name not in in_encoders}
    encoders, rest = (
        multiply_accumulates(part) * _WEIGHT_S + numbers * _NUMBER_S
        for part, numbers in zip((in_encoders, in_rest), _numbers(network), strict=True)
    )
    coder = network.controller_encoder_units if network.has_controller else 0
    return encoders + coder * _CONTROLLER_UNIT_S, rest + network.controller_units * _CONTROLLER_UNIT_S
