"""Garbage collection: delete what lost workers left in the array store, weights beyond `budget.top_k`, and expired uploads.

Checkpoints and latents are stored under the id of their model or inference. Their names contain the token of the lease that wrote
them. Those that no row names and whose lease has ended are orphans. Orphans are harmless, so collection may be late.

Everything is a generator of short steps, because the process that runs it also advances jobs. A step yields the number of
checkpoints, groups of latents or uploads that it has deleted.
"""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from sqlalchemy import or_, select
from sqlalchemy.orm import Session
from zarr.abc.store import Store
from zarr.core.sync import sync

from domain.job_specification import JobSpecification
from domain.states import JobState
from store.array_store import delete_object, delete_objects_by_steps, names_by_pages
from store.database import LOCK, Database, database_now
from store.identifiers import PATTERN
from store.lineage import selection_order
from store.originals import open_originals
from store.settings import Settings
from store.tables import Dataset, Inference, Job, Model, Slice, Upload
from store.uploads import UploadBusy, delete_stray_partials, forget_upload, is_read_by_dataset
from worker.scheduling.model_rows import UNFINISHED_INFERENCES, UNFINISHED_JOBS, checkpoints_in_use

_ENDED_WITHIN = timedelta(days=1)
_IDS_AT_ONCE = 500
Steps = Iterator[int]


def drop_weights(session: Session, job: Job) -> int:
    """Drop the checkpoints of a finished job, except those of the best `budget.top_k` models; return how many."""
    kept = JobSpecification.model_validate(job.spec).budget.top_k
    of_job = select(Model).where(Model.job_id == job.id, Model.checkpoint_key.is_not(None))
    models = list(session.execute(of_job).scalars())
    needed = {job.selected_model_id, job.final_model_id}
    ranked = sorted(models, key=lambda model: (model.id not in needed, *selection_order(model)))
    for model in ranked[kept:]:
        if model.id not in needed:
            model.checkpoint_key = None
    return max(0, len(ranked) - kept)


def collect(database: Database, arrays: Store, job_id: str) -> Steps:
    """Delete a job's checkpoints and latents that no row names."""
    with database.read() as session:
        ids = list(session.execute(select(Model.id).where(Model.job_id == job_id)).scalars())
    # Listed first: objects that are written meanwhile belong to a lease that is read below, or to a row.
    names = set[str]()
    for model_id in ids:
        names |= _objects(arrays, model_id)
        yield 0
    if not names:
        return
    with database.read() as session:
        alive = set(session.execute(select(Slice.lease_token).where(Slice.job_id == job_id)).scalars()) - {
            None
        }
        read = checkpoints_in_use(session, {name for name in names if "/checkpoints/" in name})
        latents = select(Model.latents_path).where(Model.job_id == job_id, Model.latents_path.is_not(None))
        read |= {path for path in session.execute(latents).scalars() if path}
    orphans = [name for name in names - read if _token(name) not in alive]
    for name in orphans:
        if "/checkpoints/" in name:
            delete_object(arrays, name)
        else:
            yield from _nothing(delete_objects_by_steps(arrays, name))
        yield 1


def collect_all(database: Database, arrays: Store) -> Steps:
    """Drop weights of finished jobs, and collect the garbage of jobs that are unfinished or ended within a day."""
    with database.read() as session:
        recent = database_now(session) - _ENDED_WITHIN
        # An inference may have kept weights that its job dropped long before.
        inferred = select(Model.job_id).join(Inference).where(Inference.ended_at > recent)
        due = select(Job.id).where(
            or_(Job.state.in_(UNFINISHED_JOBS), Job.ended_at > recent, Job.id.in_(inferred))
        )
        job_ids = list(session.execute(due).scalars())
    for job_id in job_ids:
        with database.write() as session:
            job = session.get(Job, job_id, with_for_update=LOCK)
            if job is not None and job.state == JobState.DONE:
                drop_weights(session, job)
        yield from collect(database, arrays, job_id)
    yield from collect_inferences(database, arrays)
    yield from collect_strays(database, arrays)


def collect_strays(database: Database, arrays: Store) -> Steps:
    """Delete objects of resources without a row: a worker may have written them while its job was deleted.

    The row of a resource is committed before its first object. So an id that was listed and then has no row was deleted.
    """
    for folder, table in (("datasets", Dataset), ("models", Model), ("inferences", Inference)):
        for page in names_by_pages(arrays, folder):
            names = [name for name in page if PATTERN.fullmatch(name)]
            for start in range(0, len(names), _IDS_AT_ONCE):
                ids = names[start : start + _IDS_AT_ONCE]
                with database.read() as session:
                    alive = set(session.execute(select(table.id).where(table.id.in_(ids))).scalars())
                yield 0
                for stray in set(ids) - alive:
                    yield from _nothing(delete_objects_by_steps(arrays, f"{folder}/{stray}"))
                    yield 1


def delete_old_latents(database: Database, arrays: Store, model_id: str) -> Steps:
    """Delete the latents of a model that its row does not name and that no slice is writing."""
    groups = {name for name in _objects(arrays, model_id) if "/latents/" in name}
    with database.read() as session:
        row = session.get(Model, model_id)
        job_id = None if row is None else row.job_id
        tokens = select(Slice.lease_token).where(Slice.job_id == job_id, Slice.lease_token.is_not(None))
        alive = set(session.execute(tokens).scalars())
    for name in groups - {None if row is None else row.latents_path}:
        if _token(str(name)) not in alive:
            yield from _nothing(delete_objects_by_steps(arrays, str(name)))
            yield 1


def collect_inferences(database: Database, arrays: Store) -> Steps:
    """Delete latents of lost attempts of inferences that are unfinished or ended within a day."""
    with database.read() as session:
        recent = Inference.ended_at > database_now(session) - _ENDED_WITHIN
        due = select(Inference.id).where(or_(Inference.state.in_(UNFINISHED_INFERENCES), recent))
        inference_ids = list(session.execute(due).scalars())
    for inference_id in inference_ids:
        # Listed first, as in `collect`.
        keys = _keys(arrays, f"inferences/{inference_id}/")
        paths = {"/".join(parts[:3]) for parts in (key.split("/") for key in keys) if len(parts) > 3}
        yield 0
        if not paths:
            continue
        with database.read() as session:
            row = session.get(Inference, inference_id)
        if row is None:
            continue  # deleted meanwhile, with its latents
        for path in paths - {row.latents_path}:
            if _token(path) != row.lease_token:
                yield from _nothing(delete_objects_by_steps(arrays, path))
                yield 1


def collect_uploads(database: Database, settings: Settings) -> Steps:
    """Delete expired uploads, with their bytes unless a data set uses them, and partial files that no row names."""
    originals = open_originals(settings)
    with database.read() as session:
        over = select(Upload.id).where(Upload.expires_at <= database_now(session))
        upload_ids = list(session.execute(over).scalars())
    for upload_id in upload_ids:
        with database.write() as session:
            row = session.get(Upload, upload_id, with_for_update=LOCK)
            is_over = row is not None and row.expires_at <= database_now(session)
            if row is None or not is_over or is_read_by_dataset(session, row):
                continue  # continued since, or still to be read
            try:
                forget_upload(session, originals, settings, row)
            except UploadBusy:
                continue
        yield 1
    yield delete_stray_partials(settings)


def _nothing(steps: Iterable[None]) -> Steps:
    """Count none of the steps: what they delete counts when it is whole."""
    for _ in steps:
        yield 0


def _objects(arrays: Store, model_id: str) -> set[str]:
    """Return the keys of a model's checkpoints, and the paths of its groups of latents."""
    found: set[str] = set()
    for key in _keys(arrays, f"models/{model_id}/"):
        parts = key.split("/")
        if parts[2] == "checkpoints":
            found.add(key)
        elif parts[2] == "latents" and len(parts) > 4:
            found.add("/".join(parts[:4]))
    return found


def _keys(arrays: Store, prefix: str) -> Iterable[str]:
    async def read() -> list[str]:
        return [key async for key in arrays.list_prefix(prefix)]

    return sync(read())


def _token(name: str) -> str:
    """Return the token in the name of a checkpoint or a group of latents. While a file store writes, names have more endings."""
    return name.rsplit("/", 1)[1].rsplit("-", 1)[-1].split(".")[0]
