"""Searches by one word: what a preset fills in where a job does not say otherwise.

Optimizer steps train a model, not epochs: an epoch of 50 trials is few steps. So the batch size is chosen from the number of
training trials, and epochs are chosen such that there are enough steps.
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
    # A first look: a minute or two of one core for 100 trials, minutes for 1000. Without inferred inputs, decoding of reaches
    # whose timing varies from trial to trial was below smoothed spikes.
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
    # Random search with CD and SV (Keshtkaran & Pandarinath 2019). A rate drawn near 1e-5 never gets anywhere in
    # training of fixed length, so its range begins higher here, as the product's does.
    "paper-2019": {
        "strategy": {"kind": "random"},
        "architecture": _PUBLISHED_ARCHITECTURE,
        "space": _PUBLISHED_SPACE | {"learning_rate": {"low": 1e-3, "high": 5e-3, "scale": "log"}},
        "budget": {"models": 100},
    },
    # Population-based training (Keshtkaran et al. 2022). The population changes the learning rate, so nothing else does.
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
    """How long something lasts: so many optimizer steps, and so many epochs at least."""

    steps: int
    epochs: int

    def in_epochs(self, steps_per_epoch: int) -> int:
        return max(self.epochs, math.ceil(self.steps / steps_per_epoch))


class Lengths(NamedTuple):
    """How long the training of a preset and its parts last.

    Parameters
    ----------
    training, ramp, decay_patience
        `budget.epochs`, `training.ramp_epochs` and `training.decay_patience`.
    patience
        `budget.patience_epochs`; None: no model ends early.
    generation
        `generation_epochs` of population-based training.
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
"""Of the epochs that a job gives, the share in which weights of KL and L2 rise, unless the job gives that too."""
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 64
_TRIALS_PER_BATCH_TRIAL = 6


def batch_size_for(training_trials: int) -> int:
    """Return a batch size, a power of 2 from 8 to 64: an epoch has about 6 steps, and more with more than 400 trials."""
    power = round(math.log2(max(1.0, training_trials / _TRIALS_PER_BATCH_TRIAL)))
    return min(max(int(2**power), _SMALLEST_BATCH), _LARGEST_BATCH)


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a specification as a client gives it, filled in from its preset: what the client gives stands.

    A strategy of another kind than the preset's replaces the preset's whole. Batch size and epochs depend on the data set, see
    `JobSpecification.for_trials`.
    """
    preset = PRESETS.get(given["preset"], {}) if isinstance(given.get("preset"), str) else {}
    filled = dict(given)
    for part, defaults in preset.items():
        own = given.get(part, {})
        if not isinstance(own, Mapping):
            continue  # is refused where it stands
        if part == "strategy" and own.get("kind", defaults["kind"]) != defaults["kind"]:
            continue
        filled[part] = defaults | own
    space, strategy = given.get("space"), filled.get("strategy")
    if isinstance(space, Mapping) and isinstance(strategy, dict) and "strategy" in preset:
        # What the space names begins as the space says.
        own_start = given.get("strategy", {}).get("start", {})
        start = {
            name: value
            for name, value in strategy.get("start", {}).items()
            if name not in space or name in own_start
        }
        filled["strategy"] = strategy | ({"start": start} if "start" in strategy else {})
    return filled
