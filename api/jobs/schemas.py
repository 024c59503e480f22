"""Documents of jobs."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.audit.schemas import CreatedBy
from api.http.links import Link
from api.labels import LabelChanges
from api.models.schemas import SCORED_ON
from domain.job_specification import JobSpecification
from domain.labels import Labels
from domain.states import JobState


class JobProgress(BaseModel):
    """The progress of a job."""

    fraction: float = Field(
        description="Epochs trained, as a share of all epochs that can be trained, 0 to 1. It jumps when models end early."
    )
    models: int = Field(description="Models of the budget.")
    models_ended: int
    epochs_trained: int = Field(description="Epochs trained, over all models.")
    epochs_budget: int = Field(description="Epochs of the budget, over all models.")
    best_smoothed_sv_loss: float | None = Field(
        description="Lowest smoothed SV loss of the weights that models hold, in nats per sample. With `pbt` it can rise: a "
        "model that copies another loses its own kept weights."
    )
    best_sv_bits_per_spike_valid: float | None = Field(
        None,
        description="Gain of the SV loss of that epoch over constant rates (the mean of each neuron), in bits per spike. null: "
        "not defined, see the score `sv_bits_per_spike_valid`.",
    )
    best_model_id: str | None = Field(
        description="Model that holds these weights; if several models hold them, the one that trained them."
    )
    seconds_elapsed: float | None = Field(description="Time since the first slice began, without pauses.")
    device_seconds: float = Field(description="Time of training, summed over devices.")
    seconds_left: float | None = Field(
        description="Estimate of the seconds until the latents are stored: before the first epoch the estimate of "
        "`validate_only`, then from the job's own pace. Models that end early make it shorter. null while the job is paused "
        "and once it has ended."
    )
    waits_for: str | None = Field(
        description="Why a part of the job waits: for device time of your tenant, for space on a full disk, or because the "
        "operator paused your tenant. The service continues by itself."
    )


class JobCurve(BaseModel):
    """The learning curve of one model at some epochs."""

    model_id: str
    epoch: list[int]
    smoothed_sv_loss: list[float | None] = Field(description="In nats per sample.")


class RunningOn(BaseModel):
    """A training process that works on a job now."""

    device: str | None = Field(description="Such as `cpu` or `cuda:0`; null if the process is not known yet.")
    kind: str = Field(description="`train` or `infer`.")
    models: int = Field(description="Number of models that it trains.")
    since: datetime | None


class ModelCurve(BaseModel):
    """The points of a learning curve, by column. Losses are in nats per sample."""

    model_id: str
    number: int
    epoch: list[int]
    sv_loss: list[float | None]
    smoothed_sv_loss: list[float | None]
    validation_loss: list[float | None]
    train_loss: list[float | None]


class CurvesDocument(BaseModel):
    """The learning curves of all models of a job at the same epochs."""

    job_id: str
    step: int = Field(
        description="Every `step`-th epoch has a point; a power of two. Each curve also has its first, best and last epoch."
    )
    is_thinned: bool = Field(description="Whether the curves are old and have only some epochs.")
    next_after: str = Field(description="Pass it as `after` to get only later points.")
    models: list[ModelCurve] = Field(description="By number; also models without new points.")


_LOST_SHARE = (
    "1 - (gain over constant rates on held-out samples) / (gain on samples that the model reads). Near 0 for a model that infers "
    "rates; above 1 if it predicts held-out samples worse than constant rates do. null if it gains nothing on the samples that "
    "it reads, or if leaks are not judged."
)


class ModelDiagnostics(BaseModel):
    """Losses of a model on validation trials, in nats per sample; lower is better."""

    number: int
    best_epoch: int | None = Field(
        None, description="Epoch of the kept weights: that of the lowest smoothed SV loss."
    )
    sv_loss: float | None = Field(description="SV loss of the kept weights: on held-out samples.")
    validation_loss: float | None = Field(
        description="Validation loss of the kept weights: on samples that the model reads."
    )
    gap: float | None = Field(description="`sv_loss` less `validation_loss`, in nats per sample.")
    lost_share: float | None = Field(description=f"Of the kept weights: {_LOST_SHARE}")
    last_epoch: int | None = Field(None, description="Epochs that the model trained.")
    last_sv_loss: float | None = Field(None, description="SV loss of the last epoch.")
    last_validation_loss: float | None = Field(None, description="Validation loss of the last epoch.")
    last_lost_share: float | None = Field(None, description="`lost_share` of the last epoch.")


class BaselineComparison(BaseModel):
    """The score of the selected model relative to a simple predictor, on the same held-out samples."""

    score: str = Field(description="`sv_bits_per_spike_valid` or `sv_bits_per_spike_test`.")
    baseline: str = Field(description="`mean`, `psth` or `smoothed_spikes`, see `baselines` of the model.")
    difference: float = Field(
        description="The model's score less that of the simple predictor, in bits per spike."
    )
    standard_error: float | None = Field(
        description="Standard error of the difference over trials; null for fewer than two trials."
    )
    verdict: Literal["above", "about_as_good", "below"] = Field(
        description="Verdict on the model: `about_as_good` if the difference is within two standard errors."
    )


class JobDiagnostics(BaseModel):
    """Which models leak, and whether the validation loss would have misled.

    The diagnostics cover all models of the search that have losses and did not diverge, with their kept weights and at their last
    epoch.
    """

    rank_correlation: float | None = Field(
        description="Spearman's rank correlation over models, between the SV loss of the kept weights and the lower of "
        "`validation_loss` and `last_validation_loss`. Near 1: both validations agree. null for fewer than 3 models."
    )
    leaking: list[int] | None = Field(
        description="Numbers of the models whose kept weights pass single spikes from input to output. null if leaks are not "
        "judged."
    )
    leaking_later: list[int] | None = Field(
        None,
        description="Numbers of the models that leak at their last epoch, but not with the kept weights, which are from an "
        "earlier epoch. null if leaks are not judged.",
    )
    best_by_sv: int | None = Field(
        description="Number of the model whose kept weights have the lowest SV loss."
    )
    best_by_validation_loss: int | None = Field(
        description="Number of the model of the lowest validation loss, with the kept weights or at the last epoch: ordinary "
        "validation would select it."
    )
    selected: int | None = Field(
        description="Number of the selected model, which has the lowest smoothed SV loss."
    )
    is_best_epoch_in_ramp: bool = Field(
        False,
        description="Whether the kept weights of the selected model are from an epoch within the ramp "
        "(`training.ramp_epochs`), when the penalties of KL and L2 have not reached their full weights.",
    )
    constant_sv_loss: float = Field(
        description="SV loss of constant rates, each neuron's mean over the training samples that enter, in nats per sample. "
        "Gains are differences to it."
    )
    constant_validation_loss: float = Field(
        description="Validation loss of constant rates, in nats per sample."
    )
    baselines: list[BaselineComparison] = Field(
        [], description="The selected model against simple predictors."
    )
    warning: str | None = Field(
        description="What to know before you use the latents: models leak, the selected weights are from within the ramp, the "
        "model predicts no better than a simple predictor, or its hyperparameters lie outside their ranges. It says what to "
        "change."
    )
    note: str | None = Field(description="Why leaks are not judged; null if they are.")
    models: list[ModelDiagnostics]


class JobDocument(Labels):
    """A job."""

    id: str
    name: str
    dataset_id: str
    dataset_name: str
    state: JobState
    progress: JobProgress
    selected_model_id: str | None = Field(
        None,
        description="The model with the lowest smoothed SV loss; if several models hold the same kept weights, the one that "
        "trained them.",
    )
    final_model_id: str | None = Field(
        None,
        description="With `inference.refit`, the model trained on training and validation trials, whose latents are stored.",
    )
    warnings: list[str] = Field(
        [], description="Settings of the request that are allowed and probably not intended."
    )
    trained_with: list[dict[str, str | None]] = Field(
        [],
        description="Versions of Latentry and torch that trained it: several if the service was upgraded, or if its workers "
        "differ. Empty before the first slice ends, and if they were not recorded.",
    )
    precision: str | None = Field(
        None,
        description="`float32` or `bfloat16`, in which its models train: as specified, or as the first slice measured. "
        "Null before that, and if it was not recorded.",
    )
    scored_on: str | None = Field(
        None,
        description=f"{SCORED_ON} null: only in an answer that was stored for an `Idempotency-Key` before this field existed.",
    )
    diagnostics: JobDiagnostics | None = Field(None, description="Diagnostics, once the job is done.")
    error: dict[str, Any] | None = None
    stored_bytes: int = Field(0, description="Size of the weights and latents that it keeps, in bytes.")
    specification: JobSpecification
    created_at: datetime
    created_by: CreatedBy = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    running_on: list[RunningOn] = Field([], description="The training processes that work on it now.")
    curve: JobCurve | None = Field(
        None,
        description="In lists with `include=curve`: about 30 to 60 points of the learning curve of the best model so far.",
    )
    links: dict[str, Link]


class JobPreview(BaseModel):
    """What a job would do, and what it would need."""

    valid: bool
    models: int
    epochs: int = Field(
        description="Largest number of epochs over all models; with successive halving, only of models that continue at each "
        "rung (with `asha` approximately)."
    )
    training_trials: int
    validation_trials: int
    test_trials: int = Field(description="Trials that neither train nor select a model.")
    steps_per_epoch: int
    packs: int = Field(description="Groups of models that train together, with the workers that are alive.")
    slices: int = Field(description="Number of slices; the last one computes the latents.")
    seconds: float = Field(
        description="Estimate of the time in seconds until the latents are stored, if the workers do nothing else and no model "
        "ends early for lack of progress."
    )
    device_seconds: float = Field(
        description="Estimate of the time of training in seconds, summed over devices; without the latents."
    )
    seconds_basis: Literal["measured", "assumed"] = Field(
        description="`measured`: from the pace of the last trainings on this service. `assumed`: this service has not trained "
        "anything yet; from a short measurement that each worker makes when it starts."
    )
    workers: int = Field(description="Number of training processes that are alive; 1 if there are none.")
    kept_bytes: int = Field(description="Size of the kept weights and of the learning curves.")
    latents_bytes: int = Field(description="Size of all latents of one model before compression.")
    refused_by: list[str] = Field(
        description="Quotas that would refuse this job now, with what is used and allowed. Empty: none."
    )
    waits_for: str | None = Field(
        description="Why the job would not begin at once: the device time of your tenant is spent, or the operator paused your "
        "tenant. null: it would."
    )
    step_memory_bytes: int = Field(description="Approximate memory of a training step of one model.")
    external_inputs: int = Field(description="Number of known inputs in each bin, from the data set.")
    scored_on: str = Field(description=SCORED_ON)
    specification: JobSpecification = Field(description="The specification with all defaults.")
    warnings: list[str]


class EventDocument(BaseModel):
    """An event of a job."""

    id: int
    kind: str = Field(
        description="`job.state`, `job.extended`, `job.diagnostics`, `model.state`, `model.copied`, `slice.state` or "
        "`progress`."
    )
    created_at: datetime
    data: dict[str, Any]


class BudgetExtension(BaseModel):
    """An addition to the budget of a job."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    models: int = Field(0, ge=0, le=1000, description="Number of further models.")
    epochs: int = Field(0, ge=0, le=100_000, description="Number of further epochs for each model.")
    wall_seconds: float = Field(0, ge=0, description="Further seconds, if the job has this limit.")
    device_seconds: float = Field(0, ge=0, description="Further seconds, if the job has this limit.")


class JobChanges(LabelChanges):
    """A JSON Merge Patch (RFC 7396): fields that you do not give stay, and `null` resets a field to its default."""

    priority: int | None = Field(
        None,
        ge=-10,
        le=10,
        description="Among your own jobs, those with a higher priority are trained first.",
    )
