"""The OpenAPI document of the service, and the page ``/docs``. ``python -m api`` writes ``api/openapi.json``."""

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from api.errors import ProblemDocument
from domain.dataset_options import DatasetOptions

DOCUMENT = Path(__file__).with_name("openapi.json")


def install(app: FastAPI) -> None:
    """Serve the document of `describe`, and the page ``/docs`` that works without the internet."""

    def cached() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = cached  # type: ignore[method-assign]  # FastAPI's own way to replace it

    written: dict[str, bytes] = {}

    @app.get("/openapi.json", include_in_schema=False)
    def send(request: Request) -> Response:
        root_path = request.scope.get("root_path", "").rstrip("/")
        document = written.get(root_path)
        if document is None:
            servers = {"servers": [{"url": root_path}]} if root_path else {}
            document = json.dumps(servers | cached(), ensure_ascii=False).encode()
            written.clear()  # a service has one address, but a proxy could send many
            written[root_path] = document
        return Response(document, media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    def show() -> HTMLResponse:
        # Relative addresses also work behind a proxy that adds a path.
        page = get_swagger_ui_html(
            title=f"{app.title} {app.version}",
            openapi_url="openapi.json",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
        )
        back = b'<p><a href="./">Back to Latentry</a></p>'
        return HTMLResponse(bytes(page.body).replace(b"<body>", b"<body>" + back, 1))

    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_swagger", "resources")]))


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of an app, with our error schemas instead of FastAPI's."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    schemas = document["components"]["schemas"]
    # No route has these models as its body or response. The prefix separates parts such as `Range` from other models.
    for model, prefix in ((ProblemDocument, ""), (DatasetOptions, "Dataset")):
        schema = model.model_json_schema(ref_template=f"#/components/schemas/{prefix}{{model}}")
        parts = schema.pop("$defs")
        schemas |= {f"{prefix}{name}": part for name, part in parts.items()} | {model.__name__: schema}
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for path in document["paths"].values():
        for operation in path.values():
            # FastAPI adds a 422 to every route with parameters. Our routes declare it where it can occur.
            if "HTTPValidationError" in json.dumps(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    return document


def text(app: FastAPI) -> str:
    """Return the document as text, in the form of ``api/openapi.json``."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
