"""The API on a folder of data as a process of its own, with a broker and without workers: it can end and come back."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

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
        """End it at once, as if its machine had lost power."""
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
