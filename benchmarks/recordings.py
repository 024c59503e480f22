"""Decoding of hand velocity from a job's latents, through the whole service, on real recordings.

``python -m benchmarks.recordings FILE.npz [FILE.npz …] [--json]``: for each file a search with the settings below, then
ridge regression (5 folds by trial, penalty and lag chosen within the training folds) from the selected model's rates, and
from smoothed spikes with the same procedure and the best of several widths. The file's behaviour array is named by
``--behaviour``; otherwise the first one whose name has "velocity".
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from latentry import Client
from numpy.typing import NDArray

from models.metrics import ridge_decode_r2
from worker.embedded import EmbeddedService

SPECIFICATION: dict[str, Any] = {
    "architecture": {"encoder_units": 64, "initial_condition_dim": 32, "generator_units": 100, "factors": 20},
    "space": {
        "learning_rate": {"low": 2e-3, "high": 1e-2, "scale": "log"},
        "dropout": {"low": 0.0, "high": 0.4},
        "cd_rate": {"low": 0.1, "high": 0.6},
        "kl_weight_initial_condition": {"low": 1e-6, "high": 1e-4, "scale": "log"},
        "l2_weight_generator": {"low": 1e-4, "high": 1e-1, "scale": "log"},
    },
    "training": {"batch_size": 32, "ramp_epochs": 40},
    "budget": {"models": 8, "epochs": 150},
}
SMOOTHING_SD_S = (0.02, 0.03, 0.05, 0.07, 0.1)
LAGS_S = (0.0, 0.04, 0.08, 0.12, 0.16)


def smooth(spikes: NDArray[Any], recorded: NDArray[np.bool_], sd_bins: float) -> NDArray[np.float64]:
    """Gaussian smoothing along bins, [trials, T, N]; bins past a trial's end weigh nothing."""
    reach = np.arange(spikes.shape[1])
    kernel = np.exp(-0.5 * ((reach[:, None] - reach[None]) / sd_bins) ** 2)
    weight = recorded.astype(float) @ kernel
    smoothed: NDArray[np.float64] = np.einsum("st,bsn->btn", kernel, spikes * recorded[:, :, None])
    smoothed /= np.maximum(weight, 1e-9)[:, :, None]
    return smoothed


def lags_in_bins(bin_width_s: float) -> list[int]:
    """Return the lags as whole bins, each once."""
    return sorted({round(lag / bin_width_s) for lag in LAGS_S})


def run_file(client: Client, path: Path, behaviour_name: str | None, seed: int) -> dict[str, Any]:
    """Run a job on one file and decode."""
    started = time.monotonic()
    dataset = client.upload_dataset(path)
    names = list(dataset["report"]["behaviour"])
    name = behaviour_name or next(one for one in names if "velocity" in one)
    job = client.wait_for_job(
        client.create_job({**SPECIFICATION, "dataset_id": dataset["id"], "seed": seed})["id"]
    )
    seconds = time.monotonic() - started
    model = client.get_model(job["selected_model_id"])
    lags = lags_in_bins(dataset["bin_width_s"])
    lengths = client.read_dataset_array(dataset["id"], "trial_length_bins")
    recorded = np.arange(dataset["bins"])[None] < lengths[:, None]
    behaviour = client.read_dataset_array(dataset["id"], name)
    spikes = client.read_dataset_array(dataset["id"], "spikes").astype(float)

    def decode(features: NDArray[Any]) -> float:
        return ridge_decode_r2(features, behaviour, recorded, lag_bins=lags, folds=5)

    smoothed = {sd: decode(smooth(spikes, recorded, sd / dataset["bin_width_s"])) for sd in SMOOTHING_SD_S}
    best_sd = max(smoothed, key=lambda sd: smoothed[sd])
    return {
        "file": path.name,
        "behaviour": name,
        "trials": dataset["trials"],
        "bins": dataset["bins"],
        "neurons": dataset["neurons"],
        "r2_smoothed_spikes": round(smoothed[best_sd], 4),
        "smoothing_sd_s": best_sd,
        "r2_rates": round(decode(client.read_model_array(model["id"], "rates")), 4),
        "r2_factors": round(decode(client.read_model_array(model["id"], "factors")), 4),
        "bits_per_spike_valid": round(model["scores"]["bits_per_spike_valid"], 4),
        "sv_loss": round(model["scores"]["smoothed_sv_loss"], 5),
        "seconds": round(seconds, 1),
        "hyperparameters": model["hyperparameters"],
    }


def main() -> None:
    """Run the files that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--behaviour")
    parser.add_argument("--url", help="a running service; one is started if this is not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one line of JSON for each file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latentry-recordings-") as folder:
        service = None if arguments.url else EmbeddedService(Path(folder), port=0)
        try:
            if service:
                service.start()
            with Client(arguments.url or (service.url if service else "")) as client:
                for path in arguments.files:
                    result = run_file(client, path, arguments.behaviour, arguments.seed)
                    if arguments.json:
                        print(json.dumps(result), flush=True)
                    else:
                        print(
                            f"{result['file']}: {result['behaviour']} R² {result['r2_rates']:.3f} from rates, "
                            f"{result['r2_factors']:.3f} from factors, {result['r2_smoothed_spikes']:.3f} from smoothed "
                            f"spikes (sd {1000 * result['smoothing_sd_s']:.0f} ms); {result['seconds']:.0f} s",
                            flush=True,
                        )
        finally:
            if service:
                service.stop()


if __name__ == "__main__":
    main()
