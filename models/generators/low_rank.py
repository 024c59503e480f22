"""A network of low rank, g_(t+1) = g_t + α (-g_t + U V' tanh(g_t) + B v_t + b) (Mastrogiuseppe & Ostojic 2018).

U and V are [G, R]. Without inputs a state decays to the span of the R columns of U, around b: the dynamics can be read as a flow
in R dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from domain.generators import RATE
from models.generators.base import Generator, Step


class LowRank(Generator):
    """Units that decay, and drive each other by weights of rank R."""

    def step(self, parameters: Mapping[str, Tensor]) -> Step:
        """Return one step, (1 - α) g + α (U V' tanh(g) + B v + b)."""
        input_weight, bias = parameters.get("input_weight"), RATE * parameters["input_bias"][:, None]
        read_weight, write_weight = parameters["recurrent_read_weight"], parameters["recurrent_write_weight"]

        def step(g: Tensor, v: Tensor) -> Tensor:
            known = bias if input_weight is None else torch.baddbmm(bias, v, input_weight, alpha=RATE)
            overlaps = torch.bmm(torch.tanh(g), read_weight)  # V' tanh(g), [M, B, R]
            return torch.baddbmm((1 - RATE) * g + known, overlaps, write_weight, alpha=RATE)

        return step


GENERATOR = LowRank()
