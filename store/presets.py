"""Searches by one word: what a preset fills in where a job does not say otherwise."""

from collections.abc import Mapping
from typing import Any, Literal

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
    # A first look: minutes on two cores for a data set of 1000 trials.
    "quick": {
        "strategy": {"kind": "random"},
        "architecture": {
            "encoder_units": 64,
            "initial_condition_dim": 64,
            "generator_units": 64,
            "factors": 8,
        },
        "space": {
            "learning_rate": {"low": 2e-3, "high": 5e-3, "scale": "log"},
            "dropout": {"low": 0.0, "high": 0.2},
            "cd_rate": {"low": 0.2, "high": 0.6},
            "kl_weight_initial_condition": {"low": 1e-6, "high": 1e-4, "scale": "log"},
            "l2_weight_generator": {"low": 1e-4, "high": 1e-2, "scale": "log"},
        },
        "training": {"batch_size": 64, "ramp_epochs": 20},
        "budget": {"models": 4, "epochs": 60},
    },
    # Random search with CD and SV (Keshtkaran & Pandarinath 2019). A rate drawn near 1e-5 never gets anywhere in
    # training of fixed length, so its range begins higher here, as the product's does.
    "paper-2019": {
        "strategy": {"kind": "random"},
        "architecture": _PUBLISHED_ARCHITECTURE,
        "space": _PUBLISHED_SPACE | {"learning_rate": {"low": 1e-3, "high": 5e-3, "scale": "log"}},
        "training": {"ramp_epochs": 80},
        "budget": {"models": 100, "epochs": 400, "patience_epochs": 100},
    },
    # Population-based training (Keshtkaran et al. 2022). The population changes the learning rate, so nothing else does.
    "autolfads": {
        "strategy": {
            "kind": "pbt",
            "generation_epochs": 25,
            "exploit": "binary_tournament",
            "explore": "perturb",
            "start": {"learning_rate": 4e-3, "cd_rate": 0.5},
            "patience_generations": 4,
            "least_improvement": 5e-4,
        },
        "architecture": _PUBLISHED_ARCHITECTURE,
        "space": _PUBLISHED_SPACE,
        "training": {"ramp_epochs": 80, "decay_factor": 1.0},
        "budget": {"models": 20, "epochs": 1000},
        "inference": {"posterior_samples": 50},
    },
}


def with_preset(given: Mapping[str, Any]) -> dict[str, Any]:
    """A specification as a client gives it, filled in from its preset: whatever it says itself stands.

    A strategy of another kind than the preset's replaces the preset's whole.
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
