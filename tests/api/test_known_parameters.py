"""No route passes over a query parameter that it doesn't have: a misspelt filter would answer with everything."""

import json
import re

import pytest
from fastapi.testclient import TestClient

from api.openapi import DOCUMENT
from store.identifiers import new_id

OPERATIONS = [
    (method, path)
    for path, operations in json.loads(DOCUMENT.read_text())["paths"].items()
    for method in operations
    if path.startswith("/v1/")
    and not path.endswith("/arrays/{name}")  # where more parameters are labels of axes
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=lambda part: part)
def test_unknown_parameters_are_refused(method: str, path: str, light_client: TestClient) -> None:
    url = re.sub(r"\{(\w+?)(_id)?\}", lambda found: new_id("job") if found[2] else "rates", path)
    answer = light_client.request(method, url, params={"no_such": "1"})
    assert answer.status_code == 422
    if method != "head":
        problems = {problem["pointer"]: problem for problem in answer.json()["errors"]}
        assert problems["no_such"]["message"] == "there is no such parameter"
        assert "/docs" in problems["no_such"]["hint"]


def test_the_one_that_was_meant_is_named(light_client: TestClient) -> None:
    answer = light_client.get("/v1/jobs", params={"stat": "running", "page_sise": 3})
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["detail"] == "stat: there is no such parameter; page_sise: there is no such parameter"
    assert [error["hint"].split("?")[0] for error in problem["errors"]] == [
        "did you mean state", "did you mean page_size",
    ]  # fmt: skip


def test_nothing_is_made_when_a_parameter_is_misspelt(
    light_client: TestClient, light_dataset_id: str
) -> None:
    body = {"dataset_id": light_dataset_id}
    assert light_client.post("/v1/jobs?validate_onyl=true", json=body).status_code == 422
    assert light_client.get("/v1/jobs").json()["items"] == []
