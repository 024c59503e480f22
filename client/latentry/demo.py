"""``latentry demo``: the main job from spikes to latents, on data whose true rates are known."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from latentry.client import Client
from latentry.commands.installation import load_embedded_service
from latentry.display import follow

MODELS = 4
"""With 36 epochs each the search takes about a minute on two quiet cores; a real one has more of both."""


def run_demo(
    data_dir: Path, url: str | None, json_line: bool, workers: int | None, seed: int, epochs: int
) -> None:
    """Run the demo.

    Parameters
    ----------
    data_dir
        Folder of the service that is started, and of the picture.
    url
        A running service; one is started on a free port if this is None.
    json_line
        End with one line of JSON on standard output; everything else goes to standard error.
    workers
        Training workers of the service that is started; its default if None.
    seed
        Of the data and the search.
    epochs
        Of each model.
    """
    from latentry.picture import draw_rates

    console = Console(stderr=json_line)
    started = time.monotonic()
    with _service(data_dir, url, workers, console) as service_url, Client(service_url) as client:
        console.print(
            "Making the Lorenz set: 65 conditions × 20 trials, 50 bins of 10 ms, 29 neurons, known rates …"
        )
        dataset = client.synthesize_dataset("lorenz", seed=seed)
        report = dataset["report"]
        console.print(
            f"Data set [bold]{dataset['id']}[/bold] is ready: mean rate {_mean_rate(report):.1f} spikes/s"
        )
        for warning in report["warnings"]:
            console.print(f"  warning: {warning['message']}")
        search = {"name": "demo", "preset": "quick", "budget": {"models": MODELS, "epochs": epochs}}
        job: dict[str, Any] = client.create_job({**search, "dataset_id": dataset["id"], "seed": seed})
        console.print(
            f"Job [bold]{job['id']}[/bold]: {job['progress']['models']} models, selected by sample validation"
        )
        job = follow(client, job["id"], console)
        model = client.get_model(job["selected_model_id"])
        picture = draw_rates(client, dataset, model, data_dir / "true_and_inferred_rates.png")
        seconds = time.monotonic() - started
        _print_result(console, url, model, picture, seconds)
    if json_line:
        print(
            json.dumps(
                {
                    "job_id": job["id"],
                    "model_id": model["id"],
                    "sv_loss": model["scores"]["smoothed_sv_loss"],
                    "r2_true_rates": model["scores"]["r2_true_rates"],
                    "seconds": round(seconds, 1),
                }
            )
        )


@contextmanager
def _service(data_dir: Path, url: str | None, workers: int | None, console: Console) -> Iterator[str]:
    if url is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
        yield url
        return
    service = load_embedded_service()(data_dir, port=0, workers=workers)
    stopping = threading.Event()
    try:
        service.start()
        console.print(
            f"Latentry runs at {service.url} with {service.workers} workers (data in {service.data_dir})"
        )
        watcher = threading.Thread(target=service.watch, args=(stopping.is_set,))
        watcher.start()
        try:
            yield service.url
        finally:
            stopping.set()
            watcher.join()
    finally:
        service.stop()


def _mean_rate(report: dict[str, Any]) -> float:
    return float(report["mean_rate_hz"])


def _print_result(
    console: Console, running_url: str | None, model: dict[str, Any], picture: Path, seconds: float
) -> None:
    scores = model["scores"]
    console.rule("Selected model")
    console.print(f"{model['id']} (number {model['number']}) has the lowest smoothed SV loss of the job")
    for name, value in model["hyperparameters"].items():
        console.print(f"  {name:<28} {value:.4g}")
    console.print(
        f"SV loss                  {scores['smoothed_sv_loss']:.4f} nats per sample (held-out samples)"
    )
    console.print(
        f"bits per spike           {scores['sv_bits_per_spike_valid']:.3f} (held-out samples of validation trials)"
    )
    console.print(f"R² to the true rates     [bold]{scores['r2_true_rates']:.3f}[/bold]")
    console.print(f"Picture                  {picture}", soft_wrap=True)
    url = running_url or "http://127.0.0.1:8000"
    if running_url is None:
        console.print("To read its latents by URL, start the service on the same folder:")
        console.print(f"  {sys.argv[0]} up --data-dir {picture.parent}", soft_wrap=True)
    base = f"{url}/v1/models/{model['id']}"
    console.print("Its latents:")
    console.print(f"  {base}/arrays/rates?slice=0:5&format=json", soft_wrap=True)
    console.print(f"  {base}/arrays/factors", soft_wrap=True)
    console.print(f"  xarray.open_zarr('{base}/zarr')", soft_wrap=True)
    console.print(f"The whole main job took {seconds:.0f} s.")
