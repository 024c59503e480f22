"""Presets: named sets of default values for a job.

The number of optimizer steps matters for training, not the number of epochs: an epoch of 50 trials has few steps. So the batch
size depends on the number of training trials, and the number of epochs is chosen so that there are enough steps.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

PresetName = Literal["quick", "paper-2019", "autolfads"]

_PUBLISHED_SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 5e-3, "scale": "log"},
    "dropout": {"low": 0.0, "high": 0.6},
    "cd_rate": {"low": 0.01, "high": 0.7},
    "kl_weight_initial_condition": {"low": 1e-6, "high": 1e-3, "scale": "log"},
    "kl_weight_inputs": {"low": 1e-6, "high": 1e-4, "scale": "log"},
    "l2_weight_generator": {"low": 1e-4, "high": 1.0, "scale": "log"},
    "l2_weight_controller": {"low": 1e-4, "high": 1.0, "scale": "log"},
}
_PUBLISHED_ARCHITECTURE: dict[str, Any] = {
    "encoder_units": 64,
    "initial_condition_dim": 64,
    "generator_units": 100,
    "factors": 40,
    "controller_units": 64,
    "controller_encoder_units": 64,
    "inferred_inputs": 2,
}

PRESETS: dict[PresetName, dict[str, Any]] = {
    # A quick first search: one to two minutes on one core for 100 trials, some minutes for 1000. It has inferred inputs because
    # without them the decoding of reaches with variable timing was worse than from smoothed spikes.
    "quick": {
        "strategy": {"kind": "random"},
        "architecture": {
            "encoder_units": 64,
            "initial_condition_dim": 64,
            "generator_units": 64,
            "factors": 16,
            "controller_units": 64,
            "controller_encoder_units": 64,
            "inferred_inputs": 2,
        },
        "space": {
            "learning_rate": {"low": 2e-3, "high": 5e-3, "scale": "log"},
            "dropout": {"low": 0.0, "high": 0.2},
            "cd_rate": {"low": 0.2, "high": 0.6},
            "kl_weight_initial_condition": {"low": 1e-6, "high": 1e-4, "scale": "log"},
            "kl_weight_inputs": {"low": 1e-5, "high": 1e-3, "scale": "log"},
            "l2_weight_generator": {"low": 1e-4, "high": 1e-2, "scale": "log"},
            "l2_weight_controller": {"low": 1e-4, "high": 1e-1, "scale": "log"},
        },
        "budget": {"models": 4},
    },
    # Random search with CD and SV (Keshtkaran & Pandarinath 2019). In training of fixed length, a model with a learning rate near
    # 1e-5 hardly learns, so the range begins higher than in the paper.
    "paper-2019": {
        "strategy": {"kind": "random"},
        "architecture": _PUBLISHED_ARCHITECTURE,
        "space": _PUBLISHED_SPACE | {"learning_rate": {"low": 1e-3, "high": 5e-3, "scale": "log"}},
        "budget": {"models": 100},
    },
    # Population-based training (Keshtkaran et al. 2022). It changes the learning rate itself, so there is no other decay.
    "autolfads": {
        "strategy": {
            "kind": "pbt",
            "exploit": "binary_tournament",
            "explore": "perturb",
            "start": {"learning_rate": 4e-3, "cd_rate": 0.5},
            "patience_generations": 4,
            "min_delta": 5e-4,
        },
        "architecture": _PUBLISHED_ARCHITECTURE,
        "space": _PUBLISHED_SPACE,
        "training": {"decay_factor": 1.0},
        "budget": {"models": 20},
        "inference": {"posterior_samples": 50},
    },
}


class _Length(NamedTuple):
    """A duration: a number of optimizer steps, and a minimum number of epochs."""

    steps: int
    epochs: int

    def in_epochs(self, steps_per_epoch: int) -> int:
        return max(self.epochs, math.ceil(self.steps / steps_per_epoch))


class Lengths(NamedTuple):
    """Durations of a preset.

    Parameters
    ----------
    training, ramp, decay_patience
        Values for `budget.epochs`, `training.ramp_epochs` and `training.decay_patience`.
    patience
        Value for `budget.patience_epochs`; None: no model ends early.
    generation
        Value for `generation_epochs` of population-based training.
    """

    training: _Length
    ramp: _Length
    decay_patience: _Length = _Length(100, 6)
    patience: _Length | None = None
    generation: _Length = _Length(150, 25)


LENGTHS: dict[PresetName | None, Lengths] = {
    None: Lengths(training=_Length(2000, 200), ramp=_Length(400, 80)),
    "quick": Lengths(training=_Length(1000, 15), ramp=_Length(150, 5), patience=_Length(500, 10)),
    # At least the published epochs.
    "paper-2019": Lengths(training=_Length(4000, 400), ramp=_Length(400, 80), patience=_Length(1000, 100)),
    "autolfads": Lengths(training=_Length(6000, 1000), ramp=_Length(400, 80)),
}
MOST_RAMP_SHARE = 1 / 3
"""Maximum length of the default ramp, as a fraction of the job's epochs."""
WINDOW_SHARE = 1 / 3
"""Default length of a growing window, as a fraction of the job's epochs."""
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 64
_TRIALS_PER_BATCH_TRIAL = 6


def batch_size_for(training_trials: int) -> int:
    """Return the default batch size, a power of 2 from 8 to 64. An epoch has about 6 steps; with more than 400 trials, more."""
    power = round(math.log2(max(1.0, training_trials / _TRIALS_PER_BATCH_TRIAL)))
    return min(max(int(2**power), _SMALLEST_BATCH), _LARGEST_BATCH)


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the client's specification with missing values filled in from its preset.

    A strategy of another kind replaces the whole strategy of the preset. `JobSpecification.for_trials` chooses batch size and
    epochs from the data set.
    """
    preset = PRESETS.get(given["preset"], {}) if isinstance(given.get("preset"), str) else {}
    filled = dict(given)
    for part, defaults in preset.items():
        own = given.get(part, {})
        if not isinstance(own, Mapping):
            continue  # validation reports it
        if part == "strategy" and own.get("kind", defaults["kind"]) != defaults["kind"]:
            continue
        filled[part] = defaults | own
    space, strategy = given.get("space"), filled.get("strategy")
    if isinstance(space, Mapping) and isinstance(strategy, dict) and "strategy" in preset:
        # For a hyperparameter that the client gives in `space`, the preset's start value does not apply.
        own_start = given.get("strategy", {}).get("start", {})
        start = {
            name: value
            for name, value in strategy.get("start", {}).items()
            if name not in space or name in own_start
        }
        filled["strategy"] = strategy | ({"start": start} if "start" in strategy else {})
    return filled
