"""Learning curves of all models of a job in one response, and of the best model of each job of a list.

All curves have points at the same epochs: every `step`-th one, where `step` is a power of two. So a longer curve has a part of
the epochs of a shorter one, and a page that follows a job keeps the points that it has.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from api.errors import Invalid
from api.http.http_cache import etag
from api.jobs.schemas import JobCurve
from store.retention import is_swept
from store.tables import CurvePoint, Job, Model

COLUMNS = ("sv_loss", "smoothed_sv_loss", "validation_loss", "train_loss")
MOST_POINTS = 400_000
"""Most points of a response, over all models."""
LIST_POINTS = 30
"""About the number of points of a curve in the list of jobs; at most twice as many."""
_MOST_GROUPS = 30
"""Most different epochs in a token. Each of them needs a query."""
_TOKEN = re.compile(r"[0-9]{1,6}x[0-9]{1,9}(?:-[0-9]{1,6}x[0-9]{1,9}){0,199}")

Point = tuple[Any, ...]
_point = aliased(CurvePoint)
_LAST_EPOCH = (
    select(func.max(_point.epoch)).where(_point.model_id == Model.id).correlate(Model).scalar_subquery()
)
_BEST_EPOCH = Model.scores["best_epoch"].as_integer()


@dataclass(frozen=True)
class CurveEnd:
    """How far the learning curve of a model has come."""

    model_id: str
    number: int
    epochs: int
    best_epoch: int
    known: int  # the client has its points up to this epoch


@dataclass(frozen=True)
class JobCurves:
    """The curves of a job, before their points are read."""

    job_id: str
    step: int
    is_thinned: bool
    models: Sequence[CurveEnd]

    @property
    def etag(self) -> str:
        """The entity tag. Points never change; thinning, which removes some, is a part of it."""
        return etag("curves 1", self.job_id, str(self.step), str(self.is_thinned), *map(str, self.models))

    def json(self, session: Session) -> str:
        """Read the points, and return the response. Losses have six digits; null stands for what is not finite."""
        found = self._read(session)
        names, models = ("epoch", *COLUMNS), []
        for one in self.models:
            columns = (
                list(zip(*found[one.model_id], strict=True)) if one.model_id in found else [()] * len(names)
            )
            texts = (f'"{name}":{_json(column)}' for name, column in zip(names, columns, strict=True))
            models.append(f'{{"model_id":"{one.model_id}","number":{one.number},{",".join(texts)}}}')
        return (
            f'{{"job_id":"{self.job_id}","step":{self.step},"is_thinned":{_json_bool(self.is_thinned)},'
            f'"next_after":"{_token(self.models)}","models":[{",".join(models)}]}}'
        )

    def _read(self, session: Session) -> dict[str, list[Point]]:
        """Return the points that the client does not have, by model and in order."""
        columns = (CurvePoint.model_id, CurvePoint.epoch, *(getattr(CurvePoint, name) for name in COLUMNS))
        news = sorted((one for one in self.models if one.epochs > one.known), key=lambda one: one.known)
        longest = max((one.epochs for one in news), default=0)
        rows: list[Any] = []
        for known, group in groupby(news, lambda one: one.known):
            query = select(*columns).where(CurvePoint.model_id.in_([one.model_id for one in group]))
            if self.step == 1:
                query = query.where(CurvePoint.epoch > known)
            else:  # a list of epochs, so that the database looks each point up instead of reading all
                grid = [epoch for epoch in (1, *range(self.step, longest + 1, self.step)) if epoch > known]
                query = query.where(CurvePoint.epoch.in_(grid))
            rows += session.execute(query).all()
        if self.step > 1:
            known_of = {one.model_id: one.known for one in news}
            own_ends = CurvePoint.epoch.in_([_BEST_EPOCH, _LAST_EPOCH])
            ends = select(*columns).join(Model, (CurvePoint.model_id == Model.id) & own_ends)
            for row in session.execute(ends.where(Model.id.in_(known_of))):
                if row.epoch > max(1, known_of[row.model_id]) and row.epoch % self.step:
                    rows.append(row)
        found: dict[str, list[Point]] = {}
        for row in rows:
            found.setdefault(row[0], []).append(row[1:])
        for points in found.values():
            points.sort(key=itemgetter(0))
        return found


def job_curves(session: Session, job: Job, points: int, after: str | None) -> JobCurves:
    """Return the curves of a job with about `points` points of each model, after those of a token.

    Raises
    ------
    Invalid
        If the token is malformed.
    """
    of_job = select(Model.id, Model.number, _LAST_EPOCH, _BEST_EPOCH)
    rows = session.execute(of_job.where(Model.job_id == job.id).order_by(Model.number)).all()
    known = _known(after)
    models = [
        CurveEnd(model_id, number, epochs or 0, best or 0, known.get(number, 0))
        for model_id, number, epochs, best in rows
    ]
    is_thinned = is_swept(session, job, "curves")
    longest = max((one.epochs for one in models), default=0)
    most = max(2, min(points, MOST_POINTS // max(1, len(models))))
    return JobCurves(job.id, 1 if is_thinned else step_of(longest, most), is_thinned, models)


def step_of(epochs: int, points: int) -> int:
    """Return the smallest power of two that leaves at most `points` of the epochs."""
    step = 1
    while epochs > step * points:
        step *= 2
    return step


def best_curves(session: Session, model_ids: Collection[str]) -> dict[str, JobCurve]:
    """Return a small curve of each of these models, by one query for all: its smoothed SV loss at some epochs."""
    apart = (Model.epochs_trained + (LIST_POINTS - 1)) // LIST_POINTS
    step = func.max(1, apart) if session.get_bind().dialect.name == "sqlite" else func.greatest(1, apart)
    is_kept = (CurvePoint.epoch % step == 0) | (CurvePoint.epoch == 1)
    query = (
        select(CurvePoint.model_id, CurvePoint.epoch, CurvePoint.smoothed_sv_loss)
        .join(Model, Model.id == CurvePoint.model_id)
        .where(Model.id.in_(model_ids), is_kept)
        .order_by(CurvePoint.model_id, CurvePoint.epoch)
    )
    found: dict[str, JobCurve] = {}
    for model_id, epoch, loss in session.execute(query):
        curve = found.setdefault(model_id, JobCurve(model_id=model_id, epoch=[], smoothed_sv_loss=[]))
        curve.epoch.append(epoch)
        curve.smoothed_sv_loss.append(loss)
    return found


def _json(values: Sequence[Any]) -> str:
    if values and isinstance(values[0], int):
        return f"[{','.join(map(str, values))}]"
    texts = ("null" if value is None or value - value != 0 else f"{value:.6g}" for value in values)
    return f"[{','.join(texts)}]"


def _json_bool(value: bool) -> str:
    return "true" if value else "false"


def _token(models: Sequence[CurveEnd]) -> str:
    """Return runs of models with equal epochs: `12x300-1x250`. Rounded down where there are too many different ones."""
    ends, unit = [(one.number, one.epochs) for one in models], 1
    while True:
        rounded = [epochs // unit * unit for _, epochs in ends]
        runs = [(len(list(group)), epochs) for epochs, group in groupby(rounded)]
        if len(set(rounded)) <= _MOST_GROUPS and len(runs) <= 200:
            return "-".join(f"{number}x{epochs}" for number, epochs in runs) or "0x0"
        unit *= 2


def _known(after: str | None) -> Mapping[int, int]:
    if after is None:
        return {}
    runs = [part.split("x") for part in after.split("-")] if _TOKEN.fullmatch(after) else []
    epochs = [int(epoch) for count, epoch in runs for _ in range(min(int(count), 10_000))]
    if not runs or len(set(epochs)) > _MOST_GROUPS:
        raise Invalid.field(
            "after", "after", f"expected `next_after` of an earlier response; got {after[:60]!r}"
        )
    return dict(enumerate(epochs))
