"""Linear dynamics, g_(t+1) = A g_t + B v_t + b: the baseline that shows whether nonlinear dynamics are needed.

The maps into and out of g are learned, so A may be block-diagonal: any A with distinct complex eigenvalues becomes so by a change
of basis. Each block rotates two units by θ per bin and shrinks them by ρ = e^(-1/τ), so the spectral radius stays below 1. Where
G is odd, the last unit has the eigenvalue ρ cos θ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.generators.base import Generator, Step

TIME_CONSTANT_AT_START = 20.0  # bins
MOST_ROTATION_AT_START = math.pi / 10  # radians per bin: periods of 20 bins and more


class Linear(Generator):
    """Damped rotations: units i and i + ⌊G / 2⌋ are a block."""

    def step(self, parameters: Mapping[str, Tensor]) -> Step:
        """Return one step, A g + (B v + b)."""
        input_weight, bias = parameters.get("input_weight"), parameters["input_bias"][:, None]
        G, angle = bias.shape[-1], parameters["angle"][:, None]
        shrinking = (-(-parameters["log_time_constant"][:, None]).exp()).exp()
        blocks = G // 2
        real, imaginary = shrinking * angle.cos(), (shrinking * angle.sin())[..., :blocks]
        own = torch.cat((real[..., :blocks], real), dim=-1)
        partner_s = torch.cat((-imaginary, imaginary, torch.zeros_like(real[..., blocks:])), dim=-1)

        def step(g: Tensor, v: Tensor) -> Tensor:
            known = bias if input_weight is None else torch.baddbmm(bias, v, input_weight)
            partner = torch.cat((g[..., blocks : 2 * blocks], g[..., :blocks], g[..., 2 * blocks :]), dim=-1)
            return known + own * g + partner_s * partner

        return step

    def initial_value(self, name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
        """Return the first value of a parameter: different rotations, which last for some bins; white inputs keep |g| about 1."""
        if name == "log_time_constant":
            return torch.full(shape, math.log(TIME_CONSTANT_AT_START))
        if name == "angle":
            return MOST_ROTATION_AT_START * torch.rand(shape, generator=random)
        value = super().initial_value(name, shape, random)
        return value * math.sqrt(-math.expm1(-2 / TIME_CONSTANT_AT_START))  # 1 - ρ²


GENERATOR = Linear()
