"""Readers who ask at once, in a process of their own: ``python -m benchmarks.querying.readers '{…}'``."""

import asyncio
import json
import random
import sys
import time
from typing import Any

import aiohttp

from benchmarks.querying.result import BINS, NEURONS

PIECE_BYTES = 2**16


def parameters(kind: str, trials: int, chance: random.Random) -> dict[str, str]:
    """Draw the query parameters of one request."""
    trial, bin_, neuron = chance.randrange(trials), chance.randrange(BINS - 5), chance.randrange(NEURONS - 10)
    if kind in ("slice", "unchanged"):
        return {"slice": f"{trial},{bin_}:{bin_ + 5},{neuron}:{neuron + 10}"}
    if kind == "where":
        last = min(trial + 200, trials)
        return {
            "where": "condition:in:3,4",
            "trial": f"{max(0, last - 200)}:{last}",
            "neuron": str(neuron),
            "time_s": "0.1:0.4",
        }
    return {}


async def read(url: str, kind: str, trials: int, clients: int, seconds: float) -> dict[str, Any]:
    """Ask again and again from a number of clients; returns the figures of their answers."""
    waits_s: list[float] = []
    received = 0
    began = time.monotonic()

    async def one(number: int, session: aiohttp.ClientSession) -> None:
        nonlocal received
        chance = random.Random(number)
        asked = parameters(kind, trials, chance)
        headers: dict[str, str] = {}
        while time.monotonic() < began + seconds:
            if kind != "unchanged":
                asked = parameters(kind, trials, chance)
            sent = time.monotonic()
            async with session.get(url, params=asked, headers=headers) as answer:
                if answer.status not in (200, 304):
                    raise RuntimeError(f"{answer.status}: {await answer.text()}")
                if kind == "whole":
                    waits_s.append(time.monotonic() - sent)
                    async for piece in answer.content.iter_chunked(PIECE_BYTES):
                        received += len(piece)
                        if time.monotonic() > began + seconds:
                            answer.close()
                            return
                    continue
                received += len(await answer.read())
                if kind == "unchanged":
                    headers = {"If-None-Match": answer.headers["ETag"]}
            waits_s.append(time.monotonic() - sent)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(600)) as session:
        await asyncio.gather(*(one(number, session) for number in range(clients)))
    passed_s = time.monotonic() - began
    waits_s.sort()
    return {
        "answers": len(waits_s),
        "p50_ms": round(1000 * waits_s[len(waits_s) // 2], 2),
        "p99_ms": round(1000 * waits_s[len(waits_s) * 99 // 100], 2),
        "answer_bytes": None if kind == "whole" else received // len(waits_s),
        "mb_per_s": round(received / passed_s / 1e6, 2),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(read(**json.loads(sys.argv[1])))))
