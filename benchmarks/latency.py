"""How long latents at once take over HTTP: ``python -m benchmarks.latency [--requests 200] [--json]``.

Starts the embedded service (real processes), trains one model of the default sizes for one epoch, and sends spikes of 1, 4 and
16 trials to `POST /v1/models/{id}:infer`, from one client and from eight. Times are the client's: of a request until its answer
has been read. Cold are the first request of all, which imports torch, and the first of another model, which reads its weights.
"""

import io
import json
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from latentry import Client

from benchmarks import report
from worker.embedded import EmbeddedService

BINS, NEURONS, WIDTH_S = 100, 100, 0.01
TRIALS, CLIENTS = (1, 4, 16), (1, 8)
_NPY, _JSON = {"Content-Type": "application/x-npy"}, {"Content-Type": "application/json"}


def spikes_of(trials: int) -> "np.ndarray[Any, Any]":
    """Return counts [trials, bins, neurons] at 10 spikes/s."""
    return np.random.default_rng(0).poisson(10 * WIDTH_S, (trials, BINS, NEURONS)).astype(np.uint8)


def trained_models(service: EmbeddedService, folder: Path, architecture: dict[str, Any]) -> list[str]:
    """Return the ids of two models of one job."""
    np.savez(folder / "spikes.npz", spikes=spikes_of(40), bin_width_s=WIDTH_S)
    with Client(service.url) as client:
        dataset = client.upload_dataset(folder / "spikes.npz")
        budget = {"models": 2, "epochs": 1}
        body = {"dataset_id": dataset["id"], "budget": budget, "architecture": architecture}
        job = client.create_job(body)
        client.wait_for_job(job["id"])
        return [model["id"] for model in client.list_models(job["id"])]


def request_of(url: str, model_id: str, trials: int, kind: str) -> Callable[[httpx.Client], None]:
    """Return the function that sends a request of some trials: npy answered as npz, or JSON both ways."""
    spikes, target = spikes_of(trials), f"{url}/v1/models/{model_id}:infer"
    if kind == "npy":
        file = io.BytesIO()
        np.save(file, spikes)
        content, headers, query = file.getvalue(), _NPY, {"format": "npz"}
    else:
        content, headers, query = json.dumps({"spikes": spikes.tolist()}).encode(), _JSON, {"format": "json"}

    def send(client: httpx.Client) -> None:
        client.post(target, content=content, headers=headers, params=query).raise_for_status()

    return send


def measure(send: Callable[[httpx.Client], None], clients: int, requests: int) -> dict[str, float]:
    """Milliseconds of requests that several clients send, each one after the other over a connection of its own."""
    taken: list[float] = []

    def use() -> None:
        with httpx.Client(timeout=60) as client:
            for _ in range(max(1, requests // clients)):
                began = time.perf_counter()
                send(client)
                taken.append(1000 * (time.perf_counter() - began))

    users = [threading.Thread(target=use) for _ in range(clients)]
    began = time.perf_counter()
    for user in users:
        user.start()
    for user in users:
        user.join()
    p50, p99 = np.percentile(taken, [50, 99])
    per_s = len(taken) / (time.perf_counter() - began)
    return {"p50_ms": round(p50, 1), "p99_ms": round(p99, 1), "requests_per_s": round(per_s, 1)}


def measure_all(
    url: str, models: Sequence[str], requests: int, show: Callable[[dict[str, Any]], None]
) -> None:
    """Measure a service that has answered nothing yet, with two models; show each row of figures as it comes."""
    for name, model_id in zip(("first request", "first of a model"), models, strict=True):
        found = measure(request_of(url, model_id, 1, "npy"), 1, 1)
        show({"what": name, "trials": 1, "clients": 1, **found})
    for kind, trials in [*(("npy", trials) for trials in TRIALS), ("json", 1)]:
        send = request_of(url, models[0], trials, kind)
        measure(send, 1, 5)
        for clients in CLIENTS:
            found = measure(send, clients, requests)
            show({"what": f"warm, {kind}", "trials": trials, "clients": clients, **found})


def main() -> None:
    """Run the benchmark."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--requests", type=int, default=200, help="of each warm row")
    parser.add_argument("--units", type=int, default=100, help="of the generator")
    arguments = parser.parse_args()

    def show(row: dict[str, Any]) -> None:
        if arguments.json:
            print(json.dumps(row), flush=True)
            return
        what = f"{row['what']:>16}, {row['trials']:2} trials, {row['clients']} clients"
        print(
            f"{what}: p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms, {row['requests_per_s']}/s", flush=True
        )

    with tempfile.TemporaryDirectory(prefix="latentry-benchmark-") as folder:
        service = EmbeddedService(Path(folder) / "data", port=0, workers=1)
        try:
            service.start()
            models = trained_models(service, Path(folder), {"generator_units": arguments.units})
            measure_all(service.url, models, arguments.requests, show)
        finally:
            service.stop()


if __name__ == "__main__":
    main()
