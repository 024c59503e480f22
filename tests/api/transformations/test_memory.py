"""What transformations hold at a time does not grow with the array."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from api.arrays.labelled import Coordinate
from tests.api.transformations.laboratory import START_S, WIDTH_S, Laboratory

BLOCKS, ROWS, BINS, NEURONS = 60, 10, 50, 128
"""A block is 250 kB, all are 15 MB."""
MOST_BYTES = 4 * 2**20


@pytest.mark.parametrize(
    "wanted",
    [
        {"align_to": "reaction_s", "window_s": "-0.2:0.4"},
        {"smooth_s": 0.04},
        {"rebin_s": 0.1},
        {"components": 3},
        {"average": "condition"},
        {"align_to": "reaction_s", "window_s": "-0.2:0.4", "smooth_s": 0.04, "rebin_s": 0.1, "components": 2},
    ],
    ids=lambda wanted: "+".join(wanted),
)
def test_peak_is_a_few_blocks(lab: Laboratory, wanted: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    block = random.normal(size=(ROWS, BINS, NEURONS)).astype(np.float32)

    def blocks() -> Iterator[NDArray[Any]]:
        for number in range(BLOCKS):
            yield block + np.float32(number)

    large = replace(
        lab.array(lab.model_id, "rates"),
        shape=(BLOCKS * ROWS, BINS, NEURONS),
        coordinates=(
            Coordinate("trial", "trial", np.arange(BLOCKS * ROWS) % 24),
            Coordinate("time_s", "time_s", START_S + np.arange(BINS) * WIDTH_S),
        ),
        blocks=blocks,
    )
    tracemalloc.start()
    try:
        for made in lab.transform(lab.model_id, large, in_fives=False, **wanted):
            for _ in made.blocks():
                pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert large.nbytes > 3 * MOST_BYTES
    assert peak < MOST_BYTES
