"""The device of a process: which one a setting takes, its memory, and its errors.

Every call names the device. Without a name, torch would measure and warm the first GPU while the models train on another one.
"""

import os
from pathlib import Path

import torch

from worker.scheduling.failures import DeviceFailed

_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch on CPUs
    "out of memory",  # CUDA in a torch.AcceleratorError, and Triton
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # cuDNN
)
_DESCRIPTION_LENGTH = 200


class DeviceUnavailable(Exception):
    """The device that a setting names cannot be used. The message says why and what to do."""


def choose_device(wanted: str) -> tuple[str, str]:
    """Return the device of a setting, and its model; if ``auto`` takes the CPU, the reason instead of the model.

    Parameters
    ----------
    wanted
        ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` (the first GPU) or ``cuda:N``. With torch for ROCm the
        GPUs of AMD have these names too.

    Raises
    ------
    DeviceUnavailable
        If the device is not there, or models cannot train on it.
    """
    kind, _, index = wanted.partition(":")
    if kind == "mps":
        raise DeviceUnavailable(
            f"{wanted}: Apple's GPUs have no double precision, which scores need; set the device to cpu"
        )
    if wanted not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise DeviceUnavailable(f"expected auto, cpu, cuda or cuda:N as device, got {wanted!r}")
    if wanted == "cpu":
        return "cpu", ""
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto" and not there:
        return "cpu", f"auto: {_why_no_gpu()}"
    number = int(index or 0)
    if number >= there:
        found = f"torch sees {there} GPUs, numbered from 0" if there else _why_no_gpu()
        raise DeviceUnavailable(f"{wanted}: {found}. Set the device to auto or cpu to train without it.")
    return f"cuda:{number}", _described_gpu(number)


def _why_no_gpu() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides all GPUs"
    return f"torch {torch.__version__} finds no GPU; `nvidia-smi` must list one, and its driver must not be too old"


def _described_gpu(number: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    name = torch.cuda.get_device_name(number)
    return (f"{name}, CUDA_VISIBLE_DEVICES={visible}" if visible else name)[:_DESCRIPTION_LENGTH]


def is_gpu(device: str) -> bool:
    """Return whether a device is a GPU."""
    return device.startswith("cuda")


def use_device(device: str) -> None:
    """Make a device the current one of this process: kernels of Triton run on the current one."""
    if is_gpu(device):
        torch.cuda.set_device(torch.device(device))


def synchronize(device: str) -> None:
    """Wait until a GPU has done all that it was asked for."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


def device_failure(device: str, error: BaseException) -> DeviceFailed | None:
    """Return a `DeviceFailed` if a GPU no longer works after an error; else None."""
    if not is_gpu(device) or is_out_of_memory(error):
        return None
    try:
        torch.cuda.synchronize(device)  # after an error that stays, every call raises it again
    except RuntimeError as still:
        name, reason = torch.cuda.get_device_name(device), str(still).partition("\n")[0]
        return DeviceFailed(f"the device {device} ({name}) has stopped working: {reason}")
    return None


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error or its cause says that memory ran out. Only torch's own allocations have a type for it."""
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def free_cache(device: str) -> None:
    """Return the memory of a GPU that torch caches, for a population of another size."""
    if is_gpu(device):
        with torch.cuda.device(device):
            torch.cuda.empty_cache()


def start_measuring_memory(device: str) -> int:
    """Begin to measure the peak of a GPU's memory; return what is in use now, in bytes (0 on a CPU)."""
    if not is_gpu(device):
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_bytes(device: str) -> int:
    """Return the peak of a GPU's memory since the measurement began, in bytes (0 on a CPU)."""
    return torch.cuda.max_memory_allocated(device) if is_gpu(device) else 0


def use_of_gpu(device: str) -> tuple[int, int, float]:
    """Return what all processes use of a GPU: bytes in use, all bytes, and the share of time in which it computed."""
    free, whole = torch.cuda.mem_get_info(device)
    return whole - free, whole, torch.cuda.utilization(device) / 100


def free_bytes(device: str) -> int:
    """Return the memory that a process may still get: of the GPU, or of the machine or container, whichever is less."""
    if is_gpu(device):
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    found = []
    if (meminfo := Path("/proc/meminfo")).exists():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").exists() and (limit := (group / "memory.max").read_text().strip()) != "max":
        found.append(int(limit) - int((group / "memory.current").read_text()))
    return min(found, default=2**63)
