"""Searches as workers leave them, without training: rows of models, curves, decisions, slices and events, written in bulk.

The curves look like those of real searches: they fall, with noise. Models with a low `cd_rate` leak: their validation loss
falls below what rates can explain while their SV loss rises. With `pbt`, losers copy winners at the end of each generation.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert
from sqlalchemy.orm import Session

from domain.architecture import without_architecture
from domain.job_specification import JobSpecification
from domain.states import JobState, ModelState, SliceState
from domain.strategies import PbtStrategy
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, CurvePoint, Dataset, Decision, Event, Job, Model, Slice, Worker
from worker.context.checkpoints import checkpoint_key
from worker.scheduling.strategies.samplers.random import draw

WORKER = "gpu-node-1"
_FAR = timedelta(days=3650)
"""Leases of the running slices last this long, since no worker renews them."""
_NOW = datetime.now(UTC)
_CONSTANT_LOSS, _NATS_PER_BIT = 0.683, 0.21
_SMOOTHING = 0.7
_EPOCH_SECONDS = 1.7


LEAKING = {
    "preset": "paper-2019",
    "budget": {"models": 16, "epochs": 200},
    "space": {"cd_rate": {"low": 0.0, "high": 0.6}},
    "tags": ["M1"],
}
QUICK = {"preset": "quick", "budget": {"models": 4}, "tags": ["pilot"]}
POPULATION = {
    "preset": "autolfads",
    "architecture": {"factors": 8},
    "budget": {"models": 12, "epochs": 300},
    "strategy": {"kind": "pbt", "generation_epochs": 25},
    "tags": ["M1", "figure 2"],
    "notes": "The search of the figure: population-based training on the reaches.",
}
"""Specifications without `dataset_id`."""


@dataclass(frozen=True)
class Search:
    """What is written.

    Parameters
    ----------
    dataset_id, name, specification
        Of the job; the specification is without `dataset_id`.
    state
        Of the job. A job that is `running` has models in training and a slice that a worker holds.
    epochs
        Epochs that each model has trained.
    generation
        Epochs of a generation or slice.
    days_ago
        When its last epoch ended.
    seed
        Of curves and hyperparameters.
    """

    dataset_id: str
    name: str
    specification: dict[str, Any]
    state: JobState
    epochs: int
    generation: int = 25
    days_ago: float = 0.0
    seed: int = 0

    @property
    def started(self) -> datetime:
        """When its first slice began."""
        trained = timedelta(seconds=_EPOCH_SECONDS * self.epochs)
        return _NOW - timedelta(days=self.days_ago) - trained


@dataclass
class _Population:
    """Curves [models, epochs] and decisions of a search, as they come about generation by generation."""

    hyperparameters: list[dict[str, Any]]
    smoothed: NDArray[np.float64]
    sv: NDArray[np.float64]
    validation: NDArray[np.float64]
    rates: NDArray[np.float64]
    decisions: list[dict[str, Any]]


def write_search(session: Session, search: Search) -> str:
    """Write a job with all its rows, and return its id."""
    dataset = session.get_one(Dataset, search.dataset_id)
    given = {"name": search.name, **search.specification, "dataset_id": search.dataset_id}
    specification = JobSpecification.model_validate(given).for_trials(int(0.8 * (dataset.trials or 1)))
    ended = search.started + timedelta(seconds=_EPOCH_SECONDS * search.epochs)
    job = Job(
        id=new_id("job"), tenant_id=DEFAULT_TENANT, dataset_id=search.dataset_id, name=search.name,
        state=search.state, spec=specification.model_dump(mode="json"), tags=specification.tags,
        notes=specification.notes, created_by_name="Ada", created_at=search.started - timedelta(seconds=4),
        started_at=search.started if search.epochs else None, served_at=search.started,
        ended_at=ended if search.state.is_final else None, trained_with=[{"latentry": "0.1.0", "torch": "2.13.0"}],
    )  # fmt: skip
    if search.state == JobState.FAILED:
        message = (
            "no model was trained to select from: failed: its loss was no longer finite after 3 attempts"
        )
        job.error = {"code": "no_model_to_select", "message": message}
    session.add(job)
    session.flush()
    found = _population(search, specification)
    models = [_model(search, job, found, number, dataset) for number in range(specification.budget.models)]
    session.execute(insert(Model), models)
    for rows in _curves(models, found) if search.epochs else ():
        session.execute(insert(CurvePoint), rows)
    session.execute(insert(Decision), [{"job_id": job.id, **one} for one in found.decisions])
    _add_slices(session, search, job, models)
    _add_events(session, search, job, models, found)
    return job.id


def _population(search: Search, specification: JobSpecification) -> _Population:
    """Draw hyperparameters and let losses fall; in a population, losers copy winners."""
    random = np.random.default_rng(search.seed)
    number, epochs = specification.budget.models, search.epochs
    space = specification.searched_space()
    values = [{name: draw(one, random) for name, one in space.items()} for _ in range(number)]
    found = _Population(
        values, *(np.zeros((number, epochs)) for _ in range(4)),
        [_decision(m, "begin", 0, values[m], "drawn at random") for m in range(number)],
    )  # fmt: skip
    is_population = isinstance(specification.strategy, PbtStrategy)
    best = 0.627 + random.gamma(2.0, 0.003, number)
    latest = np.full(number, 0.74)
    smoothed = latest.copy()
    for first in range(0, epochs, search.generation):
        last = min(first + search.generation, epochs)
        for epoch in range(first, last):
            leak = np.array(
                [max(0.0, 0.28 - float(one.get("cd_rate", 0.5))) for one in found.hyperparameters]
            )
            rates = np.array([float(one.get("learning_rate", 4e-3)) for one in found.hyperparameters])
            floor = best + 0.003 * np.abs(np.log(rates / 3e-3)) + leak * 0.12 * math.log1p(epoch / 60)
            latest += (floor - latest) * 0.035 * np.clip(rates / 3e-3, 0.3, 2)
            found.sv[:, epoch] = latest + random.normal(0, 0.0006, number)
            found.validation[:, epoch] = found.sv[:, epoch] - 0.004 - leak * 0.2 * math.log1p(epoch / 40)
            smoothed = _SMOOTHING * smoothed + (1 - _SMOOTHING) * found.sv[:, epoch]
            found.smoothed[:, epoch] = smoothed
            found.rates[:, epoch] = rates
        if is_population and last < epochs:
            _exploit(found, last, (best, latest, smoothed), random)
    return found


def _exploit(
    found: _Population, epoch: int, state: tuple[NDArray[np.float64], ...], random: np.random.Generator
) -> None:
    """Compare each model with another one; a loser copies the winner and perturbs its hyperparameters."""
    losses, before = state[-1].copy(), [one.copy() for one in state]
    old = [dict(one) for one in found.hyperparameters]
    number = len(losses)
    for model in range(number):
        other = int((model + random.integers(1, number)) % number) if number > 1 else model
        compared = f"its smoothed SV loss {losses[model]:.6g} against {losses[other]:.6g} of model {other}"
        if losses[other] >= losses[model]:
            decision = _decision(model, "continue", epoch, old[model], f"won: {compared}")
        else:
            changed = {
                name: value * random.uniform(0.8, 1.2) if isinstance(value, float) else value
                for name, value in old[other].items()
            }
            found.hyperparameters[model] = changed
            for now, then in zip(state, before, strict=True):
                now[model] = then[other]
            decision = _decision(model, "copy", epoch, changed, f"lost: {compared}", parent=other)
        decision |= {"lowest_sv_loss": float(losses[model]), "latest_sv_loss": float(losses[model])}
        found.decisions.append(decision)


def _decision(
    number: int, kind: str, epoch: int, values: dict[str, Any], reason: str, *, parent: int | None = None
) -> dict[str, Any]:
    return {
        "model_number": number, "kind": kind, "epoch": epoch, "lowest_sv_loss": None, "latest_sv_loss": None,
        "parent_number": parent, "hyperparameters": dict(values), "reason": reason,
    }  # fmt: skip


def _bits_per_spike(loss: float) -> float:
    return (_CONSTANT_LOSS - loss) / _NATS_PER_BIT


def _model(search: Search, job: Job, found: _Population, number: int, dataset: Dataset) -> dict[str, Any]:
    specification = JobSpecification.model_validate(job.spec)
    values = found.hyperparameters[number]
    model_id, trained = new_id("mod"), search.epochs
    state, reason = _model_state(search, number)
    scores: dict[str, Any] = {}
    if trained:
        best = int(found.smoothed[number].argmin())
        scores = {
            "best_epoch": best + 1,
            "sv_loss": float(found.sv[number, best]),
            "validation_loss": float(found.validation[number, best]),
            "smoothed_sv_loss": float(found.smoothed[number, best]),
            "last_sv_loss": float(found.sv[number, -1]),
            "last_validation_loss": float(found.validation[number, -1]),
            "sv_bits_per_spike_valid": _bits_per_spike(float(found.sv[number, best])),
        }
    return {
        "id": model_id, "tenant_id": DEFAULT_TENANT, "job_id": job.id, "number": number, "pack": number // 8,
        "state": state, "seed": number, "hyperparameters": without_architecture(values),
        "architecture": specification.architecture.of_model(values, dataset.report),
        "best_hyperparameters": without_architecture(values) if trained else None,
        "trained_by": number if trained else None, "epochs_trained": trained,
        "target_epochs": min(trained + search.generation, specification.budget.epochs),
        "smoothed_sv_loss": scores.get("smoothed_sv_loss"),
        "latest_smoothed_sv_loss": float(found.smoothed[number, -1]) if trained else None,
        "scores": scores, "end_reason": reason,
        "checkpoint_key": checkpoint_key(model_id, trained, "a") if trained else None,
        "checkpoint_bytes": 1_400_000 if trained else None, "created_at": search.started,
    }  # fmt: skip


def _model_state(search: Search, number: int) -> tuple[ModelState, str | None]:
    if search.state == JobState.FAILED:
        return ModelState.DIVERGED, "its loss was no longer finite"
    if search.state in (JobState.QUEUED, JobState.CANCELLED):
        return ModelState.QUEUED, None
    if search.state in (JobState.RUNNING, JobState.PAUSED):
        return ModelState.TRAINING, None
    if number % 9 == 8:
        return ModelState.STOPPED, "no improvement of its smoothed SV loss for 60 epochs"
    return ModelState.TRAINED, "its budget of epochs is spent"


def _curves(models: list[dict[str, Any]], found: _Population) -> Iterator[list[dict[str, Any]]]:
    for number, model in enumerate(models):
        yield [
            {
                "model_id": model["id"], "epoch": epoch + 1, "slice_id": "sli",
                "train_loss": float(sv) - 0.01, "sv_loss": float(sv), "sv_loss_train": float(sv) - 0.006,
                "sv_bits_per_spike_valid": _bits_per_spike(float(sv)), "validation_loss": float(validation),
                "smoothed_sv_loss": float(smoothed), "kl_initial_condition": 9 * (1 - math.exp(-epoch / 40)),
                "kl_inputs": 4 * (1 - math.exp(-epoch / 60)), "gradient_norm": 0.3 / math.sqrt(1 + epoch),
                "learning_rate": float(rate),
            }
            for epoch, (sv, validation, smoothed, rate) in enumerate(
                zip(found.sv[number], found.validation[number], found.smoothed[number], found.rates[number], strict=True)
            )
        ]  # fmt: skip


def _add_slices(session: Session, search: Search, job: Job, models: list[dict[str, Any]]) -> None:
    """Add the slices of each pack; of a running job, the last one is still running."""
    packs = [models[first : first + 8] for first in range(0, len(models), 8)]
    for first in range(0, search.epochs, search.generation):
        last = min(first + search.generation, search.epochs)
        began, ended = (search.started + timedelta(seconds=_EPOCH_SECONDS * epoch) for epoch in (first, last))
        session.execute(
            insert(Slice),
            [
                {
                    **_slice(job, pack, first, last), "state": SliceState.DONE, "epochs_trained": last,
                    "device_seconds": (ended - began).total_seconds(), "started_at": began, "ended_at": ended,
                }
                for pack in packs
            ],
        )  # fmt: skip
    if search.state == JobState.RUNNING:
        now = datetime.now(UTC)
        session.merge(Worker(name=WORKER, device="cuda:0", started_at=search.started, seen_at=now + _FAR))
        running = _slice(job, packs[0], search.epochs, search.epochs + search.generation)
        lease = {"lease_token": "seeded", "lease_expires_at": now + _FAR, "leased_by": WORKER}
        session.add(Slice(**running, **lease, state=SliceState.LEASED, started_at=now))


def _slice(job: Job, pack: list[dict[str, Any]], first: int, last: int) -> dict[str, Any]:
    return {
        "id": new_id("sli"), "tenant_id": DEFAULT_TENANT, "job_id": job.id, "kind": "train", "pack": pack[0]["pack"],
        "model_ids": [model["id"] for model in pack], "first_epoch": first, "last_epoch": last, "attempts": 0,
    }  # fmt: skip


def _add_events(
    session: Session, search: Search, job: Job, models: list[dict[str, Any]], found: _Population
) -> None:
    """Add the events in their order: begin, progress and copies of each generation, ends of models, and of the job."""

    def add(after: int, kind: str, /, **data: Any) -> None:
        at = search.started + timedelta(seconds=_EPOCH_SECONDS * after)
        rows.append({"job_id": job.id, "kind": kind, "data": data, "created_at": at})

    rows: list[dict[str, Any]] = []
    add(0, "job.state", state=JobState.QUEUED)
    if search.epochs:
        add(0, "job.state", state=JobState.RUNNING)
    for epoch in range(search.generation, search.epochs + 1, search.generation):
        latest = [
            {
                "model_id": model["id"], "number": number, "epoch": epoch, "trained_by": number,
                "sv_loss": float(found.sv[number, epoch - 1]),
                "sv_bits_per_spike_valid": _bits_per_spike(float(found.sv[number, epoch - 1])),
                "validation_loss": float(found.validation[number, epoch - 1]),
                "best_smoothed_sv_loss": float(found.smoothed[number, :epoch].min()),
            }
            for number, model in enumerate(models[:8])
        ]  # fmt: skip
        add(epoch, "progress", slice_id="sli", models=latest)
        for one in found.decisions:
            if one["kind"] == "copy" and one["epoch"] == epoch:
                number = one["model_number"]
                add(
                    epoch, "model.copied", model_id=models[number]["id"], number=number, epoch=epoch,
                    parent_number=one["parent_number"], reason=one["reason"], hyperparameters=one["hyperparameters"],
                )  # fmt: skip
    for number, model in enumerate(models):
        if ModelState(model["state"]).is_final:
            identity = {"model_id": model["id"], "number": number}
            add(search.epochs, "model.state", state=model["state"], **identity, reason=model["end_reason"])
    if search.state in (JobState.PAUSED, JobState.FAILED, JobState.CANCELLED):
        add(search.epochs, "job.state", state=search.state, error=job.error)
    session.execute(insert(Event), rows)
