"""What every format of answers keeps to, read by a reader of somebody else's."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from api.arrays.formats import FORMATS, Format
from api.arrays.labelled import LabelledArray
from tests.api.formats.format_examples import Found, array, cases, content, context, index

CASES = cases()
_NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=8)
_DTYPES = st.sampled_from(["f4", "f8", "u1", "u2", "i2", "i4", "i8", "?"]).map(np.dtype)


@st.composite
def any_array(draw: st.DrawFn) -> LabelledArray:
    """An array of up to three dims, empty ones too, with odd names, special numbers and a coordinate or none."""
    shape = draw(numpy_strategies.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    values = draw(numpy_strategies.arrays(draw(_DTYPES), shape))
    dims = draw(st.lists(_NAMES, min_size=len(shape), max_size=len(shape), unique=True))
    coordinates = [
        index(draw(st.just(dim) | _NAMES), np.arange(size) * 0.5, dim)
        for dim, size in zip(dims, shape, strict=True)
        if draw(st.booleans())
    ]
    unique = {one.name: one for one in coordinates if one.name == one.dim or one.name not in dims}
    name = draw(_NAMES.filter(lambda one: one not in unique))
    return array(
        name, values, tuple(dims), *unique.values(), rows=draw(st.integers(1, 3)), units=draw(_NAMES)
    )


class FormatContract(ABC):
    """Holds of every format; a member says its name and how its bytes are read."""

    name: str
    most_examples = 15

    @property
    def format(self) -> Format:
        [found] = [one for one in FORMATS if one.name == self.name]
        return found

    @abstractmethod
    def read(self, path: Path, written: LabelledArray) -> Found:
        """Read a file with a library that knows nothing of this service."""

    def found(self, written: LabelledArray, folder: Path) -> Found:
        path = folder / f"answer.{self.format.ending}"
        path.write_bytes(content(self.format.encode([written], context(len_of(written)))))
        return self.read(path, written)

    @pytest.mark.parametrize("case", CASES)
    def test_values_and_coordinates_come_back(self, case: str, tmp_path: Path) -> None:
        written = CASES[case]
        found = self.found(written, tmp_path)
        np.testing.assert_array_equal(found.values, self.expected(written))
        assert found.values.shape == written.shape
        for name, values in found.coordinates.items():
            [expected] = [one for one in written.coordinates if one.name == name]
            np.testing.assert_array_equal(values, self.coordinate(expected))

    def test_any_array_comes_back(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("any")

        @given(any_array())
        @settings(max_examples=self.most_examples, deadline=None, suppress_health_check=list(HealthCheck))
        def check(written: LabelledArray) -> None:
            found = self.found(written, folder)
            assert found.values.shape == written.shape
            np.testing.assert_array_equal(found.values, self.expected(written))

        check()

    def test_bytes_hang_on_the_values_alone(self) -> None:
        whole = CASES["rates"]
        made = set()
        for rows in (1, 4, 6):
            cut = array(
                whole.name, whole.values(), whole.dims, *whole.coordinates, rows=rows, units=whole.units,
                **whole.attributes,
            )  # fmt: skip
            made.add(content(self.format.encode([cut], context())))
        assert (len(made) == 1) == self.format.is_reproducible

    def test_it_is_offered_by_a_type_of_its_own(self) -> None:
        assert [one.media_type for one in FORMATS].count(self.format.media_type) == 1
        assert self.format.ending

    def expected(self, written: LabelledArray) -> object:
        """Values as the format gives them back."""
        return written.values()

    def coordinate(self, one: object) -> object:
        """Values of a coordinate as the format gives them back."""
        return one.values  # type: ignore[attr-defined]


def len_of(written: LabelledArray) -> int:
    return written.shape[0] if written.dims else 0
