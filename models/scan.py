"""Recurrences over bins with their gradients written out: the inner loops of the network.

Autograd over an unrolled loop keeps every small product's operands and adds up the weights' gradients bin by bin. Here
the factors of the chain rule that do not depend on the incoming gradient are computed for all bins at once, and each
weight's gradient is one product after the loop. Tests hold both scans to the numerical gradient and to a plain
implementation. `models.controlled_scan` has the scan of controller and generator.

Shapes: P units side by side (models, or models × directions), T bins, B trials, H units of a GRU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models import compiled, kernels
from models.compiled import scans
from models.kernels import Kernels
from models.kernels import scans as kernel_scans

Operand = Callable[[Tensor], Tensor]
"""What becomes of an operand of a product: `identity`, or `rounded`."""


def identity(values: Tensor) -> Tensor:
    """Return the values."""
    return values


def rounded(values: Tensor) -> Tensor:
    """Return the values rounded to bfloat16, in float32: sums are of float32."""
    return values.bfloat16().float()


class Steps:
    """Steps of GRUs as in `models.recurrence.gru_step`, which keep what the gradient needs."""

    def __init__(
        self,
        start: Tensor,
        weight: Tensor,
        candidate_bias: Tensor,
        bins: int,
        *,
        keep: bool,
        operand: Operand = identity,
    ) -> None:
        P, B, H = start.shape
        self._keep, self._operand, self._bias = keep, operand, candidate_bias[:, None]
        self._weight = operand(weight)
        # Per bin: r, z and c_n + b_c side by side, and the candidate n; without gradient, room for one bin.
        self.gates = start.new_empty(P, bins if keep else 1, B, 3 * H)
        self.candidates = start.new_empty(P, bins if keep else 1, B, H)
        self.states = start.new_empty(P, bins + 1, B, H)
        self.states[:, 0] = start
        # Slices are cut before the loop: on small tensors cutting costs as much as computing.
        self._gate, self._rz = self.gates.unbind(1), self.gates[..., : 2 * H].unbind(1)
        self._r, self._z = self.gates[..., :H].unbind(1), self.gates[..., H : 2 * H].unbind(1)
        self._c_n, self._n = self.gates[..., 2 * H :].unbind(1), self.candidates.unbind(1)
        self.h = self.states.unbind(1)  # h[t] is the state before bin t

    def step(self, t: int, a_rz: Tensor, a_n: Tensor, frozen: Tensor | None = None) -> Tensor:
        """Compute bin t; return the state after it, [P, B, H]. Where `frozen` [P, B, 1] is true, the state stays."""
        s = t if self._keep else 0
        torch.bmm(self._operand(self.h[t]), self._weight, out=self._gate[s])
        self._rz[s].add_(a_rz).sigmoid_()
        if frozen is not None:
            self._z[s].masked_fill_(frozen, 1.0)
        torch.addcmul(a_n, self._r[s], self._c_n[s].add_(self._bias), out=self._n[s]).tanh_()
        return torch.lerp(self._n[s], self.h[t], self._z[s], out=self.h[t + 1])


class StepsBack:
    """The gradient of `Steps`, bin by bin from the last one."""

    def __init__(
        self,
        gates: Tensor,
        candidates: Tensor,
        states: Tensor,
        weight: Tensor,
        operand: Operand = identity,
    ) -> None:
        self._states, self._H, self._operand = states, candidates.shape[-1], operand
        r, z, c_n = torch.split(gates, self._H, dim=-1)
        # Gradients at c = U h (parts r, z, n) and at the argument of n. Before the loop they hold the factors
        # that are known already, d (argument of n) / d (argument of r), d h_t / d (argument of z) and
        # d h_t / d (argument of n); going back in time the loop multiplies in the gradients that arrive.
        self._d_gates = torch.empty_like(gates)
        d_r, d_z, d_c_n = torch.split(self._d_gates, self._H, dim=-1)
        torch.mul(c_n, r, out=d_r).addcmul_(d_r, r, value=-1)  # c_n · r (1 - r)
        torch.sub(states[:, :-1], candidates, out=d_z)
        d_z.mul_(z).addcmul_(d_z, z, value=-1)  # (h - n) · z (1 - z)
        d_n = torch.addcmul(candidates.new_ones(()), candidates, candidates, value=-1)
        self._d_n_all = d_n.addcmul_(d_n, z, value=-1)  # (1 - n²) (1 - z)
        self._weight_t = operand(weight).transpose(1, 2)
        self._d_gate, self._d_rz = self._d_gates.unbind(1), self._d_gates[..., : 2 * self._H].unbind(1)
        self._d_r, self._d_z, self._d_c_n = d_r.unbind(1), d_z.unbind(1), d_c_n.unbind(1)
        self._d_n, self._r, self._z = d_n.unbind(1), r.unbind(1), z.unbind(1)

    def step(self, t: int, d_h: Tensor) -> None:
        """Turn the gradient at the state after bin t, in place, into that at the state before it."""
        self._d_n[t].mul_(d_h)
        self._d_r[t].mul_(self._d_n[t])
        self._d_z[t].mul_(d_h)
        torch.mul(self._d_n[t], self._r[t], out=self._d_c_n[t])
        d_h.mul_(self._z[t]).baddbmm_(self._operand(self._d_gate[t]), self._weight_t)

    def through_projection(self, t: int, weight: Tensor) -> Tensor:
        """Return the gradient [P, B, D] at an input of bin t with the weight [P, D, 3H]; call after `step`."""
        to_rz, to_n = weight[..., : 2 * self._H], weight[..., 2 * self._H :]
        from_rz = torch.bmm(self._d_rz[t], to_rz.transpose(1, 2))
        return from_rz.baddbmm_(self._d_n[t], to_n.transpose(1, 2))

    @property
    def gradients(self) -> tuple[Tensor, Tensor]:
        """Return what `gate_gradients` reads, after the loop: the gradients at c = U h and at the argument of n."""
        return self._d_gates, self._d_n_all

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `gate_gradients` does."""
        return gate_gradients(self._states, self._d_gates, self._d_n_all, self._operand)


def gate_gradients(
    states: Tensor, d_gates: Tensor, d_n: Tensor, operand: Operand
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients at projection [P, T, B, 3H], recurrent weight [P, H, 3H] and candidate bias [P, H], after the loop.

    Parameters
    ----------
    states
        [P, T + 1, B, H].
    d_gates
        At c = U h, [P, T, B, 3H]; it becomes the first of the results, in place.
    d_n
        At the argument of n, [P, T, B, H].
    operand
        What becomes of operands of products.
    """
    H = d_n.shape[-1]
    d_weight = summed_products(operand(states[:, :-1]), operand(d_gates))
    d_candidate_bias = d_gates[..., 2 * H :].sum((1, 2))
    d_gates[..., 2 * H :] = d_n  # at a = W x + b: r · no longer in front
    return d_gates, d_weight, d_candidate_bias


def summed_products(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Return the gradient at a weight: Σ over bins and trials of inputs [P, T, B, D] ⊗ gradients [P, T, B, H], [P, D, H]."""
    return torch.bmm(inputs.flatten(1, 2).transpose(1, 2), gradients.flatten(1, 2))


class Scan(torch.autograd.Function):
    """P GRUs over T bins: one for each of M models, or with `both_ways` two, of which the second reads time reversed.

    Inputs: x [M, T, B, D], start [P, B, H]; input weight [P, D, 3H] and bias [P, 3H]; recurrent weight [P, H, 3H],
    candidate bias [P, H]; unseen bool [T, B] or None (true where the state is carried unchanged), both_ways. Outputs, in
    the order in which each GRU reads: states after each bin [P, T, B, H], the last of them. On a CPU, with
    one thread of torch, the compiled library computes the same if it is available; on a GPU, one kernel runs the loop.
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's own protocol, described above
        ctx: Any,
        x: Tensor,
        start: Tensor,
        input_weight: Tensor,
        input_bias: Tensor,
        weight: Tensor,
        candidate_bias: Tensor,
        unseen: Tensor | None,
        both_ways: bool,
    ) -> tuple[Tensor, Tensor]:
        parameters = (input_weight, input_bias, weight, candidate_bias)
        keep = any(ctx.needs_input_grad)
        ctx.library = compiled.usable((x, start, *parameters))
        ctx.operand = rounded if compiled.reads_bfloat16() else identity
        ctx.kernels = _kernels(start, parameters, unseen, both_ways=both_ways)
        run = (
            partial(_run, operand=ctx.operand, chosen=ctx.kernels)
            if ctx.library is None
            else partial(scans.run, ctx.library)
        )
        gates, candidates, states = run(x, start, parameters, unseen, both_ways=both_ways, keep=keep)
        if keep:
            ctx.save_for_backward(x, *parameters, gates, candidates, states)
            ctx.both_ways = both_ways
        ctx.set_materialize_grads(False)  # an encoder may use the last state only
        return states[:, 1:], states[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102 (torch's own protocol)
        d_states, d_last = gradients
        x, *parameters, gates, candidates, states = ctx.saved_tensors
        d_h = (
            torch.zeros_like(states[:, 0])
            if d_last is None
            else d_last.clone(memory_format=torch.contiguous_format)
        )
        back = (
            partial(_run_back, operand=ctx.operand, chosen=ctx.kernels)
            if ctx.library is None
            else partial(scans.run_back, ctx.library)
        )
        d_x, d_parameters = back(
            x,
            parameters,
            (gates, candidates, states),
            d_h,
            d_states=d_states,
            both_ways=ctx.both_ways,
            wants_d_x=ctx.needs_input_grad[0],
        )
        return d_x, d_h, *d_parameters, None, None


def _run(
    x: Tensor,
    start: Tensor,
    parameters: Sequence[Tensor],
    unseen: Tensor | None,
    *,
    both_ways: bool,
    keep: bool,
    operand: Operand,
    chosen: Kernels | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run a scan, its loop by kernels if some are chosen; return gates, candidates and states as `Steps` keeps them."""
    input_weight, input_bias, weight, candidate_bias = parameters
    read = _in_order(x, both_ways)
    P, T, B, _ = read.shape
    flat = torch.baddbmm(input_bias[:, None], read.flatten(1, 2), input_weight)
    projection = flat.view(P, T, B, -1)
    if chosen is not None:
        return kernel_scans.run(
            chosen, projection, start, weight, candidate_bias, unseen, both_ways=both_ways, keep=keep
        )
    steps = Steps(start, weight, candidate_bias, T, keep=keep, operand=operand)
    cut = 2 * weight.shape[1]
    a_rz, a_n = projection[..., :cut].unbind(1), projection[..., cut:].unbind(1)
    stays: Sequence[Tensor | None] = [None] * T
    if unseen is not None:
        stays = _in_order(unseen.expand(len(x), T, B)[..., None], both_ways).unbind(1)
    for t in range(T):
        steps.step(t, a_rz[t], a_n[t], stays[t])
    return steps.gates, steps.candidates, steps.states


def _run_back(
    x: Tensor,
    parameters: Sequence[Tensor],
    kept: tuple[Tensor, Tensor, Tensor],
    d_h: Tensor,
    *,
    d_states: Tensor | None,
    both_ways: bool,
    wants_d_x: bool,
    operand: Operand,
    chosen: Kernels | None = None,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Return the gradients at x (if wanted) and at the parameters; `d_h` [P, B, H] becomes that at the start, in place."""
    input_weight, _, weight, _ = parameters
    if chosen is not None:
        d_gates, d_n = kernel_scans.run_back(chosen, kept, weight, d_states, d_h)
        d_projection, d_weight, d_candidate_bias = gate_gradients(kept[2], d_gates, d_n, operand)
    else:
        back = StepsBack(*kept, weight, operand)
        for t in reversed(range(kept[1].shape[1])):
            if d_states is not None:
                d_h += d_states[:, t]
            back.step(t, d_h)
        d_projection, d_weight, d_candidate_bias = back.finish()
    d_x = None
    if wants_d_x:
        flat = torch.bmm(d_projection.flatten(1, 2), input_weight.transpose(1, 2))
        d_x = _out_of_order(flat.view(*d_projection.shape[:3], -1), both_ways)
    d_input_weight = summed_products(_in_order(x, both_ways), d_projection)
    return d_x, (d_input_weight, d_projection.sum((1, 2)), d_weight, d_candidate_bias)


def _kernels(
    start: Tensor, parameters: Sequence[Tensor], unseen: Tensor | None, *, both_ways: bool
) -> Kernels | None:
    """Return the kernels for a scan, or None. The form in tensors is what they are compared with."""
    _, B, H = start.shape
    bfloat16 = compiled.reads_bfloat16()

    def compare(chosen: Kernels) -> list[tuple[Tensor, Tensor]]:
        random = torch.Generator("cpu").manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random).to(start.device)

        M, T, trials, D = 2, 3, min(B, chosen.rows + 1), 3
        units = (1 + both_ways) * M
        weights = (draw(units, D, 3 * H), draw(units, 3 * H), draw(units, H, 3 * H) / H**0.5, draw(units, H))
        given = (draw(M, T, trials, D), draw(units, trials, H), weights)
        stays = None if unseen is None else draw(T, trials) > 0
        d_states, d_h = draw(units, T, trials, H), draw(units, trials, H)
        operand = rounded if bfloat16 else identity
        found = []
        for kernels_or_none in (chosen, None):
            form: dict[str, Any] = {"both_ways": both_ways, "operand": operand, "chosen": kernels_or_none}
            _, _, without = _run(*given, stays, keep=False, **form)
            kept = _run(*given, stays, keep=True, **form)
            d_start = d_h.clone()
            d_x, d_weights = _run_back(
                given[0], weights, kept, d_start, d_states=d_states, wants_d_x=True, **form
            )
            assert d_x is not None
            found.append([without, kept[2], d_start, d_x, *d_weights])
        return list(zip(*found, strict=True))

    form = ("GRU", unseen is not None, both_ways)
    return kernels.usable((start, *parameters), (H,), form, bfloat16=bfloat16, compare=compare)


def _in_order(values: Tensor, both_ways: bool) -> Tensor:
    """Return [M, T, …] as each GRU reads it: unchanged, or [2M, T, …] with every second one reversed in time."""
    return torch.stack((values, values.flip(1)), dim=1).flatten(0, 1) if both_ways else values


def _out_of_order(gradients: Tensor, both_ways: bool) -> Tensor:
    """Return the gradient of `_in_order`."""
    if not both_ways:
        return gradients
    return gradients[0::2] + gradients[1::2].flip(1)
