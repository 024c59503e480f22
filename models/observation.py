"""How data arise from the network's outputs: one class per distribution, all behind one protocol.

Shapes: M models, T bins, B trials, N neurons, O outputs per neuron. The read-out gives outputs [M, T, B, O · N], output
o of neuron n in column o · N + n; some distributions have a learned constant per neuron besides, [M, N].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from domain.architecture import ObservationName

GAUSSIAN_VARIANCE_FLOOR = 1e-4


@dataclass(frozen=True)
class DataStatistics:
    """What the training samples of one session come to, each [N]; where the read-out starts from.

    Parameters
    ----------
    mean
        Mean value. Of counts, with half a spike more than was seen: a silent neuron has a finite log-rate.
    variance
        Variance, positive.
    share_above_zero
        Share of the samples above zero, within (0, 1).
    """

    mean: Tensor
    variance: Tensor
    share_above_zero: Tensor


class Observation(ABC):
    """A distribution of one sample given the network's outputs."""

    is_counts: bool
    """Whether the data are spike counts (whole numbers), or continuous."""

    @abstractmethod
    def start(self, statistics: DataStatistics) -> tuple[Tensor, Tensor | None]:
        """Bias of the read-out [O · N] and constant [N] that describe the data without any dynamics."""

    @abstractmethod
    def negative_log_likelihood(
        self, outputs: Tensor, constant: Tensor | None, values: Tensor, ln_factorials: Tensor | None
    ) -> Tensor:
        """-ln p(x | outputs), in nats per sample.

        Parameters
        ----------
        outputs
            [M, T, B, O · N].
        constant
            [M, 1, 1, N], or None.
        values
            x [T, B, N].
        ln_factorials
            ln x! [T, B, N], the part that no model can change; None for continuous data.

        Returns
        -------
        Tensor
            [M, T, B, N].
        """

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """E[x], per bin, [M, T, B, N]: for counts the rate."""


class Poisson(Observation):
    """Spike counts: p(x) = λ^x e^(-λ) / x!, λ = e^y."""

    is_counts = True

    def start(self, statistics: DataStatistics) -> tuple[Tensor, Tensor | None]:
        """Y = ln of the mean count."""
        return statistics.mean.log(), None

    def negative_log_likelihood(
        self, outputs: Tensor, constant: Tensor | None, values: Tensor, ln_factorials: Tensor | None
    ) -> Tensor:
        """λ - x ln λ + ln x!."""
        return torch.addcmul(outputs.exp() + _given(ln_factorials), values, outputs, value=-1)

    def mean(self, outputs: Tensor) -> Tensor:
        """λ."""
        return outputs.exp()


class NegativeBinomial(Observation):
    """Counts more variable than Poisson's: mean μ = e^y, variance μ + μ² / r, r = e^c one constant per neuron.

    p(x) = Γ(x + r) / (Γ(r) x!) · (r / (r + μ))^r · (μ / (r + μ))^x.
    """

    is_counts = True

    def start(self, statistics: DataStatistics) -> tuple[Tensor, Tensor | None]:
        """Y = ln of the mean count, r = e²: a little more variable than Poisson's."""
        return statistics.mean.log(), torch.full_like(statistics.mean, 2.0)

    def negative_log_likelihood(
        self, outputs: Tensor, constant: Tensor | None, values: Tensor, ln_factorials: Tensor | None
    ) -> Tensor:
        """Ln Γ(r) - ln Γ(x + r) + ln x! + r (ln(r + μ) - ln r) + x (ln(r + μ) - ln μ)."""
        ln_r = _given(constant)
        r = ln_r.exp()
        ln_sum = torch.logaddexp(ln_r, outputs)
        shape = torch.lgamma(r) - torch.lgamma(values + r) + _given(ln_factorials)
        return shape + r * (ln_sum - ln_r) + values * (ln_sum - outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        """μ."""
        return outputs.exp()


class Gaussian(Observation):
    """Field potentials and other signed signals: mean y, variance e^c + 1e-4, one constant per neuron.

    For signals of about unit variance: scale others, the floor and the read-out's random start are absolute.
    """

    is_counts = False

    def start(self, statistics: DataStatistics) -> tuple[Tensor, Tensor | None]:
        """Mean and variance of the data."""
        return statistics.mean, statistics.variance.log()

    def negative_log_likelihood(
        self, outputs: Tensor, constant: Tensor | None, values: Tensor, ln_factorials: Tensor | None
    ) -> Tensor:
        """½ ln 2πσ² + (x - y)² / 2σ²."""
        variance = _given(constant).exp() + GAUSSIAN_VARIANCE_FLOOR
        return 0.5 * ((values - outputs).square() / variance + (2 * math.pi * variance).log())

    def mean(self, outputs: Tensor) -> Tensor:
        """Y."""
        return outputs


class ZeroInflatedGamma(Observation):
    """Deconvolved calcium events (Zhu et al. 2022): zero with probability 1 - q, else Gamma with shape α and rate β.

    q = σ(y₀), α = e^(y₁), β = e^(y₂): three outputs per neuron and bin.
    """

    is_counts = False

    def start(self, statistics: DataStatistics) -> tuple[Tensor, Tensor | None]:
        """Q is the share above zero, α = 1, and β gives the mean."""
        share = statistics.share_above_zero
        rate = share / statistics.mean.clamp(min=1e-6)  # q α / β = mean
        return torch.cat((share.logit(), torch.zeros_like(share), rate.log())), None

    def negative_log_likelihood(
        self, outputs: Tensor, constant: Tensor | None, values: Tensor, ln_factorials: Tensor | None
    ) -> Tensor:
        """-ln(1 - q) at zero; ln Γ(α) - ln q - α ln β - (α - 1) ln x + β x above."""
        y_q, ln_shape, ln_rate = outputs.chunk(3, dim=-1)
        above = values > 0
        x = torch.where(above, values, 1.0)  # where zero: any positive number, its likelihood is not taken
        shape = ln_shape.exp()
        event = torch.lgamma(shape) - shape * ln_rate - (shape - 1) * x.log() + ln_rate.exp() * x
        log_sigmoid = torch.nn.functional.logsigmoid
        return torch.where(above, event - log_sigmoid(y_q), -log_sigmoid(-y_q))

    def mean(self, outputs: Tensor) -> Tensor:
        """Q α / β."""
        y_q, ln_shape, ln_rate = outputs.chunk(3, dim=-1)
        return y_q.sigmoid() * (ln_shape - ln_rate).exp()


def _given(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


OBSERVATIONS: dict[ObservationName, Observation] = {
    "poisson": Poisson(),
    "negative_binomial": NegativeBinomial(),
    "zero_inflated_gamma": ZeroInflatedGamma(),
    "gaussian": Gaussian(),
}
