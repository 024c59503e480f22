"""The LFADS network for a pack of M models at once (Pandarinath et al. 2018).

x → encoders → q(g0 | x) and a code per bin → generator (with the controller's inferred inputs u) → factors f → outputs.

Shapes: M models, B trials, T bins, N neurons, E and K units of the encoders, I initial-condition dimensions, C controller
units, U inferred inputs, X external inputs, G generator units, F factors, D read-in dimensions, O outputs per neuron. Every
parameter has a leading axis M; one model is M = 1. Read top-down: `encode` → `drive` → `generate` → `read_out`, then
the GRU they share.

Where papers and code differ, here: the candidate's recurrent product is made before the reset gate (either form is LFADS);
encoders start from zero; the factors that the controller reads before the first bin are those of the clipped first state, without
dropout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models import graph_scans
from models.config import VARIANCE_FLOOR, Architecture
from models.observation import OBSERVATIONS, DataStatistics
from models.scan import ControlledScan, Scan

PRIOR_VARIANCE_AT_START = 0.1
TIME_CONSTANT_AT_START = 10.0  # bins
STATE_LIMIT = 5.0

Parameters = Mapping[str, Tensor]


class Gaussian(NamedTuple):
    """A diagonal Gaussian: mean and variance, e.g. each [M, B, I] (a posterior) or [M, 1, I] (a prior)."""

    mean: Tensor
    variance: Tensor


class Encoded(NamedTuple):
    """What the encoders found: the posterior of g0, [M, B, I] each, and the controller's codes [M, T, B, 2K]."""

    initial_condition: Gaussian
    codes: Tensor | None


class Drive(NamedTuple):
    """What is known of the GRUs' inputs before the run.

    With a controller the products for all bins, controller [M, T, B, 3C] and generator [M, T, B, 3G], which the scan adds to;
    without one the external inputs themselves, [M, T, B, X], which the scan multiplies.
    """

    controller: Tensor | None
    generator: Tensor | None
    external: Tensor | None


class Generated(NamedTuple):
    """The generator's run: states [M, T, B, G]; with a controller, u [M, T, B, U] and its posterior, each alike."""

    states: Tensor
    inputs: Tensor | None
    posterior: Gaussian | None


def session_prefix(architecture: Architecture, session: int) -> str:
    """What the names of a session's own parameters begin with; nothing when there is one session."""
    return f"session{session}." if len(architecture.session_neurons) > 1 else ""


def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Map name to shape for one model; in a pack M stands in front. A GRU's 3: reset, update, candidate."""
    a = architecture
    E, I, K = a.encoder_units, a.initial_condition_dim, a.controller_encoder_units  # noqa: E741 (as in the tables of shapes)
    G, F, C = a.generator_units, a.factors, a.controller_units
    U, X, D = a.inferred_inputs, a.external_inputs, a.read_in_dim
    observation = OBSERVATIONS[a.observation]
    read = D or a.session_neurons[0]  # what the encoders read in a bin
    shapes: dict[str, tuple[int, ...]] = {}
    for session, neurons in enumerate(a.session_neurons):
        if D:
            prefix = session_prefix(a, session)
            shapes |= {f"{prefix}read_in.weight": (neurons, D), f"{prefix}read_in.bias": (D,)}
    shapes |= _encoder_shapes("encoder", read, E)
    shapes |= {
        "posterior.weight": (2 * E, 2 * I),  # → mean and log-variance, side by side
        "posterior.bias": (2 * I,),
        "prior.mean": (I,),
        "prior.log_variance": (I,),
    }
    if a.has_controller:
        shapes |= _encoder_shapes("controller_encoder", read, K)
        shapes |= {
            "controller.input_weight": (
                2 * K + F + X,
                3 * C,
            ),  # forward code, backward code, factors, external
            "controller.input_bias": (3 * C,),
            "controller.recurrent_weight": (C, 3 * C),
            "controller.candidate_bias": (C,),
            "controller.initial_state": (C,),
            "inputs.weight": (C, 2 * U),  # → mean and log-variance, side by side
            "inputs.bias": (2 * U,),
            "input_prior.log_variance": (U,),
        }
        if a.input_prior == "autoregressive":
            shapes["input_prior.log_time_constant"] = (U,)
    shapes |= {"generator.initial_weight": (I, G), "generator.initial_bias": (G,)}
    if U + X:
        shapes["generator.input_weight"] = (U + X, 3 * G)  # inferred inputs, external inputs
    shapes |= {
        "generator.input_bias": (3 * G,),
        "generator.recurrent_weight": (G, 3 * G),
        "generator.candidate_bias": (G,),
        "factors.weight": (F, G),
    }
    for session, neurons in enumerate(a.session_neurons):
        prefix, outputs = session_prefix(a, session), observation.outputs * neurons
        shapes |= {f"{prefix}rates.weight": (F, outputs), f"{prefix}rates.bias": (outputs,)}
        if observation.has_constant:
            shapes[f"{prefix}rates.constant"] = (neurons,)
    return shapes


def _encoder_shapes(name: str, read: int, units: int) -> dict[str, tuple[int, ...]]:
    """2 directions: forward, backward in time."""
    return {
        f"{name}.input_weight": (2, read, 3 * units),
        f"{name}.input_bias": (2, 3 * units),
        f"{name}.recurrent_weight": (2, units, 3 * units),
        f"{name}.candidate_bias": (2, units),
    }


def initial_parameters(
    architecture: Architecture, statistics: Sequence[DataStatistics], seed: int
) -> dict[str, Tensor]:
    """Parameters of one model, from its seed alone.

    Weights are normal with variance 1 / inputs; biases are zero, but: outputs start at each neuron's
    statistics, priors and posteriors at variance 0.1 (time constants at 10 bins), and the update gates at
    σ(1), so that states are remembered for some bins.

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
    parameters = {}
    for name, shape in parameter_shapes(architecture).items():
        if name == "factors.weight":  # its rows are normalised when used: [F, G] has G inputs
            parameters[name] = torch.randn(shape, generator=random) / math.sqrt(shape[-1])
        elif name.endswith("weight"):
            parameters[name] = torch.randn(shape, generator=random) / math.sqrt(shape[-2])
        else:
            parameters[name] = torch.zeros(shape)
    for name in ("encoder", "controller_encoder", "controller", "generator"):
        if f"{name}.candidate_bias" in parameters:
            units = parameters[f"{name}.candidate_bias"].shape[-1]
            parameters[f"{name}.input_bias"][..., units : 2 * units] = 1.0
    log_variance = math.log(PRIOR_VARIANCE_AT_START)
    parameters["posterior.bias"][architecture.initial_condition_dim :] = log_variance
    parameters["prior.log_variance"].fill_(log_variance)
    if architecture.has_controller:
        parameters["inputs.bias"][architecture.inferred_inputs :] = log_variance
        parameters["input_prior.log_variance"].fill_(log_variance)
        if architecture.input_prior == "autoregressive":
            parameters["input_prior.log_time_constant"].fill_(math.log(TIME_CONSTANT_AT_START))
    observation = OBSERVATIONS[architecture.observation]
    for session, described in enumerate(statistics):
        prefix = session_prefix(architecture, session)
        bias, constant = observation.start(described)
        parameters[f"{prefix}rates.bias"].copy_(bias.cpu())
        if constant is not None:
            parameters[f"{prefix}rates.constant"].copy_(constant.cpu())
    return parameters


def encode(
    architecture: Architecture, parameters: Parameters, inputs: Sequence[Tensor], seen: Tensor | None
) -> Encoded:
    """q(g0 | x), and with a controller a code per bin: a forward and a backward GRU each.

    Parameters
    ----------
    architecture, parameters
        Of the pack, each parameter [M, …].
    inputs
        [M, T, B, N] of each session, scaled and masked, zero where nothing is to be read.
    seen
        bool [T, B, 1], false in bins without any recorded sample (past a trial's end, or missing): encoders
        pass over them. None when every bin of every trial has some.

    Returns
    -------
    Encoded
        Trials of all sessions side by side; codes from bin W on.
    """
    read = read_in(architecture, parameters, inputs)
    M, T, B, _ = read.shape
    first, last = architecture.initial_condition_bins, architecture.encoded_bins or T
    _, ends = _encode_both_ways(parameters, "encoder", read, seen, slice(0, first or last))
    ends = ends.transpose(1, 2).reshape(M, B, -1)
    moments = torch.baddbmm(parameters["posterior.bias"][:, None], ends, parameters["posterior.weight"])
    mean, log_variance = moments.chunk(2, dim=-1)
    initial_condition = Gaussian(mean, log_variance.exp() + VARIANCE_FLOOR)
    if not architecture.has_controller:
        return Encoded(initial_condition, None)
    states, _ = _encode_both_ways(parameters, "controller_encoder", read, seen, slice(first, last))
    lag, bins = architecture.controller_lag_bins, T - first
    forward, backward = states[:, 0], states[:, 1].flip(1)
    codes = torch.cat((_shift(forward, lag, bins), _shift(backward, -lag, bins)), dim=-1)
    return Encoded(initial_condition, codes)


def read_in(architecture: Architecture, parameters: Parameters, inputs: Sequence[Tensor]) -> Tensor:
    """What the encoders read: each session's neurons [M, T, B, N] by its own linear map, [M, T, all trials, D]."""
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
    """States [M, 2, T, B, E] in the order each direction reads the bins, and the last of them [M, 2, B, E]."""
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
    """States [M, T', B, K] moved by `lag` bins (later if positive), zero where there are none, in `bins` bins."""
    moved = states[:, max(-lag, 0) :]
    before = min(max(lag, 0), bins)
    moved = moved[:, : bins - before]
    return torch.nn.functional.pad(moved, (0, 0, 0, 0, before, bins - before - moved.shape[1]))


def prior(architecture: Architecture, parameters: Parameters) -> Gaussian:
    """p(g0): learned mean, variance learned or fixed, [M, 1, I] each."""
    log_variance = parameters["prior.log_variance"][:, None]
    if not architecture.learn_prior_variance:
        log_variance = log_variance.detach()
    return Gaussian(parameters["prior.mean"][:, None], log_variance.exp() + VARIANCE_FLOOR)


def drive(
    architecture: Architecture,
    parameters: Parameters,
    codes: Tensor | None,
    external: Tensor | None,
    bins: int,
    trials: int,
) -> Drive:
    """What is known of the GRUs' inputs before the run.

    With a controller: products with codes, external inputs and biases, for all bins at once. Without one: the external
    inputs as they are, of width 0 where there are none.

    Parameters
    ----------
    architecture, parameters
        Of the pack.
    codes
        [M, bins, B, 2K], with a controller.
    external
        [bins, B, X], if there are external inputs.
    bins, trials
        Of the run.
    """
    U, X = architecture.inferred_inputs, architecture.external_inputs
    bias = parameters["generator.input_bias"][:, None, None]
    M = len(bias)
    if codes is None:
        known = bias.new_zeros(bins, trials, 0) if external is None else external
        return Drive(None, None, known.expand(M, -1, -1, -1))
    generator = bias.expand(M, bins, trials, -1)
    if external is not None:
        generator = generator + _product(
            external.expand(M, -1, -1, -1), parameters["generator.input_weight"][:, U:]
        )
    weight = parameters["controller.input_weight"]
    before, after = weight[:, : codes.shape[-1]], weight[:, weight.shape[1] - X :]
    controller = _product(codes, before) + parameters["controller.input_bias"][:, None, None]
    if external is not None:
        controller = controller + _product(external.expand(M, -1, -1, -1), after)
    return Drive(controller, generator, None)


def _product(values: Tensor, weight: Tensor) -> Tensor:
    """[M, T, B, D] by [M, D, H], in one product."""
    M, T, B, _ = values.shape
    return torch.bmm(values.reshape(M, T * B, -1), weight).view(M, T, B, -1)


def generate(
    architecture: Architecture,
    parameters: Parameters,
    initial_condition: Tensor,
    given: Drive,
    dropout_mask: Tensor | None = None,
    noise: Tensor | None = None,
) -> Generated:
    """Run the generator from an initial condition [M, B, I], the controller inferring its inputs on the way.

    g_0 = clip(W g0 + b, ±5); c_t = GRU([code_t, f_(t-1), external_t], c_(t-1)); u_t ~ N(W_u c_t + b_u);
    g_t = GRU([u_t, external_t], g_(t-1)). A GRU's next state lies between its last one and its candidate,
    which is within ±1, so clipping the first state keeps every state within ±5.

    Parameters
    ----------
    architecture, parameters
        Of the pack.
    initial_condition
        A draw of g0, or its mean.
    given
        See `drive`.
    dropout_mask
        Dropout's mask on the states that the factors read, over its rate, [M, T, B, G]; None without dropout.
    noise
        Standard normal [M, T, B, U] for the draws of u; None takes the posterior mean.
    """
    start = torch.baddbmm(
        parameters["generator.initial_bias"][:, None],
        initial_condition,
        parameters["generator.initial_weight"],
    ).clamp(-STATE_LIMIT, STATE_LIMIT)
    recurrence = parameters["generator.recurrent_weight"], parameters["generator.candidate_bias"]
    if given.controller is None:
        M, G = start.shape[0], start.shape[-1]
        weight = parameters.get("generator.input_weight", start.new_zeros(M, 0, 3 * G))
        weights = (weight, parameters["generator.input_bias"], *recurrence)
        assert given.external is not None
        states, _ = gru(given.external, start, weights, None)
        return Generated(states, None, None)
    B, U, K = start.shape[1], architecture.inferred_inputs, architecture.controller_encoder_units
    controller_initial_state = parameters["controller.initial_state"].clamp(-STATE_LIMIT, STATE_LIMIT)
    run = graph_scans.run_controlled if torch.compiler.is_exporting() else ControlledScan.apply
    states, moments, inputs = run(
        given.controller,
        controller_initial_state[:, None].expand(-1, B, -1),
        parameters["controller.recurrent_weight"],
        parameters["controller.candidate_bias"],
        parameters["controller.input_weight"][:, 2 * K : 2 * K + architecture.factors],
        parameters["inputs.weight"],
        parameters["inputs.bias"],
        given.generator,
        start,
        *recurrence,
        parameters["generator.input_weight"][:, :U],
        factor_directions(parameters),
        dropout_mask,
        noise,
    )
    mean, log_variance = moments.chunk(2, dim=-1)
    return Generated(states, inputs, Gaussian(mean, log_variance.exp() + VARIANCE_FLOOR))


def factor_directions(parameters: Parameters) -> Tensor:
    """W_f, its rows of length 1: [M, F, G]."""
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
    factors = _product(states, factor_directions(parameters).transpose(1, 2))
    outputs = []
    for session, part in enumerate(torch.split(factors, list(trials), dim=2)):
        prefix = session_prefix(architecture, session)
        weight, bias = parameters[f"{prefix}rates.weight"], parameters[f"{prefix}rates.bias"]
        M, T, B, F = part.shape
        flat = torch.baddbmm(bias[:, None], part.reshape(M, T * B, F), weight)
        outputs.append(flat.view(M, T, B, weight.shape[-1]))
    return factors, outputs


GRU_PARAMETERS = ("input_weight", "input_bias", "recurrent_weight", "candidate_bias")


def gru(
    x: Tensor, start: Tensor, weights: Sequence[Tensor], unseen: Tensor | None, *, both_ways: bool = False
) -> tuple[Tensor, Tensor]:
    """P gated recurrent units side by side, one for each model, or two that read its bins in either direction.

    With a = W x_t + b and c = U h_(t-1), each in three parts (r, z, n):
    r = σ(a_r + c_r), z = σ(a_z + c_z), n = tanh(a_n + r · (c_n + b_c)), h_t = (1 - z) · n + z · h_(t-1).

    Parameters
    ----------
    x
        [M, T, B, D].
    start
        [P, B, H], state before the first bin.
    weights
        W [P, D, 3H], b [P, 3H], U [P, H, 3H], b_c [P, H].
    unseen
        bool [T, B], true where the state is to be carried unchanged; or None.
    both_ways
        Every second unit reads from the last bin to the first.

    Returns
    -------
    tuple[Tensor, Tensor]
        [P, T, B, H], the state after each bin in the order of reading, and [P, B, H], the last of them.
    """
    if torch.compiler.is_exporting():
        return graph_scans.run(x, start, weights, both_ways)
    states, last = Scan.apply(x, start, *weights, unseen, both_ways)  # type: ignore[no-untyped-call]  # torch has no types here
    return states, last
