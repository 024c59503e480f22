"""The paragraph of a paper's methods that describes a model, with its numbers and citations, from the model's card."""

import hashlib
from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.models.card import ModelCard, make_card
from api.models.service import find
from api.models.weights import find_weights
from domain.architecture import ArchitectureSpecification
from domain.job_specification import JobSpecification, split_trials
from domain.sessions import sessions_of
from store.datasets import given_splits
from store.tables import Dataset, Job

MethodsFormat = Literal["json", "text", "markdown", "bibtex"]


class Citation(BaseModel):
    """A publication to cite."""

    key: str
    text: str
    doi: str
    bibtex: str


class MethodsDocument(BaseModel):
    """A paragraph for the methods of a paper."""

    text: str = Field(description="The paragraph. Every number in it is one of `facts`.")
    citations: list[Citation]
    facts: dict[str, Any] = Field(
        description="Numbers, versions, seeds and digests. `weights_sha256` is that of `model.safetensors` in the export."
    )


def _citation(
    key: str, authors: str, title: str, journal: str, year: int, doi: str, **fields: str
) -> Citation:
    kind = "article" if "volume" in fields else "inproceedings" if "Advances" in journal else "misc"
    where = {"article": "journal", "inproceedings": "booktitle", "misc": "howpublished"}[kind]
    all_fields = {
        "author": authors,
        "title": f"{{{title}}}",
        where: journal,
        **fields,
        "year": str(year),
        "doi": doi,
    }
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in all_fields.items())
    place = " ".join(
        one for one in (fields.get("volume", ""), fields.get("pages", "").replace("--", "–")) if one
    )
    shown = authors.replace(" and ", "; ")
    text = f"{shown}. {title}. {journal}{' ' + place if place else ''} ({year}). https://doi.org/{doi}"
    return Citation(key=key, text=text, doi=doi, bibtex=f"@{kind}{{{key},\n{lines}\n}}")


LFADS = _citation(
    "pandarinath2018",
    "Pandarinath, Chethan and O'Shea, Daniel J. and Collins, Jasmine and others",
    "Inferring single-trial neural population dynamics using sequential auto-encoders",
    "Nature Methods",
    2018,
    "10.1038/s41592-018-0109-9",
    volume="15",
    pages="805--815",
)
CD_AND_SV = _citation(
    "keshtkaran2019",
    "Keshtkaran, Mohammad Reza and Pandarinath, Chethan",
    "Enabling hyperparameter optimization in sequential autoencoders for spiking neural data",
    "Advances in Neural Information Processing Systems 32",
    2019,
    "10.48550/arXiv.1908.07896",
)
AUTOLFADS = _citation(
    "keshtkaran2022",
    "Keshtkaran, Mohammad Reza and Sedler, Andrew R. and others",
    "A large-scale neural network training framework for generalized estimation of single-trial population dynamics",
    "Nature Methods",
    2022,
    "10.1038/s41592-022-01675-0",
    volume="19",
    pages="1572--1577",
)
NLB = _citation(
    "pei2021",
    "Pei, Felix and Ye, Joel and others",
    "Neural Latents Benchmark '21: Evaluating latent variable models of neural population activity",
    "arXiv:2109.04463",
    2021,
    "10.48550/arXiv.2109.04463",
)
_SEARCHES = {
    "random": "random search",
    "qmc": "a quasi-random (Sobol) search",
    "grid": "grid search",
    "tpe": "a search by a tree-structured Parzen estimator",
    "gp": "a search by Gaussian processes with expected improvement",
    "cmaes": "a search by CMA-ES",
    "asha": "asynchronous successive halving",
    "hyperband": "Hyperband",
    "pbt": "population-based training",
}

_ABBREVIATIONS = {"gru": "GRU"}


def find_methods(session: Session, arrays: Store, tenant_id: str, model_id: str) -> MethodsDocument:
    """Return the paragraph about the tenant's model, or raise `NotFound`."""
    row = find(session, tenant_id, model_id)
    metadata = {"latentry_model_id": model_id}
    weights = None if row.checkpoint_key is None else find_weights(arrays, row.checkpoint_key, metadata)
    card = make_card(session, row, None if weights is None else weights.epoch)
    digest = hashlib.sha256()
    for block in () if weights is None else weights.blocks():
        digest.update(block)
    facts = _facts(session, card) | {"weights_sha256": None if weights is None else digest.hexdigest()}
    is_pbt = card.strategy["kind"] == "pbt"
    citations = [LFADS, CD_AND_SV, *([AUTOLFADS] if is_pbt else []), *([NLB] if facts["scores"] else [])]
    return MethodsDocument(text=_text(facts, is_pbt=is_pbt), citations=citations, facts=facts)


def formatted(found: MethodsDocument, wanted: MethodsFormat) -> str:
    """Return the paragraph and its citations as text, as Markdown with links, or the citations alone as BibTeX."""
    if wanted == "bibtex":
        return "\n\n".join(one.bibtex for one in found.citations) + "\n"
    prefix = "- " if wanted == "markdown" else ""
    return "\n".join([found.text, "", *(prefix + one.text for one in found.citations), ""])


def _facts(session: Session, card: ModelCard) -> dict[str, Any]:
    job = session.get_one(Job, card.job_id)
    dataset = session.get_one(Dataset, job.dataset_id)
    training = JobSpecification.model_validate(job.spec).training
    parts = Counter(split_trials(*given_splits(session, dataset.id), training, sessions_of(dataset)))
    architecture = ArchitectureSpecification().model_dump() | card.architecture
    kept = ("sv_bits_per_spike", "co_smoothing_bits_per_spike", "forward_prediction_bits_per_spike")
    scores = {
        name: value for name, value in card.scores.items() if name.startswith(kept) and value is not None
    }
    sizes = (
        "generator",
        "generator_units",
        "factors",
        "encoder_units",
        "initial_condition_dim",
        "controller_units",
    )
    return {
        "model_id": card.model_id,
        "model_number": card.number,
        "job_id": card.job_id,
        "data_set": card.data.name,
        "data_set_id": card.data.dataset_id,
        "data_set_digest": card.data.digest,
        "neurons": sum(one.neurons for one in card.data.sessions),
        "sessions": len(card.data.sessions),
        "trials": sum(one.trials for one in card.data.sessions),
        "bin_width_ms": card.data.bin_width_s * 1000,
        **{f"{part}_trials": parts.get(part, 0) for part in ("train", "valid", "test")},
        **{name: architecture[name] for name in sizes},
        "inferred_inputs": architecture["inferred_inputs"],
        "observation": architecture["observation"],
        "hyperparameters": card.hyperparameters,
        "sv_rate_percent": training.sv_rate * 100,
        "batch_size": training.batch_size,
        "search": card.strategy["kind"],
        "models": card.budget["models"],
        "epochs": card.budget["epochs"],
        "weights_epoch": card.weights_epoch,
        "is_selected": card.is_selected,
        "refit_of": card.refit_of,
        "scores": scores,
        "model_seed": card.seed,
        "search_seed": card.job_seed,
        "evaluation_seed": training.evaluation_seed,
        "trained_with": card.trained_with,
    }


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:.3g}"


def _text(facts: dict[str, Any], *, is_pbt: bool) -> str:
    """Return the sentences."""
    sessions = f" in {facts['sessions']} sessions" if facts["sessions"] > 1 else ""
    shown = {name: _number(value) for name, value in facts.items() if isinstance(value, int | float)}
    has_controller = bool(facts["controller_units"])
    controller = (
        f" A controller of {shown['controller_units']} units inferred {shown['inferred_inputs']} inputs."
        if has_controller
        else " The model had no controller and inferred no inputs."
    )
    generator = _ABBREVIATIONS.get(facts["generator"], facts["generator"])
    cd = facts["hyperparameters"].get("cd_rate")
    dropout = f" (rate {_number(cd)})" if cd is not None else ""
    cited = f" {_cite(AUTOLFADS)}" if is_pbt else ""
    return "".join(
        (
            f"Spikes of {shown['neurons']} neurons{sessions} in {shown['trials']} trials were counted in bins of "
            f"{shown['bin_width_ms']} ms; {shown['train_trials']} trials were used for training, {shown['valid_trials']} for "
            f"validation and {shown['test_trials']} for testing. ",
            f"We inferred single-trial dynamics with LFADS {_cite(LFADS)}, with a {generator} generator of "
            f"{shown['generator_units']} units, {shown['factors']} factors, encoders of {shown['encoder_units']} units, and a "
            f"{facts['observation'].replace('_', ' ').capitalize()} observation model.{controller} ",
            f"Models were trained with coordinated dropout{dropout} and evaluated by sample validation, which held out "
            f"{shown['sv_rate_percent']}% of the samples {_cite(CD_AND_SV)}. ",
            f"Hyperparameters were optimized by {_SEARCHES[facts['search']]}{cited} over {shown['models']} models of at most "
            f"{shown['epochs']} epochs with a batch size of {shown['batch_size']}.{_selection(facts)}",
            _scores(facts["scores"]),
            _software(facts),
        )
    )


def _cite(one: Citation) -> str:
    """Return the key as it stands in a text: the name without the year is not a number of the facts."""
    return f"[{one.key}]"


def _selection(facts: dict[str, Any]) -> str:
    epoch = (
        f", with the weights of epoch {facts['weights_epoch']}" if facts["weights_epoch"] is not None else ""
    )
    if facts["refit_of"] is not None:
        return f" The selected model {facts['refit_of']} was then trained again on training and validation trials{epoch}."
    chosen = "was selected for its lowest smoothed loss on held-out samples of validation trials"
    if not facts["is_selected"]:
        return f" The model described here is model {facts['model_number']} of the search{epoch}."
    return f" Model {facts['model_number']} {chosen}{epoch}."


def _scores(scores: dict[str, float]) -> str:
    names = {"sv": "held-out samples", "co": "held-out neurons", "forward": "held-out bins"}
    parts = {"valid": "validation trials, on which the model was selected", "test": "test trials"}
    told = [
        f"{_number(value)} bits per spike on {names[name.partition('_')[0]]} of {parts[name.rpartition('_')[2]]}"
        for name, value in scores.items()
    ]
    if not told:
        return ""
    return (
        f" The inferred rates gained {'; '.join(told)}. Bits per spike are the gain in Poisson log-likelihood over the mean rate "
        f"of each neuron {_cite(NLB)}."
    )


def _software(facts: dict[str, Any]) -> str:
    versions = [f"Latentry {one['latentry']} with PyTorch {one['torch']}" for one in facts["trained_with"]]
    with_versions = " and ".join(versions) or "Latentry"
    digests = [f"data set {facts['data_set_digest']}"] if facts["data_set_digest"] else []
    digests += [f"weights {facts['weights_sha256']}"] if facts["weights_sha256"] else []
    told = f" Digests: {', '.join(digests)}." if digests else ""
    return (
        f" The models were trained with {with_versions}; seeds: search {facts['search_seed']}, model {facts['model_seed']}, "
        f"evaluation {facts['evaluation_seed']}.{told}"
    )
