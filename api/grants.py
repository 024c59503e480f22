"""What a share shows: one data set, job or model, and what belongs to it. Every other request with a share is refused.

`OPERATIONS` lists the routes that answer a share. A new route answers none, until somebody adds it here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Literal

from fastapi import Request
from fastapi.routing import APIRoute
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.errors import Forbidden, NotFound
from store.database import Database
from store.identifiers import ANYWHERE
from store.tables import Job, Model

TargetKind = Literal["dataset", "job", "model"]
KIND_OF_PREFIX: Mapping[str, TargetKind] = MappingProxyType({"dat": "dataset", "job": "job", "mod": "model"})

_ALWAYS = frozenset({"get_caller"})
_TRIALS = frozenset(
    {"get_dataset", "list_trials", "list_dataset_arrays", "read_dataset_array", "head_dataset_array"}
)
"""What plots of a job or a model need of its data set, such as spikes beside rates."""


def _results(kind: str) -> frozenset[str]:
    """Return the routes of arrays, downloads and analyses of a kind of resource."""
    drawn = {f"draw_{kind}_{what}_{form}" for what in ("decoding", "distances") for form in ("png", "svg")}
    return frozenset(drawn) | {
        f"list_{kind}_arrays",
        f"read_{kind}_array",
        f"head_{kind}_array",
        f"read_{kind}_zarr",
        f"head_{kind}_zarr",
        f"download_{kind}",
        f"get_{kind}_decoding",
        f"read_{kind}_decoding_predictions",
        f"get_{kind}_distances",
    }


_OF_DATASET = _TRIALS | _results("dataset") | {
    "get_dataset_preview",
    "draw_dataset_preview",
    "draw_dataset_preview_svg",
}  # fmt: skip
_OF_MODEL = _TRIALS | _results("model") | {
    "get_model",
    "get_model_card",
    "get_model_methods",
    "get_learning_curve",
    "find_model_nearest",
    "get_model_neurons",
    "get_model_dynamics",
}  # fmt: skip
_OF_JOB = _OF_MODEL | {
    "get_job",
    "list_models",
    "list_events",
    "stream_events",
    "list_decisions",
    "get_lineage",
    "draw_lineage",
    "get_importance",
    "get_curves",
}
OPERATIONS: Mapping[TargetKind, frozenset[str]] = MappingProxyType(
    {"dataset": _OF_DATASET | _ALWAYS, "job": _OF_JOB | _ALWAYS, "model": _OF_MODEL | _ALWAYS}
)
"""The operation ids of the routes that answer a share, by the kind of its target. None of them changes anything.

Of the ids in the path and in the query, the target must be one or have each (`_belonging`).
"""
_PATH_IDS = ("dataset_id", "job_id", "model_id", "owner_id")


@dataclass(frozen=True)
class Grant:
    """What a share shows.

    Attributes
    ----------
    target_id
        Id of a data set, a job or a model.
    expires_at
        When the share ends.
    """

    target_id: str
    expires_at: datetime

    @property
    def kind(self) -> TargetKind:
        """The kind of the target."""
        return KIND_OF_PREFIX[self.target_id.partition("_")[0]]


def check_grant(request: Request, database: Database, grant: Grant) -> None:
    """Refuse a request that a share does not permit.

    Raises
    ------
    Forbidden
        If no share of this kind permits the route.
    NotFound
        If the request names a resource that does not belong to the target, whether that exists or not.
    """
    route = request.scope.get("route")
    operation = route.operation_id if isinstance(route, APIRoute) else None
    what = {"dataset": "data set"}.get(grant.kind, grant.kind)
    if operation not in OPERATIONS[grant.kind]:
        raise Forbidden(
            f"this link only shows the {what} {grant.target_id}",
            hint="ask the person who sent it for a link to more, or use a key",
        )
    named = {request.path_params[name] for name in _PATH_IDS if name in request.path_params}
    named |= {one for _, value in request.query_params.multi_items() for one in ANYWHERE.findall(value)}
    named.discard(grant.target_id)
    if not named:
        return
    with database.read() as session:
        hidden = named - _belonging(session, grant, named)
    if hidden:
        raise NotFound(
            f"this link shows no {min(hidden)[:60]}", hint=f"it shows the {what} {grant.target_id}"
        )


def _belonging(session: Session, grant: Grant, ids: set[str]) -> set[str]:
    """Return which of these ids belong to the target: the data set of a job or a model, and the models of a job."""
    if grant.kind == "model":
        datasets = (
            select(Job.dataset_id).join(Model, Model.job_id == Job.id).where(Model.id == grant.target_id)
        )
        return set(session.execute(datasets).scalars())
    of_job = Job.id == grant.target_id
    models = select(Model.id).where(Model.job_id == grant.target_id, Model.id.in_(ids))
    return {
        one
        for query in (select(Job.dataset_id).where(of_job), models)
        for one in session.execute(query).scalars()
    }
