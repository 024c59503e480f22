"""The states of the rows in the database. Tests read the transitions from the drawings: there are no others."""

from enum import StrEnum


class UploadState(StrEnum):
    """State of an upload. The service deletes an upload that nobody continues or uses.

    ::

        receiving ──the last byte arrived──▶ complete
    """

    RECEIVING = "receiving"
    COMPLETE = "complete"


class DatasetState(StrEnum):
    """State of a data set.

    ::

        ingesting ──parsed and checked──▶ ready
        ingesting ──the file cannot be used──▶ rejected
        ingesting ──the service cannot read files, attempts spent──▶ failed
        failed    ──retry, or the same upload again──▶ ingesting
        ingesting ──delete──▶ deleting
        ready     ──delete──▶ deleting
        rejected  ──delete──▶ deleting
        failed    ──delete──▶ deleting

    Workers delete what belongs to it, and its row at last.
    """

    INGESTING = "ingesting"
    READY = "ready"
    REJECTED = "rejected"
    FAILED = "failed"
    DELETING = "deleting"


class JobState(StrEnum):
    """State of a job.

    ::

        queued    ──first slice claimed──▶ running
        queued    ──pause──▶ paused
        queued    ──stop──▶ stopping
        queued    ──cancel──▶ cancelled
        queued    ──resumed, and nothing is left to train──▶ inferring
        queued    ──resumed, and none to select──▶ failed
        running   ──every model ended──▶ inferring
        running   ──every model ended, none to select──▶ failed
        running   ──pause──▶ paused
        running   ──stop──▶ stopping
        running   ──cancel──▶ cancelled
        paused    ──resume──▶ queued
        paused    ──stop──▶ stopping
        paused    ──cancel──▶ cancelled
        stopping  ──slices under way reported──▶ inferring
        stopping  ──none to select──▶ failed
        stopping  ──cancel──▶ cancelled
        inferring ──latents stored──▶ done
        inferring ──attempts spent──▶ failed
        inferring ──cancel──▶ cancelled
        failed    ──retry──▶ queued
        cancelled ──retry──▶ queued
        done      ──extend──▶ queued
        queued    ──delete──▶ deleting
        running   ──delete──▶ deleting
        paused    ──delete──▶ deleting
        stopping  ──delete──▶ deleting
        inferring ──delete──▶ deleting
        done      ──delete──▶ deleting
        failed    ──delete──▶ deleting
        cancelled ──delete──▶ deleting

    Workers delete what belongs to it, and its row at last.
    """

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    INFERRING = "inferring"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETING = "deleting"

    @property
    def is_final(self) -> bool:
        """Whether no worker trains or infers for the job any more unless the user acts."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.DELETING)


WORKED_ON = (JobState.QUEUED, JobState.RUNNING, JobState.INFERRING)
"""States in which a job may begin slices. Paused and stopping jobs begin none."""


class ModelState(StrEnum):
    """State of a model.

    ::

        queued    ──its slice claimed──▶ training
        queued    ──cancel, stop, or a budget over before it began──▶ cancelled
        training  ──its budget or the job's is spent, or its loss no longer improves──▶ trained
        training  ──the strategy ends it early──▶ stopped
        training  ──loss not finite──▶ diverged
        training  ──failed alone after its attempts──▶ failed
        training  ──cancel──▶ cancelled
        trained   ──extend──▶ training
        failed    ──retry, nothing learnt yet──▶ queued
        failed    ──retry──▶ training
        cancelled ──retry or extend, nothing learnt yet──▶ queued
        cancelled ──retry or extend──▶ training
    """

    QUEUED = "queued"
    TRAINING = "training"
    TRAINED = "trained"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the training of the model has ended."""
        return self not in (ModelState.QUEUED, ModelState.TRAINING)


class SliceState(StrEnum):
    """State of a slice.

    ::

        queued ──claim──▶ leased
        queued ──cancel, pause, stop, or a budget over──▶ cancelled
        leased ──reported──▶ done
        leased ──worker lost, or an attempt failed──▶ queued
        leased ──the disk or the database failed: queued until `not_before`, no attempt spent──▶ queued
        leased ──attempts spent──▶ failed
        leased ──cancel──▶ cancelled

    The deletion of its job cancels it too.
    """

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class InferenceState(StrEnum):
    """State of an inference: a model run on a data set.

    ::

        queued  ──claim──▶ running
        queued  ──cancel──▶ cancelled
        running ──latents stored──▶ done
        running ──worker lost, or an attempt failed──▶ queued
        running ──the disk or the database failed: delayed, no attempt spent──▶ queued
        running ──attempts spent──▶ failed
        running ──cancel──▶ cancelled
        queued    ──delete──▶ deleting
        running   ──delete──▶ deleting
        done      ──delete──▶ deleting
        failed    ──delete──▶ deleting
        cancelled ──delete──▶ deleting

    Workers delete its latents, and its row at last. It also goes with its model or its data set.
    """

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    DELETING = "deleting"

    @property
    def is_final(self) -> bool:
        """Whether the inference has ended."""
        return self not in (InferenceState.QUEUED, InferenceState.RUNNING)


class DeliveryState(StrEnum):
    """State of a message to a webhook.

    ::

        waiting ──answered 2xx──▶ delivered
        waiting ──attempts spent, or the webhook was deleted──▶ given_up
    """

    WAITING = "waiting"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
