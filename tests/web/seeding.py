"""Services with data in them, made without training, for tests, screenshots and measurements of the page.

| state | contains |
|---|---|
| `empty` | nothing |
| `lab` | a reaching data set, one that was rejected and one that waits; jobs that are done, running, paused, failed and queued |
| `large` | 500 jobs, a job with 300 models, a data set and a model of 2000 trials × 500 bins × 200 neurons |

Data sets are ingested by the service's own code. The latents of the job that is done are those of a real inference whose network
is replaced by smoothing, so all scores, baselines and diagnostics are the service's own.
"""

import dataclasses
import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from latentry.sample import write_sample
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

import worker.inference.held_out_scores
import worker.inference.latents
from domain.states import DatasetState, InferenceState, JobState
from models import Architecture, Hyperparameters, Latents
from models.evaluation import MaskedPrediction, predict_held_out
from store.arrays import open_array
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, Dataset, Inference, Job, Model, OutboxMessage, Slice
from tests.simulation.fake_training import Pace, SleepingPopulation
from tests.web.seeded_access import add_access
from tests.web.seeded_large import fill_large
from tests.web.seeded_searches import LEAKING, POPULATION, QUICK, WORKER, Search, write_search
from tests.web.seeded_storage import Seeded
from tests.worker.real_training import ingest
from worker.context.checkpoints import save_checkpoint
from worker.context.process import TrainingProcess
from worker.process.run_next import run_next
from worker.scheduling.scheduler import advance


def seeded(folder: Path, state: str) -> Path:
    """Return the folder of a state below a folder, and fill it if no other process has done so before."""
    target = folder / state
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{state}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "ids.json").exists():
            made = Seeded.open(target)
            STATES[state](made)
            made.close()
    return target


def _fill_nothing(_made: Seeded) -> None:
    """Leave the service empty."""


def fill_lab(made: Seeded) -> None:
    """Fill a service with one of everything that a lab has after some days."""
    path = made.settings.data_dir / "Chewie_reaches_M1.npz"
    write_sample(path)
    dataset_id = ingest(made.database, made.arrays, made.settings, path)
    made.ids["dataset"] = dataset_id
    with made.database.write() as session:
        row = session.get_one(Dataset, dataset_id)
        row.name, row.tags, row.created_by_name = "Chewie, centre-out reaches, M1", ["M1", "reaching"], "Ada"
        row.created_at -= timedelta(days=6)
        row.notes = "Eight targets, aligned to the begin of the trial. Sorted by hand."
        options = row.source["options"]
        row.source = {
            "kind": "upload",
            "filename": path.name,
            "bytes": path.stat().st_size,
            "options": options,
        }
        _add_other_datasets(session, made)
        for name, search in _finished(dataset_id).items():
            made.ids[name] = write_search(session, search)
    for job, model in (("job_leaking", "model_leaking"), ("job_done", "model")):
        finish(made, made.ids[job])
        made.ids[model] = selected(made, made.ids[job])
    with made.database.write() as session:
        for number, (state, epochs) in enumerate(
            (("failed", 10), ("paused", 35), ("running", 60), ("queued", 0))
        ):
            search = Search(
                dataset_id, f"quick look {number + 1}", QUICK, JobState(state), epochs, 5, seed=number
            )
            days_ago = 0 if state == JobState.RUNNING else 3 - number
            made.ids[f"job_{state}"] = write_search(session, dataclasses.replace(search, days_ago=days_ago))
        of_running = select(Model.id).where(Model.job_id == made.ids["job_running"]).order_by(Model.number)
        made.ids["model_training"] = session.execute(of_running.limit(1)).scalar_one()
        add_access(session, made)
    _infer_again(made)
    with made.database.write() as session:
        session.execute(delete(OutboxMessage))  # as if it had been sent to the workers


def _finished(dataset_id: str) -> dict[str, Search]:
    done = Search(dataset_id, "AutoLFADS on reaches", POPULATION, JobState.DONE, 300, days_ago=4)
    leaking = Search(dataset_id, "random, little dropout", LEAKING, JobState.DONE, 200, days_ago=5.2, seed=1)
    return {"job_leaking": leaking, "job_done": done}


def _add_other_datasets(session: Session, made: Seeded) -> None:
    problem = {
        "code": "bin_width_missing",
        "message": "The file says nothing about the width of its bins.",
        "hint": "Give bin_width_s, the width of one bin in seconds, such as 0.02.",
        "pointer": "/bin_width_s",
    }
    for state, name in (
        (DatasetState.REJECTED, "session 14, no bin width"),
        (DatasetState.INGESTING, "session 15"),
    ):
        made.ids[f"dataset_{state}"] = new_id("dat")
        source = {
            "kind": "upload",
            "filename": f"{name.replace(' ', '_')}.mat",
            "bytes": 48_120_331,
            "options": {},
        }
        session.add(
            Dataset(
                id=made.ids[f"dataset_{state}"], tenant_id=DEFAULT_TENANT, name=name, state=state, source=source,
                problems=[problem] if state == DatasetState.REJECTED else None, created_by_name="Noor",
            )
        )  # fmt: skip


def selected(made: Seeded, job_id: str) -> str:
    """Return the id of the model that a job selected."""
    with made.database.read() as session:
        return str(session.get_one(Job, job_id).selected_model_id)


def finish(made: Seeded, job_id: str) -> None:
    """Let the service select a model of a trained job, and infer and score its latents; smoothing replaces the network."""
    process = TrainingProcess(made.database, made.arrays, made.settings, WORKER, device="cpu")
    with made.database.write() as session:
        job = session.get_one(Job, job_id)
        job.state, ended, job.ended_at = JobState.RUNNING, job.ended_at, None
        path = session.get_one(Dataset, job.dataset_id).array_path or ""
        advance(session, job_id, made.settings)
        best = session.get_one(Model, job.selected_model_id)
    spikes = np.asarray(open_array(made.arrays, path, "spikes")[...])  # type: ignore[index]  # it exists
    _save_checkpoint(made, best, spikes.shape[-1])
    with smoothing_instead_of_the_network(spikes):
        assert run_next(process)
    with made.database.write() as session:
        job = session.get_one(Job, job_id)
        assert job.state == JobState.DONE, job.error
        job.ended_at = ended
        session.execute(update(Slice).where(Slice.job_id == job_id).values(ended_at=ended))


def _infer_again(made: Seeded) -> None:
    """Add an inference of the selected model that is done, and one that waits for a worker."""
    with made.database.write() as session:
        model = session.get_one(Model, made.ids["model"])
        dataset = session.get_one(Dataset, made.ids["dataset"])
        path = dataset.array_path or ""
        for state in ("done", "queued"):
            row = Inference(
                id=new_id("inf"), tenant_id=DEFAULT_TENANT, model_id=model.id, dataset_id=dataset.id, state=InferenceState.QUEUED,
                options={"arrays": ["rates", "factors"], "posterior_samples": 4, "sessions": [0]},
                checkpoint_key=str(model.checkpoint_key),
            )  # fmt: skip
            made.ids[f"inference_{state}"] = row.id
            session.add(row)
            session.flush()
            if state == "done":
                row.created_at -= timedelta(days=1)  # workers begin with the oldest
    spikes = np.asarray(open_array(made.arrays, path, "spikes")[...])  # type: ignore[index]  # it exists
    process = TrainingProcess(made.database, made.arrays, made.settings, WORKER, device="cpu")
    with smoothing_instead_of_the_network(spikes):
        assert run_next(process)
    with made.database.read() as session:
        done = session.get_one(Inference, made.ids["inference_done"])
        assert done.state == InferenceState.DONE, done.error


def _save_checkpoint(made: Seeded, model: Model, neurons: int) -> None:
    architecture = Architecture.of_model(model.architecture, [neurons])
    population = SleepingPopulation(
        Pace(0), architecture, [Hyperparameters(**model.hyperparameters)], [model.seed]
    )
    save_checkpoint(made.arrays, str(model.checkpoint_key), population.state(0))


class _LowRank:
    """Rates and factors of spikes by smoothing over 60 ms and the first principal components."""

    def __init__(self, spikes: NDArray[Any], components: int = 5) -> None:
        smoothed = self._smoothed(spikes)
        self._mean = smoothed.mean((0, 1))
        centred = (smoothed - self._mean).reshape(-1, spikes.shape[-1])
        self._axes = np.linalg.svd(centred[::5], full_matrices=False)[2][:components]
        self._scale = (centred @ self._axes.T).std()

    @staticmethod
    def _smoothed(spikes: NDArray[Any]) -> NDArray[np.float32]:
        smoothed: NDArray[np.float32] = gaussian_filter1d(spikes.astype(np.float32), 3, axis=1)
        return smoothed

    def factors(self, spikes: NDArray[Any]) -> NDArray[np.float32]:
        """Return [trials, bins, components], of about unit variance."""
        found: NDArray[np.float32] = (self._smoothed(spikes) - self._mean) @ self._axes.T / self._scale
        return found

    def rates(self, spikes: NDArray[Any]) -> NDArray[np.float32]:
        """Return expected counts per bin."""
        found = self._mean + 0.8 * self.factors(spikes) @ self._axes * self._scale
        return np.maximum(found, 0.02 * self._mean + 1e-4).astype(np.float32)


@contextmanager
def smoothing_instead_of_the_network(spikes: NDArray[Any]) -> Iterator[None]:
    """Infer in this process without a network: rates and factors are smoothed spikes of low rank."""
    low_rank = _LowRank(spikes)

    def latents(
        architecture: Architecture, _state: Any, spikes: NDArray[Any], *_lengths: Any, **_more: Any
    ) -> Iterator[tuple[slice, Latents]]:
        random = np.random.default_rng(0)
        components = low_rank.factors(spikes)
        mixed = random.normal(
            size=(components.shape[-1], architecture.factors + architecture.generator_units)
        )
        states = components @ mixed.astype(np.float32) / 2
        start = random.normal(size=(components.shape[-1], architecture.initial_condition_dim))
        inputs = np.gradient(components, axis=1)[..., : architecture.inferred_inputs]
        yield (
            slice(0, len(spikes)),
            Latents(
                rates=low_rank.rates(spikes),
                factors=states[..., : architecture.factors],
                initial_conditions=(components[:, 0] @ start).astype(np.float32),
                generator_states=np.tanh(states[..., architecture.factors :]),
                inputs=inputs if architecture.has_controller else None,
            ),
        )

    def held_out(*given: Any, **named: Any) -> Iterator[MaskedPrediction]:
        for one in predict_held_out(*given, **named):
            seen = one.values * one.visible * (one.values.size / max(1, one.visible.sum()))
            yield dataclasses.replace(one, rates=low_rank.rates(seen))

    with (
        patch.object(worker.inference.latents, "iterate_latents", latents),
        patch.object(worker.inference.held_out_scores, "predict_held_out", held_out),
    ):
        yield


STATES: dict[str, Callable[[Seeded], None]] = {"empty": _fill_nothing, "lab": fill_lab, "large": fill_large}
"""What fills each state."""
