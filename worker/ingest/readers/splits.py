"""Splits in a file: one value for each trial says what the trial is for; docs/file-formats.md has the table of values."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from domain.errors import listed
from worker.ingest.problems import Problem, RejectedFile, rejected
from worker.ingest.readers.base import ReadOptions
from worker.ingest.readers.split_layout import SPLIT_WORDS, SPLITS
from worker.ingest.recording import (
    SPLIT_GAP,
    SPLIT_NOT_GIVEN,
    SPLIT_TRAIN,
    SPLIT_VALID,
    MetadataValue,
    Recording,
    Understood,
)

_WORDS = {
    **{word: SPLITS[split] for word, split in SPLIT_WORDS.items()},
    **dict.fromkeys(("none", "neither", ""), SPLIT_NOT_GIVEN),
    "gap": SPLIT_GAP,
}
"""Value of a split → its code."""
_NAMES = ("split", "splits", "datasplit", "datasetsplit", "trialsplit", "traintestsplit", "trainvalidsplit")
_LOOSE_NAMES = ("partition", "subset", "set", "dataset", "phase")
_FLAGS = re.compile(r"(is|in|for)?(trial)?(?P<part>[a-z]+?)(set|trials?|mask|flag)?")
_CERTAIN_FLAGS = ("istrain", "istraining", "train", "training", "isval", "isvalidation", "validation")
_FROM_ZERO = {
    "0": SPLIT_TRAIN,
    "1": SPLIT_VALID,
    "2": SPLIT_NOT_GIVEN,
    "-1": SPLIT_NOT_GIVEN,
    "-2": SPLIT_GAP,
}
_FROM_ONE = {"1": SPLIT_TRAIN, "2": SPLIT_VALID, "3": SPLIT_NOT_GIVEN}
_TRUE, _FALSE = {"true", "1"}, {"false", "0"}
_HINT = 'split.values says what each value means, such as {"1": "train", "2": "valid", "3": "test"}.'


def parse_split(
    values: Sequence[MetadataValue], name: str, options: ReadOptions, warnings: list[Problem]
) -> NDArray[np.int8]:
    """Convert the values of a split, as the table in docs/file-formats.md says.

    Parameters
    ----------
    values
        One value for each trial; None means neither training nor validation.
    name
        Name of the column.
    options
        Options of the request; `split.values` takes precedence over the table.
    warnings
        Get a warning of each guess.

    Raises
    ------
    RejectedFile
        If a value is not understood.
    """
    texts = [_text(value) for value in values]
    found = set(texts) - {""}
    given = {key.strip().lower(): _WORDS[part] for key, part in options.split.values.items()}
    meaning = {text: given[text] for text in found & set(given)} or _meaning(found, texts, name, warnings)
    meaning = {text: _WORDS[text] for text in (found | {""}) & set(_WORDS)} | meaning
    is_empty = all(value is None for value in values)
    if is_empty or not found <= set(meaning):
        trial = next(trial for trial, text in enumerate(texts) if is_empty or text not in meaning)
        said = (
            f"`{name}` says {values[trial]!r} at trial {trial} (counted from 0): expected 'train', 'valid' or 'test', or 0 for "
            "train, 1 for valid and -1 or 2 for test."
        )
        raise rejected("split_not_understood", said, _HINT, f"/{name}")
    return np.array([meaning[text] for text in texts], np.int8)


def _text(value: MetadataValue) -> str:
    """Return a value as lower-case text: whole numbers without a point, `true` or `false`, empty if missing."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value).strip().lower()
    return text.split(".")[0] if re.fullmatch(r"-?\d+\.0*", text) else text


def _meaning(found: set[str], texts: list[str], name: str, warnings: list[Problem]) -> dict[str, int]:
    """Return the meaning of each number or truth value, as far as it is known; warn of a guess."""
    part = _part_of(name)
    if part is not None and found <= _TRUE | _FALSE:
        other = SPLIT_VALID if part == SPLIT_TRAIN else SPLIT_TRAIN
        return {text: part if text in _TRUE else other for text in found}
    is_plain = "0" not in found or texts.count("1") <= texts.count("0")
    if found <= set(_FROM_ZERO) and is_plain and not ("2" in found and "0" not in found):
        return {text: _FROM_ZERO[text] for text in found}
    if found <= {"true", "false"}:
        often = max(("false", "true"), key=texts.count)
        guessed = {text: SPLIT_TRAIN if text == often else SPLIT_VALID for text in found}
    elif found <= set(_FROM_ZERO) and "0" in found:
        guessed = {text: _FROM_ZERO[text] for text in found}
    elif {"1", "2"} <= found <= set(_FROM_ONE):
        guessed = {text: _FROM_ONE[text] for text in found}
    else:
        return {}
    names = {SPLIT_TRAIN: "train", SPLIT_VALID: "valid", SPLIT_NOT_GIVEN: "test", SPLIT_GAP: "gap"}
    taken = listed(
        f"{text} as {names[guessed[text]]} ({texts.count(text)} trials)" for text in sorted(guessed)
    )
    said = f"The values of `{name}` have no certain meaning. They were read as: {taken}."
    warnings.append(Problem("split_guessed", said, f"Check it. {_HINT}", "/split/values"))
    return guessed


def _part_of(name: str) -> int | None:
    """Return the split that a name such as `is_train` or `valid_mask` means, or None."""
    matched = _FLAGS.fullmatch(_bare(name))
    word = matched["part"] if matched is not None else ""
    return _WORDS[word] if word and word in _WORDS and word not in ("none", "neither", "gap") else None


def _bare(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.rsplit("/", 1)[-1].rsplit(".", 1)[-1].lower())


def take_split(recording: Recording, options: ReadOptions) -> None:
    """Take the split from the metadata of trials: from the column that the mapping names, else from one known by its name.

    Raises
    ------
    RejectedFile
        If the mapping names a column that does not exist or is not understood.
    """
    columns, wanted = recording.trial_metadata, options.mapping.split
    if wanted is not None:
        if wanted not in columns:
            said = f"mapping.split is `{wanted}`: the trials of this file have {listed(columns)}."
            raise rejected("variable_unknown", said, "Name one of these.", "/mapping/split")
        recording.split = parse_split(columns[wanted], wanted, options, recording.warnings)
        recording.understood.append(
            Understood("split", wanted, "given in the mapping", recording.split.shape)
        )
        settle_split(recording)
        return
    names = _find_columns(columns)
    if not names:
        return
    try:
        recording.split = _joined(columns, names, options, recording.warnings)
    except RejectedFile as error:
        problem = error.problems[0]
        said = f"`{listed(names)}` was not used as the split. {problem.message}"
        recording.warnings.append(Problem("split_not_used", said, problem.hint, problem.pointer))
        return
    recording.understood.append(Understood("split", listed(names), "by its name", recording.split.shape))
    settle_split(recording)


def _find_columns(columns: Mapping[str, Sequence[MetadataValue]]) -> list[str]:
    """Return the column of the split, or the columns of truth values that together are the split."""
    texts = {name: set(map(_text, values)) - {""} for name, values in columns.items()}
    by_name = {_bare(name): name for name in reversed(list(columns)) if texts[name]}
    for bare in _NAMES:
        if bare in by_name:
            return [by_name[bare]]
    for bare in _LOOSE_NAMES:
        found = texts.get(by_name.get(bare, ""), set())
        if found & {"train", "training"} and found <= set(_WORDS) and len(found) > 1:
            return [by_name[bare]]
    flags = [name for name in columns if _part_of(name) is not None and texts[name] <= _TRUE | _FALSE]
    return flags if any(_bare(name) in _CERTAIN_FLAGS and texts[name] for name in flags) else []


def _joined(
    columns: Mapping[str, Sequence[MetadataValue]],
    names: list[str],
    options: ReadOptions,
    warnings: list[Problem],
) -> NDArray[np.int8]:
    """Return the split from one column, or from several columns of truth values."""
    if len(names) == 1:
        return parse_split(columns[names[0]], names[0], options, warnings)
    parts = [part for name in names if (part := _part_of(name)) is not None]
    is_so = np.array([[_text(value) in _TRUE for value in columns[name]] for name in names])
    marked = is_so.sum(axis=0)
    if (marked > 1).any():
        said = f"Trial {int(np.argmax(marked > 1))} (counted from 0) is marked by several of {listed(names)}."
        raise rejected("split_not_understood", said, "Mark each trial by one of them.", f"/{names[0]}")
    rest = SPLIT_NOT_GIVEN if SPLIT_TRAIN in parts else SPLIT_TRAIN
    found = np.full(is_so.shape[1], rest, np.int8)
    for part, chosen in zip(parts, is_so, strict=True):
        found[chosen] = part
    return found


def settle_split(recording: Recording) -> None:
    """Check the split of a recording and note its meaning; reject one without training trials."""
    trains, validates, others = (
        (recording.split == code).any() for code in (SPLIT_TRAIN, SPLIT_VALID, SPLIT_NOT_GIVEN)
    )
    if validates and not trains:
        said = "There are validation trials but no training trials."
        raise rejected("split_without_training", said, "Mark some trials as 'train'.", "/split")
    if trains and not validates:
        said = (
            "The file names training trials but no validation trials: validation trials will be drawn from the "
            "training trials."
        )
        hint = "To choose them yourself, mark them as 'valid'."
        recording.warnings.append(Problem("split_without_validation", said, hint, "/split"))
    if trains and others:
        number = int((recording.split == SPLIT_NOT_GIVEN).sum())
        recording.notes.append(
            f"{number} trials are used for neither training nor validation: only their latents are inferred."
        )
