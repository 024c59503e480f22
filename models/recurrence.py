"""Loops over bins, and the gated recurrent unit (GRU) of encoders, controller and the generator `gru`.

Shapes: M models, P units side by side (models, or models × directions), B trials, T bins, D inputs, H units of a GRU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._higher_order_ops import scan

from models.scan import Scan

GRU_PARAMETERS = ("input_weight", "input_bias", "recurrent_weight", "candidate_bias")

BinStep = Callable[[list[Tensor], list[Tensor]], tuple[list[Tensor], list[Tensor]]]
"""(carried tensors, values of one bin) → (carried tensors, outputs of the bin)."""


def loop_over_bins(
    step: BinStep, carried: list[Tensor], by_bin: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Run a step bin by bin; autograd follows it.

    While a model is exported the loop is one operation of the graph, whatever the number of bins: the exported program takes
    trials of any length.

    Parameters
    ----------
    step
        One bin.
    carried
        Tensors before the first bin.
    by_bin
        [M, T, …] each; the step gets [M, …] of each.

    Returns
    -------
    tuple[list[Tensor], list[Tensor]]
        What is carried after the last bin, and each output of all bins, [M, T, …].
    """
    if torch.compiler.is_exporting():

        def step_without_aliases(
            carried: list[Tensor], given: list[Tensor]
        ) -> tuple[list[Tensor], list[Tensor]]:
            carried, outputs = step(carried, given)
            return carried, [output.clone() for output in outputs]

        first = [values.clone() for values in carried]
        carried, outputs = scan(step_without_aliases, first, [values.transpose(0, 1) for values in by_bin])
        return carried, [output.transpose(0, 1) for output in outputs]
    collected = []
    for given in zip(*(values.unbind(1) for values in by_bin), strict=True):
        carried, outputs = step(carried, list(given))
        collected.append(outputs)
    return carried, [torch.stack(output, dim=1) for output in zip(*collected, strict=True)]


def gru_step(h: Tensor, a: Tensor, weight: Tensor, candidate_bias: Tensor) -> Tensor:
    """Return a GRU's state after a bin, [P, B, H].

    With a = W x + b and c = U h, each in three parts (r, z, n):
    r = σ(a_r + c_r), z = σ(a_z + c_z), n = tanh(a_n + r · (c_n + b_c)), h ← (1 - z) · n + z · h.

    Parameters
    ----------
    h
        The state before the bin, [P, B, H].
    a
        The projected input, [P, B, 3H].
    weight, candidate_bias
        U [P, H, 3H] and b_c [P, H].
    """
    a_r, a_z, a_n = a.chunk(3, dim=-1)
    c_r, c_z, c_n = torch.bmm(h, weight).chunk(3, dim=-1)
    r, z = torch.sigmoid(a_r + c_r), torch.sigmoid(a_z + c_z)
    n = torch.tanh(a_n + r * (c_n + candidate_bias[:, None]))
    return (1 - z) * n + z * h


def gru(
    x: Tensor, start: Tensor, weights: Sequence[Tensor], unseen: Tensor | None, *, both_ways: bool = False
) -> tuple[Tensor, Tensor]:
    """Run P GRUs over T bins: one for each model, or two that read its bins in either direction.

    Parameters
    ----------
    x
        [M, T, B, D].
    start
        [P, B, H], state before the first bin.
    weights
        W [P, D, 3H], b [P, 3H], U [P, H, 3H], b_c [P, H], see `gru_step`.
    unseen
        bool [T, B], true where the state is to be carried unchanged; or None. Not used in an exported program.
    both_ways
        Every second unit reads from the last bin to the first.

    Returns
    -------
    tuple[Tensor, Tensor]
        [P, T, B, H], the state after each bin in the order of reading, and [P, B, H], the last of them.
    """
    if not torch.compiler.is_exporting():
        states, last = Scan.apply(x, start, *weights, unseen, both_ways)  # type: ignore[no-untyped-call]  # torch has no types here
        return states, last
    assert unseen is None
    input_weight, input_bias, weight, candidate_bias = weights
    read = torch.stack((x, x.flip(1)), dim=1).flatten(0, 1) if both_ways else x

    def step(carried: list[Tensor], given: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        h = gru_step(carried[0], given[0], weight, candidate_bias)
        return [h], [h]

    projected = product(read, input_weight) + input_bias[:, None, None]
    [last], [states] = loop_over_bins(step, [start], [projected])
    return states, last


def product(values: Tensor, weight: Tensor) -> Tensor:
    """Multiply [M, T, B, D] by [M, D, H]."""
    M, T, B, D = values.shape
    return torch.bmm(values.reshape(M, T * B, D), weight).view(M, T, B, weight.shape[-1])


def random_weight(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Draw a weight [..., inputs, outputs]: normal with variance 1 / inputs."""
    return torch.randn(shape, generator=random) / math.sqrt(shape[-2])


def gru_initial_value(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Return the first value of one of a GRU's parameters. Update gates begin at σ(1): states are remembered for some bins."""
    if name.endswith("weight"):
        return random_weight(shape, random)
    values = torch.zeros(shape)
    if name == "input_bias":
        units = shape[-1] // 3
        values[..., units : 2 * units] = 1.0
    return values
