"""The client against the OpenAPI document: what it sends is offered, what is offered is reached, what is answered is typed."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import numpy as np
import pytest
from latentry import Client, documents
from latentry.documents import Field
from latentry.synchronous.administration import Key, Share, Webhook
from latentry.synchronous.array_resources import ArrayOwner, LatentsOwner
from latentry.synchronous.arrays import Array, Arrays
from latentry.synchronous.datasets import Dataset
from latentry.synchronous.jobs import Job
from latentry.synchronous.models import Inference, Model
from latentry.synchronous.resources import Pages, Resource

from tests.client.recorded_service import FILE_CONTENT, VALUES, RecordedService, openapi

ANALYSIS = {"where": {"condition": [3, 4]}, "split": "train", "smooth_s": 0.05, "time_s": slice(0.1, 0.4)}
QUESTION = {
    "where": {"outcome": "go"}, "split": ["train", "valid"], "align_to": "go_cue", "window_s": (-0.1, 0.4),
    "event_clock": "trial", "smooth_s": 0.05, "rebin_s": 0.02, "rotate_to": "mod_2", "rotation": "procrustes",
    "components": 3, "average": "condition", "statistic": "mean",
}  # fmt: skip

FILE, FOLDER = Path("spikes.npz"), Path()  # in the folder of the test

Call = Callable[[Any], Any]
CALLS: dict[type, dict[str, Call]] = {
    Client: {
        "upload_dataset": lambda one: (one.upload_dataset(FILE), one.upload_dataset(FILE, resumable=True, notes="a", tags=["b"])),
        "upload_file": lambda one: one.upload_file(FILE),
        "retry_dataset": lambda one: one.retry_dataset("dat_1"),
        "derive_dataset": lambda one: one.derive_dataset("dat_1", {"rebin_s": 0.02}, "coarse"),
        "combine_datasets": lambda one: one.combine_datasets(["dat_1", "dat_2"]),
        "synthesize_dataset": lambda one: one.synthesize_dataset("driven", inputs=2, seed=1),
        "datasets": lambda one: list(one.datasets()),
        "get_dataset": lambda one: one.get_dataset("dat_1"),
        "wait_for_dataset": lambda one: one.wait_for_dataset("dat_1"),
        "submit": lambda one: one.submit("dat_1", preset="autolfads", budget={"models": 4}),
        "create_job": lambda one: one.create_job({"dataset_id": "dat_1"}),
        "preview_job": lambda one: one.preview_job({"dataset_id": "dat_1"}),
        "jobs": lambda one: list(one.jobs(state=["running", "queued"], tag=["a", "b"], text="x", created_by="Ada")),
        "get_job": lambda one: one.get_job("job_1"),
        "change_job": lambda one: one.change_job("job_1", name="a", priority=1),
        "change_dataset": lambda one: one.change_dataset("dat_1", notes=None, tags=["a"]),
        **{
            f"{verb}_job": lambda one, verb=verb: getattr(one, f"{verb}_job")("job_1")
            for verb in ("pause", "resume", "stop", "cancel", "retry")
        },
        "extend_job": lambda one: one.extend_job("job_1", models=1, wall_seconds=60),
        "importance": lambda one: one.importance("job_1"),
        "curves": lambda one: one.curves("job_1", points=50, after="1x3"),
        "decisions": lambda one: one.decisions("job_1"),
        "lineage": lambda one: one.lineage("job_1", 0),
        "lineage_picture": lambda one: one.lineage_picture("job_1", 0),
        "wait_for_job": lambda one: one.wait_for_job("job_1"),
        "events": lambda one: list(one.events("job_1")),
        "list_models": lambda one: one.list_models("job_1"),
        "get_model": lambda one: one.get_model("mod_1"),
        "inferences": lambda one: list(one.inferences(model_id="mod_1", job_id="job_1", dataset_id="dat_1")),
        "audit": lambda one: list(one.audit(object_id="job_1")),
        "get_inference": lambda one: one.get_inference("inf_1"),
        "read_dataset_array": lambda one: one.read_dataset_array("dat_1", "spikes", "0:5"),
        "read_model_array": lambda one: one.read_model_array("mod_1", "rates", "0:5"),
        "keys": lambda one: list(one.keys()),
        "create_key": lambda one: one.create_key("Ada", scopes=["read"], expires_at="2099-01-01T00:00:00Z"),
        "share": lambda one: [one.share(f"{kind}_1", label="a", expires_in_days=7) for kind in ("dat", "job", "mod")],
        "shares": lambda one: list(one.shares("job_1")),
        "webhooks": lambda one: list(one.webhooks()),
        "create_webhook": lambda one: one.create_webhook("https://lab.example/hook", states=["done"]),
        "readiness": lambda one: one.readiness(),
        "usage": lambda one: one.usage(),
        "retention": lambda one: one.retention(),
        "set_retention": lambda one: one.set_retention("smith", events=30),
        "drain_worker": lambda one: one.drain_worker("rig-2"),
        "pause_tenant": lambda one: one.pause_tenant("smith", "moving"),
        "resume_tenant": lambda one: one.resume_tenant("smith"),
        "all_usage": lambda one: list(one.all_usage()),
        "change_quotas": lambda one: one.change_quotas("smith", open_jobs=5),
        "caller": lambda one: one.caller(),
        "workers": lambda one: one.workers(),
        "checks": lambda one: one.checks(),
        "get": lambda one: one.get("/v1/jobs"),
        "post": lambda one: one.post("/v1/jobs", {"dataset_id": "dat_1"}),
        "delete": lambda one: one.delete("/v1/jobs/job_1", dry_run=True),
        "act": lambda one: one.act("/v1/jobs/job_1:pause"),
        "request": lambda one: one.request("GET", "/v1/jobs", params={"page_size": 3}),
        "download": lambda one: one.download("/v1/models/mod_1/download", FOLDER),
    },
    Dataset: {
        "wait": lambda one: one.wait(),
        "change": lambda one: one.change(name="a", tags=[]),
        **{name: lambda one, name=name: list(getattr(one, name)) for name in ("jobs", "inferences", "derived", "combined")},
        "list_trials": lambda one: list(one.list_trials(where={"condition": [3, 4]})),
        "retry": lambda one: one.retry(),
        "derive": lambda one: one.derive({}),
        "delete": lambda one: one.delete(cascade=True, dry_run=True),
        "submit": lambda one: one.submit(preset="quick"),
        "preview": lambda one: one.preview(),
        "preview_picture": lambda one: (one.preview_picture(), one.preview_picture("svg")),
        "html": lambda one: one.html(),
    },
    Job: {
        "dataset": lambda one: one.dataset,
        "models": lambda one: list(one.models),
        "inferences": lambda one: list(one.inferences),
        "selected_model": lambda one: one.selected_model,
        "final_model": lambda one: one.final_model,
        "wait": lambda one: one.wait(),
        "events": lambda one: list(one.events()),
        "history": lambda one: list(one.history),
        **{
            verb: lambda one, verb=verb: getattr(one, verb)()
            for verb in ("pause", "resume", "stop", "cancel", "retry")
        },
        "extend": lambda one: one.extend(epochs=10),
        "delete": lambda one: one.delete(),
        "change": lambda one: one.change(priority=2),
        "decisions": lambda one: list(one.decisions),
        "importance": lambda one: one.importance(),
        "lineage": lambda one: one.lineage(),
        "lineage_picture": lambda one: one.lineage_picture(),
        "html": lambda one: one.html(),
    },
    Model: {
        "job": lambda one: one.job,
        "learning_curve": lambda one: one.learning_curve,
        "card": lambda one: one.card(),
        "methods": lambda one: one.methods(),
        "dynamics": lambda one: one.dynamics(starts=8),
        "delete_latents": lambda one: one.delete_latents(),
        "export": lambda one: one.export(FOLDER, program="onnx", session=0),
        "apply": lambda one: one.apply("dat_1", arrays=["rates"], posterior_samples=5, session=0),
        "infer": lambda one: (
            one.infer(np.ones((3, 4)), arrays=["rates"], posterior_samples=5, seed=1, first_trial=0, session=0),
            one.infer(np.ones((2, 3, 4)), external_inputs=np.ones((2, 3, 1)), trial_length_bins=[3, 2]),
        ),
        "html": lambda one: one.html(),
    },
    Inference: {"wait": lambda one: one.wait(), "cancel": lambda one: one.cancel(), "delete": lambda one: one.delete()},
    Share: {"revoke": lambda one: one.revoke()},
    Key: {"revoke": lambda one: one.revoke()},
    Webhook: {
        "delete": lambda one: one.delete(),
        "test": lambda one: one.test(),
        "delete_deliveries": lambda one: one.delete_deliveries(),
        "deliveries": lambda one: list(one.deliveries),
    },
    Array: {
        "dims": lambda one: one.dims,
        "shape": lambda one: one.shape,
        "dtype": lambda one: one.dtype,
        "units": lambda one: one.units,
        "coords": lambda one: one.coords,
        "read": lambda one: one.read("0:1"),
        "sel": lambda one: one.sel(time_s=slice(0.1, 0.4), trial=[3, 5], split="valid", condition=3).read(),
        "query": lambda one: one.query(**QUESTION, neuron=[0, 4]).read(),
        "download": lambda one: one.download(FOLDER, "parquet"),
        "to_labelled": lambda one: one.to_labelled(),
        "to_xarray": lambda one: one.to_xarray(),
        "to_pandas": lambda one: one.to_pandas(),
        "html": lambda one: one.html(),
    },
    Arrays: {
        "names": lambda one: one.names(),
        "about": lambda one: one.about("rates"),
        "coordinates": lambda one: one.coordinates("rates"),
        "html": lambda one: one.html(),
    },
    Pages: {"all": lambda one: one.all()},
}  # fmt: skip
"""How each public method is called; `calls_of` adds those that kinds have in common."""

OF_RESOURCES: dict[str, Call] = {"refresh": lambda one: one.refresh()}
OF_OWNERS: dict[str, Call] = {
    "arrays": lambda one: one.arrays.names(),
    "download": lambda one: one.download(FOLDER, "hdf5", ["rates", "factors"]),
    "distances": lambda one: one.distances(by="condition", metric="mahalanobis", over_time=True, **ANALYSIS),
    "decoding": lambda one: one.decoding(behaviour="hand", lag_s=0.1, folds=3, seed=1, **ANALYSIS),
    "decoding_predictions": lambda one: one.decoding_predictions(array="rates", **ANALYSIS),
    "picture": lambda one: [
        one.picture(analysis, format=format, **ANALYSIS)
        for analysis in ("distances", "decoding")
        for format in ("png", "svg")
    ],
}
OF_LATENTS: dict[str, Call] = {
    "neurons": lambda one: one.neurons(split="valid", where={"condition": [3, 4]}),
    "nearest": lambda one: (
        one.nearest(trial=3, time_s=0.2, exclude_own_trial=False, where="condition:eq:3"),
        one.nearest(np.zeros(3), k=2, metric="cosine"),
        one.nearest(np.zeros((2, 3)), split="train"),
    ),
}

NO_REQUEST: dict[type, set[str]] = {
    Client: {"close", "headers", "dataset_of", "job_of", "model_of", "inference_of"},
    Dataset: {"spikes", "warnings", "problems"},
    Job: {"is_final"},
    Inference: {"is_final"},
    Array: {"path"},
    Resource: {"path"},
    ArrayOwner: {"open_zarr", "to_xarray"},  # xarray asks: `test_arrays_over_http` opens it
    LatentsOwner: {"rates", "factors", "initial_conditions", "inputs", "generator_states"},
}
"""Public names that ask the service for nothing."""

UNREACHED = {
    "get_service": "links for whoever opens the address in a browser",
    "get_health": "whether the process lives is for those who run it",
    "describe_uploads": "the client knows what of tus it uses",
    "put_upload": "the client sends whole files as data sets",
    "begin_direct_upload": "a bucket needs no client of ours",
    "delete_upload": "an upload that is given up is deleted by itself",
    "read_upload_offset": "asked when a connection breaks: `test_upload_client` breaks it",
    **{
        f"{method}_{kind}_{what}": "xarray and browsers ask so"
        for method in ("head", "read")
        for kind in ("dataset", "model", "inference")
        for what in ("array", "zarr")
    },
}
"""Operations that no method of the client is made for, and why; `Client.request` reaches them."""


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordedService:
    monkeypatch.chdir(tmp_path)
    FILE.write_bytes(FILE_CONTENT)
    return RecordedService()


@pytest.fixture
def client(service: RecordedService) -> Client:
    return Client("http://service", transport=httpx.MockTransport(service))


def make(kind: type, client: Client) -> Any:
    if kind is Client:
        return client
    if kind in (Array, Arrays):
        arrays = Arrays(client, "/v1/models/mod_1")
        return arrays["rates"] if kind is Array else arrays
    if kind is Pages:
        return client.jobs()
    state = "ready" if kind is Dataset else "done"
    document = {
        "id": "x_1",
        "state": state,
        "job_id": "job_1",
        "dataset_id": "dat_1",
        "number": 0,
        "epochs_trained": 1,
    }
    ids = {"selected_model_id": "mod_1", "final_model_id": "mod_1"}
    return kind(client, {**document, **ids, "specification": {"budget": {"models": 1, "epochs": 1}}})


def calls_of(kind: type) -> dict[str, Call]:
    shared = ((Resource, OF_RESOURCES), (ArrayOwner, OF_OWNERS), (LatentsOwner, OF_LATENTS))
    found = dict(CALLS[kind])
    for base, calls in shared:
        found |= calls if issubclass(kind, base) else {}
    return found


def public_names(kind: type) -> Iterable[str]:
    of_dict = set(dir(dict)) if issubclass(kind, dict) else set()
    for name, member in inspect.getmembers_static(kind):
        if not name.startswith("_") and name not in of_dict and not isinstance(member, Field):
            yield name


@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.__name__)
def test_every_method_asks_for_what_is_offered(kind: type, service: RecordedService, client: Client) -> None:
    for name, call in calls_of(kind).items():
        before = len(service.operations), service.problems.copy()
        call(make(kind, client))
        assert service.problems == before[1], name
    assert service.operations


@pytest.mark.parametrize("kind", CALLS, ids=lambda kind: kind.__name__)
def test_every_public_name_is_tried(kind: type) -> None:
    silent = NO_REQUEST.get(kind, set())
    for base in (Resource, ArrayOwner, LatentsOwner):
        silent = silent | (NO_REQUEST[base] if issubclass(kind, base) else set())
    assert set(public_names(kind)) == silent | set(calls_of(kind))


def test_every_operation_is_reached(service: RecordedService, client: Client) -> None:
    for kind in CALLS:
        for call in calls_of(kind).values():
            call(make(kind, client))
    offered = {
        operation["operationId"]
        for operations in service.document["paths"].values()
        for operation in operations.values()
    }
    assert service.operations | set(UNREACHED) >= offered
    assert set(UNREACHED) <= offered, "no longer offered"


SCHEMAS = {
    Dataset: "DatasetDocument", Job: "JobDocument", Model: "ModelDocument", Inference: "InferenceDocument", Key: "NewKey",
    Webhook: "NewWebhook",
}  # fmt: skip


@pytest.mark.parametrize("kind", SCHEMAS, ids=lambda kind: kind.__name__)
def test_attributes_are_the_fields_of_documents(kind: type) -> None:
    fields = {name for name, member in inspect.getmembers_static(kind) if isinstance(member, Field)}
    answered = set(openapi()["components"]["schemas"][SCHEMAS[kind]]["properties"])
    assert fields <= answered, "attributes of nothing"
    left = answered - fields - set(dir(kind))
    assert not left, f"fields without an attribute: {left}"


@pytest.mark.parametrize(
    ("typed", "schema"),
    [
        (documents.JobProgress, "JobProgress"),
        (documents.CurvePoint, "CurvePointDocument"),
        (documents.ArrayDocument, "ArrayDocument"),
    ],
)
def test_typed_documents_are_those_of_the_service(typed: type, schema: str) -> None:
    assert set(get_type_hints(typed)) == set(openapi()["components"]["schemas"][schema]["properties"])


@pytest.mark.parametrize("name", ["DatasetState", "JobState", "ModelState", "InferenceState"])
def test_states_are_those_of_the_service(name: str) -> None:
    assert list(get_args(getattr(documents, name))) == openapi()["components"]["schemas"][name]["enum"]


def test_what_the_recorded_service_refuses(service: RecordedService, client: Client) -> None:
    """The checks above can fail."""
    for wrong in (
        lambda: client.get("/v1/jobs", params={"colour": 1}),
        lambda: client.create_job({"dataset_id": "dat_1", "budget": {"models": 0}}),
        lambda: client.request("GET", "/v1/jobs", headers={"X-Colour": "1"}),
        lambda: client.request("PUT", "/v1/jobs"),
    ):
        before = len(service.problems)
        try:
            wrong()
        except Exception:
            assert len(service.problems) > before
        assert len(service.problems) > before


def test_a_read_array_has_what_the_service_sent(client: Client) -> None:
    array = make(Array, client).query(smooth_s=0.05)
    np.testing.assert_array_equal(array[1, ::-1], VALUES[1, ::-1])
    assert array.dims == ("trial", "time_s", "neuron")
