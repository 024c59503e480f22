"""Rows and arrays as workers leave them, and a way to call the app message by message."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from domain.job_specification import JobSpecification
from domain.states import DatasetState, JobState, ModelState, UploadState
from store import events
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from store.identifiers import new_id
from store.settings import Settings
from store.tables import DEFAULT_TENANT, CurvePoint, Dataset, Decision, Job, Model, Tenant, Trial
from store.uploads import begin_upload

PROBLEM = "application/problem+json"
OTHER_TENANT = "other"
START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def add_tenant(session: Session) -> None:
    session.add(Tenant(id=OTHER_TENANT, name="another lab"))
    session.flush()


def add_dataset(
    session: Session,
    *,
    state: DatasetState = DatasetState.READY,
    splits: Sequence[str | None] = (None,) * 20,
    tenant: str = DEFAULT_TENANT,
    array_path: str | None = None,
    neurons: int = 4,
    external_inputs: int = 0,
    lengths: Sequence[int] | None = None,
) -> str:
    dataset_id = new_id("dat")
    is_ready = state == DatasetState.READY
    session.add(
        Dataset(
            id=dataset_id,
            tenant_id=tenant,
            name="example",
            state=state,
            source={"kind": "upload", "filename": "spikes.npz", "bytes": 3, "sha256": "00"},
            trials=len(splits) if is_ready else None,
            bins=5 if is_ready else None,
            neurons=neurons if is_ready else None,
            bin_width_s=0.02 if is_ready else None,
            array_path=array_path,
            report={"warnings": [], "external_inputs": external_inputs} if is_ready else None,
            problems=[{"message": "no spikes", "hint": "add some"}]
            if state in (DatasetState.REJECTED, DatasetState.FAILED)
            else None,
        )
    )
    session.flush()
    if is_ready:
        session.add_all(
            Trial(
                dataset_id=dataset_id,
                trial=trial,
                length_bins=5 if lengths is None else lengths[trial],
                split=split,
                details={"condition": trial % 4},
            )
            for trial, split in enumerate(splits)
        )
    return dataset_id


def add_job(
    session: Session,
    dataset_id: str,
    *,
    state: JobState = JobState.RUNNING,
    tenant: str = DEFAULT_TENANT,
    **specification: Any,
) -> str:
    job_id = new_id("job")
    whole = JobSpecification(dataset_id=dataset_id, **specification)
    has_begun = state != JobState.QUEUED
    session.add(
        Job(
            id=job_id,
            tenant_id=tenant,
            dataset_id=dataset_id,
            name=whole.name,
            state=state,
            spec=whole.model_dump(mode="json"),
            started_at=START if has_begun else None,
            ended_at=START + timedelta(seconds=60) if state.is_final else None,
        )
    )
    session.flush()
    events.record(session, job_id, "job.state", state=state)
    session.flush()
    return job_id


def add_model(
    session: Session,
    job_id: str,
    number: int = 0,
    *,
    state: ModelState = ModelState.TRAINING,
    losses: Sequence[float | None] = (),
    latents_path: str | None = None,
    tenant: str = DEFAULT_TENANT,
    hyperparameters: dict[str, float] | None = None,
    architecture: dict[str, Any] | None = None,
    **columns: Any,
) -> str:
    """Add a model with its learning curve; `columns` are further ones of its row."""
    model_id = new_id("mod")
    known = [loss for loss in losses if loss is not None]
    session.add(
        Model(
            id=model_id,
            tenant_id=tenant,
            job_id=job_id,
            number=number,
            pack=0,
            state=state,
            seed=number,
            architecture={"factors": 3} if architecture is None else architecture,
            hyperparameters={"learning_rate": 0.004} if hyperparameters is None else hyperparameters,
            latents_path=latents_path,
            **{
                "epochs_trained": len(losses),
                "smoothed_sv_loss": min(known, default=None),
                "latest_smoothed_sv_loss": losses[-1] if losses else None,
                "scores": {
                    "sv_loss": losses[-1] if losses else None,
                    "sv_bits_per_spike_valid": 1 - min(known) if known else None,
                },
                **columns,
            },
        )
    )
    session.flush()
    session.add_all(
        CurvePoint(
            model_id=model_id,
            epoch=epoch,
            slice_id="sli",
            sv_loss=loss,
            smoothed_sv_loss=loss,
            sv_bits_per_spike_valid=None if loss is None else 1 - loss,
        )
        for epoch, loss in enumerate(losses, 1)
    )
    session.flush()
    return model_id


def add_decision(
    session: Session,
    job_id: str,
    number: int,
    kind: str,
    epoch: int,
    reason: str = "because",
    *,
    parent: int | None = None,
    latest: float | None = None,
    **hyperparameters: float,
) -> None:
    session.add(
        Decision(
            job_id=job_id,
            model_number=number,
            kind=kind,
            epoch=epoch,
            lowest_sv_loss=None,
            latest_sv_loss=latest,
            parent_number=parent,
            hyperparameters=hyperparameters,
            reason=reason,
        )
    )
    session.flush()


def add_population(session: Session, dataset_id: str, *, tenant: str = DEFAULT_TENANT) -> str:
    """A population of three over 30 epochs, model 2 being the best: at epoch 10 model 2 copies 0 and 0 copies 1; at 20 model 1
    copies 2.
    """
    job_id = add_job(
        session, dataset_id, tenant=tenant, strategy={"kind": "pbt"}, budget={"models": 3, "epochs": 30}
    )
    for number in range(3):
        add_decision(
            session, job_id, number, "begin", 0, "drawn at random", learning_rate=(1 + number) / 1000
        )
    add_decision(session, job_id, 0, "copy", 10, "lost: 3 against 2", parent=1, learning_rate=0.0021)
    add_decision(session, job_id, 1, "continue", 10, "won", learning_rate=0.002)
    add_decision(
        session, job_id, 2, "copy", 10, "lost: 4 against 3", parent=0, learning_rate=0.0011, dropout=0.1
    )
    add_decision(session, job_id, 0, "continue", 20, "won", learning_rate=0.0021)
    add_decision(session, job_id, 1, "copy", 20, "lost: 2 < 3 & <more>", parent=2, learning_rate=0.0012)
    add_decision(session, job_id, 2, "continue", 20, "won", learning_rate=0.0011, dropout=0.1)
    for number, learning_rate in enumerate((0.0021, 0.0012, 0.0011)):
        add_model(
            session, job_id, number, tenant=tenant, losses=(1.0,) * 29 + (0.9 - 0.1 * number,),
            hyperparameters={"learning_rate": learning_rate},
        )  # fmt: skip
    return job_id


def add_upload(session: Session, *, tenant: str = DEFAULT_TENANT, sha256: str = "00" * 32) -> str:
    """An upload that is complete."""
    row = begin_upload(session, tenant, Settings(), size_bytes=3, filename="spikes.npz", sha256=sha256)
    row.state = UploadState.COMPLETE
    session.flush()
    return row.id


def count(database: Database, table: type) -> int:
    with database.read() as session:
        return int(session.execute(select(func.count()).select_from(table)).scalar_one())


def example_arrays() -> dict[str, NDArray[Any]]:
    """Arrays of every kind: several chunks, one chunk, not finite, integers, booleans, none at all, no axis."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(6, 5, 3)).astype(np.float32)
    factors[0, 0] = np.nan, np.inf, -np.inf
    return {
        "rates": random.random((300, 50, 20)),  # 2.4 MB: three chunks
        "factors": factors,
        "spikes": random.poisson(1.0, (6, 5, 4)).astype(np.uint8),
        "is_valid": np.arange(6) % 2 == 0,
        "no_trials": np.zeros((0, 5), np.float32),
        "bits_per_spike": np.array(0.25),
        "time_s": np.arange(50) * 0.02,
    }


_DIMS = {
    "rates": ("trial", "time_s", "neuron"),
    "factors": ("some_trial", "some_time", "factor"),
    "spikes": ("some_trial", "some_time", "some_neuron"),
    "is_valid": ("some_trial",),
    "no_trials": ("no_trial", "some_time"),
    "bits_per_spike": (),
    "time_s": ("time_s",),
}


def write_arrays(store: Store, path: str) -> None:
    writer = ArrayGroupWriter(store, path, {"bin_width_s": 0.02})
    for name, values in example_arrays().items():
        units = {"rates": "spikes/s", "time_s": "s"}.get(name, "")
        writer.write(NamedArray(name, values, _DIMS[name], units, f"the {name}", {"from": "example"}))
    writer.close()


@dataclass(frozen=True)
class Example:
    """A service with one of everything, and another tenant with the same."""

    app: FastAPI
    database: Database
    arrays: Store
    dataset_id: str
    job_id: str
    model_id: str
    upload_id: str
    other_dataset_id: str
    other_job_id: str
    other_model_id: str
    other_upload_id: str


def fill(app: FastAPI, database: Database, arrays: Store) -> Example:
    write_arrays(arrays, "groups/a")
    ids = []
    with database.write() as session:
        add_tenant(session)
        for tenant in (DEFAULT_TENANT, OTHER_TENANT):
            dataset = add_dataset(session, tenant=tenant, array_path="groups/a")
            job = add_job(session, dataset, state=JobState.DONE, tenant=tenant)
            state = ModelState.TRAINED
            model = add_model(
                session, job, state=state, losses=(2.0, 1.0), latents_path="groups/a", tenant=tenant
            )
            add_decision(session, job, 0, "begin", 0, "drawn at random", learning_rate=0.004)
            session.get_one(Job, job).selected_model_id = model
            ids += [dataset, job, model, add_upload(session, tenant=tenant)]
    return Example(app, database, arrays, *ids)


@dataclass
class Answer:
    """An answer, read message by message."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(
    app: FastAPI, method: str, path: str, messages: Sequence[dict[str, Any]], headers: dict[str, str]
) -> Answer:
    """Send a request whose body comes in these ASGI messages; as a server would, without reading ahead."""

    async def run() -> Answer:
        answer, waiting = Answer(0, {}, b""), list(messages)

        async def receive() -> dict[str, Any]:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {key.decode(): value.decode() for key, value in message["headers"]}
            answer.body += message.get("body", b"")

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        await app(scope, receive, send)
        return answer

    return asyncio.run(run())


def chunks(number: int, size: int) -> list[dict[str, Any]]:
    """A body of `number` pieces without a `Content-Length`."""
    piece = {"type": "http.request", "body": b"x" * size, "more_body": True}
    return [piece] * number + [{"type": "http.request", "body": b"", "more_body": False}]


async def stream(number: int, piece: bytes) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield piece
