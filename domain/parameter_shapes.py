"""The parameters of a network: their names and shapes. Models are built from them, and costs are derived from them.

E and K units of the encoders, I initial-condition dimensions, C controller units, U inferred inputs, X external inputs, G
generator units, F factors, D read-in dimensions, N neurons, O outputs per neuron.
"""

from domain.architecture import Architecture, ObservationName
from domain.generators import Shape, generator_shapes

OUTPUTS_PER_NEURON: dict[ObservationName, int] = {
    "poisson": 1,
    "negative_binomial": 1,
    "zero_inflated_gamma": 3,
    "gaussian": 1,
}
"""O of each observation model."""
WITH_CONSTANT: tuple[ObservationName, ...] = ("negative_binomial", "gaussian")
"""Observation models with a learned constant per neuron."""


def session_prefix(architecture: Architecture, session: int) -> str:
    """Return what the names of a session's own parameters begin with; nothing when there is one session."""
    return f"session{session}." if len(architecture.session_neurons) > 1 else ""


def parameter_shapes(architecture: Architecture) -> dict[str, Shape]:
    """Map name to shape for one model; in a pack the axis M stands in front. A GRU's 3: reset, update, candidate."""
    a = architecture
    E, I, K = a.encoder_units, a.initial_condition_dim, a.controller_encoder_units  # noqa: E741 (as in the tables of shapes)
    G, F, C = a.generator_units, a.factors, a.controller_units
    U, X, D = a.inferred_inputs, a.external_inputs, a.read_in_dim
    read = D or a.session_neurons[0]  # what the encoders read in a bin
    shapes: dict[str, Shape] = {}
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
            # forward code, backward code, factors, external inputs
            "controller.input_weight": (2 * K + F + X, 3 * C),
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
    of_generator = generator_shapes(a.generator, a.generator_sizes)
    shapes |= {f"generator.{name}": shape for name, shape in of_generator.items()}
    shapes["factors.weight"] = (F, G)
    for session, neurons in enumerate(a.session_neurons):
        prefix, outputs = session_prefix(a, session), OUTPUTS_PER_NEURON[a.observation] * neurons
        shapes |= {f"{prefix}rates.weight": (F, outputs), f"{prefix}rates.bias": (outputs,)}
        if a.observation in WITH_CONSTANT:
            shapes[f"{prefix}rates.constant"] = (neurons,)
    return shapes


def _encoder_shapes(name: str, read: int, units: int) -> dict[str, Shape]:
    """Return the shapes of one encoder: 2 directions, forward and backward in time."""
    return {
        f"{name}.input_weight": (2, read, 3 * units),
        f"{name}.input_bias": (2, 3 * units),
        f"{name}.recurrent_weight": (2, units, 3 * units),
        f"{name}.candidate_bias": (2, units),
    }
