"""Both scans of `models.scan` as operations that `torch.export` can follow; only forward.

Scan is one operation of the exported graph, whatever the number of bins: an exported program takes trials of any length. It is
slower than the other forms, and is used in no training.

Shapes as in `models.scan`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._higher_order_ops import scan

from models.scan import ControlledInputs


def run(x: Tensor, start: Tensor, weights: Sequence[Tensor], both_ways: bool) -> tuple[Tensor, Tensor]:
    """As `models.network.gru`, with no bin unseen."""
    input_weight, input_bias, weight, candidate_bias = weights
    read = torch.stack((x, x.flip(1)), dim=1).flatten(0, 1) if both_ways else x
    P, T, B, D = read.shape
    H = weight.shape[1]
    projection = input_bias[:, None, None].expand(P, T, B, -1)
    if D:
        flat = torch.baddbmm(input_bias[:, None], read.reshape(P, T * B, D), input_weight)
        projection = flat.view(P, T, B, -1)

    def step(carried: list[Tensor], given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        state = _next_state(carried[0], given[0], weight, candidate_bias, H)
        return [state], [state.clone()]

    [last], [states] = scan(step, [start], [projection.transpose(0, 1)])
    return states.transpose(0, 1), last


def run_controlled(*given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """As `models.scan.ControlledScan`, with neither dropout nor noise."""
    inputs = ControlledInputs(*given)  # type: ignore[arg-type]  # None only where it may be
    assert inputs.controller_projection is not None
    assert inputs.generator_projection is not None
    assert inputs.dropout_mask is None
    assert inputs.noise is None
    C, G = inputs.controller_weight.shape[1], inputs.generator_weight.shape[1]
    U, to_factors = inputs.input_weight.shape[1], inputs.directions.transpose(1, 2)
    factor_weight, input_weight = inputs.factor_weight, inputs.input_weight
    moment_weight, moment_bias = inputs.moment_weight, inputs.moment_bias[:, None]
    controller_weight, controller_bias = inputs.controller_weight, inputs.controller_bias
    generator_weight, generator_bias = inputs.generator_weight, inputs.generator_bias

    def step(carried: list[Tensor], given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        (c, g), (a_c, a_g) = carried, given
        a_c = torch.baddbmm(a_c, torch.bmm(g, to_factors), factor_weight)
        c = _next_state(c, a_c, controller_weight, controller_bias, C)
        moments = torch.baddbmm(moment_bias, c, moment_weight)
        a_g = torch.baddbmm(a_g, moments[..., :U], input_weight)
        g = _next_state(g, a_g, generator_weight, generator_bias, G)
        return [c, g], [g.clone(), moments.clone()]

    projections = [inputs.controller_projection.transpose(0, 1), inputs.generator_projection.transpose(0, 1)]
    starts = [inputs.controller_initial_state.clone(), inputs.generator_initial_state]
    _, [states, moments] = scan(step, starts, projections)
    moments = moments.transpose(0, 1)
    return states.transpose(0, 1), moments, moments[..., :U]


def _next_state(h: Tensor, projection: Tensor, weight: Tensor, candidate_bias: Tensor, units: int) -> Tensor:
    """A GRU's state after a bin; the equations are those of `models.network.gru`."""
    c = torch.bmm(h, weight)
    r = torch.sigmoid(projection[..., :units] + c[..., :units])
    z = torch.sigmoid(projection[..., units : 2 * units] + c[..., units : 2 * units])
    n = torch.tanh(projection[..., 2 * units :] + r * (c[..., 2 * units :] + candidate_bias[:, None]))
    return (1 - z) * n + z * h
