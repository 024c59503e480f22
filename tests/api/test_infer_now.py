"""Latents at once over HTTP: what is checked, what the worker is asked, and how its answer is told."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from numpy.typing import NDArray

from api.computing.fair_executor import FairExecutor
from store.array_store import open_array_store
from store.database import Database
from store.rpc import CallFailed, WorkersAway, pack_array, unpack_array
from store.settings import Settings
from store.tables import Dataset, Model
from tests.api.api_examples import PROBLEM, add_dataset, fill
from tests.api.test_guide import DOCS, run_commands
from tests.api.test_inferences import add_trained

COUNTS = np.random.default_rng(0).poisson(1.0, (2, 5, 4))


class Worker:
    """Answers what it is asked with numbers, and remembers it; or raises."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}
        self.error: Exception | None = None

    def call(self, task: str, arguments: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        assert (task, timeout_s) == ("infer_now", 30.0)
        if self.error is not None:
            raise self.error
        self.asked = arguments | {"spikes": unpack_array(arguments["spikes"])}
        trials, bins, neurons = self.asked["spikes"].shape
        shapes = {"rates": (trials, bins, neurons), "initial_conditions": (trials, 2)}
        return {
            name: pack_array(self.values(*shapes.get(name, (trials, bins, 3))))
            for name in arguments["arrays"]
        }

    @staticmethod
    def values(*shape: int) -> NDArray[np.float32]:
        values = np.random.default_rng(1).random(shape, np.float32)
        values.flat[0] = np.nan
        return values


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    found = Worker()
    monkeypatch.setattr("api.inferences.online.call_worker", found.call)
    return found


@pytest.fixture
def model_id(sqlite_database: Database, light_dataset_id: str) -> str:
    with sqlite_database.write() as session:
        return add_trained(session, light_dataset_id)


def npy(values: NDArray[Any], **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def post(client: TestClient, model_id: str, body: Any, kind: str = "application/json", **query: Any) -> Any:
    content = json.dumps(body) if kind == "application/json" else body
    headers = {"Content-Type": kind}
    return client.post(f"/v1/models/{model_id}:infer", content=content, params=query, headers=headers)


def refused(
    client: TestClient, model_id: str, body: Any, kind: str = "application/json", status: int = 422
) -> Any:
    answer = post(client, model_id, body, kind)
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM), answer.text
    return answer.json()


def test_the_worker_is_asked_and_its_answer_told(
    light_client: TestClient, worker: Worker, model_id: str
) -> None:
    answer = post(
        light_client, model_id, {"spikes": COUNTS.tolist(), "arrays": ["rates", "initial_conditions"]}
    )
    assert answer.status_code == 200, answer.text
    asked, found = worker.asked, answer.json()
    np.testing.assert_array_equal(asked["spikes"], COUNTS)
    assert asked["spikes"].dtype == np.uint8
    assert (asked["checkpoint_key"], asked["architecture"], asked["neurons"]) == (
        "models/weights",
        {"factors": 3},
        [4],
    )
    assert (asked["trial_length_bins"], asked["external_inputs"], asked["session"]) == ([5, 5], None, 0)
    rates = worker.values(2, 5, 4) / np.float32(0.02)
    told = found["arrays"]["rates"]
    assert (told["dims"], told["units"], told["shape"]) == (["trial", "bin", "neuron"], "spikes/s", [2, 5, 4])
    assert told["values"][0][0][0] is None
    np.testing.assert_array_equal(np.array(told["values"], np.float32), rates)
    assert found["arrays"]["initial_conditions"]["dims"] == ["trial", "initial_condition_dim"]
    del found["arrays"]
    assert found == {
        "model_id": model_id, "bin_width_s": 0.02, "posterior_samples": 50, "seed": 0, "first_trial": 0
    }  # fmt: skip


def test_one_trial_has_no_axis_of_trials(light_client: TestClient, worker: Worker, model_id: str) -> None:
    found = post(light_client, model_id, {"spikes": COUNTS[0].tolist()}).json()["arrays"]
    assert worker.asked["spikes"].shape == (1, 5, 4)
    assert {name: (one["dims"], one["shape"]) for name, one in found.items()} == {
        "rates": (["bin", "neuron"], [5, 4]), "factors": (["bin", "factor"], [5, 3])
    }  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_an_array_as_numpy_writes_it(
    light_client: TestClient, worker: Worker, model_id: str, order: Any, dtype: Any
) -> None:
    body = npy(np.asarray(COUNTS, dtype, order))
    query = {"arrays": "factors,rates", "seed": 3, "first_trial": 7, "posterior_samples": 2, "format": "npz"}
    answer = post(light_client, model_id, body, "application/x-npy", **query)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-npz"), answer.text
    np.testing.assert_array_equal(worker.asked["spikes"], COUNTS)
    asked = {name: worker.asked[name] for name in ("arrays", "seed", "first_trial", "posterior_samples")}
    assert asked == {"arrays": ["factors", "rates"], "seed": 3, "first_trial": 7, "posterior_samples": 2}
    with np.load(io.BytesIO(answer.content), allow_pickle=False) as found:
        assert {"rates", "factors", "seed", "model_id"} <= set(found)
        np.testing.assert_array_equal(found["rates"], worker.values(2, 5, 4) / np.float32(0.02))
        assert (int(found["seed"]), str(found["model_id"])) == (3, model_id)
    url, headers = (
        f"/v1/models/{model_id}:infer",
        {"Content-Type": "application/x-npy", "Accept": "application/x-npz"},
    )
    assert light_client.post(url, content=body, headers=headers).content[:2] == b"PK"


NO_SPIKES: list[tuple[Any, str, str]] = [
    ({"spikes": [[[0.5] * 4] * 5]}, "/spikes", "expected whole numbers"),
    ({"spikes": [[[-1] * 4] * 5]}, "/spikes", "got -1"),
    ({"spikes": [[[40000] * 4] * 5]}, "/spikes", "0 … 32767; got 40000"),
    ({"spikes": [[[10**30] * 4] * 5]}, "/spikes", "expected nested lists of numbers"),
    ({"spikes": [[["1"] * 4] * 5]}, "/spikes", "expected nested lists of numbers"),
    ({"spikes": [[[True] * 4] * 5]}, "/spikes", "expected nested lists of numbers"),
    ({"spikes": [[[0] * 4] * 5, [[0] * 4] * 4]}, "/spikes", "rows of equal length"),
    ({"spikes": [0, 1]}, "/spikes", "expected nested lists of numbers"),
    ({"spikes": [[0] * 4, 1]}, "/spikes", "expected nested lists of numbers"),
    ({"spikes": [[[]] * 200_001]}, "", "more than 200000 lists and objects"),
    ({"spikes": [[]]}, "/spikes", "got an array of 1 × 0"),
    ({"spikes": []}, "/spikes", ""),
    ({}, "/spikes", ""),
    ({"spikes": [[[0] * 3] * 5]}, "/spikes", "expected the 4 neurons of the model"),
    ({"spikes": [[[0] * 4] * 5] * 65}, "/spikes", "expected at most 64 trials; got 65"),
    ({"spikes": [[[0] * 4] * 5], "trial_length_bins": [6]}, "/trial_length_bins", "one number in 1 … 5"),
    ({"spikes": [[[0] * 4] * 5], "trial_length_bins": []}, "/trial_length_bins", "one number in 1 … 5"),
    ({"spikes": [[[0] * 4] * 5], "trial_length_bins": [0]}, "/trial_length_bins/0", ""),
    (
        {"spikes": [[[0] * 4] * 5], "external_inputs": [[[0.1]] * 5]},
        "/external_inputs",
        "expected 0 external",
    ),
    (
        {"spikes": [[[0] * 4] * 5], "external_inputs": [[[0.1]] * 4]},
        "/external_inputs",
        "1 trials × 5 bins",
    ),
    ({"spikes": [[[0] * 4] * 5], "arrays": ["inputs"]}, "/arrays", "no controller"),
    ({"spikes": [[[0] * 4] * 5], "session": 1}, "/session", "expected 0 … 0"),
    ({"spikes": [[[0] * 4] * 5], "sead": 1}, "/sead", ""),
    ([[1]], "", ""),
    (None, "", ""),
]
"""Bodies, the field that is wrong, and what is said of it."""


def test_what_is_no_spikes_is_refused(light_client: TestClient, worker: Worker, model_id: str) -> None:
    for body, pointer, told in NO_SPIKES:
        found = refused(light_client, model_id, body)
        assert told in found["detail"]
        assert found["errors"][0]["pointer"] == pointer, told
    assert worker.asked == {}


def test_what_is_no_array_is_refused(light_client: TestClient, worker: Worker, model_id: str) -> None:
    whole = npy(COUNTS.astype(np.uint8))
    promises = npy(np.zeros((1, 1), np.uint8)).replace(b"(1, 1)", b"(9" + b"0" * 11 + b", 1)"[:4])
    pickled = npy(np.array([[{}]], object), allow_pickle=True)
    other_shapes = (
        b"(-2,-4), }",
        b"(-1,-4,2), }",
        b"(True,8), }",
        b"(" + b"1," * 70 + b"), }",
        b"(---8,), }",
    )
    shapes = [npy(np.zeros(8, np.uint8)).replace(b"(8,), }", one) for one in other_shapes]
    broken = [
        b"",
        b"PK",
        whole[:-1],
        whole + b"x",
        pickled,
        promises,
        b"\x93NUMPY\x07\x00" + whole[8:],
        *shapes,
    ]
    for body in broken:
        found = refused(light_client, model_id, body, "application/x-npy")
        assert "written by numpy.save" in found["detail"]
    assert "expected JSON" in light_client.post(
        f"/v1/models/{model_id}:infer", content=b"{", headers={"Content-Type": "application/json"}
    ).json()["detail"]  # fmt: skip
    assert refused(light_client, model_id, b"x", "text/plain", 415)["type"].endswith("unsupported-media-type")
    assert post(light_client, model_id, whole, "application/x-npy", format="csv").status_code == 422
    assert worker.asked == {}


def test_external_inputs_reach_the_worker(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, worker: Worker
) -> None:
    with sqlite_database.write() as session:
        model_id = add_trained(session, light_dataset_id, architecture={"external_inputs": 1})
    given = np.random.default_rng(2).random((2, 5, 1)).astype(np.float32)
    assert (
        post(
            light_client, model_id, {"spikes": COUNTS.tolist(), "external_inputs": given.tolist()}
        ).status_code
        == 200
    )
    np.testing.assert_array_equal(unpack_array(worker.asked["external_inputs"]), given)
    assert "use a JSON body" in refused(light_client, model_id, npy(COUNTS), "application/x-npy")["hint"]


def test_whose_neurons_they_are_is_asked(
    light_client: TestClient, sqlite_database: Database, worker: Worker
) -> None:
    with sqlite_database.write() as session:
        both = add_dataset(session, neurons=11, splits=(None,) * 40)
        told = [{"dataset_id": f"dat_{n:024}", "trials": 20, "bins": 5, "neurons": n} for n in (7, 4)]
        session.get_one(Dataset, both).report = {"sessions": told}
        model_id = add_trained(session, both, architecture={"read_in_dim": 3})
    assert "expected 0 … 1" in refused(light_client, model_id, {"spikes": COUNTS.tolist()})["detail"]
    assert post(light_client, model_id, {"spikes": COUNTS.tolist(), "session": 1}).json()["seed"] == 1
    assert (worker.asked["session"], worker.asked["neurons"]) == (1, [7, 4])


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (WorkersAway("no process at the queue 'infer' answered"), 503, "no process at the queue"),
        (CallFailed("too_slow", ""), 503, "longer than 30 s"),
        (CallFailed("no_weights", "gone"), 409, "no weights any more"),
        (CallFailed("refused", "spikes must be whole"), 422, "spikes must be whole"),
        (CallFailed("internal", "broken"), 500, "an internal error"),
    ],
)
def test_what_the_worker_can_t_is_told(
    light_client: TestClient, worker: Worker, model_id: str, error: Exception, status: int, told: str
) -> None:
    worker.error = error
    answer = post(light_client, model_id, {"spikes": COUNTS.tolist()})
    assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
    assert told in answer.json()["detail"]
    assert ("retry-after" in answer.headers) == (status == 503)
    if isinstance(error, WorkersAway):
        assert "`latentry up` starts one" in answer.json()["hint"]


def test_limits_are_those_of_the_settings(
    light_app: FastAPI, light_client: TestClient, settings: Settings, worker: Worker, model_id: str
) -> None:
    settings.json_max_elements = 60
    assert "use format=npz" in refused(light_client, model_id, {"spikes": COUNTS.tolist()})["hint"]
    assert post(light_client, model_id, {"spikes": COUNTS.tolist()}, format="npz").status_code == 200
    settings.infer_max_bytes = 100
    found = refused(light_client, model_id, {"spikes": COUNTS.tolist()}, status=413)
    assert "LATENTRY_INFER_MAX_BYTES" in found["hint"]


def test_the_model_must_have_weights(
    light_client: TestClient, sqlite_database: Database, light_dataset_id: str, worker: Worker
) -> None:
    with sqlite_database.write() as session:
        model_id = add_trained(session, light_dataset_id, checkpoint_key=None)
    assert (
        "no weights any more"
        in refused(light_client, model_id, {"spikes": COUNTS.tolist()}, status=409)["detail"]
    )
    refused(light_client, "mod_" + "0" * 24, {"spikes": COUNTS.tolist()}, status=404)


def test_commands_of_the_guide_to_inference(
    light_app: FastAPI, light_url: str, sqlite_database: Database, worker: Worker, tmp_path: Path
) -> None:
    example = fill(light_app, sqlite_database, open_array_store("sql:", sqlite_database))
    with sqlite_database.write() as session:
        session.get_one(Model, example.model_id).checkpoint_key = "models/weights"
    np.save(tmp_path / "trial.npy", COUNTS[0])
    ids = {"DATASET": example.dataset_id, "MODEL": example.model_id}
    applied, answered = run_commands(DOCS / "models.md", tmp_path, first=2, LATENTRY=light_url, **ids)
    assert applied.count('"state":"queued"') == 2, "made and listed"
    assert json.loads(answered)["arrays"]["factors"]["shape"] == [5, 3]
    with np.load(tmp_path / "latents.npz") as found:
        assert found["rates"].shape == (5, 4)


def test_tenants_take_turns(
    light_app: FastAPI, light_client: TestClient, worker: Worker, model_id: str
) -> None:
    light_app.state.inference_executor = FairExecutor(1, 60.0, 0)
    answer = light_client.post(f"/v1/models/{model_id}:infer", json={"spikes": COUNTS.tolist()})
    assert (answer.status_code, answer.json()["quota"]["name"]) == (429, "analyses")
    assert not worker.asked
