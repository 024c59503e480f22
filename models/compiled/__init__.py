"""Both scans of GRUs in C, compiled for the CPU of this machine at their first use. They are optional.

Without a C compiler, `library` is None and `models.scan` computes the same in tensors. The user's cache folder keeps the compiled
library, by source, compiler and CPU. Within `bfloat16_products`, products of states with weights read bfloat16, by instructions
of the CPU or, more slowly, by rounding.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SOURCES = [
    Path(__file__).with_name(name)
    for name in ("scan.c", "controlled_scan.c", "gru.h", "products.h", "vectors.h")
]
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-shared", "-fPIC")
COMPILERS = ("cc", "gcc", "clang")
COMPILE_SECONDS = 120

_LONG, _INT, _POINTER = ctypes.c_long, ctypes.c_int, ctypes.c_void_p
_INPUTS = [_POINTER, _LONG, _LONG, _LONG]  # x and its strides
_SIGNATURES = {
    "gru_forward": [*_INPUTS, *[_POINTER] * 8, *[_INT] * 7],
    "gru_backward": [*_INPUTS, *[_POINTER] * 12, *[_INT] * 6],
    "controlled_forward": [_POINTER],
    "controlled_backward": [_POINTER],
    "reads_bfloat16": [],
}
_bfloat16 = ContextVar("bfloat16", default=False)


@contextlib.contextmanager
def bfloat16_products(wanted: bool) -> Iterator[None]:
    """Let scans that start in this context, and their gradients, multiply bfloat16 operands, if that is `wanted`."""
    before = _bfloat16.set(wanted)
    try:
        yield
    finally:
        _bfloat16.reset(before)


def reads_bfloat16() -> bool:
    """Return whether products of this context multiply bfloat16 operands."""
    return _bfloat16.get()


def has_bfloat16() -> bool:
    """Return whether this machine has instructions for bfloat16, and the compiled scans use them."""
    found = library(bfloat16=True)
    return found is not None and bool(found.reads_bfloat16())


def usable(tensors: Sequence[Tensor]) -> ctypes.CDLL | None:
    """Return the library if it can take these tensors: float32 on the CPU, while torch has one thread."""
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in tensors):
        return None
    if torch.get_num_threads() != 1:
        _log_that_threads_prevent_it()
        return None
    return library(bfloat16=True) if _bfloat16.get() else library()


@cache
def _log_that_threads_prevent_it() -> None:
    logger.info(
        "torch has several threads: recurrences run in torch operations, since the compiled ones need one thread"
    )


@cache
def library(*, bfloat16: bool = False) -> ctypes.CDLL | None:
    """Find or compile the library, once in a process; return None if that is not possible.

    On a CPU without instructions for bfloat16 the library for it rounds operands, so that it computes what other CPUs compute.
    """
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        logger.info("no C compiler (%s): recurrences run in torch operations", ", ".join(COMPILERS))
        return None
    try:
        return _find_or_compile(compiler, [*FLAGS, "-DBFLOAT16"] if bfloat16 else FLAGS)
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        logger.warning(
            "recurrences run in torch operations, the compiled scans cannot be used: %s",
            _reason(error),
            exc_info=error,
        )
        return None


def _find_or_compile(compiler: str, flags: Sequence[str]) -> ctypes.CDLL:
    """Return the library for this source, compiler, flags and CPU, from the cache folder or compiled now."""
    described = [
        *(source.read_bytes() for source in SOURCES),
        compiler.encode(),
        " ".join(flags).encode(),
        _cpu().encode(),
    ]
    name = f"scans-{hashlib.blake2b(b'|'.join(described), digest_size=12).hexdigest()}.so"
    folder = _cache_folder()
    if folder is not None and (folder / name).exists():
        with contextlib.suppress(
            OSError, AttributeError
        ):  # truncated, or on a file system without execution: compile it again
            return _loaded(folder / name)
    keeps = folder is not None and os.access(folder, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="latentry-", dir=folder if keeps else None) as scratch:
        made = Path(scratch) / name
        sources = [str(source) for source in SOURCES if source.suffix == ".c"]
        command = [compiler, *flags, *sources, "-lm", "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=COMPILE_SECONDS)
        loaded = _loaded(made)
        if folder is not None and keeps:
            made.rename(folder / name)  # atomic: another process may do the same
    return loaded


def _loaded(path: Path) -> ctypes.CDLL:
    """Load a library and declare its functions."""
    loaded = ctypes.CDLL(str(path))
    for name, types in _SIGNATURES.items():
        getattr(loaded, name).argtypes = types
    return loaded


def _cache_folder() -> Path | None:
    """Return a folder that only this user can write to, since code is loaded from it; None if there is none."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "latentry"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        return None
    return folder if status.st_uid == os.geteuid() and not status.st_mode & 0o022 else None


def _cpu() -> str:
    """Describe the processor: code for one may not run on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.platform() + platform.processor()
    return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _reason(error: Exception) -> str:
    return str(getattr(error, "stderr", "") or error).strip()
