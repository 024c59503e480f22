"""The dynamics of a model over HTTP."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from fastapi.testclient import TestClient
from zarr.abc.store import Store

from domain.generators import GENERATORS
from domain.parameter_shapes import parameter_shapes
from domain.states import JobState, ModelState
from models import Architecture
from models.generators import generator_of
from models.model_state import fresh_state
from models.network import generator_names
from store.array_store import open_array_store, write_object
from store.arrays import ArrayGroupWriter, NamedArray
from store.database import Database
from tests.api.api_examples import add_dataset, add_job, add_model

KEY, WIDTH_S, UNITS = "models/a/checkpoints/3.safetensors", 0.02, 4


@pytest.fixture
def arrays(sqlite_database: Database) -> Store:
    return open_array_store("sql:", sqlite_database)


def weights(kind: str) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """Weights of a small model. A GRU has four bistable units without coupling, so 3⁴ fixed points."""
    architecture = Architecture(
        neurons=4, generator=kind, generator_units=UNITS, encoder_units=3, initial_condition_dim=3, factors=2,
        node_hidden_units=6, generator_rank=2,
    )  # fmt: skip
    random = torch.Generator().manual_seed(0)
    best = {
        name: torch.randn(shape, generator=random) for name, shape in parameter_shapes(architecture).items()
    }
    if kind == "gru":
        best["generator.input_bias"] = torch.cat((torch.full((UNITS,), 50.0), torch.zeros(2 * UNITS)))
        recurrent = torch.cat((torch.zeros(UNITS, 2 * UNITS), 2 * torch.eye(UNITS)), dim=1)
        best |= {"generator.recurrent_weight": recurrent, "generator.candidate_bias": torch.zeros(UNITS)}
    if kind == "linear":
        best["generator.log_time_constant"] = torch.tensor([5.0, 10.0]).log()  # bins
        best["generator.angle"] = 2 * torch.pi * WIDTH_S * torch.tensor([3.0, 8.0])
    return architecture, best


def add(database: Database, arrays: Store, kind: str, **columns: Any) -> tuple[str, dict[str, torch.Tensor]]:
    """A trained model with these weights."""
    architecture, best = weights(kind)
    write_object(
        arrays, KEY, safetensors.torch.save({name: one.clone() for name, one in fresh_state(best).items()})
    )
    row = {name: one for name, one in dataclasses.asdict(architecture).items() if name != "neurons"}
    with database.write() as session:
        job_id = add_job(session, add_dataset(session), state=JobState.DONE)
        model_id = add_model(
            session,
            job_id,
            architecture=row,
            **{"state": ModelState.TRAINED, "checkpoint_key": KEY} | columns,
        )
    return model_id, best


@pytest.mark.parametrize("kind", GENERATORS)
def test_fixed_points_stay_where_they_are(
    light_client: TestClient, sqlite_database: Database, arrays: Store, kind: str
) -> None:
    model_id, best = add(sqlite_database, arrays, kind)
    answer = light_client.get(f"/v1/models/{model_id}/dynamics?eigenvalues=3")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["generator"], found["units"], found["bin_width_s"]) == (kind, UNITS, WIDTH_S)
    assert (found["starts"], found["starts_from"]) == (64, "prior")
    assert found["converged"] == sum(one["starts"] for one in found["fixed_points"])
    own = {name: best[f"generator.{name}"][None].double() for name in generator_names(weights(kind)[0])}
    for point in found["fixed_points"]:
        state = torch.tensor([[point["state"]]], dtype=torch.float64)
        after = generator_of(kind).step(own)(state, state[..., :0])
        torch.testing.assert_close(after, state, rtol=1e-6, atol=1e-7)
        assert len(point["eigenvalues"]) == 3
        assert point["is_stable"] == (point["unstable_dimensions"] == 0)
    if kind == "gru":
        assert len(found["fixed_points"]) > 4
        assert {one["is_stable"] for one in found["fixed_points"]} == {True, False}
        np.testing.assert_allclose(np.abs(found["fixed_points"][0]["state"]).round(3) % 0.958, 0, atol=2e-3)
    if kind == "linear":
        times = [round(one["time_constant_ms"], 3) for one in found["eigenvalues"]]
        assert times == [200.0, 200.0, 100.0]
        assert [round(one["frequency_hz"], 3) for one in found["eigenvalues"]] == [8.0, 8.0, 3.0]
        assert len(found["fixed_points"]) == 1
    product = None if found["u"] is None else np.array(found["u"]) @ np.array(found["v"]).T
    if kind == "low_rank":
        expected = (best["generator.recurrent_read_weight"] @ best["generator.recurrent_write_weight"]).T
        np.testing.assert_allclose(product, expected, atol=1e-5)
        assert len(found["eigenvalues"]) == 2
    else:
        assert product is None
        assert (found["eigenvalues"] is None) == (kind != "linear")
    again = light_client.get(
        f"/v1/models/{model_id}/dynamics?eigenvalues=3", headers={"If-None-Match": answer.headers["etag"]}
    )
    assert again.status_code == 304


def test_searches_start_from_the_states_of_the_model(
    light_client: TestClient, sqlite_database: Database, arrays: Store
) -> None:
    states = np.full((5, 6, UNITS), 0.9, np.float32)
    states[:, 3:] = np.nan
    writer = ArrayGroupWriter(arrays, "latents", {"bin_width_s": WIDTH_S})
    writer.write_all([NamedArray("generator_states", states, ("trial", "time_s", "generator_unit"))])
    writer.close()
    model_id, _ = add(sqlite_database, arrays, "gru", latents_path="latents")
    found = light_client.get(f"/v1/models/{model_id}/dynamics").json()
    assert (found["starts"], found["starts_from"]) == (15, "generator_states")
    [point] = found["fixed_points"]
    assert point["state"] == pytest.approx([0.9575] * UNITS, abs=1e-4)
    without = light_client.get(f"/v1/models/{model_id}/dynamics?starts=0").json()
    assert (without["fixed_points"], without["note"], without["starts_from"]) == ([], None, None)


def test_what_has_no_dynamics_says_so(
    light_client: TestClient, sqlite_database: Database, arrays: Store
) -> None:
    training, _ = add(sqlite_database, arrays, "gru", state=ModelState.TRAINING)
    answer = light_client.get(f"/v1/models/{training}/dynamics")
    assert (answer.status_code, "expected a model whose training has ended" in answer.text) == (409, True)
    dropped, _ = add(sqlite_database, arrays, "gru", checkpoint_key=None, losses=(1.0,))
    assert light_client.get(f"/v1/models/{dropped}/dynamics").status_code == 409
    assert light_client.get("/v1/models/mod_none/dynamics").status_code == 404
    assert light_client.get(f"/v1/models/{training}/dynamics?starts=1000").status_code == 422
