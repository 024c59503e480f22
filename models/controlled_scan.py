"""The recurrence of controller and generator over bins, with its gradient written out; see `models.scan`.

Shapes: P models, T bins, B trials, C controller units, U inferred inputs, G generator units, F factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models import compiled, kernels
from models.compiled import scans
from models.config import VARIANCE_FLOOR
from models.kernels import Kernels
from models.kernels import scans as kernel_scans
from models.scan import Operand, Steps, StepsBack, gate_gradients, identity, rounded, summed_products


class ControlledInputs(NamedTuple):
    """Everything that a controlled scan reads. The projections are not kept for the gradient, which does not need them."""

    controller_projection: Tensor | None  # [P, T, B, 3C]
    controller_initial_state: Tensor  # [P, B, C]
    controller_weight: Tensor  # recurrent, [P, C, 3C]
    controller_bias: Tensor  # of the candidate, [P, C]
    factor_weight: Tensor  # W_cf [P, F, 3C]
    moment_weight: Tensor  # W_u [P, C, 2U]
    moment_bias: Tensor  # [P, 2U]
    generator_projection: Tensor | None  # [P, T, B, 3G]
    generator_initial_state: Tensor  # [P, B, G]
    generator_weight: Tensor  # [P, G, 3G]
    generator_bias: Tensor  # [P, G]
    input_weight: Tensor  # W_gu [P, U, 3G]
    directions: Tensor  # W_f [P, F, G]
    dropout_mask: Tensor | None  # dropout's mask over its rate, [P, T, B, G]
    noise: Tensor | None  # [P, T, B, U]; None: u is the mean


class ControlledRun(NamedTuple):
    """What a controlled scan keeps: of each GRU what `Steps` keeps, the factors before each bin, the moments of u, and u."""

    controller_gates: Tensor
    controller_candidates: Tensor
    controller_states: Tensor
    generator_gates: Tensor
    generator_candidates: Tensor
    generator_states: Tensor
    factors: Tensor
    moments: Tensor
    inputs: Tensor


class ControlledScan(torch.autograd.Function):
    """Controller and generator over T bins: the controller reads the factors, the generator its inferred inputs.

    For each bin t, with f_(t-1) = W_f (g_(t-1) · survives_(t-1)) and, before the first bin, f = W_f g:
    c ← GRU(controller_projection_t + W_cf f_(t-1), c); mean, log-variance = W_u c + b_u;
    u_t = mean + √(e^(log-variance) + floor) · noise_t; g ← GRU(generator_projection_t + W_gu u_t, g).

    Inputs: `ControlledInputs`. Outputs: generator states [P, T, B, G], moments [P, T, B, 2U], inferred inputs [P, T, B, U].
    """

    @staticmethod
    def forward(ctx: Any, *given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102 (torch's own protocol)
        inputs = ControlledInputs(*given)  # type: ignore[arg-type]  # None only where it may be
        keep = any(ctx.needs_input_grad)
        ctx.library = compiled.usable([tensor for tensor in inputs if tensor is not None])
        ctx.operand = rounded if compiled.reads_bfloat16() else identity
        ctx.kernels = _kernels(inputs)
        run = (
            partial(_run_controlled, operand=ctx.operand, chosen=ctx.kernels)
            if ctx.library is None
            else partial(scans.run_controlled, ctx.library)
        )
        kept = ControlledRun(*run(inputs, keep=keep))
        if keep:
            ctx.save_for_backward(
                *inputs._replace(controller_projection=None, generator_projection=None), *kept
            )
        ctx.set_materialize_grads(False)
        return kept.generator_states[:, 1:], kept.moments, kept.inputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102 (torch's own protocol)
        saved = ctx.saved_tensors
        number = len(ControlledInputs._fields)
        inputs, kept = ControlledInputs(*saved[:number]), ControlledRun(*saved[number:])
        back = (
            partial(_run_controlled_back, operand=ctx.operand, chosen=ctx.kernels)
            if ctx.library is None
            else partial(scans.run_controlled_back, ctx.library)
        )
        return *back(inputs, kept, gradients), None, None


def _run_controlled(
    given: ControlledInputs, *, keep: bool, operand: Operand, chosen: Kernels | None = None
) -> ControlledRun:
    """Run a controlled scan, by kernels if some are chosen; return what its gradient needs."""
    if chosen is not None:
        return ControlledRun(*kernel_scans.run_controlled(chosen, given, keep=keep))
    assert given.controller_projection is not None
    assert given.generator_projection is not None
    P, T, B, _ = given.controller_projection.shape
    C, G, U = (
        given.controller_initial_state.shape[-1],
        given.generator_initial_state.shape[-1],
        given.input_weight.shape[1],
    )
    controller = Steps(
        given.controller_initial_state,
        given.controller_weight,
        given.controller_bias,
        T,
        keep=keep,
        operand=operand,
    )
    generator = Steps(
        given.generator_initial_state,
        given.generator_weight,
        given.generator_bias,
        T,
        keep=keep,
        operand=operand,
    )
    factors = given.controller_initial_state.new_empty(
        P, T, B, given.directions.shape[1]
    )  # those before each bin
    moments, inputs = factors.new_empty(P, T, B, 2 * U), factors.new_empty(P, T, B, U)
    to_factors, to_moments = operand(given.directions).transpose(1, 2), operand(given.moment_weight)
    bias = given.moment_bias[:, None]
    by_bin = [
        part.unbind(1)
        for part in (given.controller_projection, given.generator_projection, factors, moments, inputs)
    ]
    g = given.generator_initial_state
    for t, (a_c, a_g, f, moment, u) in enumerate(zip(*by_bin, strict=True)):
        torch.bmm(operand(g), to_factors, out=f)
        a = torch.baddbmm(a_c, f, given.factor_weight)
        c = controller.step(t, a[..., : 2 * C], a[..., 2 * C :])
        torch.baddbmm(bias, operand(c), to_moments, out=moment)
        u.copy_(moment[..., :U])
        if given.noise is not None:
            deviation = moment[..., U:].exp().add_(VARIANCE_FLOOR).sqrt_()
            u.addcmul_(deviation, given.noise[:, t])
        a = torch.baddbmm(a_g, u, given.input_weight)
        g = generator.step(t, a[..., : 2 * G], a[..., 2 * G :])
        if given.dropout_mask is not None:
            g = g * given.dropout_mask[:, t]
    return ControlledRun(
        controller.gates,
        controller.candidates,
        controller.states,
        generator.gates,
        generator.candidates,
        generator.states,
        factors,
        moments,
        inputs,
    )


class _GradientLoop(NamedTuple):
    """What the loop of the gradient leaves: the gradients at both GRUs' gates, see `gate_gradients`, at factors and starts."""

    controller_gates: Tensor
    controller_candidates: Tensor
    generator_gates: Tensor
    generator_candidates: Tensor
    factors: Tensor
    controller_start: Tensor
    generator_start: Tensor


def _run_controlled_back(
    given: ControlledInputs,
    kept: ControlledRun,
    gradients: Sequence[Tensor | None],
    *,
    operand: Operand,
    chosen: Kernels | None = None,
) -> tuple[Tensor, ...]:
    """Return gradients at all inputs except mask and noise, from those at states, moments and u (None: no gradient)."""
    d_states, d_moments_given, d_inputs = gradients
    d_moments = (
        torch.zeros_like(kept.moments)
        if d_moments_given is None
        else d_moments_given.clone(memory_format=torch.contiguous_format)
    )
    if chosen is not None:
        back = kernel_scans.run_controlled_back(chosen, given, kept, d_states, d_inputs, d_moments)
        loop = _GradientLoop(*back)
    else:
        loop = _loop_back(given, kept, d_states, d_inputs, d_moments, operand=operand)
    read = kept.generator_states[:, :-1]
    if given.dropout_mask is not None:
        read = torch.cat((read[:, :1], read[:, 1:] * given.dropout_mask[:, :-1]), dim=1)
    d_directions = summed_products(loop.factors, read)
    d_controller_projection, d_controller_weight, d_controller_bias = gate_gradients(
        kept.controller_states, loop.controller_gates, loop.controller_candidates, operand
    )
    d_generator_projection, d_generator_weight, d_generator_bias = gate_gradients(
        kept.generator_states, loop.generator_gates, loop.generator_candidates, operand
    )
    return (
        d_controller_projection,
        loop.controller_start,
        d_controller_weight,
        d_controller_bias,
        summed_products(kept.factors, d_controller_projection),
        summed_products(kept.controller_states[:, 1:], d_moments),
        d_moments.sum((1, 2)),
        d_generator_projection,
        loop.generator_start,
        d_generator_weight,
        d_generator_bias,
        summed_products(kept.inputs, d_generator_projection),
        d_directions,
    )


def _loop_back(
    given: ControlledInputs,
    kept: ControlledRun,
    d_states: Tensor | None,
    d_inputs: Tensor | None,
    d_moments: Tensor,
    *,
    operand: Operand,
) -> _GradientLoop:
    """Run the loop of the gradient; `d_moments` becomes the whole gradient at the moments, in place."""
    dropout_mask, noise, moments = given.dropout_mask, given.noise, kept.moments
    controller = StepsBack(*kept[:3], given.controller_weight, operand)
    generator = StepsBack(*kept[3:6], given.generator_weight, operand)
    T, U = moments.shape[1], kept.inputs.shape[-1]
    if noise is not None:  # d u / d log-variance = noise · e^(log-variance) / (2 · deviation)
        variance = moments[..., U:].exp()
        by_log_variance = noise * variance / (2 * (variance + VARIANCE_FLOOR).sqrt())
    d_factors = torch.empty_like(kept.factors)
    d_c = torch.zeros_like(kept.controller_states[:, 0])
    d_g = torch.zeros_like(kept.generator_states[:, 0])
    from_moments, directions = operand(given.moment_weight).transpose(1, 2), operand(given.directions)
    for t in reversed(range(T)):
        if d_states is not None:
            d_g += d_states[:, t]
        generator.step(t, d_g)
        d_u = generator.through_projection(t, given.input_weight)
        if d_inputs is not None:
            d_u += d_inputs[:, t]
        d_moments[:, t, :, :U] += d_u
        if noise is not None:
            d_moments[:, t, :, U:].addcmul_(d_u, by_log_variance[:, t])
        d_c.baddbmm_(operand(d_moments[:, t]), from_moments)
        controller.step(t, d_c)
        d_f = controller.through_projection(t, given.factor_weight)
        d_factors[:, t] = d_f
        d_read = torch.bmm(operand(d_f), directions)
        if dropout_mask is not None and t > 0:
            d_read *= dropout_mask[:, t - 1]
        d_g += d_read
    return _GradientLoop(*controller.gradients, *generator.gradients, d_factors, d_c, d_g)


def _kernels(given: ControlledInputs) -> Kernels | None:
    """Return the kernels for a controlled scan, or None. The form in tensors is what they are compared with."""
    _, B, C = given.controller_initial_state.shape
    G, U, F = given.generator_initial_state.shape[-1], given.input_weight.shape[1], given.directions.shape[1]
    bfloat16 = compiled.reads_bfloat16()

    def compare(chosen: Kernels) -> list[tuple[Tensor, Tensor]]:
        random = torch.Generator("cpu").manual_seed(0)

        def draw(*shape: int) -> Tensor:
            scale = 1 if len(shape) == 4 else shape[-2] ** -0.5
            return (scale * torch.randn(shape, generator=random)).to(given.directions.device)

        M, T, trials = 2, 3, min(B, chosen.rows + 1)
        small = ControlledInputs(
            draw(M, T, trials, 3 * C), draw(M, trials, C), draw(M, C, 3 * C), draw(M, C), draw(M, F, 3 * C),
            draw(M, C, 2 * U), draw(M, 2 * U), draw(M, T, trials, 3 * G), draw(M, trials, G), draw(M, G, 3 * G),
            draw(M, G), draw(M, U, 3 * G), draw(M, F, G),
            None if given.dropout_mask is None else draw(M, T, trials, G).abs(),
            None if given.noise is None else draw(M, T, trials, U),
        )  # fmt: skip
        arriving = [draw(M, T, trials, size) for size in (G, 2 * U, U)]
        operand = rounded if bfloat16 else identity
        found = []
        for kernels_or_none in (chosen, None):
            without = _run_controlled(small, keep=False, operand=operand, chosen=kernels_or_none)
            kept = _run_controlled(small, keep=True, operand=operand, chosen=kernels_or_none)
            back = _run_controlled_back(small, kept, arriving, operand=operand, chosen=kernels_or_none)
            found.append([without.generator_states, kept.controller_states, *kept[5:], *back])
        return list(zip(*found, strict=True))

    form = ("controlled", given.dropout_mask is not None, given.noise is not None)
    present = [given.generator_initial_state, *(tensor for tensor in given if tensor is not None)]
    return kernels.usable(present, (C, G, F, U), form, bfloat16=bfloat16, compare=compare)
