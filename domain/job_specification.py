"""The specification of a job: the document that the API validates, the database stores and the workers read."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from domain.architecture import ArchitectureSpecification
from domain.generators import takes_l2
from domain.labels import Name, Notes, Tags
from domain.latents import LatentArray
from domain.presets import LENGTHS, MOST_RAMP_SHARE, WINDOW_SHARE, PresetName, batch_size_for, with_preset
from domain.search_space import CONTROLLER_HYPERPARAMETERS, Document, Searched, Space
from domain.sessions import DescribedDataset, RecordedSession
from domain.split_groups import Split, SplitGroups, draw_split
from domain.strategies import PbtStrategy, RandomStrategy, Strategy

UsedPrecision = Literal["bfloat16", "float32"]
Precision = Literal["auto", "bfloat16", "float32"]


class Training(Document):
    """Options of the training of every model."""

    batch_size: int = Field(
        64,
        ge=1,
        le=65536,
        description="Trials per optimizer step. By default it depends on the number of training trials: a power of 2 from 8 (up "
        "to 67 trials) to 64 (from 272 trials on).",
    )
    ramp_epochs: int = Field(
        80,
        ge=0,
        description="Epochs over which the KL and L2 weights rise linearly from 0 to 1. By default the ramp has 150 to 400 "
        "optimizer steps, but it is at most a third of `budget.epochs`.",
    )
    window_epochs: int = Field(
        0,
        ge=0,
        description="Growing window: epochs in which the part of the trials that models are trained on grows from "
        "`window_start_bins` to all bins. 0: whole trials from the start. By default a third of `budget.epochs` if the generator "
        "can be `node`, else 0. Scores are always those of whole trials.",
    )
    window_start_bins: int = Field(
        10,
        ge=1,
        le=1_000_000,
        description="First bins of the trials that models are trained on in the first epoch of a growing window. Where "
        "`architecture.initial_condition_bins` or `controller_lag_bins` need more bins, there are more.",
    )
    gradient_clip: float = Field(
        0.02, gt=0, description="Maximum norm of a model's gradient, with the loss in nats per sample."
    )
    score_smoothing: float = Field(
        0.7,
        ge=0,
        lt=1,
        description="Weight of past epochs in the smoothed SV loss, which selects epochs and models. 0 means no smoothing.",
    )
    decay_factor: float = Field(
        0.95,
        ge=0.01,
        le=1,
        description="Factor of the learning rate each time the smoothed SV loss has not improved for `decay_patience` epochs. 1 "
        "means no decay.",
    )
    decay_patience: int = Field(
        6,
        ge=1,
        description="Epochs without improvement before a decay, counted from the end of the ramp. By default about 100 optimizer "
        "steps, but at least 6 epochs.",
    )
    min_learning_rate: float = Field(
        1e-5, ge=0, le=1, description="Lower limit of the decayed learning rate."
    )
    precision: Precision = Field(
        "auto",
        description="Precision of the operands in the matrix products of the recurrences, during training only. `auto` measures "
        "both where training begins, and takes bfloat16 if it is at least 5 % faster. All models of a job train in one "
        "precision, which the job reports as `precision`. Sums, weights, scores and latents are always float32.",
    )
    sv_rate: float = Field(
        0.2, gt=0, le=0.9, description="Sample validation: fraction of the samples that are held out."
    )
    valid_fraction: float = Field(
        0.2,
        gt=0,
        lt=1,
        description="Fraction of validation trials, unless the data set has validation trials.",
    )
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Fraction of test trials, unless the data set has test trials. They are neither used for training nor for "
        "selection. Only scores on test trials are unbiased.",
    )
    evaluation_seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the split and of the samples that sample validation holds out. Jobs with the same data set and the "
        "same evaluation seed are scored on the same samples, so you can compare their SV losses.",
    )

    @property
    def settled_epoch(self) -> int:
        """The epoch from which on the loss stays the same: ramp and window have ended. Early decisions wait for it."""
        return max(self.ramp_epochs, self.window_epochs)

    def steps_per_epoch(self, training_trials: int) -> int:
        """Return the number of optimizer steps of an epoch."""
        return max(1, math.ceil(training_trials / self.batch_size))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.valid_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"valid_fraction + test_fraction is {self.valid_fraction + self.test_fraction:g}: expected less than 1, so that "
                "trials are left to train on"
            )
        return self


MOST_EPOCHS = 100_000
MOST_MODELS = 1000
"""Maximum number of models in a search. The number of a refit starts here."""


class Budget(Document):
    """Limits of a job. Training ends when the first limit is reached, and the job keeps the best models so far."""

    models: int = Field(
        8, ge=1, le=MOST_MODELS, description="Number of models; with `pbt`, the size of the population."
    )
    epochs: int = Field(
        200,
        ge=1,
        le=MOST_EPOCHS,
        description="Maximum epochs per model. By default it is chosen so that small data sets also get enough optimizer steps; "
        "the guide has a table.",
    )
    wall_seconds: float | None = Field(
        None,
        gt=0,
        description="Maximum time from the start of the first slice, in seconds. Pauses do not count.",
    )
    device_seconds: float | None = Field(
        None, gt=0, description="Maximum training time, in seconds, summed over all devices."
    )
    patience_epochs: int | None = Field(
        None,
        ge=1,
        description="A model ends when its smoothed SV loss has not improved for this number of epochs, counted from the end of "
        "the ramp. Null means that every model trains all its epochs.",
    )
    top_k: int = Field(
        20,
        ge=1,
        le=1000,
        description="Number of best models whose weights are kept when the job ends. Learning curves and scores of all models "
        "are kept.",
    )


class Inference(Document):
    """Options of the latents of the selected model."""

    posterior_samples: int = Field(50, ge=1, le=10_000, description="Number of posterior draws to average.")
    arrays: list[LatentArray] = Field(
        default_factory=lambda: list(get_args(LatentArray)),
        min_length=1,
        max_length=len(get_args(LatentArray)),
        description="Latents to store. `generator_states` is often the largest. Only models with a controller have `inputs`. "
        "Latents are not causal: those of a bin also depend on later bins.",
    )
    refit: bool = Field(
        False,
        description="Train one more model on the training and validation trials, in the same way as the selected model. Test "
        "trials stay out. The latents then come from this refit. Do not compare its `_valid` scores with other models.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.arrays)) < len(self.arrays):
            raise ValueError(f"arrays contains a name more than once: {', '.join(self.arrays)}")
        return self


class WarmStart(Document):
    """Start the first models of a job from the best models of another job."""

    job_id: str = Field(max_length=40, description="A job of yours that has trained models.")
    models: int = Field(
        4, ge=1, le=1000, description="Number of its best models to use, by smoothed SV loss."
    )
    weights: bool = Field(
        True,
        description="Whether to start with their weights, which needs a data set with the same number of neurons. `false` uses "
        "only their hyperparameters.",
    )


class JobSpecification(Document):
    """A search over models of one data set."""

    dataset_id: str = Field(
        max_length=40,
        description="The data set, which must be `ready`.",
        examples=["dat_0192f3c4a5b6aabbccddeeff"],
    )
    name: Name = Field("", description="Name of the job.")
    notes: Notes = ""
    tags: Tags = Field(default_factory=list)
    preset: PresetName | None = Field(
        None,
        description="Default values for strategy, sizes, ranges and budget. `quick`: a first result in minutes. `paper-2019`: "
        "random search. `autolfads`: population-based training.",
    )
    priority: int = Field(
        0, ge=-10, le=10, description="Among your own jobs, those with higher priority train first."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the search and of training: drawn hyperparameters, initial weights, order of trials, dropout. The "
        "split and the held-out samples depend on `training.evaluation_seed` instead. Equal specifications give equal models.",
    )
    strategy: Strategy = Field(default_factory=RandomStrategy)
    warm_start: WarmStart | None = None
    architecture: ArchitectureSpecification = Field(default_factory=ArchitectureSpecification)
    space: Space = Field(default_factory=Space)
    training: Training = Field(default_factory=Training)
    budget: Budget = Field(default_factory=Budget)
    inference: Inference = Field(default_factory=Inference)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: object) -> object:
        return with_preset(given) if isinstance(given, Mapping) else given

    def for_trials(self, training_trials: int) -> Self:
        """Return the specification with batch size and epochs chosen for a data set, unless they are given.

        Parameters
        ----------
        training_trials
            Number of training trials in the job's split.
        """
        lengths = LENGTHS[self.preset]
        batch_size = _given(self.training, "batch_size", batch_size_for(training_trials))
        training = self.training.model_copy(update={"batch_size": batch_size})
        steps = training.steps_per_epoch(training_trials)
        epochs = _given(self.budget, "epochs", min(lengths.training.in_epochs(steps), MOST_EPOCHS))
        ramp = min(lengths.ramp.in_epochs(steps), int(MOST_RAMP_SHARE * epochs))
        window = int(WINDOW_SHARE * epochs) if "node" in self.architecture.generators else 0
        patience = None
        if lengths.patience is not None:
            # If the job gives more epochs than its preset, the patience grows in proportion.
            share = lengths.patience.steps / lengths.training.steps
            patience = max(lengths.patience.in_epochs(steps), int(share * epochs))
        chosen: dict[str, Document] = {
            "training": _updated(
                training,
                ramp_epochs=_given(self.training, "ramp_epochs", ramp),
                window_epochs=_given(self.training, "window_epochs", window),
                decay_patience=_given(
                    self.training, "decay_patience", lengths.decay_patience.in_epochs(steps)
                ),
            ),
            "budget": _updated(
                self.budget,
                epochs=epochs,
                patience_epochs=_given(self.budget, "patience_epochs", patience),
            ),
        }
        if isinstance(self.strategy, PbtStrategy):
            generation = _given(self.strategy, "generation_epochs", lengths.generation.in_epochs(steps))
            chosen["strategy"] = _updated(self.strategy, generation_epochs=generation)
        return self.model_copy(update=chosen)

    def searched_space(self) -> dict[str, Searched]:
        """Return the hyperparameters that the models use and the searched sizes, in a fixed order."""
        unread = [] if self.architecture.has_controller else list(CONTROLLER_HYPERPARAMETERS)
        if not any(takes_l2(kind) for kind in self.architecture.generators):
            unread.append("l2_weight_generator")
        hyperparameters = {
            name: getattr(self.space, name) for name in Space.model_fields if name not in unread
        }
        return hyperparameters | self.architecture.searched()


def _given(part: Document, name: str, otherwise: Any) -> Any:
    """Return a field of a document if the client gave it, else another value."""
    return getattr(part, name) if name in part.model_fields_set else otherwise


def _updated(part: Document, **values: object) -> Document:
    return part.model_copy(update=values)


def split_trials(
    given: Sequence[str | None],
    groups: SplitGroups,
    training: Training,
    sessions: Sequence[RecordedSession] | None = None,
) -> list[Split]:
    """Return the part of each trial in the split of a job.

    Parameters
    ----------
    given
        The part of each trial in the data set: ``train``, ``valid``, ``test``, ``gap`` or None.
    groups
        The split groups. Trials are drawn as whole groups, or as blocks of time.
    training
        The training options of the job: fractions and evaluation seed. A part that the data set defines is not drawn. Each other
        part with a fraction above 0 gets at least one trial.
    sessions
        The sessions of the data set, which are split separately. None: there is one session.

    Returns
    -------
    list of str
        One item per trial, in the given order. Test trials are used neither for training nor for selection; trials of a gap are
        not scored either.
    """
    rows = [slice(0, len(given))] if sessions is None else [session.rows for session in sessions]
    split: list[Split] = []
    for number, here in enumerate(rows):
        # The split of the first session does not depend on the number of sessions.
        seeds = [training.evaluation_seed, _SPLIT_SEED] + ([number] if number else [])
        fractions: dict[Literal["valid", "test"], float] = {
            "valid": training.valid_fraction,
            "test": training.test_fraction,
        }
        split += draw_split(given[here], groups.take(here), fractions, np.random.default_rng(seeds))
    return split


_SPLIT_SEED = 0x5B117


def held_out_settings(training: Training, dataset: DescribedDataset) -> dict[str, Any]:
    """Return everything that determines which samples a job does not train on: the split, and the sample-validation mask.

    A fraction is None if the file defines the trials of that part. For a combined data set, both fractions count.
    """
    given = (dataset.report or {}).get("split") or {}
    names_valid = given.get("valid", 0) > 0
    names_test = given.get("not_given", 0) > 0 and (names_valid or given.get("train", 0) > 0)
    return {
        "dataset_id": dataset.id,
        "evaluation_seed": training.evaluation_seed,
        "sv_rate": training.sv_rate,
        "valid_fraction": None if names_valid else training.valid_fraction,
        "test_fraction": None if names_test else training.test_fraction,
    }


def scored_on(specification: JobSpecification, dataset: DescribedDataset) -> str:
    """Return a fingerprint of the samples that a job's SV losses average. Only losses with equal fingerprints are comparable.

    It also covers which held-out samples count, and which samples a model may read to predict them.

    Returns
    -------
    str
        8 hexadecimal digits.
    """
    architecture = specification.architecture
    decisive = held_out_settings(specification.training, dataset) | {
        "observation": architecture.observation,
        "initial_condition_bins": architecture.initial_condition_bins,
        "encoded_bins": architecture.encoded_bins or dataset.bins,
        "held_out_neurons": sorted(architecture.held_out_neurons),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
