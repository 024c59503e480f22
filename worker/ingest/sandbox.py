"""Parse uploaded files in a subprocess with limited memory, time and access."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

import worker
from worker.ingest import parse
from worker.ingest.problems import Problem
from worker.ingest.readers.base import ReadOptions
from worker.ingest.recording import Recording

_LOG = "parse.log"
_PERHAPS_OURS = ("reader_crashed", "file_too_demanding")
"""Codes of problems that either the file or a broken installation may cause."""
_KILLED_FOR_RESOURCES = {-signal.SIGXCPU, -signal.SIGXFSZ, -signal.SIGKILL}


@dataclass(frozen=True)
class ParseLimits:
    """Limits for reading one file.

    Attributes
    ----------
    memory_bytes
        Address space of the subprocess; about 0.3 GiB of it are Python's and numpy's own.
    cpu_s
        Processor time, in whole seconds.
    wall_s
        Wall-clock time in seconds, after which the subprocess and its children are killed.
    output_bytes
        Size of the largest file that it may write.
    """

    memory_bytes: int = 6 * 2**30
    cpu_s: int = 300
    wall_s: float = 600.0
    output_bytes: int = 8 * 2**30


@dataclass(frozen=True)
class ParsedFile:
    """An accepted file.

    Attributes
    ----------
    folder
        Folder with `recording.json`, `arrays/` and `report.json`.
    report
        The report as JSON, as `Report.to_json` gives it.
    seconds
        Duration in seconds.
    """

    folder: Path
    report: dict[str, Any]
    seconds: float

    def recording(self) -> Recording:
        """Open the canonical arrays, mapped from their files."""
        return Recording.load(self.folder)


@dataclass(frozen=True)
class Rejection:
    """A rejected file.

    Attributes
    ----------
    problems
        All reasons; at least one.
    seconds
        Duration in seconds.
    log
        Last lines of the subprocess's output, for the operator and not for the user.
    """

    problems: list[Problem]
    seconds: float
    log: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the problems as a JSON object, in the form of a report."""
        return {"problems": [problem.to_json() for problem in self.problems]}


class SandboxError(RuntimeError):
    """The subprocess failed for a reason that is not the file's: retry, or repair the installation."""


def parse_in_sandbox(
    source: Path, out_folder: Path, options: ReadOptions, limits: ParseLimits | None = None
) -> ParsedFile | Rejection:
    """Read an uploaded file in a subprocess.

    Parameters
    ----------
    source
        The file.
    out_folder
        Folder for the results: an empty one, or one that is created.
    options
        Options of the request.
    limits
        Limits of the subprocess.

    Returns
    -------
    ParsedFile or Rejection
        A bad file never raises an exception.

    Raises
    ------
    SandboxError
        If the subprocess does not start, lacks a library or a permission, cannot write its results (a full disk), or fails to
        read a valid file.
    """
    limits = limits or ParseLimits()
    outcome = _parse_once(source, out_folder, options, limits)
    if isinstance(outcome, Rejection) and outcome.problems[0].code in _PERHAPS_OURS:
        check_sandbox(limits)
    return outcome


def check_sandbox(limits: ParseLimits | None = None) -> None:
    """Read a tiny valid file, to check whether this installation can read files at all.

    Parameters
    ----------
    limits
        As in `parse_in_sandbox`.

    Raises
    ------
    SandboxError
        If the installation cannot read files.
    """
    with tempfile.TemporaryDirectory(prefix="latentry-check-") as folder:
        source = Path(folder, "upload")
        with source.open("wb") as file:
            np.savez(file, spikes=np.tile(np.arange(6, dtype=np.uint8) % 3, (4, 5, 1)), bin_width_s=0.01)
        outcome = _parse_once(source, Path(folder, "out"), ReadOptions(), limits or ParseLimits())
        if isinstance(outcome, Rejection):
            raise SandboxError(
                f"this installation cannot read a small valid file: {outcome.problems[0].message} {outcome.log}".strip()
            )


def _parse_once(
    source: Path, out_folder: Path, options: ReadOptions, limits: ParseLimits
) -> ParsedFile | Rejection:
    """Run the subprocess and interpret its exit code."""
    out_folder = out_folder.resolve()
    out_folder.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise SandboxError(f"{source} is no file")
    began = monotonic()
    code = _run(source.resolve(), out_folder, options, limits)
    seconds = monotonic() - began
    log = _end_of(out_folder / _LOG)
    if code == parse.ACCEPTED:
        return ParsedFile(out_folder, json.loads((out_folder / "report.json").read_text()), seconds)
    if code == parse.REJECTED:
        rejection = json.loads((out_folder / "rejection.json").read_text())
        return Rejection([Problem.from_json(problem) for problem in rejection["problems"]], seconds, log)
    if code is None or code == parse.OUT_OF_MEMORY or code in _KILLED_FOR_RESOURCES:
        return Rejection([_too_demanding(code, limits)], seconds, log)
    if code == parse.READER_FAILED or code < 0:
        return Rejection([_crashed()], seconds, log)
    if code == parse.DISK_ERROR:
        raise SandboxError(f"the parsing subprocess cannot write: {log.strip()}") from OSError(
            errno.ENOSPC, os.strerror(errno.ENOSPC)
        )
    if code == parse.NOT_INSTALLED:
        raise SandboxError(f"this installation lacks a library or a permission: {log.strip()}")
    raise SandboxError(f"the parsing subprocess ended with code {code}: {log}")


def _run(source: Path, out_folder: Path, options: ReadOptions, limits: ParseLimits) -> int | None:
    """Run the subprocess and return its exit code; None if it was killed at its time limit."""
    # By its standard input: a long list of trials is more than the arguments of a program may be.
    settings = json.dumps({"options": options.model_dump(mode="json"), "limits": asdict(limits)}).encode()
    # -P: the folder it runs in is no place to import from.
    command = [sys.executable, "-P", "-B", "-m", "worker.ingest.parse", str(source), str(out_folder)]
    with (out_folder / _LOG).open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=out_folder,
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        process.communicate(settings, limits.wall_s)
        return process.returncode
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(
            ProcessLookupError
        ):  # it has its own session: whatever it left behind ends with it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(log: Path) -> str:
    """Read the end of the subprocess's log, which may be long."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        return file.read(4000).decode("utf-8", "replace")


def _environment() -> dict[str, str]:
    """Return the environment of the subprocess: what it needs, and none of the service's own variables."""
    root = str(Path(worker.__file__).resolve().parents[1])
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    hdf5 = {"HDF5_PLUGIN_PRELOAD": "::", "HDF5_PLUGIN_PATH": "/nonexistent", "HDF5_USE_FILE_LOCKING": "FALSE"}
    return {
        "PATH": os.defpath,
        "PYTHONPATH": root,
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        **threads,
        **hdf5,
    }


def _too_demanding(code: int | None, limits: ParseLimits) -> Problem:
    what = "more memory or time than allowed"
    if code is None or code == -signal.SIGXCPU:
        what = f"more than {min(limits.wall_s, limits.cpu_s):g} s"
    elif code == parse.OUT_OF_MEMORY:
        what = f"more than {limits.memory_bytes / 2**30:.1f} GiB of memory"
    return Problem(
        "file_too_demanding",
        f"Reading the file took {what} and was stopped.",
        "Store counts as uint8, without arrays that are not needed, bin them wider, or upload the "
        "recording in parts.",
    )


def _crashed() -> Problem:
    return Problem(
        "reader_crashed",
        "The program that reads the file ended unexpectedly: the file is damaged or built in an unusual way.",
        "Save it again with np.savez or h5py, and upload it. If it still fails, tell the operator who "
        "runs this service.",
    )
