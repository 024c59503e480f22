"""A client of the HTTP API."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentry.asynchronous.administration import AsyncKey, AsyncWebhook
from latentry.asynchronous.arrays import AsyncArrays
from latentry.asynchronous.datasets import AsyncDataset
from latentry.asynchronous.jobs import AsyncJob
from latentry.asynchronous.models import AsyncInference, AsyncModel
from latentry.asynchronous.requests import AsyncRequests
from latentry.asynchronous.resources import AsyncPages
from latentry.asynchronous.uploads import AsyncResumableUpload, Progress, pieces
from latentry.documents import Answered, Document
from latentry.errors import DatasetRejected, NotDone, Unavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHOLE_BYTES = 64 * 10**6
"""Larger files are sent in pieces."""
_WAIT = {"Prefer": "wait=30"}


class AsyncClient(AsyncRequests):
    """Talks to a Latentry service.

    Parameters
    ----------
    url
        Where it is; the environment's ``LATENTRY_URL`` unless given, else ``http://127.0.0.1:8000``.
    key
        Your key, ``lat_…``; the environment's ``LATENTRY_KEY`` unless given.
    timeout_s
        For the answer to one request, in seconds.
    patience_s
        For so many seconds a request is sent again when the service does not answer, or asks to wait; 0 for never.
    transport
        What carries the requests, for tests; the network unless given.
    """

    async def upload_dataset(
        self,
        path: str | Path,
        *,
        name: str = "",
        options: Document | None = None,
        resumable: bool | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> AsyncDataset:
        """Upload a file of spikes and wait until it is ready. The same file with the same options is the same data set.

        Parameters
        ----------
        path
            The file; the service tells its format from its contents.
        name
            Of the data set; the file's unless given.
        options
            How to read the file, such as ``{"trials": {"align_to": "go_cue_time", "window_s": [-0.25, 0.75]}}``.
        resumable
            Send it in pieces, and go on where it was when the connection breaks; unless told, so are files of more than 64 MB.
        progress
            Called with the bytes sent so far and the size of the file.
        fields
            ``format``, ``bin_width_s``: options, said shorter.

        Raises
        ------
        DatasetRejected
            If it is rejected; the message has the reasons.
        """
        path = Path(path)
        size = path.stat().st_size
        if resumable if resumable is not None else size > _WHOLE_BYTES:
            upload_id = await self.upload_file(path, progress=progress)
            body = {"upload_id": upload_id, "name": name, "options": {**(options or {}), **fields}}
            return await self._made("/v1/datasets", body)
        parameters = {"filename": path.name, "name": name, **fields}
        if options is not None:
            parameters["options"] = json.dumps(options)
        with path.open("rb") as file:

            def content() -> AsyncIterator[bytes]:
                file.seek(0)
                return pieces(file, size, progress)

            answer = await self._connection.request(
                "POST",
                "/v1/datasets",
                params=parameters,
                content=content,
                headers={
                    "Content-Type": "application/octet-stream",
                    "Content-Length": str(size),
                    "Idempotency-Key": uuid.uuid4().hex,
                },
            )
        return await self.wait_for_dataset(answer.json()["id"])

    async def upload_file(self, path: str | Path, *, progress: Progress | None = None) -> str:
        """Upload a file in pieces (tus), going on where it was when the connection breaks.

        Returns
        -------
        str
            Id of the upload, for ``POST /v1/datasets``.

        Raises
        ------
        LatentryError
            If the service refuses it, or does not answer for as long as the client is patient.
        OSError
            If the file changed while it was sent.
        """
        return await AsyncResumableUpload(self._connection, Path(path), progress).send()

    async def derive_dataset(self, dataset_id: str, options: Document, name: str = "") -> AsyncDataset:
        """Make another data set of the same file, with changes to its options, and wait until it is ready.

        Parameters
        ----------
        dataset_id
            A data set that was uploaded; also one that was rejected.
        options
            Changes to the options of that data set. What is not given stays as it is; None resets an option to its default.
        name
            Of the data set; the other's unless given.

        Raises
        ------
        DatasetRejected
            If it is rejected; the message has the reasons.
        """
        return await self._made(f"/v1/datasets/{dataset_id}:derive", {"name": name, "options": options})

    async def retry_dataset(self, dataset_id: str) -> AsyncDataset:
        """Read the file of a failed data set again, after the service was repaired, and wait until it is ready.

        Raises
        ------
        WrongState
            If the data set is not failed.
        NotDone
            If it fails again.
        """
        await self.act(f"/v1/datasets/{dataset_id}:retry")
        return await self.wait_for_dataset(dataset_id)

    async def combine_datasets(self, dataset_ids: Sequence[str], name: str = "") -> AsyncDataset:
        """Make one data set of several sessions, whose neurons differ, and wait until it is ready.

        Raises
        ------
        LatentryError
            If they do not fit together.
        """
        return await self._made("/v1/datasets:combine", {"dataset_ids": list(dataset_ids), "name": name})

    async def synthesize_dataset(self, system: str = "lorenz", **parameters: Any) -> AsyncDataset:
        """Make a synthetic data set with known rates and wait until it is ready.

        Parameters
        ----------
        system
            ``lorenz``; ``chaotic_rnn``; ``driven``, a network with inputs to infer, which are its array
            ``true_inputs``; ``two_sessions``, of which ``session`` 0 or 1 is made.
        parameters
            Of the system, each with a default: ``name``, ``conditions``, ``trials_per_condition``, ``bins``,
            ``neurons``, ``bin_width_s``, ``seed``; ``mean_count_per_bin`` for ``lorenz`` and ``two_sessions``;
            ``gain`` and ``max_rate_hz`` for ``chaotic_rnn`` and ``driven``; ``inputs`` and ``pulse`` for
            ``driven``; ``session`` for ``two_sessions``.
        """
        return await self._made("/v1/datasets:synthesize", {"system": system, **parameters})

    def datasets(self, **filters: Any) -> AsyncPages[AsyncDataset]:
        """List your data sets, newest first.

        Parameters
        ----------
        filters
            ``state``; ``name``, a part of it; ``created_after`` and ``created_before``, as ``2026-01-31`` or a datetime.
        """
        return AsyncPages(self, "/v1/datasets", self.dataset_of, **filters)

    async def get_dataset(self, dataset_id: str) -> AsyncDataset:
        """Read a data set."""
        return self.dataset_of(await self.get(f"/v1/datasets/{dataset_id}"))

    async def wait_for_dataset(self, dataset_id: str) -> AsyncDataset:
        """Wait until a data set is ready.

        Raises
        ------
        DatasetRejected
            If its file cannot be used; the message has the reasons.
        NotDone
            If the service failed to read the file; `retry_dataset` tries again.
        """
        while True:
            dataset = self.dataset_of(await self.get(f"/v1/datasets/{dataset_id}", headers=_WAIT))
            if dataset.state in ("rejected", "failed"):
                message = "; ".join(problem["message"] for problem in dataset.problems)
                hint = "; ".join(problem["hint"] for problem in dataset.problems if problem.get("hint"))
                if dataset.state == "failed":
                    raise NotDone(f"the data set {dataset.id} failed: {message}", hint)
                raise DatasetRejected(f"the data set {dataset.id} was rejected: {message}", hint)
            if dataset.state == "ready":
                return dataset

    async def submit(self, dataset: AsyncDataset | str, **specification: Any) -> AsyncJob:
        """Begin a search over models of a data set.

        Parameters
        ----------
        dataset
            The data set, or its id.
        specification
            Fields of the job, each with a default: ``preset="autolfads"``, ``budget={"models": 8}``, ``space``,
            ``architecture``, ``training``, ``strategy``, ``inference``, ``name``, ``seed``, …
        """
        dataset_id = dataset if isinstance(dataset, str) else dataset.id
        return await self.create_job({"dataset_id": dataset_id, **specification})

    async def create_job(self, specification: Document) -> AsyncJob:
        """Begin a search; every field but ``dataset_id`` has a default."""
        return self.job_of(await self.post("/v1/jobs", specification))

    async def preview_job(self, specification: Document) -> Document:
        """What a search would do and take, without doing it: epochs, seconds, memory, warnings, every default written out."""
        return await self.post("/v1/jobs", specification, params={"validate_only": "true"})

    def jobs(self, state: str | None = None, **filters: Any) -> AsyncPages[AsyncJob]:
        """List your jobs, newest first.

        Parameters
        ----------
        state
            Only those in this state.
        filters
            ``dataset_id``; ``name``, a part of it; ``created_after`` and ``created_before``, as ``2026-01-31`` or a datetime.
        """
        return AsyncPages(self, "/v1/jobs", self.job_of, state=state, **filters)

    async def get_job(self, job_id: str) -> AsyncJob:
        """Read a job."""
        return self.job_of(await self.get(f"/v1/jobs/{job_id}"))

    async def change_job(
        self, job_id: str, *, name: str | None = None, priority: int | None = None
    ) -> AsyncJob:
        """Change the name of a job, or its priority (-10 … 10) among yours; None leaves it."""
        changes = {"name": name, "priority": priority}
        body = {field: value for field, value in changes.items() if value is not None}
        return self.job_of(
            (await self.request("PATCH", f"/v1/jobs/{job_id}", json=body, is_repeatable=True)).json()
        )

    async def pause_job(self, job_id: str) -> AsyncJob:
        """Let a job rest: what is under way ends its epoch and is kept."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:pause"))

    async def resume_job(self, job_id: str) -> AsyncJob:
        """Go on with a paused job where it was."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:resume"))

    async def stop_job(self, job_id: str) -> AsyncJob:
        """End the training with what is there: the best model so far is selected, and its latents are computed."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:stop"))

    async def cancel_job(self, job_id: str) -> AsyncJob:
        """Drop a job now."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:cancel"))

    async def retry_job(self, job_id: str) -> AsyncJob:
        """Go on with a job that failed or was cancelled, from what its models have learnt."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:retry"))

    async def extend_job(
        self,
        job_id: str,
        *,
        models: int = 0,
        epochs: int = 0,
        wall_seconds: float = 0,
        device_seconds: float = 0,
    ) -> AsyncJob:
        """Add to the budget of a job that is done, or has not ended.

        Parameters
        ----------
        job_id
            The job.
        models, epochs
            So many models more, and so many epochs more for each model.
        wall_seconds, device_seconds
            So many seconds more, where the job has such a limit.
        """
        more = {"models": models, "epochs": epochs}
        limits = {"wall_seconds": wall_seconds, "device_seconds": device_seconds}
        return self.job_of(await self.post(f"/v1/jobs/{job_id}:extend", {**more, **limits}))

    async def importance(self, job_id: str) -> Document:
        """Which of the searched hyperparameters matter, and how models did along each of them."""
        return await self.get(f"/v1/jobs/{job_id}/importance")

    async def decisions(self, job_id: str) -> list[Answered]:
        """What the strategy decided about the models of a job, in order, and why."""
        return await AsyncPages(self, f"/v1/jobs/{job_id}/decisions", Answered).all()

    async def lineage(self, job_id: str, model: int | None = None) -> Document:
        """Whose weights a model has, from epoch to epoch: by number, else the selected one, else the best so far."""
        return await self.get(f"/v1/jobs/{job_id}/lineage", params={"model": model})

    async def lineage_picture(self, job_id: str, model: int | None = None) -> str:
        """The whole search drawn as SVG, with the lineage of one model thick."""
        return (await self.request("GET", f"/v1/jobs/{job_id}/lineage.svg", params={"model": model})).text

    async def wait_for_job(self, job_id: str) -> AsyncJob:
        """Wait until a job is done, for as long as it takes: also while it is paused. `AsyncJob.wait` also shows how it goes.

        Raises
        ------
        NotDone
            If it failed or was cancelled.
        """
        return await (await self.get_job(job_id)).wait(display=False)

    def events(self, job_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Document]:
        """Follow what happens to a job until it ends; a connection that breaks is taken up where it was.

        Raises
        ------
        LatentryError
            If the service does not answer for as long as the client is patient.
        TimeoutError
            If the job has not ended in so many seconds.
        """
        return self._connection.events(f"/v1/jobs/{job_id}/events/stream", timeout_s)

    async def list_models(self, job_id: str) -> list[AsyncModel]:
        """All models of a job."""
        return await AsyncPages(self, f"/v1/jobs/{job_id}/models", self.model_of).all()

    async def get_model(self, model_id: str) -> AsyncModel:
        """Read a model: hyperparameters, state, scores."""
        return self.model_of(await self.get(f"/v1/models/{model_id}"))

    def inferences(
        self, *, model_id: str | None = None, dataset_id: str | None = None
    ) -> AsyncPages[AsyncInference]:
        """All your inferences, newest first; or those of a model, or of a data set."""
        chosen = {"model_id": model_id, "dataset_id": dataset_id}
        return AsyncPages(self, "/v1/inferences", self.inference_of, **chosen)

    async def get_inference(self, inference_id: str) -> AsyncInference:
        """Read an inference."""
        return self.inference_of(await self.get(f"/v1/inferences/{inference_id}"))

    async def read_dataset_array(self, dataset_id: str, name: str, slice: str | None = None) -> NDArray[Any]:
        """Read an array of a data set, or a slice of it (``0:5,::2``)."""
        return await AsyncArrays(self, f"/v1/datasets/{dataset_id}")[name].read(slice)

    async def read_model_array(self, model_id: str, name: str, slice: str | None = None) -> NDArray[Any]:
        """Read latents of a model, or a slice of them: ``rates`` (spikes/s), ``factors``, …, in your order of trials."""
        return await AsyncArrays(self, f"/v1/models/{model_id}")[name].read(slice)

    def keys(self) -> AsyncPages[AsyncKey]:
        """The keys of your lab, newest first, without their secrets."""
        return AsyncPages(self, "/v1/keys", lambda document: AsyncKey(self, document))

    async def create_key(self, name: str, **fields: Any) -> AsyncKey:
        """Make a key; its `secret` is told this once. Fields: ``scopes``, ``expires_at``, ``tenant``."""
        # Not sent again when the answer is lost: the secret would be lost with it.
        body = {"name": name, **fields}
        answer = await self.request("POST", "/v1/keys", json=body)
        return AsyncKey(self, answer.json())

    def webhooks(self) -> AsyncPages[AsyncWebhook]:
        """The URLs that are told when jobs end."""
        return AsyncPages(self, "/v1/webhooks", lambda document: AsyncWebhook(self, document))

    async def create_webhook(self, url: str, **fields: Any) -> AsyncWebhook:
        """Have a URL told when jobs end; the webhook's `secret` is told this once. Fields: ``states``."""
        body = {"url": url, **fields}
        answer = await self.request("POST", "/v1/webhooks", json=body)
        return AsyncWebhook(self, answer.json())

    async def readiness(self) -> Document:
        """Whether the service can take and do work, and what workers there are; also where it can't."""
        try:
            return await self.get("/readyz")
        except Unavailable as error:
            if "ready" not in error.problem:
                raise
            return error.problem

    async def caller(self) -> Document:
        """Who you are to the service: whose data sets you see, and what you may do."""
        return await self.get("/v1/caller")

    async def checks(self) -> Document:
        """What the service finds of itself, as `latentry doctor` shows it."""
        return await self.get("/v1/checks")

    def dataset_of(self, document: Document) -> AsyncDataset:
        """The data set of a document."""
        return AsyncDataset(self, document)

    def job_of(self, document: Document) -> AsyncJob:
        """The job of a document."""
        return AsyncJob(self, document)

    def model_of(self, document: Document) -> AsyncModel:
        """The model of a document."""
        return AsyncModel(self, document)

    def inference_of(self, document: Document) -> AsyncInference:
        """The inference of a document."""
        return AsyncInference(self, document)

    async def _made(self, path: str, body: Document) -> AsyncDataset:
        return await self.wait_for_dataset((await self.post(path, body))["id"])
