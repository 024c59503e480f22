"""The corpus of hostile files, read as the service reads them: each is refused with reasons, or read and harmless."""

import contextlib
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.hostility.reading import FileResult, ForkServer, Outcome, fork_servers
from tests.hostility.run import in_parallel
from tests.worker.ingest.hostile_corpus import Canary, HostileFile, betrays, corpus, make_canary
from worker.ingest.readers import ReadOptions
from worker.ingest.sandbox import ParsedFile, ParseLimits, parse_in_sandbox

LIMITS = ParseLimits(memory_bytes=1536 * 2**20, cpu_s=20, wall_s=20.0)
CHEAP = [file for file in corpus() if not file.is_slow]
IN_SANDBOX = CHEAP[:: len(CHEAP) // 12]
"""Some of each part of the corpus."""
BY_FORK = CHEAP[3 :: len(CHEAP) // 30]
"""More of them, by the same code in children of a warm process, which is many times faster."""


@contextlib.contextmanager
def listening_canary(folder: Path) -> Iterator[tuple[Canary, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield make_canary(folder, server.getsockname()[1]), server


def running_children() -> set[int]:
    """Processes that have this one, or its children's group, for a parent."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid() and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


def read_in_sandbox(file: HostileFile, folder: Path, canary: Canary) -> str:
    """Read one file; say what is wrong with what came of it, if anything."""
    source, out = folder / "upload", folder / "out"
    outcome = parse_in_sandbox(source, out, ReadOptions(**file.options), LIMITS)
    if outcome.seconds > LIMITS.wall_s + 5:
        return f"took {outcome.seconds:.0f} s"
    if isinstance(outcome, ParsedFile):
        codes: set[str] = set()
    else:
        codes = {problem.code for problem in outcome.problems}
        if not outcome.problems or not all(problem.hint and problem.message for problem in outcome.problems):
            return "was refused without reasons and hints"
        if "reader_crashed" in codes:
            return f"crashed its reader: {outcome.log[-500:]}"
        if betrays(outcome.log.encode() + repr(outcome.problems).encode()):
            return "gave the secret away in its refusal"
    if file.codes and not file.codes & codes:
        return f"gave {sorted(codes) or 'a recording'}: expected {sorted(file.codes)}"
    for path in out.rglob("*"):
        if path.is_symlink() or (path.is_file() and betrays(path.read_bytes())):
            return f"gave the secret away in {path.name}"
    if {path.name for path in folder.iterdir()} != {"upload", "out"}:
        return "wrote beside its results"
    return ""


@pytest.mark.slow
def test_hostile_files_in_the_sandbox(tmp_path: Path) -> None:
    before = running_children()
    with listening_canary(tmp_path / "server") as (canary, server), ThreadPoolExecutor(2) as threads:
        secrets = {path.name: path.read_bytes() for path in canary.folder.iterdir()}
        folders = [tmp_path / str(number) for number in range(len(IN_SANDBOX))]
        # Made before any process is started, which would have the file open, and locked, for a moment.
        for file, folder in zip(IN_SANDBOX, folders, strict=True):
            folder.mkdir()
            file.make(folder / "upload", canary)
        wrong = threads.map(lambda file, folder: read_in_sandbox(file, folder, canary), IN_SANDBOX, folders)
        found = {file.name: what for file, what in zip(IN_SANDBOX, wrong, strict=True) if what}
        with pytest.raises(BlockingIOError):
            server.accept()
    assert found == {}
    assert {path.name: path.read_bytes() for path in canary.folder.iterdir()} == secrets
    assert running_children() <= before


@pytest.mark.parametrize(
    "confined",
    [
        pytest.param(True, id="confined"),
        pytest.param(False, id="with the disk in sight", marks=pytest.mark.slow),
    ],
)
def test_hostile_files_in_children_of_a_warm_process(confined: bool, tmp_path: Path) -> None:
    found: dict[str, FileResult] = {}
    with fork_servers(2, tmp_path, LIMITS, confined) as servers:
        files = BY_FORK[:: 1 if confined else 2]

        def read(server: ForkServer, file: HostileFile) -> None:
            server.source.unlink(missing_ok=True)
            file.make(server.source, server.canary)
            found[file.name] = server.read(file.options)

        in_parallel(servers, iter(files), read)
    assert len(found) == len(files)
    expected = {file.name: file.codes for file in files if file.codes}
    assert {
        name: judged
        for name, judged in found.items()
        if judged.outcome not in (Outcome.ACCEPTED, Outcome.REFUSED)
    } == {}
    assert {
        name: found[name].codes for name, codes in expected.items() if not codes & set(found[name].codes)
    } == {}
    assert sum(judged.outcome == Outcome.REFUSED for judged in found.values()) > len(files) / 3


def test_the_corpus_is_large_and_every_file_has_its_own_name() -> None:
    names = [file.name for file in corpus()]
    assert len(names) == len(set(names)) > 2000
    formats = {file.format for file in corpus()}
    assert formats >= {
        "npz",
        "lfads_hdf5",
        "nlb_hdf5",
        "hdf5",
        "nwb",
        "matlab",
        "csv",
        "parquet",
        "phy",
        "neo",
    }


def test_the_secret_is_found_in_every_form(tmp_path: Path) -> None:
    canary = make_canary(tmp_path / "server")
    content = Path(canary.text).read_bytes()
    numbers = np.frombuffer(content, np.uint8)
    assert betrays(content)
    assert betrays(Path(canary.hdf5).read_bytes())
    for kind in ("u1", "u2", "i4", "i8", "f4", "f8"):
        assert betrays(b"\x93NUMPY" + numbers[5:].astype(kind).tobytes())
    assert betrays(str(numbers.tolist()).encode())
    assert not betrays(bytes(range(256)) * 100)
