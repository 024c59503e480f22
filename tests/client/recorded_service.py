"""A service that answers as little as a client needs, and holds every request against the OpenAPI document."""

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import httpx
import numpy as np
from jsonschema import Draft202012Validator

DOCUMENT = Path(__file__).resolve().parents[2] / "api/openapi.json"
FILE_CONTENT = b"123456"
SIZES = {"trial": 2, "time_s": 3, "neuron": 4}
DIMS = tuple(SIZES)
VALUES = np.arange(24.0).reshape(*SIZES.values())
TIMES = np.arange(3) * 0.01
FREE_HEADERS = {
    "host", "accept", "accept-encoding", "connection", "user-agent", "authorization", "content-length", "content-type",
    "transfer-encoding",
}  # fmt: skip
"""What HTTP itself has, and the OpenAPI document need not name."""


def openapi() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return document


class RecordedService:
    """What was asked, by operation; `problems` has what the document does not allow."""

    def __init__(self) -> None:
        self.document = openapi()
        self.operations: set[str] = set()
        self.problems: list[str] = []
        self._routes = [
            (method.upper(), _pattern(path), operation)
            for path, operations in self.document["paths"].items()
            for method, operation in operations.items()
        ]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        found = [
            operation
            for method, pattern, operation in self._routes
            if method == request.method and pattern.fullmatch(request.url.path)
        ]
        if not found:
            self.problems.append(f"there is no {request.method} {request.url.path}")
            return httpx.Response(500)
        operation = found[0]
        self.operations.add(operation["operationId"])
        self._check_parameters(request, operation)
        self._check_body(request, operation)
        return _answer(request)

    def _check_parameters(self, request: httpx.Request, operation: dict[str, Any]) -> None:
        name = operation["operationId"]
        declared = {(one["in"], one["name"].lower()): one for one in operation.get("parameters", [])}
        sent = parse_qsl(request.url.query.decode(), keep_blank_values=True)
        for parameter, value in sent:
            if ("query", parameter.lower()) not in declared:
                self.problems.append(f"{name} has no parameter {parameter}")
                continue
            kinds = declared["query", parameter.lower()]["schema"]
            enums = [kind["enum"] for kind in kinds.get("anyOf", [kinds]) if "enum" in kind]
            if enums and value not in enums[0]:
                self.problems.append(f"{name}: {parameter} is {value}, expected one of {enums[0]}")
        for header in request.headers:
            if header.lower() not in FREE_HEADERS and ("header", header.lower()) not in declared:
                self.problems.append(f"{name} has no header {header}")
        needed = {key for key, one in declared.items() if one.get("required") and key[0] != "path"}
        given = {("query", parameter) for parameter, _ in sent} | {("header", one) for one in request.headers}
        if missing := needed - given:
            self.problems.append(f"{name} lacks {missing}")

    def _check_body(self, request: httpx.Request, operation: dict[str, Any]) -> None:
        name, kinds = operation["operationId"], operation.get("requestBody", {}).get("content", {})
        kind = request.headers.get("content-type", "").split(";")[0]
        if request.content and kind not in kinds:
            self.problems.append(f"{name} takes {list(kinds)}, not {kind!r}")
        elif request.content and kind == "application/json":
            schema = {**kinds[kind]["schema"], "components": self.document["components"]}
            for error in Draft202012Validator(schema).iter_errors(json.loads(request.content)):
                self.problems.append(f"{name}: {error.message}")
        elif not request.content and operation.get("requestBody", {}).get("required"):
            self.problems.append(f"{name} needs a body")


def _pattern(path: str) -> re.Pattern[str]:
    escaped = re.escape(path).replace(r"\{key\}", ".+")
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/:]+", escaped))


def _answer(request: httpx.Request) -> httpx.Response:
    path, asked = request.url.path, dict(request.url.params)
    headers = {"Location": "/v1/uploads/upl_1", "Upload-Offset": request.headers.get("content-length", "0")}
    if asked.get("format") == "npy":
        file = io.BytesIO()
        np.save(file, TIMES if path.endswith("/time_s") else VALUES)
        return httpx.Response(200, content=file.getvalue())
    if asked.get("format") == "npz":
        return httpx.Response(200, content=_npz("factors" if "/factors" in path else "rates"))
    if path.endswith("/arrays"):
        items = [
            _array("rates", DIMS, ["time_s"]),
            _array("factors", DIMS, ["time_s"]),
            _array("time_s", DIMS[1:2], []),
        ]
        return httpx.Response(200, json={"items": items, "zarr": ""})
    if path.endswith("/events/stream"):
        return httpx.Response(200, text='data: {"id": 1, "kind": "job.state", "data": {"state": "done"}}\n\n')
    return httpx.Response(200, json=_resource(path), headers=headers)


def _resource(path: str) -> dict[str, Any]:
    """A document with what any resource may need."""
    return {
        "id": "x_1", "name": "it", "state": "done" if re.search("/(jobs|models|inferences)", path) else "ready",
        "items": [], "next_page_token": None, "points": [], "answers": [{"nearest": []}],
        "model_id": "mod_1", "dataset_id": "dat_1", "job_id": "job_1", "selected_model_id": "mod_1",
        "final_model_id": "mod_1", "number": 0, "epochs_trained": 1, "scores": {"smoothed_sv_loss": 0.3},
        "hyperparameters": {}, "sha256": hashlib.sha256(FILE_CONTENT).hexdigest(),
        "specification": {"budget": {"models": 1, "epochs": 1}}, "url": "https://lab.example/hook",
    }  # fmt: skip


def _array(name: str, dims: tuple[str, ...], coordinates: list[str]) -> dict[str, Any]:
    shape = [SIZES[dim] for dim in dims]
    return {
        "name": name, "dims": list(dims), "shape": shape, "dtype": "float64", "units": "", "description": "",
        "attributes": {}, "coordinates": coordinates, "href": f"/arrays/{name}",
    }  # fmt: skip


def _npz(name: str) -> bytes:
    """An array as the service writes it."""
    described = {name: {"dims": DIMS, "units": "spikes/s"}, "time_s": {"dims": DIMS[1:2], "units": "s"}}
    members = {name: VALUES, "time_s": TIMES, "metadata": np.array(json.dumps({"arrays": described}))}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **members)  # type: ignore[arg-type]
    return file.getvalue()
