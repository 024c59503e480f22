"""A warm process that forks a child for each file, and so reads thousands of files a minute.

`python -m tests.hostility.fork_server` reads one JSON object a line from its standard input, `{"source", "out", "settings",
"wall_s", "confined"}`, and answers each with `{"code", "seconds"}`: the exit code of `worker.ingest.parse`, a negative signal
number, or null if the child exceeded its time and was killed. The child writes its results and its log into `out`.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from time import monotonic
from typing import Any

from worker.ingest import parse

_LIBRARIES = (
    "h5py", "scipy.io", "neo", "neo.rawio", "pyarrow.parquet", "pyarrow.csv",
    "worker.ingest.read", "worker.ingest.quality_control.checks", "worker.ingest.quality_control.preview",
)  # fmt: skip


def main() -> None:
    """Read files until the input ends."""
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_read(json.loads(line))), flush=True)


def _read(task: dict[str, Any]) -> dict[str, Any]:
    began = monotonic()
    child = os.fork()
    if child == 0:
        os._exit(_child(task))
    handle = os.pidfd_open(child)
    ended = bool(select.select([handle], [], [], task["wall_s"])[0])
    os.close(handle)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status) if ended else None
    return {"code": code, "seconds": monotonic() - began}


def _child(task: dict[str, Any]) -> int:
    os.setsid()
    source, out = Path(task["source"]), Path(task["out"])
    log = os.open(out / "parse.log", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(log, stream)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.chdir(out)
    limits = task["settings"]["limits"]
    try:
        if task["confined"]:
            parse.confine(limits, source, out)
        else:
            parse.limit_resources(limits)
        code = parse._parse(source, out, task["settings"]["options"])
    except MemoryError:
        code = parse.OUT_OF_MEMORY
    except BaseException:
        traceback.print_exc()
        code = parse.READER_FAILED
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main()
