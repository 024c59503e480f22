"""A watched page in a browser, and services to show: seeded ones without workers, which tests only read, and their copies."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.settings import Settings
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.servers import broker
from tests.web.pages import browser, context, page, watch
from tests.web.seeding import Seeded, seeded
from tests.web.service import ApiProcess, api_process

__all__ = ["browser", "context", "page", "watch"]


@pytest.fixture(scope="session")
def seeded_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all states. Parallel processes of one test run share it, so each state is made once."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "seeded"


@pytest.fixture(scope="session")
def seeded_service(seeded_folders: Path) -> Iterator[Callable[[str], tuple[str, dict[str, str]]]]:
    """Returns the URL of a service in a state, and its ids. Tests only read it."""
    running: dict[str, tuple[str, dict[str, str]]] = {}
    servers, closing = [], []

    def start(state: str) -> tuple[str, dict[str, str]]:
        if state not in running:
            folder = seeded(seeded_folders, state)
            (folder / f"broker-{os.getpid()}").mkdir()
            started = broker(folder / f"broker-{os.getpid()}")
            settings = Settings(data_dir=folder, redis_url=started.__enter__().url)
            opened = Seeded.open(folder)
            server = serve(app_of(settings, opened.database, opened.arrays))
            running[state] = next(server), opened.ids
            servers.append(server)
            closing.append((opened, started))
        return running[state]

    yield start
    for server in servers:
        next(server, None)
    for opened, started in closing:
        opened.database.close()
        started.__exit__(None, None, None)


@pytest.fixture
def lab(seeded_service: Callable[[str], tuple[str, dict[str, str]]]) -> tuple[str, dict[str, str]]:
    """URL and ids of a lab's service, which tests only read."""
    return seeded_service("lab")


@pytest.fixture
def own_lab(seeded_folders: Path, tmp_path: Path) -> Iterator[ApiProcess]:
    """A lab's service of this test alone, in a process: it may be changed, and it may end and come back."""
    folder = tmp_path / "lab"
    shutil.copytree(seeded(seeded_folders, "lab"), folder, ignore=shutil.ignore_patterns("broker*"))
    with api_process(folder) as api:
        yield api
