"""The bin width in seconds: from the options, the file, its time axis, or its true rates."""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from domain.dataset_options import DatasetOptions
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.time_units import trial_seconds, unit_of

SECONDS_PER_UNIT = {
    "bin_width_s": 1.0, "bin_size_s": 1.0, "dt_s": 1.0, "dt": 1.0, "bin_width_ms": 1e-3, "bin_size_ms": 1e-3,
    "dt_ms": 1e-3,
}  # fmt: skip
"""Names under which a file may give its bin width, and the value of one unit in seconds."""

_UNIT_OF_WIDTH = {
    "binwidth": "", "binsize": "", "binwidths": "s", "binsizes": "s", "binwidthms": "ms", "binsizems": "ms",
}  # fmt: skip
"""Other names, without case and punctuation, and their unit; without a unit, numbers from 1 on are milliseconds."""


def stated_width(name: str, value: float, notes: list[str]) -> tuple[str, float] | None:
    """Return a key of `SECONDS_PER_UNIT` and the value, if the name is that of a bin width; a note reports a guessed unit."""
    base = re.split(r"[./]", name)[-1]
    if base in SECONDS_PER_UNIT:
        return base, value
    unit = _UNIT_OF_WIDTH.get(re.sub(r"[^a-z]", "", base.lower()))
    if unit is None:
        return None
    if not unit:
        unit = "ms" if value >= 1 else "s"
        notes.append(f"`{name}`, {value:g}, was read as a bin width in {unit}.")
    return f"bin_width_{unit}", value


TIME_AXIS = re.compile(
    r"(t|time|times|time_?stamps?|time_data|time_axis|time_vec(tor)?|tvec|time_?points?|(time_?)?bins?|bin_times?"
    r"|(time_?)?bin_?cent(er|re)s?|((time_?)?bin_?|time_)?edges?)(_s|_ms)?"
)
"""Names under which a file may give the time of each bin, or of each edge of a bin, in seconds unless they end with `_ms`."""

COMMON_WIDTHS_S = (0.001, 0.002, 0.004, 0.005, 0.008, 0.010, 0.020, 0.025, 0.040, 0.050, 0.100)
FIT_TOLERANCE = 0.04
"""True rates in Hz give the bin width if they fit a common one within this relative tolerance."""


def is_even(times: NDArray[Any]) -> bool:
    """Return whether values increase in equal steps, as the times of bins do."""
    return _step(times.astype(np.float64)) is not None


@dataclass
class BinWidthClues:
    """Everything in one upload that may give its bin width.

    Attributes
    ----------
    option_s
        Bin width of the request, in seconds.
    stated
        Bin widths in the file: name (one of `SECONDS_PER_UNIT`) → value in that name's unit.
    time_axes_s
        Time axes of the file: name → times of the bins, float [bins].
    counts_per_true_rate
        All spikes divided by the sum of all true rates: the bin width if those are in Hz, 1 if in counts per
        bin.
    usual
        The default of this format: text that explains it, and the bin width in seconds.
    """

    option_s: float | None = None
    stated: dict[str, float] = field(default_factory=dict)
    time_axes_s: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    counts_per_true_rate: float | None = None
    usual: tuple[str, float] | None = None

    def add_time_axis(self, name: str, values: NDArray[Any], options: DatasetOptions) -> None:
        """Add the times of the bins, in the unit that the options or the name give, else in seconds.

        Integers in steps of 1 without a unit are numbers of bins and do not give their width.
        """
        times = values.reshape(-1).astype(np.float64)
        unit = options.trial_time_unit or unit_of(name) or options.time_unit
        if values.dtype.kind == "f" or _step(times) != 1.0 or unit is not None:
            self.time_axes_s[name] = trial_seconds(times, options, name)

    def settle(self, notes: list[str], warnings: list[Problem]) -> float:
        """Return the bin width in seconds, and write its source into `notes` and `warnings`.

        Raises
        ------
        RejectedFile
            If nothing gives the bin width.
        """
        width_s = self._find(notes, warnings)
        for name, times_s in self.time_axes_s.items():
            step_s = _step(times_s)
            if step_s is None or not math.isclose(step_s, width_s, rel_tol=0.01):
                warnings.append(_axis_disagrees(name, step_s, width_s))
        return width_s

    def _find(self, notes: list[str], warnings: list[Problem]) -> float:
        stated = {name: value * SECONDS_PER_UNIT[name] for name, value in self.stated.items()}
        if self.option_s is not None:
            for name, width_s in stated.items():
                if not math.isclose(width_s, self.option_s, rel_tol=0.01):
                    warnings.append(_overridden(name, width_s, self.option_s))
            notes.append(f"bin_width_s {self.option_s:g} was given with the upload.")
            return self.option_s
        if stated:
            return _from_file(stated, notes)
        for name, times_s in self.time_axes_s.items():
            step_s = _step(times_s)
            if step_s is not None:
                warnings.append(_derived(f"the step of the time axis `{name}`", step_s))
                return step_s
        fitting_s = self._from_true_rates()
        if fitting_s is not None:
            warnings.append(_derived("the ratio of spike counts to the true rates, taken as Hz", fitting_s))
            return fitting_s
        if self.usual is not None:
            warnings.append(_derived(*self.usual))
            return self.usual[1]
        raise RejectedFile(bin_width_missing())

    def _from_true_rates(self) -> float | None:
        ratio = self.counts_per_true_rate
        if ratio is None or not ratio > 0:
            return None
        nearest = min(COMMON_WIDTHS_S, key=lambda width_s: abs(math.log(ratio / width_s)))
        return nearest if abs(ratio / nearest - 1) <= FIT_TOLERANCE else None


def bin_width_missing() -> Problem:
    """Return the problem of counts in bins of unknown width."""
    return Problem(
        "bin_width_missing",
        "The file does not give the bin width, and nothing in it implies one.",
        "Give bin_width_s with the upload, in seconds (0.010 for 10 ms), or store it in the file as "
        "`bin_width_s` (an array of an NPZ; an attribute or data set of an HDF5 file; a column of a table).",
        "/bin_width_s",
    )


def _from_file(stated_s: dict[str, float], notes: list[str]) -> float:
    (name, width_s), *others = stated_s.items()
    for other, other_s in others:
        if not math.isclose(width_s, other_s, rel_tol=0.01):
            raise rejected(
                "bin_width_contradictory",
                f"`{name}` gives a bin width of {width_s:g} s, and `{other}` gives {other_s:g} s.",
                "Remove one of them from the file, or give bin_width_s with the upload.",
                f"/{other}",
            )
    notes.append(f"The bin width, {width_s:g} s, was read from `{name}`.")
    return width_s


def _step(times_s: NDArray[np.floating]) -> float | None:
    """Return the step of an even time axis, or None if the axis is uneven or too short."""
    if times_s.size < 2 or not np.isfinite(times_s).all():
        return None
    steps_s = np.diff(times_s)
    width_s = float(np.mean(steps_s))
    even = width_s > 0 and float(np.abs(steps_s - width_s).max()) <= 0.01 * width_s
    return float(f"{width_s:.6g}") if even else None


def _axis_disagrees(name: str, step_s: float | None, width_s: float) -> Problem:
    found = "is uneven" if step_s is None else f"has a step of {step_s:g}"
    said = f"The time axis `{name}` {found}, while bins are {width_s:g} s wide; it was not used."
    hint = "Check bin_width_s, and that the time axis is in seconds."
    return Problem("time_axis_disagrees", said, hint, f"/{name}")


def _overridden(name: str, width_s: float, option_s: float) -> Problem:
    return Problem(
        "bin_width_overridden",
        f"The file says in `{name}` that a bin is {width_s:g} s wide; the upload says {option_s:g} s, "
        "which was used.",
        "If the file is right, upload it again without bin_width_s.",
        "/bin_width_s",
    )


def _derived(source: str, width_s: float) -> Problem:
    return Problem(
        "bin_width_derived",
        f"The file does not state its bin width: {width_s:g} s was taken from {source}.",
        "If this is wrong, upload again with bin_width_s.",
        "/bin_width_s",
    )


def implausible_width(width_s: float) -> tuple[Problem | None, Problem | None]:
    """Check whether a bin width is plausible.

    Returns
    -------
    fatal, odd
        A reason to reject (not positive, under a microsecond, or 5 s and more) and a reason to warn (1 s and more, or under
        0.1 ms).
    """
    pointer = "/bin_width_s"
    if not (math.isfinite(width_s) and width_s > 0):
        said = f"bin_width_s is {width_s:g}: expected a positive number of seconds."
        return Problem(
            "bin_width_invalid", said, "Give the width of a bin in seconds: 0.010 for 10 ms.", pointer
        ), None
    meant = f"did you mean {width_s / 1000:.3f} s?"
    if width_s >= 5:
        hint = "Bin widths are in seconds, not milliseconds: upload again with the width in seconds."
        return Problem("bin_width_too_large", f"bin_width_s is {width_s:g}: {meant}", hint, pointer), None
    if width_s >= 1:
        hint = "If the width is in milliseconds, upload again with it in seconds; else ignore this."
        return None, Problem("bin_width_large", f"bin_width_s is {width_s:g}: {meant}", hint, pointer)
    if width_s < 1e-6:
        said = f"bin_width_s is {width_s:g}, less than a microsecond."
        hint = "Check the unit: the width of a bin is in seconds, 0.010 for 10 ms."
        return Problem("bin_width_too_small", said, hint, pointer), None
    if width_s < 1e-4:
        said = f"bin_width_s is {width_s:g}, less than a tenth of a millisecond."
        hint = (
            "Latent dynamics are found in bins of 1 to 100 ms: check the unit (seconds), or bin the "
            "spikes wider."
        )
        return None, Problem("bin_width_small", said, hint, pointer)
    return None, None
