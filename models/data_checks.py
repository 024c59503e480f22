"""Whether an architecture and training data fit, before anything is trained."""

from __future__ import annotations

from domain.architecture import Architecture
from domain.errors import require
from models.data import TrainingData, evenly
from models.objective import never_read, read_samples

CHECKED_AT_ONCE = 256  # trials


def check_data(architecture: Architecture, data: TrainingData) -> None:
    """Raise `ConfigurationError` unless models of this architecture can be trained on these data, and scored."""
    require(
        architecture.session_neurons == data.neurons,
        f"the architecture is for {architecture.session_neurons} neurons (by session), the data have {data.neurons}",
    )
    require(
        architecture.external_inputs == data.external_inputs,
        f"the architecture is for {architecture.external_inputs} external inputs, the data have "
        f"{data.external_inputs}",
    )
    require(
        architecture.observation == data.observation,
        f"the architecture's observation is {architecture.observation!r}, the data were made for "
        f"{data.observation!r}",
    )
    fewest = architecture.fewest_bins
    require(data.bins >= fewest, f"the model reads {fewest} bins or more, the data have {data.bins}")
    _check_what_counts(architecture, data)


def _check_what_counts(architecture: Architecture, data: TrainingData) -> None:
    """Check that bins with rates have samples to learn from and samples to score."""
    first = architecture.initial_condition_bins
    unread = never_read(architecture, data.bins, data.device)
    number = {"training": 0, "held-out validation": 0, "visible validation": 0}
    for name, trials in (("training", data.training_trials), ("validation", data.validation_trials)):
        for chosen in evenly(trials, CHECKED_AT_ONCE):
            for part in data.batch(chosen).parts:
                visible = part.visible[first:]
                if name == "training":
                    number["training"] += int(visible.sum())
                    continue
                number["held-out validation"] += int(part.held_out[first:].sum())
                number["visible validation"] += int(read_samples(part, unread)[first:].sum())
    for name, found in number.items():
        if name == "held-out validation" and data.sv_rate == 0:
            continue
        require(
            found > 0,
            f"there is no {name} sample after the first {first} bins (initial_condition_bins), where rates begin: "
            "use fewer of them, or longer trials",
        )
