"""Checkpoints of models: safetensors in the array store, each attempt under its own path."""

from collections.abc import Mapping

from safetensors.torch import load, save
from torch import Tensor
from zarr.abc.store import Store

from store.array_store import read_object, write_object

_BEST = "best."


def checkpoint_key(model_id: str, epoch: int, token: str) -> str:
    """Return the key of a checkpoint. `token` is the lease's, so a worker that lost its lease overwrites nothing."""
    return f"models/{model_id}/checkpoints/{epoch:06d}-{token}.safetensors"


def save_checkpoint(store: Store, key: str, state: Mapping[str, Tensor]) -> int:
    """Write the state of a model (`models.Population.state`); return the size of the checkpoint in bytes."""
    value = save(dict(state))
    write_object(store, key, value)
    return len(value)


def load_checkpoint(store: Store, key: str) -> dict[str, Tensor]:
    """Read the state of a model.

    Raises
    ------
    FileNotFoundError
        If the checkpoint does not exist.
    """
    value = read_object(store, key)
    if value is None:
        raise FileNotFoundError(f"checkpoint {key}: expected in the array store, but it is not there")
    return load(value)


def best_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the best weights in a model's state, by the names of the parameters."""
    return {name.removeprefix(_BEST): values for name, values in state.items() if name.startswith(_BEST)}
