"""Read hostile and damaged files, to find any that crash a reader, hang it, or make it read or write what it should not.

``python -m tests.hostility.run [--seconds 60] [--json] [--quick] [--seed N] [--workers N] [--keep FOLDER] [--only FORMAT]``

First the whole corpus of hostile files (`tests.worker.ingest.hostile_corpus`), then damaged files for `--seconds`: valid files
of every format (`tests.worker.ingest.reader_examples`) and small hostile ones, changed at random places
(`tests.hostility.mutations`), some of them with hostile options. A process of its own reads each file, forked from a warm one
(`tests.hostility.fork_server`), with 2 GiB of memory and 20 s of processor time. It sees the disk and the network: the run tests
the readers themselves, without the confinement by the kernel that `worker.ingest.parse.confine` adds.

A file is accepted, or refused with reasons and hints; all else is a fault. A crash is an exit by a signal or by an exception that
readers must not raise. A hang is a file that exceeds its time. An escape is a secret of the server in a result, a file written or
changed outside of the results, code of the file that ran, or a network connection. Exit status 1 if there is any fault.
"""

import argparse
import collections
import itertools
import json
import os
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from tests.hostility.mutations import mutate, mutate_bytes, write_mutation
from tests.hostility.reading import LIMITS, FileResult, ForkServer, Outcome, fork_servers
from tests.worker.ingest.hostile_corpus import HostileFile, corpus
from tests.worker.ingest.hostile_others import OPTIONS
from tests.worker.ingest.reader_examples import EXAMPLE_FILES
from worker.ingest.sandbox import ParseLimits

FAULTS = (Outcome.CRASHED, Outcome.HUNG, Outcome.ESCAPED)
_LARGEST_SEED_BYTES = 2**20
_MOST_EXPANDED_BYTES = 2**28
"""Limit for damaged files: one that declares huge arrays takes no longer than others."""


@dataclass(frozen=True)
class Seed:
    """A file to damage, with its options. Only valid files are damaged in what their bytes mean."""

    format: str
    content: bytes
    options: dict[str, Any]
    is_valid: bool


@dataclass
class Tally:
    """Outcomes of all files so far.

    Attributes
    ----------
    keep
        Folder for the files that show a fault, if they are kept.
    by_format
        Format → outcome → number.
    codes
        Code of a refusal → number.
    faults
        Last line of a fault's log → number of files, and the first one.
    """

    keep: Path | None = None
    by_format: dict[str, collections.Counter[str]] = field(
        default_factory=lambda: collections.defaultdict(collections.Counter)
    )
    codes: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, format_: str, name: str, result: FileResult, source: Path, options: dict[str, Any]) -> None:
        """Count one file."""
        with self._lock:
            self.by_format[format_][result.outcome.value] += 1
            self.codes.update(result.codes[:1])
            self.slowest = max(self.slowest, (round(result.seconds, 2), name))
            if result.outcome in FAULTS:
                self._keep_fault(format_, name, result, source, options)

    def _keep_fault(
        self, format_: str, name: str, result: FileResult, source: Path, options: dict[str, Any]
    ) -> None:
        lines = [line for line in result.why.splitlines() if line.strip()] or [""]
        where = [line.strip() for line in lines if line.strip().startswith("File ")][-1:]
        signature = " ".join([format_, result.outcome.value, *where, lines[-1][:200]])
        fault = self.faults.setdefault(signature, {"files": 0, "first": name, "options": options})
        fault["files"] += 1
        if self.keep is not None and fault["files"] == 1:
            self.keep.mkdir(parents=True, exist_ok=True)
            kept = self.keep / f"{len(self.faults):03d}-{format_}"
            kept.write_bytes(source.read_bytes())
            note = {"name": name, "outcome": result.outcome, "options": options, "why": result.why}
            kept.with_suffix(".json").write_text(json.dumps(note, indent=1))

    def total(self, outcome: Outcome) -> int:
        """Return how many files had an outcome."""
        return sum(one[outcome.value] for one in self.by_format.values())


def run(
    seconds: float,
    *,
    seed: int = 0,
    workers: int = 2,
    quick: bool = False,
    keep: Path | None = None,
    only: str | None = None,
    limits: ParseLimits = LIMITS,
    files: Callable[[], Iterator[HostileFile]] = corpus,
) -> dict[str, Any]:
    """Read the corpus and then damaged files, and return the findings for one line of JSON.

    Parameters
    ----------
    seconds
        Time for damaged files.
    seed
        Seed of the damage.
    workers
        How many files are read at a time.
    quick
        Leave out files that are slow to make or to read.
    keep
        Folder for the files that show a fault.
    only
        The only format to read; by default all.
    limits
        Limits of each reader.
    files
        The corpus.
    """
    tally, began = Tally(keep), monotonic()
    chosen = [one for one in files() if only in (None, one.format) and not (quick and one.is_slow)]
    with (
        tempfile.TemporaryDirectory(prefix="latentry-hostile-") as folder,
        fork_servers(workers, Path(folder), limits) as servers,
    ):
        in_parallel(servers, iter(chosen), lambda server, one: read_hostile(server, one, tally))
        corpus_s, corpus_files = (
            monotonic() - began,
            sum(sum(one.values()) for one in tally.by_format.values()),
        )
        seeds = collect_seeds(Path(folder), servers[0], chosen, only)
        until = monotonic() + seconds
        numbers = itertools.takewhile(lambda _: monotonic() < until, itertools.count())
        fuzz = (number for number in numbers if seeds)
        in_parallel(servers, fuzz, lambda server, number: read_damaged(server, number, seed, seeds, tally))
    counts = {outcome.value: tally.total(outcome) for outcome in Outcome}
    return {
        "files": sum(counts.values()),
        **counts,
        "corpus_files": corpus_files,
        "corpus_s": round(corpus_s, 1),
        "seconds": round(monotonic() - began, 1),
        "seed": seed,
        "workers": workers,
        "slowest_s": tally.slowest[0],
        "slowest": tally.slowest[1],
        "unexpected": tally.unexpected,
        "formats": {name: dict(sorted(one.items())) for name, one in sorted(tally.by_format.items())},
        "codes": dict(tally.codes.most_common()),
        "faults": tally.faults,
    }


def in_parallel(
    servers: list[ForkServer], tasks: Iterator[Any], read: Callable[[ForkServer, Any], None]
) -> None:
    """Let every fork server take the next task until there is none."""
    lock = threading.Lock()

    def work(server: ForkServer) -> None:
        while True:
            with lock:
                task = next(tasks, None)
            if task is None:
                return
            read(server, task)

    with ThreadPoolExecutor(len(servers)) as threads:
        for done in [threads.submit(work, server) for server in servers]:
            done.result()


def read_hostile(server: ForkServer, file: HostileFile, tally: Tally) -> None:
    """Read one file of the corpus."""
    server.source.unlink(missing_ok=True)
    file.make(server.source, server.canary)
    result = server.read(file.options)
    tally.add(file.format, file.name, result, server.source, file.options)
    if file.codes and not file.codes & set(result.codes):
        tally.unexpected.append(
            f"{file.name}: expected {sorted(file.codes)}, got {result.outcome} {list(result.codes)}"
        )


def collect_seeds(folder: Path, server: ForkServer, files: list[HostileFile], only: str | None) -> list[Seed]:
    """Return valid files, and small ones of the corpus."""
    seeds, path = [], folder / "seed"
    for example in EXAMPLE_FILES:
        if only in (None, example.format):
            path.unlink(missing_ok=True)
            seeds += [Seed(example.format, example.write(path).read_bytes(), example.options, True)] * 10
    for file in files[:: max(1, len(files) // 300)]:
        path.unlink(missing_ok=True)
        file.make(path, server.canary)
        seeds.append(Seed(file.format, path.read_bytes(), file.options, False))
    path.unlink(missing_ok=True)
    return [seed for seed in seeds if len(seed.content) <= _LARGEST_SEED_BYTES]


def read_damaged(server: ForkServer, number: int, seed: int, seeds: list[Seed], tally: Tally) -> None:
    """Damage one file, and read it."""
    chance = random.Random(f"{seed}:{number}")
    formats = sorted({one.format for one in seeds})
    of_format = chance.choice(formats)
    like = [one for one in seeds if one.format == of_format]
    chosen, other = chance.choice(like), chance.choice(like)
    options = {"max_expanded_bytes": _MOST_EXPANDED_BYTES} | chosen.options
    if chance.random() < 0.1:
        options = options | chance.choice(list(OPTIONS.values()))
    damage = mutate if chosen.is_valid else mutate_bytes
    write_mutation(server.source, damage(chosen.content, other.content, chance))
    tally.add(of_format, f"damaged:{seed}:{number}", server.read(options), server.source, options)


def main() -> None:
    """Read files, and print the findings."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of damaged files; the corpus comes first"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON alone")
    parser.add_argument("--quick", action="store_true", help="without files that are slow to make or to read")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--keep", type=Path, help="a folder for the files that show a fault")
    parser.add_argument("--only", help="a format")
    given = parser.parse_args()
    found = run(
        given.seconds,
        seed=given.seed,
        workers=given.workers,
        quick=given.quick,
        keep=given.keep,
        only=given.only,
    )
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(any(found[outcome] for outcome in FAULTS) or bool(found["unexpected"]))


if __name__ == "__main__":
    main()
