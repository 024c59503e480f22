"""Combine several data sets into one: they become its sessions, and models share dynamics across sessions."""

import math
from typing import Annotated

from pydantic import ConfigDict, Field
from sqlalchemy.orm import Session

from api.datasets import service
from api.errors import Invalid
from api.http.idempotency import fingerprint
from api.validation_errors import FieldProblem
from domain.labels import Labels, Name
from store.settings import Settings
from store.tables import Dataset

SAME_WIDTH = 1e-6
"""Bin widths with a smaller relative difference count as equal."""


class Combination(Labels):
    """A request to combine data sets."""

    model_config = ConfigDict(extra="forbid")

    name: Name = Field("", description="Name of the data set; by default the names of its sessions.")
    dataset_ids: list[Annotated[str, Field(max_length=40)]] = Field(
        min_length=2,
        max_length=50,
        description="The sessions, in order: distinct data sets of yours that are `ready` and not combined themselves. They must "
        "have the same bin width and the same number of external inputs.",
    )


def combine(
    session: Session,
    settings: Settings,
    tenant_id: str,
    wanted: Combination,
    idempotency_key: str | None,
) -> service.Creation:
    """Create a data set of several sessions. The same sessions in the same order are the same data set.

    Raises
    ------
    NotFound, WrongState, Invalid
        If a data set does not exist or is not ready, or if the data sets do not match.
    """
    request = fingerprint("POST /v1/datasets:combine", wanted.model_dump_json())
    if (stored := service.stored_creation(session, tenant_id, idempotency_key, request)) is not None:
        return stored
    sessions = [
        service.find_ready(session, tenant_id, dataset_id, to_refer=True) for dataset_id in wanted.dataset_ids
    ]
    _check(sessions)
    created = service.create_or_find(
        session,
        settings,
        tenant_id,
        name=wanted.name or " + ".join(one.name for one in sessions)[:200],
        source={"kind": "sessions", "dataset_ids": wanted.dataset_ids},
        content=wanted.dataset_ids,
        notes=wanted.notes,
        tags=wanted.tags,
    )
    return service.store_creation(session, tenant_id, idempotency_key, request, created)


def _check(sessions: list[Dataset]) -> None:
    """Raise `Invalid` with every mismatch of these data sets."""
    first, problems = sessions[0], []
    seen: set[str] = set()

    def problem(position: int, code: str, message: str, hint: str) -> None:
        pointer = f"/dataset_ids/{position}"
        problems.append(FieldProblem(pointer=pointer, code=code, message=message, hint=hint))

    for position, one in enumerate(sessions):
        if one.id in seen:
            problem(
                position,
                "named_twice",
                f"{one.id} is named more than once; expected each data set once",
                "remove it here",
            )
        seen.add(one.id)
        if one.source["kind"] == "sessions":
            problem(
                position,
                "combined_already",
                f"{one.id} is itself a combination; expected a single session",
                f"name its sessions instead: {', '.join(one.source['dataset_ids'])}",
            )
        if not math.isclose(one.bin_width_s or 0, first.bin_width_s or 0, rel_tol=SAME_WIDTH):
            problem(
                position,
                "other_bin_width",
                f"{one.id} has bins of {one.bin_width_s:g} s; expected {first.bin_width_s:g} s, like {first.id}",
                "upload it with bins of the same width",
            )
        if (given := _external_inputs(one)) != (expected := _external_inputs(first)):
            problem(
                position,
                "other_external_inputs",
                f"{one.id} has {given} external inputs; expected {expected}, like {first.id}",
                "upload all sessions with the same external inputs, or with none",
            )
    Invalid.check(problems)


def _external_inputs(row: Dataset) -> int:
    return int((row.report or {}).get("external_inputs", 0))
