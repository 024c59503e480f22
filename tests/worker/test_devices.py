"""Devices of training processes, with a `torch.cuda` that pretends to have two GPUs and refuses calls without a device."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sqlalchemy import select
from zarr.abc.store import Store

from domain.states import SliceState
from store.database import Database
from store.settings import Settings
from store.tables import Slice, Worker
from worker.context import devices
from worker.context.devices import (
    DeviceUnavailable,
    choose_device,
    device_failure,
    free_bytes,
    free_cache,
    is_out_of_memory,
    peak_bytes,
    start_measuring_memory,
    synchronize,
    use_device,
    use_of_gpu,
)
from worker.context.process import TrainingProcess
from worker.process import main as training_main
from worker.process import run_next as turns
from worker.scheduling.failures import DeviceFailed
from worker.scheduling.scheduler import advance

ROOT = Path(__file__).resolve().parents[2]


class Gpus:
    """What the processes ask `torch.cuda` for; each answer differs between the two GPUs."""

    def __init__(self, number: int = 2) -> None:
        self.number, self.broken = number, False
        self.asked: list[tuple[str, str]] = []

    def _on(self, name: str, device: Any) -> int:
        """Note a call; return the number of the GPU."""
        named = torch.device(device) if isinstance(device, str) else device
        self.asked.append((name, str(named)))
        return int(named if isinstance(named, int) else named.index)

    def is_available(self) -> bool:
        return self.number > 0

    def device_count(self) -> int:
        return self.number

    def get_device_name(self, device: Any) -> str:
        return f"Pretended H{self._on('name', device)}00"

    def set_device(self, device: Any) -> None:
        self._on("set_device", device)

    def synchronize(self, device: Any) -> None:
        self._on("synchronize", device)
        if self.broken:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore lines")

    def mem_get_info(self, device: Any) -> tuple[int, int]:
        return 1000 * (1 + self._on("mem_get_info", device)), 8000

    def utilization(self, device: Any) -> int:
        return 25 * (1 + self._on("utilization", device))

    def memory_reserved(self, device: Any) -> int:
        return 300 + self._on("memory_reserved", device)

    def memory_allocated(self, device: Any) -> int:
        return 100 + self._on("memory_allocated", device)

    def max_memory_allocated(self, device: Any) -> int:
        return 500 + self._on("max_memory_allocated", device)

    def reset_peak_memory_stats(self, device: Any) -> None:
        self._on("reset_peak_memory_stats", device)

    def device(self, device: Any) -> Any:
        import contextlib

        self._on("device", device)
        return contextlib.nullcontext()

    def empty_cache(self) -> None:  # torch gives it no device
        assert self.asked[-1][0] == "device", "empty_cache works on the current device"


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    found = Gpus()
    fake = SimpleNamespace(**{name: getattr(torch, name) for name in ("device", "version", "__version__")})
    fake.OutOfMemoryError, fake.cuda = torch.OutOfMemoryError, found
    monkeypatch.setattr(devices, "torch", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return found


def test_every_call_names_the_device(gpus: Gpus) -> None:
    use_device("cuda:1")
    synchronize("cuda:1")
    assert start_measuring_memory("cuda:1") == 101
    assert peak_bytes("cuda:1") == 501
    assert free_bytes("cuda:1") == 2000 + 200
    assert use_of_gpu("cuda:1") == (6000, 8000, 0.5)
    free_cache("cuda:1")
    assert {device for _, device in gpus.asked} == {"cuda:1"}
    assert len(gpus.asked) == 11


def test_only_one_file_of_the_workers_calls_torch_cuda() -> None:
    """So that the test above sees every call.

    `latentry worker` lets another process count the GPUs, and the kernels for GPUs name the device of their tensors.
    """
    callers = {
        str(path.relative_to(ROOT))
        for package in ("models", "worker")
        for path in (ROOT / package).rglob("*.py")
        if "torch.cuda." in path.read_text() and path.parent.name != "kernels"
    }
    assert callers == {"worker/context/devices.py", "worker/training_workers.py"}


@pytest.mark.parametrize(
    ("wanted", "number", "expected"),
    [
        ("auto", 2, ("cuda:0", "Pretended H000")),
        ("cuda", 2, ("cuda:0", "Pretended H000")),
        ("cuda:1", 2, ("cuda:1", "Pretended H100")),
        ("cpu", 2, ("cpu", "")),
        ("cpu", 0, ("cpu", "")),
    ],
)
def test_a_setting_takes_its_device(gpus: Gpus, wanted: str, number: int, expected: tuple[str, str]) -> None:
    gpus.number = number
    assert choose_device(wanted) == expected


def test_a_part_of_a_gpu_is_described(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1c2d")
    assert choose_device("auto") == ("cuda:0", "Pretended H000, CUDA_VISIBLE_DEVICES=MIG-1c2d")


def test_auto_says_why_it_takes_the_cpu(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus.number = 0
    device, reason = choose_device("auto")
    assert device == "cpu"
    assert re.fullmatch(r"auto: torch .* is built without CUDA", reason)
    monkeypatch.setattr(devices.torch, "version", SimpleNamespace(cuda="13.0", hip=None))
    assert "finds no GPU; `nvidia-smi` must list one" in choose_device("auto")[1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device("auto")[1] == "auto: CUDA_VISIBLE_DEVICES hides all GPUs"


@pytest.mark.parametrize(
    ("wanted", "number", "message"),
    [
        ("cuda", 0, "is built without CUDA. Set the device to auto or cpu"),
        ("cuda:0", 0, "is built without CUDA"),
        ("cuda:2", 2, "cuda:2: torch sees 2 GPUs, numbered from 0"),
        ("mps", 0, "no double precision"),
        ("cuda:x", 2, "expected auto, cpu, cuda or cuda:N"),
        ("gpu", 2, "expected auto, cpu, cuda or cuda:N"),
        ("cpu:0", 2, "expected auto, cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_an_error(gpus: Gpus, wanted: str, number: int, message: str) -> None:
    gpus.number = number
    with pytest.raises(DeviceUnavailable, match=message):
        choose_device(wanted)


def caused_by(cause: Exception) -> RuntimeError:
    error = RuntimeError("the kernel failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        caused_by(torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=str,
)
def test_want_of_memory_is_known_in_all_its_forms(gpus: Gpus, error: Exception) -> None:
    assert is_out_of_memory(error)
    gpus.broken = True
    assert device_failure("cuda:1", error) is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape mismatch"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"),
        RuntimeError("out of resource: shared memory, Required: 240000, Hardware limit: 232448"),
    ],
    ids=str,
)
def test_other_errors_are_no_want_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_torch_on_a_cpu_says_that_memory_ran_out() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60)
    assert is_out_of_memory(error.value)


def test_an_error_stays_if_the_gpu_raises_it_again(gpus: Gpus) -> None:
    error = RuntimeError("shape mismatch")
    assert device_failure("cuda:1", error) is None
    gpus.broken = True
    failure = device_failure("cuda:1", error)
    assert str(failure) == (
        "the device cuda:1 (Pretended H100) has stopped working: CUDA error: an illegal memory access was encountered"
    )
    assert device_failure("cpu", error) is None


def test_a_gpu_that_fails_costs_no_attempt_and_ends_the_process(
    database: Database,
    arrays: Store,
    settings: Settings,
    make_job: Callable[..., str],
    gpus: Gpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.write() as session:
        advance(session, make_job(), settings)
    process = TrainingProcess(database, arrays, settings, "here", device="cuda:1")

    def train(*_: Any) -> None:
        gpus.broken = True
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(turns, "train", train)
    for loss in range(1, settings.max_losses + 1):
        with pytest.raises(DeviceFailed, match=r"cuda:1 \(Pretended H100\) has stopped working"):
            training_main._take_turn(lambda: turns.run_next(process))
        with database.read() as session:
            piece = session.execute(select(Slice)).scalar_one()
        assert (piece.attempts, piece.losses, piece.lease_token) == (0, loss, None)
        assert piece.error is not None
        assert piece.error["code"] == "DeviceFailed"
        assert "nvidia-smi" in piece.error["hint"]
    assert piece.state == SliceState.FAILED, "work that breaks one GPU after the other ends"


def test_an_error_that_passes_costs_an_attempt(
    database: Database,
    arrays: Store,
    settings: Settings,
    make_job: Callable[..., str],
    gpus: Gpus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with database.write() as session:
        advance(session, make_job(), settings)
    process = TrainingProcess(database, arrays, settings, "here", device="cuda:1")

    def train(*_: Any) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(turns, "train", train)
    assert training_main._take_turn(lambda: turns.run_next(process))
    with database.read() as session:
        piece = session.execute(select(Slice)).scalar_one()
    assert (piece.attempts, piece.losses) == (1, 0)


@pytest.fixture
def started(
    monkeypatch: pytest.MonkeyPatch, database: Database, arrays: Store, settings: Settings
) -> Iterator[Callable[[str], TrainingProcess]]:
    """Makes the training process of a setting."""
    threads = torch.get_num_threads()

    def start(device: str) -> TrainingProcess:
        changed = settings.model_copy(update={"device": device})
        monkeypatch.setattr("store.settings.get_settings", lambda: changed)
        monkeypatch.setattr("store.database.get_database", lambda: database)
        monkeypatch.setattr("store.array_store.get_array_store", lambda: arrays)
        monkeypatch.setattr("worker.process.calibration.measure_pace", lambda _device: None)
        return training_main._make_process(training_main.threading.Event())

    yield start
    torch.set_num_threads(threads)


def test_a_process_says_which_device_it_took(
    gpus: Gpus,
    database: Database,
    started: Callable[[str], TrainingProcess],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    assert started("cuda:1").device == "cuda:1"
    assert ("set_device", "cuda:1") in gpus.asked
    assert "ready on cuda:1 (LATENTRY_DEVICE=cuda:1; Pretended H100)" in caplog.text
    with database.read() as session:
        row = session.execute(select(Worker)).scalar_one()
    assert (row.device, row.device_name) == ("cuda:1", "Pretended H100")


def test_a_process_never_takes_the_cpu_instead_of_the_device_that_was_asked_for(
    gpus: Gpus, database: Database, started: Callable[[str], TrainingProcess]
) -> None:
    gpus.number = 0
    with pytest.raises(SystemExit, match=r"LATENTRY_DEVICE=cuda cannot be used: cuda: torch .* without CUDA"):
        started("cuda")
    with database.read() as session:
        assert session.execute(select(Worker)).first() is None
