"""Jobs: searches over models of a data set."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

from latentry.asynchronous.models import AsyncModel
from latentry.asynchronous.resources import AsyncPages, AsyncResource
from latentry.documents import (
    Answered,
    CurvePoint,
    Document,
    Field,
    JobProgress,
    JobState,
    TimeField,
    selection_order,
)
from latentry.errors import NotDone
from latentry.notebook.pages import MOST_CURVES, job_html, shown

if TYPE_CHECKING:
    from latentry.asynchronous.datasets import AsyncDataset


class AsyncJob(AsyncResource):
    """A job: one search over models of a data set."""

    _collection = "jobs"

    name = Field[str]("As it was given.")
    state = Field[JobState]("Where it stands.")

    @property
    def is_final(self) -> bool:
        """Whether nothing happens to it any more by itself."""
        return self.state in ("done", "failed", "cancelled")

    dataset_id = Field[str]("Id of the data set whose models it searches.")
    dataset_name = Field[str]("Name of that data set.")
    progress = Field[JobProgress]("How far it has come.")
    specification = Field[Document]("What it was asked, with every default written out.")
    warnings = Field[list[str]]("What of the request is allowed and probably not meant.")
    scored_on = Field[str](
        "Fingerprint of what its SV losses are means of: those of two jobs can be compared only if it is the same."
    )
    trained_with = Field[list[dict[str, str]]]("Versions of Latentry and torch that trained it.")
    diagnostics = Field[Document | None](
        "Whether ordinary validation would have misled; None before it is done."
    )
    error = Field[Document | None]("Why it failed.")
    started_at = TimeField("When its first slice began (UTC).")
    ended_at = TimeField("When it came to its end (UTC); None before.")
    links = Field[dict[str, str]]("Paths of what belongs to it.")
    selected_model_id = Field[str | None](
        "Id of the model of the lowest smoothed SV loss; None before it is selected."
    )
    final_model_id = Field[str | None](
        "Id of the model that was trained on all trials; None unless the job asked for one."
    )

    @property
    async def dataset(self) -> AsyncDataset:
        """The data set whose models it searches."""
        return await self._client.get_dataset(self.dataset_id)

    @property
    def models(self) -> AsyncPages[AsyncModel]:
        """All its models, by number."""
        return AsyncPages(self._client, f"{self.path}/models", self._client.model_of)

    @property
    async def selected_model(self) -> AsyncModel | None:
        """The model of the lowest smoothed SV loss; None before it is selected."""
        return await self._client.get_model(self.selected_model_id) if self.selected_model_id else None

    @property
    async def final_model(self) -> AsyncModel | None:
        """The model that was trained on all trials; None unless the job asked for one."""
        return await self._client.get_model(self.final_model_id) if self.final_model_id else None

    async def wait(self, *, timeout_s: float | None = None, display: bool = True) -> Self:
        """Wait until it is done, for as long as it takes: also while it is paused.

        Parameters
        ----------
        timeout_s
            At most so many seconds.
        display
            Show how it goes, where there is a terminal or a notebook.

        Raises
        ------
        NotDone
            If it failed or was cancelled.
        TimeoutError
            If it is not done in time; it goes on.
        """
        from latentry.display import live_display

        shown = live_display(self) if display and not self.is_final else None
        if shown is not None:
            with shown:
                async for event in self.events(timeout_s=timeout_s):
                    shown.take(event)
                    if shown.is_due:
                        shown.renew(await self.refresh())
            await self.refresh()
        started = monotonic()
        while not self.is_final:
            left_s = 30.0 if timeout_s is None else started + timeout_s - monotonic()
            if left_s <= 0:
                raise TimeoutError(f"the job {self.id} is {self.state} after {timeout_s:g} s; it goes on")
            wait = {"Prefer": f"wait={max(1, round(min(left_s, 30.0)))}"}
            self._renew(await self._client.get(self.path, headers=wait))
        if self.state != "done":
            raise NotDone(f"the job {self.id} is {self.state}", (self.error or {}).get("message", ""))
        return self

    def events(self, *, timeout_s: float | None = None) -> AsyncIterator[Document]:
        """Follow what happens to it, from its beginning to its end; a connection that breaks is taken up where it was.

        Raises
        ------
        TimeoutError
            If it has not ended in so many seconds.
        """
        return self._client.events(self.id, timeout_s=timeout_s)

    async def pause(self) -> Self:
        """Let it rest: what is under way ends its epoch and is kept."""
        return await self._act("pause")

    async def resume(self) -> Self:
        """Go on where it was."""
        return await self._act("resume")

    async def stop(self) -> Self:
        """End the training with what is there: the best model so far is selected, and its latents are computed."""
        return await self._act("stop")

    async def cancel(self) -> Self:
        """Drop it now."""
        return await self._act("cancel")

    async def retry(self) -> Self:
        """Go on after it failed or was cancelled, from what its models have learnt."""
        return await self._act("retry")

    async def extend(self, **more: float) -> Self:
        """Add to its budget: ``models``, ``epochs``, ``wall_seconds``, ``device_seconds``; see `Client.extend_job`."""
        self._renew(await self._client.extend_job(self.id, **more))  # type: ignore[arg-type]  # models and epochs are whole
        return self

    async def change(self, *, name: str | None = None, priority: int | None = None) -> Self:
        """Change its name, or its priority (-10 … 10) among your jobs; None leaves it."""
        self._renew(await self._client.change_job(self.id, name=name, priority=priority))
        return self

    @property
    def history(self) -> AsyncPages[Answered]:
        """What happened to it so far, in order; `events` goes on with what happens later."""
        return AsyncPages(self._client, f"{self.path}/events", Answered)

    @property
    def decisions(self) -> AsyncPages[Answered]:
        """What the strategy decided about its models, in order, and why."""
        return AsyncPages(self._client, f"{self.path}/decisions", Answered)

    async def importance(self) -> Document:
        """Which of the searched hyperparameters matter, and how models did along each of them."""
        return await self._client.importance(self.id)

    async def lineage(self, model: int | None = None) -> Document:
        """Whose weights a model has, from epoch to epoch: by number, else the selected one, else the best so far."""
        return await self._client.lineage(self.id, model)

    async def lineage_picture(self, model: int | None = None) -> str:
        """The whole search drawn as SVG, with the lineage of one model thick."""
        return await self._client.lineage_picture(self.id, model)

    def _repr_html_(self) -> str:
        return shown(self.html, otherwise=lambda: job_html(self, [], {}))

    async def html(self) -> str:
        """What a notebook shows of it: progress, the best models, their learning curves."""
        models: list[Any] = await self.models.all()
        models.sort(key=selection_order)
        curves: dict[int, list[CurvePoint]] = {}
        for model in models[:MOST_CURVES]:
            curves[model["number"]] = (await model.learning_curve).points
        return job_html(self, models, curves)

    async def _act(self, verb: str) -> Self:
        self._renew(await self._client.act(f"{self.path}:{verb}"))
        return self
