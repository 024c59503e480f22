"""What a query costs: its time, its work, and the tables that it reads whole."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from store.database import Database

GROWING = (
    "jobs",
    "models",
    "curve_points",
    "slices",
    "events",
    "idempotent_requests",
    "webhook_deliveries",
    "array_objects",
)


def measure(database: Database, query: Callable[[Session], object], timed: int) -> dict[str, Any]:
    """Return the median time and CPU time of a query in ms, its work, and the growing tables that it reads whole.

    The work is the number of steps of SQLite's machine, or of pages that PostgreSQL reads.
    """
    times, cpu_times, statements = list[float](), list[float](), list[tuple[str, Any]]()

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _x: Any, _many: bool) -> None:
        statements.append((statement, parameters))

    for _ in range(timed):
        with Session(database.engine, expire_on_commit=False) as session:
            begun, cpu = time.perf_counter(), time.thread_time()
            query(session)
            times.append(time.perf_counter() - begun)
            cpu_times.append(time.thread_time() - cpu)
            session.rollback()
    with Session(database.engine) as session:
        connection = session.connection()
        event.listen(database.engine, "before_cursor_execute", note)
        work = [0]
        driver: Any = connection.connection.driver_connection
        if database.is_sqlite:
            driver.set_progress_handler(lambda: work.__setitem__(0, work[0] + 10), 10)
        query(session)
        event.remove(database.engine, "before_cursor_execute", note)
        if database.is_sqlite:
            driver.set_progress_handler(None, 0)
        session.rollback()
    scanned, pages = _plans(database, statements)
    return {
        "ms": round(1e3 * statistics.median(times), 2),
        "cpu_ms": round(1e3 * statistics.median(cpu_times), 2),
        "work": work[0] + pages,
        "scans": sorted(scanned),
    }


def _plans(database: Database, statements: list[tuple[str, Any]]) -> tuple[set[str], int]:
    """Return the growing tables that statements read whole, and the pages that PostgreSQL reads."""
    scanned, pages = set[str](), 0
    with Session(database.engine) as session:
        connection = session.connection()
        for statement, parameters in statements:
            if not statement.lstrip().startswith(("SELECT", "WITH")):
                continue
            if database.is_sqlite:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
                scanned |= {row[-1].split()[1] for row in plan if row[-1].startswith("SCAN")}
                continue
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            [[possible]] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).all()
            scanned |= {one["Relation Name"] for one in _nodes(possible) if one["Node Type"] == "Seq Scan"}
            connection.exec_driver_sql("SET LOCAL enable_seqscan = on")
            [[plan]] = connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
            ).all()
            pages += plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
        session.rollback()
    return scanned & set(GROWING), pages


def _nodes(plan: Any) -> Iterator[dict[str, Any]]:
    if isinstance(plan, list):
        for one in plan:
            yield from _nodes(one)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            yield plan
        for value in plan.values():
            yield from _nodes(value)
