"""One model, written a second time from the equations: loops over trials and bins, no packs, double precision.

Trials come first here: T bins, N neurons of a session, W bins of the initial condition's window, S bins that the
generator runs (from W to a trial's end); the other letters are those of `domain.architecture.Architecture`.
"""

import math
from typing import NamedTuple

import torch
from torch.distributions import Bernoulli, Gamma, MultivariateNormal, NegativeBinomial, Normal, Poisson
from torch.distributions import kl_divergence as kl

OUTPUTS = {"poisson": 1, "negative_binomial": 1, "gaussian": 1, "zero_inflated_gamma": 3}
WITH_CONSTANT = ("negative_binomial", "gaussian")
START = {"input_prior.log_variance": math.log(0.1), "input_prior.log_time_constant": math.log(10.0)}
DOUBLE = torch.float64


class Trials(NamedTuple):
    """Trials of one session in a step; the last two fields are not read by inference."""

    counts: torch.Tensor  # [B, T, N]
    lengths: list[int]
    missing: torch.Tensor  # bool [B, T, N]
    external: torch.Tensor | None  # [B, T, X]
    held_out: torch.Tensor | None = None  # bool [B, T, N], by sample validation
    uniform: torch.Tensor | None = None  # in [0, 1) [B, T, N], for coordinated dropout


class Draws(NamedTuple):
    """Noise of the trials of all sessions, one after the other; the first bin is W."""

    initial_condition: torch.Tensor  # normal [B, I]
    inputs: torch.Tensor  # normal [B, T - W, U]
    dropout: torch.Tensor  # uniform in [0, 1) [B, T - W, G]


class Path(NamedTuple):
    """What the network makes of one trial."""

    initial_condition: Normal  # [I]
    inputs: Normal | None  # [S, U]
    sampled_inputs: torch.Tensor  # [S, U]
    states: torch.Tensor  # [S, G]
    factors: torch.Tensor  # [S, F]
    outputs: torch.Tensor  # [S, O · N]


class Losses(NamedTuple):
    total: torch.Tensor
    reconstruction: torch.Tensor
    kl_initial_condition: torch.Tensor
    kl_inputs: torch.Tensor


class Latents(NamedTuple):
    """All [B, T, ·] and NaN outside of W … the trial's end; inputs are None without a controller."""

    rates: torch.Tensor
    factors: torch.Tensor
    states: torch.Tensor
    inputs: torch.Tensor | None


def prefix(architecture, session):
    return f"session{session}." if len(architecture.session_neurons) > 1 else ""


def parameter_shapes(architecture):
    a, E, G = architecture, architecture.encoder_units, architecture.generator_units
    K, C, U, X = a.controller_encoder_units, a.controller_units, a.inferred_inputs, a.external_inputs
    shapes = {}

    def add_gru(name, inputs, units, *pair):
        if inputs:
            shapes[f"{name}.input_weight"] = (*pair, inputs, 3 * units)
        shapes[f"{name}.input_bias"] = (*pair, 3 * units)
        shapes[f"{name}.recurrent_weight"] = (*pair, units, 3 * units)
        shapes[f"{name}.candidate_bias"] = (*pair, units)

    for s, N in enumerate(a.session_neurons):
        p, outputs = prefix(a, s), OUTPUTS[a.observation] * N
        if a.read_in_dim:
            shapes |= {p + "read_in.weight": (N, a.read_in_dim), p + "read_in.bias": (a.read_in_dim,)}
        shapes |= {p + "rates.weight": (a.factors, outputs), p + "rates.bias": (outputs,)}
        if a.observation in WITH_CONSTANT:
            shapes[p + "rates.constant"] = (N,)
    read = a.read_in_dim or a.session_neurons[0]
    add_gru("encoder", read, E, 2)
    dim = a.initial_condition_dim
    shapes |= {"posterior.weight": (2 * E, 2 * dim), "posterior.bias": (2 * dim,)}
    shapes |= {"prior.mean": (dim,), "prior.log_variance": (dim,)}
    if C:
        add_gru("controller_encoder", read, K, 2)
        add_gru("controller", 2 * K + a.factors + X, C)
        shapes |= {"controller.initial_state": (C,), "inputs.weight": (C, 2 * U), "inputs.bias": (2 * U,)}
        shapes["input_prior.log_variance"] = (U,)
        if a.input_prior == "autoregressive":
            shapes["input_prior.log_time_constant"] = (U,)
    shapes |= {"generator.initial_weight": (dim, G), "generator.initial_bias": (G,)}
    add_gru("generator", U + X, G)
    shapes["factors.weight"] = (a.factors, G)
    return shapes


def random_weights(architecture, seed, scale=0.4):
    """Every parameter away from zero, so that each one matters; the priors' ones vary about their start."""
    random = torch.Generator().manual_seed(seed)
    return {
        name: START.get(name, 0.0) + scale * torch.randn(shape, generator=random, dtype=DOUBLE)
        for name, shape in parameter_shapes(architecture).items()
    }


def gru_cell(weights, name, direction=None):
    """A step of torch's GRUCell whose parameters are functions of ours; both order the gates r, z, n."""

    def pick(part):
        values = weights[f"{name}.{part}"]
        return values if direction is None else values[direction]

    recurrent, bias, candidate = pick("recurrent_weight"), pick("input_bias"), pick("candidate_bias")
    H = len(candidate)
    read = pick("input_weight").T if f"{name}.input_weight" in weights else recurrent.new_zeros(3 * H, 0)
    cell = torch.nn.GRUCell(read.shape[1], H, device="meta", dtype=DOUBLE)
    bias_hh = torch.cat((candidate.new_zeros(2 * H), candidate))
    parameters = {"weight_ih": read, "weight_hh": recurrent.T, "bias_ih": bias, "bias_hh": bias_hh}

    def step(x, h):
        return torch.func.functional_call(cell, parameters, (x[None], h[None]))[0]

    return step, H


def read_both_ways(weights, name, rows, seen):
    """Rows [S, D] → states of the forward and the backward GRU at each row; rows not seen change no state."""
    both = []
    for direction in (0, 1):
        step, H = gru_cell(weights, name, direction)
        h, states = rows.new_zeros(H), [None] * len(rows)
        for t in range(len(rows)) if direction == 0 else reversed(range(len(rows))):
            if seen[t]:
                h = step(rows[t], h)
            states[t] = h
        both.append(states)
    return both


def encode(architecture, weights, session, entered, seen):
    """What enters [T, N] and the bins with anything recorded [T] → q(g0 | x) and the codes, T - W of [2K]."""
    W, end = architecture.initial_condition_bins, architecture.encoded_bins or len(entered)
    p = prefix(architecture, session)
    rows = entered
    if architecture.read_in_dim:
        rows = entered @ weights[p + "read_in.weight"] + weights[p + "read_in.bias"]
    forward, backward = read_both_ways(weights, "encoder", rows[: W or end], seen)
    moments = torch.cat((forward[-1], backward[0])) @ weights["posterior.weight"] + weights["posterior.bias"]
    mean, log_variance = moments.chunk(2)
    q = Normal(mean, (log_variance.exp() + 1e-4).sqrt())
    if not architecture.controller_units or len(rows) <= W:
        return q, []
    forward, backward = read_both_ways(weights, "controller_encoder", rows[W:end], seen[W:])
    lag, nothing = architecture.controller_lag_bins, torch.zeros_like(forward[0])

    def at(states, place):
        return states[place] if 0 <= place < len(states) else nothing

    places = range(len(rows) - W)
    return q, [torch.cat((at(forward, s - lag), at(backward, s + lag))) for s in places]


def factor_rows(weights):
    rows = weights["factors.weight"]
    return rows / rows.norm(dim=1, keepdim=True)


def stack(rows, width):
    return torch.stack(rows) if rows else torch.zeros(0, width, dtype=DOUBLE)


def run_trial(architecture, weights, session, entered, seen, external, normal_ic, normal_inputs, mask):
    """One trial up to its end, T bins; `mask` [S, G] multiplies the states that the factors read."""
    q, codes = encode(architecture, weights, session, entered, seen)
    g0 = q.mean + q.stddev * normal_ic
    g = (g0 @ weights["generator.initial_weight"] + weights["generator.initial_bias"]).clamp(-5, 5)
    generator, _ = gru_cell(weights, "generator")
    f = factor_rows(weights) @ g
    means, deviations, us, states, factors = [], [], [], [], []
    if architecture.controller_units:
        controller, _ = gru_cell(weights, "controller")
        c = weights["controller.initial_state"]
    for s, t in enumerate(range(architecture.initial_condition_bins, len(entered))):
        known = g.new_zeros(0) if external is None else external[t]
        u = g.new_zeros(0)
        if architecture.controller_units:
            c = controller(torch.cat((codes[s], f, known)), c)
            mean, log_variance = (c @ weights["inputs.weight"] + weights["inputs.bias"]).chunk(2)
            means.append(mean)
            deviations.append((log_variance.exp() + 1e-4).sqrt())
            u = means[-1] + deviations[-1] * normal_inputs[s]
        g = generator(torch.cat((u, known)), g)
        f = factor_rows(weights) @ (g * mask[s])
        us.append(u)
        states.append(g)
        factors.append(f)
    us = stack(us, architecture.inferred_inputs)
    states, factors = stack(states, len(g)), stack(factors, len(f))
    inputs = Normal(torch.stack(means), torch.stack(deviations)) if means else None
    p = prefix(architecture, session)
    outputs = factors @ weights[p + "rates.weight"] + weights[p + "rates.bias"]
    return Path(q, inputs, us, states, factors, outputs)


def observed(architecture, weights, session, outputs):
    """Outputs [S, O · N] → log-probability as a function of x [S, N], and mean [S, N], of the data."""
    constant = weights.get(prefix(architecture, session) + "rates.constant")
    if architecture.observation == "poisson":
        d = Poisson(outputs.exp())
    elif architecture.observation == "negative_binomial":
        d = NegativeBinomial(constant.exp().expand_as(outputs), logits=outputs - constant)
    elif architecture.observation == "gaussian":
        d = Normal(outputs, (constant.exp() + 1e-4).sqrt())
    else:
        logit, log_shape, log_rate = outputs.chunk(3, dim=-1)
        event, size = Bernoulli(logits=logit), Gamma(log_shape.exp(), log_rate.exp())

        def log_prob(x):
            positive = x > 0
            density = size.log_prob(torch.where(positive, x, 1.0))
            return event.log_prob(positive.to(DOUBLE)) + torch.where(positive, density, 0.0)

        return log_prob, event.probs * size.mean
    return d.log_prob, d.mean


def prior_variance(log_variance, is_learned):
    return (log_variance if is_learned else log_variance.detach()).exp() + 1e-4


def autoregressive_covariance(time_constant, variance, bins):
    """Covariance over bins of a stationary AR(1) process with innovations of this variance: [U] → [U, bins, bins]."""
    a = torch.exp(-1 / time_constant)[:, None, None]
    apart = (torch.arange(bins)[:, None] - torch.arange(bins)[None, :]).abs()
    return variance[:, None, None] * a**apart / (1 - a**2)


def kl_inputs(architecture, weights, q, u):
    """KL of one trial's inputs u [S, U] drawn from q; by the sample for the autoregressive prior."""
    variance = prior_variance(weights["input_prior.log_variance"], architecture.learn_input_prior)
    if architecture.input_prior == "gaussian":
        return kl(q, Normal(torch.zeros_like(variance), variance.sqrt())).sum()
    log_time_constant = weights["input_prior.log_time_constant"]
    if not architecture.learn_input_prior:
        log_time_constant = log_time_constant.detach()
    covariance = autoregressive_covariance(log_time_constant.exp(), variance, len(u))
    p = MultivariateNormal(u.new_zeros(len(u)), covariance)
    return q.log_prob(u).sum() - p.log_prob(u.T).sum()


def read_and_used(architecture, hyper, trials, b):
    """Samples [length, N] of trial b that are input, and those whose likelihood counts."""
    length = trials.lengths[b]
    visible = ~trials.missing[b, :length] & ~trials.held_out[b, :length]
    uniform = trials.uniform[b, :length]
    kept = uniform >= hyper.cd_rate
    readable = torch.ones_like(kept)
    readable[:, list(architecture.held_out_neurons)] = False
    readable[architecture.encoded_bins or length :] = False
    passed = uniform < hyper.cd_rate + (1 - hyper.cd_rate) * hyper.cd_pass_rate
    target = ~kept | ~readable | passed
    if hyper.cd_rate == 0:
        target = torch.ones_like(target)
    target[: architecture.initial_condition_bins] = False
    return visible & readable & kept, visible & target


def training_loss(architecture, weights, hyper, sessions, draws, sv_rate, ramp):
    """Sessions: a `Trials` each; their trials one after the other take the rows of `draws`."""
    a, W = architecture, architecture.initial_condition_bins
    variance = prior_variance(weights["prior.log_variance"], a.learn_prior_variance)
    prior = Normal(weights["prior.mean"], variance.sqrt())
    zero = variance.new_zeros(())
    nll_sum, used, kls_ic, kls_inputs, row = zero, 0, [], [], 0
    for session, trials in enumerate(sessions):
        for b, length in enumerate(trials.lengths):
            recorded = ~trials.missing[b, :length]
            x = torch.where(recorded, trials.counts[b, :length], 0.0)
            read, target = read_and_used(a, hyper, trials, b)
            entered = torch.where(read, x, 0.0) / ((1 - sv_rate) * (1 - hyper.cd_rate))
            mask = (draws.dropout[row] >= hyper.dropout).to(DOUBLE) / (1 - hyper.dropout)
            external = None if trials.external is None else trials.external[b]
            normals = draws.initial_condition[row], draws.inputs[row]
            path = run_trial(a, weights, session, entered, recorded.any(1), external, *normals, mask)
            row += 1
            kls_ic.append(kl(path.initial_condition, prior).sum())
            inferred = path.inputs is not None
            kls_inputs.append(kl_inputs(a, weights, path.inputs, path.sampled_inputs) if inferred else zero)
            if target.any():
                log_prob, _ = observed(a, weights, session, path.outputs)
                nll_sum = nll_sum - log_prob(x[W:])[target[W:]].sum()
                used += int(target.sum())
    reconstruction = nll_sum / max(used, 1)
    kl_ic, kl_u = torch.stack(kls_ic).mean(), torch.stack(kls_inputs).mean()
    penalty = hyper.kl_weight_initial_condition * kl_ic + hyper.kl_weight_inputs * kl_u
    penalty = penalty + hyper.l2_weight_generator * weights["generator.recurrent_weight"].square().mean()
    if a.controller_units:
        penalty = (
            penalty + hyper.l2_weight_controller * weights["controller.recurrent_weight"].square().mean()
        )
    return Losses(reconstruction + ramp * penalty, reconstruction, kl_ic, kl_u)


def infer(architecture, weights, session, counts, lengths, missing, external, ic_draws, input_draws):
    """One set of draws (normal [B, I], [B, T - W, U]) of all trials [B, T, N] of a session, nothing masked."""
    W = architecture.initial_condition_bins
    kinds = [[] for _ in range(4)]
    for b, length in enumerate(lengths):
        recorded = ~missing[b, :length]
        entered = torch.where(recorded, counts[b, :length], 0.0)
        entered[:, list(architecture.held_out_neurons)] = 0.0
        entered[architecture.encoded_bins or length :] = 0.0
        known = None if external is None else external[b]
        undropped = entered.new_ones(length, 1)
        noise = ic_draws[b], input_draws[b]
        path = run_trial(architecture, weights, session, entered, recorded.any(1), known, *noise, undropped)
        _, mean = observed(architecture, weights, session, path.outputs)
        for kind, values in zip(kinds, (mean, path.factors, path.states, path.sampled_inputs), strict=True):
            padded = values.new_full((counts.shape[1], values.shape[1]), math.nan)
            padded[W : W + len(values)] = values
            kind.append(padded)
    *latents, inputs = (torch.stack(kind) for kind in kinds)
    return Latents(*latents, inputs if architecture.controller_units else None)
