"""A synchronous client of the HTTP API."""

import io
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from latentry.errors import LatentryError, error_of
from latentry.resumable import PATIENCE_SECONDS, Progress, ResumableUpload, pieces

Document = dict[str, Any]

_WHOLE_BYTES = 64 * 10**6
"""Larger files are sent in pieces."""


class Client:
    """Talks to a Latentry service.

    Parameters
    ----------
    url
        Where it is, e.g. ``http://127.0.0.1:8000``.
    timeout_s
        For the answer to one request, in seconds.
    """

    def __init__(self, url: str, *, timeout_s: float = 90.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def upload_dataset(
        self,
        path: str | Path,
        *,
        name: str = "",
        options: Document | None = None,
        resumable: bool | None = None,
        progress: Progress | None = None,
        **fields: Any,
    ) -> Document:
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

        Returns
        -------
        dict
            The data set with its report.

        Raises
        ------
        LatentryError
            If it is rejected; the message has the reasons.
        """
        path = Path(path)
        size = path.stat().st_size
        if resumable if resumable is not None else size > _WHOLE_BYTES:
            upload_id = self.upload_file(path, progress=progress)
            body = {"upload_id": upload_id, "name": name, "options": {**(options or {}), **fields}}
            return self.wait_for_dataset(self._post("/v1/datasets", body)["id"])
        parameters = {"filename": path.name, "name": name, **fields}
        if options is not None:
            parameters["options"] = json.dumps(options)
        with path.open("rb") as file:
            answer = self._request(
                "POST",
                "/v1/datasets",
                params=parameters,
                content=pieces(file, size, progress),
                headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
            )
        return self.wait_for_dataset(answer.json()["id"])

    def upload_file(self, path: str | Path, *, progress: Progress | None = None) -> str:
        """Upload a file in pieces (tus), going on where it was when the connection breaks.

        Returns
        -------
        str
            Id of the upload, for ``POST /v1/datasets``.

        Raises
        ------
        LatentryError
            If the service refuses it, or does not answer for a minute.
        OSError
            If the file changed while it was sent.
        """
        try:
            return ResumableUpload(self._http, Path(path), progress).send(error_of)
        except httpx.TransportError as error:
            raise LatentryError(f"the service at {self.url} does not answer: {error}") from error

    def derive_dataset(self, dataset_id: str, options: Document, name: str = "") -> Document:
        """Make another data set of the same file, read with other options, and wait until it is ready.

        Parameters
        ----------
        dataset_id
            A data set that was uploaded; also one that was rejected.
        options
            How to read the file. They replace the other's whole: what is not given has its default.
        name
            Of the data set; the other's unless given.

        Raises
        ------
        LatentryError
            If it is rejected; the message has the reasons.
        """
        answer = self._post(f"/v1/datasets/{dataset_id}:derive", {"name": name, "options": options})
        return self.wait_for_dataset(answer["id"])

    def combine_datasets(self, dataset_ids: list[str], name: str = "") -> Document:
        """Make one data set of several sessions, whose neurons differ, and wait until it is ready.

        Raises
        ------
        LatentryError
            If they do not fit together.
        """
        body = {"dataset_ids": dataset_ids, "name": name}
        return self.wait_for_dataset(self._post("/v1/datasets:combine", body)["id"])

    def synthesize_dataset(self, system: str = "lorenz", **parameters: Any) -> Document:
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

        Returns
        -------
        dict
            The data set with its report.
        """
        answer = self._post("/v1/datasets:synthesize", {"system": system, **parameters})
        return self.wait_for_dataset(answer["id"])

    def wait_for_dataset(self, dataset_id: str) -> Document:
        """Wait until a data set is ready.

        Raises
        ------
        LatentryError
            If it is rejected.
        """
        while True:
            dataset = self._wait(f"/v1/datasets/{dataset_id}")
            if dataset["state"] == "rejected":
                problems = dataset["problems"]
                message = "; ".join(problem["message"] for problem in problems)
                hint = "; ".join(problem["hint"] for problem in problems if problem.get("hint"))
                raise LatentryError(f"the data set was rejected: {message}", hint)
            if dataset["state"] == "ready":
                return dataset

    def create_job(self, specification: Document) -> Document:
        """Begin a search; every field but ``dataset_id`` has a default."""
        return self._post("/v1/jobs", specification)

    def preview_job(self, specification: Document) -> Document:
        """What a search would do and take, without doing it: epochs, seconds, memory, warnings, every default written out."""
        return self._post("/v1/jobs", specification, params={"validate_only": "true"})

    def get_job(self, job_id: str) -> Document:
        """Read a job."""
        return self.get(f"/v1/jobs/{job_id}")

    def change_job(self, job_id: str, *, name: str | None = None, priority: int | None = None) -> Document:
        """Change the name of a job, or its priority (-10 … 10) among yours; None leaves it."""
        changes = {"name": name, "priority": priority}
        body = {field: value for field, value in changes.items() if value is not None}
        document: Document = self._request("PATCH", f"/v1/jobs/{job_id}", json=body).json()
        return document

    def pause_job(self, job_id: str) -> Document:
        """Let a job rest: what is under way ends its epoch and is kept."""
        return self._post(f"/v1/jobs/{job_id}:pause", None)

    def resume_job(self, job_id: str) -> Document:
        """Go on with a paused job where it was."""
        return self._post(f"/v1/jobs/{job_id}:resume", None)

    def stop_job(self, job_id: str) -> Document:
        """End the training with what is there: the best model so far is selected, and its latents are computed."""
        return self._post(f"/v1/jobs/{job_id}:stop", None)

    def cancel_job(self, job_id: str) -> Document:
        """Drop a job now."""
        return self._post(f"/v1/jobs/{job_id}:cancel", None)

    def retry_job(self, job_id: str) -> Document:
        """Go on with a job that failed or was cancelled, from what its models have learnt."""
        return self._post(f"/v1/jobs/{job_id}:retry", None)

    def extend_job(
        self,
        job_id: str,
        *,
        models: int = 0,
        epochs: int = 0,
        wall_seconds: float = 0,
        device_seconds: float = 0,
    ) -> Document:
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
        return self._post(f"/v1/jobs/{job_id}:extend", {**more, **limits})

    def importance(self, job_id: str) -> Document:
        """Which of the searched hyperparameters matter, and how models did along each of them."""
        return self.get(f"/v1/jobs/{job_id}/importance")

    def decisions(self, job_id: str) -> list[Document]:
        """What the strategy decided about the models of a job, in order, and why."""
        return list(self._items(f"/v1/jobs/{job_id}/decisions"))

    def lineage(self, job_id: str, model: int | None = None) -> Document:
        """Whose weights a model has, from epoch to epoch: by number, else the selected one, else the best so far."""
        return self.get(f"/v1/jobs/{job_id}/lineage", params={} if model is None else {"model": model})

    def lineage_picture(self, job_id: str, model: int | None = None) -> str:
        """The whole search drawn as SVG, with the lineage of one model thick."""
        parameters = {} if model is None else {"model": model}
        return self._request("GET", f"/v1/jobs/{job_id}/lineage.svg", params=parameters).text

    def wait_for_job(self, job_id: str) -> Document:
        """Wait until a job is done, for as long as it takes: also while it is paused.

        Raises
        ------
        LatentryError
            If it failed or was cancelled.
        """
        while True:
            job = self._wait(f"/v1/jobs/{job_id}")
            if job["state"] == "done":
                return job
            if job["state"] in ("failed", "cancelled"):
                raise LatentryError(
                    f"the job {job_id} is {job['state']}", (job["error"] or {}).get("message", "")
                )

    def list_models(self, job_id: str) -> list[Document]:
        """All models of a job."""
        return list(self._items(f"/v1/jobs/{job_id}/models"))

    def get_model(self, model_id: str) -> Document:
        """Read a model: hyperparameters, state, scores."""
        return self.get(f"/v1/models/{model_id}")

    def events(self, job_id: str) -> Iterator[Document]:
        """Follow what happens to a job until it ends; a connection that breaks is taken up where it was.

        Raises
        ------
        LatentryError
            If the service does not answer for a minute.
        """
        last_id, last_sign = "0", time.monotonic()
        while True:
            try:
                headers = {"Last-Event-ID": last_id}
                with self._http.stream("GET", f"/v1/jobs/{job_id}/events/stream", headers=headers) as answer:
                    is_patient = time.monotonic() - last_sign < PATIENCE_SECONDS
                    if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and is_patient:
                        time.sleep(1.0)
                        continue
                    if answer.is_error:
                        answer.read()
                        raise error_of(answer)
                    for line in answer.iter_lines():
                        if line.startswith("data:"):
                            event: Document = json.loads(line[5:])
                            last_id, last_sign = str(event["id"]), time.monotonic()
                            yield event
                return
            except httpx.TransportError as error:
                if time.monotonic() - last_sign > PATIENCE_SECONDS:
                    raise LatentryError(f"the service at {self.url} does not answer: {error}") from error
                time.sleep(1.0)

    def read_dataset_array(self, dataset_id: str, name: str, slice: str | None = None) -> NDArray[Any]:
        """Read an array of a data set, or a slice of it (``0:5,::2``)."""
        return self._array(f"/v1/datasets/{dataset_id}/arrays/{name}", slice)

    def read_model_array(self, model_id: str, name: str, slice: str | None = None) -> NDArray[Any]:
        """Read latents of a model, or a slice of them: ``rates`` (spikes/s), ``factors``, …, in your order of trials."""
        return self._array(f"/v1/models/{model_id}/arrays/{name}", slice)

    def get(self, path: str, **arguments: Any) -> Document:
        """GET a document."""
        document: Document = self._request("GET", path, **arguments).json()
        return document

    def _wait(self, path: str) -> Document:
        """GET a document once it has come to its end, or as it is after half a minute."""
        started = time.monotonic()
        while True:
            try:
                return self.get(path, headers={"Prefer": "wait=30"})
            except LatentryError as error:
                is_away = error.status == httpx.codes.SERVICE_UNAVAILABLE
                if not is_away or time.monotonic() - started > PATIENCE_SECONDS:
                    raise
                time.sleep(1.0)

    def _post(self, path: str, body: Document | None, **arguments: Any) -> Document:
        # The key lets a repeated request (a lost answer) be answered without being done twice.
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        document: Document = self._request("POST", path, json=body, headers=headers, **arguments).json()
        return document

    def _items(self, path: str) -> Iterator[Document]:
        parameters: dict[str, Any] = {}
        while True:
            page = self.get(path, params=parameters)
            yield from page["items"]
            if not page["next_page_token"]:
                return
            parameters["page_token"] = page["next_page_token"]

    def _array(self, path: str, slice: str | None) -> NDArray[Any]:
        parameters = {"format": "npy"} | ({"slice": slice} if slice else {})
        answer = self._request("GET", path, params=parameters)
        values: NDArray[Any] = np.load(io.BytesIO(answer.content), allow_pickle=False)
        return values

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **arguments)
        except httpx.ConnectError as error:
            raise LatentryError(
                f"nothing answers at {self.url}", "is the service running? `latentry up` starts one"
            ) from error
        except httpx.TransportError as error:
            raise LatentryError(
                f"the connection to {self.url} broke: {error or type(error).__name__}"
            ) from error
        if answer.is_error:
            raise error_of(answer)
        return answer
