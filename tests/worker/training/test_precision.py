"""The precision of a job: measured by its first slice, recorded, and the same for the slices of all workers."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from zarr.abc.store import Store

from domain.job_specification import JobSpecification
from models import Architecture, compiled
from store.database import Database
from store.settings import Settings
from store.tables import Job
from worker.context.process import TrainingProcess
from worker.training import precision
from worker.training.precision import faster_precision, precision_of

LARGE = Architecture(neurons=6, encoder_units=8, initial_condition_dim=4, generator_units=32, factors=3)
SMALL = Architecture(neurons=6, encoder_units=8, initial_condition_dim=4, generator_units=16, factors=3)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def pretend_gain(monkeypatch: pytest.MonkeyPatch, gain: float) -> list[str]:
    """Let bfloat16 be so much faster on this machine; return the list of the steps that are timed."""
    timed: list[str] = []

    def timed_step(_architecture: Any, _trials: int, _bins: int, name: str) -> Callable[[], float]:
        def step() -> float:
            timed.append(name)
            noise = 0.5 if len(timed) <= 2 else 0.0  # the machine was busy at first
            return (1.0 if name == "bfloat16" else 1.0 + gain) + noise

        return step

    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    monkeypatch.setattr(precision, "_timed_step", timed_step)
    return timed


@pytest.mark.parametrize(
    ("gain", "expected"),
    [(0.25, "bfloat16"), (0.06, "bfloat16"), (0.04, "float32"), (0.0, "float32"), (-0.3, "float32")],
)
def test_bfloat16_is_taken_where_it_gains_five_percent(
    monkeypatch: pytest.MonkeyPatch, gain: float, expected: str
) -> None:
    timed = pretend_gain(monkeypatch, gain)
    assert faster_precision(LARGE, 64, 50, "cpu") == expected
    assert timed == ["float32", "bfloat16"] * 4, "they take turns, so that other work slows both"


@pytest.mark.parametrize("reason", ["GPU", "small", "threads", "no instruction"])
def test_where_nothing_can_be_gained_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    timed = pretend_gain(monkeypatch, 1.0)
    if reason == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    if reason == "no instruction":
        monkeypatch.setattr(precision, "has_bfloat16", lambda: False)
    architecture = SMALL if reason == "small" else LARGE
    assert faster_precision(architecture, 64, 50, "cuda:1" if reason == "GPU" else "cpu") == "float32"
    assert not timed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "neurons": (4, 7), "read_in_dim": 3, "controller_units": 5, "controller_encoder_units": 4, "inferred_inputs": 2,
            "external_inputs": 2, "observation": "zero_inflated_gamma", "initial_condition_bins": 3, "encoded_bins": 30,
        },
    ],
    ids=["plain", "everything"],
)  # fmt: skip
def test_a_real_measurement(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_bfloat16", lambda: True)
    architecture = Architecture(**({"neurons": 6, "generator_units": 32, "encoder_units": 8} | changes))
    assert faster_precision(architecture, 8, 40, "cpu") in ("float32", "bfloat16")


class Slices:
    """Slices of one job, on workers whose measurements differ."""

    def __init__(self, database: Database, arrays: Store, settings: Settings, job_id: str) -> None:
        self.database, self.job_id = database, job_id
        self.process = TrainingProcess(database, arrays, settings, "here", device="cpu")
        with database.read() as session:
            self.job = session.get_one(Job, job_id)

    def work(self) -> Any:
        """A slice as it was loaded; the row of the job may have changed since."""
        return SimpleNamespace(
            job=self.job, specification=JobSpecification.model_validate(self.job.spec), architecture=lambda: LARGE,
            dataset=SimpleNamespace(bins=20), split=lambda: np.array(["train"] * 30 + ["valid"] * 10),
        )  # fmt: skip

    def recorded(self) -> str | None:
        with self.database.read() as session:
            self.job = session.get_one(Job, self.job_id)
        return self.job.precision


def test_the_first_slice_decides_for_all(
    database: Database,
    arrays: Store,
    settings: Settings,
    make_job: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slices = Slices(database, arrays, settings, make_job())
    assert slices.recorded() is None
    early = slices.work()  # another worker loads its slice before the first one has decided
    pretend_gain(monkeypatch, 0.25)
    assert precision_of(slices.process, slices.work()) == slices.recorded() == "bfloat16"
    timed = pretend_gain(monkeypatch, -0.3)
    assert precision_of(slices.process, early) == "bfloat16", "it measured float32, but the job is decided"
    timed.clear()
    assert precision_of(slices.process, slices.work()) == "bfloat16"
    assert not timed, "later slices do not measure"


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_the_specification_decides_without_a_measurement(
    database: Database,
    arrays: Store,
    settings: Settings,
    make_job: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
) -> None:
    timed = pretend_gain(monkeypatch, 0.25 if wanted == "float32" else -0.3)
    slices = Slices(database, arrays, settings, make_job(training={"batch_size": 16, "precision": wanted}))
    assert precision_of(slices.process, slices.work()) == slices.recorded() == wanted
    assert not timed


def test_bfloat16_can_be_asked_for_on_every_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement of another worker may have chosen it."""
    monkeypatch.setattr(compiled, "has_bfloat16", lambda: False)
    with compiled.bfloat16_products(True):
        assert compiled.reads_bfloat16()
    assert not compiled.reads_bfloat16()
