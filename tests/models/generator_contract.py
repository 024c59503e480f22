"""What every kind of generator must do: a class of tests that each kind's test class inherits."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from domain.cost import multiply_accumulates
from domain.generators import GeneratorSizes, generator_shapes
from domain.parameter_shapes import parameter_shapes
from models import (
    Architecture,
    Hyperparameters,
    Population,
    Session,
    TrainingData,
    TrainingOptions,
    infer_latents,
)
from models.generators import Controller, Generator, generator_of
from models.program import PosteriorMeans, onnx_program, torch_program

M, T, B, G, U, C, F = 2, 4, 3, 5, 2, 3, 2
HIDDEN, RANK = 6, 2
BINS, NEURONS, TRIALS = 9, 4, 12
CONTROLLER: dict[str, Any] = {"controller_units": 5, "controller_encoder_units": 4, "inferred_inputs": 2}
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "external": {"external_inputs": 2},
    "controller": CONTROLLER,
    "controller and external": CONTROLLER | {"external_inputs": 2},
    "window": CONTROLLER | {"initial_condition_bins": 2, "encoded_bins": 6},
}
FORM = pytest.mark.parametrize("form", FORMS)
RUN_ALONE = """
import io, sys
import numpy as np, torch
program = torch.export.load(sys.argv[1]).module()
given = np.load(sys.argv[2])
found = program(*(torch.from_numpy(given[name]) for name in ("spikes", "external_inputs")))
np.savez(sys.argv[3], **{name: values.numpy() for name, values in found.items()})
assert not [name for name in sys.modules if name.split(".")[0] in ("models", "domain", "worker", "api", "store")]
"""


class GeneratorContract:
    """Inherit it, and name the kind."""

    kind: str

    @property
    def generator(self) -> Generator:
        """The kind under test."""
        return generator_of(self.kind)

    def shapes(self, units: int, inputs: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the parameters of a small generator."""
        return generator_shapes(self.kind, GeneratorSizes(units, inputs, HIDDEN, RANK))

    def parameters(
        self, inputs: int, units: int = G, dtype: torch.dtype = torch.float64
    ) -> dict[str, Tensor]:
        """Draw parameters of M models, all of them away from 0."""
        random = torch.Generator().manual_seed(0)
        found = {}
        for name, shape in self.shapes(units, inputs).items():
            models = [self.generator.initial_value(name, shape, random) for _ in range(M)]
            moved = torch.stack(models) + 0.2 * torch.randn(M, *shape, generator=random)
            found[name] = moved.to(dtype).requires_grad_()
        return found

    def architecture(self, form: str, **changes: Any) -> Architecture:
        """Return a small network with this generator."""
        sizes = {"encoder_units": 6, "initial_condition_dim": 3, "generator_units": 7, "factors": 3}
        sizes |= {"node_hidden_units": HIDDEN, "generator_rank": RANK}
        return Architecture(neurons=NEURONS, generator=self.kind, **(sizes | FORMS[form] | changes))

    def population(
        self, form: str, members: tuple[int, ...] = (0, 1), states: list[dict[str, Tensor]] | None = None
    ) -> Population:
        """Return a pack on trials of several lengths."""
        architecture, recording = self.architecture(form), session(FORMS[form].get("external_inputs", 0))
        hyperparameters = [Hyperparameters(cd_rate=0.3), Hyperparameters(cd_rate=0.5, learning_rate=1e-3)]
        return Population(
            architecture,
            [hyperparameters[member] for member in members],
            [11 + member for member in members],
            TrainingData(recording, sv_rate=0.2, sv_seed=0),
            TrainingOptions(batch_size=5, ramp_epochs=2, window_epochs=2, window_start_bins=4),
            order_seed=3,
            states=states,
        )

    @pytest.mark.parametrize("inputs", [0, 2])
    def test_a_step_gives_states_and_costs_what_its_shapes_say(self, inputs: int) -> None:
        parameters = self.parameters(inputs)
        start, v = draw(M, B, G), draw(M, B, inputs)
        with FlopCounterMode(display=False) as counted:
            state = self.generator.step(parameters)(start, v)
        assert state.shape == (M, B, G)
        per_bin = multiply_accumulates(self.shapes(G, inputs))
        assert counted.get_total_flops() == 2 * M * B * per_bin

    def test_the_guide_describes_it(self) -> None:
        guide = Path(__file__).parents[2] / "docs" / "searches.md"
        assert f"\n| `{self.kind}` | " in guide.read_text()

    @pytest.mark.parametrize("inputs", [0, 2])
    def test_a_run_repeats_the_step(self, inputs: int) -> None:
        parameters, start, v = self.parameters(inputs), draw(M, B, G), draw(M, T, B, inputs)
        g, expected = start, []
        for t in range(T):
            g = self.generator.step(parameters)(g, v[:, t])
            expected.append(g)
        torch.testing.assert_close(self.generator.run(parameters, start, v), torch.stack(expected, dim=1))

    @pytest.mark.parametrize("inputs", [0, 2])
    def test_gradient_is_that_of_finite_differences(self, inputs: int) -> None:
        parameters = self.parameters(inputs)
        given = [draw(M, B, G).requires_grad_(), draw(M, T, B, inputs).requires_grad_()]

        def run(start: Tensor, v: Tensor, *values: Tensor) -> Tensor:
            return self.generator.run(dict(zip(parameters, values, strict=True)), start, v)

        assert torch.autograd.gradcheck(run, (*given, *parameters.values()))

    @pytest.mark.parametrize("external", [0, 1])
    def test_gradient_with_a_controller_is_that_of_finite_differences(self, external: int) -> None:
        parameters, controller = self.parameters(U + external), controller_of(torch.float64)
        start, known = draw(M, B, G).requires_grad_(), draw(M, T, B, external)

        def run(*values: Tensor) -> tuple[Tensor, ...]:
            own = dict(zip(parameters, values, strict=False))
            rest = values[len(own) :]
            return self.generator.run_with_controller(
                own, rest[0], known, controller._replace(**dict(zip(LEARNED, rest[1:], strict=True)))
            )

        learned = [getattr(controller, name) for name in LEARNED]
        assert torch.autograd.gradcheck(run, (*parameters.values(), start, *learned), fast_mode=True)

    @pytest.mark.usefixtures("one_thread")
    @pytest.mark.parametrize("external", [0, 1])
    @pytest.mark.parametrize("drops", [False, True])
    def test_fast_paths_are_the_plain_step(self, external: int, drops: bool) -> None:
        """In float32, where compiled kernels may be used."""
        parameters = self.parameters(U + external, dtype=torch.float32)
        controller = controller_of(torch.float32)
        if not drops:
            controller = controller._replace(dropout_mask=None, noise=None)
        start, known = draw(M, B, G).float(), draw(M, T, B, external).float()
        inputs = draw(M, T, B, U + external).float()

        def outcome(kind: Any) -> list[Tensor]:
            open_loop = kind.run(self.generator, parameters, start, inputs)
            closed = kind.run_with_controller(self.generator, parameters, start, known, controller)
            outputs = [open_loop, *closed]
            total = sum((one.square().sum() for one in outputs), start=torch.zeros(()))
            learned = [getattr(controller, name) for name in LEARNED]
            return [*outputs, *torch.autograd.grad(total, [*parameters.values(), *learned])]

        for fast, plain in zip(outcome(type(self.generator)), outcome(Generator), strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)

    @FORM
    def test_a_model_trains_alone_as_in_a_pack(self, form: str) -> None:
        pack, alone = self.population(form), self.population(form, (1,))
        before = alone.state(0)
        for _ in range(2):
            together, by_itself = pack.train_epoch(), alone.train_epoch()
        assert not any(scores.diverged for scores in together)
        assert together[1].sv_loss == pytest.approx(by_itself[0].sv_loss, rel=1e-4)
        for name, values in alone.state(0).items():
            torch.testing.assert_close(pack.state(1)[name], values, rtol=1e-3, atol=2e-5, msg=name)
        for name in parameter_shapes(pack.architecture):
            if not name.startswith("input_prior"):
                assert not torch.equal(alone.state(0)[f"weights.{name}"], before[f"weights.{name}"]), name

    def test_resuming_equals_not_stopping(self) -> None:
        whole, begun = (self.population("controller and external") for _ in range(2))
        whole.train_epoch()
        expected = whole.train_epoch()
        begun.train_epoch()
        resumed = self.population("controller and external", states=[begun.state(m) for m in range(2)])
        assert resumed.train_epoch() == expected
        for name, values in whole.state(0).items():
            assert torch.equal(resumed.state(0)[name], values), name

    @FORM
    def test_latents_end_with_the_trial_and_are_its_own(self, form: str) -> None:
        population, recording = self.population(form), session(FORMS[form].get("external_inputs", 0))
        state, first = population.state(0), population.architecture.initial_condition_bins
        latents = infer(population.architecture, state, recording)
        changed = np.where(inside(recording)[:, :, None], recording.spikes, 7)
        other = infer(population.architecture, state, dataclasses.replace(recording, spikes=changed))
        for name in ("rates", "factors", "generator_states", "inputs"):
            values = getattr(latents, name)
            if values is None:
                assert name == "inputs"
                assert "controller" not in form
                continue
            known = inside(recording) & (np.arange(BINS) >= first)
            np.testing.assert_array_equal(np.isfinite(values).all(2), known)
            np.testing.assert_array_equal(getattr(other, name), values)
        assert latents.generator_states.shape == (TRIALS, BINS, 7)

    def test_bins_that_are_only_predicted_are_not_read(self) -> None:
        architecture = self.architecture("window")
        recording = dataclasses.replace(session(0), trial_length_bins=np.full(TRIALS, BINS))
        state = Population(
            architecture,
            [Hyperparameters()],
            [1],
            TrainingData(recording, sv_rate=0.2, sv_seed=0),
            TrainingOptions(batch_size=5),
            order_seed=0,
        ).state(0)
        later, earlier = recording.spikes.copy(), recording.spikes.copy()
        later[:, 6:] += 3
        earlier[:, :6] += 3
        rates = infer(architecture, state, recording).rates
        assert np.isfinite(rates[:, 2:]).all()
        unchanged = infer(architecture, state, dataclasses.replace(recording, spikes=later)).rates
        np.testing.assert_array_equal(unchanged, rates)
        changed = infer(architecture, state, dataclasses.replace(recording, spikes=earlier)).rates
        assert not np.allclose(changed[:, 6:], rates[:, 6:])

    @pytest.mark.slow
    def test_an_exported_program_runs_without_this_code(self, tmp_path: Path) -> None:
        model = self.program("controller and external")
        (tmp_path / "model.pt2").write_bytes(torch_program(model, BINS))
        given = example(model)
        np.savez(tmp_path / "given.npz", **given)
        files = [str(tmp_path / name) for name in ("model.pt2", "given.npz", "found.npz")]
        subprocess.run(
            [sys.executable, "-I", "-c", RUN_ALONE, *files], check=True, cwd=tmp_path, capture_output=True
        )
        assert_same(dict(np.load(files[2])), model, given)

    @pytest.mark.slow
    def test_an_exported_program_runs_without_torch(self) -> None:
        model = self.program("controller")
        running = onnxruntime.InferenceSession(onnx_program(model, BINS))
        names, given = [output.name for output in running.get_outputs()], example(model)
        assert_same(dict(zip(names, running.run(None, given), strict=True)), model, given)

    def program(self, form: str) -> PosteriorMeans:
        """Return a model to export."""
        architecture, state = self.architecture(form), self.population(form).state(0)
        best = {name: state[f"best.{name}"] for name in parameter_shapes(architecture)}
        return PosteriorMeans(architecture, best, bin_width_s=0.02)


LEARNED = (
    "projection",
    "initial_state",
    "recurrent_weight",
    "candidate_bias",
    "factor_weight",
    "moment_weight",
    "moment_bias",
    "factor_directions",
)


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Draw standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def controller_of(dtype: torch.dtype) -> Controller:
    """Return a controller for M models and T bins, with dropout and noise."""
    shapes = (
        (M, T, B, 3 * C),
        (M, B, C),
        (M, C, 3 * C),
        (M, C),
        (M, F, 3 * C),
        (M, C, 2 * U),
        (M, 2 * U),
        (M, F, G),
    )
    learned = [0.5 * draw(*shape, seed=number) for number, shape in enumerate(shapes)]
    values = [value.to(dtype).requires_grad_() for value in learned]
    mask = (draw(M, T, B, G, seed=20) > -0.5).to(dtype) / 0.7
    return Controller(*values, dropout_mask=mask, noise=draw(M, T, B, U, seed=21).to(dtype))


def session(external: int) -> Session:
    """Return trials of several lengths."""
    random = np.random.default_rng(2)
    return Session(
        random.poisson(0.6, (TRIALS, BINS, NEURONS)),
        random.integers(3, BINS + 1, TRIALS),
        np.arange(TRIALS) % 4 == 3,
        external_inputs=random.normal(size=(TRIALS, BINS, external)) if external else None,
    )


def inside(recording: Session) -> Any:
    """Return which bins lie within their trial, [trials, T]."""
    return np.arange(BINS) < np.asarray(recording.trial_length_bins)[:, None]


def infer(architecture: Architecture, state: dict[str, Tensor], recording: Session) -> Any:
    """Return latents of all trials."""
    return infer_latents(
        architecture,
        state,
        recording.spikes,
        recording.trial_length_bins,
        external_inputs=recording.external_inputs,
        posterior_samples=3,
    )


def example(model: PosteriorMeans) -> dict[str, Any]:
    """Return inputs of a program, for other numbers of trials and bins than those it was exported with."""
    random, external = np.random.default_rng(3), model.architecture.external_inputs
    given = {"spikes": random.poisson(0.7, (5, BINS + 4, NEURONS)).astype(np.float32)}
    if external:
        given["external_inputs"] = random.normal(size=(5, BINS + 4, external)).astype(np.float32)
    return given


def assert_same(found: dict[str, Any], model: PosteriorMeans, given: dict[str, Any]) -> None:
    """Check a program's latents against the model's."""
    with torch.inference_mode():
        expected = model(*map(torch.from_numpy, given.values()))
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values.numpy(), rtol=2e-4, atol=2e-5, err_msg=name)
