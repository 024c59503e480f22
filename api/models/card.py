"""The card of a model: its architecture, data, training, scores, inputs and outputs."""

from typing import Any

from pydantic import BaseModel, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.models.schemas import BASELINE_SETTINGS, BASELINES, SCORED_ON
from api.models.service import scored_on_of
from domain.job_specification import JobSpecification, scored_on
from domain.latents import LATENTS
from domain.search_space import Value
from domain.sessions import sessions_of
from domain.states import ModelState
from store.lineage import lineage
from store.tables import Dataset, Decision, Job, Model
from store.versions import installed

CARD_VERSION = 1


class CardArray(BaseModel):
    """An input or an output of a model."""

    dims: list[str]
    units: str
    description: str


class CardSession(BaseModel):
    """A recording that a model was trained on."""

    dataset_id: str
    trials: int
    bins: int
    neurons: int


class CardData(BaseModel):
    """The data set that a model was trained on."""

    dataset_id: str
    name: str
    digest: str | None = Field(description="Digest of its content: equal data sets have equal digests.")
    bin_width_s: float
    sessions: list[CardSession]


class CardSegment(BaseModel):
    """Epochs that were trained by one model of the job with unchanged hyperparameters."""

    model_number: int
    from_epoch: int
    to_epoch: int | None = Field(description="null: until the model's end.")
    hyperparameters: dict[str, Value]
    reason: str


class Reference(BaseModel):
    """A publication to cite."""

    citation: str
    url: str


class ModelCard(BaseModel):
    """The description of a model, to be kept with its weights."""

    card_version: int = Field(description="Version of this document's schema.")
    model_id: str
    job_id: str
    job_name: str
    number: int = Field(description="Number of the model within its job.")
    state: ModelState
    is_selected: bool
    refit_of: int | None = Field(
        description="Number of the model whose training this refit repeats on training and validation trials."
    )
    seed: int
    job_seed: int = Field(
        description="Seed of the search. The split and the held-out samples have `training.evaluation_seed`."
    )
    scored_on: str = Field(description=SCORED_ON)
    epochs_trained: int
    weights_epoch: int | None = Field(
        description="Epoch of the kept weights, which the export contains; null without weights."
    )
    architecture: dict[str, Any] = Field(description="Every field.")
    hyperparameters: dict[str, Value] = Field(
        description="Hyperparameters that trained the kept weights. With `pbt`, earlier epochs had others: see `lineage`."
    )
    trained_by: int | None = Field(
        description="Number of the model of the job that trained the kept weights; null if it was not recorded."
    )
    training: dict[str, Any] = Field(description="Training options of all models of the job.")
    strategy: dict[str, Any] = Field(description="Strategy of the search.")
    budget: dict[str, Any] = Field(description="Budget of the search.")
    lineage: list[CardSegment] = Field(
        description="The models that trained its weights, from the first epoch on: those that it copied, and those that they "
        "copied. Epochs after `weights_epoch` are not in the kept weights."
    )
    scores: dict[str, int | float | None] = Field(
        description="As in the model's document: losses in nats per sample, bits per spike, R². Scores that end with `_test` are "
        "of trials that neither trained nor selected the model, and are unbiased. Those that end with `_valid` are of the trials "
        "that it was selected on, so they are optimistic. `reconstruction_…` is of samples that the model reads: it does not "
        "tell whether the rates are right."
    )
    baselines: dict[str, dict[str, float | None]] = Field(description=BASELINES)
    baseline_settings: dict[str, dict[str, float | bool]] = Field(description=BASELINE_SETTINGS)
    data: CardData
    inputs: dict[str, CardArray] = Field(description="Arrays that the model reads.")
    outputs: dict[str, CardArray] = Field(description="Arrays that the model infers.")
    trained_with: list[dict[str, str | None]] = Field(
        description="Versions of the software that trained the job: several if the service was upgraded, or if its workers "
        "differ. Empty if they were not recorded."
    )
    precision: str | None = Field(
        description="`float32` or `bfloat16`, in which all models of the job trained. Null if it was not recorded."
    )
    written_with: dict[str, str | None] = Field(description="Versions of the software that wrote this card.")
    method: str
    references: list[Reference]
    licence: str


METHOD = (
    "LFADS (latent factor analysis via dynamical systems): a sequential variational autoencoder of spikes, trained with "
    "coordinated dropout, selected by sample validation."
)
REFERENCES = [
    Reference(
        citation="Keshtkaran MR, Pandarinath C. Enabling hyperparameter optimization in sequential autoencoders for spiking "
        "neural data. Advances in Neural Information Processing Systems 32 (2019).",
        url="https://arxiv.org/abs/1908.07896",
    ),
    Reference(
        citation="Pandarinath C, O'Shea DJ, Collins J, et al. Inferring single-trial neural population dynamics using "
        "sequential auto-encoders. Nature Methods 15, 805-815 (2018).",
        url="https://doi.org/10.1038/s41592-018-0109-9",
    ),
]
LICENCE = (
    "The code that made it is Latentry, Apache-2.0; load.py may be used without conditions. The weights are yours, "
    "under whatever holds for your data."
)


def make_card(session: Session, row: Model, weights_epoch: int | None) -> ModelCard:
    """Return the card of a model."""
    job = session.get_one(Job, row.job_id)
    dataset = session.get_one(Dataset, job.dataset_id)
    specification = JobSpecification.model_validate(job.spec)
    decisions = session.execute(select(Decision).where(Decision.job_id == job.id).order_by(Decision.id))
    architecture = architecture_of(row, dataset)
    return ModelCard(
        card_version=CARD_VERSION,
        model_id=row.id,
        job_id=job.id,
        job_name=job.name,
        number=row.number,
        state=row.state,
        is_selected=row.id == job.selected_model_id,
        refit_of=row.refit_of,
        seed=row.seed,
        job_seed=specification.seed,
        scored_on=scored_on_of(row, scored_on(specification, dataset)),
        epochs_trained=row.epochs_trained,
        weights_epoch=weights_epoch,
        architecture=architecture,
        hyperparameters=row.shown_hyperparameters,
        trained_by=row.trained_by,
        training=specification.training.model_dump(mode="json"),
        strategy=specification.strategy.model_dump(mode="json"),
        budget=specification.budget.model_dump(mode="json"),
        lineage=[
            CardSegment.model_validate(one, from_attributes=True)
            for one in lineage(decisions.scalars().all(), row.number)
        ],
        scores=row.scores,
        baselines=row.baselines or {},
        baseline_settings=row.baseline_settings or {},
        data=_data(dataset),
        inputs=_inputs(architecture),
        outputs=_outputs(architecture),
        trained_with=job.trained_with or [],
        precision=job.precision,
        written_with=installed("latentry", "torch", "safetensors"),
        method=METHOD,
        references=REFERENCES,
        licence=LICENCE,
    )


def architecture_of(row: Model, dataset: Dataset) -> dict[str, Any]:
    """Return every field of a model's architecture, with its neurons: one number, or one for each session."""
    neurons = [one.neurons for one in sessions_of(dataset)]
    return {
        "neurons": neurons if len(neurons) > 1 else neurons[0],
        "read_in_dim": 0,
        **row.architecture,
    }


def _data(dataset: Dataset) -> CardData:
    return CardData(
        dataset_id=dataset.id,
        name=dataset.name,
        digest=dataset.digest,
        bin_width_s=dataset.bin_width_s or 0.0,
        sessions=[CardSession.model_validate(one, from_attributes=True) for one in sessions_of(dataset)],
    )


def _inputs(architecture: dict[str, Any]) -> dict[str, CardArray]:
    found = {
        "spikes": CardArray(
            dims=["trial", "bin", "neuron"],
            units="counts",
            description="Spikes in each bin of the width of the data, as float32, neurons in the order of the data set.",
        )
    }
    if architecture.get("external_inputs"):
        found["external_inputs"] = CardArray(
            dims=["trial", "bin", "external_input"],
            units="",
            description="As the data set has them, as float32.",
        )
    return found


def _outputs(architecture: dict[str, Any]) -> dict[str, CardArray]:
    found = {
        name: CardArray(
            dims=list(latent.dims()),
            units=latent.units,
            description=f"{latent.meaning[0].upper()}{latent.meaning[1:]}.",
        )
        for name, latent in LATENTS.items()
        if name != "inputs" or architecture.get("controller_units")
    }
    found[
        "rates"
    ].description += " The rates of a bin depend on all bins that the model reads, also on later ones."
    return found
