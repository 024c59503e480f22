"""The state of a model in training, by name: the form of its checkpoint, see `Population.state`."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from domain.architecture import Architecture
from domain.errors import require
from domain.parameter_shapes import parameter_shapes

PACKED = ("weights", "best", "adam_first", "adam_second")
"""Kinds of values that every parameter has."""
VECTORS = {
    "adam_steps": torch.int64,
    "best_epoch": torch.int64,
    "alive": torch.int64,
    "smoothed_sv_loss": torch.float64,
    "best_smoothed_sv_loss": torch.float64,
    "best_sv_loss": torch.float64,
    "best_validation_loss": torch.float64,
    "learning_rate_decay": torch.float64,
    "stalled_epochs": torch.int64,
}
"""Numbers of a model, beside `epoch`."""
ADDED_LATER = ("best_sv_loss", "best_validation_loss")
"""Those of `VECTORS` that older checkpoints lack; NaN (not known) is read in their place."""


def fresh_state(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a model before its training, from its parameters."""
    state = {"epoch": torch.tensor(0), "adam_steps": torch.tensor(0), "best_epoch": torch.tensor(0)}
    state |= {"alive": torch.tensor(1), "stalled_epochs": torch.tensor(0)}
    state["learning_rate_decay"] = torch.tensor(1.0, dtype=torch.float64)
    for name in ("smoothed_sv_loss", "best_smoothed_sv_loss"):
        state[name] = torch.tensor(math.inf, dtype=torch.float64)
    state |= _unknown()
    for name, values in parameters.items():
        state |= {f"weights.{name}": values, f"best.{name}": values}
        state |= {
            f"adam_first.{name}": torch.zeros_like(values),
            f"adam_second.{name}": torch.zeros_like(values),
        }
    return state


def checked_state(
    state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], index: int
) -> dict[str, Tensor]:
    """Return a state, with NaN for what older checkpoints lack; raise `ConfigurationError` if it does not fit these shapes."""
    state = _unknown() | dict(state)
    expected = {f"{kind}.{name}": shape for kind in PACKED for name, shape in shapes.items()}
    expected |= dict.fromkeys(("epoch", *VECTORS), ())
    for name, shape in expected.items():
        require(name in state, f"state {index} lacks {name!r}")
        require(
            tuple(state[name].shape) == shape,
            f"state {index} has {name!r} of shape {tuple(state[name].shape)}, the architecture needs {shape}",
        )
    return state


def checked_parameters(
    architecture: Architecture,
    state: Mapping[str, Tensor],
    prefix: str = "",
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Return the parameters of one model as a pack of one; raise `ConfigurationError` if they do not fit the architecture.

    Parameters
    ----------
    architecture, state
        Of the model.
    prefix
        What the names in the state begin with, e.g. "best.".
    device
        Where to put them.
    """
    parameters = {}
    for name, shape in parameter_shapes(architecture).items():
        key = prefix + name
        require(key in state, f"the model's state lacks {key!r}")
        require(
            tuple(state[key].shape) == shape,
            f"the model's {key!r} has shape {tuple(state[key].shape)}, the architecture needs {shape}",
        )
        parameters[name] = state[key].to(device)[None]
    return parameters


def _unknown() -> dict[str, Tensor]:
    """Return NaN for each of `ADDED_LATER`, in tensors that share no storage."""
    return {name: torch.tensor(math.nan, dtype=torch.float64) for name in ADDED_LATER}
