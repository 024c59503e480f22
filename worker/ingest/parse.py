"""The subprocess that opens an uploaded file.

`python -m worker.ingest.parse SOURCE OUT_FOLDER < SETTINGS_JSON` limits its own resources before it imports
anything large, reads and examines the file, and leaves in OUT_FOLDER either `recording.json`, `arrays/` and
`report.json`, or `rejection.json`. SETTINGS_JSON holds fields of `ReadOptions` under `options` and of
`ParseLimits` under `limits`; both may be empty.

| exit code | means |
|---|---|
| 0 | accepted |
| 3 | rejected: see `rejection.json` |
| 4 | not enough memory |
| 5 | the reader failed in a way it should not: see the standard error |
| 6 | the results could not be written |
| 7 | this installation lacks something: a library, or the permission to read one of its files; see the standard error |
| 8 | the disk is full or read-only |
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import struct
import sys
import tempfile
import traceback
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from store.disk_errors import is_disk_error

ACCEPTED, REJECTED, OUT_OF_MEMORY, READER_FAILED, NOT_WRITTEN, NOT_INSTALLED, DISK_ERROR = 0, 3, 4, 5, 6, 7, 8

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Architecture, as seccomp calls it, and the number of the system call `socket`."""
_IO_URING_SETUP, _X32 = (
    425,
    0x40000000,
)  # the first opens sockets, too; the second marks a second set of calls on x86-64

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = (
    444,
    445,
    446,
)  # Landlock's calls, numbered alike on every architecture
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_NEVER = (
    1 << 0 | 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
)  # execute; make devices, sockets, pipes, soft links
_SYSTEM_FILES = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store", "/etc/ld.so.cache",
    "/usr/share/zoneinfo", "/etc/localtime", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system/cpu",
)  # fmt: skip
"""System files that libraries open: other libraries, time zones, the number of processors."""


def main(arguments: list[str]) -> int:
    """Parse one file and return the exit code."""
    source, out_folder = Path(arguments[0]), Path(arguments[1])
    settings = json.load(sys.stdin)
    confine(settings.get("limits", {}), source, out_folder)
    try:
        return _parse(source, out_folder, settings.get("options", {}))
    except MemoryError:
        return OUT_OF_MEMORY
    except (ImportError, PermissionError):
        traceback.print_exc(limit=-5)
        return NOT_INSTALLED
    except Exception as error:
        traceback.print_exc(limit=-5)
        return DISK_ERROR if is_disk_error(error) else READER_FAILED


def confine(limits: dict[str, Any], source: Path, out_folder: Path) -> None:
    """Limit the resources of this process, tie its life to its parent, and cut its access to network and disk where allowed.

    A compromised reader can then read no file but its own, and cannot send anything: it has no network where that is allowed, and
    no sockets.

    Parameters
    ----------
    limits
        `memory_bytes`, `cpu_s`, `output_bytes` of `ParseLimits`; an absent one is not limited.
    source
        The uploaded file, the only one that it may read.
    out_folder
        The only folder that it may write to.
    """
    limit_resources(limits)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _deny_sockets(libc)
        _close_the_disk(libc, source, out_folder)
        # Last, since a new user namespace clears it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def limit_resources(limits: dict[str, Any]) -> None:
    """Limit memory, processor time and files, as `confine` says."""
    wanted = {
        resource.RLIMIT_AS: limits.get("memory_bytes"),
        resource.RLIMIT_CPU: limits.get("cpu_s"),
        resource.RLIMIT_FSIZE: limits.get("output_bytes"),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 512,
    }
    for kind, value in wanted.items():
        if value is not None:
            _, hard = resource.getrlimit(kind)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (most, most))


def _deny_sockets(libc: ctypes.CDLL) -> None:
    """Use seccomp to refuse new sockets, since containers may have a network and usually cannot create network namespaces."""
    if platform.machine() not in _SOCKET:
        return
    architecture, socket = _SOCKET[platform.machine()]
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06  # instructions of the classic Berkeley Packet Filter
    allowed, refused = 0x7FFF0000, 0x00050000 | errno.EACCES
    # Each has the distances to the next instruction if true and if false. `data` has the call at 0, the architecture at 4.
    program = [
        (load, 0, 0, 4),
        (equal, 0, 5, architecture),
        (load, 0, 0, 0),
        (equal, 3, 0, socket),
        (equal, 2, 0, _IO_URING_SETUP),
        (at_least, 1, 0, _X32),
        (end, 0, 0, allowed),
        (end, 0, 0, refused),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
    described = ctypes.create_string_buffer(struct.pack("HP", len(program), ctypes.addressof(code)))
    libc.prctl(_PR_SET_SECCOMP, 2, described, 0, 0)


def _close_the_disk(libc: ctypes.CDLL, source: Path, out_folder: Path) -> None:
    """Use Landlock to deny all files except the source, the results and the code; also programs, TCP and signals.

    Linux has Landlock from 5.13 on; without it, this function does nothing.
    """
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if version < 1:
        return
    all_rights = (1 << (15 if version >= 3 else 12 + version)) - 1
    handled = struct.pack("=QQQ", all_rights, 3 * (version >= 4), 3 * (version >= 6))
    ruleset = libc.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint32(0))
    if ruleset < 0:
        return
    allowed = dict.fromkeys(_code_folders(source), _READ_FILE | _READ_FOLDER)
    allowed |= {source: _READ_FILE, out_folder: all_rights & ~_NEVER}
    for path, rights in allowed.items():
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = struct.pack("=Qi", rights if path.is_dir() else _READ_FILE, opened)
        libc.syscall(_ADD_RULE, ruleset, 1, rule, ctypes.c_uint32(0))
        os.close(opened)
    libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0))
    os.close(ruleset)


def _code_folders(source: Path) -> set[Path]:
    """Return the folders of Python, its packages and their libraries.

    In a checkout, only the packages `domain`, `store` and `worker` are readable, because keys and data may lie beside them. In an
    installation, they lie in one folder with the libraries that they import, so the whole folder is readable. If uploads lie
    in such a folder, the part that holds them is not.
    """
    import domain
    import store
    import worker

    own = {Path(package.__path__[0]).resolve() for package in (domain, store, worker)}
    library = find_spec("numpy")
    installed = (
        set() if library is None or library.origin is None else {Path(library.origin).resolve().parents[1]}
    )
    checkout = {folder.parent for folder in own} - installed
    on_path = {Path(folder).resolve() for folder in sys.path if folder} - checkout
    folders = {*own, *on_path, Path(sys.base_prefix, "lib"), *map(Path, _SYSTEM_FILES)}
    with_uploads = {folder for folder in folders if source.is_relative_to(folder)}
    beside = {part for folder in with_uploads for part in folder.iterdir() if not source.is_relative_to(part)}
    return (folders - with_uploads) | beside


def _parse(source: Path, out_folder: Path, options: dict[str, Any]) -> int:
    # Only now: numpy and h5py must be loaded inside the limits.
    from worker.ingest.problems import RejectedFile
    from worker.ingest.quality_control.checks import examine
    from worker.ingest.quality_control.preview import make_preview
    from worker.ingest.read import read_recording
    from worker.ingest.readers import ReadOptions

    tempfile.tempdir = str(out_folder)  # large arrays lie there until they are saved
    try:
        recording = read_recording(source, ReadOptions(**options))
        report = examine(recording)
        preview = make_preview(recording)
    except RejectedFile as error:
        problems = {"problems": [problem.to_json() for problem in error.problems]}
        (out_folder / "rejection.json").write_text(json.dumps(problems, allow_nan=False))
        return REJECTED
    report_json = json.dumps(report.to_json(), allow_nan=False)
    preview_json = json.dumps(preview, allow_nan=False)
    try:
        recording.save(out_folder)
        (out_folder / "preview.json").write_text(preview_json)
        (out_folder / "report.json").write_text(report_json)
    except OSError as error:
        traceback.print_exc(limit=-5)
        return DISK_ERROR if is_disk_error(error) else NOT_WRITTEN
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
