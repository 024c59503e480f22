"""The subprocess: its results, its limits, and what it does not hand to an uploaded file."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import textwrap
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

import store
from domain.dataset_options import TrialOptions
from store import disk_errors
from tests.waiting import wait_until
from tests.worker.ingest.ingest_examples import example_recording, write_lfads_hdf5, write_npz
from tests.worker.ingest.test_confinement import landlock_version
from tests.worker.ingest.test_hostile_files import mutate
from worker.ingest import parse, sandbox
from worker.ingest.readers import READERS, ReadOptions, read_file
from worker.ingest.sandbox import ParsedFile, ParseLimits, Rejection, SandboxError, parse_in_sandbox
from worker.scheduling.failures import is_environmental


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "upload", example_recording())


def code_of(outcome: ParsedFile | Rejection) -> str:
    assert isinstance(outcome, Rejection)
    assert outcome.problems[0].hint
    return outcome.problems[0].code


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, body: str) -> None:
    """Let the subprocess meet, in place of the readers, a program that behaves badly; with good files it would not."""
    monkeypatch.setattr(sandbox, "check_sandbox", lambda limits: None)
    package = folder / "stand_in" / "worker" / "ingest"
    (package / "readers").mkdir(parents=True)
    (package / "quality_control").mkdir()
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "parse.py").write_text(Path(parse.__file__).read_text())
    (folder / "stand_in" / "store").mkdir()
    (folder / "stand_in" / "store" / "__init__.py").touch()
    (folder / "stand_in" / "store" / "disk_errors.py").write_text(Path(disk_errors.__file__).read_text())
    (package / "quality_control" / "__init__.py").touch()
    (package / "quality_control" / "checks.py").write_text("def examine(recording): ...")
    (package / "quality_control" / "preview.py").write_text("def make_preview(recording): ...")
    (package / "problems.py").write_text("class RejectedFile(Exception): ...")
    (package / "readers" / "__init__.py").write_text("def ReadOptions(**options): ...")
    reader = "def read_recording(path, options):\n" + textwrap.indent(body, "    ")
    (package / "read.py").write_text(reader)
    environment = sandbox._environment() | {"PYTHONPATH": str(folder / "stand_in")}
    monkeypatch.setattr(sandbox, "_environment", lambda: environment)


def has_ended(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().split()[2] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_an_accepted_file(npz: Path, tmp_path: Path) -> None:
    outcome = parse_in_sandbox(npz, tmp_path / "out", ReadOptions())
    assert isinstance(outcome, ParsedFile)
    recording = outcome.recording()
    np.testing.assert_array_equal(recording.spikes, example_recording().spikes)
    assert outcome.report["shape"] == {"trials": 12, "bins": 20, "neurons": 7}
    assert outcome.report["format"] == "npz"
    assert outcome.seconds > 0


def test_options_longer_than_the_arguments_of_a_program(npz: Path, tmp_path: Path) -> None:
    options = ReadOptions(
        trials=TrialOptions(where={"target": [f"target {number}" for number in range(20_000)]})
    )
    outcome = parse_in_sandbox(npz, tmp_path / "out", options)
    assert isinstance(outcome, ParsedFile)
    assert outcome.report["shape"]["trials"] == 12


def test_a_rejected_file(npz: Path, tmp_path: Path) -> None:
    outcome = parse_in_sandbox(npz, tmp_path / "out", ReadOptions(bin_width_s=20))
    assert code_of(outcome) == "bin_width_too_large"
    assert json.loads((tmp_path / "out" / "rejection.json").read_text()) == outcome.to_json()
    assert not (tmp_path / "out" / "recording.json").exists()


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
@pytest.mark.parametrize(
    ("edits", "keep"), [([], 0.3), ([(0.5, 0), (0.51, 255)], 1.0), ([(0.99, 7), (0.2, 9), (0.05, 1)], 1.0)]
)
def test_damaged_files(kind: str, edits: list[tuple[float, int]], keep: float, tmp_path: Path) -> None:
    write = {"npz": write_npz, "hdf5": write_lfads_hdf5}[kind]
    source = write(tmp_path / "f", example_recording())
    source.write_bytes(mutate(source.read_bytes(), edits, keep))
    assert isinstance(parse_in_sandbox(source, tmp_path / "out", ReadOptions()), ParsedFile | Rejection)


def test_a_file_that_needs_more_memory_than_allowed(tmp_path: Path) -> None:
    spikes = np.zeros((1000, 1000, 700), np.uint8, order="F")  # which is not read by blocks
    np.savez_compressed(tmp_path / "f.npz", spikes=spikes, bin_width_s=0.01)
    outcome = parse_in_sandbox(
        tmp_path / "f.npz", tmp_path / "out", ReadOptions(), ParseLimits(memory_bytes=600 * 2**20)
    )
    assert code_of(outcome) == "file_too_demanding"
    assert "0.6 GiB of memory" in outcome.problems[0].message


@pytest.mark.parametrize(
    ("body", "limits", "code"),
    [
        ("while True: pass", ParseLimits(cpu_s=1), "file_too_demanding"),
        ("import time; time.sleep(600)", ParseLimits(wall_s=1.0), "file_too_demanding"),
        ("return bytearray(2**31)", ParseLimits(memory_bytes=2**30), "file_too_demanding"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", ParseLimits(), "reader_crashed"),
        ("raise ZeroDivisionError", ParseLimits(), "reader_crashed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ParseLimits(), "file_too_demanding"),
    ],
)
def test_a_reader_that_goes_astray(
    body: str, limits: ParseLimits, code: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, body)
    assert code_of(parse_in_sandbox(npz, tmp_path / "out", ReadOptions(), limits)) == code


def test_children_of_the_subprocess_die_with_it(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import os, time\nchild = os.fork()\nchild and open('child', 'w').write(str(child))\ntime.sleep(600)"
    )
    stand_in(monkeypatch, tmp_path, body)
    note = tmp_path / "out" / "child"
    for wall_s in (1.5, 10.0, 60.0):  # a busy machine needs more time until the child is there
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions(), ParseLimits(wall_s=wall_s))
        if note.exists():
            break
    wait_until(lambda: has_ended(int(note.read_text())))


def test_no_secret_and_no_open_file_reaches_the_subprocess(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTRY_SECRET_KEY", "hush")
    body = (
        "import json, os, resource\n"
        "paths = [f'/proc/self/fd/{number}' for number in range(512)]\n"
        "targets = [os.readlink(path) for path in paths if os.path.lexists(path)]\n"
        "seen = {'environment': dict(os.environ), 'files': targets, 'folder': os.getcwd(),\n"
        "        'core': resource.getrlimit(resource.RLIMIT_CORE), 'session': os.getsid(0) == os.getpid()}\n"
        "open('seen', 'w').write(json.dumps(seen))\n"
        "raise ValueError"
    )
    stand_in(monkeypatch, tmp_path, body)
    with (tmp_path / "private").open("w") as private:
        os.set_inheritable(private.fileno(), True)
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions())
    seen = json.loads((tmp_path / "out" / "seen").read_text())
    assert not any(name.startswith("LATENTRY") for name in seen["environment"])
    assert "hush" not in json.dumps(seen)
    assert not any("private" in target for target in seen["files"])
    assert seen["folder"] == str(tmp_path / "out")
    assert seen["core"] == [0, 0]
    assert seen["session"]


def test_the_subprocess_dies_with_its_parent(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(
        monkeypatch, tmp_path, "import os, time\nopen('child', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "worker.ingest.parse", str(npz), str(tmp_path / "out")]
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command!r}, input=b'{{}}')"],
        env=sandbox._environment(),
        cwd=tmp_path / "out",
    )
    note = tmp_path / "out" / "child"
    try:
        wait_until(lambda: note.exists() and note.read_text())
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: has_ended(int(note.read_text())))


def can_leave_the_network() -> bool:
    return any(
        subprocess.run(["unshare", *flags, "true"], capture_output=True, check=False).returncode == 0
        for flags in (["-n"], ["-U", "-n"])
    )


@pytest.mark.skipif(
    shutil.which("unshare") is None or not can_leave_the_network(),
    reason="no network namespaces on this system",
)
def test_the_subprocess_reaches_no_network(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        body = f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)"
        stand_in(monkeypatch, tmp_path, body)
        try:
            outcome = parse_in_sandbox(npz, tmp_path / "out", ReadOptions())
            log = outcome.log if isinstance(outcome, Rejection) else "it was read"
        except SandboxError as refused:  # Landlock denies it, and a permission may be ours to give
            log = str(refused)
    assert "unreachable" in log or "Permission denied" in log


@pytest.mark.skipif(platform.machine() not in parse._SOCKET, reason="seccomp needs the number of the call")
@pytest.mark.parametrize("kind", ["AF_INET, socket.SOCK_DGRAM", "AF_INET6", "AF_UNIX", "AF_NETLINK, 3"])
def test_the_subprocess_opens_no_socket_even_where_it_has_a_network(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A container may reach the internet and usually cannot create network namespaces; Landlock knows TCP alone."""
    stand_in(monkeypatch, tmp_path, f"import socket\nsocket.socketpair()\nsocket.socket(socket.{kind})")
    with pytest.raises(SandboxError, match=r"(?s)lacks a library or a permission.*Permission denied"):
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions())


def test_our_own_faults_are_exceptions(npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="is no file"):
        parse_in_sandbox(tmp_path / "gone", tmp_path / "out", ReadOptions())
    with pytest.raises(SandboxError, match="ended with code 6"):
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions(), ParseLimits(output_bytes=1500))
    monkeypatch.setattr(sandbox.sys, "executable", "/bin/false")
    with pytest.raises(SandboxError, match="ended with code 1"):
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions())


def test_an_installation_that_reads_no_file_is_never_the_fault_of_the_file(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = sandbox.check_sandbox
    check()
    with pytest.raises(SandboxError, match="cannot read a small valid file"):
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions(), ParseLimits(wall_s=0.001))
    stand_in(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    monkeypatch.setattr(sandbox, "check_sandbox", check)
    with pytest.raises(SandboxError, match="cannot read a small valid file"):
        parse_in_sandbox(npz, tmp_path / "out_of_illegal", ReadOptions())


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import no_such_library", "No module named 'no_such_library'"),
        ("open('/etc/passwd')", "/etc/passwd"),
        ("raise PermissionError(13, 'Permission denied', str(path))", "Permission denied"),
    ],
)
def test_a_missing_library_or_permission_is_ours(
    body: str, told: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "passwd" in body and landlock_version() < 1:
        pytest.skip("this kernel has no Landlock")
    stand_in(monkeypatch, tmp_path, body)
    with pytest.raises(SandboxError, match="lacks a library or a permission") as raised:
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions())
    assert told in str(raised.value)


def test_every_reader_passes_a_missing_permission_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    for reader in READERS.values():
        monkeypatch.setattr(type(reader), "recognises", lambda self, path: True)
        monkeypatch.setattr(type(reader), "read", refuse)
    for name in READERS:
        with pytest.raises(PermissionError):
            read_file(tmp_path / "upload", ReadOptions(format=name))


def test_packages_that_lie_among_others_are_readable_and_uploads_beside_them_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all packages lie in one folder it is readable, but for the part that holds the uploads."""
    site = tmp_path / "site-packages"
    for name in ("numpy", "worker", "store", "domain", "latentry-data/uploads"):
        (site / name).mkdir(parents=True)
    (site / "numpy" / "__init__.py").touch()
    source = site / "latentry-data" / "uploads" / "file"
    monkeypatch.setattr(parse.sys, "path", [str(site)])
    found = ModuleSpec("numpy", None, origin=str(site / "numpy" / "__init__.py"))
    monkeypatch.setattr(parse, "find_spec", lambda name: found)
    monkeypatch.setattr("worker.__path__", [str(site / "worker")])
    monkeypatch.setattr("store.__path__", [str(site / "store")])
    monkeypatch.setattr("domain.__path__", [str(site / "domain")])
    assert not any(source.is_relative_to(folder) for folder in parse._code_folders(source))
    assert {site / "numpy", site / "worker", site / "store", site / "domain"} <= parse._code_folders(source)
    assert site in parse._code_folders(tmp_path / "file")


def test_a_checkout_is_not_readable_as_a_whole(tmp_path: Path) -> None:
    checkout = Path(store.__path__[0]).resolve().parent
    folders = parse._code_folders(tmp_path / "file")
    if (checkout / "pyproject.toml").exists():
        assert checkout not in folders
    assert {checkout / "store", checkout / "worker", checkout / "domain"} <= folders


def test_the_parser_imports_no_more_than_it_needs() -> None:
    imports = "worker.ingest.parse, worker.ingest.read, worker.ingest.quality_control.checks"
    listing = f"import sys, {imports}; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", listing],
        env=sandbox._environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"torch", "celery", "sqlalchemy", "zarr", "models", "matplotlib"} & set(found)


def test_a_disk_that_is_full_while_a_file_is_read_is_no_fault_of_the_file(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tmp_path, "import errno\nraise OSError(errno.ENOSPC, 'No space left on device')")
    with pytest.raises(SandboxError, match="No space left") as caught:
        parse_in_sandbox(npz, tmp_path / "out", ReadOptions())
    assert is_environmental(caught.value)
