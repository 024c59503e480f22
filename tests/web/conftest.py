"""A watched page in a browser, and services to show: seeded ones without workers, which tests only read, and their copies."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from store.settings import Settings
from tests.app_copies import app_of
from tests.servers import broker
from tests.web.pages import browser, context, page, watch
from tests.web.seeded_storage import Seeded
from tests.web.seeding import seeded
from tests.web.service import ApiProcess, ApiThread, SeededService, api_process

__all__ = ["browser", "context", "page", "watch"]


@pytest.fixture(scope="session")
def seeded_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all states. Parallel processes of one test run share it, so each state is made once."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "seeded"


@pytest.fixture(scope="session")
def seeded_service(seeded_folders: Path) -> Iterator[Callable[[str], SeededService]]:
    """Starts the service of a state, once. Tests only read its data; one that stops it starts it again."""
    running: dict[str, SeededService] = {}
    with ExitStack() as closing:

        def start(state: str) -> SeededService:
            if state not in running:
                folder = seeded(seeded_folders, state)
                own = folder / f"broker-{os.getpid()}"  # parallel processes share the folder
                own.mkdir()
                settings = Settings(data_dir=folder, redis_url=closing.enter_context(broker(own)).url)
                opened = Seeded.open(folder)
                closing.callback(opened.database.close)
                api = ApiThread(app_of(settings, opened.database, opened.arrays))
                closing.callback(api.stop)
                api.start()
                running[state] = SeededService(api, opened.ids)
            return running[state]

        yield start


@pytest.fixture
def lab(seeded_service: Callable[[str], SeededService]) -> SeededService:
    """The service of a lab, which tests only read."""
    return seeded_service("lab")


@pytest.fixture
def own_lab(seeded_folders: Path, tmp_path: Path) -> Iterator[ApiProcess]:
    """A lab's service of this test alone, in a process: its data may be changed."""
    folder = tmp_path / "lab"
    shutil.copytree(seeded(seeded_folders, "lab"), folder, ignore=shutil.ignore_patterns("broker*"))
    with api_process(folder) as api:
        yield api
