"""What a job asks for: the document that the API validates, the database keeps and the workers read."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
from pydantic import Field, model_validator

from domain.architecture import SIZES, ArchitectureSpecification
from domain.latents import LatentArray
from domain.presets import LENGTHS, MOST_RAMP_SHARE, PresetName, batch_size_for, with_preset
from domain.search_space import CONTROLLER_HYPERPARAMETERS, Document, Searched, Space
from domain.sessions import DescribedDataset, RecordedSession
from domain.split_groups import Split, SplitGroups, draw_split
from domain.strategies import PbtStrategy, RandomStrategy, Strategy


class Training(Document):
    """How every model of the job is trained."""

    batch_size: int = Field(
        64,
        ge=1,
        le=65536,
        description="Trials per optimizer step. Unless given, it is chosen from the number of training trials: a power of 2 "
        "from 8 (up to 67 trials) to 64 (from 272 trials on).",
    )
    ramp_epochs: int = Field(
        80,
        ge=0,
        description="KL and L2 weights rise linearly from 0 to 1 over these epochs. Unless given, it is chosen such that there "
        "are 150 to 400 optimizer steps, and it is at most a third of `budget.epochs`.",
    )
    gradient_clip: float = Field(
        0.02, gt=0, description="Largest norm of a model's gradient (loss in nats per sample)."
    )
    score_smoothing: float = Field(
        0.7,
        ge=0,
        lt=1,
        description="Weight of the past in the smoothed SV loss, which selects epochs and models; 0: not smoothed.",
    )
    decay_factor: float = Field(
        0.95,
        ge=0.01,
        le=1,
        description="A model's learning rate is multiplied by this each time its smoothed SV loss has not improved for "
        "`decay_patience` epochs; 1: never.",
    )
    decay_patience: int = Field(
        6,
        ge=1,
        description="Epochs, counted from the ramp's end. Unless given, about 100 optimizer steps, and at least 6 epochs.",
    )
    min_learning_rate: float = Field(1e-5, ge=0, le=1, description="No decay goes below this.")
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16",
        description="What the recurrences' products of states with weights read while training. bfloat16 is faster on CPUs "
        "that have instructions for it, and is float32 elsewhere; sums, weights, scores and latents are float32 always.",
    )
    sv_rate: float = Field(0.2, gt=0, le=0.9, description="Sample validation: share of samples held out.")
    valid_fraction: float = Field(
        0.2, gt=0, lt=1, description="Share of trials for validation, unless the data set brings a split."
    )
    test_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of trials for testing, unless the data set brings test trials. They are neither trained on nor used "
        "to select a model; only scores of test trials are unbiased.",
    )
    evaluation_seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the split and of the samples that sample validation holds out. Jobs of one data set with the same "
        "seed are scored on the same samples, so their SV losses can be compared. `seed` does not change it.",
    )

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
"""Of the search of one job; a refit has a number from there on."""


class Budget(Document):
    """What the job may spend, and what it keeps. Whatever is spent first ends the training, with what is there."""

    models: int = Field(
        8, ge=1, le=MOST_MODELS, description="Models that are begun; of `pbt` the population."
    )
    epochs: int = Field(
        200,
        ge=1,
        le=MOST_EPOCHS,
        description="Epochs of each model, at most. Unless given, it is chosen such that a small data set gets enough optimizer "
        "steps too, see the table of presets in the guide.",
    )
    wall_seconds: float | None = Field(
        None,
        gt=0,
        description="Training ends this long after the first slice began; time in which the job is paused is not counted.",
    )
    device_seconds: float | None = Field(
        None, gt=0, description="Training ends when so much time of devices is spent, over all of them."
    )
    patience_epochs: int | None = Field(
        None,
        ge=1,
        description="A model ends when its smoothed SV loss has not improved for so many epochs, counted from the ramp's "
        "end. None: it trains all its epochs.",
    )
    top_k: int = Field(
        20,
        ge=1,
        le=1000,
        description="Of so many models, the best, the weights are kept when the job ends; learning curves and scores of all.",
    )


class Inference(Document):
    """How the latents of the selected model are computed, and which are stored."""

    posterior_samples: int = Field(50, ge=1, le=10_000, description="Draws that are averaged.")
    arrays: list[LatentArray] = Field(
        default_factory=lambda: list(get_args(LatentArray)),
        min_length=1,
        max_length=len(get_args(LatentArray)),
        description="What is stored. `generator_states` is often the largest. `inputs` are there with a controller only. Latents "
        "of a bin depend on all bins that are read, also on later ones: they are not causal.",
    )
    refit: bool = Field(
        False,
        description="Train one more model on all trials, validation trials too, with the hyperparameters that led to the kept "
        "weights of the selected one, until the end of the segment that holds their epoch; the latents are then its own.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.arrays)) < len(self.arrays):
            raise ValueError(f"arrays names one more than once: {', '.join(self.arrays)}")
        return self


class WarmStart(Document):
    """Where the first models of a job come from: the best models of another job."""

    job_id: str = Field(max_length=40, description="A job of yours that has trained models.")
    models: int = Field(4, ge=1, le=1000, description="So many of its best, by smoothed SV loss.")
    weights: bool = Field(
        True,
        description="Begin with their weights, which needs a data set of as many neurons; false takes their hyperparameters "
        "alone.",
    )


class JobSpecification(Document):
    """A search over models of one data set."""

    dataset_id: str = Field(
        max_length=40, description="The data set, `ready`.", examples=["dat_0192f3c4a5b6aabbccddeeff"]
    )
    # PostgreSQL's text has no NUL
    name: str = Field("", max_length=200, pattern=r"^[^\x00]*$", description="A name for the job.")
    preset: PresetName | None = Field(
        None,
        description="Fills in strategy, sizes, ranges and budget where they are not given. `quick`: a first look in minutes. "
        "`paper-2019`: random search. `autolfads`: population-based training.",
    )
    priority: int = Field(
        0, ge=-10, le=10, description="Of your own jobs, those of higher priority are trained first."
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**31,
        description="Seed of the search and of training: drawn hyperparameters, initial weights, order of trials, dropout. The "
        "split and the held-out samples have a seed of their own, `training.evaluation_seed`. Equal specifications give equal "
        "models.",
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
        """Return the specification with the batch size and the epochs that it does not give, chosen for a data set.

        Parameters
        ----------
        training_trials
            Of the data set, by the job's split.
        """
        lengths = LENGTHS[self.preset]
        batch_size = _given(self.training, "batch_size", batch_size_for(training_trials))
        steps = max(1, math.ceil(training_trials / batch_size))
        epochs = _given(self.budget, "epochs", min(lengths.training.in_epochs(steps), MOST_EPOCHS))
        ramp = min(lengths.ramp.in_epochs(steps), int(MOST_RAMP_SHARE * epochs))
        patience = None
        if lengths.patience is not None:
            # A job that gives more epochs than its preset gets as much more patience.
            share = lengths.patience.steps / lengths.training.steps
            patience = max(lengths.patience.in_epochs(steps), int(share * epochs))
        chosen: dict[str, Document] = {
            "training": _updated(
                self.training,
                batch_size=batch_size,
                ramp_epochs=_given(self.training, "ramp_epochs", ramp),
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
        """What the models of this job read and may differ in, in a fixed order: hyperparameters, and searched sizes."""
        unread = () if self.architecture.has_controller else CONTROLLER_HYPERPARAMETERS
        hyperparameters = {
            name: getattr(self.space, name) for name in Space.model_fields if name not in unread
        }
        return hyperparameters | self.architecture.searched()


def _given(part: Document, name: str, otherwise: Any) -> Any:
    """Return a field of a document if it was given, else another value."""
    return getattr(part, name) if name in part.model_fields_set else otherwise


def _updated(part: Document, **values: object) -> Document:
    return part.model_copy(update=values)


def without_sizes(values: Mapping[str, float]) -> dict[str, float]:
    """The hyperparameters among the values of a model: what is no size of the network."""
    return {name: value for name, value in values.items() if name not in SIZES}


def split_trials(
    given: Sequence[str | None],
    groups: SplitGroups,
    training: Training,
    sessions: Sequence[RecordedSession] | None = None,
) -> list[Split]:
    """Return which part of a job each trial is in.

    Parameters
    ----------
    given
        What the data set has for each trial: ``train``, ``valid``, ``test``, ``gap`` or None.
    groups
        Trials that belong together. Those that are drawn are drawn as whole groups, or as blocks of time.
    training
        Of the job: its fractions and its evaluation seed. A part that the data set names is never drawn; at least one trial is
        drawn for each other part whose fraction is above 0.
    sessions
        Of the data set: each is split by itself. None: there is one.

    Returns
    -------
    list of str
        One per trial, in the order given. Test trials are neither trained on nor used to select; trials of a gap are not
        scored either.
    """
    rows = [slice(0, len(given))] if sessions is None else [session.rows for session in sessions]
    split: list[Split] = []
    for number, here in enumerate(rows):
        # The first session is split as if it were alone.
        seeds = [training.evaluation_seed, _SPLIT_SEED] + ([number] if number else [])
        fractions: dict[Literal["valid", "test"], float] = {
            "valid": training.valid_fraction,
            "test": training.test_fraction,
        }
        split += draw_split(given[here], groups.take(here), fractions, np.random.default_rng(seeds))
    return split


_SPLIT_SEED = 0x5B117


def held_out_settings(training: Training, dataset: DescribedDataset) -> dict[str, Any]:
    """Return all that decides which samples of a data set a job does not train on: the split, and the sample-validation mask.

    A fraction is None where the file names the trials of that part for itself. Of a combined data set both count.
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
    """Return the fingerprint of what the SV losses of a job are means of: they can be compared between equal fingerprints only.

    Besides the held-out samples it covers which of them count, and what a model may read to predict them.

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
