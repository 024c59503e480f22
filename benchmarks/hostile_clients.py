"""Clients that try to occupy the service with one key: ``python -m benchmarks.hostile_clients ATTACK '{…}'``."""

import asyncio
import io
import json
import os
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np


@dataclass
class Attacker:
    """A hostile tenant's client: what it knows of the service."""

    url: str
    key: str
    dataset_id: str
    job_id: str

    async def send(
        self, session: aiohttp.ClientSession, method: str, path: str, *, seconds: float = 60.0, **options: Any
    ) -> None:
        """Send a request, and read the answer whole unless that takes longer."""
        timeout = aiohttp.ClientTimeout(seconds)
        async with session.request(method, self.url + path, timeout=timeout, **options) as answer:
            await answer.read()

    async def connect(self, pieces: list[bytes], seconds: float) -> None:
        """Send raw bytes piece by piece, and keep the connection without reading."""
        address = urlsplit(self.url)
        _, writer = await asyncio.open_connection(
            address.hostname, address.port, limit=1024, local_addr=(_ADDRESS, 0)
        )
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), seconds)
            await asyncio.sleep(seconds)
        finally:
            writer.close()

    def head(self, path: str) -> bytes:
        """Return the begin of a raw request, without its end."""
        return f"GET {path} HTTP/1.1\r\nHost: service\r\nAuthorization: Bearer {self.key}\r\n".encode()


Session = aiohttp.ClientSession
Action = Callable[[Attacker, Session], Awaitable[None]]
_ADDRESS = "127.0.0.2"
"""Another address than that of the quiet tenant. Linux has all of 127.0.0.0/8."""
_JSON = {"Content-Type": "application/json"}


async def unknown_keys(attacker: Attacker, session: Session) -> None:
    """Send a megabyte of unknown keys."""
    body = json.dumps({f"learning_rat{random.random()}": 1 for _ in range(30_000)})
    await attacker.send(session, "POST", "/v1/jobs", data=body, headers=_JSON)


async def deep_json(attacker: Attacker, session: Session) -> None:
    """Send deeply nested JSON."""
    await attacker.send(session, "POST", "/v1/jobs", data=b"[" * 500_000, headers=_JSON)
    await attacker.send(
        session, "POST", "/v1/jobs", data=b'{"a":' * 40_000 + b"1" + b"}" * 40_000, headers=_JSON
    )


async def long_header(attacker: Attacker, session: Session) -> None:
    """Send a header of 200 MB."""
    await attacker.connect([attacker.head("/v1/jobs"), b"X-Long: ", *[b"x" * 2**20] * 200], 10.0)


async def half_open(attacker: Attacker, session: Session) -> None:
    """Open a connection, and never end the header."""
    await attacker.connect([attacker.head("/v1/jobs")], 60.0)


async def stalled_readers(attacker: Attacker, session: Session) -> None:
    """Ask for a large answer, and do not read it."""
    path = f"/v1/datasets/{attacker.dataset_id}/arrays/spikes?format=csv"
    await attacker.connect([attacker.head(path) + b"\r\n"], 60.0)


async def long_where(attacker: Attacker, session: Session) -> None:
    """Filter trials by 20 conditions of 500 values each."""
    values = ",".join(str(value) for value in range(500))
    where = "&".join(["where=condition:in:" + values] * 20)
    await attacker.send(session, "GET", f"/v1/datasets/{attacker.dataset_id}/arrays/spikes?neuron=0&{where}")


async def decodings(attacker: Attacker, session: Session) -> None:
    """Decode behaviour from all spikes, each time with other folds."""
    await attacker.send(session, "GET", decoding(attacker))


async def clients_that_leave(attacker: Attacker, session: Session) -> None:
    """Start a decoding, and leave."""
    await attacker.send(session, "GET", decoding(attacker), seconds=0.3)


def decoding(attacker: Attacker) -> str:
    """Return the path of a decoding that no cache has."""
    query = f"behaviour=hand_velocity&folds=20&seed={random.randrange(2**31)}"
    return f"/v1/datasets/{attacker.dataset_id}/decoding?{query}"


async def streams(attacker: Attacker, session: Session) -> None:
    """Stream the events of a paused job."""
    await attacker.send(session, "GET", f"/v1/jobs/{attacker.job_id}/events/stream")


async def requests(attacker: Attacker, session: Session) -> None:
    """Read lists and documents as fast as possible."""
    await attacker.send(session, "GET", "/v1/jobs?page_size=100")
    await attacker.send(session, "GET", f"/v1/datasets/{attacker.dataset_id}/trials?page_size=1000")


async def exports(attacker: Attacker, session: Session) -> None:
    """Download everything as text."""
    await attacker.send(session, "GET", f"/v1/datasets/{attacker.dataset_id}/arrays/spikes?format=csv")


async def ingests(attacker: Attacker, session: Session) -> None:
    """Upload large recordings."""
    spikes = np.random.default_rng().poisson(0.2, (800, 200, 100)).astype(np.uint8)
    file = io.BytesIO()
    np.savez(file, spikes=spikes, bin_width_s=np.array(0.01))
    headers = {"Content-Type": "application/octet-stream"}
    path = f"/v1/datasets?filename=large-{random.randrange(2**31)}.npz"
    await attacker.send(session, "POST", path, data=file.getvalue(), headers=headers)


async def jobs(attacker: Attacker, session: Session) -> None:
    """Start large searches."""
    body = {
        "dataset_id": attacker.dataset_id,
        "budget": {"models": 200, "epochs": 1000},
        "seed": random.randrange(2**31),
    }
    await attacker.send(session, "POST", "/v1/jobs", json=body)


async def wrong_keys(attacker: Attacker, session: Session) -> None:
    """Guess keys."""
    headers = {"Authorization": f"Bearer lat_{random.randrange(2**62)}"}
    await attacker.send(session, "GET", "/v1/jobs", headers=headers)


async def uploads(attacker: Attacker, session: Session) -> None:
    """Announce large uploads and send nothing."""
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(2**30)}
    await attacker.send(session, "POST", "/v1/uploads", headers=headers)


ATTACKS: dict[str, tuple[int, Action]] = {
    "unknown_keys": (4, unknown_keys),
    "deep_json": (4, deep_json),
    "long_header": (2, long_header),
    "half_open": (600, half_open),
    "stalled_readers": (30, stalled_readers),
    "long_where": (4, long_where),
    "decodings": (8, decodings),
    "clients_that_leave": (6, clients_that_leave),
    "streams": (300, streams),
    "requests": (50, requests),
    "exports": (8, exports),
    "ingests": (6, ingests),
    "jobs": (4, jobs),
    "wrong_keys": (20, wrong_keys),
    "uploads": (10, uploads),
}
"""Name of each attack: number of clients at the same time, and what each repeats."""


async def attack(name: str, attacker: Attacker) -> None:
    """Attack until the process is ended."""
    clients, action = ATTACKS[name]

    async def repeat(session: Session) -> None:
        while True:
            try:
                await action(attacker, session)
            except (OSError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)  # the service has closed the connection
            await asyncio.sleep(0.01)

    connector = aiohttp.TCPConnector(limit=0, local_addr=(_ADDRESS, 0))
    headers = {"Authorization": f"Bearer {attacker.key}"}
    async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
        await asyncio.gather(*(repeat(session) for _ in range(clients)))


def _yield_to_others() -> None:
    """Take the lowest CPU priority, also where Linux groups processes by session."""
    os.nice(19)
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text("19")


if __name__ == "__main__":
    _yield_to_others()
    asyncio.run(attack(sys.argv[1], Attacker(**json.loads(sys.argv[2]))))
