"""The loops over bins of `models.scan` and `models.controlled_scan` as kernels for NVIDIA's GPUs. They are optional.

A loop in tensors takes some dozens of kernels for each bin; here one kernel computes all bins, trials and models. Kernels are
written in Triton's language, which comes with torch for CUDA. Before kernels compute anything that counts, they compute a small
random case, and the form in tensors does the same. If the results differ, or a kernel cannot be compiled, a line in the
log says so and the form in tensors is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

DEVICE_TYPES = {"cuda"}
MOST_UNITS = 128
LEAST_CAPABILITY = (8, 0)  # the first with bfloat16 and TF32
TOLERANCE = {False: 1e-4, True: 2e-2}  # of the first check, relative, without and with bfloat16 operands
_SPARE_BYTES = 16 << 10  # of shared memory, beside the resident weights
_MOST_RESIDENT_FLOAT32 = 32  # units
_CHECKED: dict[Hashable, bool] = {}
_wanted = ContextVar("kernels", default=True)


@dataclass(frozen=True)
class Gpu:
    """What the choice of kernels depends on."""

    multiprocessors: int
    shared_bytes: int  # that one program may use


@dataclass(frozen=True)
class Kernels:
    """How kernels compute: `rows` trials in a program, weights resident or read in each bin, see `gru_programs`."""

    rows: int
    warps: int
    resident: bool
    operands: int
    precision: str = (
        "tf32x3"  # of products of float32: three products of TF32, nearly as exact as one of float32
    )


Compare = Callable[[Kernels], Sequence[tuple[Tensor, Tensor]]]
"""Compute a small case by the kernels and in tensors; return pairs of results."""


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Let scans that start in this context use the form in tensors."""
    before = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(before)


def padded(units: int) -> int:
    """Return the size of the block that holds this number of units: a power of two, at least 16."""
    return max(16, 1 << (units - 1).bit_length())


def fitting(
    gpu: Gpu, units: Sequence[int], trials: int, models: int, *, bfloat16: bool, controlled: bool = False
) -> Kernels | None:
    """Return the kernels for these sizes, or None if they are too large.

    Parameters
    ----------
    gpu
        The device.
    units
        Sizes of the GRUs, and of whatever else a program multiplies.
    trials, models
        B and P: few of them get small programs, so that all multiprocessors work.
    bfloat16
        Whether products multiply bfloat16 operands.
    controlled
        Whether it is the loop of controller and generator, which always reads its weights in each bin.
    """
    if max(units) > MOST_UNITS:
        return None
    size, operands = padded(max(units)), (3 if controlled else 1) if bfloat16 else 0
    warps = 4 if size <= 32 and not controlled else 8
    resident = not controlled and (
        6 * size**2 + _SPARE_BYTES <= gpu.shared_bytes if bfloat16 else size <= _MOST_RESIDENT_FLOAT32
    )
    many = models * -(-trials // 16) > 2 * gpu.multiprocessors
    return Kernels(32 if many and resident and bfloat16 else 16, warps, resident, operands)


def usable(
    tensors: Sequence[Tensor],
    units: Sequence[int],
    form: tuple[Hashable, ...],
    *,
    bfloat16: bool,
    compare: Compare,
) -> Kernels | None:
    """Return the kernels for these tensors, after a check at their first use; None if the form in tensors is to be used.

    Parameters
    ----------
    tensors
        Everything that the loop reads; the first is [P, B, units], the states before the first bin.
    units
        As in `fitting`.
    form
        The kind of the loop, and what other code it takes: whether there are masks, and so on.
    bfloat16
        As in `fitting`.
    compare
        Computes the small case of the check.
    """
    device = tensors[0].device
    if device.type not in DEVICE_TYPES or not _wanted.get():
        return None
    if any(tensor.dtype != torch.float32 or tensor.device != device for tensor in tensors):
        return None
    gpu = gpu_of(device)
    if gpu is None:
        return None
    models, trials = tensors[0].shape[:2]
    if not models or not trials:
        return None
    chosen = fitting(gpu, units, trials, models, bfloat16=bfloat16, controlled=form[0] == "controlled")
    key = (device, chosen, tuple(units), form)
    if key not in _CHECKED:
        _CHECKED[key] = _is_right(chosen, units, form, compare)
    return chosen if _CHECKED[key] else None


@cache
def gpu_of(device: torch.device) -> Gpu | None:
    """Describe a device that kernels can run on; None, with a line in the log, if they cannot."""
    if torch.version.hip is not None:
        reason = "the kernels were written for NVIDIA's GPUs"
    elif importlib.util.find_spec("triton") is None:
        reason = "Triton is not installed"
    elif torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        reason = "the GPU is too old"
    else:
        found = torch.cuda.get_device_properties(device)
        shared = getattr(found, "shared_memory_per_block_optin", found.shared_memory_per_block)
        return Gpu(found.multi_processor_count, int(shared))
    logger.warning("recurrences on %s run in torch operations: %s", device, reason)
    return None


def _is_right(
    chosen: Kernels | None, units: Sequence[int], form: tuple[Hashable, ...], compare: Compare
) -> bool:
    """Check the kernels against the form in tensors; log what the device will use."""
    described = f"{form[0]} of {'/'.join(map(str, units))} units"
    if chosen is None:
        logger.warning("%s runs in torch operations: kernels take at most %d units", described, MOST_UNITS)
        return False
    try:
        errors = [_relative_error(found, expected) for found, expected in compare(chosen)]
    except torch.OutOfMemoryError:
        raise
    except (
        Exception
    ) as error:  # whatever Triton, its compiler or the driver raise: the form in tensors still works
        logger.warning(
            "%s runs in torch operations, since its kernel failed: %s", described, error, exc_info=error
        )
        return False
    worst, allowed = max(errors), TOLERANCE[chosen.operands > 0]
    if worst > allowed:
        logger.warning(
            "%s runs in torch operations: its kernel differs from them by %.1e, at most %.0e is allowed",
            described, worst, allowed,
        )  # fmt: skip
        return False
    logger.info(
        "%s runs in one kernel, %s; it differs from torch operations by %.1e", described, chosen, worst
    )
    return True


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over that of what is expected; infinite if a value is not a number."""
    difference = (found - expected).double().norm() / expected.double().norm().clamp(min=1e-30)
    error = float(difference)
    return error if error == error else float("inf")
