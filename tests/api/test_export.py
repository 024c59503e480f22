"""Models to take away: weights, card, loader, and the program that a worker writes."""

import ast
import dataclasses
import io
import json
import runpy
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
import torch
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.models import export, weights
from domain.generators import GENERATORS, generator_shapes
from domain.parameter_shapes import parameter_shapes
from domain.states import JobState, ModelState
from models import Architecture
from models.model_state import fresh_state
from store.array_store import delete_object, open_array_store, write_object
from store.database import Database
from store.rpc import CallFailed, WorkersAway
from store.tables import Dataset, Job, Model
from tests.api.api_examples import (
    OTHER_TENANT,
    PROBLEM,
    add_dataset,
    add_job,
    add_model,
    add_population,
    add_tenant,
)

SIZES: dict[str, Any] = {
    "encoder_units": 5, "initial_condition_dim": 3, "generator_units": 6, "factors": 2, "controller_units": 4,
    "controller_encoder_units": 3, "inferred_inputs": 1,
}  # fmt: skip
LOADER = Path(export.__file__).parent / "exported" / "load.py"


@pytest.fixture
def arrays(sqlite_database: Database) -> Store:
    return open_array_store("sql:", sqlite_database)


def checkpoint(
    arrays: Store, key: str, architecture: Architecture, best_epoch: int = 3
) -> dict[str, torch.Tensor]:
    """A checkpoint as training leaves it, whose best weights are not those of its last epoch; returns the best."""
    shapes = parameter_shapes(architecture)
    random = torch.Generator().manual_seed(0)
    best = {name: torch.randn(shape, generator=random) for name, shape in shapes.items()}
    state = fresh_state({name: values + 1 for name, values in best.items()})
    state |= {f"best.{name}": values for name, values in best.items()}
    state["best_epoch"] = torch.tensor(best_epoch)
    write_object(arrays, key, safetensors.torch.save(state))
    return best


def add_trained(
    session: Session, job_id: str, key: str | None = "models/a/checkpoints/3.safetensors", **columns: Any
) -> str:
    """A model that has been trained on the example's four neurons."""
    return add_model(
        session,
        job_id,
        state=ModelState.TRAINED,
        losses=(2.0, 1.0),
        architecture=_row(),
        checkpoint_key=key,
        **columns,
    )


def _row() -> dict[str, Any]:
    """An architecture as a model's row has it."""
    described = dataclasses.asdict(Architecture(neurons=4, **SIZES))
    return {name: value for name, value in described.items() if name not in ("neurons", "read_in_dim")}


@pytest.fixture
def trained(sqlite_database: Database, arrays: Store) -> tuple[str, dict[str, torch.Tensor]]:
    """A model and its best weights."""
    best = checkpoint(arrays, "models/a/checkpoints/3.safetensors", Architecture(neurons=4, **SIZES))
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.DONE, name="first try", seed=7)
        session.get_one(Job, job_id).trained_with = [{"latentry": "0.0.9", "torch": "2.9.1"}]
        return add_trained(session, job_id), best


def download(client: TestClient, model_id: str, query: str = "") -> zipfile.ZipFile:
    answer = client.get(f"/v1/models/{model_id}/export{query}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="latentry-{model_id}.zip"'
    found = zipfile.ZipFile(io.BytesIO(answer.content))
    assert found.testzip() is None
    return found


def assert_same(found: Mapping[str, Any], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(torch.as_tensor(found[name]), values), name


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_readme_gives_the_step_of_the_generator(
    light_client: TestClient, arrays: Store, sqlite_database: Database, kind: str
) -> None:
    architecture = Architecture(neurons=4, generator=kind, **SIZES)
    checkpoint(arrays, "models/a/checkpoints/3.safetensors", architecture)
    with sqlite_database.write() as session:
        model_id = add_trained(session, add_job(session, add_dataset(session), state=JobState.DONE))
        row = session.get_one(Model, model_id)
        row.architecture = row.architecture | {"generator": kind}
    text = download(light_client, model_id).read("README.md").decode()
    for name in generator_shapes(kind, architecture.generator_sizes):
        assert name in text, name


@pytest.mark.parametrize("block_bytes", [8 * 2**20, 64])
def test_the_best_weights_come_alone(
    light_client: TestClient,
    trained: tuple[str, dict[str, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
) -> None:
    monkeypatch.setattr(weights, "_BLOCK_BYTES", block_bytes)
    model_id, best = trained
    found = download(light_client, model_id)
    assert sorted(found.namelist()) == ["README.md", "card.json", "load.py", "model.safetensors"]
    found.extractall(tmp_path)
    file = tmp_path / "model.safetensors"
    assert_same(safetensors.torch.load_file(file), best)
    assert_same(safetensors.numpy.load_file(file), best)
    assert_same(runpy.run_path(str(tmp_path / "load.py"))["load"](str(file)), best)
    with safetensors.safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "latentry_model_id": model_id}


def test_the_loader_has_ten_lines_and_needs_only_torch() -> None:
    tree = ast.parse(LOADER.read_text())
    imported = {node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"json", "pathlib", "torch"}
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef))
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno < 10


def test_the_card_says_what_the_model_is(
    light_client: TestClient, trained: tuple[str, dict[str, torch.Tensor]], sqlite_database: Database
) -> None:
    model_id, best = trained
    card = json.loads(download(light_client, model_id).read("card.json"))
    assert light_client.get(f"/v1/models/{model_id}/card").json() == card
    described = card["architecture"] | {"held_out_neurons": tuple(card["architecture"]["held_out_neurons"])}
    assert Architecture(**described) == Architecture(neurons=4, **SIZES)
    assert described.keys() == {field.name for field in dataclasses.fields(Architecture)}
    assert parameter_shapes(Architecture(**described)) == {name: tuple(v.shape) for name, v in best.items()}
    with sqlite_database.read() as session:
        row = session.get_one(Model, model_id)
        dataset = session.get_one(Dataset, session.get_one(Job, row.job_id).dataset_id)
    assert (card["model_id"], card["job_name"], card["seed"], card["job_seed"]) == (
        model_id,
        "first try",
        row.seed,
        7,
    )
    assert (card["epochs_trained"], card["weights_epoch"]) == (2, 3)
    assert card["hyperparameters"] == row.hyperparameters
    assert card["trained_with"] == [{"latentry": "0.0.9", "torch": "2.9.1"}]
    assert card["written_with"] == {name: version(name) for name in ("latentry", "torch", "safetensors")}
    text = download(light_client, model_id).read("README.md").decode()
    assert "trained by Latentry 0.0.9\n" in text
    assert card["scores"] == row.scores
    assert card["data"]["bin_width_s"] == dataset.bin_width_s == 0.02
    assert card["data"]["dataset_id"] == dataset.id
    assert card["data"]["sessions"] == [{"dataset_id": dataset.id, "trials": 20, "bins": 5, "neurons": 4}]
    assert card["outputs"]["rates"]["units"] == "spikes/s"
    assert "inputs" in card["outputs"]
    assert [one["url"] for one in card["references"]] == [
        "https://arxiv.org/abs/1908.07896",
        "https://doi.org/10.1038/s41592-018-0109-9",
    ]


def test_scores_stand_beside_those_of_simple_predictors(
    light_client: TestClient, trained: tuple[str, dict[str, torch.Tensor]], sqlite_database: Database
) -> None:
    """In the card, and in the README, which says which of them are unbiased."""
    model_id, _ = trained
    with sqlite_database.write() as session:
        session.get_one(Model, model_id).scores = {"sv_loss": 0.5, "best_epoch": 3}
    assert "## Scores" not in download(light_client, model_id).read("README.md").decode()
    with sqlite_database.write() as session:
        row = session.get_one(Model, model_id)
        row.scores = {"sv_loss": 0.5, "sv_bits_per_spike_valid": 0.25}
        row.baselines = {"sv_bits_per_spike_valid": {"mean": -0.01, "psth": 0.125}}
        row.baseline_settings = {"psth": {"sd_s": 0.04, "prior_spikes": 2.0, "by_condition": True}}
    found = download(light_client, model_id)
    card, text = json.loads(found.read("card.json")), found.read("README.md").decode()
    assert (card["baselines"], card["baseline_settings"]) == (row.baselines, row.baseline_settings)
    assert "| score | model | `mean` | `psth` |" in text
    assert "| `sv_bits_per_spike_valid` | 0.25 | -0.01 | 0.125 |" in text
    assert "The job had no test trials." in text
    assert "sv_loss" not in text
    with sqlite_database.write() as session:
        session.get_one(Model, model_id).scores = {"sv_bits_per_spike_test": 0.2}
    assert (
        "of trials that neither trained nor selected"
        in download(light_client, model_id).read("README.md").decode()
    )


def test_the_card_says_who_was_copied(light_client: TestClient, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_population(session, add_dataset(session))
        model = session.query(Model).filter_by(job_id=job_id, number=2).one()
        model.architecture = _row()
    card = light_client.get(f"/v1/models/{model.id}/card").json()
    assert [(one["model_number"], one["from_epoch"], one["to_epoch"]) for one in card["lineage"]] == [
        (0, 0, 10),
        (2, 10, None),
    ]
    assert card["weights_epoch"] is None  # there are no weights to take away yet


def test_who_has_it_is_not_sent_it_again(
    light_client: TestClient, trained: tuple[str, dict[str, torch.Tensor]], sqlite_database: Database
) -> None:
    path = f"/v1/models/{trained[0]}/export"
    first, second = light_client.get(path), light_client.get(path)
    assert first.content == second.content
    again = light_client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    with sqlite_database.write() as session:
        row = session.get_one(Model, trained[0])
        row.scores = {"sv_loss": 0.5}
    changed = light_client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200
    assert changed.headers["etag"] != first.headers["etag"]


def refused(client: TestClient, model_id: str, status: int, query: str = "") -> dict[str, Any]:
    answer = client.get(f"/v1/models/{model_id}/export{query}")
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem: dict[str, Any] = answer.json()
    return problem


def test_what_has_no_weights_is_refused(
    light_client: TestClient,
    trained: tuple[str, dict[str, torch.Tensor]],
    sqlite_database: Database,
    arrays: Store,
) -> None:
    with sqlite_database.write() as session:
        add_tenant(session)
        job_id = add_job(session, add_dataset(session), state=JobState.DONE)
        dropped = add_trained(session, job_id, key=None)
        training = add_model(session, job_id, 1, state=ModelState.TRAINING)
        never = add_model(session, job_id, 2, state=ModelState.CANCELLED)
        theirs = add_job(session, add_dataset(session, tenant=OTHER_TENANT), tenant=OTHER_TENANT)
        other = add_trained(session, theirs, tenant=OTHER_TENANT)
    problem = refused(light_client, dropped, 409)
    assert "20 best" in problem["detail"]
    assert "top_k" in problem["hint"]
    assert "training has ended" in refused(light_client, training, 409)["detail"]
    assert "never trained" in refused(light_client, never, 409)["detail"]
    for model_id in (other, "mod_" + "0" * 24, "nothing"):
        refused(light_client, model_id, 404)
        assert light_client.get(f"/v1/models/{model_id}/card").status_code == 404
    delete_object(arrays, "models/a/checkpoints/3.safetensors")
    assert "dropped" in refused(light_client, trained[0], 409)["detail"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What a worker is asked for; its answer is a file of some bytes."""
    asked: list[dict[str, Any]] = []

    def answer(task: str, arguments: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        asked.append({"task": task, **arguments})
        return {"program": b"a program"}

    monkeypatch.setattr(export, "call_worker", answer)
    return asked


@pytest.mark.parametrize(("kind", "name"), [("torch_export", "model.pt2"), ("onnx", "model.onnx")])
def test_a_program_comes_from_a_worker(
    light_client: TestClient,
    trained: tuple[str, dict[str, torch.Tensor]],
    calls: list[dict[str, Any]],
    kind: str,
    name: str,
) -> None:
    found = download(light_client, trained[0], f"?program={kind}")
    assert found.read(name) == b"a program"
    assert f"`{name}`" in found.read("README.md").decode()
    [asked] = calls
    card = json.loads(found.read("card.json"))
    assert asked == {
        "task": "export_program", "checkpoint_key": "models/a/checkpoints/3.safetensors",
        "architecture": card["architecture"], "session": 0, "bin_width_s": 0.02, "bins": 5, "kind": kind,
    }  # fmt: skip
    tag = light_client.get(f"/v1/models/{trained[0]}/export?program={kind}").headers["etag"]
    path = f"/v1/models/{trained[0]}/export?program={kind}"
    assert tag.startswith("W/")
    assert light_client.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert len(calls) == 2  # what the client has is not made again


def test_of_several_sessions_one_is_named(
    light_client: TestClient,
    trained: tuple[str, dict[str, torch.Tensor]],
    calls: list[dict[str, Any]],
    sqlite_database: Database,
) -> None:
    with sqlite_database.write() as session:
        dataset = session.get_one(Dataset, session.query(Job).one().dataset_id)
        told = [{"dataset_id": f"dat_{n}", "trials": 10, "bins": 5, "neurons": n} for n in (3, 4)]
        dataset.report = {**(dataset.report or {}), "sessions": told}
    problem = refused(light_client, trained[0], 422, "?program=torch_export")
    assert [one["pointer"] for one in problem["errors"]] == ["session"]
    refused(light_client, trained[0], 422, "?program=torch_export&session=2")
    found = download(light_client, trained[0], "?program=torch_export&session=1")
    assert calls[-1]["session"] == 1
    assert calls[-1]["architecture"]["neurons"] == [3, 4]
    assert "[trials, bins, 4]" in found.read("README.md").decode()


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (WorkersAway("no process answered"), 503, "no process answered"),
        (CallFailed("not_installed", "onnx not installed"), 409, "pip install '.[onnx]'"),
        (CallFailed("no_weights", "gone"), 409, "dropped"),
        (CallFailed("internal", "an error of its own"), 500, "an error of its own"),
    ],
)
def test_a_program_that_cannot_be_made(
    light_client: TestClient,
    trained: tuple[str, dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    told: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(export, "call_worker", fail)
    problem = refused(light_client, trained[0], status, "?program=onnx")
    assert told in problem["detail"] + problem["hint"]


def test_a_program_of_a_huge_model_is_refused(
    light_client: TestClient,
    trained: tuple[str, dict[str, torch.Tensor]],
    calls: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "_MOST_PROGRAM_BYTES", 100)
    problem = refused(light_client, trained[0], 422, "?program=torch_export")
    assert [one["pointer"] for one in problem["errors"]] == ["program"]
    refused(light_client, trained[0], 422, "?program=pickle")
    download(light_client, trained[0])
    assert calls == []
