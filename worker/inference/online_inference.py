"""Online inference: latents of a few trials at once, in the process of the queue ``infer``. Recently used models stay loaded.

Torch is imported at the first request, unless the settings say otherwise, so an unused process stays small.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

import numpy as np
from celery.signals import worker_ready
from numpy.typing import NDArray
from zarr.abc.store import Store

from store.array_store import get_array_store, object_size
from store.rpc import pack_array, unpack_array
from store.settings import get_settings
from worker.rpc_server import CannotAnswer, answered

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

_FORGET_SECONDS = 10.0


class LoadedModels:
    """Weights of models by the keys of their checkpoints, which never change. The least recently used are removed first.

    Parameters
    ----------
    arrays
        The array store.
    device
        Where weights are kept.
    most_bytes
        Of all weights. The most recently used model stays in any case.
    """

    def __init__(self, arrays: Store, device: str, most_bytes: int) -> None:
        self._arrays, self._device, self._most_bytes = arrays, device, most_bytes
        self._loaded: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._lock = Lock()

    def weights(self, checkpoint_key: str) -> Mapping[str, "Tensor"]:
        """Return the best weights of a model, as `models.iterate_latents` reads them.

        Raises
        ------
        FileNotFoundError
            If the checkpoint does not exist.
        """
        from worker.context.checkpoints import load_checkpoint

        with self._lock:
            if checkpoint_key not in self._loaded:
                state = load_checkpoint(self._arrays, checkpoint_key)
                self._loaded[checkpoint_key] = {
                    name: values.to(self._device, copy=True)
                    for name, values in state.items()
                    if name.startswith("best.")
                }
            self._loaded.move_to_end(checkpoint_key)
            while len(self._loaded) > 1 and self._bytes() > self._most_bytes:
                self._loaded.popitem(last=False)
            return self._loaded[checkpoint_key]

    def forget_deleted(self) -> None:
        """Remove the weights whose checkpoint is no longer in the array store."""
        with self._lock:
            for key in [key for key in self._loaded if object_size(self._arrays, key) is None]:
                del self._loaded[key]

    def _bytes(self) -> int:
        return sum(values.nbytes for state in self._loaded.values() for values in state.values())


@lru_cache
def _models() -> LoadedModels:
    import torch

    settings = get_settings()
    torch.set_num_threads(settings.threads)
    loaded = LoadedModels(get_array_store(), settings.infer_device, settings.infer_cache_bytes)
    Thread(target=_forget_deleted, args=(loaded,), daemon=True).start()
    return loaded


def _forget_deleted(loaded: LoadedModels) -> None:
    """Remove the weights of deleted models at regular intervals, also while no request comes."""
    while True:
        time.sleep(_FORGET_SECONDS)
        try:
            loaded.forget_deleted()
        except Exception as error:  # the database does not answer
            logger.debug("the weights in memory were not checked: %s", error)


@worker_ready.connect
def _preload(**_: Any) -> None:
    if get_settings().infer_preload:
        import models  # noqa: F401 (brings torch)

        _models()
        logger.info("torch is loaded")


@answered("infer_now")
def infer_now(
    *,
    checkpoint_key: str,
    architecture: dict[str, Any],
    neurons: Sequence[int],
    session: int,
    spikes: dict[str, Any],
    trial_length_bins: Sequence[int],
    external_inputs: dict[str, Any] | None,
    posterior_samples: int,
    seed: int,
    first_trial: int,
    arrays: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """Return posterior averages of some trials.

    Parameters
    ----------
    checkpoint_key, architecture, neurons
        The model: its weights, its network, and the number of neurons of each session that it was trained on.
    session
        The session whose neurons the spikes are of.
    spikes, external_inputs
        [trials, bins, neurons] counts and [trials, bins, inputs], packed (`store.rpc.pack_array`).
    trial_length_bins, posterior_samples, seed, first_trial
        As in `models.iterate_latents`.
    arrays
        Names of the latents to return.
    seconds
        Time limit.

    Returns
    -------
    dict
        Latents by name, packed; rates in counts per bin.
    """
    from models import Architecture, ConfigurationError, infer_latents

    try:
        latents = infer_latents(
            Architecture.of_model(architecture, neurons),
            _models().weights(checkpoint_key),
            unpack_array(spikes),
            np.asarray(trial_length_bins, dtype=np.int64),
            external_inputs=None if external_inputs is None else unpack_array(external_inputs),
            session=session,
            posterior_samples=posterior_samples,
            seed=seed,
            first_trial=first_trial,
            device=get_settings().infer_device,
            on_step=_until(time.monotonic() + seconds),
        )
    except FileNotFoundError as error:
        raise CannotAnswer("no_weights", str(error)) from error
    except ConfigurationError as error:
        raise CannotAnswer("refused", str(error)) from error
    found: dict[str, NDArray[np.float32] | None] = {name: getattr(latents, name) for name in arrays}
    return {name: pack_array(values) for name, values in found.items() if values is not None}


def _until(deadline: float) -> Callable[[], None]:
    def check() -> None:
        if time.monotonic() > deadline:
            raise CannotAnswer("too_slow", "the caller waits no longer")

    return check
