"""A short run reads hostile and damaged files; and readers that crash, hang, tell or write what they should not are found."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tests.hostility.mutations import mutate
from tests.hostility.reading import LIMITS, ForkServer, Outcome, fork_servers
from tests.hostility.run import run
from tests.worker.ingest.hostile_archives import archive, npz_members
from tests.worker.ingest.hostile_corpus import HostileFile, corpus
from worker.ingest import sandbox

MISBEHAVING = """
import os, time
from pathlib import Path

import numpy as np
import worker.ingest.read
from worker.ingest.recording import Recording

def read_recording(path, options):
    what, _, secret = path.read_text().partition(" ")
    counts = np.random.default_rng(0).poisson(1.0, (12, 20, 7)).astype(np.uint8)
    found = Recording(counts, 0.01, np.full(12, 20), np.full(12, -1, np.int8))
    if what == "raise": raise ZeroDivisionError
    if what == "die": os.kill(os.getpid(), 11)
    if what == "loop":
        while True: pass
    if what == "sleep": time.sleep(60)
    if what == "tell": found.notes.append(Path(secret).read_text())
    if what == "link": os.symlink(secret, "link")
    if what == "write": path.with_name("beside").write_text("x")
    if what == "change": path.write_text("x")
    if what == "run": Path(secret).with_name("sprung").touch()
    return found

worker.ingest.read.read_recording = read_recording
"""


def some() -> Iterator[HostileFile]:
    """A few files of the corpus."""
    return islice((file for file in corpus() if file.format == "npz" and not file.is_slow), 0, None, 20)


@pytest.mark.slow
def test_a_short_run(tmp_path: Path) -> None:
    found = run(seconds=2.0, seed=5, only="npz", files=some, keep=tmp_path / "kept")
    assert found["files"] > found["corpus_files"] >= 4
    assert found["files"] == found["accepted"] + found["refused"] + found["crashes"]
    assert (found["hangs"], found["escapes"], found["unexpected"]) == (0, 0, [])
    assert found["refused"] > 3
    assert sum(sum(one.values()) for one in found["formats"].values()) == found["files"]
    assert set(found["formats"]) == {"npz"}
    assert len(list((tmp_path / "kept").glob("*.json"))) == len(found["faults"])


@pytest.mark.slow
def test_an_eighth_of_the_corpus_and_damaged_files_show_no_fault() -> None:
    found = run(seconds=20.0, quick=True, files=lambda: islice(corpus(), 0, None, 8))
    assert found["files"] > found["corpus_files"] > 200
    assert found["faults"] == {}
    assert found["unexpected"] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A server whose readers do what the file says."""
    folder = tmp_path_factory.mktemp("misbehaving")
    (folder / "stand_in").mkdir()
    (folder / "stand_in" / "sitecustomize.py").write_text(MISBEHAVING)
    environment = sandbox._environment()
    environment["PYTHONPATH"] = f"{folder / 'stand_in'}:{environment['PYTHONPATH']}"
    limits = replace(LIMITS, cpu_s=1, wall_s=3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "_environment", lambda: environment)
        with fork_servers(1, folder / "fork_servers", limits) as servers:
            yield servers[0]


@pytest.mark.parametrize(
    ("what", "outcome"),
    [
        ("nothing", Outcome.ACCEPTED),
        ("raise", Outcome.CRASHED),
        ("die", Outcome.CRASHED),
        ("loop", Outcome.HUNG),
        ("sleep", Outcome.HUNG),
        ("tell", Outcome.ESCAPED),
        ("link", Outcome.ESCAPED),
        ("write", Outcome.ESCAPED),
        ("change", Outcome.ESCAPED),
        ("run", Outcome.ESCAPED),
    ],
)
def test_planted_faults_are_found(server: ForkServer, what: str, outcome: Outcome) -> None:
    server.source.write_text(f"{what} {server.canary.text}")
    judged = server.read({})
    assert judged.outcome == outcome, judged
    (server.folder / "beside").unlink(missing_ok=True)
    server.source.write_text("nothing")
    assert server.read({}).outcome == Outcome.ACCEPTED


def test_damage_comes_from_the_seed_and_mostly_changes_the_file(tmp_path: Path) -> None:
    archive(npz_members(), tmp_path / "f")
    content = (tmp_path / "f").read_bytes()
    damaged = [mutate(content, content, random.Random(seed)) for seed in range(100)]
    assert damaged[3] == mutate(content, content, random.Random(3))
    assert np.mean([one != content for one in damaged]) > 0.8
    assert len(set(damaged)) > 70
