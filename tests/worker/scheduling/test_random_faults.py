"""The scheduler under random faults, with fake training: thousands of steps in any order, and nothing lost or doubled."""

import itertools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import select

from api.errors import WrongState
from api.jobs import lifecycle
from api.jobs.schemas import BudgetExtension
from domain.states import JobState, ModelState, SliceState
from store.database import Database
from store.settings import Settings
from store.tables import Job, Slice
from tests.worker.conftest import add_dataset, add_job
from tests.worker.fake_workers import FakeWorkers, read_job, read_models, read_slices
from worker.scheduling.leases import Lease, LeaseLost, reap

STRATEGIES: list[dict[str, Any]] = [
    {"kind": "random"},
    {"kind": "asha", "first_rung_epochs": 2, "reduction_factor": 2},
    {"kind": "hyperband", "first_rung_epochs": 2, "reduction_factor": 2},
    {"kind": "tpe", "models_at_once": 2, "startup_models": 2},
    {"kind": "pbt", "generation_epochs": 2, "burn_in_epochs": 2, "patience_generations": 2},
]
VERBS = ["pause", "resume", "stop", "cancel", "retry", "extend"]
ACTIVE = (SliceState.QUEUED, SliceState.LEASED)
which = st.integers(0, 9)


class Faults(RuleBasedStateMachine):
    """Two jobs, workers that come, report, die and wake late, and people who change their minds."""

    template: Path
    settings: Settings
    steps = 0

    @initialize(
        strategies=st.lists(st.sampled_from(STRATEGIES), min_size=2, max_size=2),
        models=st.integers(1, 5),
        epochs=st.integers(1, 7),
        step=st.integers(1, 3),
        pack_models=st.integers(1, 4),
        seed=st.integers(0, 3),
    )
    def begin(
        self,
        strategies: list[dict[str, Any]],
        models: int,
        epochs: int,
        step: int,
        pack_models: int,
        seed: int,
    ) -> None:
        self.settings.max_losses, self.settings.pack_models = 10_000, pack_models
        self.folder = tempfile.TemporaryDirectory(prefix="latentry-faults-")
        path = Path(self.folder.name) / "faults.db"
        shutil.copy(self.template, path)
        self.database, self.seed = Database(f"sqlite:///{path}"), seed
        dataset_id = add_dataset(self.database)
        budget = {"models": models, "epochs": epochs}
        self.jobs = [add_job(self.database, dataset_id, budget=budget, strategy=one) for one in strategies]
        self.workers = FakeWorkers(self.database, self.settings, epochs=step)
        self.held: list[Lease] = []
        self.lost: list[Lease] = []
        self.claims = 0
        for job_id in self.jobs:
            self.workers.advance(job_id)

    @rule(which=which)
    def advance(self, which: int) -> None:
        self.workers.advance(self.jobs[which % 2])

    @rule()
    def claim(self) -> None:
        self.claims += 1
        lease = self.workers.claim(f"worker-{self.claims}")
        if lease is None:
            return
        with self.database.read() as session:
            job = session.get_one(Job, session.get_one(Slice, lease.row_id).job_id)
            assert job.state in (JobState.RUNNING, JobState.INFERRING)
        self.held.append(lease)

    @rule(which=which, diverged=st.sampled_from([(), (), (), (0,), (1, 2)]))
    def report(self, which: int, diverged: tuple[int, ...]) -> None:
        if not self.held:
            return
        lease = self.held.pop(which % len(self.held))
        with self.database.read() as session:
            is_ours = session.get_one(Slice, lease.row_id).lease_token == lease.token
        if is_ours:
            self._report(lease, diverged)
        else:  # cancelled meanwhile
            with pytest.raises(LeaseLost):
                self._report(lease, diverged)

    def _report(self, lease: Lease, diverged: tuple[int, ...] = ()) -> None:
        losses = {number: 0.3 + 0.01 * ((7 * number + self.seed) % 5) for number in range(20)}
        self.workers.report(lease, losses=losses, diverged=diverged)

    @rule(which=which, process_died=st.booleans())
    def lose(self, which: int, process_died: bool) -> None:
        if not self.held:
            return
        lease = self.held.pop(which % len(self.held))
        with self.database.write() as session:
            row = session.get_one(Slice, lease.row_id)
            was_ours = row.lease_token == lease.token
            taken = reap(session, self.settings, held_by=row.leased_by or "", process_died=process_died)
            assert taken == was_ours
        self.lost.append(lease)

    @rule()
    def wake_late(self) -> None:
        if self.lost:
            with pytest.raises(LeaseLost):
                self._report(self.lost.pop())

    @rule(which=which, verb=st.sampled_from(VERBS), more=st.integers(1, 2))
    def change(self, which: int, verb: str, more: int) -> None:
        """Whatever a person may ask for at any time is done or refused."""
        with self.database.write() as session:
            job = session.get_one(Job, self.jobs[which % 2], with_for_update=True)
            try:
                if verb == "extend":
                    lifecycle.extend(session, job, BudgetExtension(models=more - 1, epochs=more))
                else:
                    getattr(lifecycle, verb)(session, job)
            except WrongState:
                assert verb != "cancel" or JobState(job.state).is_final

    @invariant()
    def no_epoch_is_lost_or_trained_twice(self) -> None:
        type(self).steps += 1
        for pieces in self.workers.trained.values() if hasattr(self, "workers") else ():
            ends = [0, *(end for _, end in pieces)]
            assert [begin for begin, _ in pieces] == ends[:-1]

    @invariant()
    def no_model_is_in_two_slices(self) -> None:
        if not hasattr(self, "database"):
            return
        with self.database.read() as session:
            active = session.execute(select(Slice.model_ids).where(Slice.state.in_(ACTIVE))).scalars()
            ids = [model_id for of_slice in active for model_id in of_slice]
            assert len(ids) == len(set(ids))

    def teardown(self) -> None:
        """Left in peace, every job comes to its end."""
        if not hasattr(self, "jobs"):
            return
        for lease in self.held:
            with self.database.write() as session:
                reap(session, self.settings, held_by=session.get_one(Slice, lease.row_id).leased_by or "")
        for job_id in self.jobs:
            if read_job(self.database, job_id).state == JobState.PAUSED:
                with self.database.write() as session:
                    lifecycle.resume(session, session.get_one(Job, job_id, with_for_update=True))
        for _ in range(500):
            for job_id in self.jobs:
                self.workers.advance(job_id)
            if (lease := self.workers.claim()) is None:
                break
            self._report(lease)
        for job_id in self.jobs:
            job, models = read_job(self.database, job_id), read_models(self.database, job_id)
            assert JobState(job.state).is_final
            assert all(ModelState(model.state).is_final for model in models)
            assert not [piece for piece in read_slices(self.database, job_id) if piece.state in ACTIVE]
            for model in models:
                last = self.workers.trained.get(model.id, [(0, 0)])[-1][1]
                assert model.epochs_trained == last
                if job.state == JobState.DONE and model.state == ModelState.TRAINED and model.checkpoint_key:
                    assert model.smoothed_sv_loss is not None
        self.database.close()
        self.folder.cleanup()


@pytest.mark.parametrize("examples", [4, pytest.param(60, marks=pytest.mark.slow)])
def test_random_faults_never_lose_or_double_an_epoch(
    examples: int, sqlite_database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults.steps, numbers = 0, itertools.count()
    for module in ("worker.scheduling.scheduler", "worker.scheduling.decisions"):
        monkeypatch.setattr(f"{module}.new_id", lambda prefix: f"{prefix}_{next(numbers):024x}")
    sqlite_database.close()
    Faults.template, Faults.settings = Path(sqlite_database.engine.url.database or ""), settings
    run_state_machine_as_test(
        Faults,
        settings=hypothesis_settings(
            max_examples=examples, stateful_step_count=55, deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
        ),
    )  # fmt: skip
    assert Faults.steps > 25 * examples
