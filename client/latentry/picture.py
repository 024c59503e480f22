"""Pictures of rates, for the eye."""

from pathlib import Path
from typing import Any

import numpy as np

from latentry.client import Client


def draw_rates(client: Client, dataset: dict[str, Any], model: dict[str, Any], path: Path) -> Path:
    """Draw spikes, true rates and inferred rates of two validation trials, and one against the other over all samples.

    Parameters
    ----------
    client
        Of the service that has both.
    dataset
        With true rates.
    model
        Selected by a job on it.
    path
        Of the PNG.

    Returns
    -------
    Path
        Where the picture is.
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
