"""The training workers of a machine: one for each GPU, or one for each core.

This process never imports torch. A machine without the device files of a GPU has none; else a short process asks torch.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from store.queues import SLICES
from store.settings import Settings
from worker.supervisor import EmbeddedServiceError, Supervisor, celery_command

logger = logging.getLogger(__name__)

_DEVICE_FILES = ("nvidia[0-9]*", "kfd")  # of NVIDIA and of AMD
_MOST_WITHOUT_GPU = 8
_EPOCH_SECONDS = 110.0  # a worker that stops ends its epoch; `docker compose stop` waits for two minutes


@dataclass(frozen=True)
class TrainingWorker:
    """A Celery worker with its own training process.

    Parameters
    ----------
    name, command
        Of the process.
    environment
        Its device, in addition to the environment of this process.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str]


def training_workers(device: str, number: int | None) -> list[TrainingWorker]:
    """Return the training workers of this machine.

    Parameters
    ----------
    device
        As in the settings. ``auto`` and ``cuda`` stand for all GPUs; another one is the device of every worker.
    number
        How many workers. The default is one for each GPU, or one for each core. More workers than GPUs share them in turns.

    Raises
    ------
    EmbeddedServiceError
        If ``cuda`` was asked for and there is no GPU.
    """
    environments = _environments_of_gpus() if device in ("auto", "cuda") else []
    if device == "cuda" and not environments:
        raise EmbeddedServiceError(
            "LATENTRY_DEVICE=cuda, but torch finds no GPU here: `nvidia-smi` must list one, and torch must be a CUDA build; "
            "with LATENTRY_DEVICE=auto or cpu models train on the CPU"
        )
    if number is None:
        cores = 1 if device.startswith("cuda") else min(_MOST_WITHOUT_GPU, os.cpu_count() or 1)
        number = len(environments) or cores
    return [
        TrainingWorker(
            f"worker-{place}",
            celery_command(SLICES, f"{SLICES}-{place}"),
            environments[place % len(environments)] if environments else {},
        )
        for place in range(number)
    ]


def _environments_of_gpus() -> list[dict[str, str]]:
    """Return the environment of a worker for each GPU that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "MIG-" in visible:
        # CUDA shows a process only the first of several parts of GPUs, so each worker gets its own list.
        parts = [part.strip() for part in visible.split(",")]
        return [{"CUDA_VISIBLE_DEVICES": part, "LATENTRY_DEVICE": "cuda:0"} for part in parts if part]
    return [{"LATENTRY_DEVICE": f"cuda:{number}"} for number in range(_gpus())]


def _gpus() -> int:
    """Return the number of GPUs that torch can use. It takes seconds, but only on machines that have a GPU."""
    if not any(found for name in _DEVICE_FILES for found in Path("/dev").glob(name)):
        return 0
    count = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"
    try:
        asked = subprocess.run(
            [sys.executable, "-c", count], check=True, capture_output=True, text=True, timeout=120
        )
        found = int(asked.stdout.split()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        logger.warning("could not ask torch for GPUs: %s", getattr(error, "stderr", None) or error)
        return 0
    if not found:
        logger.warning("this machine has a GPU, but torch cannot use it: models train on the CPU")
    return found


class TrainingWorkers(Supervisor):
    """Training workers for a service that runs elsewhere, found by ``LATENTRY_DATABASE_URL`` and ``LATENTRY_REDIS_URL``.

    Parameters
    ----------
    workers
        How many, see `training_workers`.
    threads
        CPU threads of each worker.
    """

    def __init__(self, workers: int | None, threads: int) -> None:
        super().__init__("worker", log_dir=None, stop_seconds=_EPOCH_SECONDS)
        self._wanted_workers, self._threads = workers, threads

    def start(self) -> list[str]:
        """Start the workers; return the device of each, as the setting names it.

        Raises
        ------
        EmbeddedServiceError
            If the addresses of the service are not set, or the device is not there.
        """
        names = ("LATENTRY_DATABASE_URL", "LATENTRY_REDIS_URL")
        if missing := [name for name in names if not os.environ.get(name)]:
            raise EmbeddedServiceError(
                f"set {' and '.join(missing)} to the addresses of the service whose models this machine trains"
            )
        settings = Settings()
        device = settings.device
        found = training_workers(device, self._wanted_workers)
        self._environment = {**os.environ, "LATENTRY_THREADS": str(self._threads), "PYTHONUNBUFFERED": "1"}
        self._metrics = TemporaryDirectory(prefix="latentry-metrics-")
        self._collect_metrics(settings, Path(self._metrics.name) / "metrics")
        for one in found:
            self._spawn(one.name, one.command, one.environment)
        return [
            one.environment.get("CUDA_VISIBLE_DEVICES", one.environment.get("LATENTRY_DEVICE", device))
            for one in found
        ]
