"""NumPy's own indexing is the reference: what the service takes of what we ask, put in order, is what NumPy takes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices
from latentry.query_params import slice_of

from api.arrays.grammar import parse_slice

SHAPES = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)


@given(st.data())
def test_any_basic_index(data: st.DataObject) -> None:
    shape = data.draw(SHAPES)
    index = data.draw(basic_indices(shape, allow_newaxis=False))
    array = np.arange(np.prod(shape)).reshape(shape)
    text, turns = slice_of(index, shape)
    np.testing.assert_array_equal(array[parse_slice(text, shape)][turns], array[index])


@pytest.mark.parametrize(
    ("index", "text"),
    [
        ((slice(0, 5), slice(None, None, 2)), "0:5,0:7:2,0:3"),
        (-1, "9,0:7,0:3"),
        ((..., 0), "0:10,0:7,0"),
        (slice(None, None, -3), "0:10:3,0:7,0:3"),
        (np.int64(3), "3,0:7,0:3"),
        (slice(5, 2), "0:0,0:7,0:3"),
    ],
)
def test_what_is_asked_for(index: Any, text: str) -> None:
    assert slice_of(index, (10, 7, 3))[0] == text


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"integers, slices and '...'; got None"),
        ([1, 2], "select by label"),
        (np.array([True, False]), "select by label"),
        (True, "got True"),
        (1.0, "got 1.0"),
        ("a", "got 'a'"),
        (10, "index 10 is outside axis 0 of size 10"),
        ((0, -8), "index -8 is outside axis 1 of size 7"),
        ((0, 0, 0, 0), "4 indices were given for an array of 3 axes"),
        ((..., ...), "at most one"),
    ],
)
def test_what_is_refused(index: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        slice_of(index, (10, 7, 3))
