"""``latentry models``, ``inferences`` and ``export``: what is sent, and what is shown."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from latentry.commands.calling import UsageProblem
from latentry.commands.reading import read_spikes

from domain.states import ModelState
from store.database import Database
from store.tables import Model
from tests.api.api_examples import Example, add_dataset, add_job, add_model
from tests.client.command_line import CommandLine


def test_models_are_listed_the_best_first(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session))
        for number, losses in enumerate([(3.0, 2.0), (3.0, 1.0), ()]):
            add_model(
                session,
                job_id,
                number,
                losses=losses,
                hyperparameters={"dropout": 0.1 * number, "cd_rate": 0.5},
            )
    latentry = CommandLine(light_url)
    assert [one["number"] for one in latentry("models", "list", job_id, "--json").json()] == [1, 0, 2]
    assert len(latentry("models", "list", job_id, "--json", "--limit", "1").json()) == 1
    head, first, *_ = latentry("models", "list", job_id).out.splitlines()
    assert "dropout" in head
    assert "cd_rate" not in head  # it is the same of all
    assert first.split()[0] == "1"


def test_a_population_is_listed_with_who_trained_the_weights(
    light_url: str, sqlite_database: Database
) -> None:
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session), strategy={"kind": "pbt"})
        for number in range(2):
            scores = {"smoothed_sv_loss": 0.5, "best_epoch": 8, "own_smoothed_sv_loss": 0.625 - number / 8}
            model_id = add_model(
                session, job_id, number, losses=(0.5,), scores=scores, trained_by=1,
                hyperparameters={"dropout": 0.25, "cd_rate": 0.5}, best_hyperparameters={"dropout": 0.125, "cd_rate": 0.5},
            )  # fmt: skip
    latentry = CommandLine(light_url)
    assert [one["number"] for one in latentry("models", "list", job_id, "--json").json()] == [1, 0]
    head, first, second, *_ = latentry("models", "list", job_id).out.splitlines()
    assert "trained by" in head
    assert ("itself" in first, "0.5" in first) == (True, True)
    assert ("model 1" in second, "0.625" in second) == (True, True)
    shown = latentry("models", "show", model_id).out
    assert "of epoch 8" in shown
    assert "dropout 0.25" in shown, "what it trained with last"


def test_models_have_bits_per_spike_and_a_refit_is_told(light_url: str, sqlite_database: Database) -> None:
    scores = {"sv_loss": 0.25, "sv_bits_per_spike_valid": 0.1234, "validation_loss": 0.24}
    with sqlite_database.write() as session:
        job_id = add_job(session, add_dataset(session))
        session.get_one(Model, add_model(session, job_id, 0, losses=(0.25,))).scores = scores
    latentry = CommandLine(light_url)
    head, line = latentry("models", "list", job_id).out.splitlines()
    assert head.split()[4:] == ["smoothed", "SV", "loss", "bits/spike", "validation", "loss"]
    assert line.split()[4:] == ["0.2500", "0.123", "0.2400"]
    with sqlite_database.write() as session:
        add_model(session, job_id, 1000, losses=(0.2,), refit_of=0)
    said = latentry("models", "list", job_id).out.splitlines()[-1]
    assert said.startswith("The refit was trained on the validation trials")


def test_a_model_and_its_curve(example: Example, example_url: str) -> None:
    latentry = CommandLine(example_url)
    page = latentry("models", "show", example.model_id).out
    for part in (
        example.model_id,
        "trained, selected",
        "Scores",
        "Hyperparameters",
        "learning_rate",
        "factors",
    ):
        assert part in page, part
    curve = latentry("models", "curve", example.model_id, "--json").json()
    assert [one["sv_loss"] for one in curve["points"]] == [2.0, 1.0]
    drawn = latentry("models", "curve", example.model_id, "--height", "3").out
    assert "2.0000 → 1.0000, lowest 1.0000" in drawn
    assert "2.0000 █" in drawn


def test_scores_stand_beside_those_of_simple_predictors(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        model_id = add_model(session, add_job(session, add_dataset(session)))
        row = session.get_one(Model, model_id)
        row.scores = {"sv_bits_per_spike_test": 0.25, "sv_loss": 0.5}
        row.baselines = {"sv_bits_per_spike_test": {"mean": -0.01, "smoothed_spikes": 0.125}}
    shown = CommandLine(light_url)("models", "show", model_id).out
    assert "0.25 (mean -0.01, smoothed_spikes 0.125)" in shown
    assert [line.split() for line in shown.splitlines() if line.startswith("sv_loss")] == [["sv_loss", "0.5"]]


def test_a_curve_without_points(light_url: str, sqlite_database: Database) -> None:
    with sqlite_database.write() as session:
        model_id = add_model(session, add_job(session, add_dataset(session)), state=ModelState.QUEUED)
    assert "No epoch" in CommandLine(light_url)("models", "curve", model_id).out


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], list[httpx.Request]]:
    """Makes the service answer what is given, by method and path, and returns what it was asked."""

    def answer(answers: dict[str, Any]) -> list[httpx.Request]:
        requests: list[httpx.Request] = []

        def handle(request: httpx.Request) -> httpx.Response:
            request.read()
            requests.append(request)
            content = answers[f"{request.method} {request.url.path}"]
            return httpx.Response(
                200, **({"content": content} if isinstance(content, bytes) else {"json": content})
            )

        original = httpx.Client.__init__

        def connect(self: httpx.Client, *args: Any, **options: Any) -> None:
            original(self, *args, **{**options, "transport": httpx.MockTransport(handle)})

        monkeypatch.setattr(httpx.Client, "__init__", connect)
        return requests

    return answer


INFERENCE = {
    "id": "inf_1", "model_id": "mod_1", "dataset_id": "dat_1", "state": "queued", "arrays": ["rates"],
    "progress": {"trials_done": 0, "trials": 6, "fraction": 0.0}, "scores": {"sv_loss": 0.5},
    "created_at": "2026-01-02T03:04:05Z", "error": None,
}  # fmt: skip


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("failed", 6)])
def test_a_model_is_applied(asked: Callable[..., list[httpx.Request]], end: str, code: int) -> None:
    ended = {**INFERENCE, "state": end, "error": {"message": "out of memory"} if code else None}
    requests = asked({"POST /v1/models/mod_1:apply": INFERENCE, "GET /v1/inferences/inf_1": ended})
    latentry = CommandLine("http://service")
    options = ("--dataset", "dat_1", "--array", "rates", "--posterior-samples", "9", "--session", "1")
    ran = latentry("models", "apply", "mod_1", *options, "--json", expect=code)
    body = json.loads(requests[0].content)
    assert body == {"dataset_id": "dat_1", "arrays": ["rates"], "posterior_samples": 9, "session": 1}
    assert "inf_1 is queued" in ran.messages
    if code:
        assert "out of memory" in ran.messages
        assert ran.out == ""
    else:
        assert ran.json()["state"] == "done"
    assert latentry("models", "apply", "mod_1", "--no-wait", "--json").json()["state"] == "queued"
    refused = latentry("models", "apply", "mod_1", "--dataset", "no.npz", expect=2)
    assert "neither the id of a data set (dat_…) nor a file" in refused.messages


def test_dynamics(asked: Callable[..., list[httpx.Request]]) -> None:
    slow = {"real": 0.9, "imag": 0.1, "magnitude": 0.9, "time_constant_ms": 94.9, "frequency_hz": 1.76}
    point = {"starts": 7, "distance": 0.25, "unstable_dimensions": 0, "eigenvalues": [slow]}
    found = {"eigenvalues": [slow], "fixed_points": [point], "note": "fewer starts"}
    requests = asked({"GET /v1/models/mod_1/dynamics": found})
    latentry = CommandLine("http://service")
    shown = latentry("models", "dynamics", "mod_1", "--starts", "7").out
    assert requests[0].url.params["starts"] == "7"
    for part in ("0.9000", "94.9", "1.76", "0.25", "fewer starts"):
        assert part in shown, part


def test_inferences(asked: Callable[..., list[httpx.Request]]) -> None:
    asked(
        {
            "GET /v1/inferences": {"items": [INFERENCE], "next_page_token": None},
            "GET /v1/inferences/inf_1": INFERENCE,
            "POST /v1/inferences/inf_1:cancel": {**INFERENCE, "state": "cancelled"},
        }
    )
    latentry = CommandLine("http://service")
    assert latentry("inferences", "list", "--json").json() == [INFERENCE]
    assert "inf_1" in latentry("inferences", "list").out
    assert "0 of 6" in latentry("inferences", "show", "inf_1").out
    assert latentry("inferences", "cancel", "inf_1", "--json").json()["state"] == "cancelled"


def test_latents_at_once(asked: Callable[..., list[httpx.Request]], tmp_path: Path) -> None:
    spikes = np.arange(6, dtype=np.uint8).reshape(2, 3)
    np.save(tmp_path / "trial.npy", spikes)
    answer = {
        "arrays": {"rates": {"dims": ["bin", "neuron"], "shape": [2, 3], "units": "spikes/s", "values": []}}
    }
    requests = asked({"POST /v1/models/mod_1:infer": answer})
    latentry = CommandLine("http://service")
    ran = latentry(
        "models", "infer", "mod_1", tmp_path / "trial.npy", "--array", "rates", "--array", "factors", "--json"
    )
    assert ran.json() == answer
    np.testing.assert_array_equal(np.load(io.BytesIO(requests[0].content)), spikes)
    assert requests[0].headers["Content-Type"] == "application/x-npy"
    assert dict(requests[0].url.params) == {"arrays": "rates,factors", "format": "json"}
    assert "bin 2 × neuron 3" in latentry("models", "infer", "mod_1", tmp_path / "trial.npy").out


def test_latents_at_once_to_a_file(asked: Callable[..., list[httpx.Request]], tmp_path: Path) -> None:
    (tmp_path / "trials.json").write_text('{"spikes": [[[1, 2], [3, 4]]]}')
    requests = asked({"POST /v1/models/mod_1:infer": b"npz"})
    path = tmp_path / "latents.npz"
    told = CommandLine("http://service")(
        "models", "infer", "mod_1", tmp_path / "trials.json", "-o", path, "--json"
    ).json()
    assert told == {"path": str(path), "bytes": 3, "format": "npz"}
    assert path.read_bytes() == b"npz"
    assert requests[0].url.params["format"] == "npz"
    refused = CommandLine("http://service")(
        "models", "infer", "mod_1", tmp_path / "trials.json", "-o", tmp_path / "latents.csv", expect=2
    )
    assert "ends with .npz" in refused.messages
    assert len(requests) == 1


def test_spikes_of_every_kind_of_file(tmp_path: Path) -> None:
    counts = np.array([[[0, 1], [2, 3]]])
    np.save(tmp_path / "a.npy", counts.astype(float))
    np.savez(tmp_path / "a.npz", spikes=counts)
    (tmp_path / "a.json").write_text(json.dumps(counts.tolist()))
    for name in ("a.npy", "a.npz", "a.json"):
        read = np.load(io.BytesIO(read_spikes(tmp_path / name)))
        assert read.dtype.kind in "iu"
        np.testing.assert_array_equal(read, counts)


@pytest.mark.parametrize("what", ["text", "fractions", "one axis", "no spikes", "objects", "missing"])
def test_spikes_that_are_none(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.npz"
    if what == "text":
        path.write_text("spikes")
    elif what != "missing":
        arrays: dict[str, Any] = {
            "fractions": {"spikes": np.full((2, 2), 0.5)},
            "one axis": {"spikes": np.arange(3)},
            "no spikes": {"counts": np.ones((2, 2), int)},
            "objects": {"spikes": np.array([[1, None]], dtype=object)},
        }[what]
        np.savez(path, **arrays)
    with pytest.raises(UsageProblem, match=r"a\.npz"):
        read_spikes(path)


def test_a_model_is_exported(
    asked: Callable[..., list[httpx.Request]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("card.json", "{}")
    requests = asked({"GET /v1/models/mod_1/export": content.getvalue()})
    latentry = CommandLine("http://service")
    told = latentry("export", "mod_1", "--program", "onnx", "--json").json()
    assert told == {"path": "model.zip", "bytes": len(content.getvalue())}
    assert zipfile.ZipFile("model.zip").namelist() == ["card.json"]
    assert dict(requests[-1].url.params) == {"program": "onnx"}
    assert "mine.zip (" in latentry("export", "mod_1", "-o", "mine.zip").out
