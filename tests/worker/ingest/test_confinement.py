"""What the subprocess that reads uploads cannot do, even where a reader were tricked into trying."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from worker.ingest import parse, sandbox

PROBE = """
import json, os, signal, socket, sys
from pathlib import Path
from worker.ingest import parse

source, out, secret, server, version, parent = json.loads(sys.argv[1])
if version is not None:
    real = parse.ctypes.CDLL
    class Older:
        def __init__(self, *arguments, **options):
            self.real = real(*arguments, **options)
        def __getattr__(self, name):
            return getattr(self.real, name)
        def syscall(self, number, *rest):
            return version if rest[0] is None else self.real.syscall(number, *rest)
    parse.ctypes.CDLL = Older
parse.confine({}, Path(source), Path(out))

def tried(what):
    try:
        return str(what() or "done")
    except OSError as error:
        return type(error).__name__

found = {
    "source": tried(lambda: Path(source).read_text()),
    "write_result": tried(lambda: Path(out, "a").write_text("x") and Path(out, "a").rename(Path(out, "b"))),
    "secret": tried(lambda: Path(secret).read_text()),
    "passwd": tried(lambda: Path("/etc/passwd").read_text()),
    "environment_of_parent": tried(lambda: Path(f"/proc/{parent}/environ").read_bytes().hex()),
    "link_to_secret": tried(lambda: (os.symlink(secret, Path(out, "link")), Path(out, "link").read_text())[1]),
    "hard_link_to_secret": tried(lambda: os.link(secret, Path(out, "hard"))),
    "list_folder": tried(lambda: os.listdir(Path(secret).parent)),
    "write_beside": tried(lambda: Path(source).parent.joinpath("x").write_text("x")),
    "change_source": tried(lambda: Path(source).write_text("x")),
    "truncate_secret": tried(lambda: os.truncate(secret, 0)),
    "delete_secret": tried(lambda: os.unlink(secret)),
    "program": tried(lambda: os.execv("/bin/true", ["true"])),
    "connect": tried(lambda: socket.create_connection(("127.0.0.1", server), 2)),
    "signal": tried(lambda: os.kill(parent, 0)),
}
import h5py, scipy.io, domain.dataset_options, worker.ingest.read
found["code"] = worker.ingest.read.__name__
print(json.dumps(found))
"""


def landlock_version() -> int:
    libc = parse.ctypes.CDLL(None)
    return int(libc.syscall(parse._CREATE_RULESET, None, parse.ctypes.c_size_t(0), parse.ctypes.c_uint32(1)))


needs_landlock = pytest.mark.skipif(
    sys.platform != "linux" or landlock_version() < 3, reason="this kernel has no Landlock of version 3"
)

LAUNCHER = """
import subprocess, sys
from worker.ingest import sandbox
sys.exit(subprocess.run([sys.executable, "-P", "-c", *sys.argv[1:]], env=sandbox._environment()).returncode)
"""
"""Runs a program with the environment that the sandbox gives to the parser."""


def probe(
    tmp_path: Path,
    version: int | None = None,
    program: str = PROBE,
    *,
    secret: Path | None = None,
    python: str | Path = sys.executable,
    environment: dict[str, str] | None = None,
) -> dict[str, str]:
    source, out, secret = tmp_path / "upload", tmp_path / "out", secret or tmp_path / "server" / "secret"
    out.mkdir()
    secret.parent.mkdir()
    source.write_text("spikes")
    secret.write_text("canary")
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = [str(source), str(out), str(secret), server.getsockname()[1], version]
        code = f"import os, sys; sys.argv[1] = sys.argv[1][:-1] + f', {{os.getppid()}}]'\n{program}"
        done = subprocess.run(
            [str(python), "-c", LAUNCHER, code, json.dumps(settings)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@needs_landlock
def test_the_disk_is_out_of_reach(tmp_path: Path) -> None:
    found = probe(tmp_path)
    assert found.pop("source") == "spikes"
    assert found.pop("write_result") is not None
    assert found.pop("code") == "worker.ingest.read"
    assert found.pop("hard_link_to_secret") in (
        "PermissionError",
        "OSError",
    )  # "across devices", as Landlock puts it
    network = found.pop("connect")
    signalled = found.pop("signal")
    assert network in ("PermissionError", "OSError", "ConnectionRefusedError")
    assert signalled == "PermissionError" or landlock_version() < 6
    assert found == dict.fromkeys(found, "PermissionError")
    assert (tmp_path / "server" / "secret").read_text() == "canary"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


@pytest.mark.skipif(sys.platform != "linux" or landlock_version() < 1, reason="this kernel has no Landlock")
@pytest.mark.parametrize(
    "version", [1, *(pytest.param(version, marks=pytest.mark.slow) for version in (2, 3, 4))]
)
def test_older_kernels_close_the_disk_as_well(version: int, tmp_path: Path) -> None:
    found = probe(tmp_path, version)
    assert (found["secret"], found["passwd"], found["program"]) == ("PermissionError",) * 3
    assert (found["source"], found["code"]) == ("spikes", "worker.ingest.read")


@pytest.mark.skipif(sys.platform != "linux", reason="Landlock is of Linux")
@pytest.mark.parametrize("version", [-1, 0])
def test_without_landlock_files_are_read_all_the_same(version: int, tmp_path: Path) -> None:
    harmless = "\n".join(line for line in PROBE.splitlines() if "execv" not in line)
    found = probe(tmp_path, version, harmless)
    assert (found["source"], found["secret"], found["code"]) == ("spikes", "canary", "worker.ingest.read")


def test_a_log_of_any_length_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first" + b"x" * 10_000 + b"last\xff")
    assert sandbox._end_of(log).startswith("xxx")
    assert sandbox._end_of(log).endswith("last\ufffd")
    log.write_bytes(b"short")
    assert sandbox._end_of(log) == "short"
