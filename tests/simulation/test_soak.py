"""A short soak finds nothing lost, doubled, stuck or left behind; and damage that is planted is found."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, make_transient
from zarr.abc.store import Store

from domain.states import JobState, ModelState, SliceState
from store.array_store import open_array_store
from store.database import Database
from store.tables import ArrayObject, CurvePoint, Job, Model, Slice
from tests.simulation.fault_injector import WEIGHTS, plan_faults
from tests.simulation.invariants import Invariants, check_invariants
from tests.simulation.jobs import select_undisturbed
from tests.simulation.soak import MUST_BE_ZERO, SoakPlan, run

MODELS, EPOCHS = 3, 8


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_when_workers_are_killed_frozen_and_told_to_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"LEASE_SECONDS": "3", "HEARTBEAT_SECONDS": "1"}.items():
        monkeypatch.setenv(f"LATENTRY_{name}", value)
    url = f"sqlite:///{tmp_path / 'latentry.db'}"
    plan = SoakPlan(url, seconds=8.0, jobs=4, models=4, workers=3, epoch_seconds=0.05, load=0.4)
    found = run(plan, tmp_path, "sqlite")
    assert {name: found[name] for name in MUST_BE_ZERO} == dict.fromkeys(MUST_BE_ZERO, 0), found
    assert found["not_ended"] == []
    assert found["unrecovered"] == 0
    assert sum(found["jobs"].values()) == 4
    assert found["jobs_done"] >= 1
    assert found["kills"] >= 1
    assert {"kill", "freeze", "terminate", "pause"} <= {
        name for name, times in found["events"].items() if times
    }
    assert found["slices"] >= 10
    assert found["selected_compared"] >= 2


def test_faults_come_from_the_seed_and_are_of_every_kind() -> None:
    faults = plan_faults(3, 60.0, 1.0)
    assert faults == plan_faults(3, 60.0, 1.0) != plan_faults(4, 60.0, 1.0)
    assert {planned.fault for planned in faults} == set(WEIGHTS)
    assert [planned.at_s for planned in faults] == sorted(planned.at_s for planned in faults)
    assert 0 < faults[0].at_s <= faults[-1].at_s < 60


def test_what_is_selected_undisturbed_follows_from_the_seed(tmp_path: Path) -> None:
    jobs = [
        {
            "budget": {"models": 4, "epochs": 6},
            "seed": seed,
            "strategy": {"kind": "pbt", "generation_epochs": 2},
        }
        for seed in (1, 2, 1)
    ]
    one, other, again = select_undisturbed(tmp_path, jobs)
    assert one is not None
    assert one == again != other


Damage = Callable[[Session], None]


def lose_a_point(session: Session) -> None:
    session.execute(
        delete(CurvePoint).where(CurvePoint.epoch == 5, CurvePoint.model_id == _model(session).id)
    )


def lose_a_slice(session: Session) -> None:
    session.delete(_slice(session))


def double_a_slice(session: Session) -> None:
    piece = _slice(session)
    make_transient(piece)
    piece.id = "sli_again"
    session.add(piece)


def leave_a_lease(session: Session) -> None:
    piece = _slice(session, "infer")
    piece.state, piece.lease_token = SliceState.LEASED, "nobody"


def forget_a_job(session: Session) -> None:
    session.execute(update(Job).values(state=JobState.RUNNING))


def fail_an_inference(session: Session) -> None:
    session.execute(update(Job).values(state=JobState.FAILED, error={"code": "inference_failed"}))


def forget_a_model(session: Session) -> None:
    _model(session).state = ModelState.TRAINING


def leave_a_checkpoint_of_nobody(session: Session) -> None:
    key = "models/mod_of_nobody/checkpoints/000001-aa.safetensors"
    session.add(ArrayObject(key=key, value=b"weights", size_bytes=7))


def lose_a_checkpoint(session: Session) -> None:
    session.execute(delete(ArrayObject).where(ArrayObject.key == _model(session).checkpoint_key))


def _model(session: Session) -> Model:
    return session.execute(select(Model).order_by(Model.number)).scalars().all()[0]


def _slice(session: Session, kind: str = "train") -> Slice:
    return session.execute(select(Slice).where(Slice.kind == kind)).scalar_one()


@pytest.fixture(scope="module")
def trained_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the database of a job that is done."""
    folder = tmp_path_factory.mktemp("trained")
    select_undisturbed(folder, [{"budget": {"models": MODELS, "epochs": EPOCHS}}])
    return folder


@pytest.fixture
def trained(trained_folder: Path, tmp_path: Path) -> Iterator[tuple[Database, Store]]:
    """A job that is done, to be damaged."""
    copy = shutil.copy(trained_folder / "undisturbed.db", tmp_path)
    database = Database(f"sqlite:///{copy}")
    yield database, open_array_store("sql:", database)
    database.close()


def zeros(found: Invariants) -> dict[str, int]:
    names = ("lost", "trained_twice", "stuck", "orphans", "missing_objects", "failed", "points_beyond")
    return {name: value for name in names if (value := getattr(found, name))}


def test_a_job_that_nothing_disturbed_is_judged_clean(trained: tuple[Database, Store]) -> None:
    found = check_invariants(*trained)
    assert zeros(found) == {}
    assert (found.slices, found.jobs, found.models) == (1, {"done": 1}, {"trained": MODELS})


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lose_a_point, {"lost": 1}),
        (lose_a_slice, {"lost": MODELS * EPOCHS}),
        (double_a_slice, {"trained_twice": MODELS * EPOCHS}),
        (leave_a_lease, {"stuck": 1}),
        (forget_a_job, {"stuck": 1}),
        (fail_an_inference, {"failed": 1}),
        (forget_a_model, {"stuck": 1}),
        (leave_a_checkpoint_of_nobody, {"orphans": 1}),
        (lose_a_checkpoint, {"missing_objects": 1}),
    ],
)
def test_planted_damage_is_found(
    trained: tuple[Database, Store], damage: Damage, expected: dict[str, int]
) -> None:
    database, arrays = trained
    with database.write() as session:
        damage(session)
    assert zeros(check_invariants(database, arrays)) == expected
