"""Splits that files give, in every format: words, numbers, truth values, one column or several."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pynwb
import pytest

from tests.worker.ingest.flat_files import ARRAYS, TABLES, codes, flat_spikes, read, write_flat, write_table
from tests.worker.ingest.matlab_files import save_v73
from tests.worker.ingest.test_nwb import new_file, save
from tests.worker.ingest.test_phy import folder, pack
from worker.ingest.problems import Problem, RejectedFile
from worker.ingest.readers import ReadOptions
from worker.ingest.readers.split_layout import SPLIT_WORDS, SPLITS, part_of
from worker.ingest.readers.splits import parse_split

TRIALS = 10
IS_VALID = np.arange(TRIALS) % 5 == 0
IS_TEST = np.arange(TRIALS) % 5 == 1
PARTS = np.where(IS_VALID, 1, np.where(IS_TEST, -1, 0)).tolist()
START_S = np.arange(TRIALS) * 1.0

Columns = dict[str, Any]
Write = Callable[[Path, Columns], Path]


def _words(train: str, valid: str, test: str) -> np.ndarray:
    return np.where(IS_VALID, valid, np.where(IS_TEST, test, train))


def by_id(file_format: str) -> Write:
    return lambda path, columns: write_flat(file_format, path, flat_spikes(range(TRIALS)), columns)


def by_start_and_stop(file_format: str) -> Write:
    def write(path: Path, columns: Columns) -> Path:
        spikes = {"spike_times": np.repeat(START_S, 2) + 0.25, "neuron": np.tile([1, 2], TRIALS)}
        return write_flat(
            file_format, path, spikes, {"trial_start": START_S, "trial_stop": START_S + 0.5, **columns}
        )

    return write


def in_struct_of_trials(path: Path, columns: Columns) -> Path:
    """A MATLAB struct `trials` beside cells of spike times."""
    cells = np.empty((2, 1), object)
    cells[:, 0] = [START_S + 0.25, START_S + 0.125]
    trials = {"start": START_S, "stop": START_S + 0.5}
    for name, values in columns.items():
        is_text = values.dtype.kind == "U"
        trials[name] = np.array(values.tolist(), object)[:, None] if is_text else values
    return save_v73(path, {"spikes": cells, "trials": trials})


def in_nwb(path: Path, columns: Columns) -> Path:
    file: pynwb.NWBFile = new_file()
    for unit in range(2):
        file.add_unit(spike_times=START_S + 0.125 * (unit + 1))
    for name in columns:
        file.add_trial_column(name, "of the trial")
    for trial in range(TRIALS):
        values = {name: values[trial] for name, values in columns.items()}
        file.add_trial(start_time=START_S[trial], stop_time=START_S[trial] + 0.5, **values)
    return save(file, path.with_suffix(".nwb"))


def in_phy(path: Path, columns: Columns) -> Path:
    table = {"start": START_S, "stop": START_S + 0.5, **columns}
    rows = [",".join(table), *(",".join(map(str, row)) for row in zip(*table.values(), strict=True))]
    samples = np.repeat((START_S + 0.25) * 30_000, 2).astype(np.uint64)
    clusters = np.tile(np.array([2, 7], np.int32), TRIALS)
    text = "\n".join(rows)
    return pack(path, folder(spike_times__npy=samples, spike_clusters__npy=clusters, trials__csv=text))


def of_counts(file_format: str) -> Write:
    """Rows of counts, wide: a column for each neuron."""

    def write(path: Path, columns: Columns) -> Path:
        trial = np.repeat(np.arange(TRIALS), 3)
        rows = {"trial": trial, "bin": np.tile(np.arange(3), TRIALS), "neuron_0": np.tile([1, 0, 2], TRIALS)}
        return write_table(
            file_format, path, {**rows, **{name: values[trial] for name, values in columns.items()}}
        )

    return write


WRITERS: dict[str, Write] = {
    **{f"{name}_by_id": by_id(name) for name in (*ARRAYS, *TABLES)},
    **{f"{name}_start_and_stop": by_start_and_stop(name) for name in ARRAYS},
    **{f"{name}_of_counts": of_counts(name) for name in TABLES},
    "matlab_struct": in_struct_of_trials,
    "nwb": in_nwb,
    "phy": in_phy,
}
UNDERSTOOD: dict[str, tuple[Columns, list[int]]] = {
    "words": ({"split": _words("train", "valid", "test")}, PARTS),
    "other words": ({"split": _words("Training", "val", "none")}, PARTS),
    "0 and 1": ({"split": IS_VALID.astype(int)}, IS_VALID.astype(int).tolist()),
    "0, 1 and 2": ({"split": np.where(IS_VALID, 1, np.where(IS_TEST, 2, 0))}, PARTS),
    "0, 1 and -1": ({"data_split": np.array(PARTS, float)}, PARTS),
    "partition": ({"partition": _words("train", "dev", "test")}, PARTS),
    "is_train": ({"is_train": ~IS_VALID}, IS_VALID.astype(int).tolist()),
    "is_train as numbers": ({"is_train": (~IS_VALID).astype(int)}, IS_VALID.astype(int).tolist()),
    "three flags": ({"is_train": ~(IS_VALID | IS_TEST), "is_valid": IS_VALID, "is_test": IS_TEST}, PARTS),
    "is_validation": ({"is_validation": IS_VALID, "valid": ~IS_TEST}, []),
}
GUESSED: dict[str, tuple[Columns, list[int]]] = {
    "truth values": ({"split": ~IS_VALID}, IS_VALID.astype(int).tolist()),
    "1, 2 and 3": ({"split": np.where(IS_VALID, 2, np.where(IS_TEST, 3, 1))}, PARTS),
    "mostly 1": ({"split": (~IS_VALID).astype(int)}, (~IS_VALID).astype(int).tolist()),
}


@pytest.mark.parametrize("what", UNDERSTOOD)
@pytest.mark.parametrize("where", WRITERS)
def test_a_split_is_taken(where: str, what: str, tmp_path: Path) -> None:
    columns, expected = UNDERSTOOD[what]
    found = read(WRITERS[where](tmp_path / "f", columns))
    if not expected:  # two flags that contradict each other
        assert set(found.split.tolist()) == {-1}
        assert "split_not_used" in codes(found)
        return
    assert found.split.tolist() == expected
    assert any(one.what == "split" and one.how == "by its name" for one in found.understood)
    assert codes(found) == []


@pytest.mark.parametrize("what", GUESSED)
@pytest.mark.parametrize("where", WRITERS)
def test_what_is_guessed_is_told(where: str, what: str, tmp_path: Path) -> None:
    columns, expected = GUESSED[what]
    found = read(WRITERS[where](tmp_path / "f", columns))
    assert found.split.tolist() == expected
    assert "split_guessed" in codes(found)
    meaning = {"true": "train", "1": "train", "false": "valid", "0": "valid", "2": "valid", "3": "test"}
    said = read(WRITERS[where](tmp_path / "f", columns), split={"values": meaning})
    assert said.split.tolist() == (PARTS if what == "1, 2 and 3" else IS_VALID.astype(int).tolist())
    assert codes(said) == []


@pytest.mark.parametrize("where", [name for name in WRITERS if "of_counts" not in name])
def test_other_words_need_a_meaning(where: str, tmp_path: Path) -> None:
    columns = {"split": _words("A", "B", "C"), "group": _words("train", "valid", "test")}
    path = WRITERS[where](tmp_path / "f", columns)
    found = read(path)
    assert set(found.split.tolist()) == {-1}
    (warning,) = [one for one in found.warnings if one.code == "split_not_used"]
    assert "split.values" in warning.hint
    assert found.trial_metadata["split"] == columns["split"].tolist()
    said = read(path, split={"values": {"A": "train", "B": "valid", "C": "test"}})
    assert said.split.tolist() == PARTS
    group = "trials.group" if where == "matlab_struct" and "trials.group" in found.trial_metadata else "group"
    assert read(path, mapping={"split": group}).split.tolist() == PARTS
    with pytest.raises(RejectedFile, match="split_not_understood"):
        read(path, mapping={"split": "split"})


def test_a_flag_that_may_be_of_quality_is_metadata(tmp_path: Path) -> None:
    path = by_id("npz")(tmp_path / "f", {"valid": ~IS_VALID})
    found = read(path)
    assert set(found.split.tolist()) == {-1}
    assert found.trial_metadata["valid"] == (~IS_VALID).tolist()
    assert read(path, mapping={"split": "valid"}).split.tolist() == (~IS_VALID).astype(int).tolist()


def test_flags_beside_arrays_of_counts(tmp_path: Path) -> None:
    counts = np.ones((TRIALS, 4, 2), np.uint8)
    np.savez(tmp_path / "f.npz", spikes=counts, is_train=~IS_VALID)
    assert read(tmp_path / "f.npz").split.tolist() == IS_VALID.astype(int).tolist()


def test_meanings_without_a_split_are_told(tmp_path: Path) -> None:
    path = by_id("npz")(tmp_path / "f", {})
    assert codes(read(path, split={"values": {"1": "train"}})) == ["option_not_used"]


@pytest.mark.parametrize("values", [[0, 1, 5], [0.5, 0, 1], ["train", "0"], [1, 4]])
def test_values_that_are_not_understood(values: list[Any]) -> None:
    warnings: list[Problem] = []
    with pytest.raises(RejectedFile) as caught:
        parse_split(values, "split", ReadOptions(), warnings)
    assert caught.value.problems[0].code == "split_not_understood"


@pytest.mark.parametrize("word", SPLIT_WORDS)
def test_a_word_means_the_same_split_in_a_name_and_as_a_value(word):
    split = SPLIT_WORDS[word]
    assert part_of(f"{word}_data", SPLIT_WORDS) == (split, "data")
    assert parse_split([word], "split", ReadOptions(), []).tolist() == [SPLITS[split]]
