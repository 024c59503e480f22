"""One laboratory for tests that only read."""

from collections.abc import Iterator

import pytest

from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from tests.api.transformations.laboratory import Laboratory, build


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    database = Database(f"sqlite:///{tmp_path_factory.mktemp('lab') / 'lab.db'}")
    migrate(database)
    yield build(database, open_array_store("sql:", database))
    database.close()
