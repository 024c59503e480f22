"""Whether any file can crash a reader, hang it, or make it tell or write what it should not.

``python -m benchmarks.hostile [--seconds 60] [--json] [--quick] [--seed N] [--workers N] [--keep FOLDER] [--only FORMAT]``

First the whole corpus of files built to do harm (`tests.worker.ingest.hostile_corpus`), then for so many seconds damaged files:
valid ones of every format (`tests.worker.ingest.reader_examples`) and small hostile ones, changed at random places
(`benchmarks.hostility.mutations`), some of them with hostile options. Each is read by a process of its own,
forked from a warm one (`benchmarks.hostility.fork_server`), with 2 GiB of memory and 20 s of processor time,
but with the disk and the network in sight:
what the readers themselves keep is tried, without the help of the kernel that `worker.ingest.parse.confine` asks for.

A file is accepted, or refused with reasons and hints; all else is a fault. A crash is an exit by a signal or by an exception that
readers may not raise; a hang is a file that took longer than it may; an escape is a secret of the server in a result, a file
written or changed outside of the results, code of the file that ran, an address that was called. Exit status 1 if there is any.
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
from datetime import date
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.hostility.mutations import mutate, mutate_bytes, write_mutation
from benchmarks.hostility.reading import LIMITS, Judged, Keeper, Outcome, keepers
from benchmarks.paper.harness import machine
from tests.worker.ingest.hostile_corpus import HostileFile, corpus
from tests.worker.ingest.hostile_others import OPTIONS
from tests.worker.ingest.reader_examples import EXAMPLE_FILES
from worker.ingest.sandbox import ParseLimits

FAULTS = (Outcome.CRASHED, Outcome.HUNG, Outcome.ESCAPED)
_LARGEST_SEED_BYTES = 2**20
_MOST_EXPANDED_BYTES = 2**28
"""Of a damaged file; so that those that declare much take no longer than others."""


@dataclass(frozen=True)
class Seed:
    """A file to damage, with the options it is asked for with; only valid files are opened here, to be damaged with sense."""

    format: str
    content: bytes
    options: dict[str, Any]
    is_valid: bool


@dataclass
class Tally:
    """What came of all files so far.

    Attributes
    ----------
    keep
        Where the files of faults are put, if anywhere.
    by_format
        Format → outcome → number.
    codes
        Code of a refusal → number.
    faults
        A fault, by the last line of what it said → number, and the first file.
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

    def add(self, format_: str, name: str, judged: Judged, source: Path, options: dict[str, Any]) -> None:
        """Count one file."""
        with self._lock:
            self.by_format[format_][judged.outcome.value] += 1
            self.codes.update(judged.codes[:1])
            self.slowest = max(self.slowest, (round(judged.seconds, 2), name))
            if judged.outcome in FAULTS:
                self._keep_fault(format_, name, judged, source, options)

    def _keep_fault(
        self, format_: str, name: str, judged: Judged, source: Path, options: dict[str, Any]
    ) -> None:
        lines = [line for line in judged.why.splitlines() if line.strip()] or [""]
        where = [line.strip() for line in lines if line.strip().startswith("File ")][-1:]
        signature = " ".join([format_, judged.outcome.value, *where, lines[-1][:200]])
        fault = self.faults.setdefault(signature, {"files": 0, "first": name, "options": options})
        fault["files"] += 1
        if self.keep is not None and fault["files"] == 1:
            self.keep.mkdir(parents=True, exist_ok=True)
            kept = self.keep / f"{len(self.faults):03d}-{format_}"
            kept.write_bytes(source.read_bytes())
            note = {"name": name, "outcome": judged.outcome, "options": options, "why": judged.why}
            kept.with_suffix(".json").write_text(json.dumps(note, indent=1))

    def total(self, outcome: Outcome) -> int:
        """How many files had an outcome."""
        return sum(one[outcome.value] for one in self.by_format.values())


def run(
    seconds: float,
    seed: int = 0,
    workers: int = 2,
    quick: bool = False,
    keep: Path | None = None,
    only: str | None = None,
    limits: ParseLimits = LIMITS,
    files: Callable[[], Iterator[HostileFile]] = corpus,
) -> dict[str, Any]:
    """Read the corpus and then damaged files; say what came of them.

    Parameters
    ----------
    seconds
        Of damaged files.
    seed
        Of the damage.
    workers
        How many files are read at a time.
    quick
        Leave out what takes long to make or to read.
    keep
        Where to put files that show a fault.
    only
        A format, if only its files are wanted.
    limits
        What a file may take.
    files
        The corpus.
    """
    tally, began = Tally(keep), monotonic()
    chosen = [one for one in files() if only in (None, one.format) and not (quick and one.is_slow)]
    with (
        tempfile.TemporaryDirectory(prefix="latentry-hostile-") as folder,
        keepers(workers, Path(folder), limits) as crew,
    ):
        in_crew(crew, iter(chosen), lambda keeper, one: read_hostile(keeper, one, tally))
        corpus_s, corpus_files = (
            monotonic() - began,
            sum(sum(one.values()) for one in tally.by_format.values()),
        )
        seeds = collect_seeds(Path(folder), crew[0], chosen, only)
        until = monotonic() + seconds
        numbers = itertools.takewhile(lambda _: monotonic() < until, itertools.count())
        fuzz = (number for number in numbers if seeds)
        in_crew(crew, fuzz, lambda keeper, number: read_damaged(keeper, number, seed, seeds, tally))
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


def in_crew(crew: list[Keeper], tasks: Iterator[Any], read: Callable[[Keeper, Any], None]) -> None:
    """Let every keeper take the next task until there is none."""
    lock = threading.Lock()

    def work(keeper: Keeper) -> None:
        while True:
            with lock:
                task = next(tasks, None)
            if task is None:
                return
            read(keeper, task)

    with ThreadPoolExecutor(len(crew)) as threads:
        for done in [threads.submit(work, keeper) for keeper in crew]:
            done.result()


def read_hostile(keeper: Keeper, file: HostileFile, tally: Tally) -> None:
    """Read one file of the corpus."""
    keeper.source.unlink(missing_ok=True)
    file.make(keeper.source, keeper.canary)
    judged = keeper.read(file.options)
    tally.add(file.format, file.name, judged, keeper.source, file.options)
    if file.codes and not file.codes & set(judged.codes):
        tally.unexpected.append(
            f"{file.name}: expected {sorted(file.codes)}, got {judged.outcome} {list(judged.codes)}"
        )


def collect_seeds(folder: Path, keeper: Keeper, files: list[HostileFile], only: str | None) -> list[Seed]:
    """Valid files, and those of the corpus that are small."""
    seeds, path = [], folder / "seed"
    for example in EXAMPLE_FILES:
        if only in (None, example.format):
            path.unlink(missing_ok=True)
            seeds += [Seed(example.format, example.write(path).read_bytes(), example.options, True)] * 10
    for file in files[:: max(1, len(files) // 300)]:
        path.unlink(missing_ok=True)
        file.make(path, keeper.canary)
        seeds.append(Seed(file.format, path.read_bytes(), file.options, False))
    path.unlink(missing_ok=True)
    return [seed for seed in seeds if len(seed.content) <= _LARGEST_SEED_BYTES]


def read_damaged(keeper: Keeper, number: int, seed: int, seeds: list[Seed], tally: Tally) -> None:
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
    write_mutation(keeper.source, damage(chosen.content, other.content, chance))
    tally.add(of_format, f"damaged:{seed}:{number}", keeper.read(options), keeper.source, options)


def main() -> None:
    """Read, and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="of damaged files; the corpus comes before"
    )
    parser.add_argument("--json", action="store_true", help="nothing but one line of JSON")
    parser.add_argument("--quick", action="store_true", help="without what takes long to make or to read")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--keep", type=Path, help="a folder for the files that show a fault")
    parser.add_argument("--only", help="a format")
    given = parser.parse_args()
    found = run(given.seconds, given.seed, given.workers, given.quick, given.keep, given.only)
    if given.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name}: {value}" for name, value in found.items()))
        print(f"{date.today()}, {machine()}")
    with suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.exit(any(found[outcome] for outcome in FAULTS) or bool(found["unexpected"]))


if __name__ == "__main__":
    main()
