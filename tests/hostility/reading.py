"""Passes files to fork servers, and classifies the outcome of each: accepted, refused, crash, hang, escape."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tests.worker.ingest.hostile_file import Canary, betrays, make_canary
from worker.ingest import parse, sandbox
from worker.ingest.sandbox import ParseLimits

LIMITS = ParseLimits(memory_bytes=2 * 2**30, cpu_s=20, wall_s=60.0)
"""The fork server's own libraries count as memory of each child: about half of it."""
_SEARCHED_BYTES = 2**26
"""So many bytes of each result are searched for the secret, which is small."""
_LONGEST_REFUSAL, _LONGEST_REPORT = 2**16, 2**22
"""In characters: the database stores them, and people read them."""


class Outcome(StrEnum):
    """The outcome of reading a file."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    CRASHED = "crashes"
    HUNG = "hangs"
    ESCAPED = "escapes"


@dataclass(frozen=True)
class FileResult:
    """The result of reading one file.

    Attributes
    ----------
    outcome
        The outcome.
    codes
        Codes of the problems, if the file was refused.
    seconds
        How long it took.
    why
        Last lines of the log of a crash; what escaped.
    """

    outcome: Outcome
    codes: tuple[str, ...]
    seconds: float
    why: str = ""


@dataclass
class ForkServer:
    """One warm process (`tests.hostility.fork_server`), with a folder of its own."""

    folder: Path
    canary: Canary
    limits: ParseLimits
    confined: bool
    _process: "subprocess.Popen[str]" = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "tests.hostility.fork_server"],
            env=sandbox._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def source(self) -> Path:
        """Path of the file that is read next."""
        return self.folder / "source"

    def read(self, options: dict[str, Any]) -> FileResult:
        """Let a child read the file at `source`, and classify the outcome."""
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        before = self.source.read_bytes() if self.source.stat().st_size < 2**20 else b""
        task = {
            "source": str(self.source),
            "out": str(out),
            "settings": {"options": options, "limits": asdict(self.limits)},
            "wall_s": self.limits.wall_s,
            "confined": self.confined,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that forks readers has ended")
        answer = json.loads(line)
        result = classify(out, answer["code"], answer["seconds"])
        unchanged = not before or self.source.read_bytes() == before
        escaped = self._escaped(out, unchanged)
        return FileResult(Outcome.ESCAPED, result.codes, result.seconds, escaped) if escaped else result

    def _escaped(self, out: Path, unchanged: bool) -> str:
        for path in out.rglob("*"):
            if path.is_symlink() or (path.is_file() and _betrays(path)):
                return f"the secret, or a way to it, is in {path.relative_to(out)}"
        if {path.name for path in self.folder.iterdir()} != {"source", "out"} or not unchanged:
            return "files beside the results were written"
        if Path(self.canary.trap).exists():
            Path(self.canary.trap).unlink()
            return "code of the file ran"
        return ""

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _betrays(path: Path) -> bool:
    with path.open("rb") as file:
        return betrays(file.read(_SEARCHED_BYTES))


def classify(out: Path, code: int | None, seconds: float) -> FileResult:
    """Return what an exit code and the written files mean."""
    if code == parse.ACCEPTED:
        text = (out / "report.json").read_text()
        json.loads(text)
        if len(text) > _LONGEST_REPORT:
            return FileResult(
                Outcome.CRASHED, (), seconds, f"a report of {len(text)} characters: {text[:300]}"
            )
        return FileResult(Outcome.ACCEPTED, (), seconds)
    if code == parse.REJECTED:
        text = (out / "rejection.json").read_text()
        problems = json.loads(text)["problems"]
        told = all(problem["code"] and problem["message"] and problem["hint"] for problem in problems)
        codes = tuple(problem["code"] for problem in problems)
        if len(text) > _LONGEST_REFUSAL:
            return FileResult(
                Outcome.CRASHED, codes, seconds, f"a refusal of {len(text)} characters: {text[:300]}"
            )
        if not problems or not told:
            return FileResult(Outcome.CRASHED, codes, seconds, "a refusal without a reason or without a hint")
        return FileResult(Outcome.REFUSED, codes, seconds)
    if code == parse.OUT_OF_MEMORY:
        return FileResult(Outcome.REFUSED, ("file_too_demanding",), seconds)
    if code in (None, -signal.SIGXCPU, -signal.SIGKILL):
        return FileResult(Outcome.HUNG, (), seconds, "it took longer than it may")
    log = (out / "parse.log").read_bytes()[-1500:].decode("utf-8", "replace")
    return FileResult(Outcome.CRASHED, (), seconds, f"exit code {code}: {log}")


@contextmanager
def fork_servers(
    number: int, folder: Path, limits: ParseLimits = LIMITS, confined: bool = False
) -> Iterator[list[ForkServer]]:
    """Run fork servers with a canary: a secret file, and a socket that no child may reach.

    Unless `confined`, the children see the whole disk and the network. That tests the readers themselves, not the kernel.
    """
    calls: list[object] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=_count_calls, args=(listening, calls), daemon=True)
        thread.start()
        canary = make_canary(folder / "canary", listening.getsockname()[1])
        started = [ForkServer(folder / f"server{n}", canary, limits, confined) for n in range(number)]
        try:
            yield started
        finally:
            for server in started:
                server.close()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(5)
    if calls:
        raise RuntimeError("a reader called an address that a file named")


def _count_calls(server: socket.socket, calls: list[object]) -> None:
    while True:
        try:
            calls.append(server.accept())
        except OSError:
            return
