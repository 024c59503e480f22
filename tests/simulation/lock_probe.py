"""Measures how long another process waits for SQLite's write lock: ``python -m tests.simulation.lock_probe FILE``.

For each line that it reads, it writes one line of JSON: the waits since the line before.
"""

import json
import select
import sqlite3
import sys
import time

INTERVAL_S, RETRY_S = 0.002, 0.0005


def main(path: str) -> None:
    """Take the lock again and again until the input ends."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    waits: list[float] = []
    while True:
        if select.select([sys.stdin], [], [], INTERVAL_S)[0]:
            if not sys.stdin.readline():
                return
            over = sum(wait > 0.1 for wait in waits)
            found = {"taken": len(waits), "longest_ms": round(1e3 * max(waits, default=0.0), 1)}
            print(json.dumps(found | {"over_100_ms": over}), flush=True)
            waits.clear()
        waits.append(_wait(connection))


def _wait(connection: sqlite3.Connection) -> float:
    asked = time.monotonic()
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            time.sleep(RETRY_S)
            continue
        waited = time.monotonic() - asked
        connection.execute("ROLLBACK")
        return waited


if __name__ == "__main__":
    main(sys.argv[1])
