"""Everything to measure on a GPU, in parts that end within fifteen minutes: is it right, and is it fast.

``python -m benchmarks.device [--quick] [--json] [--parts NAME …] [--minutes 15]``; ``DEVICE=cpu`` runs the same parts on the CPU.

Each part prints one line of JSON with `part`, `ok` and its figures, and is written to ``device.json`` (``--output``) when it
ends, so that an interruption loses one part at most. A part that fails says why, and the next one begins. No part begins after
the time is over, and parts that measure stop when their share of it is used. Without ``--json`` a table follows.

| part | ok if |
|---|---|
| equality | losses, gradients, an epoch, its resumption and inference are those of the CPU |
| waits | a training step never waits for the device (on the CPU: it runs) |
| memory | a population too large is halved, and trains |
| kernels | the kernels give what torch's operations do, and give the same again (races) |
| throughput | all sizes were measured: model-epochs per second with kernels and without, peak memory |
| twenty | 20 models take at most twice the time of one |
"""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks import report
from benchmarks.throughput import CONTROLLER, SIZES
from models import (
    Architecture,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
)
from models.kernels import gpu_of, without_kernels
from models.network import PosteriorNoise
from models.objective import Noise, draw_noise
from worker.context.devices import (
    choose_device,
    free_cache,
    peak_bytes,
    start_measuring_memory,
    synchronize,
    use_device,
)
from worker.training.micro_batching import Pack

Line = dict[str, Any]
TOLERANCE = 1e-3  # relative, of losses after an epoch: sums in another order
_SMALL: dict[str, Any] = {"encoder_units": 8, "initial_condition_dim": 4, "generator_units": 8, "factors": 3}
_SMALL_CONTROLLER: dict[str, Any] = {
    "controller_units": 6,
    "controller_encoder_units": 6,
    "inferred_inputs": 2,
}


@dataclass(frozen=True)
class Run:
    """How to measure: on which device, small or not, and until when (`time.monotonic`)."""

    device: str
    quick: bool
    until: float

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.until - time.monotonic()

    def architecture(self, controller: bool, neurons: int) -> Architecture:
        """Return the sizes of every model."""
        sizes = _SMALL if self.quick else SIZES
        extra = (_SMALL_CONTROLLER if self.quick else CONTROLLER) if controller else {}
        return Architecture(neurons=neurons, **sizes, **extra)


def population(
    run: Run, models: int, *, controller: bool, batch: int = 16, trials: int = 40, bins: int = 20,
    device: str | None = None, states: Any = None, precision: Any = "float32",
) -> Population:  # fmt: skip
    """Make models on the device (or another one); a fifth of the trials are for validation."""
    spikes = np.random.default_rng(0).poisson(0.3, (trials, bins, 10))
    session = Session(spikes, np.full(trials, bins), np.arange(trials) % 5 == 0)
    return Population(
        run.architecture(controller, 10),
        [Hyperparameters(dropout=0.0, cd_rate=0.3)] * models,
        list(range(models)),
        TrainingData(session, sv_rate=0.2, sv_seed=0, device=device or run.device),
        TrainingOptions(batch_size=batch, precision=precision),
        order_seed=0,
        states=states,
    )


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the norm of the difference over that of what is expected."""
    expected = expected.detach().cpu().double()
    return float((found.detach().cpu().double() - expected).norm() / expected.norm().clamp(min=1e-30))


@contextlib.contextmanager
def noise_of_the_cpu() -> Iterator[None]:
    """Draw noise on the CPU within: generators of devices differ."""

    def draw(*arguments: Any, device: torch.device, **more: Any) -> Noise:
        drawn = draw_noise(*arguments, device=torch.device("cpu"), **more)
        start, inputs = drawn.posterior
        posterior = PosteriorNoise(start.to(device), None if inputs is None else inputs.to(device))
        return Noise(
            tuple(part.to(device) for part in drawn.coordinated), drawn.dropout.to(device), posterior
        )

    with mock.patch("models.population.draw_noise", draw):
        yield


def equality(run: Run) -> Line:
    """Compare losses, weights after an epoch, its resumption, and posterior means, on the device and on the CPU."""
    worst: dict[str, float] = {}
    for controller in (False, True):
        name = "controller" if controller else "plain"
        devices = (run.device, "cpu")
        here, there = (population(run, 2, controller=controller, device=device) for device in devices)
        with noise_of_the_cpu():
            steps = [one._train_step(next(one._training_batches()), 0, 1) for one in (here, there)]
            worst[f"{name}: loss"] = difference(steps[0][0], steps[1][0])
            worst[f"{name}: gradient norm"] = difference(steps[0][-1], steps[1][-1])
            here, there = (population(run, 2, controller=controller, device=device) for device in devices)
            losses = [
                torch.tensor([score.train_loss for score in one.train_epoch()]) for one in (here, there)
            ]
            worst[f"{name}: epoch"] = difference(*losses)
            states = [here.state(index) for index in range(2)]
            resumed = population(run, 2, controller=controller, states=states)
            scores = [torch.tensor([score.sv_loss for score in one.train_epoch()]) for one in (here, resumed)]
            worst[f"{name}: resumption"] = difference(*scores)
        spikes = np.random.default_rng(1).poisson(0.3, (9, 20, 10))
        latents = [
            infer_latents(here.architecture, states[0], spikes, np.full(9, 20), posterior_samples=2, device=device)
            for device in devices
        ]  # fmt: skip
        starts = [torch.from_numpy(one.initial_conditions) for one in latents]
        worst[f"{name}: inference"] = difference(*starts)
    return {"ok": max(worst.values()) < TOLERANCE, "relative_differences": worst}


def waits(run: Run) -> Line:
    """Train steps while torch raises an error at every wait for the device."""
    found = {}
    for controller in (False, True):
        one = population(run, 3, controller=controller)
        trials = next(one._training_batches())
        one._train_step(trials, 0, 2)  # what is made once, and the kernels' first check
        if run.device != "cpu":
            torch.cuda.set_sync_debug_mode("error")
        try:
            one._train_step(trials, 1, 2)
            found["controller" if controller else "plain"] = "none"
        except RuntimeError as error:
            found["controller" if controller else "plain"] = str(error).partition("\n")[0]
        finally:
            if run.device != "cpu":
                torch.cuda.set_sync_debug_mode("default")
    return {"ok": set(found.values()) == {"none"}, "waits": found, "enforced": run.device != "cpu"}


def memory(run: Run) -> Line:
    """Let the memory run out in the first step of a group of eight models: on a GPU by a limit, on a CPU by an error."""
    limit = None
    failed: list[bool] = []
    if run.device != "cpu":
        one = population(run, 1, controller=True, batch=256, trials=640, bins=100)
        used = start_measuring_memory(run.device)
        one.train_epoch()
        needed = peak_bytes(run.device) - used
        del one
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(run.device).total_memory
        limit = (torch.cuda.memory_allocated(run.device) + 5 * needed) / whole
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit), run.device)

    def on_step() -> None:
        if run.device == "cpu" and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("forced")

    def make(indices: Sequence[int], states: Any) -> Population:
        sizes: dict[str, Any] = {} if run.device == "cpu" else {"batch": 256, "trials": 640, "bins": 100}
        return population(run, len(indices), controller=True, states=states, **sizes)

    try:
        pack = Pack(make, 8, None, 8)
        scores = pack.train_epoch(on_step)
        groups = [len(group.indices) for group in pack._groups]
    finally:
        if run.device != "cpu":
            torch.cuda.set_per_process_memory_fraction(1.0, run.device)
    return {"ok": len(scores) == 8 and len(groups) > 1, "groups": groups, "limit_share": limit}


def _step(run: Run, controller: bool, precision: str) -> torch.Tensor:
    """Return losses and gradient norms of a step of three new models."""
    one = population(run, 3, controller=controller, batch=32, precision=precision)
    return torch.cat(one._train_step(next(one._training_batches()), 0, 1))


def kernels(run: Run) -> Line:
    """Compare a training step by kernels with one in torch's operations, and with ten repetitions of itself."""
    there = run.device != "cpu" and gpu_of(torch.device(run.device)) is not None
    differences, races = {}, 0
    for precision, controller in itertools.product(("float32", "bfloat16"), (False, True)):
        name = f"{precision}{', controller' if controller else ''}"

        first = _step(run, controller, precision)
        repeats = [_step(run, controller, precision) for _ in range(2 if run.quick else 10)]
        races += sum(not torch.equal(again, first) for again in repeats)
        with without_kernels():
            differences[name] = difference(first, _step(run, controller, precision))
    limits = [TOLERANCE if name.startswith("float32") else 2e-2 for name in differences]
    right = all(value < limit for value, limit in zip(differences.values(), limits, strict=True))
    return {"ok": right and not races, "kernels": there, "relative_differences": differences, "races": races}


def epoch_seconds(
    run: Run, models: int, batch: int, *, controller: bool, by_kernels: bool
) -> tuple[float, int]:
    """Return the seconds of an epoch after a first one, and the peak of the device's memory in bytes."""
    sizes: dict[str, Any] = {"trials": 40, "bins": 10} if run.quick else {"trials": 640, "bins": 100}
    with contextlib.nullcontext() if by_kernels else without_kernels():
        one = population(run, models, controller=controller, batch=batch, **sizes)
        used = start_measuring_memory(run.device)
        one.train_epoch()
        synchronize(run.device)
        started = time.perf_counter()
        one.train_epoch()
        synchronize(run.device)
    return time.perf_counter() - started, peak_bytes(run.device) - used


def throughput(run: Run) -> Line:
    """Measure model-epochs per second by number of models, trials of a batch, controller and kernels."""
    packs, batches = ((1, 2), (16,)) if run.quick else ((1, 4, 16, 64), (16, 64, 256))
    until, rows, missing = time.monotonic() + run.left() * 0.7, [], 0
    # The fast ones first: what the time does not suffice for are loops in torch's operations.
    for by_kernels, batch, controller, models in itertools.product(
        (True, False), batches[::-1], (False, True), packs
    ):
        if run.device == "cpu" and by_kernels:
            continue
        if time.monotonic() > until:
            missing += 1
            continue
        row: Line = {"M": models, "batch": batch, "controller": controller, "kernels": by_kernels}
        try:
            seconds, peak = epoch_seconds(run, models, batch, controller=controller, by_kernels=by_kernels)
        except torch.OutOfMemoryError:
            rows.append(row | {"model_epochs_per_s": None, "peak_bytes": None})
            free_cache(run.device)
            continue
        rows.append(row | {"model_epochs_per_s": round(models / seconds, 3), "peak_bytes": peak})
    return {"ok": not missing, "not_measured": missing, "rows": rows}


def twenty(run: Run) -> Line:
    """Compare the time of an epoch of 20 models with that of one."""
    found, ok = {}, True
    for controller in (False, True):
        batch = 16 if run.quick else 256
        one, many = (epoch_seconds(run, M, batch, controller=controller, by_kernels=True)[0] for M in (1, 20))
        found["controller" if controller else "plain"] = {"one_s": one, "twenty_s": many, "ratio": many / one}
        ok &= many <= 2 * one or run.device == "cpu"
    return {"ok": ok, **found}


PARTS: dict[str, Callable[[Run], Line]] = {
    part.__name__: part for part in (equality, waits, memory, kernels, twenty, throughput)
}


def measure(run: Run, names: Sequence[str], say: Callable[[Line], None]) -> list[Line]:
    """Run the parts; tell each line when its part ends."""
    lines: list[Line] = []
    for name in names:
        started = time.monotonic()
        if run.left() <= 0:
            found: Line = {"ok": False, "error": "the time was over before this part began"}
        else:
            try:
                found = PARTS[name](run)
            except Exception as error:  # the other parts may still tell something
                found = {"ok": False, "error": f"{type(error).__name__}: {error}".partition("\n")[0]}
                free_cache(run.device)
        lines.append({"part": name, "seconds": round(time.monotonic() - started, 1)} | found)
        say(lines[-1])
    return lines


def tables(lines: Sequence[Line]) -> str:
    """Return the tables for RESULTS."""
    parts = [["part", "ok", "seconds"], *([line["part"], line["ok"], line["seconds"]] for line in lines)]
    rows = [row for line in lines for row in line.get("rows", [])]
    text = report.markdown_table(parts)
    if rows:
        text += "\n\n" + report.markdown_table([list(rows[0]), *(list(row.values()) for row in rows)])
    return f"{text}\n\n{report.machine()}."


def main(arguments: Sequence[str] | None = None) -> list[Line]:
    """Measure all parts, or those that are asked for."""
    parser = report.parser(__doc__ or "", quick="small models, one size")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="these alone")
    parser.add_argument("--minutes", type=float, default=15.0, help="no part begins after this time")
    parser.add_argument("--output", type=Path, default=Path("device.json"), help="the file for all lines")
    given = parser.parse_args(arguments)
    device, _ = choose_device(os.environ.get("DEVICE", "auto"))
    use_device(device)
    run = Run(device, given.quick, time.monotonic() + 60 * given.minutes)
    told: list[Line] = []

    def say(line: Line) -> None:
        told.append(line)
        print(json.dumps(line), flush=True)
        given.output.write_text(
            json.dumps({"machine": report.machine(), "device": device, "parts": told}, indent=1)
        )

    lines = measure(run, given.parts, say)
    if not given.json:
        print(tables(lines))
    return lines


if __name__ == "__main__":
    main()
