"""Groups of models in a slice: any grouping gives the same, memory that runs out halves them, the diverged leave."""

import dataclasses
import gc
import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from domain.cost import step_bytes
from models import (
    Architecture,
    EpochScores,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
)
from worker.context.devices import free_bytes
from worker.training import micro_batching as packing
from worker.training.micro_batching import Pack, find_group_size
from worker.training.train import _group_size

ARCHITECTURE = Architecture(neurons=5, encoder_units=4, initial_condition_dim=3, generator_units=6, factors=2)
SESSION = Session(np.random.default_rng(0).poisson(0.5, (20, 10, 5)), np.full(20, 10), np.arange(20) % 5 == 0)
DATA = TrainingData(SESSION, sv_rate=0.25, sv_seed=0)
MODELS = 5


def nothing() -> None:
    pass


def make(indices: Sequence[int], states: Any) -> Population:
    return Population(
        ARCHITECTURE,
        [Hyperparameters(learning_rate=1e-3 * (1 + index)) for index in indices],
        list(indices),
        DATA,
        TrainingOptions(batch_size=8, ramp_epochs=2),
        order_seed=0,
        states=states,
    )


class Full(Population):
    """Too many models at once run out of memory after the first step of their second epoch."""

    most = 2

    def train_epoch(self, on_step: Callable[[], None] | None = None) -> list[EpochScores]:
        def step() -> None:
            if len(self.seeds) > self.most and self.epoch > 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if on_step:
                on_step()

        return super().train_epoch(step)


def make_full(indices: Sequence[int], states: Any) -> Population:
    population = make(indices, states)
    population.__class__ = Full
    return population


def losses(pack: Pack, epochs: int) -> list[dict[int, float]]:
    return [
        {index: found.sv_loss for index, found in pack.train_epoch(nothing).items()} for _ in range(epochs)
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16])
def test_any_grouping_gives_the_same(size: int) -> None:
    expected, found = losses(Pack(make, MODELS, None, MODELS), 3), losses(Pack(make, MODELS, None, size), 3)
    for whole, grouped in zip(expected, found, strict=True):
        assert sorted(grouped) == list(range(MODELS))
        assert grouped == pytest.approx(whole, rel=1e-4)


def test_when_memory_runs_out_groups_are_halved_and_no_epoch_is_lost_or_done_twice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pack = Pack(make_full, MODELS, None, MODELS)
    found = losses(pack, 3)
    assert pack.epoch == 3
    assert [len(group.indices) for group in pack._groups] == [2, 1, 2]
    for whole, halved in zip(losses(Pack(make, MODELS, None, MODELS), 3), found, strict=True):
        assert halved == pytest.approx(whole, rel=1e-4)
    assert "out of memory with 5 models at once" in caplog.text


def test_a_model_that_does_not_fit_alone_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Full, "most", 0)
    pack = Pack(make_full, 2, None, 2)
    pack.train_epoch(nothing)
    with pytest.raises(torch.OutOfMemoryError):
        pack.train_epoch(nothing)


def test_other_errors_are_not_taken_for_want_of_memory() -> None:
    def fail() -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        Pack(make, 2, None, 2).train_epoch(fail)


def test_the_diverged_leave_and_the_others_go_on_as_if_they_had_never_been() -> None:
    def make_with_one_bad(indices: Sequence[int], states: Any) -> Population:
        population = make(indices, states)
        if states is None and 1 in indices:
            population._weights[list(indices).index(1)] = torch.nan
        return population

    for size in (1, 3):
        pack = Pack(make_with_one_bad, 3, None, size)
        first, second = pack.train_epoch(nothing), pack.train_epoch(nothing)
        assert first[1].diverged
        assert sorted(second) == pack.alive == [0, 2]
        expected = Pack(make, 3, None, 3)
        expected.train_epoch(nothing)
        whole = expected.train_epoch(nothing)
        assert second[2].sv_loss == pytest.approx(whole[2].sv_loss, rel=1e-4)
        assert int(pack.state(2)["epoch"]) == 2


def test_a_pack_whose_models_all_diverged_is_over() -> None:
    def make_bad(indices: Sequence[int], states: Any) -> Population:
        population = make(indices, states)
        population._weights[:] = torch.nan
        return population

    pack = Pack(make_bad, 2, None, 1)
    pack.train_epoch(nothing)
    assert (pack.alive, pack.epoch) == ([], 1)


def calibrated(monkeypatch: pytest.MonkeyPatch, seconds: Callable[[int], float | None], **given: Any) -> int:
    """The group size, if a step of so many models took so long; None: they do not fit into memory."""
    tried: list[int] = []

    def step(_make: Any, size: int, _device: str, _on_step: Any) -> tuple[float, int] | None:
        tried.append(size)
        found = seconds(size)
        return None if found is None else (found, 0)

    monkeypatch.setattr(packing, "_try_step", step)
    arguments: dict[str, Any] = {"most": 16, "device": "cpu", "model_bytes": 1000} | given
    return find_group_size(make, on_step=nothing, **arguments)


def test_groups_grow_as_long_as_that_makes_models_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calibrated(monkeypatch, lambda size: 0.01) == 16
    assert calibrated(monkeypatch, lambda size: 0.01, most=5) == 5
    assert calibrated(monkeypatch, lambda size: 0.01 * size) == 1
    assert calibrated(monkeypatch, lambda size: 0.01 * max(4, size)) == 4


def test_groups_grow_no_further_than_memory_and_patience_go(monkeypatch: pytest.MonkeyPatch) -> None:
    free = free_bytes("cpu")
    assert calibrated(monkeypatch, lambda size: 0.01, model_bytes=free // 6) == 4
    assert calibrated(monkeypatch, lambda size: 2.0) == 1
    assert calibrated(monkeypatch, lambda size: 0.01 if size <= 2 else None) == 2


def test_a_calibration_times_training_steps_after_the_first_and_no_evaluation() -> None:
    """Of an epoch with one step, too, whose second step would be an evaluation. The first step may compile for minutes."""
    done: list[str] = []
    clock = 0.0

    class Watched(Population):
        def _train_step(self, trials: Any, step: int, steps: int) -> tuple[torch.Tensor, ...]:
            done.append("train")
            return super()._train_step(trials, step, steps)

        def _evaluate(self, trials: Any, on_step: Any) -> Any:
            done.append("evaluate")
            return super()._evaluate(trials, on_step)

    def make_watched(indices: Sequence[int], states: Any) -> Population:
        population = make(indices, states)
        population.options = dataclasses.replace(population.options, batch_size=100)  # an epoch is one step
        population.__class__ = Watched
        return population

    def on_step() -> None:
        nonlocal clock
        clock += 60.0 if clock == 0 else 0.01  # the first step compiles

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(packing, "time", SimpleNamespace(monotonic=lambda: clock))
        assert find_group_size(make_watched, 4, "cpu", 1000, on_step) == 4
    assert done == ["train"] * 9


def test_want_of_memory_in_a_calibration_ends_it() -> None:
    class Large(Population):
        def try_steps(self, steps: int, on_step: Callable[[], None]) -> None:
            if len(self.seeds) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            super().try_steps(steps, on_step)

    def make_large(indices: Sequence[int], states: Any) -> Population:
        population = make(indices, states)
        population.__class__ = Large
        return population

    assert find_group_size(make_large, 4, "cpu", 1000, nothing) == 1


def test_the_memory_of_a_group_is_free_before_its_halves_are_made() -> None:
    """Neither the exception nor its traceback may keep the population that did not fit."""
    failed: list[weakref.ref[Population]] = []

    def make_watched(indices: Sequence[int], states: Any) -> Population:
        assert all(population() is None for population in failed if len(indices) < MODELS)
        population = make_full(indices, states)
        if len(indices) > Full.most:
            failed.append(weakref.ref(population))
        return population

    gc.disable()  # a cycle would hold the memory until some collection
    try:
        pack = Pack(make_watched, MODELS, None, MODELS)
        losses(pack, 2)
    finally:
        gc.enable()
    assert len(failed) == 2  # 5 models, then 3 of them
    assert len(pack._groups) == 3


def test_a_calibration_with_real_models_leaves_their_numbers_alone() -> None:
    steps: list[None] = []
    size = find_group_size(make, 4, "cpu", 1000, lambda: steps.append(None))
    assert 1 <= size <= 4
    assert len(steps) >= 2
    assert losses(Pack(make, 4, None, size), 1)[0] == pytest.approx(
        losses(Pack(make, 4, None, 4), 1)[0], rel=1e-4
    )


def test_after_an_attempt_that_died_half_as_many_train_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def find(_make: Any, most: int, _device: str, model_bytes: int, _on_step: Any) -> int:
        asked.append(model_bytes)
        return most

    monkeypatch.setattr("worker.training.train.find_group_size", find)
    described = dataclasses.asdict(ARCHITECTURE)
    work: Any = SimpleNamespace(
        dataset=SimpleNamespace(id="dat_1", report=None, trials=20, neurons=5, bins=10),
        models=[SimpleNamespace(architecture=described)] * MODELS,
        architecture=lambda: ARCHITECTURE,
        specification=SimpleNamespace(training=SimpleNamespace(batch_size=8)),
        split=lambda: np.array(["train"] * 16 + ["valid"] * 4),
        piece=SimpleNamespace(attempts=0),
    )
    process: Any = SimpleNamespace(group_sizes={}, device="cpu")
    progress: Any = SimpleNamespace(beat=nothing)
    found = []
    for attempts in (0, 1, 2, 3):
        work.piece.attempts = attempts
        found.append(_group_size(process, work, make, progress))
    assert asked == [step_bytes(described, 5, 10, 8)]  # calibrated once
    assert found == [5, 2, 1, 1]


def test_a_released_model_leaves_with_its_state_and_the_others_go_on() -> None:
    for size in (1, 3):
        pack, whole = Pack(make, 3, None, size), Pack(make, 3, None, 3)
        pack.train_epoch(nothing)
        pack.release([1])
        assert pack.alive == [0, 2]
        assert sorted(pack.train_epoch(nothing)) == [0, 2]
        whole.train_epoch(nothing)
        at_leaving = whole.state(1)
        whole.train_epoch(nothing)
        torch.testing.assert_close(pack.state(1), at_leaving, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(pack.state(2), whole.state(2), rtol=1e-4, atol=1e-6)
        pack.release([0, 2])
        assert (pack.alive, pack.epoch) == ([], 2)
