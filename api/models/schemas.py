"""Documents of models."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.http.links import Link
from domain.states import ModelState

SCORED_ON = (
    "Fingerprint of the samples that SV losses are means of: data set, split, held-out samples, and what models may read. SV "
    "losses of two jobs can be compared only if it is the same. A refit has a different fingerprint, because it was trained on "
    "the validation trials."
)
BASELINES = (
    "Scores of simple predictors on the same samples, by score and predictor: `mean` (each neuron's mean over training trials), "
    "`psth` (its mean by bin over training trials), `smoothed_spikes` (its own spikes in the same trial). A predictor is left "
    "out where it has no prediction. Empty for models without latents."
)
BASELINE_SETTINGS = (
    "What the simple predictors use, chosen on the training trials: `sd_s`, the standard deviation of the Gaussian in seconds; "
    "`prior_spikes`, the weight of the neuron's mean, in spikes; `by_condition`, whether `psth` is by condition."
)


class ModelDocument(BaseModel):
    """A model: one candidate of a job."""

    id: str
    job_id: str
    number: int = Field(description="0, 1, … within the job.")
    state: ModelState
    is_selected: bool = Field(description="Whether the job selected it, for the lowest smoothed SV loss.")
    seed: int
    architecture: dict[str, Any] = Field(
        description="As in the job, with the number of external inputs of the data set."
    )
    hyperparameters: dict[str, float] = Field(
        description="Hyperparameters that trained the kept weights; without those of a controller if the model has none. With "
        "`pbt`, they are those of the lineage's segment with the epoch `scores.best_epoch`. Before there are weights, they are "
        "the first ones."
    )
    present_hyperparameters: dict[str, float] = Field(
        description="Hyperparameters of the present or last training. They differ from `hyperparameters` if `pbt` changed them "
        "after the epoch of the kept weights."
    )
    trained_by: int | None = Field(
        description="Number of the model that trained the kept weights. With `pbt` it may be another model, which this one "
        "copied, until this one reaches a lower smoothed SV loss itself. null before there are weights, and if it was not "
        "recorded."
    )
    epochs_trained: int
    scores: dict[str, int | float | None] = Field(
        description="Losses in nats per sample. `sv_loss` and `validation_loss` are those of the kept weights, from epoch "
        "`best_epoch`; names that begin with `last_` are of the last epoch. Trust `sv_loss`; `validation_loss` misleads. "
        "`smoothed_sv_loss` is that of the kept weights, which selection compares. With `pbt`, `own_smoothed_sv_loss` is the "
        "lowest that the model reached since it last copied another. The selected model also has bits per spike and R², see the "
        "guide. Scores that end with `_valid` are of validation trials, on which the model was selected; those that end with "
        "`_test` are of test trials and unbiased. null: not defined on these trials, or not known yet."
    )
    scored_on: str = Field(description=SCORED_ON)
    baselines: dict[str, dict[str, float | None]] = Field({}, description=BASELINES)
    baseline_settings: dict[str, dict[str, float | bool]] = Field({}, description=BASELINE_SETTINGS)
    end_reason: str | None = None
    created_at: datetime
    ended_at: datetime | None = None
    links: dict[str, Link]


class CurvePointDocument(BaseModel):
    """One epoch of a learning curve. Losses are in nats per sample."""

    epoch: int
    train_loss: float | None
    sv_loss: float | None = Field(description="On held-out samples of validation trials.")
    smoothed_sv_loss: float | None
    sv_bits_per_spike_valid: float | None = Field(
        description="What `sv_loss` gains over each neuron's mean over the samples, in bits per spike; null where it is not "
        "defined."
    )
    sv_loss_train: float | None = Field(description="On held-out samples of training trials.")
    validation_loss: float | None = Field(
        description="On the samples of validation trials that the model saw."
    )
    kl_initial_condition: float | None = Field(
        description="KL divergence of the initial condition's posterior from its prior, in nats per trial."
    )
    kl_inputs: float | None = Field(description="The same of the inferred inputs; null without a controller.")
    gradient_norm: float | None
    learning_rate: float | None


class LearningCurve(BaseModel):
    """Every epoch of a model so far, or some of them if the curve is old."""

    model_id: str
    is_thinned: bool = Field(
        False,
        description="Whether the curve is old and has only some epochs: the first, the last, the best, and about 50 in between.",
    )
    points: list[CurvePointDocument]
