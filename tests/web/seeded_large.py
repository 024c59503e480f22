"""The large state: many jobs, a search of many models, and a model with latents of 2000 trials × 500 bins × 200 neurons."""

import dataclasses
import json
from types import SimpleNamespace
from typing import cast

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import insert, select

from domain.latents import LATENTS
from domain.sessions import sessions_of
from domain.states import DatasetState, JobState
from store.array_store import objects_size, write_object
from store.arrays import ArrayGroupWriter, RowWriter
from store.identifiers import new_id
from store.tables import DEFAULT_TENANT, Dataset, Job, Model, Trial
from tests.web.seeded_searches import POPULATION, QUICK, Search, write_search
from tests.web.seeded_storage import Seeded
from worker.inference.latents import LatentsRequest, coordinates
from worker.ingest.dataset_arrays import write_dataset
from worker.ingest.quality_control.checks import examine
from worker.ingest.quality_control.preview import make_preview
from worker.ingest.recording import Recording, Understood
from worker.ingest.service import trial_rows

TRIALS, BINS, NEURONS, FACTORS, CONDITIONS = 2000, 500, 200, 16, 16
JOBS, MODELS, EPOCHS = 500, 300, 400
BIN_WIDTH_S = 0.005
_GAINS = 4
"""Trials of a condition differ by one of so many gains: that compresses well, so the arrays are written quickly."""


def fill_large(made: Seeded) -> None:
    """Fill a service with all that makes a page slow."""
    dataset_id = made.ids["dataset"] = _add_dataset(made)
    many = {**POPULATION, "budget": {"models": MODELS, "epochs": EPOCHS}}
    with made.database.write() as session:
        for number in range(JOBS - 2):
            state = (JobState.DONE, JobState.DONE, JobState.FAILED, JobState.CANCELLED)[number % 4]
            epochs = 0 if state == JobState.CANCELLED else 20
            small = Search(
                dataset_id, f"sweep {number:03}", QUICK, state, epochs, 10, days_ago=600 - number, seed=number
            )
            write_search(session, small)
        search = Search(dataset_id, "AutoLFADS, 300 models", many, JobState.DONE, EPOCHS, days_ago=1)
        made.ids["job_done"] = write_search(session, search)
        again = dataclasses.replace(
            search, name="AutoLFADS, again", state=JobState.RUNNING, epochs=150, days_ago=0
        )
        made.ids["job_running"] = write_search(session, again)
    made.ids["model"] = _add_latents(made, dataset_id, made.ids["job_done"])


def _conditions() -> NDArray[np.int64]:
    """Return the condition of each trial, in blocks."""
    return np.random.default_rng(0).integers(CONDITIONS, size=TRIALS)


def _factors() -> NDArray[np.float32]:
    """Return smooth factors of each condition and gain, [conditions, gains, bins, factors]."""
    random = np.random.default_rng(1)
    time = np.linspace(0, 2 * np.pi, BINS)[None, None, :, None]
    angle = (2 * np.pi * np.arange(CONDITIONS) / CONDITIONS)[:, None, None, None]
    gain = np.linspace(0.85, 1.15, _GAINS)[None, :, None, None]
    speed, phase = random.uniform(0.3, 1.5, FACTORS), random.uniform(0, 2 * np.pi, FACTORS)
    found = gain * np.sin(speed * time + phase + angle) * np.exp(-(((time - np.pi) / 2.2) ** 2))
    return np.round(found, 2).astype(np.float32)


def _patterns() -> NDArray[np.float32]:
    """Return rates of each condition and gain in spikes/s, [conditions, gains, bins, neurons], constant over 25 ms."""
    random = np.random.default_rng(2)
    drive = _factors()[:, :, ::5] @ random.normal(0, 0.35, (FACTORS, NEURONS))
    rates = np.round(random.uniform(2, 12, NEURONS) * np.exp(np.clip(drive, -2, 2)))
    return np.repeat(rates, 5, axis=2).astype(np.float32)


def _recording() -> Recording:
    random, condition = np.random.default_rng(3), _conditions()
    rates = _patterns()
    spikes = np.empty((TRIALS, BINS, NEURONS), np.uint8)
    for first in range(0, TRIALS, 50):
        here = slice(first, first + 50)
        of_trials = rates[condition[here], np.arange(TRIALS)[here] % _GAINS] * np.float32(BIN_WIDTH_S)
        spikes[here] = random.random(of_trials.shape, np.float32) < of_trials
    angle = 2 * np.pi * condition / CONDITIONS
    speed = np.exp(-0.5 * ((np.arange(BINS) * BIN_WIDTH_S - 1.4) / 0.15) ** 2) * 26
    velocity = np.stack([np.cos(angle), np.sin(angle)], -1)[:, None, :] * speed[None, :, None]
    go_cue = np.round(random.uniform(0.7, 0.9, TRIALS), 3)
    return Recording(
        spikes=spikes,
        bin_width_s=BIN_WIDTH_S,
        trial_length_bins=np.full(TRIALS, BINS),
        split=np.full(TRIALS, -1, np.int8),
        trial_metadata={
            "condition": condition.tolist(),
            "direction": (condition * 360 / CONDITIONS).tolist(),
            "go_cue": go_cue.tolist(),
            "move_onset": (go_cue + 0.3).round(3).tolist(),
            "outcome": ["success" if value < 0.9 else "failure" for value in random.random(TRIALS)],
        },
        behaviour={"hand_velocity": velocity.astype(np.float32)},
        source_format="npz",
        understood=[Understood("spikes", "spikes", "by its name", spikes.shape)],
    )


def _add_dataset(made: Seeded) -> str:
    dataset_id, recording = new_id("dat"), _recording()
    path = f"datasets/{dataset_id}/a"
    names = write_dataset(made.arrays, path, dataset_id, recording)
    sample = dataclasses.replace(
        recording, spikes=recording.spikes[:200], trial_length_bins=recording.trial_length_bins[:200],
        split=recording.split[:200], behaviour={name: one[:200] for name, one in recording.behaviour.items()},
        trial_metadata={name: values[:200] for name, values in recording.trial_metadata.items()},
    )  # fmt: skip
    report = examine(sample).to_json() | {"arrays": names}
    report["shape"] = {"trials": TRIALS, "bins": BINS, "neurons": NEURONS}
    write_object(made.arrays, f"{path}/preview.json", json.dumps(make_preview(sample)).encode())
    source = {"kind": "upload", "filename": "long_session.npz", "bytes": 2**27, "options": {}}
    with made.database.write() as session:
        session.add(
            Dataset(
                id=dataset_id, tenant_id=DEFAULT_TENANT, name="long session", state=DatasetState.READY, source=source,
                trials=TRIALS, bins=BINS, neurons=NEURONS, bin_width_s=BIN_WIDTH_S, array_path=path, report=report,
                array_bytes=objects_size(made.arrays, path), created_by_name="Ada",
            )
        )  # fmt: skip
        session.flush()
        session.execute(insert(Trial), list(trial_rows(dataset_id, recording)))
    return dataset_id


def _add_latents(made: Seeded, dataset_id: str, job_id: str) -> str:
    """Store latents of the best model, select it, and return its id."""
    with made.database.read() as session:
        dataset = session.get_one(Dataset, dataset_id)
        of_job = select(Model.id).where(Model.job_id == job_id).order_by(Model.smoothed_sv_loss).limit(1)
        model_id = session.execute(of_job).scalar_one()
        sessions = sessions_of(dataset)
    path = f"models/{model_id}/latents/a"
    identity = {"model_id": model_id, "job_id": job_id, "dataset_id": dataset_id, "bin_width_s": BIN_WIDTH_S}
    attributes = {**identity, "posterior_samples": 50, "coordinates": "split trial_length_bins"}
    writer = ArrayGroupWriter(made.arrays, path, attributes)
    condition, gain = _conditions(), np.arange(TRIALS) % _GAINS
    for name, patterns in (("rates", _patterns()), ("factors", _factors())):
        described = LATENTS[name]
        shape = (TRIALS, *patterns.shape[2:])
        description = f"posterior mean of the {described.meaning}"
        array = writer.create(
            name, shape, np.float32, described.dims("time_s"), units=described.units, description=description
        )
        rows = RowWriter(array)
        for first in range(0, TRIALS, 50):
            here = slice(first, first + 50)
            rows.append(patterns[condition[here], gain[here]])
        rows.close()
    split = np.where(np.arange(TRIALS) % 5 == 4, "valid", "train")
    lengths = np.full(TRIALS, BINS)
    described_trials = SimpleNamespace(sessions=sessions, split=split, trial_length_bins=lengths)
    writer.write_all(coordinates(cast(LatentsRequest, described_trials), np.arange(BINS) * BIN_WIDTH_S))
    writer.close()
    with made.database.write() as session:
        session.get_one(Job, job_id).selected_model_id = model_id
        model = session.get_one(Model, model_id)
        model.latents_path, model.latents_bytes = path, objects_size(made.arrays, path)
        model.scores = {**model.scores, "reconstruction_bits_per_spike_valid": 0.31, "psth_r2_valid": 0.88}
    return model_id
