"""Which bins and neurons of a trial a model reads, and which it only predicts."""

from collections.abc import Sequence
from typing import Protocol


class ReadingArchitecture(Protocol):
    """The fields of an architecture that say what a model reads; see `domain.architecture`."""

    @property
    def encoded_bins(self) -> int:
        """Bins that the model reads; 0 stands for all."""

    @property
    def held_out_neurons(self) -> Sequence[int]:
        """Neurons that the model never reads."""


def fewest_bins(encoded_bins: int, initial_condition_bins: int) -> int:
    """Return the fewest bins of a trial: all that are read, and one at which the generator can begin."""
    return max(encoded_bins, initial_condition_bins + 1)


def leaves_unread(architecture: ReadingArchitecture, bins: int) -> bool:
    """Return whether a model predicts samples of trials that it never reads: of held-out neurons, or of later bins."""
    return bool(architecture.held_out_neurons) or 0 < architecture.encoded_bins < bins
