"""``latentry demo``: the whole way from spikes to latents, on data whose true rates are known."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from latentry import Client
from latentry.commands.jobs import follow
from latentry.installation import load_embedded_service

MODELS = 4
"""With 36 epochs each, the search takes about a minute on two idle cores; a real search has more models and epochs."""


def run_demo(
    data_dir: Path, url: str | None, *, json_line: bool, workers: int | None, seed: int, epochs: int
) -> None:
    """Run the demo.

    Parameters
    ----------
    data_dir
        Folder of the service that the demo starts, and of the picture.
    url
        Address of a running service; None: the demo starts a service on a free port.
    json_line
        Whether to end with one line of JSON on standard output; everything else is then printed on standard error.
    workers
        Training workers of the service that the demo starts; None: the default.
    seed
        Seed of the data and of the search.
    epochs
        Number of epochs of each model.
    """
    console = Console(stderr=json_line)
    started = time.monotonic()
    with _service(data_dir, url, workers, console) as service_url, Client(service_url) as client:
        console.print(
            "Creating the Lorenz data set: 65 conditions × 20 trials, 50 bins of 10 ms, 29 neurons, known rates …"
        )
        dataset = client.synthesize_dataset("lorenz", seed=seed)
        report = dataset["report"]
        console.print(
            f"Data set [bold]{dataset['id']}[/bold] is ready: mean rate {report['mean_rate_hz']:.1f} spikes/s"
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
    console.print(f"The whole demo took {seconds:.0f} s.")


def draw_rates(client: Client, dataset: dict[str, Any], model: dict[str, Any], path: Path) -> Path:
    """Draw spikes, true rates and inferred rates of two validation trials, and inferred against true rates of all of them.

    Parameters
    ----------
    client
        Client of the service.
    dataset, model
        A data set with true rates, and the model that a job on it selected.
    path
        The PNG file to write.

    Returns
    -------
    Path
        Absolute path of the file.
    """
    from matplotlib.figure import Figure

    split = client.read_model_array(model["id"], "split")
    trials = np.flatnonzero(split == 1)[[0, len(np.flatnonzero(split == 1)) // 2]]
    inferred = client.read_model_array(model["id"], "rates")
    true = client.read_dataset_array(dataset["id"], "true_rates_hz")
    spikes = client.read_dataset_array(dataset["id"], "spikes")
    order = np.argsort(true[trials[0]].argmax(axis=0))  # neurons by the time of their peak
    extent = (0.0, dataset["bins"] * dataset["bin_width_s"], dataset["neurons"] - 0.5, -0.5)
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    axes = figure.subplots(2, 4, width_ratios=[1, 1, 1, 1.1])
    brightest = float(np.percentile(true[trials], 99))
    for row, trial in enumerate(trials):
        shown = {"spikes": spikes[trial], "true rates": true[trial], "inferred rates": inferred[trial]}
        for axis, (title, values) in zip(axes[row], shown.items(), strict=False):
            limit = None if title == "spikes" else brightest
            image = axis.imshow(
                values[:, order].T,
                aspect="auto",
                extent=extent,
                cmap="Greys" if title == "spikes" else "viridis",
                vmin=0,
                vmax=limit,
                interpolation="nearest",
            )
            axis.set_title(f"{title}, trial {trial} (validation)", fontsize=9)
            axis.set_xlabel("time (s)")
            axis.set_ylabel("neuron, by time of peak" if title == "spikes" else "")
        figure.colorbar(image, ax=axes[row][2], label="spikes/s")
    time_s = (np.arange(dataset["bins"]) + 0.5) * dataset["bin_width_s"]
    neuron = int(true[trials[0]].std(axis=0).argmax())
    axes[0][3].plot(time_s, true[trials[0]][:, neuron], color="black", label="true")
    axes[0][3].plot(time_s, inferred[trials[0]][:, neuron], color="tab:orange", label="inferred")
    axes[0][3].set(title=f"neuron {neuron}, trial {trials[0]}", xlabel="time (s)", ylabel="spikes/s")
    axes[0][3].legend(frameon=False)
    axes[1][3].hexbin(
        true[split == 1].ravel(), inferred[split == 1].ravel(), gridsize=50, bins="log", cmap="Blues"
    )
    highest = float(true.max())
    axes[1][3].plot([0, highest], [0, highest], color="black", linewidth=0.8)
    r2 = model["scores"]["r2_true_rates"]
    axes[1][3].set(title=f"R² = {r2:.3f} (all trials)", xlabel="true rate (spikes/s)", ylabel="inferred rate")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path.absolute()
