"""The client of the HTTP API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentry.asynchronous.administration import AsyncKey, AsyncOperation, AsyncShare, AsyncWebhook
from latentry.asynchronous.arrays import AsyncArrays
from latentry.asynchronous.datasets import AsyncDataset
from latentry.asynchronous.jobs import AsyncJob
from latentry.asynchronous.models import AsyncInference, AsyncModel
from latentry.asynchronous.resources import AsyncPages
from latentry.asynchronous.uploads import AsyncResumableUpload, Progress, upload_whole
from latentry.documents import Answered, Document
from latentry.errors import DatasetRejected, NotDone, Unavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHOLE_BYTES = 64 * 10**6
"""Files with more bytes are sent in pieces."""
_WAIT = {"Prefer": "wait=30"}


class AsyncClient(AsyncOperation):
    """Talks to one Latentry service.

    Parameters
    ----------
    url
        Address of the service; default: ``LATENTRY_URL`` of the environment, else ``http://127.0.0.1:8000``.
    key
        Your key, ``lat_…``; default: ``LATENTRY_KEY`` of the environment.
    timeout_s
        Longest time to wait for the answer to one request, in seconds. An analysis may wait and compute for 240 s.
    patience_s
        For this many seconds a request is sent again while the service does not answer or asks to wait; 0: never.
    transport
        Transport of httpx, for tests; the network by default.
    """

    async def upload_dataset(
        self,
        path: str | Path,
        *,
        name: str = "",
        notes: str = "",
        tags: Sequence[str] = (),
        options: Document | None = None,
        resumable: bool | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> AsyncDataset:
        """Upload a file of spikes and wait until it is ready. The same file with the same options gives the same data set.

        Parameters
        ----------
        path
            The file; the service recognizes its format from its contents.
        name
            Name of the data set; default: the name of the file.
        notes, tags
            What you write on it; it can be changed later and is no part of its content.
        options
            Options for reading the file, such as ``{"trials": {"align_to": "go_cue_time", "window_s": [-0.25, 0.75]}}``.
        resumable
            Whether to send the file in pieces and to resume when the connection breaks; default: if it has more than 64 MB.
        progress
            Called with the bytes sent so far and the size of the file.
        fields
            Further options: ``format``, ``bin_width_s``.

        Raises
        ------
        DatasetRejected
            If the service rejects it; the message has the reasons.
        """
        path = Path(path)
        size = path.stat().st_size
        labels = {"name": name, "notes": notes, "tags": list(tags)}
        if resumable if resumable is not None else size > _WHOLE_BYTES:
            upload_id = await self.upload_file(path, progress=progress)
            body = {"upload_id": upload_id, **labels, "options": {**(options or {}), **fields}}
            return await self._made("/v1/datasets", body)
        parameters = {"filename": path.name, **labels, **fields}
        if options is not None:
            parameters["options"] = json.dumps(options)
        answer = await upload_whole(self._connection, path, parameters, progress)
        return await self.wait_for_dataset(answer.json()["id"])

    async def upload_file(self, path: str | Path, *, progress: Progress | None = None) -> str:
        """Upload a file in pieces (tus), and resume when the connection breaks.

        Returns
        -------
        str
            Id of the upload, for ``POST /v1/datasets``.

        Raises
        ------
        LatentryError
            If the service refuses it, or does not answer for `patience_s` seconds.
        OSError
            If the file changed while it was sent.
        """
        return await AsyncResumableUpload(self._connection, Path(path), progress).send()

    async def derive_dataset(self, dataset_id: str, options: Document, name: str = "") -> AsyncDataset:
        """Read the file of a data set again with other options, and wait until the new data set is ready.

        Parameters
        ----------
        dataset_id
            A data set that was uploaded; it may be a rejected one.
        options
            The options to change. Other options keep their values; None resets an option to its default.
        name
            Name of the new data set; default: the name of the other one.

        Raises
        ------
        DatasetRejected
            If the service rejects it; the message has the reasons.
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
        """Combine several sessions, whose neurons differ, into one data set, and wait until it is ready.

        Raises
        ------
        LatentryError
            If the sessions do not fit together.
        """
        return await self._made("/v1/datasets:combine", {"dataset_ids": list(dataset_ids), "name": name})

    async def synthesize_dataset(self, system: str = "lorenz", **parameters: Any) -> AsyncDataset:
        """Create a synthetic data set with known rates, and wait until it is ready.

        Parameters
        ----------
        system
            ``lorenz``; ``chaotic_rnn``; ``driven``, a network with inputs to infer, which are its array
            ``true_inputs``; ``two_sessions``, which needs ``session``, 0 or 1.
        parameters
            Parameters of the system, each with a default: ``name``, ``conditions``, ``trials_per_condition``, ``bins``,
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
            ``state``, one or a list; ``text`` in name, notes, tags or file name; ``tag``, one or a list, all of which it has;
            ``created_by``; ``created_after`` and ``created_before``, as ``2026-01-31`` or a datetime; ``derived_from``.
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
            If the service failed to read the file; `retry_dataset` reads it again.
        """
        while True:
            dataset = self.dataset_of(await self.get(f"/v1/datasets/{dataset_id}", headers=_WAIT))
            if dataset.state in ("rejected", "failed"):
                message = "; ".join(problem["message"] for problem in dataset.problems)
                hint = "; ".join(problem["hint"] for problem in dataset.problems if problem.get("hint"))
                if dataset.state == "failed":
                    raise NotDone(f"the data set {dataset.id} failed: {message}", hint)
                raise DatasetRejected(f"the data set {dataset.id} was rejected: {message}", hint, dataset.id)
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
        """Begin a search; every field except ``dataset_id`` has a default."""
        return self.job_of(await self.post("/v1/jobs", specification))

    async def preview_job(self, specification: Document) -> Document:
        """Return what a search would do and need, without creating it: epochs, seconds, memory, warnings, and all defaults."""
        return await self.post("/v1/jobs", specification, params={"validate_only": "true"})

    def jobs(self, state: str | Sequence[str] | None = None, **filters: Any) -> AsyncPages[AsyncJob]:
        """List your jobs, newest first.

        Parameters
        ----------
        state
            Only jobs in this state, or in one of these.
        filters
            ``dataset_id``; ``text``, ``tag``, ``created_by``, ``created_after``, ``created_before`` as for `datasets`.
        """
        return AsyncPages(self, "/v1/jobs", self.job_of, state=state, **filters)

    async def get_job(self, job_id: str) -> AsyncJob:
        """Read a job."""
        return self.job_of(await self.get(f"/v1/jobs/{job_id}"))

    async def change_job(self, job_id: str, **changes: Any) -> AsyncJob:
        """Change the ``name``, ``notes``, ``tags`` or ``priority`` (-10 … 10) of a job; None resets one to its default."""
        return await self.job_of({"id": job_id}).change(**changes)

    async def change_dataset(self, dataset_id: str, **changes: Any) -> AsyncDataset:
        """Change the ``name``, ``notes`` or ``tags`` of a data set; None resets one to its default."""
        return await self.dataset_of({"id": dataset_id}).change(**changes)

    async def pause_job(self, job_id: str) -> AsyncJob:
        """Pause a job. Models in training finish their epoch, and their weights are kept."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:pause"))

    async def resume_job(self, job_id: str) -> AsyncJob:
        """Resume a paused job where it was."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:resume"))

    async def stop_job(self, job_id: str) -> AsyncJob:
        """End the training: the service selects the best model so far and computes its latents."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:stop"))

    async def cancel_job(self, job_id: str) -> AsyncJob:
        """Cancel a job now."""
        return self.job_of(await self.act(f"/v1/jobs/{job_id}:cancel"))

    async def retry_job(self, job_id: str) -> AsyncJob:
        """Continue a job that failed or was cancelled, from the last weights of its models."""
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
        """Add to the budget of a job that is done or has not ended.

        Parameters
        ----------
        job_id
            The job.
        models, epochs
            Number of further models, and of further epochs for each model.
        wall_seconds, device_seconds
            Further seconds, if the job has this limit.
        """
        more = {"models": models, "epochs": epochs}
        limits = {"wall_seconds": wall_seconds, "device_seconds": device_seconds}
        return self.job_of(await self.post(f"/v1/jobs/{job_id}:extend", {**more, **limits}))

    async def importance(self, job_id: str) -> Document:
        """Return which searched hyperparameters matter, and the losses of models along each of them."""
        return await self.get(f"/v1/jobs/{job_id}/importance")

    async def curves(self, job_id: str, *, points: int = 200, after: str | None = None) -> Document:
        """Return the learning curves of all models of a job; with ``next_after`` of the last answer, only later points."""
        return await self.get(f"/v1/jobs/{job_id}/curves", {"points": points, "after": after})

    async def decisions(self, job_id: str) -> list[Answered]:
        """Return the decisions of the strategy about the models of a job, in order, with reasons."""
        return await AsyncPages(self, f"/v1/jobs/{job_id}/decisions", Answered).all()

    async def lineage(self, job_id: str, model: int | None = None) -> Document:
        """Return from which models the weights of a model come. Default: the selected model, else the best so far."""
        return await self.get(f"/v1/jobs/{job_id}/lineage", params={"model": model})

    async def lineage_picture(self, job_id: str, model: int | None = None) -> str:
        """Return a drawing of the whole search as SVG, with the lineage of one model highlighted."""
        return (await self.request("GET", f"/v1/jobs/{job_id}/lineage.svg", params={"model": model})).text

    async def wait_for_job(self, job_id: str) -> AsyncJob:
        """Wait until a job is done, without a time limit, also while it is paused. `AsyncJob.wait` can also show its progress.

        Raises
        ------
        NotDone
            If it failed or was cancelled.
        """
        return await (await self.get_job(job_id)).wait(display=False)

    def events(self, job_id: str, *, timeout_s: float | None = None) -> AsyncIterator[Document]:
        """Yield the events of a job until it ends; after a lost connection, continue with the next event.

        Raises
        ------
        LatentryError
            If the service does not answer for `patience_s` seconds.
        TimeoutError
            If the job has not ended after `timeout_s` seconds.
        """
        return self._connection.events(f"/v1/jobs/{job_id}/events/stream", timeout_s)

    async def list_models(self, job_id: str) -> list[AsyncModel]:
        """Return all models of a job."""
        return await AsyncPages(self, f"/v1/jobs/{job_id}/models", self.model_of).all()

    async def get_model(self, model_id: str) -> AsyncModel:
        """Read a model: hyperparameters, state, scores."""
        return self.model_of(await self.get(f"/v1/models/{model_id}"))

    def inferences(
        self, *, model_id: str | None = None, job_id: str | None = None, dataset_id: str | None = None
    ) -> AsyncPages[AsyncInference]:
        """List your inferences, newest first; all of them, or those of a model, of a job or of a data set."""
        chosen = {"model_id": model_id, "job_id": job_id, "dataset_id": dataset_id}
        return AsyncPages(self, "/v1/inferences", self.inference_of, **chosen)

    async def get_inference(self, inference_id: str) -> AsyncInference:
        """Read an inference."""
        return self.inference_of(await self.get(f"/v1/inferences/{inference_id}"))

    async def read_dataset_array(self, dataset_id: str, name: str, slice: str | None = None) -> NDArray[Any]:
        """Read an array of a data set, or a slice of it (``0:5,::2``)."""
        return await AsyncArrays(self, f"/v1/datasets/{dataset_id}")[name].read(slice)

    async def read_model_array(self, model_id: str, name: str, slice: str | None = None) -> NDArray[Any]:
        """Read latents of a model, or a slice of them: ``rates`` (spikes/s), ``factors``, …, in the order of your trials."""
        return await AsyncArrays(self, f"/v1/models/{model_id}")[name].read(slice)

    def keys(self) -> AsyncPages[AsyncKey]:
        """List the keys of your lab, newest first, without their secrets."""
        return AsyncPages(self, "/v1/keys", lambda document: AsyncKey(self, document))

    async def create_key(self, name: str, **fields: Any) -> AsyncKey:
        """Create a key; only this answer has its `secret`. Fields: ``scopes``, ``expires_at``, ``tenant``."""
        # Not repeatable: if the answer is lost, the secret is lost with it.
        body = {"name": name, **fields}
        answer = await self.request("POST", "/v1/keys", json=body)
        return AsyncKey(self, answer.json())

    async def share(self, target_id: str, **fields: Any) -> AsyncShare:
        """Share a data set, a job or a model by its id, read-only; only this answer has the `token`.

        Fields: ``label``, ``expires_in_days`` (30 by default), ``expires_at``.
        """
        kind = {"dat": "dataset_id", "mod": "model_id"}.get(target_id[:3], "job_id")
        return AsyncShare(
            self, (await self.request("POST", "/v1/shares", json={kind: target_id, **fields})).json()
        )

    def shares(self, target_id: str | None = None) -> AsyncPages[AsyncShare]:
        """List the shares of your lab, newest first; all of them, or those of a data set, a job or a model."""
        return AsyncPages(
            self, "/v1/shares", lambda document: AsyncShare(self, document), target_id=target_id
        )

    def webhooks(self) -> AsyncPages[AsyncWebhook]:
        """List the URLs that the service notifies when jobs end."""
        return AsyncPages(self, "/v1/webhooks", lambda document: AsyncWebhook(self, document))

    async def create_webhook(self, url: str, **fields: Any) -> AsyncWebhook:
        """Add a URL that the service notifies when jobs end; only this answer has its `secret`. Fields: ``states``."""
        body = {"url": url, **fields}
        answer = await self.request("POST", "/v1/webhooks", json=body)
        return AsyncWebhook(self, answer.json())

    def audit(self, **filters: Any) -> AsyncPages[Answered]:
        """List who changed what, newest first; this needs a key with the scope ``admin``.

        Parameters
        ----------
        filters
            ``object_id``, ``action`` such as ``job.cancelled``, ``kind``, ``by``, ``created_after``, ``created_before``.
        """
        return AsyncPages(self, "/v1/audit", Answered, **filters)

    async def readiness(self) -> Document:
        """Return whether the service can accept and do work, and its workers; also if it cannot."""
        try:
            return await self.get("/readyz")
        except Unavailable as error:
            if "ready" not in error.problem:
                raise
            return error.problem

    def all_usage(self) -> AsyncPages[Answered]:
        """List the usage of all tenants, for the operator."""
        return AsyncPages(self, "/v1/usage/tenants", Answered)

    async def caller(self) -> Document:
        """Return your tenant and the scopes of your key."""
        return await self.get("/v1/caller")

    async def checks(self) -> Document:
        """Return the service's checks of itself, as `latentry doctor` shows them."""
        return await self.get("/v1/checks")

    def dataset_of(self, document: Document) -> AsyncDataset:
        """Return the data set of a document."""
        return AsyncDataset(self, document)

    def job_of(self, document: Document) -> AsyncJob:
        """Return the job of a document."""
        return AsyncJob(self, document)

    def model_of(self, document: Document) -> AsyncModel:
        """Return the model of a document."""
        return AsyncModel(self, document)

    def inference_of(self, document: Document) -> AsyncInference:
        """Return the inference of a document."""
        return AsyncInference(self, document)

    async def _made(self, path: str, body: Document) -> AsyncDataset:
        return await self.wait_for_dataset((await self.post(path, body))["id"])
