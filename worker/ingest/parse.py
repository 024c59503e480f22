"""The subprocess that opens an uploaded file.

`python -m worker.ingest.parse SOURCE OUT_FOLDER SETTINGS_JSON` limits its own resources before it imports
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
"""

import ctypes
import json
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

ACCEPTED, REJECTED, OUT_OF_MEMORY, READER_FAILED, NOT_WRITTEN = 0, 3, 4, 5, 6

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def main(arguments: list[str]) -> int:
    """Parse one file and give the exit code."""
    source, out_folder = Path(arguments[0]), Path(arguments[1])
    settings = json.loads(arguments[2]) if len(arguments) > 2 else {}
    confine(settings.get("limits", {}))
    try:
        return _parse(source, out_folder, settings.get("options", {}))
    except MemoryError:
        return OUT_OF_MEMORY
    except Exception:
        traceback.print_exc(limit=-5)
        return READER_FAILED


def confine(limits: dict[str, Any]) -> None:
    """Limit what this process may use, tie its life to its parent, and cut its network where that is allowed.

    Parameters
    ----------
    limits
        `memory_bytes`, `cpu_s`, `output_bytes` of `ParseLimits`; what is absent is not limited.
    """
    wanted = {
        resource.RLIMIT_AS: limits.get("memory_bytes"),
        resource.RLIMIT_CPU: limits.get("cpu_s"),
        resource.RLIMIT_FSIZE: limits.get("output_bytes"),
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for kind, value in wanted.items():
        if value is not None:
            _, hard = resource.getrlimit(kind)
            most = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(kind, (most, most))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNET) != 0:
            libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Last, since a new user namespace clears it.
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _parse(source: Path, out_folder: Path, options: dict[str, Any]) -> int:
    # Only now: numpy and h5py must be loaded inside the limits.
    from worker.ingest.checks import examine
    from worker.ingest.problems import RejectedFile
    from worker.ingest.readers import ReadOptions, read_recording

    try:
        recording = read_recording(source, ReadOptions(**options))
        report = examine(recording)
    except RejectedFile as rejected:
        problems = {"problems": [problem.to_json() for problem in rejected.problems]}
        (out_folder / "rejection.json").write_text(json.dumps(problems, allow_nan=False))
        return REJECTED
    report_json = json.dumps(report.to_json(), allow_nan=False)
    try:
        recording.save(out_folder)
        (out_folder / "report.json").write_text(report_json)
    except OSError:
        traceback.print_exc(limit=-5)
        return NOT_WRITTEN
    return ACCEPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
