"""What a job will take: memory, operations and bytes, from sizes alone. Rough where the docstrings say so."""

from collections.abc import Mapping
from typing import Any, NamedTuple

_FLOAT = 4
_KEPT_PER_PARAMETER = 4  # weights, best weights, Adam's two moments


class _Sizes(NamedTuple):
    encoder: int
    initial: int
    generator: int
    factors: int
    controller: int
    coder: int  # each of the controller's encoders
    inputs: int
    external: int
    read_in: int


def _sizes(architecture: Mapping[str, Any]) -> _Sizes:
    is_driven = architecture["controller_units"] > 0
    return _Sizes(
        architecture["encoder_units"],
        architecture["initial_condition_dim"],
        architecture["generator_units"],
        architecture["factors"],
        architecture["controller_units"],
        architecture["controller_encoder_units"] if is_driven else 0,
        architecture["inferred_inputs"],
        architecture.get("external_inputs", 0),
        architecture.get("read_in_dim", 0),
    )


def step_bytes(architecture: Mapping[str, Any], neurons: int, bins: int, batch_trials: int) -> int:
    """Memory that a training step of one model takes, roughly: measured numbers for each bin of each trial.

    Parameters
    ----------
    architecture
        Of a model's row.
    neurons
        Of a trial: the mean over trials, where sessions differ.
    """
    sizes = _sizes(architecture)
    numbers = 11 * neurons + 3 * sizes.read_in + 18 * sizes.encoder + 13 * sizes.generator
    numbers += 23 * sizes.coder + 9 * sizes.controller
    return _FLOAT * batch_trials * bins * numbers


def parameters(architecture: Mapping[str, Any], neurons: int) -> int:
    """Weights of a model, but for biases of the prior and of single outputs; `neurons` of all sessions."""
    encoder, initial, generator, factors, controller, coder, inputs, external, read_in = _sizes(architecture)
    read = read_in or neurons
    found = (
        neurons * read_in
        + 2 * 3 * encoder * (read + encoder + 2)
        + 2 * encoder * 2 * initial
        + initial * generator
    )
    found += 3 * generator * (generator + inputs + external + 2) + generator * factors + factors * neurons
    if controller:
        found += 2 * 3 * coder * (read + coder + 2) + controller * 2 * inputs
        found += 3 * controller * (controller + 2 * coder + factors + external + 2)
    return found


def checkpoint_bytes(architecture: Mapping[str, Any], neurons: int) -> int:
    """Of what is kept of a model to go on with it; `neurons` of all sessions."""
    return _FLOAT * _KEPT_PER_PARAMETER * parameters(architecture, neurons)


def latents_bytes(architecture: Mapping[str, Any], neurons: int, bins: int, trials: int) -> int:
    """Of a model's latents before compression, all arrays; `neurons` of a trial, as in `step_bytes`."""
    sizes = _sizes(architecture)
    per_bin = neurons + sizes.factors + sizes.generator + sizes.inputs
    return _FLOAT * trials * (bins * per_bin + sizes.initial)


def epoch_operations(
    architecture: Mapping[str, Any], neurons: int, bins: int, training_trials: int, validation_trials: int
) -> float:
    """Floating-point operations of one epoch of one model: matrix products alone, of training and evaluation.

    A product forward costs two operations for each weight, bin and trial; its gradients twice that. `neurons` are those of
    a trial, as in `step_bytes`: it passes no other session's weights.
    """
    per_bin = parameters(architecture, neurons)
    evaluated = validation_trials + min(training_trials, validation_trials)
    return 2.0 * per_bin * bins * (3 * training_trials + evaluated)
