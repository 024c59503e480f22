"""The protocol of a generator, and its run over bins in plain tensors, with and without a controller.

Shapes: M models, B trials, T bins, G generator units, U inferred inputs, X external inputs, V = U + X inputs of a bin (inferred
inputs first), C controller units, F factors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from models.config import VARIANCE_FLOOR
from models.recurrence import gru_step, loop_over_bins, random_weight

Step = Callable[[Tensor, Tensor], Tensor]
"""(g_t [M, B, G], v_t [M, B, V]) → g_(t+1) [M, B, G]."""


class Controller(NamedTuple):
    """The controller of a run: a GRU that reads the factors and infers an input u_t to the generator in every bin.

    Parameters
    ----------
    projection
        Its input from codes and external inputs, with the bias, for all bins: [M, T, B, 3C].
    initial_state
        [M, B, C].
    recurrent_weight, candidate_bias
        Of the GRU, [M, C, 3C] and [M, C].
    factor_weight
        Its input weight for the factors, [M, F, 3C].
    moment_weight, moment_bias
        From its state to mean and log-variance of u_t, [M, C, 2U] and [M, 2U].
    factor_directions
        W_f, [M, F, G].
    dropout_mask
        Mask on the states that the factors read, divided by the share that is kept, [M, T, B, G]; None: no dropout.
    noise
        Standard normal [M, T, B, U] for the draws of u; None: u is the posterior mean.
    """

    projection: Tensor
    initial_state: Tensor
    recurrent_weight: Tensor
    candidate_bias: Tensor
    factor_weight: Tensor
    moment_weight: Tensor
    moment_bias: Tensor
    factor_directions: Tensor
    dropout_mask: Tensor | None
    noise: Tensor | None


class Generator(ABC):
    """One kind of recurrence. A member needs `step`; it may replace `run` and `run_with_controller` by faster code."""

    @abstractmethod
    def step(self, parameters: Mapping[str, Tensor]) -> Step:
        """Return the function of one bin, in plain tensors that autograd and `torch.export` can follow.

        Parameters
        ----------
        parameters
            By the names of `domain.generators.GENERATORS`, each [M, …]; `input_weight` is missing where V is 0.
        """

    def initial_value(self, name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Return the first value of a parameter of one model: random for weights, 0 for biases."""
        return random_weight(shape, random) if name.endswith("weight") else torch.zeros(shape)

    def run(self, parameters: Mapping[str, Tensor], start: Tensor, inputs: Tensor) -> Tensor:
        """Run without a controller.

        Parameters
        ----------
        parameters
            As in `step`.
        start
            The state before the first bin, [M, B, G].
        inputs
            Known inputs [M, T, B, X]; X may be 0.

        Returns
        -------
        Tensor
            The state after each bin, [M, T, B, G].
        """
        step = self.step(parameters)

        def bin_step(carried: list[Tensor], given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            g = step(carried[0], given[0])
            return [g], [g]

        _, [states] = loop_over_bins(bin_step, [start], [inputs])
        return states

    def run_with_controller(
        self, parameters: Mapping[str, Tensor], start: Tensor, external: Tensor, controller: Controller
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run generator and controller together.

        In each bin: f = W_f (g · dropout mask); c ← GRU([projection, f], c); mean and log-variance of u from c;
        u = mean + √variance · noise; g ← F(g, [u, external]). Before the first bin no state is dropped.

        Parameters
        ----------
        parameters, start
            As in `run`.
        external
            Known inputs [M, T, B, X]; X may be 0.
        controller
            The controller.

        Returns
        -------
        tuple[Tensor, Tensor, Tensor]
            The generator's states [M, T, B, G], moments of u [M, T, B, 2U], and u [M, T, B, U].
        """
        step, U = self.step(parameters), controller.moment_bias.shape[-1] // 2
        to_factors, moment_bias = (
            controller.factor_directions.transpose(1, 2),
            controller.moment_bias[:, None],
        )
        by_bin = {"projection": controller.projection, "external": external}
        if controller.dropout_mask is not None:
            undropped = torch.ones_like(controller.dropout_mask[:, :1])
            by_bin["mask_before"] = torch.cat((undropped, controller.dropout_mask[:, :-1]), dim=1)
        if controller.noise is not None:
            by_bin["noise"] = controller.noise

        def bin_step(carried: list[Tensor], given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
            (c, g), now = carried, dict(zip(by_bin, given, strict=True))
            f = torch.bmm(g * now["mask_before"] if "mask_before" in now else g, to_factors)
            a = torch.baddbmm(now["projection"], f, controller.factor_weight)
            c = gru_step(c, a, controller.recurrent_weight, controller.candidate_bias)
            moments = torch.baddbmm(moment_bias, c, controller.moment_weight)
            u = moments[..., :U]
            if "noise" in now:
                u = u + (moments[..., U:].exp() + VARIANCE_FLOOR).sqrt() * now["noise"]
            g = step(g, torch.cat((u, now["external"]), dim=-1))
            return [c, g], [g, moments, u]

        _, outputs = loop_over_bins(bin_step, [controller.initial_state, start], list(by_bin.values()))
        states, moments, inputs = outputs
        return states, moments, inputs
