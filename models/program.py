"""A trained model as a program of its operations: from spikes to latents without this package.

`torch.export` writes `models.network.forward` down as a graph of torch's operations,
with the weights in it. Where the service averages over draws from the posterior, the program takes the posterior's means: it
gives the same for the same spikes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from domain.architecture import Architecture
from domain.errors import require
from domain.latents import LATENTS
from models.model_state import checked_parameters
from models.network import forward, trials_first
from models.observation import OBSERVATIONS

_EXAMPLE_TRIALS = 3


class PosteriorMeans(nn.Module):
    """Latents at the posterior's means, of trials that are all recorded in all their bins.

    Parameters
    ----------
    architecture
        Of the model.
    weights
        Each parameter by its name, without the axis of models.
    bin_width_s
        Of the data that the model was trained on, in seconds.
    session
        Whose neurons are read and predicted, where the model was trained on several sessions.
    """

    is_read: Tensor
    """float32 [N]: 0 at held-out neurons, else 1."""

    def __init__(
        self, architecture: Architecture, weights: Mapping[str, Tensor], bin_width_s: float, session: int = 0
    ) -> None:
        super().__init__()
        sessions = len(architecture.session_neurons)
        require(0 <= session < sessions, f"session must lie in 0 … {sessions - 1}, got {session}")
        self.architecture, self.session, self._bin_width_s = architecture, session, bin_width_s
        parameters = checked_parameters(architecture, weights)
        self._names = {name: name.replace(".", "_") for name in parameters}
        for name, values in parameters.items():
            self.register_buffer(self._names[name], values.detach().clone())
        is_read = torch.ones(architecture.session_neurons[session])
        is_read[list(architecture.held_out_neurons)] = 0
        self.register_buffer("is_read", is_read)

    def forward(self, spikes: Tensor, external_inputs: Tensor | None = None) -> dict[str, Tensor]:
        """Infer the latents.

        Parameters
        ----------
        spikes
            float32 [trials, T, N], counts per bin (continuous data: values).
        external_inputs
            float32 [trials, T, X], exactly for models with external inputs.

        Returns
        -------
        dict[str, Tensor]
            By name (`domain.latents`): float32 [trials, T, ·], initial conditions [trials, I]. Rates are per second; for
            continuous data they are the expected values per bin width. NaN in the bins before the generator begins.
        """
        architecture, session = self.architecture, self.session
        parameters = {name: self.get_buffer(buffer) for name, buffer in self._names.items()}
        T = spikes.shape[1]
        first, neurons = architecture.initial_condition_bins, architecture.session_neurons
        x = (spikes * self.is_read).transpose(0, 1)
        inputs = [x.new_zeros(1, T, 0, number) for number in neurons]
        inputs[session] = x[None]
        external = None if external_inputs is None else external_inputs.transpose(0, 1)
        found = forward(architecture, parameters, inputs, external=external)
        rates = OBSERVATIONS[architecture.observation].mean(found.outputs[session]) / self._bin_width_s
        latents = {
            "rates": trials_first(rates[0], first),
            "factors": trials_first(found.factors[0], first),
            "initial_conditions": found.initial_condition.mean[0],
            "inputs": None if found.inputs is None else trials_first(found.inputs[0], first),
            "generator_states": trials_first(found.states[0], first),
        }
        return {name: values for name, values in latents.items() if values is not None}


def least_bins(architecture: Architecture) -> int | None:
    """Return the fewest bins of a trial that an exported program takes; None: it takes trials of one length only."""
    if architecture.has_controller and architecture.encoded_bins:
        return None  # how its codes are shifted depends on how many bins are not encoded
    lag = architecture.controller_lag_bins if architecture.has_controller else 0
    return max(architecture.initial_condition_bins + lag + 2, architecture.encoded_bins)


def export(model: PosteriorMeans, bins: int) -> ExportedProgram:
    """Export a model as a graph of torch operations.

    Parameters
    ----------
    model
        The model.
    bins
        T, of the data that it was trained on.

    Returns
    -------
    ExportedProgram
        It takes any number of trials, each of any length from `least_bins` on; where that is None, of `bins`.
    """
    architecture, least = model.architecture, least_bins(model.architecture)
    sizes = {0: Dim("trials"), 1: Dim.STATIC if least is None else Dim("bins", min=least)}
    widths = [architecture.session_neurons[model.session]]
    widths += [architecture.external_inputs] if architecture.external_inputs else []
    length = bins if least is None else least + 3
    example = tuple(torch.zeros(_EXAMPLE_TRIALS, length, width) for width in widths)
    torch.compiler.reset()  # what an earlier export found of other sizes would count as a condition of this one
    with torch.no_grad():
        return torch.export.export(model, example, dynamic_shapes=tuple(sizes for _ in widths), strict=False)


def torch_program(model: PosteriorMeans, bins: int) -> bytes:
    """Export a model as the bytes that `torch.export.load` reads; arguments as in `export`."""
    file = io.BytesIO()
    torch.export.save(export(model, bins), file)
    return file.getvalue()


def onnx_program(model: PosteriorMeans, bins: int) -> bytes:
    """Export a model as an ONNX model, for runtimes other than torch; arguments as in `export`.

    Raises
    ------
    ImportError
        If the packages of the extra `onnx` are not installed.
    """
    names = [name for name in LATENTS if name != "inputs" or model.architecture.has_controller]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about torch
        program = torch.onnx.export(export(model, bins), dynamo=True, output_names=names, verbose=False)
    assert program is not None
    serialized: bytes = program.model_proto.SerializeToString()
    return serialized
