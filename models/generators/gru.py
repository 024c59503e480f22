"""The generator of LFADS: a gated recurrent unit. Outside of exports it runs in scans, which compute their own gradient.

Since the next state lies between the last one and a candidate within ±1, |g| never exceeds max(|g0|, 1).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.controlled_scan import ControlledScan
from models.generators.base import Controller, Generator, Step
from models.recurrence import gru, gru_initial_value, gru_step, product


class Gru(Generator):
    """The state of a GRU that reads the inputs, see `models.recurrence.gru_step`."""

    def step(self, parameters: Mapping[str, Tensor]) -> Step:
        """Return one step of the GRU."""
        input_weight, bias = parameters.get("input_weight"), parameters["input_bias"][:, None]
        weight, candidate_bias = parameters["recurrent_weight"], parameters["candidate_bias"]

        def step(g: Tensor, v: Tensor) -> Tensor:
            a = bias if input_weight is None else torch.baddbmm(bias, v, input_weight)
            return gru_step(g, a, weight, candidate_bias)

        return step

    def initial_value(self, name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Return the first value of a parameter."""
        return gru_initial_value(name, shape, random)

    def run(self, parameters: Mapping[str, Tensor], start: Tensor, inputs: Tensor) -> Tensor:
        """Run without a controller: on CPUs in C, else in torch's operations."""
        if torch.compiler.is_exporting():
            return super().run(parameters, start, inputs)
        bias = parameters["input_bias"]
        input_weight = parameters.get("input_weight", bias.new_zeros(len(bias), 0, bias.shape[-1]))
        weights = (input_weight, bias, parameters["recurrent_weight"], parameters["candidate_bias"])
        return gru(inputs, start, weights, None)[0]

    def run_with_controller(
        self, parameters: Mapping[str, Tensor], start: Tensor, external: Tensor, controller: Controller
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run generator and controller in one scan: on CPUs in C, else in torch's operations."""
        if torch.compiler.is_exporting():
            return super().run_with_controller(parameters, start, external, controller)
        M, T, B, X = external.shape
        input_weight = parameters["input_weight"]
        U = input_weight.shape[1] - X
        projection = parameters["input_bias"][:, None, None].expand(M, T, B, -1)
        if X:
            projection = projection + product(external, input_weight[:, U:])
        states, moments, inputs = ControlledScan.apply(  # type: ignore[no-untyped-call]  # torch has no types here
            *controller[:7],
            projection,
            start,
            parameters["recurrent_weight"],
            parameters["candidate_bias"],
            input_weight[:, :U],
            *controller[7:],
        )
        return states, moments, inputs


GENERATOR = Gru()
