"""What the name of a vector tells about its axis: trials, bins or neurons."""

import re
from typing import Literal

from worker.ingest.bin_width import TIME_AXIS

Role = Literal["trial", "bin", "neuron"]

_NEURON = re.compile(
    r"neuron|unit|cluster|channel|electrode|(^|[^a-z])(cell|chan|elec|ch)s?([^a-z]|$)|^pref|tuning"
)
_TRIAL = re.compile(
    r"trial|trl|(^|[^a-z])(cond|direction|rt|reaction|outcome|target|correct|choice|chosen|stim|response|reward|success"
    r"|angle|orientation|contrast|coherence|cue|go|hit|error|decision|split|maze|reach|movement|difficulty|odou?r)"
)
_LIKELY_NEURON = re.compile(
    r"depth|region|area|layer|hemisphere|quality|snr|isolation|probe|shank|waveform|(^|[^a-z])(site|loc)"
)


def is_of_neurons(name: str) -> bool:
    """Return whether a name says that it is about neurons."""
    return _NEURON.search(_words(name)) is not None


def is_of_bins(name: str) -> bool:
    """Return whether a name says that it is about bins or times, such as `bin_number`."""
    own = base_of(name)
    return TIME_AXIS.fullmatch(own) is not None or re.search(r"(^|_)bins?(_|$)", own) is not None


def fits_bins(name: str, length: int, bins: int) -> bool:
    """Return whether a vector has a value for each of some bins; if its name says so, also for each edge of them."""
    has_edges = re.search("bins|edge", base_of(name)) is not None
    return length == bins or (has_edges and length == bins + 1)


def is_likely_of_neurons(name: str) -> bool:
    """Return whether a name is mostly used for neurons, such as `depth`, or says that it is about them."""
    return is_of_neurons(name) or _LIKELY_NEURON.search(_words(base_of(name))) is not None


def is_of_trials(name: str) -> bool:
    """Return whether a name says that it is about trials."""
    return _TRIAL.search(_words(name)) is not None


def role_of(name: str, spikes: str = "") -> Role | None:
    """Return the axis that the name of a vector tells: `trial`, `neuron`, or None if it tells neither or both.

    Parameters
    ----------
    name
        Path of the vector in the file.
    spikes
        Path of the spikes. A group or struct that holds both is ignored.
    """
    parts = re.split(r"[./]", name)
    around = re.split(r"[./]", spikes)
    while len(parts) > 1 and len(around) > 1 and parts[0] == around[0]:
        parts, around = parts[1:], around[1:]
    own = ".".join(parts)
    of_neurons, of_trials = is_of_neurons(own), is_of_trials(own)
    if re.search(r"(^|[^a-z])(pref|tuning)", _words(parts[-1])):
        return "neuron"
    if of_neurons == of_trials:
        return None
    return "neuron" if of_neurons else "trial"


def _words(name: str) -> str:
    """Return a name in small letters, its words apart: `reactionTime` becomes `reaction_time`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def base_of(name: str) -> str:
    """Return the last part of a path, in small letters."""
    return re.split(r"[./]", name)[-1].lower()
