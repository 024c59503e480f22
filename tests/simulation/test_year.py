"""A small simulated year: tables and the work of the main queries stay bounded, and no query reads a growing table whole."""

from pathlib import Path

import pytest

from tests.simulation.year import Month, SimulatedYear, Year


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_year_stays_bounded(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    is_sqlite = kind == "sqlite"
    url = f"sqlite:///{tmp_path}/year.db" if is_sqlite else request.getfixturevalue("postgres_database_url")
    year = Year(url, jobs=64, points_a_day=120, epochs=300, slices=2, days=480, step_days=30, timed=1)
    months: list[Month] = list(SimulatedYear(year, tmp_path).run())
    early, late = months[0], months[-1]
    assert late.inserted == 16 * early.inserted
    assert late.rows["curve_points"] < 4 * early.rows["curve_points"]
    for name, kept_months in (
        ("events", 4),
        ("slices", 4),
        ("idempotent_requests", 1),
        ("webhook_deliveries", 2),
    ):
        of_live_jobs = 50 if name == "slices" else 0
        assert late.rows[name] - of_live_jobs <= kept_months * (early.rows[name] - of_live_jobs), name
    for part in (part for month in months for part in month.locks.values()):
        assert part.cpu_ms <= 100, "a transaction of a sweep or a deletion blocks others too long"
    for name, query in late.queries.items():
        assert not query["scans"], f"{name} reads {query['scans']} whole"
        if is_sqlite:
            # The list of the first month is shorter than a page.
            pages = 50 / early.rows["jobs"] if name == "list of jobs" else 1.0
            assert query["work"] <= 1.5 * max(1.0, pages) * early.queries[name]["work"], name
