"""Decoding of behaviour from latents: the samples, the decoders, and the predictions for held-out trials."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import zarr
from numpy.typing import NDArray

from api.analyses.trajectories import TIME, Trajectories
from api.arrays.groups import dims_of
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.messages import invalid_parameter
from domain.cancellation import cancellation_point
from domain.errors import NoValues
from domain.scores.distances import centre_of
from domain.scores.ridge import NOWHERE, Division, Fitted, decode, divide, divide_in_folds
from domain.split_groups import SplitGroups

T = TypeVar("T")
Floats = NDArray[np.float64]
HeldOut = Literal["folds", "valid", "test"]

MOST_FEATURES, MOST_OUTPUTS = 500, 50
MOST_SUMS = 2**24
"""Most products of columns, of all folds: 128 MiB."""
TOLERANCE = 1e-3
"""Share of a bin width by which the times of latents and behaviour may differ."""


def behaviours_in(group: zarr.Group) -> list[str]:
    """Return the names of the behaviours of a data set: arrays of dims (trial, time_s, …_component)."""
    found = [(name, dims_of(array)) for name, array in group.arrays()]
    return sorted(
        name
        for name, dims in found
        if len(dims) == 3 and dims[0].startswith("trial") and dims[1] == TIME and "_component" in dims[2]
    )


class computed_once(Generic[T]):  # noqa: N801 (a decorator)
    """A property that is computed when it is first read.

    `functools.cached_property` of Python 3.11 holds a lock of all instances meanwhile, so a paused one would block the others.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self.__doc__ = compute, compute.__doc__

    def __get__(self, instance: Any, owner: type) -> T:
        found = vars(instance)[self._compute.__name__] = self._compute(instance)
        return found


class KeptTrials:
    """Trajectories by trial, in a temporary file: trials can be read in any order, with constant memory."""

    def __init__(self, trajectories: Trajectories) -> None:
        self.array = trajectories.array
        self._shape = (trajectories.bins, trajectories.components)
        self._row_bytes = 8 * self._shape[0] * self._shape[1]
        self._row = {int(trial): row for row, trial in enumerate(trajectories.trials)}
        self._file = tempfile.TemporaryFile(prefix="latentry-trials-")  # noqa: SIM115 (closed with this object)
        self.sum, self.known = np.zeros(self._shape[1]), 0
        self.known_trials: set[int] = set()
        for rows, values in trajectories.blocks():
            self._file.write(np.ascontiguousarray(values).tobytes())
            is_known = np.asarray(np.isfinite(values).all(2))
            self.known_trials |= set(trajectories.trials[rows][is_known.any(1)].tolist())
            states = values[is_known]
            self.sum, self.known = self.sum + states.sum(0), self.known + len(states)

    def of(self, trial: int) -> Floats | None:
        """Return the values of a trial, [bins, K]; None if it has none."""
        row = self._row.get(trial)
        if row is None:
            return None
        self._file.seek(row * self._row_bytes)
        return np.frombuffer(self._file.read(self._row_bytes), np.float64).reshape(self._shape)


@dataclass(frozen=True)
class Decoding:
    """A decoding of behaviour from latents.

    Attributes
    ----------
    latents, behaviour
        The features, and what is decoded.
    lag_bins, bin_width_s
        Number of bins by which the behaviour follows the latents, and their width.
    held_out, folds, seed
        Which trials decoders are tested on.
    groups
        [rows of the latents], trials that belong together.
    split
        [rows of the latents], split of each trial; None if there is none.
    """

    latents: Trajectories
    behaviour: Trajectories
    lag_bins: int
    bin_width_s: float
    held_out: HeldOut
    folds: int
    seed: int
    groups: SplitGroups
    split: NDArray[np.str_] | None

    def __post_init__(self) -> None:
        for parameter, asked, most in (
            ("array", self.latents, MOST_FEATURES),
            ("behaviour", self.behaviour, MOST_OUTPUTS),
        ):
            if asked.time_s is None:
                raise invalid_parameter(
                    parameter, f"expected an array with time; {asked.array.name} has none"
                )
            if not 1 <= asked.components <= most:
                raise invalid_parameter(
                    parameter,
                    f"expected 1 to {most} components; {asked.array.name} has {asked.components}",
                    "components= takes principal components",
                )
        if len(self.latents.trials) < 3:
            raise invalid_parameter(
                "array",
                f"decoding is cross-validated and needs 3 trials; {len(self.latents.trials)} are selected",
            )
        sums = self.folds * (self.folds + 2) * (self.latents.components + self.behaviour.components + 1) ** 2
        if sums > MOST_SUMS:
            raise invalid_parameter(
                "folds",
                f"{self.folds} folds of {self.latents.components} components are {sums:,} sums; at most {MOST_SUMS:,} are kept",
                "fewer folds, or principal components of the latents: components=",
            )

    @computed_once
    def bins(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the bins of the latents, and the bins of the behaviour one lag later, where both exist."""
        latents_s, behaviour_s = self.latents.time_s, self.behaviour.time_s
        assert latents_s is not None
        assert behaviour_s is not None
        width_s = self.bin_width_s
        wanted_s = latents_s + self.lag_bins * width_s
        at = np.searchsorted(behaviour_s, wanted_s - width_s / 2)
        inside = np.flatnonzero(at < len(behaviour_s))
        same = np.abs(behaviour_s[at[inside]] - wanted_s[inside]) < TOLERANCE * width_s
        return inside[same], at[inside[same]]

    @computed_once
    def kept(self) -> KeptTrials:
        """Return the behaviour by trial."""
        return KeptTrials(self.behaviour)

    @computed_once
    def divisions(self) -> list[Division]:
        """Return which trials are fitted on and tested on; trials that belong together are on one side.

        Raises
        ------
        Invalid
            If there are too few trials, or groups of trials, to fit and to choose a penalty.
        """
        found = self._divisions()
        poor = next((number for number, one in enumerate(found) if not one.can_choose), None)
        if poor is not None:
            fitted = int(found[poor].is_fitted.sum())
            raise invalid_parameter(
                "folds" if self.held_out == "folds" else "held_out",
                f"expected at least two trials without shared bins, to fit decoder {poor} and choose its penalty; got {fitted}. "
                f"The {len(self.groups)} selected trials form {self.groups.number} recorded trials or stretches of time, and "
                f"{found[poor].left_out} of them share bins with the tested trials",
                "select more trials, change folds, or derive a data set with shorter windows or less overlap",
            )
        return found

    @property
    def keeps_groups_together(self) -> bool:
        """Return whether no decoder is tested on trials of a group that it is fitted on."""
        return not any(
            np.isin(self.groups.group[one.is_fitted], self.groups.group[one.part == one.parts]).any()
            for one in self.divisions
        )

    def _divisions(self) -> list[Division]:
        """Divide the trials that have behaviour; other trials are in no part."""
        rows = np.flatnonzero(np.isin(self.latents.trials, list(self.kept.known_trials)))
        if len(rows) == 0:
            raise self._nothing_to_decode()
        found = []
        for one in self._divisions_of(rows):
            part = np.full(len(self.latents.trials), NOWHERE, np.int64)
            part[rows] = one.part
            found.append(replace(one, part=part))
        return found

    def _divisions_of(self, rows: NDArray[np.int64]) -> list[Division]:
        groups = self.groups.take(rows)
        if self.held_out == "folds":
            if self.folds > len(rows):
                raise invalid_parameter(
                    "folds",
                    f"expected at most one for each trial; {len(rows)} selected trials have behaviour",
                )
            return divide_in_folds(groups, self.folds, self.seed)
        part = self.held_out
        if self.split is None:
            raise invalid_parameter(
                "held_out", f"{part} needs a split; these trials have none", "held_out=folds needs none"
            )
        parts = ("train",) if part == "valid" else ("train", "valid")
        split = self.split[rows]
        fitted, tested = np.isin(split, parts), split == part
        if fitted.sum() < 2 or not tested.any():
            raise invalid_parameter(
                "held_out",
                f"{part} needs two trials to fit the decoder on, and a {part} trial; {fitted.sum()} and {tested.sum()} are "
                "selected",
                "held_out=folds needs no split",
            )
        return [divide(fitted, tested, groups, folds=self.folds, seed=self.seed)]

    def _nothing_to_decode(self) -> Exception:
        return invalid_parameter(
            "behaviour",
            "no selected bin has both latents and behaviour",
            "choose other trials, bins or lag_s",
        )

    @computed_once
    def fitted(self) -> list[Fitted]:
        """Return the decoder of each division."""
        try:
            found = decode(
                self._samples(), self.divisions, self.latents.components, self.behaviour.components
            )
        except np.linalg.LinAlgError:
            raise invalid_parameter(
                "array", "the selected latents do not vary", "choose other trials or bins"
            ) from None
        if not any(one.tested_samples for one in found) or not any(one.fitted_samples for one in found):
            raise self._nothing_to_decode()
        return found

    def _samples(self) -> Iterator[tuple[int, Floats, Floats]]:
        from_bins, to_bins = self.bins
        for row, states, behaviour in self._trials():
            x, y = states[from_bins] - self._centre, behaviour[to_bins] - self._mean
            known = np.isfinite(x).all(1) & np.isfinite(y).all(1)
            self._known[row] = known
            yield row, x[known], y[known]

    @computed_once
    def _known(self) -> NDArray[np.bool_]:
        """Return where both are finite, bool [rows, bins]; filled when the decoders are fitted."""
        return np.zeros((len(self.latents.trials), len(self.bins[0])), np.bool_)

    def fit_others(self, features: int, of_trial: Callable[[int], Floats]) -> list[Fitted]:
        """Return decoders of the same samples, in the same folds, from other features.

        Parameters
        ----------
        features
            Number of features.
        of_trial
            Returns [bins of the latents, features] of a trial of the data set, all finite.
        """
        assert self.fitted  # fills `_known`
        from_bins, to_bins = self.bins

        def samples() -> Iterator[tuple[int, Floats, Floats]]:
            for row in np.flatnonzero(self._known.any(1)).tolist():
                trial, known = int(self.latents.trials[row]), self._known[row]
                behaviour = self.kept.of(trial)
                assert behaviour is not None
                cancellation_point()
                yield row, of_trial(trial)[from_bins][known], behaviour[to_bins][known] - self._mean

        return decode(samples(), self.divisions, features, self.behaviour.components)

    def _trials(self) -> Iterator[tuple[int, Floats, Floats]]:
        """Yield (row, latents [bins, D], behaviour [bins, K]) of each trial that has both."""
        for rows, values in self.latents.blocks():
            for row, states in zip(range(rows.start, rows.stop), values, strict=True):
                behaviour = self.kept.of(int(self.latents.trials[row]))
                cancellation_point()
                if behaviour is not None:
                    yield row, states, behaviour

    @computed_once
    def _centre(self) -> Floats:
        """Return what is subtracted from the latents, so that sums of squares lose no digits."""
        try:
            return centre_of(self.latents)
        except NoValues:
            return np.zeros(self.latents.components)

    @computed_once
    def _mean(self) -> Floats:
        return self.kept.sum / max(1, self.kept.known)

    @computed_once
    def tested_rows(self) -> NDArray[np.int64]:
        """Return the rows of the latents that are predicted, in order."""
        return np.flatnonzero(self._division_of >= 0)

    @computed_once
    def _division_of(self) -> NDArray[np.int64]:
        found = np.full(len(self.latents.trials), NOWHERE)
        for number, division in enumerate(self.divisions):
            found[division.part == division.parts] = number
        return found

    def predictions(self) -> LabelledArray:
        """Return the decoded behaviour of trials that the decoder was not fitted on, in the bins of the behaviour.

        It is NaN in bins without latents one lag before.
        """
        fitted, true = self.fitted, self.behaviour.array
        bins, outputs = self.behaviour.bins, self.behaviour.components
        along_trials = self.latents.array.along(self.latents.array.dims[0])
        dims = (self.latents.array.dims[0], *true.dims[1:])
        coordinates: tuple[Coordinate, ...] = (
            *(one.taken(self.tested_rows) for one in along_trials),
            *(one for dim in true.dims[1:] for one in true.along(dim)),
        )

        def blocks() -> Iterator[NDArray[np.float32]]:
            from_bins, to_bins = self.bins
            for rows, values in self.latents.blocks():
                mine = np.flatnonzero(self._division_of[rows] >= 0)
                block = np.full((len(mine), bins, outputs), np.nan, np.float32)
                for place, row in enumerate(mine):
                    weights = fitted[self._division_of[rows.start + row]].weights
                    states = values[row, from_bins] - self._centre
                    block[place, to_bins] = states @ weights[:-1] + weights[-1] + self._mean
                if len(block):
                    yield block.reshape(len(block), *true.shape[1:])

        return replace(
            true,
            name=f"{true.name}_decoded",
            dims=dims,
            shape=(len(self.tested_rows), *true.shape[1:]),
            dtype=np.dtype(np.float32),
            description=f"{true.name}, decoded from {self.latents.array.name}",
            coordinates=coordinates,
            attributes={**true.attributes, "held_out": self.held_out, "lag_bins": self.lag_bins},
            blocks=blocks,
        )
