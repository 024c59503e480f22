"""The committed OpenAPI document is the app's, and says what a client needs."""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient
from pydantic import TypeAdapter

from api import openapi
from api.datasets.schemas import SyntheticSystem
from api.errors import MEDIA_TYPE
from domain.job_specification import JobSpecification
from tests.api.api_examples import Example


@pytest.fixture(scope="module")
def document(example: Example) -> dict[str, Any]:
    return example.app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_committed_document_is_the_app_s(example: Example) -> None:
    committed = openapi.DOCUMENT.read_text(encoding="utf-8")
    assert committed == openapi.text(example.app), "renew it: python -m api"


def test_operations_are_named_and_described(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(names)) == len(names) > 20
    for route, operation in operations(document):
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", operation["operationId"]), route
        assert operation["description"], route
        assert operation["tags"], route


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references == set(document["components"]["schemas"])


def test_problems_are_problem_documents(document: dict[str, Any]) -> None:
    for route, operation in operations(document):
        assert "500" in operation["responses"], route
        for status, answer in operation["responses"].items():
            if status >= "4" and status != "503":
                assert list(answer["content"]) == [MEDIA_TYPE], (route, status)
            if "/{" in route and "healthz" not in route:
                assert "404" in operation["responses"], route


def test_bodies_have_examples(document: dict[str, Any]) -> None:
    kinds = {"create_job": TypeAdapter(JobSpecification), "synthesize_dataset": TypeAdapter(SyntheticSystem)}
    contents = {}
    for name, kind in kinds.items():
        [operation] = [one for _, one in operations(document) if one["operationId"] == name]
        [contents[name]] = operation["requestBody"]["content"].values()
        for example in contents[name]["examples"].values():
            assert kind.validate_python(example["value"])
    assert contents["create_job"]["schema"]["$ref"].endswith("/JobSpecification")
    systems = contents["synthesize_dataset"]
    members = {member["$ref"] for member in systems["schema"]["oneOf"]}
    assert members == set(systems["schema"]["discriminator"]["mapping"].values())
    assert {one["value"]["system"] for one in systems["examples"].values()} == set(
        systems["schema"]["discriminator"]["mapping"]
    )


def test_nothing_internal_is_told(document: dict[str, Any]) -> None:
    text = json.dumps(document).lower()
    for word in (
        "tenant_id",
        "lease",
        "outbox",
        "array_path",
        "checkpoint_key",
        "sqlalchemy",
        "httpvalidationerror",
    ):
        assert word not in text


def test_the_page_of_the_api_needs_nothing_of_the_internet(light_client: TestClient) -> None:
    page = light_client.get("/docs")
    assert page.status_code == 200
    assert re.findall(r"https?://", page.text) == []
    addresses = re.findall(r"""(?:href|src|url)\s*[=:]\s*["']([^"']+)["']""", page.text)
    assert len(addresses) == 5, addresses
    for address in addresses:
        answer = light_client.get(urljoin("/docs", address))
        assert (answer.status_code, len(answer.content) > 500) == (200, True), address
    style, icon, home, script, document = addresses
    assert home == "./"  # back to the page
    assert "SwaggerUIBundle" in light_client.get(urljoin("/docs", script)).text
    assert light_client.get(urljoin("/docs", document)).json()["openapi"].startswith("3.1")
    for loaded in (style, icon, script):
        assert not urljoin("https://lab.example/latentry/docs", loaded).startswith(
            "https://lab.example/docs"
        ), "under a path"


def test_the_document_is_written_once(light_client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a megabyte, and needs no key: to write it for each request would stop the others."""
    first = light_client.get("/openapi.json")
    monkeypatch.setattr(openapi.json, "dumps", None)
    assert light_client.get("/openapi.json").content == first.content
