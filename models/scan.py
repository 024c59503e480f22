"""Recurrences over bins with their gradients written out: the inner loops of the network.

Autograd over an unrolled loop keeps every small product's operands and adds up the weights' gradients bin by bin. Here
the factors of the chain rule that do not depend on the incoming gradient are computed for all bins at once, and each
weight's gradient is one product after the loop. Tests hold both scans to the numerical gradient and to a plain
implementation.

Shapes: P units side by side (models, or models × directions), T bins, B trials, H units of a GRU; in the controlled
scan C controller units, U inferred inputs, G generator units, F factors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.config import VARIANCE_FLOOR


class _Steps:
    """A GRU going forward, bin by bin, keeping what its gradient needs.

    With a the drive (W x + b) and c = U h, each in three parts (r, z, n):
    r = σ(a_r + c_r), z = σ(a_z + c_z), n = tanh(a_n + r · (c_n + b_c)), h ← (1 - z) · n + z · h.
    """

    def __init__(
        self, start: Tensor, weight: Tensor, candidate_bias: Tensor, bins: int, *, keep: bool
    ) -> None:
        P, B, H = start.shape
        self._keep, self._weight, self._bias = keep, weight, candidate_bias[:, None]
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
        """Go through bin t; the state after it, [P, B, H]. Where `frozen` [P, B, 1], the state stays."""
        s = t if self._keep else 0
        torch.bmm(self.h[t], self._weight, out=self._gate[s])
        self._rz[s].add_(a_rz).sigmoid_()
        if frozen is not None:
            self._z[s].masked_fill_(frozen, 1.0)
        torch.addcmul(a_n, self._r[s], self._c_n[s].add_(self._bias), out=self._n[s]).tanh_()
        return torch.lerp(self._n[s], self.h[t], self._z[s], out=self.h[t + 1])


class _StepsBack:
    """The gradient of `_Steps`, going back bin by bin."""

    def __init__(self, gates: Tensor, candidates: Tensor, states: Tensor, weight: Tensor) -> None:
        self._states, self._H = states, candidates.shape[-1]
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
        self._weight_t = weight.transpose(1, 2)
        self._d_gate, self._d_rz = self._d_gates.unbind(1), self._d_gates[..., : 2 * self._H].unbind(1)
        self._d_r, self._d_z, self._d_c_n = d_r.unbind(1), d_z.unbind(1), d_c_n.unbind(1)
        self._d_n, self._r, self._z = d_n.unbind(1), r.unbind(1), z.unbind(1)

    def step(self, t: int, d_h: Tensor) -> None:
        """Turn the gradient at the state after bin t, in place, into that at the state before it."""
        self._d_n[t].mul_(d_h)
        self._d_r[t].mul_(self._d_n[t])
        self._d_z[t].mul_(d_h)
        torch.mul(self._d_n[t], self._r[t], out=self._d_c_n[t])
        d_h.mul_(self._z[t]).baddbmm_(self._d_gate[t], self._weight_t)

    def through_drive(self, t: int, weight: Tensor) -> Tensor:
        """Gradient [P, B, D] at an input of bin t that enters by weight [P, D, 3H]; call after `step`."""
        to_rz, to_n = weight[..., : 2 * self._H], weight[..., 2 * self._H :]
        from_rz = torch.bmm(self._d_rz[t], to_rz.transpose(1, 2))
        return from_rz.baddbmm_(self._d_n[t], to_n.transpose(1, 2))

    def finish(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients at drive [P, T, B, 3H], recurrent weight [P, H, 3H] and candidate bias [P, H]."""
        d_weight = summed_products(self._states[:, :-1], self._d_gates)
        d_candidate_bias = self._d_gates[..., 2 * self._H :].sum((1, 2))
        self._d_gates[..., 2 * self._H :] = self._d_n_all  # at a = W x + b: r · no longer in front
        return self._d_gates, d_weight, d_candidate_bias


def summed_products(inputs: Tensor, gradients: Tensor) -> Tensor:
    """Gradient at a weight: Σ over bins and trials of inputs [P, T, B, D] ⊗ gradients [P, T, B, H], [P, D, H]."""
    return torch.bmm(inputs.flatten(1, 2).transpose(1, 2), gradients.flatten(1, 2))


class Scan(torch.autograd.Function):
    """P GRUs over T bins.

    Inputs: drive [P, T, B, 3H], start [P, B, H], weight [P, H, 3H], candidate bias [P, H], frozen bool [P, T, B, 1] or
    None (true where the state is carried unchanged). Outputs: states after each bin [P, T, B, H], the last of them.
    """

    @staticmethod
    def forward(  # noqa: D102 - torch's own protocol, described above
        ctx: Any,
        drive: Tensor,
        start: Tensor,
        weight: Tensor,
        candidate_bias: Tensor,
        frozen: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        _, T, _, H3 = drive.shape
        cut = 2 * H3 // 3
        keep = any(ctx.needs_input_grad)
        steps = _Steps(start, weight, candidate_bias, T, keep=keep)
        a_rz, a_n = drive[..., :cut].unbind(1), drive[..., cut:].unbind(1)
        stays = [None] * T if frozen is None else frozen.unbind(1)
        for t in range(T):
            steps.step(t, a_rz[t], a_n[t], stays[t])
        if keep:
            ctx.save_for_backward(steps.gates, steps.candidates, steps.states, weight)
        ctx.set_materialize_grads(False)  # an encoder may use the last state only
        return steps.states[:, 1:], steps.states[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        d_states, d_last = gradients
        gates, candidates, states, weight = ctx.saved_tensors
        back = _StepsBack(gates, candidates, states, weight)
        d_h = torch.zeros_like(states[:, 0]) if d_last is None else d_last.clone()
        for t in reversed(range(candidates.shape[1])):
            if d_states is not None:
                d_h += d_states[:, t]
            back.step(t, d_h)
        d_drive, d_weight, d_candidate_bias = back.finish()
        return d_drive, d_h, d_weight, d_candidate_bias, None


class ControlledScan(torch.autograd.Function):
    """Controller and generator over T bins: the controller reads the factors, the generator its inferred inputs.

    For each bin t, with f_(t-1) = W_f (g_(t-1) · survives_(t-1)) and, before the first bin, f = W_f g:
    c ← GRU(controller_drive_t + W_cf f_(t-1), c); mean, log-variance = W_u c + b_u;
    u_t = mean + √(e^(log-variance) + floor) · noise_t; g ← GRU(generator_drive_t + W_gu u_t, g).

    Inputs: controller_drive [P, T, B, 3C], controller_start [P, B, C], its recurrent weight and candidate bias,
    factor_weight W_cf [P, F, 3C], moment_weight W_u [P, C, 2U], moment_bias [P, 2U], generator_drive [P, T, B, 3G],
    generator_start [P, B, G], its recurrent weight and candidate bias, input_weight W_gu [P, U, 3G], directions W_f
    [P, F, G], survives [P, T, B, G] (dropout's mask over its rate) or None, noise [P, T, B, U] or None (u is the mean).
    Outputs: generator states [P, T, B, G], moments [P, T, B, 2U], inferred inputs [P, T, B, U].
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        controller_drive: Tensor,
        controller_start: Tensor,
        controller_weight: Tensor,
        controller_bias: Tensor,
        factor_weight: Tensor,
        moment_weight: Tensor,
        moment_bias: Tensor,
        generator_drive: Tensor,
        generator_start: Tensor,
        generator_weight: Tensor,
        generator_bias: Tensor,
        input_weight: Tensor,
        directions: Tensor,
        survives: Tensor | None,
        noise: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        P, T, B, _ = controller_drive.shape
        C, G, U = controller_start.shape[-1], generator_start.shape[-1], input_weight.shape[1]
        keep = any(ctx.needs_input_grad)
        controller = _Steps(controller_start, controller_weight, controller_bias, T, keep=keep)
        generator = _Steps(generator_start, generator_weight, generator_bias, T, keep=keep)
        factors = controller_drive.new_empty(P, T, B, directions.shape[1])  # those before each bin
        moments = controller_drive.new_empty(P, T, B, 2 * U)
        inputs = controller_drive.new_empty(P, T, B, U)
        to_factors, bias = directions.transpose(1, 2), moment_bias[:, None]
        by_bin = [part.unbind(1) for part in (controller_drive, generator_drive, factors, moments, inputs)]
        g = generator_start
        for t, (a_c, a_g, f, moment, u) in enumerate(zip(*by_bin, strict=True)):
            torch.bmm(g, to_factors, out=f)
            a = torch.baddbmm(a_c, f, factor_weight)
            c = controller.step(t, a[..., : 2 * C], a[..., 2 * C :])
            torch.baddbmm(bias, c, moment_weight, out=moment)
            u.copy_(moment[..., :U])
            if noise is not None:
                deviation = moment[..., U:].exp().add_(VARIANCE_FLOOR).sqrt_()
                u.addcmul_(deviation, noise[:, t])
            a = torch.baddbmm(a_g, u, input_weight)
            g = generator.step(t, a[..., : 2 * G], a[..., 2 * G :])
            if survives is not None:
                g = g * survives[:, t]
        if keep:
            ctx.save_for_backward(
                controller.gates,
                controller.candidates,
                controller.states,
                controller_weight,
                generator.gates,
                generator.candidates,
                generator.states,
                generator_weight,
                factors,
                moments,
                inputs,
                factor_weight,
                moment_weight,
                input_weight,
                directions,
                survives,
                noise,
            )
        ctx.set_materialize_grads(False)
        return generator.states[:, 1:], moments, inputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: D102
        d_states, d_moments_given, d_inputs_given = gradients
        saved = ctx.saved_tensors
        factors, moments, inputs, factor_weight, moment_weight, input_weight, directions, survives, noise = (
            saved[8:]
        )
        controller, generator = _StepsBack(*saved[:4]), _StepsBack(*saved[4:8])
        c_states, g_states = saved[2], saved[6]
        T, U = moments.shape[1], inputs.shape[-1]
        d_moments = torch.zeros_like(moments) if d_moments_given is None else d_moments_given.clone()
        if noise is not None:  # d u / d log-variance = noise · e^(log-variance) / (2 · deviation)
            variance = moments[..., U:].exp()
            by_log_variance = noise * variance / (2 * (variance + VARIANCE_FLOOR).sqrt())
        d_factors = torch.empty_like(factors)
        d_c, d_g = torch.zeros_like(c_states[:, 0]), torch.zeros_like(g_states[:, 0])
        from_moments = moment_weight.transpose(1, 2)
        for t in reversed(range(T)):
            if d_states is not None:
                d_g += d_states[:, t]
            generator.step(t, d_g)
            d_u = generator.through_drive(t, input_weight)
            if d_inputs_given is not None:
                d_u += d_inputs_given[:, t]
            d_moments[:, t, :, :U] += d_u
            if noise is not None:
                d_moments[:, t, :, U:].addcmul_(d_u, by_log_variance[:, t])
            d_c.baddbmm_(d_moments[:, t], from_moments)
            controller.step(t, d_c)
            d_f = controller.through_drive(t, factor_weight)
            d_factors[:, t] = d_f
            d_read = torch.bmm(d_f, directions)
            if survives is not None and t > 0:
                d_read *= survives[:, t - 1]
            d_g += d_read
        read = g_states[:, :-1]
        if survives is not None:
            read = torch.cat((read[:, :1], read[:, 1:] * survives[:, :-1]), dim=1)
        d_directions = summed_products(d_factors, read)
        d_controller_drive, d_controller_weight, d_controller_bias = controller.finish()
        d_generator_drive, d_generator_weight, d_generator_bias = generator.finish()
        return (
            d_controller_drive,
            d_c,
            d_controller_weight,
            d_controller_bias,
            summed_products(factors, d_controller_drive),
            summed_products(c_states[:, 1:], d_moments),
            d_moments.sum((1, 2)),
            d_generator_drive,
            d_g,
            d_generator_weight,
            d_generator_bias,
            summed_products(inputs, d_generator_drive),
            d_directions,
            None,
            None,
        )
