"""The state machines of data set, job, model and slice; the edges below are the only ones."""

from enum import StrEnum


class DatasetState(StrEnum):
    """State of a data set.

    ::

        ingesting ──parsed and checked──▶ ready
            └──refused, or attempts spent──▶ rejected
    """

    INGESTING = "ingesting"
    READY = "ready"
    REJECTED = "rejected"


class JobState(StrEnum):
    """State of a job.

    ::

        queued ──first slice claimed──▶ running ──every model ended──▶ inferring ──latents stored──▶ done
          │                              │  └──no model left to select──▶ failed ◀──attempts spent──┘
          └────────────cancel────────────┴──────────────cancel──────────────▶ cancelled (from the first three)
    """

    QUEUED = "queued"
    RUNNING = "running"
    INFERRING = "inferring"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the job can change no more."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


class ModelState(StrEnum):
    """State of a model.

    ::

        queued ──its slice claimed──▶ training ──budget of epochs spent, or wall clock──▶ trained
          │                              ├──loss not finite──▶ diverged
          │                              └──attempts spent──▶ failed
          └──────────cancel──────────────┴──▶ cancelled
    """

    QUEUED = "queued"
    TRAINING = "training"
    TRAINED = "trained"
    DIVERGED = "diverged"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether the model trains no more."""
        return self not in (ModelState.QUEUED, ModelState.TRAINING)


class SliceState(StrEnum):
    """State of a slice.

    ::

        queued ──claim──▶ leased ──reported──▶ done
          ▲                 │ ├──attempts spent, or a deterministic error──▶ failed
          └──lease expired──┘ └──cancel (also from queued)──▶ cancelled
    """

    QUEUED = "queued"
    LEASED = "leased"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
