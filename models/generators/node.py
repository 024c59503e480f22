"""A discrete neural ordinary differential equation, g_(t+1) = g_t + α MLP(g_t, v_t) (Sedler et al. 2023).

MLP(g, v) = U' tanh(W g + B v + b) + c, with one hidden layer. It finds the dynamics of few dimensions, 3 to 20, where a GRU of as
many units cannot. tanh bounds the speed of a state: no state explodes within a trial.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from domain.generators import RATE
from models.generators.base import Generator, Step


class Node(Generator):
    """A flow whose velocity is a network with one hidden layer."""

    def step(self, parameters: Mapping[str, Tensor]) -> Step:
        """Return one step, g + α (U' tanh(W g + B v + b) + c)."""
        input_weight, bias = parameters.get("input_weight"), parameters["hidden_bias"][:, None]
        weight, output_weight = parameters["recurrent_weight"], RATE * parameters["recurrent_output_weight"]
        output_bias = RATE * parameters["output_bias"][:, None]

        def step(g: Tensor, v: Tensor) -> Tensor:
            known = bias if input_weight is None else torch.baddbmm(bias, v, input_weight)
            hidden = torch.tanh(torch.baddbmm(known, g, weight))
            return torch.baddbmm(g + output_bias, hidden, output_weight)

        return step


GENERATOR = Node()
