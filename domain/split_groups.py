"""Split groups: one rule for the split of a data set, the split of a job and the folds of an analysis.

Trials belong to one group if they are windows of one recorded trial, or share bins in time. All trials of a group go into one
part. If that is impossible (a continuous recording, too few groups, a long chain of overlapping trials), the parts are blocks of
time. Trials that share bins with a trial of another part are then left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Split = Literal["train", "valid", "test", "gap"]
"""Part of a trial. Trials of a gap share bins with two parts: they are neither trained on nor scored."""
SPLITS: tuple[Split, ...] = ("train", "valid", "test", "gap")

FEWEST_GROUPS_TO_DRAW = 5
"""With fewer groups, the parts of a split are blocks of time."""
TOLERANCE = 1e-3
"""In bins. A smaller overlap does not count as a shared bin, because times are rounded."""


@dataclass(frozen=True)
class SplitGroups:
    """The split groups of trials, and the position of each trial in its group.

    Attributes
    ----------
    group : int64, [trials]
        Group of each trial, counted from 0 in the order of their first trials.
    first_bin : float64, [trials]
        Where the trial begins within its group, in bins.
    bins : int64, [trials]
        Length of each trial.
    """

    group: Integers
    first_bin: NDArray[np.float64]
    bins: Integers

    @classmethod
    def of(
        cls, group: Sequence[int | None], first_bin: Sequence[float | None], bins: Sequence[int] | Integers
    ) -> Self:
        """Return the groups from the columns of the database; a trial whose group is None forms a separate group."""
        numbers: dict[int, int] = {}
        codes = [
            numbers.setdefault(-1 - trial if one is None else one, len(numbers))
            for trial, one in enumerate(group)
        ]
        begins = [0.0 if one is None else one for one in first_bin]
        return cls(np.array(codes, np.int64), np.array(begins, np.float64), np.array(bins, np.int64))

    @classmethod
    def alone(cls, trials: int) -> Self:
        """Return groups with one trial each."""
        return cls(np.arange(trials), np.zeros(trials), np.ones(trials, np.int64))

    def __len__(self) -> int:
        return len(self.group)

    @property
    def number(self) -> int:
        """Number of groups."""
        return int(self.group.max(initial=-1)) + 1

    def take(self, trials: Integers | Flags | slice) -> "SplitGroups":
        """Return the groups of some trials."""
        return SplitGroups.of(self.group[trials].tolist(), self.first_bin[trials].tolist(), self.bins[trials])

    def stay_whole(self, parts: int) -> bool:
        """Return whether whole groups can be distributed over this number of parts.

        This needs as many groups as parts, and no group with more than half of the trials. Groups of one trial are always
        possible.
        """
        largest = int(np.bincount(self.group, minlength=1).max())
        return self.number == len(self) or (self.number >= parts and 2 * largest <= len(self))

    def sharing(self, held: Flags) -> Flags:
        """Return which of the other trials share bins with a trial in `held`, bool [trials]."""
        apart = float((self.first_bin + self.bins).max(initial=0.0)) + 1.0
        begin = self.first_bin + self.group * apart
        end = begin + self.bins
        # Count the held trials that start before this one ends, and those of them that end before it starts.
        begun = np.searchsorted(np.sort(begin[held]), end - TOLERANCE, side="left")
        ended = np.searchsorted(np.sort(end[held]), begin + TOLERANCE, side="right")
        shared: Flags = (begun > ended) & ~held
        return shared

    def in_time(self) -> Integers:
        """Return the trials sorted by group, and within each group by time."""
        return np.lexsort((self.first_bin, self.group))

    def parts(self, number: int, random: np.random.Generator) -> Integers:
        """Return the part of each trial, int64 [trials] in 0 … number - 1: whole groups if possible, else blocks of time.

        Neighbouring blocks of time may share bins; `sharing` returns the affected trials.
        """
        if self.stay_whole(number):
            return (random.permutation(self.number) % number)[self.group]
        part = np.empty(len(self), np.int64)
        part[self.in_time()] = np.arange(len(self)) * number // len(self)
        return part

    def separated(self, split: NDArray[np.str_], drawn: Flags) -> NDArray[np.str_]:
        """Return the split with `gap` for trials that share bins with a drawn trial of another part.

        Parameters
        ----------
        split
            [trials] names of `SPLITS`.
        drawn
            Which validation and test trials were drawn. The other ones were given and do not change.
        """
        found = split.copy()
        found[drawn & (found == "test") & self.sharing(found == "valid")] = "gap"
        found[drawn & (found == "valid") & self.sharing((found == "test") & ~drawn)] = "gap"
        held = drawn & ((found == "valid") | (found == "test"))
        found[(found == "train") & self.sharing(held)] = "gap"
        return found


def blocks_of_time(in_time: Integers, valid: int, test: int) -> tuple[Integers, Integers]:
    """Return `test` trials from the end, and `valid` trials from the middle of the rest, as validation and test trials.

    `in_time` lists the trials in order of time.
    """
    rest = max(len(in_time) - test, 0)
    first = max(rest - valid, 0) // 2
    return in_time[first : min(first + valid, rest)], in_time[rest:]


def draw_split(
    given: Sequence[str | None],
    groups: SplitGroups,
    fractions: Mapping[Literal["valid", "test"], float],
    random: np.random.Generator,
) -> list[Split]:
    """Return the part of each trial of one session.

    Parameters
    ----------
    given
        The part of each trial in the data set: one of `SPLITS`, or None.
    groups
        The split groups of the same trials.
    fractions
        Fraction of the trials in each part. A part that the data set defines is not drawn. Each other part with a fraction above
        0 gets at least one trial.
    random
        The random number generator.
    """
    split = np.array(["train" if one is None else one for one in given], "<U5")
    held = split != "train"
    usable = len(split) - int(np.isin(split, ("test", "gap")).sum())
    wanted = {
        part: max(1, round(share * usable)) if share and part not in given else 0
        for part, share in fractions.items()
    }
    free = np.flatnonzero(~held & ~np.isin(groups.group, groups.group[held]))
    if len(free) == 0:
        free = np.flatnonzero(~held)
    of_free = groups.take(free)
    rest_stays_whole = groups.stay_whole(FEWEST_GROUPS_TO_DRAW) and of_free.number > 1
    if rest_stays_whole or of_free.stay_whole(FEWEST_GROUPS_TO_DRAW):
        order = random.permutation(of_free.number)
        sizes = np.bincount(of_free.group, minlength=of_free.number)
        for part, number in wanted.items():
            chosen, order = _whole_groups(order, sizes, number)
            split[free[np.isin(of_free.group, chosen)]] = part
    else:
        valid, test = blocks_of_time(free[of_free.in_time()], wanted["valid"], wanted["test"])
        split[valid], split[test] = "valid", "test"
    found = groups.separated(split, ~held & (split != "train"))
    return [SPLITS[SPLITS.index(one)] for one in found.tolist()]


def _whole_groups(order: Integers, sizes: Integers, trials: int) -> tuple[Integers, Integers]:
    """Return groups with at most `trials` trials in total, and the remaining groups, in the given order; at least one group."""
    chosen, taken = [], 0
    for group in order.tolist():
        if taken + sizes[group] <= trials:
            chosen.append(group)
            taken += int(sizes[group])
    if trials and not chosen and len(order):
        chosen = [int(order[np.argmin(sizes[order])])]
    return np.array(chosen, np.int64), order[~np.isin(order, chosen)]
