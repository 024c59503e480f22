"""The scores of a model after an epoch, and its state by name: the form of its checkpoint, see `Population.state`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

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


@dataclass(frozen=True)
class EpochScores:
    """Losses and state of one model after an epoch. Losses are in nats per sample and include ln x!.

    Parameters
    ----------
    epoch
        Epochs completed, counting this one.
    train_loss
        Reconstruction loss of the training steps, with coordinated dropout and dropout, before each update.
    sv_loss
        Mean NLL at the held-out samples of the validation trials: what selects. With `sv_rate` 0 nothing is
        held out, and this is the validation loss.
    validation_loss
        Mean NLL at the samples of the validation trials that the model read, from the same pass.
    sv_loss_train
        Mean NLL at held-out samples of training trials (evenly chosen, no more than there are validation
        trials); None with `sv_rate` 0.
    smoothed_sv_loss
        Exponentially smoothed `sv_loss`, see `TrainingOptions.score_smoothing`.
    kl_initial_condition
        KL(q(g0 | x) || p(g0)), nats per trial, mean over the training steps.
    kl_inputs
        KL(q(u | x) || p(u)) of the inferred inputs, alike; 0 without a controller.
    gradient_norm
        Before clipping, mean over the steps.
    learning_rate
        Of this epoch, after its decay.
    diverged
        The model produced a loss or gradient that is not finite, or exploded; its weights are those before
        that step and stay so. Losses may then be NaN.
    best_smoothed_sv_loss
        Lowest smoothed SV loss so far: the epoch whose weights are the model's best.
    best_epoch
        That epoch; 0 before there was one.
    best_sv_loss, best_validation_loss
        `sv_loss` and `validation_loss` of that epoch: what the kept weights score. NaN before there was one.
    """

    epoch: int
    train_loss: float
    sv_loss: float
    validation_loss: float
    sv_loss_train: float | None
    smoothed_sv_loss: float
    kl_initial_condition: float
    kl_inputs: float
    gradient_norm: float
    learning_rate: float
    diverged: bool
    best_smoothed_sv_loss: float
    best_epoch: int
    best_sv_loss: float
    best_validation_loss: float


@dataclass(frozen=True)
class Snapshot:
    """The states of a pack's models at one epoch, on its device.

    Parameters
    ----------
    shapes
        Of the parameters of one model, by name.
    epoch
        Of all models.
    packed
        float32 [M, D] for each of `PACKED`.
    vectors
        [M] for each of `VECTORS`.
    """

    shapes: Mapping[str, tuple[int, ...]]
    epoch: int
    packed: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]

    def states(self) -> list[dict[str, Tensor]]:
        """Return the state of each model, see `Population.state`, by one copy to the host for each packed tensor."""
        packed = {kind: values.cpu() for kind, values in self.packed.items()}
        # float64 holds all these numbers exactly, so one copy serves for all of them.
        rows = torch.stack([vector.double() for vector in self.vectors.values()]).cpu()
        vectors = {
            name: row.to(vector.dtype) for (name, vector), row in zip(self.vectors.items(), rows, strict=True)
        }
        return [
            {
                f"{kind}.{name}": values[index].clone()
                for kind, pack in packed.items()
                for name, values in named_parts(pack, self.shapes).items()
            }
            | {"epoch": torch.tensor(self.epoch)}
            | {name: row[index].clone() for name, row in vectors.items()}
            for index in range(len(packed["weights"]))
        ]


def named_parts(pack: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """View [M, D] as the named parameters, [M, …] each."""
    parts = torch.split(pack, [math.prod(shape) for shape in shapes.values()], dim=1)
    return {name: part.view(-1, *shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


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
