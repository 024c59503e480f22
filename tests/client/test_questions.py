"""Labels and conditions in the service's grammar; the service's own reader is the reference."""

from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latentry.query_params import infer_request, label_text, parameters_of, where_texts

from api.arrays.grammar import parse_conditions

TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (3, "3"), (np.int64(3), "3"), ([3, 5], "3,5"), (np.array([0.5, 1.0]), "0.5,1.0"), (slice(0.1, 0.4), "0.1:0.4"),
        (slice(None, 5), ":5"), ("valid", "valid"), (["train", "valid"], "train,valid"), (False, "false"),
    ],
)  # fmt: skip
def test_labels(label: Any, text: str) -> None:
    assert label_text(label) == text


def test_a_range_of_labels_has_no_step() -> None:
    with pytest.raises(ValueError, match="without a step"):
        label_text(slice(0, 1, 2))


def test_a_window_is_a_pair() -> None:
    for window in ((-0.1, 0.4), [-0.1, 0.4], slice(-0.1, 0.4), "-0.1:0.4"):
        assert parameters_of(window_s=window) == {"window_s": "-0.1:0.4"}
    for window in (0.4, (0.4,), (0, 1, 2)):
        with pytest.raises(ValueError, match="expected the first and the last time"):
            parameters_of(window_s=window)


@pytest.mark.parametrize(
    ("where", "texts"),
    [
        (None, []),
        ("condition:in:3,4", ["condition:in:3,4"]),
        (["a:eq:1", "b:exists"], ["a:eq:1", "b:exists"]),
        ({"condition": [3, 4], "outcome": "go"}, ["condition:in:3,4", 'outcome:eq:"go"']),
        ({"reaction_time": slice(0.2, 0.5)}, ["reaction_time:between:0.2,0.5"]),
        ({"reaction_time": slice(None, 0.5)}, ["reaction_time:le:0.5"]),
        ({"reaction_time": slice(0.2, None)}, ["reaction_time:ge:0.2"]),
        ({"reaction_time": slice(None)}, ["reaction_time:exists"]),
        ({"is_correct": True, "note": None}, ["is_correct:eq:true", "note:eq:null"]),
    ],
)
def test_conditions(where: Any, texts: list[str]) -> None:
    assert where_texts(where) == texts
    assert len(parse_conditions(texts)) == len(texts)


@given(TEXTS.filter(str.strip), st.lists(TEXTS, min_size=1, max_size=4))
def test_any_text_arrives_as_it_is(name: str, words: list[str]) -> None:
    (condition,) = parse_conditions(where_texts({name: words}))
    assert condition.name == name
    assert [value.text for value in condition.values] == words
    assert all(value.number is None and value.boolean is None for value in condition.values)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20))
def test_any_number_arrives_as_it_is(number: float) -> None:
    (condition,) = parse_conditions(where_texts({"x": number}))
    assert Decimal(condition.values[0].number or "nan") == Decimal(str(number))


def test_a_whole_question() -> None:
    asked = parameters_of(
        {"a": 1}, window_s=(-0.1, 0.4), split=["train", "valid"], smooth_s=0.05, align_to=None
    )
    assert asked == {
        "window_s": "-0.1:0.4", "split": "train,valid", "smooth_s": "0.05", "where": ["a:eq:1"],
    }  # fmt: skip


def test_spikes_are_sent_as_whole_numbers() -> None:
    sent = infer_request(np.ones((2, 3, 4)), {"arrays": ["rates"], "seed": None}, {})
    assert sent["params"] == {"arrays": ["rates"], "format": "npz"}
    assert b"'<i8'" in sent["content"]
    assert (
        b"'<f8'" in infer_request(np.full((2, 3), 0.5), {}, {})["content"]
    )  # the service says what is wrong
