"""Search strategies at equal time of devices, through the whole service, on spikes whose rates are known.

``python -m benchmarks.strategies [FILE.h5] [--seconds 1500] [--strategies random pbt] [--seed 0] [--json] [--quick]``

For each strategy a service of its own with one worker, and a search with the published ranges over networks of one size,
without controller, that ends when `--seconds` of its device are spent. Two services run side by side, so that whatever else the
machine does meets both. `random` draws the learning rate from 1e-3 on and lets it decay where it stalls, as is best for it;
`pbt` begins at 4e-3 and lets the population change it. Without a file, the standard Lorenz set of the service is used.

What is compared is the lowest smoothed SV loss, in nats per sample; the R² to the true rates of the selected model, which no
search sees, says whether it means anything. Quick: 40 s each.
"""

import json
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from latentry import Client

from benchmarks import report
from worker.embedded import EmbeddedService

GENERATION_EPOCHS, RAMP_EPOCHS = 15, 30
_SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-3, "high": 5e-3, "scale": "log"},
    "dropout": {"low": 0.0, "high": 0.6},
    "cd_rate": {"low": 0.01, "high": 0.7},
    "kl_weight_initial_condition": {"low": 1e-6, "high": 1e-3, "scale": "log"},
    "l2_weight_generator": {"low": 1e-4, "high": 1.0, "scale": "log"},
}
_COMMON: dict[str, Any] = {
    "architecture": {"encoder_units": 64, "initial_condition_dim": 64, "generator_units": 64, "factors": 8},
    "space": _SPACE,
    "training": {"batch_size": 64, "ramp_epochs": RAMP_EPOCHS},
    "budget": {"models": 20, "epochs": 2000},
}
_LEARNING: dict[str, Any] = {"models_at_once": 10, "startup_models": 10}
SPECIFICATIONS: dict[str, dict[str, Any]] = {
    "random": {"strategy": {"kind": "random"}},
    "pbt": {
        "preset": "autolfads",
        "strategy": {"generation_epochs": GENERATION_EPOCHS, "patience_generations": 1000},
        "training": _COMMON["training"] | {"decay_factor": 1.0},
        "space": _SPACE | {"learning_rate": {"low": 1e-5, "high": 5e-3, "scale": "log"}},
        "architecture": _COMMON["architecture"] | {"controller_units": 0, "inferred_inputs": 0},
    },
    "asha": {"strategy": {"kind": "asha"}, "budget": {"models": 60, "epochs": 400}},
    "hyperband": {"strategy": {"kind": "hyperband"}, "budget": {"models": 48, "epochs": 400}},
    "tpe": {"strategy": {"kind": "tpe", **_LEARNING}, "budget": {"models": 40, "epochs": 120}},
}


def run(name: str, path: Path | None, seconds: float, seed: int) -> dict[str, Any]:
    """Run a strategy on a service of its own and say what it came to."""
    with tempfile.TemporaryDirectory(prefix="latentry-strategies-") as folder:
        service = EmbeddedService(Path(folder), port=0, workers=1)
        service.start()
        try:
            with Client(service.url) as client:
                dataset = (
                    client.upload_dataset(path) if path else client.synthesize_dataset("lorenz", seed=seed)
                )
                wanted = _COMMON | SPECIFICATIONS[name]
                wanted |= {"budget": wanted["budget"] | {"device_seconds": seconds}}
                job = client.create_job({**wanted, "dataset_id": dataset["id"], "seed": seed})
                job = client.wait_for_job(job["id"])
                return {"strategy": name, "seed": seed} | _described(client, job)
        finally:
            service.stop()


def _described(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    model, progress = client.get_model(job["selected_model_id"]), job["progress"]
    losses = _lowest_by_time(client, job)
    spent = progress["device_seconds"]
    return {
        "sv_loss": model["scores"]["smoothed_sv_loss"],
        **{f"sv_loss_at_{part}": _at(losses, spent * part / 100) for part in (25, 50, 75)},
        "r2_true_rates": model["scores"].get("r2_true_rates"),
        "sv_bits_per_spike_valid": model["scores"]["sv_bits_per_spike_valid"],
        "device_seconds": round(spent),
        "epochs": progress["epochs_trained"],
        "models": len(client.list_models(job["id"])),
    }


def _lowest_by_time(client: Client, job: dict[str, Any]) -> list[tuple[float, float]]:
    """Lowest smoothed SV loss so far, by seconds since the job began."""
    began = datetime.fromisoformat(job["started_at"])
    found: list[tuple[float, float]] = []
    for event in client.events(job["id"]):
        if event["kind"] == "progress":
            known = [one["best_smoothed_sv_loss"] for one in event["data"]["models"]]
            known += [loss for _, loss in found[-1:]]
            at = (datetime.fromisoformat(event["created_at"]) - began).total_seconds()
            found.append((at, min(loss for loss in known if loss is not None)))
    return found


def _at(losses: list[tuple[float, float]], seconds: float) -> float | None:
    return next((loss for at, loss in reversed(losses) if at <= seconds), None)


def main() -> None:
    """Run the strategies, two at a time, and print a line of JSON for each, and a table."""
    parser = report.parser(__doc__ or "", quick="40 s each: shows that it runs, and nothing else")
    parser.add_argument(
        "file", nargs="?", type=Path, help="spikes with true rates, e.g. HDF5 in the LFADS layout"
    )
    parser.add_argument("--seconds", type=float, default=1500.0, help="of one device, for each strategy")
    parser.add_argument("--strategies", nargs="+", choices=SPECIFICATIONS, default=["random", "pbt"])
    parser.add_argument("--seed", type=int, default=0, help="of the searches")
    arguments = parser.parse_args()
    seconds = 40.0 if arguments.quick else arguments.seconds
    lines = []
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        begun = [
            pool.submit(run, name, arguments.file, seconds, arguments.seed) for name in arguments.strategies
        ]
        for one in begun:
            lines.append(one.result())
            print(json.dumps(lines[-1]), flush=True)
    if not arguments.json:
        rows = [[_shown(value) for value in line.values()] for line in lines]
        print(report.markdown_table([list(lines[0]), *rows]))
        print(f"\n{report.machine()}.")


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
