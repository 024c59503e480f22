"""A search over kinds of generators, from the request to latents and exported programs."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sqlalchemy import select

from domain.generators import GENERATORS
from store.tables import Model, Slice
from tests.worker.conftest import SPECIFICATION
from tests.worker.fake_workers import read_models
from tests.worker.lab import Lab
from worker.inference.program_process import write_program
from worker.process.run_next import run_next

KINDS = list(GENERATORS)
SIZES: dict[str, Any] = SPECIFICATION["architecture"] | {
    "controller_units": 6,
    "controller_encoder_units": 4,
    "inferred_inputs": 2,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    found = Lab(tmp_path_factory.mktemp("lab"))
    yield found
    found.database.close()


@pytest.fixture(scope="module")
def dataset_id(lab: Lab, spikes_file: Path) -> str:
    return lab.ingest(spikes_file)


@pytest.fixture(scope="module")
def job_id(lab: Lab, dataset_id: str) -> str:
    """A job that has tried each kind."""
    return lab.search(
        dataset_id, architecture=SIZES | {"generator": KINDS}, budget={"models": 12, "epochs": 3, "top_k": 12}
    )


def of_kind(lab: Lab, job_id: str, kind: str) -> Model:
    """Return a model of this kind."""
    return next(one for one in read_models(lab.database, job_id) if one.architecture["generator"] == kind)


def test_models_of_each_kind_train_in_packs_of_their_own(lab: Lab, job_id: str) -> None:
    kind_of = {model.id: model.architecture["generator"] for model in read_models(lab.database, job_id)}
    assert set(kind_of.values()) == set(KINDS)
    with lab.database.read() as session:
        trained = [
            one
            for one in session.execute(select(Slice).where(Slice.job_id == job_id)).scalars()
            if one.kind == "train"
        ]
    assert {len({kind_of[model_id] for model_id in one.model_ids}) for one in trained} == {1}
    assert max(len(one.model_ids) for one in trained) > 1


def test_decisions_and_importances_name_the_kind(lab: Lab, job_id: str) -> None:
    decisions = lab.client.get(f"/v1/jobs/{job_id}/decisions?page_size=100").json()["items"]
    begun = {one["hyperparameters"]["generator"] for one in decisions if one["kind"] == "begin"}
    assert begun == set(KINDS)
    found = lab.client.get(f"/v1/jobs/{job_id}/importance").json()
    [dimension] = [one for one in found["dimensions"] if one["name"] == "generator"]
    assert dimension["scale"] == "choices"
    assert 0 <= dimension["importance"] <= 1
    assert [(part["low"], part["high"]) for part in dimension["marginals"]] == [
        (kind, kind) for kind in sorted(KINDS)
    ]
    assert sum(part["observations"] for part in dimension["marginals"]) == 12
    lineage = lab.client.get(f"/v1/jobs/{job_id}/lineage").json()
    assert lineage["segments"][0]["hyperparameters"]["generator"] in KINDS
    assert lab.client.get(f"/v1/jobs/{job_id}/lineage.svg").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_latents_and_the_exported_program_agree(lab: Lab, job_id: str, dataset_id: str, kind: str) -> None:
    model = of_kind(lab, job_id, kind)
    answer = lab.client.post(
        f"/v1/models/{model.id}:apply", json={"dataset_id": dataset_id, "posterior_samples": 100}
    )
    assert answer.status_code == 202, answer.text
    assert run_next(lab.process)
    inference = lab.client.get(answer.headers["location"]).json()
    assert inference["state"] == "done", inference["error"]
    latents = f"inferences/{inference['id']}"
    rates = lab.array(latents, "rates")
    card = lab.client.get(f"/v1/models/{model.id}/card").json()
    assert card["architecture"]["generator"] == kind
    written = write_program(
        lab.arrays,
        checkpoint_key=model.checkpoint_key or "",
        architecture=card["architecture"],
        session=0,
        bin_width_s=0.02,
        bins=rates.shape[1],
        kind="torch_export",
    )
    program = torch.export.load(io.BytesIO(written["answer"]["program"])).module()
    spikes = lab.array(f"datasets/{dataset_id}", "spikes").astype(np.float32)
    found = {name: values.numpy() for name, values in program(torch.from_numpy(spikes)).items()}
    np.testing.assert_allclose(
        found["initial_conditions"], lab.array(latents, "initial_conditions"), rtol=1e-4, atol=1e-5
    )
    assert found["inputs"].shape == lab.array(latents, "inputs").shape
    error = np.abs(
        found["rates"] / rates - 1
    )  # averages over draws: near the rates at the mean, and not the same
    assert 0 < np.nanmedian(error) < 0.1


@pytest.mark.parametrize("strategy", ["tpe", "qmc", "grid", "pbt", "gp", "cmaes"])
def test_every_strategy_searches_over_kinds(lab: Lab, dataset_id: str, strategy: str) -> None:
    fields: dict[str, Any] = {"kind": strategy}
    if strategy == "pbt":
        fields |= {"generation_epochs": 1, "burn_in_epochs": 1}
    elif strategy in ("tpe", "gp", "cmaes"):
        fields |= {"startup_models": 3, "models_at_once": 3}
    job_id = lab.search(
        dataset_id,
        strategy=fields,
        architecture=SPECIFICATION["architecture"] | {"generator": KINDS},
        budget={"models": 6, "epochs": 2},
    )
    models = read_models(lab.database, job_id)
    assert {model.architecture["generator"] for model in models} <= set(KINDS)
    assert all("generator" not in model.hyperparameters for model in models)


def test_a_job_of_linear_models_draws_no_l2_weight_of_recurrent_weights(lab: Lab, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, "architecture": {"generator": "linear"}}
    linear = lab.client.post("/v1/jobs?validate_only=true", json=body).json()
    assert linear["specification"]["architecture"]["generator"] == "linear"
    job_id = lab.search(dataset_id, architecture=SPECIFICATION["architecture"] | {"generator": "linear"})
    assert all(
        "l2_weight_generator" not in model.hyperparameters for model in read_models(lab.database, job_id)
    )


def test_models_of_both_kinds_begin_another_search(lab: Lab, dataset_id: str, job_id: str) -> None:
    warm = lab.search(
        dataset_id,
        architecture=SIZES | {"generator": KINDS},
        warm_start={"job_id": job_id, "models": 12, "weights": False},
        budget={"models": 12, "epochs": 1},
    )
    ranked = sorted(read_models(lab.database, job_id), key=lambda model: model.smoothed_sv_loss or np.inf)
    begun = [model.architecture["generator"] for model in read_models(lab.database, warm)]
    assert begun == [model.architecture["generator"] for model in ranked]


def test_a_kind_that_does_not_exist_is_refused_with_those_that_do(lab: Lab, dataset_id: str) -> None:
    body = {"dataset_id": dataset_id, "architecture": {"generator": "lstm"}}
    answer = lab.client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert ", ".join(KINDS) in str(answer.json()["errors"])
