"""Tables of models: their decisions, learning curves and inferences."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, false, text
from sqlalchemy.orm import Mapped, mapped_column

from domain.states import InferenceState, ModelState
from store.tables.audit import CreatedByMixin
from store.tables.base import Base, Document, LeaseMixin, counter_type, utc_now

HAS_BYTES = "checkpoint_bytes > 0 OR latents_bytes > 0"
"""Condition of the index of models by bytes. A query must have it literally, so that the database uses the index."""


class Model(Base):
    """One candidate of a job."""

    __tablename__ = "models"
    __table_args__ = (
        Index("ix_models_job", "job_id", "number"),
        Index("ix_models_checkpoint", "checkpoint_key"),
        Index("ix_models_start", "start_key"),
        # Of the few models whose weights or latents are kept.
        Index(
            "ix_models_bytes",
            "tenant_id",
            "checkpoint_bytes",
            "latents_bytes",
            sqlite_where=text(HAS_BYTES),
            postgresql_where=text(HAS_BYTES),
        ),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int]  # 0, 1, … within the job
    pack: Mapped[int]  # models of one pack train together
    # Its pack failed, so it trains alone until one slice has succeeded.
    is_alone: Mapped[bool] = mapped_column(default=False, server_default=false())
    refit_of: Mapped[int | None]  # number of the model whose training it repeats on all trials
    state: Mapped[ModelState] = mapped_column(String(20))
    seed: Mapped[int]
    architecture: Mapped[Document]
    hyperparameters: Mapped[Document]  # of its further training
    best_hyperparameters: Mapped[Document | None]  # that trained its best weights
    trained_by: Mapped[
        int | None
    ]  # number of the model that trained its best weights, which it may have copied
    epochs_trained: Mapped[int] = mapped_column(default=0)
    # The model trains until this epoch; then the strategy decides again.
    target_epochs: Mapped[int] = mapped_column(default=0, server_default="0")
    smoothed_sv_loss: Mapped[float | None]  # the lowest so far, which selection compares
    latest_smoothed_sv_loss: Mapped[float | None]
    scores: Mapped[Document] = mapped_column(default=dict)
    # Scores of the baselines: {score: {baseline: value}}, see `worker.inference.baselines`.
    baselines: Mapped[Document | None]
    baseline_settings: Mapped[Document | None]  # what each baseline chose on the training trials
    end_reason: Mapped[str | None]
    checkpoint_key: Mapped[str | None] = mapped_column(String(200))  # may be that of a model it copied
    checkpoint_bytes: Mapped[int | None] = mapped_column(BigInteger)  # None: not measured
    start_key: Mapped[str | None] = mapped_column(String(200))  # checkpoint with whose best weights it begins
    latents_path: Mapped[str | None] = mapped_column(String(200))
    latents_deleted_at: Mapped[datetime | None]  # when a user deleted them, unless there are new ones
    latents_bytes: Mapped[int | None] = mapped_column(BigInteger)  # 0 if an inference has stored them
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None]

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the best weights; None if the model has none, or if it was not recorded."""
        epoch = self.scores.get("best_epoch")
        return int(epoch) if epoch else None

    @property
    def shown_hyperparameters(self) -> Document:
        """Hyperparameters that trained the best weights; those of the further training if there are none yet."""
        return self.hyperparameters if self.best_hyperparameters is None else self.best_hyperparameters


class Decision(Base):
    """A decision of the strategy about a model, and its reason. All decisions make the lineage of the search."""

    __tablename__ = "decisions"
    __table_args__ = (Index("ix_decisions_job", "job_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(counter_type, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    model_number: Mapped[int]
    kind: Mapped[str] = mapped_column(String(10))  # begin, continue, copy or end
    epoch: Mapped[int]  # epochs that the model had trained then
    lowest_sv_loss: Mapped[float | None]  # lowest smoothed SV loss up to then, in nats per sample
    latest_sv_loss: Mapped[float | None]  # smoothed SV loss then
    parent_number: Mapped[int | None]  # the model that it copied
    hyperparameters: Mapped[Document]  # from then on, with searched sizes
    reason: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)


class CurvePoint(Base):
    """One epoch of one model: a point of its learning curve. Losses are in nats per sample."""

    __tablename__ = "curve_points"
    __table_args__ = ({"sqlite_with_rowid": False},)  # the points of a model are beside each other

    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    slice_id: Mapped[str] = mapped_column(String(40))
    train_loss: Mapped[float | None]
    sv_loss: Mapped[float | None]
    sv_bits_per_spike_valid: Mapped[float | None]  # `sv_loss` as bits per spike; None where it is not defined
    sv_loss_train: Mapped[float | None]
    validation_loss: Mapped[float | None]
    smoothed_sv_loss: Mapped[float | None]
    kl_initial_condition: Mapped[float | None]
    kl_inputs: Mapped[float | None]  # only with a controller
    gradient_norm: Mapped[float | None]
    learning_rate: Mapped[float | None]


class Inference(LeaseMixin, CreatedByMixin, Base):
    """Latents of a model for a data set: for another one of the same neurons, or for its own if the job stored none."""

    __tablename__ = "inferences"
    __table_args__ = (
        Index("ix_inferences_tenant", "tenant_id", "id"),
        Index("ix_inferences_state", "state"),
        Index("ix_inferences_model", "model_id"),
        Index("ix_inferences_started", "started_at", "tenant_id"),
        Index("ix_inferences_ended", "ended_at"),
        Index("ix_inferences_bytes", "tenant_id", "latents_bytes"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    model_id: Mapped[str] = mapped_column(ForeignKey("models.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    state: Mapped[InferenceState] = mapped_column(String(20))
    options: Mapped[Document]  # arrays, posterior samples, and the model's session of each session
    checkpoint_key: Mapped[str] = mapped_column(String(200))  # not deleted before the inference ends
    trials_done: Mapped[int] = mapped_column(default=0)
    scores: Mapped[Document] = mapped_column(default=dict)
    baselines: Mapped[Document | None]  # as of a model
    baseline_settings: Mapped[Document | None]
    latents_path: Mapped[str | None] = mapped_column(String(200))
    latents_bytes: Mapped[int | None] = mapped_column(BigInteger)  # None: not measured
    error: Mapped[Document | None]
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
