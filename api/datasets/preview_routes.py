"""Routes of the preview of a data set, as JSON and as a picture."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from zarr.abc.store import Store

from api.computing.computing import COMPUTING_RESPONSES, ComputingDependency
from api.computing.picture_types import PictureKind, picture_answers, picture_response
from api.datasets.service import find_ready
from api.dependencies import Context, ContextDependency
from api.errors import NotFound, problem_responses
from api.http.http_cache import CACHE, NOT_MODIFIED, etag, matches_tag
from store.array_store import read_object
from store.tables import Dataset

router = APIRouter(tags=["data sets"], responses=COMPUTING_RESPONSES)

DRAWING = "1"
"""Version of the drawing. It is part of the `ETag`, so that a changed drawing replaces cached ones."""

IfNoneMatch = Annotated[str | None, Header()]
Rows = list[list[float | None]]
Value = int | float | str | bool | None


class RasterTrial(BaseModel):
    """Spikes of one trial."""

    trial: int = Field(description="Index of the trial.")
    start_s: float | None = Field(description="Start of the trial in seconds of the session, if known.")
    length_bins: int
    condition: Value = Field(description="Condition of the trial; null without conditions.")
    spikes: list[list[int]] = Field(
        description="Bins of the spikes, for each neuron of the raster. A bin with two spikes is listed twice."
    )
    unobserved: list[list[int]] = Field(
        [],
        description="Ranges of bins in which no neuron was observed: first bin, and the bin after the last.",
    )


class Raster(BaseModel):
    """Spikes of up to 4 trials from the whole session, and of up to 60 neurons from the whole range of rates."""

    neurons: list[int] = Field(description="Indices of the neurons, highest rate first.")
    bins: int = Field(description="Number of bins shown, from the first. Very long trials are cut.")
    trials: list[RasterTrial]


class PreviewCondition(BaseModel):
    """A condition."""

    value: Value = Field(description="Value of the condition; null means all trials.")
    trials: int


class MeanRate(BaseModel):
    """Mean rates over trials."""

    mean_hz: Rows = Field(
        description="Conditions × bins, in spikes per second per neuron; null in bins that no trial has."
    )
    sem_hz: Rows = Field(description="Standard error of the mean; null for a single trial.")


class NeuronRate(MeanRate):
    """Mean rates of one neuron."""

    neuron: int = Field(description="Index of the neuron.")


class Psth(BaseModel):
    """Mean rates over trials by condition: of the population, and of the most strongly modulated neurons."""

    by: str | None = Field(
        description="Name of the trial metadata that define the conditions; null without conditions."
    )
    conditions: list[PreviewCondition] = Field(description="The conditions shown, at most 8.")
    conditions_in_all: int
    bin_width_s: float = Field(
        description="Width of a bin in seconds, a multiple of the data set's bin width."
    )
    time_s: list[float] = Field(description="Start of each bin in seconds, relative to the alignment event.")
    trials_per_bin: list[list[int]] = Field(description="Conditions × bins: number of trials in each bin.")
    population: MeanRate
    neurons: list[NeuronRate]


class SessionRate(BaseModel):
    """Rate of the population over the session."""

    unit: Literal["s", "trial"] = Field(
        description="Unit of `at`: seconds of the session, or index of the trial."
    )
    at: list[float] = Field(
        description="Position of each point. There are at most 500 points: neighbouring trials are averaged."
    )
    rate_hz: list[float | None] = Field(description="Mean over neurons, in spikes per second.")


class RateHistogram(BaseModel):
    """Histogram of the neurons' rates."""

    edges_hz: list[float] = Field(
        description="Edges of the histogram's bins, equally spaced on a logarithmic scale."
    )
    neurons: list[int] = Field(description="Number of neurons in each bin of the histogram.")
    silent: int = Field(description="Number of neurons without a spike.")


class PreviewDocument(BaseModel):
    """Preview of a data set. It is never larger than 300 kB."""

    version: Literal[1]
    trials: int
    bins: int
    neurons: int
    bin_width_s: float
    time_zero_s: float = Field(
        description="Start of the first bin in seconds, relative to the alignment event."
    )
    trials_looked_at: int = Field(
        description="Number of trials that the means use. For a large data set it is a subset of the trials."
    )
    raster: Raster
    psth: Psth
    session: SessionRate
    rates: RateHistogram


@router.get(
    "/v1/datasets/{dataset_id}/preview",
    operation_id="get_dataset_preview",
    response_model=PreviewDocument,
    responses=NOT_MODIFIED | problem_responses(404, 409),
)
def get_dataset_preview(
    dataset_id: str, context: ContextDependency, if_none_match: IfNoneMatch = None
) -> Response:
    """Return the preview: spikes of some trials, mean rates by condition, the rate over the session, and all rates."""
    row, document = _find(context, dataset_id)
    headers = {"ETag": etag(row.array_path or "", "preview"), "Cache-Control": CACHE}
    if matches_tag(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return JSONResponse(document, headers=headers)


@router.get(
    "/v1/datasets/{dataset_id}/preview.png",
    operation_id="draw_dataset_preview",
    response_class=Response,
    responses={
        200: {
            "description": "The picture, 1200 × 800.",
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
        },
        **NOT_MODIFIED,
        **problem_responses(404, 409),
    },
)
async def draw_dataset_preview(
    dataset_id: str,
    context: ContextDependency,
    computing: ComputingDependency,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Draw the preview as PNG."""
    return await computing.run(lambda: _draw("png", dataset_id, context, if_none_match))


@router.get(
    "/v1/datasets/{dataset_id}/preview.svg",
    operation_id="draw_dataset_preview_svg",
    response_class=Response,
    responses=picture_answers("svg") | problem_responses(404, 409),
)
async def draw_dataset_preview_svg(
    dataset_id: str,
    context: ContextDependency,
    computing: ComputingDependency,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Draw the preview as SVG."""
    return await computing.run(lambda: _draw("svg", dataset_id, context, if_none_match))


def read_preview(arrays: Store, row: Dataset) -> dict[str, Any] | None:
    """Return the preview that the ingest stored, or None."""
    stored = None if row.array_path is None else read_object(arrays, f"{row.array_path}/preview.json")
    if stored is None:
        return None
    document: dict[str, Any] = json.loads(stored)
    return document


def _draw(kind: PictureKind, dataset_id: str, context: Context, if_none_match: str | None) -> Response:
    row, document = _find(context, dataset_id)
    tag = etag(row.array_path or "", f"preview.{kind}", DRAWING, ascii(row.name))
    headers = {"ETag": tag, "Cache-Control": CACHE}
    if matches_tag(if_none_match, tag):
        return Response(status_code=304, headers=headers)

    from api.datasets.preview_picture import draw_preview  # matplotlib takes a second to import

    return picture_response(draw_preview(document, row.name, kind), kind, headers)


def _find(context: Context, dataset_id: str) -> tuple[Dataset, dict[str, Any]]:
    with context.database.read() as session:
        row = find_ready(session, context.tenant_id, dataset_id)
    document = read_preview(context.arrays, row)
    if document is None:
        sessions = " and ".join(f"/v1/datasets/{one}/preview" for one in row.source.get("dataset_ids", ()))
        raise NotFound(
            f"the data set {row.id} has no preview",
            hint=f"it combines several sessions; each session has its own preview: {sessions}"
            if sessions
            else "an older version has read the file; upload it again to get a preview",
        )
    return row, document
