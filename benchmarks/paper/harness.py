"""What the experiments have in common: the command line, training in packs on several processes, tables and figures."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import report
from domain.smoothing import gaussian
from models import (
    Architecture,
    EpochScores,
    Hyperparameters,
    Latents,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
)

Given = TypeVar("Given")
Made = TypeVar("Made")
FIGURES = Path(__file__).parent / "figures"
# As in the service's training processes: buffers stay mapped, one thread each.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "MALLOC_TOP_PAD_": str(2**28),
}


@dataclass(frozen=True)
class Task:
    """A pack of models to train and to infer with.

    Parameters
    ----------
    sessions
        Recordings, in the order of the architecture's neurons.
    architecture, hyperparameters, options
        Of the pack.
    epochs
        Of each model.
    seeds
        One per model.
    sv_rate
        Share of samples held out.
    initial_values
        See `Population`.
    posterior_samples
        Of the latents; 0: none are inferred.
    weights
        That the latents are inferred with: "best", at the lowest smoothed SV loss, or "last".
    applied_to
        Trials of the first session's neurons whose latents are inferred, instead of those trained on.
    """

    sessions: Sequence[Session]
    architecture: Architecture
    hyperparameters: Sequence[Hyperparameters]
    options: TrainingOptions
    epochs: int
    seeds: Sequence[int]
    sv_rate: float = 0.2
    initial_values: dict[str, torch.Tensor] | None = None
    posterior_samples: int = 50
    weights: Literal["best", "last"] = "best"
    applied_to: Session | None = None


@dataclass(frozen=True)
class Trained:
    """What became of a task.

    Parameters
    ----------
    curves
        Scores of every epoch of each model.
    latents
        Of each model, of each session (or of `applied_to`): all trials, in their order.
    seconds
        Of training.
    """

    curves: list[list[EpochScores]]
    latents: list[list[Latents]]
    seconds: float

    @property
    def selected(self) -> int:
        """Index of the model with the lowest smoothed SV loss."""
        return int(np.argmin([curve[-1].best_smoothed_sv_loss for curve in self.curves]))


def train(task: Task) -> Trained:
    """Train a pack for its epochs and infer the latents of all its trials."""
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = TrainingData(
        task.sessions,
        sv_rate=task.sv_rate,
        sv_seed=0,
        observation=task.architecture.observation,
        device=device,
    )
    population = Population(
        task.architecture,
        task.hyperparameters,
        task.seeds,
        data,
        task.options,
        order_seed=0,
        initial_values=task.initial_values,
    )
    curves: list[list[EpochScores]] = [[] for _ in task.hyperparameters]
    started = time.monotonic()
    while population.epoch < task.epochs and any(population.alive):
        for curve, scores in zip(curves, population.train_epoch(), strict=True):
            curve.append(scores)
    seconds = time.monotonic() - started
    latents: list[list[Latents]] = []
    for model in range(len(curves) if task.posterior_samples else 0):
        state = population.state(model)
        latents.append(
            [
                infer_latents(
                    task.architecture,
                    state,
                    session.spikes,
                    session.trial_length_bins,
                    missing=session.missing,
                    external_inputs=session.external_inputs,
                    session=number,
                    posterior_samples=task.posterior_samples,
                    weights=task.weights,
                    device=device,
                )
                for number, session in enumerate([task.applied_to] if task.applied_to else task.sessions)
            ]
        )
    return Trained(curves, latents, seconds)


def train_all(tasks: Sequence[Task], processes: int) -> list[Trained]:
    """Train packs in so many processes."""
    return map_processes(train, tasks, processes)


def map_processes(function: Callable[[Given], Made], tasks: Sequence[Given], processes: int) -> list[Made]:
    """Call a function on every task, in so many processes of one thread each."""
    return list(iterate_processes(function, tasks, processes))


def iterate_processes(
    function: Callable[[Given], Made], tasks: Sequence[Given], processes: int
) -> Iterator[Made]:
    """Do the same, and yield each result, in the order of the tasks, once it is there."""
    os.environ |= ENVIRONMENT  # read by the children when they start
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(function, tasks)


def data_folder() -> Path:
    """Where the recordings are, if they are: `LATENTRY_DATA`, or `shared/data` beside the repository."""
    beside = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("LATENTRY_DATA", beside))


def full_session(
    spikes: NDArray[Any], is_validation: NDArray[np.bool_], external_inputs: NDArray[Any] | None = None
) -> Session:
    """Return a session whose trials all have the same length."""
    lengths = np.full(len(spikes), spikes.shape[1])
    return Session(spikes, lengths, is_validation, external_inputs=external_inputs)


@dataclass(frozen=True)
class Result:
    """What an experiment found.

    Parameters
    ----------
    summary
        The figures that decide, as one line of JSON.
    table
        Header and rows.
    figure
        The picture.
    """

    summary: dict[str, Any]
    table: Sequence[Sequence[Any]]
    figure: Figure


def main(
    name: str, description: str, experiment: Callable[..., Result], flags: dict[str, str] | None = None
) -> None:
    """Run an experiment from the command line: table, figure in `benchmarks/paper/figures`, closing line of JSON.

    Parameters
    ----------
    name
        Of the figure.
    description
        For ``--help``.
    experiment
        Called with `quick`, `processes`, `seed` and its own flags; returns what it found.
    flags
        Name and help of the experiment's own flags.
    """
    parser = report.parser(description, quick="a run of minutes: smaller, so less certain")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="of one thread each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--figure", type=Path, help="where the picture goes (PNG)")
    for flag, text in (flags or {}).items():
        parser.add_argument("--" + flag.replace("_", "-"), action="store_true", help=text)
    arguments = parser.parse_args()
    own = {flag: getattr(arguments, flag) for flag in flags or {}}
    started = time.monotonic()
    result = experiment(quick=arguments.quick, processes=arguments.processes, seed=arguments.seed, **own)
    summary = result.summary | {
        "quick": arguments.quick,
        "seed": arguments.seed,
        "seconds": round(time.monotonic() - started, 1),
    }
    path = arguments.figure or FIGURES / f"{name}{'_quick' if arguments.quick else ''}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    result.figure.savefig(path, dpi=110, bbox_inches="tight")
    if not arguments.json:
        print(report.markdown_table(result.table))
        print(f"\n{report.machine()}. Figure: {path}")
    print(json.dumps(summary))


LAGS_S = (0.0, 0.04, 0.08, 0.12, 0.16)
"""By which behaviour follows the spikes."""


def smooth(spikes: NDArray[Any], recorded: NDArray[np.bool_], sd_bins: float) -> NDArray[np.float64]:
    """Gaussian smoothing along bins, [trials, T, N]; bins past a trial's end weigh nothing."""
    reach = np.arange(spikes.shape[1])
    kernel = gaussian(reach[:, None] - reach, sd_bins)
    weight = recorded.astype(float) @ kernel
    smoothed: NDArray[np.float64] = np.einsum("st,bsn->btn", kernel, spikes * recorded[:, :, None])
    smoothed /= np.maximum(weight, 1e-9)[:, :, None]
    return smoothed


def lags_in_bins(bin_width_s: float) -> list[int]:
    """Return the lags as whole bins, each once."""
    return sorted({round(lag / bin_width_s) for lag in LAGS_S})


def loguniform(random: np.random.Generator, low: float, high: float) -> float:
    """Draw a value, uniform in the logarithm."""
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


Draw = Callable[[np.random.Generator], Hyperparameters]


def draw_models(number: int, draw: Draw, seed: int) -> list[Hyperparameters]:
    """Independent draws; model k depends on seed and k alone."""
    return [draw(np.random.default_rng([seed, k])) for k in range(number)]


def packs(count: int, size: int) -> list[slice]:
    """Cut so many models into packs."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
