"""LFADS the plain way: one model of `torch.nn` cells in a loop over bins, autograd, `torch.optim`.

What packs are measured against (`benchmarks.throughput`): the same network and the same loss, as one would write them
first. Every bin's input product is made in its bin, both directions and both encoders run one after the other, masks and
noise are drawn for each step, and every operation is a call of its own.

Shapes: B trials, T bins, N neurons, time first: counts [T, B, N].
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models import Architecture, Hyperparameters, TrainingOptions
from models.config import VARIANCE_FLOOR
from models.network import INITIAL_STATE_LIMIT
from models.population import ADAM_DECAY, ADAM_EPSILON


class PlainLFADS(nn.Module):
    """One session, Poisson counts, all bins read; with a controller if the architecture has one.

    Parameters
    ----------
    architecture
        Without external inputs, read-in, windows or held-out neurons; autoregressive prior of the inputs.
    parameters
        Of one model, by the names of `domain.parameter_shapes`.
    hyperparameters
        Of the loss.
    """

    def __init__(
        self, architecture: Architecture, parameters: Mapping[str, Tensor], hyperparameters: Hyperparameters
    ) -> None:
        super().__init__()
        self.architecture, self.hyperparameters = architecture, hyperparameters
        self.encoders = nn.ModuleList(_cell(parameters, "encoder", direction) for direction in (0, 1))
        self.posterior = _linear(parameters, "posterior")
        self.to_start = _linear(parameters, "generator", "initial_weight", "initial_bias")
        self.generator = _cell(parameters, "generator")
        self.factors = nn.Parameter(parameters["factors.weight"].clone())
        self.rates = _linear(parameters, "rates")
        self.prior_mean = nn.Parameter(parameters["prior.mean"].clone())
        self.prior_log_variance = nn.Parameter(parameters["prior.log_variance"].clone())
        if architecture.has_controller:
            both = (0, 1)
            self.controller_encoders = nn.ModuleList(
                _cell(parameters, "controller_encoder", direction) for direction in both
            )
            self.controller = _cell(parameters, "controller")
            self.controller_initial_state = nn.Parameter(parameters["controller.initial_state"].clone())
            self.inputs = _linear(parameters, "inputs")
            self.input_log_variance = nn.Parameter(parameters["input_prior.log_variance"].clone())
            self.input_log_time_constant = nn.Parameter(parameters["input_prior.log_time_constant"].clone())

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Mean and variance of q(g0 | x), [B, I] each, and a code per bin, [B, 2K]."""
        forward, backward = self._both_ways(self.encoders, x)
        mean, log_variance = self.posterior(torch.cat((forward[-1], backward[0]), dim=-1)).chunk(2, dim=-1)
        codes: list[Tensor] = []
        if self.architecture.has_controller:
            lag = self.architecture.controller_lag_bins
            forward, backward = self._both_ways(self.controller_encoders, x)
            nothing, T = torch.zeros_like(forward[0]), len(x)
            for t in range(T):
                earlier = forward[t - lag] if t >= lag else nothing
                later = backward[t + lag] if t + lag < T else nothing
                codes.append(torch.cat((earlier, later), dim=-1))
        return mean, log_variance.exp() + VARIANCE_FLOOR, codes

    def _both_ways(self, cells: nn.ModuleList, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        found: list[list[Tensor]] = []
        for cell, order in zip(cells, (range(len(x)), reversed(range(len(x)))), strict=True):
            assert isinstance(cell, nn.GRUCell)
            state = x.new_zeros(x.shape[1], cell.hidden_size)
            states = {}
            for t in order:
                states[t] = state = cell(x[t], state)
            found.append([states[t] for t in range(len(x))])
        return found[0], found[1]

    def run(
        self, g0: Tensor, codes: list[Tensor], dropout_mask: Tensor | None, normal: Tensor | None, bins: int
    ) -> tuple[Tensor, Tensor]:
        """Log-rates [T, B, N] and the divergence of the inputs' draws from their prior, [B]."""
        g = self.to_start(g0).clamp(-INITIAL_STATE_LIMIT, INITIAL_STATE_LIMIT)
        f = self._factors(g)
        B = len(g0)
        c = self.controller_initial_state.expand(B, -1) if codes else g
        log_rates, u_before = [], None
        divergence = g.new_zeros(B)
        nothing = g.new_zeros(B, 0)
        for t in range(bins):
            u = nothing
            if codes:
                c = self.controller(torch.cat((codes[t], f), dim=-1), c)
                mean, log_variance = self.inputs(c).chunk(2, dim=-1)
                variance = log_variance.exp() + VARIANCE_FLOOR
                u = mean if normal is None else mean + variance.sqrt() * normal[t]
                divergence = divergence + self._divergence(mean, variance, u, u_before)
                u_before = u
            g = self.generator(u, g)
            f = self._factors(g if dropout_mask is None else g * dropout_mask[t])
            log_rates.append(self.rates(f))
        return torch.stack(log_rates), divergence

    def _factors(self, g: Tensor) -> Tensor:
        return nn.functional.linear(g, nn.functional.normalize(self.factors, dim=-1))

    def _divergence(self, mean: Tensor, variance: Tensor, u: Tensor, before: Tensor | None) -> Tensor:
        """Ln q(u_t) - ln p(u_t | u_(t-1)) of one bin, [B]."""
        innovation = self.input_log_variance.exp() + VARIANCE_FLOOR
        a = (-1 / self.input_log_time_constant.exp()).exp()
        p_mean = torch.zeros_like(u) if before is None else a * before
        p_variance = innovation / (1 - a.square()) if before is None else innovation
        q = torch.distributions.Normal(mean, variance.sqrt())
        p = torch.distributions.Normal(p_mean, p_variance.sqrt().expand_as(u))
        difference: Tensor = q.log_prob(u) - p.log_prob(u)  # type: ignore[no-untyped-call]  # torch has no types here
        return difference.sum(-1)

    def loss(
        self,
        x: Tensor,
        visible: Tensor,
        kept: Tensor,
        target: Tensor,
        dropout_mask: Tensor,
        normal_initial: Tensor,
        normal_inputs: Tensor | None,
        *,
        sv_rate: float,
        ramp: float,
    ) -> Tensor:
        """Return the loss of `models.objective.training_loss` for given masks [T, B, ·] and noise."""
        h = self.hyperparameters
        entered = x * visible * kept / ((1 - sv_rate) * (1 - h.cd_rate))
        mean, variance, codes = self.encode(entered)
        log_rates, kl_inputs = self.run(
            mean + variance.sqrt() * normal_initial, codes, dropout_mask, normal_inputs, len(x)
        )
        nll = log_rates.exp() - x * log_rates + torch.lgamma(x + 1)
        counts = visible & target
        reconstruction = (nll * counts).sum() / counts.sum().clamp(min=1)
        q = torch.distributions.Normal(mean, variance.sqrt())
        p = torch.distributions.Normal(
            self.prior_mean, (self.prior_log_variance.exp() + VARIANCE_FLOOR).sqrt()
        )
        kl = torch.distributions.kl_divergence(q, p).sum(-1).mean()
        penalty = h.kl_weight_initial_condition * kl
        penalty = penalty + h.l2_weight_generator * self.generator.weight_hh.square().mean()
        if self.architecture.has_controller:
            penalty = penalty + h.kl_weight_inputs * kl_inputs.mean()
            penalty = penalty + h.l2_weight_controller * self.controller.weight_hh.square().mean()
        return reconstruction + ramp * penalty

    @torch.no_grad()
    def score(self, x: Tensor, visible: Tensor, sv_rate: float) -> tuple[float, float]:
        """Mean NLL at held-out samples and at those that enter, of posterior means."""
        mean, _, codes = self.encode(x * visible / (1 - sv_rate))
        log_rates, _ = self.run(mean, codes, None, None, len(x))
        nll = log_rates.exp() - x * log_rates + torch.lgamma(x + 1)
        return float(nll[~visible].mean()), float(nll[visible].mean())


class PlainTraining:
    """Epochs of one model: shuffled batches, Adam, clipped gradients, then both validation scores.

    Parameters
    ----------
    model
        To train.
    counts
        [T, trials, N], float32.
    visible
        bool, alike: not held out by sample validation.
    is_validation
        bool [trials].
    options
        Batch size, clipping, ramp.
    sv_rate
        Share of samples held out.
    """

    def __init__(
        self,
        model: PlainLFADS,
        counts: Tensor,
        visible: Tensor,
        is_validation: Tensor,
        options: TrainingOptions,
        sv_rate: float,
    ) -> None:
        self.model, self.counts, self.visible = model, counts, visible
        self.training, self.validation = (
            torch.nonzero(~is_validation).flatten(),
            torch.nonzero(is_validation).flatten(),
        )
        self.options, self.sv_rate, self.epoch = options, sv_rate, 0
        self.optimizer = torch.optim.Adam(
            model.parameters(), lr=model.hyperparameters.learning_rate, betas=ADAM_DECAY, eps=ADAM_EPSILON
        )

    def train_epoch(self) -> list[tuple[float, float]]:
        """One epoch; scores of validation trials, and of as many training trials."""
        order = self.training[torch.randperm(len(self.training), device=self.training.device)]
        for batch in torch.split(order, self.options.batch_size):
            self._step(batch)
        self.epoch += 1
        some = self.training[: len(self.validation)]
        return [
            self.model.score(self.counts[:, trials], self.visible[:, trials], self.sv_rate)
            for trials in (self.validation, some)
        ]

    def _step(self, trials: Tensor) -> None:
        x, visible = self.counts[:, trials], self.visible[:, trials]
        a, h = self.model.architecture, self.model.hyperparameters
        T, B, _ = x.shape
        kept = torch.rand_like(x) >= h.cd_rate
        dropout_mask = (torch.rand(T, B, a.generator_units, device=x.device) >= h.dropout) / (1 - h.dropout)
        normal_inputs = torch.randn(T, B, a.inferred_inputs, device=x.device) if a.has_controller else None
        loss = self.model.loss(
            x,
            visible,
            kept,
            ~kept,
            dropout_mask,
            torch.randn(B, a.initial_condition_dim, device=x.device),
            normal_inputs,
            sv_rate=self.sv_rate,
            ramp=min(1.0, self.epoch / max(1, self.options.ramp_epochs)),
        )
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
        nn.utils.clip_grad_norm_(self.model.parameters(), self.options.gradient_clip)
        self.optimizer.step()


def _cell(parameters: Mapping[str, Tensor], name: str, direction: int | None = None) -> nn.GRUCell:
    """Return a GRU cell that begins with our parameters. Its second bias is free; ours is zero for two gates."""

    def part(of: str) -> Tensor | None:
        values = parameters.get(f"{name}.{of}")
        return values if values is None or direction is None else values[direction]

    recurrent, bias, candidate = part("recurrent_weight"), part("input_bias"), part("candidate_bias")
    assert recurrent is not None
    assert bias is not None
    assert candidate is not None
    H = len(recurrent)
    weight = part("input_weight")
    cell = nn.GRUCell(0 if weight is None else len(weight), H, device=recurrent.device)
    with torch.no_grad():
        if weight is not None:
            cell.weight_ih.copy_(weight.T)
        cell.weight_hh.copy_(recurrent.T)
        cell.bias_ih.copy_(bias)
        cell.bias_hh.zero_()
        cell.bias_hh[2 * H :] = candidate
    return cell


def _linear(
    parameters: Mapping[str, Tensor], name: str, weight: str = "weight", bias: str = "bias"
) -> nn.Linear:
    w = parameters[f"{name}.{weight}"]
    layer = nn.Linear(w.shape[0], w.shape[1], device=w.device)
    with torch.no_grad():
        layer.weight.copy_(w.T)
        layer.bias.copy_(parameters[f"{name}.{bias}"])
    return layer


def checked(architecture: Architecture) -> Architecture:
    """Return the architecture if the plain implementation supports all of it.

    Raises
    ------
    ValueError
        Otherwise.
    """
    a = architecture
    extras = (a.external_inputs, a.read_in_dim, a.initial_condition_bins, a.encoded_bins, *a.held_out_neurons)
    if any(extras) or a.observation != "poisson" or (a.has_controller and a.input_prior != "autoregressive"):
        raise ValueError(f"the plain implementation has no such options: {a}")
    return a
