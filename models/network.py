"""The LFADS network for a pack of M models at once (Pandarinath et al. 2018).

x → encoders → q(g0 | x) and a code per bin → generator (with the controller's inferred inputs u) → factors f → outputs.

Shapes: M models, B trials, S draws from the posterior per trial, T bins, W bins of a separate initial-condition window; N
neurons, E and K units of the encoders, I initial-condition dimensions, C controller units, U inferred inputs, X external inputs;
G generator units, F factors, D read-in dimensions, O outputs per neuron. Every parameter has a leading axis M; one model is
M = 1. Read top-down: `forward`, which training, evaluation, inference and export call, then its four parts.

Where papers and code differ, here: a GRU's candidate makes the recurrent product before the reset gate (either form is LFADS);
encoders start from zero; the factors that the controller reads before the first bin are those of the clipped first state, without
dropout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from domain.architecture import Architecture
from domain.generators import generator_shapes, penalised
from domain.parameter_shapes import parameter_shapes, session_prefix
from models.config import VARIANCE_FLOOR
from models.generators import Controller, Generator, generator_of
from models.observation import OBSERVATIONS, DataStatistics
from models.recurrence import GRU_PARAMETERS, gru, gru_initial_value, product, random_weight

PRIOR_VARIANCE_AT_START = 0.1
TIME_CONSTANT_AT_START = 10.0  # bins
INITIAL_STATE_LIMIT = 5.0

Parameters = Mapping[str, Tensor]


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and variance, e.g. each [M, B, I] (a posterior) or [M, 1, I] (a prior)."""

    mean: Tensor
    variance: Tensor


class PosteriorNoise(NamedTuple):
    """Standard normal numbers for the draws of g0, [M, B · S, I], and of u, [M, T - W, B · S, U] (None without a controller)."""

    initial_condition: Tensor
    inputs: Tensor | None


class Output(NamedTuple):
    """What a forward pass gives. The S draws of a trial follow each other on the axis of trials.

    Parameters
    ----------
    initial_condition
        q(g0 | x), [M, B, I] each.
    states
        Of the generator, after each bin from W on, [M, T - W, B · S, G].
    factors
        [M, T - W, B · S, F].
    outputs
        Of each session [M, T - W, its trials · S, O · N], see `models.observation`.
    inputs
        Inferred inputs u, [M, T - W, B · S, U]; None without a controller.
    input_posterior
        q(u | x), alike.
    """

    initial_condition: Gaussian
    states: Tensor
    factors: Tensor
    outputs: list[Tensor]
    inputs: Tensor | None
    input_posterior: Gaussian | None


def forward(
    architecture: Architecture,
    parameters: Parameters,
    masked_inputs: Sequence[Tensor],
    *,
    seen: Tensor | None = None,
    external: Tensor | None = None,
    noise: PosteriorNoise | None = None,
    draws: int = 1,
    dropout_mask: Tensor | None = None,
) -> Output:
    """Encode → project the inputs → generate → read out.

    Parameters
    ----------
    architecture, parameters
        Of the pack, each parameter [M, …].
    masked_inputs
        [M, T, B, N] of each session, scaled and masked, zero where nothing is to be read.
    seen
        bool [T, B, 1], false in bins without any recorded sample (past a trial's end, or missing). None: all bins have some.
    external
        Known inputs [T, B, X], if the architecture has them.
    noise
        For draws of g0 and u from their posteriors; None takes the posterior means.
    draws
        S, draws per trial.
    dropout_mask
        Mask on the states that the factors read, divided by the share that is kept, [M, T - W, B · S, G]; None: no dropout.
    """
    first, bins = architecture.initial_condition_bins, masked_inputs[0].shape[1]
    q, codes = encode(architecture, parameters, masked_inputs, seen)
    M, B, _ = q.mean.shape
    known = q.mean.new_zeros(bins - first, B, 0) if external is None else external[first:]
    known = known.expand(M, -1, -1, -1)
    projection = None if codes is None else project_inputs(architecture, parameters, codes, known)
    g0 = q.mean.repeat_interleave(draws, dim=1) if draws > 1 else q.mean
    if noise is not None:  # g0 ~ q
        deviation = q.variance.sqrt()
        deviation = deviation.repeat_interleave(draws, dim=1) if draws > 1 else deviation
        g0 = torch.addcmul(g0, deviation, noise.initial_condition)
    if draws > 1:
        known = known.repeat_interleave(draws, dim=2)
        projection = None if projection is None else projection.repeat_interleave(draws, dim=2)
    states, inputs, input_posterior = generate(
        architecture,
        parameters,
        g0,
        known,
        projection,
        dropout_mask=dropout_mask,
        noise=None if noise is None else noise.inputs,
    )
    read = states if dropout_mask is None else states * dropout_mask
    factors, outputs = read_out(architecture, parameters, read, [x.shape[2] * draws for x in masked_inputs])
    return Output(q, states, factors, outputs, inputs, input_posterior)


def encode(
    architecture: Architecture, parameters: Parameters, inputs: Sequence[Tensor], seen: Tensor | None
) -> tuple[Gaussian, Tensor | None]:
    """Return q(g0 | x), and with a controller a code per bin: a forward and a backward GRU each.

    Arguments as in `forward`. Bins that are not seen do not change the state of an encoder.

    Returns
    -------
    tuple[Gaussian, Tensor | None]
        Posterior of g0 [M, B, I], trials of all sessions side by side; codes [M, T - W, B, 2K] from bin W on.
    """
    read = read_in(architecture, parameters, inputs)
    M, T, B, _ = read.shape
    first, last = architecture.initial_condition_bins, architecture.encoded_bins or T
    _, ends = _encode_both_ways(parameters, "encoder", read, seen, slice(0, first or last))
    ends = ends.transpose(1, 2).reshape(M, B, -1)
    moments = torch.baddbmm(parameters["posterior.bias"][:, None], ends, parameters["posterior.weight"])
    q = _gaussian(moments)
    if not architecture.has_controller:
        return q, None
    states, _ = _encode_both_ways(parameters, "controller_encoder", read, seen, slice(first, last))
    lag, bins = architecture.controller_lag_bins, T - first
    forward, backward = states[:, 0], states[:, 1].flip(1)
    return q, torch.cat((_shift(forward, lag, bins), _shift(backward, -lag, bins)), dim=-1)


def _gaussian(moments: Tensor) -> Gaussian:
    """Turn means and log-variances, side by side on the last axis, into a Gaussian."""
    mean, log_variance = moments.chunk(2, dim=-1)
    return Gaussian(mean, log_variance.exp() + VARIANCE_FLOOR)


def read_in(architecture: Architecture, parameters: Parameters, inputs: Sequence[Tensor]) -> Tensor:
    """Map each session's neurons [M, T, B, N] to what the encoders read, [M, T, all trials, D], by its own linear map."""
    if not architecture.read_in_dim:
        return inputs[0]
    read = []
    for session, x in enumerate(inputs):
        prefix = session_prefix(architecture, session)
        weight, bias = parameters[f"{prefix}read_in.weight"], parameters[f"{prefix}read_in.bias"]
        M, T, B, _ = x.shape
        read.append(torch.baddbmm(bias[:, None], x.flatten(1, 2), weight).view(M, T, B, weight.shape[-1]))
    return torch.cat(read, dim=2)


def _encode_both_ways(
    parameters: Parameters, name: str, read: Tensor, seen: Tensor | None, bins: slice
) -> tuple[Tensor, Tensor]:
    """Return states [M, 2, T, B, E] in the order in which each direction reads the bins, and the last of them [M, 2, B, E]."""
    # Both directions are one GRU of 2M "models". The backward one reads time reversed: past a trial's end comes
    # first, where its state stays 0, so it starts at the trial's own end.
    read = read[:, bins]
    M, T, B, _ = read.shape
    unseen = None if seen is None else ~seen[bins, :, 0]
    weights = [parameters[f"{name}.{part}"].flatten(0, 1) for part in GRU_PARAMETERS]
    E = weights[-1].shape[-1]
    states, last = gru(read, read.new_zeros(2 * M, B, E), weights, unseen, both_ways=True)
    return states.view(M, 2, T, B, E), last.view(M, 2, B, E)


def _shift(states: Tensor, lag: int, bins: int) -> Tensor:
    """Move states [M, T', B, K] by `lag` bins (later if positive), with zeros where there are none, in `bins` bins."""
    moved = states[:, max(-lag, 0) :]
    before = min(max(lag, 0), bins)
    moved = moved[:, : bins - before]
    return torch.nn.functional.pad(moved, (0, 0, 0, 0, before, bins - before - moved.shape[1]))


def project_inputs(
    architecture: Architecture, parameters: Parameters, codes: Tensor, external: Tensor
) -> Tensor:
    """Project what the controller reads besides the factors, for all bins at once: W [code_t, external_t] + b, [M, T, B, 3C].

    Parameters
    ----------
    architecture, parameters
        Of the pack.
    codes
        [M, T, B, 2K].
    external
        [M, T, B, X].
    """
    X, weight = architecture.external_inputs, parameters["controller.input_weight"]
    for_codes, for_external = weight[:, : codes.shape[-1]], weight[:, weight.shape[1] - X :]
    projection = product(codes, for_codes) + parameters["controller.input_bias"][:, None, None]
    return projection + product(external, for_external) if X else projection


def generate(
    architecture: Architecture,
    parameters: Parameters,
    g0: Tensor,
    external: Tensor,
    projection: Tensor | None,
    *,
    dropout_mask: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Gaussian | None]:
    """Run the generator from initial conditions; a controller infers inputs to it on the way.

    Before the first bin g = clip(W g0 + b, ±5). In each bin c ← GRU([code_t, external_t, f_(t-1)], c); u_t ~ N(W_u c + b_u);
    g ← F(g, [u_t, external_t]).

    Parameters
    ----------
    architecture, parameters
        Of the pack.
    g0
        Draws or means of the initial condition, [M, B, I].
    external
        [M, T, B, X].
    projection
        From `project_inputs`; None without a controller.
    dropout_mask
        As in `forward`.
    noise
        For u, as in `PosteriorNoise`.

    Returns
    -------
    tuple[Tensor, Tensor | None, Gaussian | None]
        The generator's states [M, T, B, G]; u [M, T, B, U] and q(u | x), None without a controller.
    """
    start = torch.baddbmm(
        parameters["generator.initial_bias"][:, None], g0, parameters["generator.initial_weight"]
    ).clamp(-INITIAL_STATE_LIMIT, INITIAL_STATE_LIMIT)
    generator, own = _generator(architecture, parameters)
    if projection is None:
        return generator.run(own, start, external), None, None
    codes, F = 2 * architecture.controller_encoder_units, architecture.factors
    controller = Controller(
        projection,
        parameters["controller.initial_state"][:, None].expand(-1, start.shape[1], -1),
        parameters["controller.recurrent_weight"],
        parameters["controller.candidate_bias"],
        parameters["controller.input_weight"][:, codes : codes + F],
        parameters["inputs.weight"],
        parameters["inputs.bias"],
        factor_directions(parameters),
        dropout_mask,
        noise,
    )
    states, moments, inputs = generator.run_with_controller(own, start, external, controller)
    return states, inputs, _gaussian(moments)


def _generator(architecture: Architecture, parameters: Parameters) -> tuple[Generator, dict[str, Tensor]]:
    """Return the generator and its own parameters, by their names without the prefix."""
    names = generator_names(architecture)
    return generator_of(architecture.generator), {name: parameters[f"generator.{name}"] for name in names}


def generator_names(architecture: Architecture) -> list[str]:
    """Return the names of the parameters that are the generator's own, without the prefix."""
    return list(generator_shapes(architecture.generator, architecture.generator_sizes))


def factor_directions(parameters: Parameters) -> Tensor:
    """Return W_f, its rows of length 1: [M, F, G]."""
    return torch.nn.functional.normalize(parameters["factors.weight"], dim=-1)


def read_out(
    architecture: Architecture, parameters: Parameters, states: Tensor, trials: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """Turn generator states into factors and outputs: f_t = W_f g_t, y_t = W_r f_t + b.

    Parameters
    ----------
    architecture, parameters
        Of the pack.
    states
        [M, T, B, G], after dropout where there is any.
    trials
        How many of the B trials are of each session, in order.

    Returns
    -------
    tuple[Tensor, list[Tensor]]
        Factors [M, T, B, F], and for each session outputs [M, T, its trials, O · N].
    """
    factors = product(states, factor_directions(parameters).transpose(1, 2))
    outputs = []
    for session, part in enumerate(torch.split(factors, list(trials), dim=2)):
        prefix = session_prefix(architecture, session)
        weight, bias = parameters[f"{prefix}rates.weight"], parameters[f"{prefix}rates.bias"]
        M, T, B, F = part.shape
        flat = torch.baddbmm(bias[:, None], part.reshape(M, T * B, F), weight)
        outputs.append(flat.view(M, T, B, weight.shape[-1]))
    return factors, outputs


def trials_first(values: Tensor, first: int = 0) -> Tensor:
    """Return values by bin, [T - W, B, ·], as contiguous [B, T, ·], NaN in the first W bins."""
    if first:
        values = torch.nn.functional.pad(values, (0, 0, 0, 0, first, 0), value=torch.nan)
    return values.transpose(0, 1).contiguous()


def prior(architecture: Architecture, parameters: Parameters) -> Gaussian:
    """Return p(g0): learned mean, variance learned or fixed, [M, 1, I] each."""
    log_variance = parameters["prior.log_variance"][:, None]
    if not architecture.learn_prior_variance:
        log_variance = log_variance.detach()
    return Gaussian(parameters["prior.mean"][:, None], log_variance.exp() + VARIANCE_FLOOR)


def recurrent_mean_squares(architecture: Architecture, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Return the mean square of the recurrent weights of the generator and of the controller, [M] each: what L2 penalises."""
    own = [parameters[f"generator.{name}"].flatten(1) for name in penalised(generator_names(architecture))]
    none = parameters["factors.weight"].new_zeros(len(parameters["factors.weight"]))
    of_generator = torch.cat(own, dim=1).square().mean(1) if own else none
    if not architecture.has_controller:
        return of_generator, none
    return of_generator, parameters["controller.recurrent_weight"].square().mean((-2, -1))


def initial_parameters(
    architecture: Architecture, statistics: Sequence[DataStatistics], seed: int
) -> dict[str, Tensor]:
    """Draw the first parameters of one model, from its seed alone.

    Weights are normal with variance 1 / inputs; biases are zero, with these exceptions: outputs start at each neuron's
    statistics, priors and posteriors at variance 0.1 (time constants at 10 bins), and generators and GRUs set their own.

    Parameters
    ----------
    architecture
        Form and sizes.
    statistics
        Of each session's data.
    seed
        The model's seed.
    """
    random = torch.Generator().manual_seed(seed)
    parameters = {
        name: _initial_value(architecture, name, shape, random)
        for name, shape in parameter_shapes(architecture).items()
    }
    log_variance = math.log(PRIOR_VARIANCE_AT_START)
    parameters["posterior.bias"][architecture.initial_condition_dim :] = log_variance
    parameters["prior.log_variance"].fill_(log_variance)
    if architecture.has_controller:
        parameters["inputs.bias"][architecture.inferred_inputs :] = log_variance
        parameters["input_prior.log_variance"].fill_(log_variance)
        if architecture.input_prior == "autoregressive":
            parameters["input_prior.log_time_constant"].fill_(math.log(TIME_CONSTANT_AT_START))
    for session, described in enumerate(statistics):
        prefix = session_prefix(architecture, session)
        bias, constant = OBSERVATIONS[architecture.observation].start(described)
        parameters[f"{prefix}rates.bias"].copy_(bias.cpu())
        if constant is not None:
            parameters[f"{prefix}rates.constant"].copy_(constant.cpu())
    return parameters


def _initial_value(
    architecture: Architecture, name: str, shape: tuple[int, ...], random: torch.Generator
) -> Tensor:
    owner, _, own_name = name.rpartition(".")
    if owner == "generator" and own_name in generator_names(architecture):
        return generator_of(architecture.generator).initial_value(own_name, shape, random)
    if owner in ("encoder", "controller_encoder", "controller"):
        return gru_initial_value(own_name, shape, random)
    if name == "factors.weight":  # its rows are normalised when used: [F, G] has G inputs
        return torch.randn(shape, generator=random) / math.sqrt(shape[-1])
    return random_weight(shape, random) if own_name.endswith("weight") else torch.zeros(shape)
