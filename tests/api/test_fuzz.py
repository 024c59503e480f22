"""Every route under requests made from its own description: no crash, and answers as described."""

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.auth import ALL_SCOPES, Caller
from api.inferences.schemas import Application
from api.inferences.service import create as create_inference
from api.keys.schemas import KeyRequest
from api.keys.service import create
from api.openapi import DOCUMENT
from api.shares.schemas import ShareRequest
from api.shares.service import create as create_share
from api.webhooks.schemas import WebhookRequest
from api.webhooks.service import create as create_webhook
from store.array_store import open_array_store
from store.database import Database
from store.migrate import migrate
from store.settings import Settings
from store.tables import DEFAULT_TENANT, Model
from store.uploads import begin_upload
from tests.api.api_examples import OTHER_TENANT, fill

OPERATOR = Caller(DEFAULT_TENANT, ALL_SCOPES, is_operator=True)
EXAMPLES = [3, pytest.param(15, marks=pytest.mark.slow)]
"""Number of requests to each route."""


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    """An example of its own, since requests change it."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    settings = Settings(data_dir=folder, body_max_bytes=2**16, upload_max_bytes=2**16)
    database = Database(settings.database_url)
    migrate(database)
    arrays = open_array_store("sql:", database)
    app = create_app(settings, database, arrays)
    example = fill(app, database, arrays)
    with database.write() as session:
        under_way = begin_upload(session, DEFAULT_TENANT, settings, size_bytes=10**6, filename="").id
        key_id = create(session, settings, OPERATOR, KeyRequest(name="known"), None).id
        session.get_one(Model, example.model_id).checkpoint_key = "models/weights"
        inference_id = create_inference(
            session, settings, DEFAULT_TENANT, example.model_id, Application(), None
        ).id
        share = ShareRequest(job_id=example.job_id)
        share_id = create_share(session, settings, DEFAULT_TENANT, share, None).id
        webhook = WebhookRequest(url="https://receiver.example/")
        webhook_id = create_webhook(session, settings, DEFAULT_TENANT, webhook, webhook.url, None).id
    schemathesis.serializer.alias("application/offset+octet-stream", "application/octet-stream")
    loaded = schemathesis.openapi.from_asgi("/openapi.json", app)

    @loaded.hook
    def map_path_parameters(context: Any, parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        # Half of the requests go to things that exist; an unknown id tells little.
        known = {
            "dataset_id": example.dataset_id,
            "job_id": example.job_id,
            "model_id": example.model_id,
            "upload_id": under_way,
            "key_id": key_id,
            "tenant": OTHER_TENANT,
            "inference_id": inference_id,
            "webhook_id": webhook_id,
            "share_id": share_id,
            "owner_id": example.dataset_id if "/datasets/" in context.operation.path else example.model_id,
            "name": "factors",
            "key": "zarr.json",
        }
        return {
            name: known[name] if zlib.crc32(f"{name}{value}".encode(errors="replace")) % 2 else value
            for name, value in (parameters or {}).items()
        }

    @loaded.hook
    def map_headers(context: Any, headers: dict[str, str] | None) -> dict[str, str] | None:
        # A made-up key opens nothing; the keys' own tests have them.
        headers = {name: value for name, value in (headers or {}).items() if name != "Authorization"}
        # Almost every request of tus would else stop at the version.
        names = [parameter["name"] for parameter in context.operation.definition.raw.get("parameters", [])]
        is_named = "Tus-Resumable" in names and zlib.crc32(str(headers).encode(errors="replace")) % 4
        return {**headers, "Tus-Resumable": "1.0.0"} if is_named else headers

    @loaded.hook
    def map_body(context: Any, body: Any) -> Any:
        known = {
            "/v1/jobs": ("dataset_id", example.dataset_id),
            "/v1/datasets": ("upload_id", example.upload_id),
        }
        field, value = known.get(context.operation.path, ("", ""))
        return {**body, field: value} if isinstance(body, dict) and field in body else body

    yield loaded
    database.close()


def _modes(operation: dict[str, Any]) -> list[GenerationMode]:
    """Without a body or a query there is no request that breaks the schema: any text may be an id."""
    can_be_broken = "requestBody" in operation or any(
        parameter["in"] == "query" for parameter in operation.get("parameters", [])
    )
    return list(GenerationMode) if can_be_broken else [GenerationMode.POSITIVE]


ROUTES = [
    (path, method, mode, modes)
    for path, methods in json.loads(DOCUMENT.read_text(encoding="utf-8"))["paths"].items()
    for method, operation in methods.items()
    for modes in [_modes(operation)]
    for mode in modes
]


def _marked(path: str, method: str, mode: GenerationMode, modes: list[GenerationMode]) -> object:
    """`make test` sends a route valid requests or invalid ones, half of the routes each; `make test-all` sends both."""
    chosen = modes[zlib.crc32(f"{method} {path}".encode()) % len(modes)]
    return pytest.param(path, method, mode, marks=() if mode == chosen else pytest.mark.slow)


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize(("path", "method", "mode"), [_marked(*route) for route in ROUTES], ids=str)
def test_route(
    fuzzed: schemathesis.BaseSchema, path: str, method: str, mode: GenerationMode, examples: int
) -> None:
    @given(fuzzed[path][method.upper()].as_strategy(generation_mode=mode))
    @hypothesis_settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    def check(case: schemathesis.Case) -> None:
        case.validate_response(
            case.call(),
            checks=[
                not_a_server_error,
                status_code_conformance,
                content_type_conformance,
                response_headers_conformance,
                response_schema_conformance,
            ],
        )

    check()
