"""The experiments of `benchmarks/paper`, and `benchmarks.precision`, whole but of one epoch: their figures mean nothing then."""

import dataclasses
import functools
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
from latentry.sample import write_sample

from benchmarks.paper import harness, presets
from domain.presets import PresetName
from models import Session

EXPERIMENTS = {  # name: figures that its closing line of JSON must have
    "paper.overfitting": {
        "spearman_sv_r2", "spearman_validation_loss_r2_without_cd", "spearman_validation_loss_r2_with_cd", "models",
    },
    "paper.small_data": {"training_trials", "fixed_r2", "searched_r2", "models"},
    "paper.inputs": {"input_r2", "pulses_found", "rates_r2_with_controller", "rates_r2_without_controller"},
    "paper.stitching": {"alone_r2", "stitched_r2", "stitched_random_start_r2"},
    "paper.recordings": {"models"},
    "paper.known_rates": {"standard"},
    "paper.generators": {"lorenz_d3"},
    "precision": {"standard Lorenz", "models"},
}  # fmt: skip


def shortened(task: Any) -> Any:
    """A task of one epoch, few trials' latents from few draws."""
    if isinstance(task, harness.Task):
        return dataclasses.replace(task, epochs=1, posterior_samples=1)
    return dataclasses.replace(task, epochs=1)


def few_trials(load: Callable[..., Any]) -> Callable[..., Any]:
    """The same recording, or none, with every fourth of its trials."""

    def loaded(*arguments: Any) -> Any:
        return None if (recording := load(*arguments)) is None else every_fourth(recording)

    return loaded


def every_fourth(whole: Any) -> Any:
    """A data class whose arrays are by trial, whole or within others."""
    parts = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
    by_trial = {name: part[::4] for name, part in parts.items() if isinstance(part, np.ndarray)}
    within = {name: every_fourth(part) for name, part in parts.items() if isinstance(part, Session)}
    return dataclasses.replace(whole, **by_trial, **within)


def in_this_process(function: Callable[[Any], Any], tasks: Sequence[Any], processes: int) -> list[Any]:
    return [function(shortened(task)) for task in tasks]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_runs(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "paper.recordings" and not any(
        (harness.data_folder() / file).exists()
        for file in importlib.import_module("benchmarks.paper.recordings").FILES
    ):
        pytest.skip("the real recordings are not at hand")
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(harness, "map_processes", in_this_process)
    if name == "paper.known_rates":  # it trains by itself, and imports this by name
        monkeypatch.setattr(module, "map_processes", in_this_process)
        few = functools.partial(module.lorenz, conditions=10, trials_per_condition=10)
        monkeypatch.setattr(module, "lorenz", few)
        monkeypatch.setattr(module, "sparse", few_trials(module.sparse))
    if name == "paper.recordings":
        monkeypatch.setattr(module, "load", few_trials(module.load))
    picture = tmp_path / "figure.png"
    monkeypatch.setattr(
        sys, "argv", [name, "--quick", "--json", "--processes", "1", "--figure", str(picture)]
    )
    flags = {"flags": {"full_size": ""}} if name == "paper.small_data" else {}
    threads = torch.get_num_threads()
    try:
        harness.main(name, "", module.experiment, **flags)
    finally:
        torch.set_num_threads(threads)
    summary = json.loads(capsys.readouterr().out)
    assert EXPERIMENTS[name] | {"quick", "seed", "seconds"} <= set(summary)
    assert matplotlib.image.imread(picture).std() > 0


def test_without_the_recordings_their_experiment_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LATENTRY_DATA", str(tmp_path))
    module = importlib.import_module("benchmarks.paper.recordings")
    result = module.experiment(quick=True, processes=1, seed=0)
    assert "LATENTRY_DATA" in result.summary["skipped"]


def test_draws_do_not_depend_on_their_number() -> None:
    draw = importlib.import_module("benchmarks.paper.overfitting").draw
    assert harness.draw_models(5, draw, seed=1)[:2] == harness.draw_models(2, draw, seed=1)
    assert harness.draw_models(2, draw, seed=1) != harness.draw_models(2, draw, seed=2)


def test_packs_hold_every_model_once() -> None:
    cut = harness.packs(10, 4)
    assert [number for part in cut for number in range(10)[part]] == list(range(10))
    assert max(len(range(10)[part]) for part in cut) == 4


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper-2019", "autolfads"])
def test_presets_are_scored_on_trials_that_they_do_not_see(preset: PresetName, tmp_path: Path) -> None:
    path = tmp_path / "reaches.npz"
    write_sample(path)
    found = presets.run_preset((path, preset, 0, 5.0))
    assert (found["batch_size"], found["models"]) == (16, 4)  # of 72 training trials
    assert 0 < found["best_step"] <= found["steps"]
    assert -1 < found["bits_per_spike"] < 1
    smoothing = presets.run_smoothing((path, 0))
    assert 0.3 < smoothing["velocity_r2"] < 1
    assert len(presets.table([found, smoothing])) == 3
