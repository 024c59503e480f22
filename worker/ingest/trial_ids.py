"""The trials of spikes that each name their trial, and the trial to which each value belongs.

docs/data.md has the rules under "Which value belongs to which trial".
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from domain.dataset_options import DatasetOptions
from domain.errors import listed
from worker.ingest.problems import Problem, rejected
from worker.ingest.recording import MetadataValue

Label = int | str
Column = Sequence[MetadataValue]
_ID_NAMES = {"trial", "trials", "id", "ids"} | {
    f"trial{what}{many}" for what in ("id", "number", "no", "num", "index", "idx") for many in ("", "s")
}


@dataclass
class TrialIds:
    """The trials of spikes that each name their trial.

    Attributes
    ----------
    labels
        The id of each trial, in order.
    columns
        The columns that have one value for each trial.
    notes, warnings
        Notes; warnings of guesses and of what was left out.
    """

    labels: list[Label]
    columns: dict[str, list[MetadataValue]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def take(self, columns: Mapping[str, Column]) -> "TrialIds":
        """Add the columns with one value for each trial, and warn of the others."""
        for name, values in columns.items():
            if len(values) == len(self.labels):
                self.columns[name] = list(values)
                continue
            said = (
                f"`{name}` was left out: it has {len(values)} values, and there are {len(self.labels)} trials, with the ids "
                f"{_span(self.labels)}."
            )
            hint = "Give one value for each trial. If some trials have no spike, give trials.ids, such as [1, 40]."
            self.warnings.append(Problem("array_left_out", said, hint, f"/{name[:100]}"))
        return self


def find_trials(
    seen: Sequence[Label], in_blocks: bool, columns: Mapping[str, Column], options: DatasetOptions
) -> TrialIds:
    """Find the trials, and match columns of values to them.

    Parameters
    ----------
    seen
        The different ids of the spikes, as they first appear.
    in_blocks
        Whether the spikes of each trial follow each other in the file.
    columns
        One value for each trial, as the file has them.
    options
        `trials.ids`.

    Raises
    ------
    RejectedFile
        If `trials.ids` excludes ids of spikes.
    """
    wanted = options.trials.ids
    if not seen:
        return TrialIds([]).take(columns)
    if isinstance(wanted, tuple):
        return TrialIds(_in_range(seen, *wanted)).take(columns)
    ordered = (
        list(seen) if wanted == "file" or (has_text(seen) and wanted is None) else in_natural_order(seen)
    )
    by_value = None if wanted is not None else _by_own_ids(ordered, columns)
    if by_value is not None:
        return by_value
    lengths = [len(values) for values in columns.values()]
    if len(seen) in lengths or wanted is not None or has_text(seen):
        found = TrialIds(ordered).take(columns)
        if found.columns and wanted is None:
            _tell_order(found, seen, in_blocks)
    else:
        found = _with_silent([int(label) for label in ordered], columns)
    if wanted is None:
        _tell_unmatched(found)
    _tell_absent(found)
    return found


def _in_range(seen: Sequence[Label], first: int, last: int) -> list[Label]:
    outside = [label for label in seen if not isinstance(label, int) or not first <= label <= last]
    if outside:
        said = f"trials.ids is [{first}, {last}], and spikes have the trial ids {listed(outside)}."
        raise rejected(
            "trial_ids_outside", said, "Give the first id and the last of all trials.", "/trials/ids"
        )
    return list(range(first, last + 1))


def _by_own_ids(ordered: list[Label], columns: Mapping[str, Column]) -> TrialIds | None:
    """Match columns by the file's own column of ids, if one has the ids of the spikes."""
    for name, own in _own_ids(columns).items():
        labels = as_seen(own, ordered)
        missing = [label for label in ordered if label not in set(labels)]
        if missing and (len(missing) * 2 > len(ordered) or len(labels) == len(ordered)):
            continue
        found = TrialIds(labels).take(columns)
        found.columns[name] = list(labels)
        found.notes.append(f"Trials were matched by their ids in `{name}`.")
        if missing:
            said = f"Spikes have the trial ids {listed(missing)}, which `{name}` does not have: these trials have no metadata."
            hint = (
                'If they are not trials, leave them out with trials.where, such as {"trial_id": {"min": 1}}.'
            )
            found.warnings.append(Problem("trial_ids_ambiguous", said, hint, f"/{name}"))
            found.labels += missing
            found.columns = {key: [*column, *[None] * len(missing)] for key, column in found.columns.items()}
            found.columns[name] = list(found.labels)
        return found
    return None


def _own_ids(columns: Mapping[str, Column]) -> dict[str, list[Label]]:
    """Return the columns that are ids of trials by their names, if all values are distinct."""
    found: dict[str, list[Label]] = {}
    for name, values in columns.items():
        bare = re.sub(r"[\W_]+", "", name.rsplit("/", 1)[-1].rsplit(".", 1)[-1].lower())
        own = list(map(whole_label, values))
        labels = [value for value in own if isinstance(value, str | int) and not isinstance(value, bool)]
        if bare in _ID_NAMES and len(labels) == len(own) == len(set(labels)):
            found[name] = list(labels)
    return found


def whole_label(value: MetadataValue) -> MetadataValue:
    """Convert a float that is a whole number to int: MATLAB stores labels as doubles."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _with_silent(seen: list[int], columns: Mapping[str, Column]) -> TrialIds:
    """Find trials without spikes from columns with more values than there are ids."""
    lowest, highest = seen[0], seen[-1]
    lengths = [len(values) for values in columns.values() if len(values) > highest - lowest]
    if not lengths:
        return TrialIds(list(seen)).take(columns)
    number = max(sorted(set(lengths)), key=lengths.count)
    usual = [first for first in (1, 0) if first <= lowest and first + number > highest]
    if number == highest - lowest + 1:
        usual = [lowest]
    firsts = usual or [lowest, highest - number + 1]
    found = TrialIds(list(range(firsts[0], firsts[0] + number))).take(columns)
    if len(firsts) > 1:
        first, other = firsts[:2]
        said = (
            f"Spikes have {len(seen)} trial ids, {_span(list(seen))}, and {listed(found.columns)} {number} values: the first "
            f"value belongs to trial {first} or to trial {other}. It was assigned to {first}, so these trials have no spike: "
            f"{listed(sorted(set(range(first, first + number)) - set(seen)))}."
        )
        hint = (
            f"If the first value belongs to trial {other}, give trials.ids: [{other}, {other + number - 1}]."
        )
        found.warnings.append(Problem("trial_ids_ambiguous", said, hint, "/trials/ids"))
    return found


def _tell_order(found: TrialIds, seen: Sequence[Label], in_blocks: bool) -> None:
    """Note which value belongs to which trial; warn if the order of ids and that of the file differ."""
    names, labels = listed(found.columns), found.labels
    text = has_text(seen)
    other = in_natural_order(seen) if text else list(seen)
    if other != labels and (text or in_blocks):
        orders = ("in which they first appear in the file", "of the ids when sorted")
        taken, not_taken = orders if text else orders[::-1]
        said = (
            f"{names}: one value for each of {len(labels)} trials. They were assigned to the trials in the order {taken} "
            f"({listed(labels, 4)}); the order {not_taken} differs ({listed(other, 4)})."
        )
        hint = f'If that is the right order, give trials.ids: "{"sorted" if text else "file"}".'
        found.warnings.append(Problem("trial_ids_ambiguous", said, hint, "/trials/ids"))
    elif labels[0] not in (0, 1) or labels[-1] != labels[0] + len(labels) - 1:
        found.notes.append(
            f"{names}: one value for each trial, in the order of the trials' ids: the first is of {labels[0]}, the last of "
            f"{labels[-1]}."
        )


def _tell_unmatched(found: TrialIds) -> None:
    """Warn of a column of ids that differ from those of the spikes: its values were matched by position."""
    labels = found.labels
    for name, own in _own_ids(found.columns).items():
        if set(as_seen(own, labels)) != set(labels):
            said = (
                f"`{name}` ({_span(own)}) lacks trial ids of the spikes ({_span(labels)}): its first value was assigned "
                f"to trial {labels[0]}, its last to trial {labels[-1]}."
            )
            hint = "If its values are the ids of the spikes, correct them in the file, or give trials.ids: [first, last]."
            found.warnings.append(Problem("trial_ids_ambiguous", said, hint, f"/{name}"))


def _tell_absent(found: TrialIds) -> None:
    """Note which whole numbers between the ids are not trials."""
    numbers = [label for label in found.labels if isinstance(label, int)]
    if len(numbers) < len(found.labels) or max(numbers) - min(numbers) >= 10 * len(numbers) + 100:
        return
    absent = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))
    if absent:
        found.notes.append(
            f"No spike has the trial ids {listed(absent)}, so they are not trials. If they are trials without a spike, give "
            f"trials.ids: [{min(numbers)}, {max(numbers)}]."
        )


def as_seen(own: Sequence[Label], seen: Sequence[Label]) -> list[Label]:
    """Convert the ids of a column to the type of the spikes' ids, if one side has numbers and the other texts of numbers.

    `"018"` is 18. The ids stay as they are if this makes two of them the same.
    """
    by_value = {_value(label): label for label in seen}
    values = list(map(_value, own))
    if len(set(values)) < len(own) or len(by_value) < len(seen) or set(own) >= set(seen):
        return list(own)
    are_texts = has_text(seen)
    return [
        by_value.get(value, str(label) if are_texts else value)
        for value, label in zip(values, own, strict=True)
    ]


def _value(label: Label) -> Label:
    """Convert a text that is a whole number to int."""
    text = label.strip() if isinstance(label, str) else ""
    return int(text.split(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", text) else label


def in_natural_order(labels: Iterable[Label]) -> list[Label]:
    """Sort labels: whole numbers by size, texts by the size of the numbers within them, so that t2 comes before t10."""
    return sorted(labels, key=lambda label: (_natural(label), str(label)))


def has_text(labels: Sequence[Label]) -> bool:
    """Return whether some labels are texts."""
    return any(isinstance(label, str) for label in labels)


def _natural(label: Label) -> list[tuple[int, int, str]]:
    """Return a sort key that orders numbers within texts by size: t2 before t10."""
    if isinstance(label, int):
        return [(0, label, "")]
    parts = re.findall(r"[0-9]{1,18}|[^0-9]+", label)
    return [(0, int(part), "") if part[0] in "0123456789" else (1, 0, part) for part in parts]


def _span(labels: Sequence[Label]) -> str:
    return f"{labels[0]} … {labels[-1]}" if labels else "none"
