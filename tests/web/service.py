"""The API on a folder of data, with a broker and without workers: in a process of its own, or in a thread of the test."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from tests.servers import broker, free_port
from tests.waiting import wait_until
from worker.child_processes import die_with_parent


class ApiProcess:
    """The API in a process.

    Parameters
    ----------
    folder
        Of the data.
    environment
        Further settings, such as `LATENTRY_REQUIRE_KEY`.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._environment = {**os.environ, "LATENTRY_DATA_DIR": str(folder), **environment}
        self._log = folder / "api.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [sys.executable, "-m", "api.server", "--port", str(self._port)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        wait_until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        try:
            return httpx.get(f"{self.url}/healthz").is_success
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def api_process(folder: Path, **environment: str) -> Iterator[ApiProcess]:
    """Run the API on a folder, with a broker."""
    (folder / "broker").mkdir(exist_ok=True)
    with broker(folder / "broker") as started:
        api = ApiProcess(folder, LATENTRY_REDIS_URL=started.url, **environment)
        try:
            api.start()
            yield api
        finally:
            api.stop()


class ApiThread:
    """The API in a thread, always at the same address: it can end and come back."""

    def __init__(self, app: FastAPI) -> None:
        self._app, self._port = app, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start, and wait until it listens."""
        config = uvicorn.Config(self._app, host="127.0.0.1", port=self._port, log_level="critical")
        self._server = server = uvicorn.Server(config)
        self._thread = threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: server.started)

    def stop(self) -> None:
        """End it without waiting for open connections."""
        if self._server is not None and self._thread is not None:
            self._server.should_exit = self._server.force_exit = True
            self._thread.join()
            self._server = None


@dataclass(frozen=True)
class SeededService:
    """A running service, and the ids of what is in it, see `tests.web.seeding`."""

    api: ApiThread
    ids: dict[str, str]

    @property
    def url(self) -> str:
        """Its address."""
        return self.api.url
