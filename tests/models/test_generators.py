"""Generators: each kind keeps the contract."""

import torch

from tests.models.generator_contract import G, GeneratorContract, M


class TestGru(GeneratorContract):
    """The generator of LFADS."""

    kind = "gru"


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
