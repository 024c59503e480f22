"""Everything that the service deletes by itself from the array store and the uploads, in turns of bounded time."""

import logging
import time
from collections import Counter
from collections.abc import Iterator

from zarr.abc.store import Store

from store.database import Database
from store.settings import Settings
from worker.maintenance.garbage_collection import collect_all, collect_uploads
from worker.maintenance.measuring import measure
from worker.maintenance.retention import Sweep

logger = logging.getLogger("latentry.maintenance")


class Collection:
    """One collection: of unused checkpoints, latents and uploads, and of old checkpoints and originals.

    It may end after any step, because the next collection finds what is left. At its end, SQLite's log contains none of it.

    Attributes
    ----------
    latest
        Time of its latest step, by the machine's monotonic clock.
    """

    def __init__(self, database: Database, arrays: Store, settings: Settings) -> None:
        parts: dict[str, Iterator[int]] = {
            "deleted checkpoints and latents": collect_all(database, arrays),
            "deleted uploads": collect_uploads(database, settings),
            "removed files by age": Sweep(database, settings).files(arrays),
            "measured arrays and checkpoints": measure(database, arrays, settings),
        }
        self._database, self._numbers = database, Counter[str]()
        self._steps = ((part, number) for part, steps in parts.items() for number in steps)
        self.latest = time.monotonic()

    def run(self, seconds: float) -> bool:
        """Do steps for some seconds, at least one; return whether there is more to do."""
        end = time.monotonic() + seconds
        for part, number in self._steps:
            self._numbers[part] += number
            self.latest = time.monotonic()
            if self.latest >= end:
                return True
        for part, number in self._numbers.items():
            if number:
                logger.info("%s: %d", part, number)
        self._database.truncate_log()
        return False
