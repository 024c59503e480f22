"""Models of a job with their latents, and inferences: models that run on other data sets."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from latentry.asynchronous.array_resources import AsyncLatentsOwner
from latentry.asynchronous.resources import CREATED_BY, AsyncTask
from latentry.documents import Document, Field, InferenceState, ModelState
from latentry.labelled import LearningCurve
from latentry.notebook.pages import inference_html, model_html, shown
from latentry.query_params import infer_request

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from latentry.asynchronous.datasets import AsyncDataset
    from latentry.asynchronous.jobs import AsyncJob


class AsyncModel(AsyncLatentsOwner):
    """A model: one candidate of a job."""

    _collection = "models"

    job_id = Field[str]("Id of its job.")

    @property
    async def job(self) -> AsyncJob:
        """Return its job."""
        return await self._client.get_job(self.job_id)

    number = Field[int]("Number within the job: 0, 1, …")
    state = Field[ModelState]("Its state.")
    is_selected = Field[bool]("Whether the job selected it: it has the lowest smoothed SV loss.")
    seed = Field[int]("Seed of everything random in it.")
    architecture = Field[Document]("Sizes of its network.")
    hyperparameters = Field[dict[str, float]]("Hyperparameters of its kept weights.")
    present_hyperparameters = Field[dict[str, float]]("Hyperparameters that it trained with last.")
    trained_by = Field[int | None](
        "Number of the model that trained its kept weights; another model if they were copied."
    )
    scores = Field[dict[str, float | None]](
        "Losses in nats per sample, and the SV loss in bits per spike; of the selected model also further scores. None: not "
        "defined on these trials."
    )
    scored_on = Field[str](
        "Fingerprint of the samples that it is scored on: SV losses of two models can be compared only if it is the same."
    )
    baselines = Field[dict[str, dict[str, float | None]]](
        "Scores of simple predictors on the same samples: ``model.baselines['sv_bits_per_spike_valid']['mean']``."
    )
    baseline_settings = Field[dict[str, dict[str, float | bool]]](
        "Settings of the simple predictors, chosen on the training trials, with ``sd_s`` in seconds."
    )
    epochs_trained = Field[int]("Epochs trained so far.")
    end_reason = Field[str | None]("Why its training ended.")

    @property
    async def learning_curve(self) -> LearningCurve:
        """Return its epochs so far: ``learning_curve["sv_loss"]``."""
        return LearningCurve((await self._client.get(f"{self.path}/learning_curve"))["points"])

    async def export(self, path: str | Path, program: str | None = None, session: int | None = None) -> Path:
        """Download the model as a zip: weights (safetensors), a description (JSON) and code that loads it.

        Parameters
        ----------
        path
            The file, or a folder for it.
        program
            ``torch_export`` or ``onnx`` adds the network as a program.
        session
            For a model of several sessions: number of the session whose neurons the program reads.
        """
        asked = {"program": program, "session": session}
        return await self._client.download(f"{self.path}/export", path, asked)

    async def apply(
        self,
        dataset: AsyncDataset | str | None = None,
        *,
        arrays: Sequence[str] | None = None,
        posterior_samples: int | None = None,
        session: int | None = None,
    ) -> AsyncInference:
        """Run it on a data set of the same neurons; use `AsyncInference.wait` to wait for the latents.

        Parameters
        ----------
        dataset
            The data set, or its id; default: the data set of the model.
        arrays
            Latents to compute, such as ``["rates", "factors"]``.
        posterior_samples
            Number of posterior samples to average.
        session
            For a model of several sessions: number of the session that has these neurons.
        """
        asked = {
            "dataset_id": dataset if dataset is None or isinstance(dataset, str) else dataset.id,
            "arrays": None if arrays is None else list(arrays),
            "posterior_samples": posterior_samples,
            "session": session,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        return self._client.inference_of(await self._client.post(f"{self.path}:apply", given))

    async def delete_latents(self, *, dry_run: bool = False) -> Document:
        """Delete its latents, and return what goes with them; `apply` computes them again. With `dry_run`, delete nothing."""
        return await self._client.delete(f"{self.path}/latents", dry_run=dry_run)

    async def card(self) -> Document:
        """Return its description: what it is, how it was trained, and its scores."""
        return await self._client.get(f"{self.path}/card")

    async def dynamics(self, *, starts: int | None = None, eigenvalues: int | None = None) -> Document:
        """Return what its generator has learnt, without inputs: eigenvalues, ``fixed_points``, ``u`` and ``v`` of `low_rank`.

        Parameters
        ----------
        starts
            Number of states from which fixed points are searched for; 0 for no search.
        eigenvalues
            Number of eigenvalues at most, largest first.
        """
        return await self._client.get(f"{self.path}/dynamics", {"starts": starts, "eigenvalues": eigenvalues})

    async def methods(self) -> Document:
        """Return a paragraph for the methods of a paper as ``text``, with its ``facts`` and ``citations``."""
        return await self._client.get(f"{self.path}/methods")

    async def infer(
        self,
        spikes: ArrayLike,
        *,
        arrays: Sequence[str] | None = None,
        posterior_samples: int | None = None,
        seed: int | None = None,
        first_trial: int | None = None,
        session: int | None = None,
        **further: ArrayLike,
    ) -> dict[str, NDArray[Any]]:
        """Return latents of one or a few trials immediately.

        Parameters
        ----------
        spikes
            Whole counts: trials × bins × neurons, or bins × neurons of one trial; neurons and bins as those of the model.
        arrays
            Latents to compute; default: chosen by the service.
        posterior_samples
            Number of posterior samples to average.
        seed
            Seed of the posterior samples.
        first_trial
            Number of the first trial in its data set; the posterior samples are then those of the stored latents.
        session
            For a model of several sessions: number of the session that has these neurons.
        further
            ``external_inputs`` (trials × bins × inputs) and ``trial_length_bins``.

        Returns
        -------
        dict
            The latents by name, with a first axis of trials if the spikes have one.
        """
        import numpy as np

        asked = {
            "arrays": arrays, "posterior_samples": posterior_samples, "seed": seed, "first_trial": first_trial,
            "session": session,
        }  # fmt: skip
        request = infer_request(spikes, asked, further)
        answer = await self._client.request("POST", f"{self.path}:infer", is_repeatable=True, **request)
        with np.load(io.BytesIO(answer.content), allow_pickle=False) as archive:
            # Scalars describe how the latents were computed.
            return {name: archive[name] for name in archive.files if archive[name].ndim > 0}

    def _repr_html_(self) -> str:
        return shown(self.html, otherwise=lambda: model_html(self, LearningCurve([])))

    async def html(self) -> str:
        """Return what a notebook shows of it: hyperparameters, scores, learning curve."""
        return model_html(self, await self.learning_curve)


class AsyncInference(AsyncTask, AsyncLatentsOwner):
    """A model that runs on a data set; when it is done, it has latents."""

    _collection = "inferences"
    _kind = "inference"

    state = Field[InferenceState]("Its state.")

    progress = Field[Document]("Its progress.")
    posterior_samples = Field[int]("Number of posterior samples that are averaged.")
    sessions = Field[list[int]]("For each session of the data set, the number of the model's session.")
    scores = Field[dict[str, float | None]]("Scores as those of a model, on this data set.")
    baselines = Field[dict[str, dict[str, float | None]]]("Scores of simple predictors on the same samples.")
    baseline_settings = Field[dict[str, dict[str, float | bool]]](
        "Settings of the simple predictors, chosen on the training trials, with ``sd_s`` in seconds."
    )
    created_by = Field[Document | None](CREATED_BY)
    model_id = Field[str]("Id of the model.")
    dataset_id = Field[str]("Id of the data set.")

    async def wait(self, *, timeout_s: float | None = None) -> Self:
        """Wait until its latents are computed.

        Raises
        ------
        NotDone
            If it failed or was cancelled.
        TimeoutError
            If it is not done after `timeout_s` seconds; it continues.
        """
        return await self._wait_until_done(timeout_s)

    def _repr_html_(self) -> str:
        return inference_html(self)
