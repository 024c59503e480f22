"""The light client of Latentry: HTTP and NumPy, no torch.

>>> from latentry import Client
>>> client = Client("http://127.0.0.1:8000")
>>> dataset = client.upload_dataset("spikes.npz")
>>> job = client.submit(dataset, preset="autolfads").wait()
>>> rates = job.selected_model.rates[0:5]

`AsyncClient` is the same for programs on asyncio.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentry.asynchronous.client import AsyncClient as AsyncClient
    from latentry.errors import LatentryError as LatentryError
    from latentry.synchronous.arrays import Array as Array
    from latentry.synchronous.client import Client as Client
    from latentry.synchronous.datasets import Dataset as Dataset
    from latentry.synchronous.jobs import Job as Job
    from latentry.synchronous.models import Inference as Inference
    from latentry.synchronous.models import Model as Model

_MODULES = {
    "AsyncClient": "latentry.asynchronous.client",
    "LatentryError": "latentry.errors",
    "Array": "latentry.synchronous.arrays",
    "Client": "latentry.synchronous.client",
    "Dataset": "latentry.synchronous.datasets",
    "Job": "latentry.synchronous.jobs",
    "Inference": "latentry.synchronous.models",
    "Model": "latentry.synchronous.models",
}
"""The module of each name. A module is imported at its first use, so that scripts and the command line start fast."""

__all__ = ["Array", "AsyncClient", "Client", "Dataset", "Inference", "Job", "LatentryError", "Model"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'latentry' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
