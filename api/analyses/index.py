"""An index of the states of large latents, kept in a folder: found by inverted lists on disk, so memory does not grow with them.

See docs/decisions/0013-nearest-states.md for why this kind, and from which size on.
"""

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread

import faiss
import numpy as np
from faiss.contrib.ondisk import merge_ondisk
from numpy.typing import NDArray

from api.analyses.trajectories import Trajectories

logger = logging.getLogger(__name__)

LAYOUT = "1"
"""Goes up when an index is made otherwise."""
CELLS_OF_ROOT = 2
"""Cells of an index, in square roots of the number of states."""
SAMPLES_PER_CELL = 40
"""States from which cells are learned."""
CELLS_SEARCHED = 16
PART_BYTES = 2**26
"""States that are in memory at a time while an index is built."""
ABANDONED_SECONDS = 6 * 3600
"""A build that wrote nothing for so long was killed."""
MOST_OPEN = 8


@dataclass(frozen=True)
class StateIndex:
    """The states of an array, by cell.

    Attributes
    ----------
    cells
        faiss's inverted lists; the id of a state is ``row · bins + bin``.
    """

    cells: "faiss.IndexIVFFlat"

    def search(
        self, vectors: NDArray[np.float64], k: int, left_out: range
    ) -> list[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Distances and ids of the k nearest states that it finds to each vector, but for those of a range of ids."""
        wanted = CELLS_SEARCHED + 8 * k * self.cells.nlist // max(1, self.cells.ntotal)
        selector = faiss.IDSelectorNot(faiss.IDSelectorRange(left_out.start, left_out.stop))
        # Its stubs do not know the keywords.
        parameters = faiss.SearchParametersIVF(sel=selector, nprobe=min(wanted, self.cells.nlist))  # type: ignore[call-arg]
        squared, ids = self.cells.search(vectors.astype(np.float32), k, params=parameters)
        return [
            (np.sqrt(of_one[found >= 0].astype(np.float64)), found[found >= 0])
            for of_one, found in zip(squared, ids, strict=True)
        ]


class StateIndexes:
    """The indexes of a folder; each is one array's, is built once, and goes when others need its place.

    Parameters
    ----------
    folder
        Where they are.
    most_bytes
        Of all of them together.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._open: dict[str, StateIndex] = {}
        self._lock = Lock()
        self._building: Thread | None = None
        self._failed: set[str] = set()

    def find(self, path: str, name: str) -> StateIndex | None:
        """The index of an array; None if there is none yet."""
        key = _key(path, name)
        folder = self._folder / key
        with self._lock:
            try:
                os.utime(folder)
            except OSError:
                self._open.pop(key, None)
                return None
            if key not in self._open:
                while len(self._open) >= MOST_OPEN:
                    self._open.pop(next(iter(self._open)))
                # The lists are on disk by themselves; mapping the rest as well (IO_FLAG_MMAP) crashes the search.
                cells = faiss.read_index(str(folder / "index"), faiss.IO_FLAG_ONDISK_SAME_DIR)
                assert isinstance(cells, faiss.IndexIVFFlat)
                self._open[key] = StateIndex(cells)
            return self._open[key]

    def begin(self, path: str, name: str, trajectories: Trajectories) -> None:
        """Build the index of an array in the background, unless one is being built."""
        key = _key(path, name)
        if 2 * trajectories.array.nbytes > self._most_bytes or key in self._failed:
            return
        with self._lock:
            if self._building is not None and self._building.is_alive():
                return
            work = Thread(target=self._build, args=(key, trajectories), daemon=True)
            self._building = work
        work.start()

    def wait(self) -> None:
        """Until what is being built has been."""
        if self._building is not None:
            self._building.join()

    def _build(self, key: str, trajectories: Trajectories) -> None:
        unfinished = self._folder / f"{key}.unfinished"
        if (self._folder / key).exists() or not _claim(unfinished):
            return
        try:
            _write_index(unfinished, trajectories)
            unfinished.rename(self._folder / key)
            self._make_room(key)
        except Exception:
            # The answers are exact without it.
            self._failed.add(key)
            logger.exception("no index of %s was built", trajectories.array.name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)

    def _make_room(self, newest: str) -> None:
        """Delete indexes, those first that were not used for the longest."""
        indexes = [one for one in self._folder.iterdir() if one.suffix != ".unfinished"]
        indexes.sort(key=lambda one: (one.name == newest, one.stat().st_mtime), reverse=True)
        total = 0
        for one in indexes:
            total += sum(file.stat().st_size for file in one.iterdir())
            if total > self._most_bytes:
                shutil.rmtree(one, ignore_errors=True)


@lru_cache
def indexes_in(folder: Path, most_bytes: int) -> StateIndexes:
    """The indexes of a folder, for all requests of this process."""
    return StateIndexes(folder, most_bytes)


def _key(path: str, name: str) -> str:
    return hashlib.sha256("\n".join((LAYOUT, path, name)).encode()).hexdigest()[:40]


def _claim(unfinished: Path) -> bool:
    """Make the folder of a build; False if another process is at it."""
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        if (
            time.time() - max(one.stat().st_mtime for one in (unfinished, *unfinished.iterdir()))
            > ABANDONED_SECONDS
        ):
            shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
    except FileExistsError:
        return False
    return True


def _write_index(folder: Path, trajectories: Trajectories) -> None:
    """Learn cells from some of the states, put all states into them part by part, and merge the parts on disk."""
    faiss.omp_set_num_threads(1)  # of this thread: others answer requests meanwhile
    states = len(trajectories.trials) * trajectories.bins
    cells = max(1, int(CELLS_OF_ROOT * states**0.5))
    learned = faiss.IndexIVFFlat(faiss.IndexFlatL2(trajectories.components), trajectories.components, cells)
    learned.train(_sample(trajectories, SAMPLES_PER_CELL * cells))
    empty = str(folder / "empty")
    faiss.write_index(learned, empty)
    parts: list[str] = []
    for ids, values in _parts(trajectories):
        part = faiss.read_index(empty)
        part.add_with_ids(values, ids)
        parts.append(str(folder / f"part{len(parts)}"))
        faiss.write_index(part, parts[-1])
    merge_ondisk(learned, parts, str(folder / "states"))
    faiss.write_index(learned, str(folder / "index"))
    for name in (empty, *parts):
        Path(name).unlink()


def _sample(trajectories: Trajectories, most: int) -> NDArray[np.float32]:
    """States at even distances."""
    step = max(1, len(trajectories.trials) * trajectories.bins // most)
    return np.concatenate([values[ids % step == 0] for ids, values in _states(trajectories)])


def _states(trajectories: Trajectories) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Ids and values of the states that are finite, block by block."""
    for rows, block in trajectories.blocks():
        values = block.reshape(-1, trajectories.components)
        ids = np.arange(rows.start * trajectories.bins, rows.stop * trajectories.bins)
        known = np.isfinite(values).all(1)
        yield ids[known], values[known].astype(np.float32)


def _parts(trajectories: Trajectories) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The same, in larger parts."""
    waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
    for ids, values in _states(trajectories):
        waiting.append((ids, values))
        if sum(one.nbytes for _, one in waiting) >= PART_BYTES:
            yield _joined(waiting)
            waiting = []
    if waiting:
        yield _joined(waiting)


def _joined(
    waiting: list[tuple[NDArray[np.int64], NDArray[np.float32]]],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return np.concatenate([ids for ids, _ in waiting]), np.concatenate([values for _, values in waiting])
