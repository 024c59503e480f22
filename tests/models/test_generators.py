"""Generators: each kind keeps the contract."""

import torch

from domain.generators import RATE
from tests.models.generator_contract import G, GeneratorContract, M, draw


class TestGru(GeneratorContract):
    """The generator of LFADS."""

    kind = "gru"

    def test_an_exported_program_runs_without_torch(
        self,
    ) -> None:  # of one kind in every run: it takes seconds
        super().test_an_exported_program_runs_without_torch()


class TestNode(GeneratorContract):
    """The discrete neural ODE."""

    kind = "node"

    def test_a_state_moves_at_a_bounded_speed(self) -> None:
        parameters = self.parameters(0)
        far = torch.full((M, 1, G), 1e6, dtype=torch.float64)
        moved = self.generator.step(parameters)(far, far[..., :0]) - far
        weight, bias = parameters["recurrent_output_weight"], parameters["output_bias"]
        assert (moved[:, 0].abs() <= RATE * (weight.abs().sum(1) + bias.abs()) + 1e-9).all()


class TestLowRank(GeneratorContract):
    """The network of low rank."""

    kind = "low_rank"

    def test_states_decay_to_the_span_of_u(self) -> None:
        parameters = {name: value.detach() for name, value in self.parameters(0).items()}
        bins = 200
        nothing = torch.zeros(M, bins, 3, 0, dtype=torch.float64)
        last = (
            self.generator.run(parameters, draw(M, 3, G), nothing)[:, -1] - parameters["input_bias"][:, None]
        )
        directions = torch.linalg.qr(parameters["recurrent_write_weight"].mT).Q
        outside = last - last @ directions @ directions.mT
        assert outside.abs().max() < 1e-6


class TestLinear(GeneratorContract):
    """The linear baseline."""

    kind = "linear"

    def test_it_is_linear_with_a_spectral_radius_below_1(self) -> None:
        for units in (1, 4, G):
            parameters = self.parameters(0, units)
            step, nothing = self.generator.step(parameters), torch.zeros(M, units, 0, dtype=torch.float64)
            basis = torch.eye(units, dtype=torch.float64).expand(M, -1, -1)
            matrix = step(basis, nothing) - parameters["input_bias"][:, None]
            assert (torch.linalg.eigvals(matrix).abs() < 1).all()
            torch.testing.assert_close(
                step(-3 * basis, nothing), parameters["input_bias"][:, None] - 3 * matrix
            )
