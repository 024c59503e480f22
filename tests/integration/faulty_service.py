"""A whole service that a test may disturb, and look into."""

import json
import os
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from celery import Celery
from latentry import Client
from sqlalchemy import select
from zarr.core.sync import sync

from domain.states import JobState, ModelState, SliceState
from store.array_store import open_array_store
from store.database import Database
from store.rpc import broker_url
from store.settings import Settings
from store.tables import CurvePoint, Job, Model, Slice
from tests.waiting import wait_until
from worker.embedded import EmbeddedService
from worker.maintenance.garbage_collection import collect_all

HOOKS = Path(__file__).parent / "fault_hooks"
ROOT = Path(__file__).resolve().parents[2]
Curves = dict[int, list[dict[str, Any]]]
EPOCHS = 250


class FaultyService:
    """API, two workers, maintenance loop and broker; what dies is started again, unless a test holds that up.

    Parameters
    ----------
    folder
        Of its data, logs and broker.
    environment
        Its settings.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.faults = folder / "faults"
        self.faults.mkdir(parents=True)
        self._environment = environment | {"PYTHONPATH": f"{HOOKS}{os.pathsep}{ROOT}"}
        self.embedded = EmbeddedService(folder, port=0, workers=2)
        self.settings = Settings()
        self._hold, self._held, self._ending = threading.Event(), threading.Event(), threading.Event()

    def start(self) -> None:
        """Start, and keep alive from then on; the thread that does so must outlive what it starts."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self._environment.items():
                patch.setenv(name, value)
            self.embedded.start()
            self.settings = Settings(data_dir=self.embedded.data_dir)
        self._ending.clear()
        self._watcher = threading.Thread(target=self.embedded.watch, args=(self._may_end,))
        self._watcher.start()
        self.client = Client(self.embedded.url)
        self.database = Database(self.settings.database_url)
        self.arrays = open_array_store(self.settings.array_url, self.database)
        self.broker = Celery(broker=broker_url(f"unix://{self.embedded.data_dir}/broker/socket"))
        self.broker.conf.broker_transport_options = {
            "visibility_timeout": self.settings.broker_visibility_seconds
        }

    def stop(self) -> None:
        """Stop in order, as ``latentry up`` does at Ctrl-C."""
        self.client.close()  # the API waits for connections
        with self.nothing_is_restarted():
            self.embedded.stop()
        self._ending.set()
        self._watcher.join()
        self.database.close()
        self.broker.close()

    def _may_end(self) -> bool:
        while self._hold.is_set():
            self._held.set()
            time.sleep(0.02)
        return self._ending.is_set()

    @contextmanager
    def nothing_is_restarted(self) -> Iterator[None]:
        """What dies stays dead meanwhile."""
        self._held.clear()
        self._hold.set()
        assert self._held.wait(20)
        try:
            yield
        finally:
            self._hold.clear()

    def child(self, name: str) -> psutil.Process:
        """One of the processes that ``latentry up`` starts."""
        (found,) = [one for one in self.embedded._children if one.name == name]
        return psutil.Process(found.process.pid)

    def start_drained(self) -> None:
        """Start the workers again that have ended without an error, which stay away by themselves."""
        for child in self.embedded._children:
            if child.has_been_drained:
                child.process = self.embedded._popen(child.name, child.command, child.environment)
                child.has_been_drained = False

    @contextmanager
    def suspended(self, name: str) -> Iterator[None]:
        """One of the processes that ``latentry up`` starts stands still, with its children."""
        main = self.child(name)
        processes = [main, *main.children(recursive=True)]
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of this service whose command line has a word."""
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get("LATENTRY_DATA_DIR") == str(self.embedded.data_dir)
                if is_ours and word in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def log(self, name: str) -> str:
        """What a process has written."""
        return (self.embedded.log_dir / f"{name}.log").read_text(errors="replace")

    def wait_for_workers(self) -> None:
        """Wait until both training processes are there and ready for a slice."""

        def are_ready() -> bool:
            alive = {process.pid for process in self.processes("worker.process.main")}
            ready = {
                json.loads(line)["pid"]
                for number in range(2)
                for line in self.log(f"worker-{number}").splitlines()
                if "ready on" in line
            }
            return len(alive & ready) == 2

        wait_until(are_ready)

    def begin(self, models: int = 2, **changes: Any) -> str:
        """Begin a job of tiny models, trained for a few seconds; returns its id."""
        specification = {
            "dataset_id": self.dataset_id,
            "architecture": {"encoder_units": 8, "initial_condition_dim": 8, "generator_units": 8, "factors": 3},
            "training": {"batch_size": 16, "ramp_epochs": 2},
            "budget": {"models": models, "epochs": EPOCHS},
            "inference": {"posterior_samples": 4},
        }  # fmt: skip
        return str(self.client.create_job(specification | changes)["id"])

    def verb(self, job_id: str, verb: str) -> dict[str, Any]:
        """Pause, resume, stop, cancel or retry a job."""
        answer = httpx.post(f"{self.embedded.url}/v1/jobs/{job_id}:{verb}")
        assert answer.is_success, answer.text
        document: dict[str, Any] = answer.json()
        return document

    def slices(self, job_id: str, *states: SliceState) -> list[Slice]:
        """Slices of a job, in order; those in some states, or all."""
        wanted = select(Slice).where(Slice.job_id == job_id, Slice.state.in_(states or list(SliceState)))
        with self.database.read() as session:
            return list(session.execute(wanted.order_by(Slice.id)).scalars())

    def slice_under_way(self, job_id: str, *, goes_on: bool = False) -> Slice:
        """Wait for a slice of training that has reported epochs and is not over.

        Parameters
        ----------
        goes_on
            Whether it must have begun from a checkpoint.
        """

        def find() -> Slice | None:
            for piece in self.slices(job_id, SliceState.LEASED):
                of_slice = select(CurvePoint.epoch).where(
                    CurvePoint.slice_id == piece.id, CurvePoint.epoch > piece.first_epoch
                )
                if piece.kind == "train" and piece.first_epoch >= goes_on:
                    with self.database.read() as session:
                        if session.execute(of_slice.limit(1)).first():
                            return piece
            return None

        return wait_until(find)  # type: ignore[no-any-return]

    def training_process(self, piece: Slice) -> psutil.Process:
        """The process that works on a slice."""
        assert piece.leased_by is not None
        return psutil.Process(int(piece.leased_by.split(":")[1]))

    def curves(self, job_id: str) -> Curves:
        """Every point of the learning curves of a job, by model number."""
        return {
            model["number"]: self.client.get(f"/v1/models/{model['id']}/learning_curve")["points"]
            for model in self.client.list_models(job_id)
        }

    def epochs(self, job_id: str) -> int:
        """Epochs of all models of a job so far."""
        return int(self.client.get_job(job_id)["progress"]["epochs_trained"])

    def check(self, job_id: str, *, failed: Collection[int] = ()) -> None:
        """Wait for a job; it must have come to what the undisturbed one came to, each epoch trained once, and left nothing.

        Parameters
        ----------
        failed
            Numbers of models that must have failed.
        """
        job = self.client.wait_for_job(job_id)
        epochs = job["specification"]["budget"]["epochs"]
        found = self.curves(job_id)
        assert sorted(found) == list(range(job["specification"]["budget"]["models"]))
        for model in self.client.list_models(job_id):
            if model["number"] in failed:
                assert model["state"] == ModelState.FAILED
                del found[model["number"]]
                continue
            assert (model["state"], model["epochs_trained"]) == (ModelState.TRAINED, epochs)
            assert [point["epoch"] for point in found[model["number"]]] == list(range(1, epochs + 1))
        assert found == {number: self.reference[number] for number in found}
        assert self.client.get_model(job["selected_model_id"])["number"] == self.best_of(found)
        self.check_slices(job_id)
        self.check_objects()

    def best_of(self, numbers: Iterable[int]) -> int:
        """Which of some models of the reference is the best one."""
        return min(numbers, key=lambda number: (self.lowest_losses[number], number))

    def check_slices(self, job_id: str) -> None:
        """No slice waits or is under way; the reported ones follow each other, and theirs are the points."""
        with self.database.read() as session:
            job = session.get_one(Job, job_id)
            pieces = list(session.execute(select(Slice).where(Slice.job_id == job_id)).scalars())
            models = list(session.execute(select(Model).where(Model.job_id == job_id)).scalars())
            points = select(CurvePoint.model_id, CurvePoint.epoch, CurvePoint.slice_id)
            of_job = points.where(CurvePoint.model_id.in_([model.id for model in models]))
            found = sorted((model_id, epoch, piece) for model_id, epoch, piece in session.execute(of_job))
        assert job.state == JobState.DONE
        assert {piece.state for piece in pieces} <= {SliceState.DONE, SliceState.FAILED, SliceState.CANCELLED}
        assert all(piece.lease_token is None for piece in pieces)
        assert all(ModelState(model.state).is_final for model in models)
        failed = {model.id for model in models if model.state == ModelState.FAILED}
        reported = sorted(
            (model_id, epoch, piece.id)
            for piece in pieces
            if piece.state == SliceState.DONE and piece.kind == "train"
            for model_id in piece.model_ids
            for epoch in range(piece.first_epoch + 1, (piece.epochs_trained or 0) + 1)
        )
        assert [one for one in found if one[0] not in failed] == reported

    def check_objects(self) -> None:
        """After collection there is no checkpoint, and no part of latents, that nobody reads."""
        sum(collect_all(self.database, self.arrays))
        assert self.orphans() == set()

    def orphans(self) -> set[str]:
        """Keys of checkpoints and parts of latents that nobody reads; what is read must be there."""
        with self.database.read() as session:
            models = list(session.execute(select(Model)).scalars())
        read = {key for model in models for key in (model.checkpoint_key, model.start_key) if key}
        latents = tuple(f"{model.latents_path}/" for model in models if model.latents_path)

        def is_above(key: str) -> bool:
            """Whether it is Zarr's note that a folder above the groups of latents is a group."""
            return key.endswith("/zarr.json") and key.count("/") <= 3

        async def find() -> set[str]:
            return {key async for key in self.arrays.list_prefix("models/")}

        objects: set[str] = sync(find())
        assert read <= objects
        return {key for key in objects - read if not key.startswith(latents) and not is_above(key)}

    def lost_and_failed(self, job_id: str) -> tuple[int, int]:
        """How many workers were lost with a slice of a job, and how many attempts failed."""
        pieces = self.slices(job_id)
        return sum(piece.losses for piece in pieces), sum(piece.attempts for piece in pieces)

    def prepare(self, spikes_file: Path) -> None:
        """Upload the data and train three models undisturbed: what the others are compared with."""
        self.dataset_id = self.client.upload_dataset(spikes_file)["id"]
        job = self.client.wait_for_job(self.begin(models=3))
        self.reference = self.curves(job["id"])
        self.lowest_losses = {
            model["number"]: model["scores"]["smoothed_sv_loss"]
            for model in self.client.list_models(job["id"])
        }
        assert self.client.get_model(job["selected_model_id"])["number"] == self.best_of(self.reference)
