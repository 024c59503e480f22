"""The LFADS network, controller off, for a pack of M models at once.

Shapes: M models, B trials, T bins, N neurons, E encoder units, I initial-condition dimensions, G generator
units, F factors. Every parameter has a leading axis M; one model is M = 1. Read top-down:
`encode` → `generate` → `read_out`, then the GRU they share.

Equations (Pandarinath et al. 2018): x → encoder GRUs → q(g0 | x) → generator GRU → factors f → rates r.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.config import Architecture

VARIANCE_FLOOR = 1e-4
PRIOR_VARIANCE_AT_START = 0.1
STATE_LIMIT = 5.0

Parameters = Mapping[str, Tensor]


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and variance, each [M, B, I] (posterior) or [M, 1, I] (prior)."""

    mean: Tensor
    variance: Tensor


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Map name to shape for one model; in a pack M stands in front. A GRU's 3: reset, update, candidate."""
    N, E, I = architecture.neurons, architecture.encoder_units, architecture.initial_condition_dim  # noqa: E741
    G, F = architecture.generator_units, architecture.factors
    return {
        "encoder.input_weight": (2, N, 3 * E),  # 2 directions: forward, backward in time
        "encoder.input_bias": (2, 3 * E),
        "encoder.recurrent_weight": (2, E, 3 * E),
        "encoder.candidate_bias": (2, E),
        "posterior.weight": (2 * E, 2 * I),  # → mean and log-variance, side by side
        "posterior.bias": (2 * I,),
        "prior.mean": (I,),
        "prior.log_variance": (I,),
        "generator.initial_weight": (I, G),
        "generator.initial_bias": (G,),
        "generator.input_bias": (3 * G,),
        "generator.recurrent_weight": (G, 3 * G),
        "generator.candidate_bias": (G,),
        "factors.weight": (F, G),
        "rates.weight": (F, N),
        "rates.bias": (N,),
    }


def initial_parameters(architecture: Architecture, mean_counts: Tensor, seed: int) -> dict[str, Tensor]:
    """Parameters of one model, from its seed alone.

    Weights are normal with variance 1 / inputs; biases are zero, but: rates start at each neuron's mean
    count, prior and posterior variances at 0.1, and the update gates at σ(1), so that states are remembered
    for some bins.

    Parameters
    ----------
    architecture
        Sizes.
    mean_counts
        [N], each neuron's mean count per bin, positive.
    seed
        The model's seed.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, shape in parameter_shapes(architecture).items():
        if name == "factors.weight":  # its rows are normalised when used: [F, G] has G inputs
            parameters[name] = torch.randn(shape, generator=random) / math.sqrt(shape[-1])
        elif name.endswith("weight"):
            parameters[name] = torch.randn(shape, generator=random) / math.sqrt(shape[-2])
        else:
            parameters[name] = torch.zeros(shape)
    for name in ("encoder", "generator"):
        units = parameters[f"{name}.candidate_bias"].shape[-1]
        parameters[f"{name}.input_bias"][..., units : 2 * units] = 1.0
    log_variance = math.log(PRIOR_VARIANCE_AT_START)
    parameters["posterior.bias"][architecture.initial_condition_dim :] = log_variance
    parameters["prior.log_variance"].fill_(log_variance)
    parameters["rates.bias"].copy_(mean_counts.cpu().log())
    return parameters


def encode(parameters: Parameters, inputs: Tensor, valid: Tensor | None) -> Gaussian:
    """q(g0 | x): a forward and a backward GRU read the input, their last states give mean and log-variance.

    Parameters
    ----------
    parameters
        Of the pack, each [M, …].
    inputs
        [M, T, B, N], scaled and masked counts, zero past each trial's end.
    valid
        bool [T, B, 1], false past a trial's end; None when all trials have T bins.

    Returns
    -------
    Gaussian
        Posterior, [M, B, I] each.
    """
    # Both directions are one GRU of 2M "models". The backward one reads time reversed: past the end comes
    # first, where its state stays 0, so it starts at the trial's own end.
    M, T, B, N = inputs.shape
    both = torch.stack((inputs, inputs.flip(1)), dim=1).view(2 * M, T, B, N)
    frozen = None
    if valid is not None:
        frozen = torch.stack((~valid, ~valid.flip(0))).expand(M, 2, T, B, 1).reshape(2 * M, T, B, 1)
    weights = {name: parameters[f"encoder.{name}"].flatten(0, 1) for name in _GRU_PARAMETERS}
    E = weights["candidate_bias"].shape[-1]
    _, last = gru(weights, both, inputs.new_zeros(2 * M, B, E), T, frozen)  # [2M, B, E]
    last = last.view(M, 2, B, E).transpose(1, 2).reshape(M, B, 2 * E)
    moments = torch.baddbmm(parameters["posterior.bias"][:, None], last, parameters["posterior.weight"])
    mean, log_variance = moments.chunk(2, dim=-1)
    return Gaussian(mean, log_variance.exp() + VARIANCE_FLOOR)


def prior(parameters: Parameters) -> Gaussian:
    """p(g0): learned mean and variance, [M, 1, I] each."""
    return Gaussian(
        parameters["prior.mean"][:, None], parameters["prior.log_variance"].exp()[:, None] + VARIANCE_FLOOR
    )


def generate(parameters: Parameters, initial_condition: Tensor, bins: int) -> Tensor:
    """Run the generator from an initial condition [M, B, I] for T bins; its states, [M, T, B, G].

    g_0 = clip(W g0 + b, ±5); g_t = GRU(g_(t-1)). A GRU's next state lies between its last one and its
    candidate, which is within ±1, so clipping the first state keeps every state within ±5.
    """
    weights = {name: parameters[f"generator.{name}"] for name in _GRU_PARAMETERS if name != "input_weight"}
    start = torch.baddbmm(
        parameters["generator.initial_bias"][:, None],
        initial_condition,
        parameters["generator.initial_weight"],
    ).clamp(-STATE_LIMIT, STATE_LIMIT)
    states, _ = gru(weights, None, start, bins, None)
    return states


def read_out(parameters: Parameters, states: Tensor) -> tuple[Tensor, Tensor]:
    """Turn generator states [M, T, B, G] into factors [M, T, B, F] and log-rates [M, T, B, N]."""
    M, T, B, G = states.shape
    directions = torch.nn.functional.normalize(parameters["factors.weight"], dim=-1)  # rows of W_f: length 1
    factors = torch.bmm(states.reshape(M, T * B, G), directions.transpose(1, 2))  # f_t = W_f g_t
    log_rates = torch.baddbmm(
        parameters["rates.bias"][:, None], factors, parameters["rates.weight"]
    )  # W_r f_t + b
    return factors.view(M, T, B, -1), log_rates.view(M, T, B, -1)


_GRU_PARAMETERS = ("input_weight", "input_bias", "recurrent_weight", "candidate_bias")


def gru(
    weights: Parameters, inputs: Tensor | None, start: Tensor, bins: int, frozen: Tensor | None
) -> tuple[Tensor, Tensor]:
    """P gated recurrent units side by side.

    With a = W x_t + b and c = U h_(t-1), each in three parts (r, z, n):
    r = σ(a_r + c_r), z = σ(a_z + c_z), n = tanh(a_n + r · (c_n + b_c)), h_t = (1 - z) · n + z · h_(t-1).

    Parameters
    ----------
    weights
        "input_weight" [P, D, 3H] (not read without inputs), "input_bias" [P, 3H], "recurrent_weight" [P, H,
        3H], "candidate_bias" [P, H].
    inputs
        [P, T, B, D], or None.
    start
        [P, B, H], state before the first bin.
    bins
        T.
    frozen
        bool [P, T, B, 1], true where the state is to be carried unchanged; or None.

    Returns
    -------
    tuple[Tensor, Tensor]
        [P, T, B, H], the state after each bin, and [P, B, H], the last of them.
    """
    P, B, _ = start.shape
    bias = weights["input_bias"][:, None]
    if inputs is None:
        projected = bias[:, None].expand(P, bins, B, -1)
    else:  # one product for all bins
        projected = torch.baddbmm(bias, inputs.flatten(1, 2), weights["input_weight"]).view(P, bins, B, -1)
    recurrent, candidate_bias = weights["recurrent_weight"], weights["candidate_bias"]
    states, last = _Scan.apply(projected, start, recurrent, candidate_bias, frozen)  # type: ignore[no-untyped-call]
    return states, last


class _Scan(torch.autograd.Function):
    """The recurrence of `gru`, with its gradient written out.

    Autograd over an unrolled loop keeps every small product's operands and adds up the weight's gradient
    bin by bin; here the factors of the chain rule that do not depend on the incoming gradient are computed
    for all bins at once, and the recurrent weight's gradient is one product after the loop. Tests hold it to
    the numerical gradient and to a plain implementation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        start: Tensor,
        weight: Tensor,
        candidate_bias: Tensor,
        frozen: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        P, T, B, H3 = projected.shape
        H = H3 // 3
        keep = any(ctx.needs_input_grad)
        # Per bin: r, z and c_n + b_c side by side, and the candidate n; without gradient, room for one bin.
        gates = projected.new_empty(P, T if keep else 1, B, 3 * H)
        candidates = projected.new_empty(P, T if keep else 1, B, H)
        states = projected.new_empty(P, T + 1, B, H)
        states[:, 0] = start
        bias = candidate_bias[:, None]
        # Slices are cut before the loop: on small tensors cutting costs as much as computing.
        a_rz, a_n = projected[..., : 2 * H].unbind(1), projected[..., 2 * H :].unbind(1)
        gate, rz, c_n = gates.unbind(1), gates[..., : 2 * H].unbind(1), gates[..., 2 * H :].unbind(1)
        r, z = gates[..., :H].unbind(1), gates[..., H : 2 * H].unbind(1)
        n, h = candidates.unbind(1), states.unbind(1)
        for t in range(T):
            s = t if keep else 0
            torch.bmm(h[t], weight, out=gate[s])
            rz[s].add_(a_rz[t]).sigmoid_()
            if frozen is not None:
                z[s].masked_fill_(frozen[:, t], 1.0)
            torch.addcmul(a_n[t], r[s], c_n[s].add_(bias), out=n[s]).tanh_()
            torch.lerp(n[s], h[t], z[s], out=h[t + 1])
        if keep:
            ctx.save_for_backward(gates, candidates, states, weight)
        ctx.set_materialize_grads(False)  # the encoder uses the last state only, the generator all
        return states[:, 1:], states[:, -1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        gates, candidates, states, weight = ctx.saved_tensors
        d_states, d_last = gradients
        P, T, B, H = candidates.shape
        r, z, c_n = gates.split(H, dim=-1)
        # Gradients at c = U h (parts r, z, n) and at the argument of n. Before the loop they hold the factors
        # that are known already, d (argument of n) / d (argument of r), d h_t / d (argument of z) and
        # d h_t / d (argument of n); going back in time the loop multiplies in the gradients that arrive.
        d_gates = torch.empty_like(gates)
        d_r, d_z, d_c_n = torch.split(d_gates, H, dim=-1)
        torch.mul(c_n, r, out=d_r).addcmul_(d_r, r, value=-1)  # c_n · r (1 - r)
        torch.sub(states[:, :-1], candidates, out=d_z)
        d_z.mul_(z).addcmul_(d_z, z, value=-1)  # (h - n) · z (1 - z)
        d_n = torch.addcmul(candidates.new_ones(()), candidates, candidates, value=-1)
        d_n.addcmul_(d_n, z, value=-1)  # (1 - n²) (1 - z)
        d_h = torch.zeros_like(states[:, 0]) if d_last is None else d_last.clone()
        weight_t = weight.transpose(1, 2)
        by_bin = zip(*(part.unbind(1) for part in (d_gates, d_r, d_z, d_c_n, d_n, r, z)), strict=True)
        for t, (d_gate, d_rt, d_zt, d_ct, d_nt, r_t, z_t) in reversed(list(enumerate(by_bin))):
            if d_states is not None:
                d_h += d_states[:, t]
            d_nt.mul_(d_h)
            d_rt.mul_(d_nt)
            d_zt.mul_(d_h)
            torch.mul(d_nt, r_t, out=d_ct)
            d_h.mul_(z_t).baddbmm_(d_gate, weight_t)
        d_flat = d_gates.view(P, T * B, 3 * H)
        d_weight = torch.bmm(states[:, :-1].reshape(P, T * B, H).transpose(1, 2), d_flat)
        d_candidate_bias = d_flat[..., 2 * H :].sum(1)
        d_c_n.copy_(d_n)  # gradient at a = W x + b: r · no longer in front
        return d_gates, d_h, d_weight, d_candidate_bias, None
