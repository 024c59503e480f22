"""Arrays to be written in every format, cut into small blocks, and what a reader finds of them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from api.arrays.formats import Encoded, WriteContext
from api.arrays.labelled import Coordinate, LabelledArray
from api.arrays.provenance import Provenance, TrialFacts
from tests.api.api_examples import example_arrays

WORDS = {"flag_values": [0, 1, 2], "flag_meanings": "train valid test"}
WIDTH_S = 0.02


@dataclass
class Found:
    """What a reader found: the values, and of the coordinates whatever the format has, by name."""

    values: NDArray[Any]
    coordinates: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def array(
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    *coordinates: Coordinate,
    rows: int = 2,
    units: str = "",
    **attributes: Any,
) -> LabelledArray:
    """An array whose blocks have so many rows."""

    def blocks() -> Iterator[NDArray[Any]]:
        if not dims:
            yield values
        for start in range(0, len(values) if dims else 0, rows):
            yield values[start : start + rows]

    return LabelledArray(
        name, dims, values.shape, values.dtype, units, f"the {name}", coordinates, attributes, blocks
    )


def context(
    trials: int = 6, bins: int | None = 5, starts_s: NDArray[np.float64] | None = None, **details: Any
) -> WriteContext:
    """That of a model of a data set; trials of so many bins, or of 1, 2, … without a number."""
    facts = [
        TrialFacts(bins or 1 + trial, None, {"condition": f"c{trial % 2}", **details})
        for trial in range(trials)
    ]
    return WriteContext(
        100_000,
        Provenance(
            "the model mod_1",
            {"model_id": "mod_1", "dataset_digest": "ab12"},
            "a day",
            datetime(2026, 1, 2, tzinfo=UTC),
            WIDTH_S,
            0.0,
            lambda: facts,
            lambda: starts_s,
        ),
    )


def index(name: str, values: Any, dim: str | None = None, units: str = "", **attributes: Any) -> Coordinate:
    return Coordinate(name, dim or name, np.asarray(values), units, f"the {name}", attributes)


def time_s(bins: int) -> Coordinate:
    return index("time_s", np.arange(bins) * WIDTH_S, units="s")


def cases() -> dict[str, LabelledArray]:
    """One array of every kind."""
    random = np.random.default_rng(1)
    rates = random.random((6, 5, 3)).astype(np.float32)
    rates[1, 2] = np.nan, np.inf, -np.inf
    trials = (
        index("trial", np.arange(6)),
        index("split", np.array([0, 1, 2, 0, -1, 1], np.int8), "trial", **WORDS),
    )
    found = {
        "rates": array(
            "rates", rates, ("trial", "time_s", "neuron"), *trials, time_s(5), index("neuron", [4, 7, 9]),
            units="spikes/s", posterior_samples=8,
        ),
        "one neuron": array("rates", rates[:, :, 1], ("trial", "time_s"), *trials, time_s(5), rows=4),
        "codes": array("split", trials[1].values, ("trial",), trials[0], **WORDS),
        "text along a dim": array(
            "counts", random.poisson(2, (2, 3)), ("target", "neuron"), index("target", np.array(["a b", "=1+1"]))
        ),
        "odd names": array(
            'päth/to "x", y', np.arange(6, dtype=np.int16).reshape(3, 2), ("dim, one", "π/2"),
            index("dim, one", [1.5, np.nan, -2.0], units="µm"), index("a\tb", [True, False, True], "dim, one"),
        ),
        "no bins": array("rates", np.zeros((6, 0, 3), np.float32), ("trial", "time_s", "neuron"), *trials, time_s(0)),
        "no neurons": array("rates", np.zeros((6, 5, 0), np.float32), ("trial", "time_s", "neuron"), *trials, time_s(5)),
        "no trials": array(
            "rates", np.zeros((0, 5, 3), np.float32), ("trial", "time_s", "neuron"), index("trial", np.arange(0)), time_s(5)
        ),
        "dims of one size": array("square", random.random((4, 4)), ("factor", "factor_2")),
        "three dims and more": array("many", random.random((2, 3, 2, 2)), ("a", "b", "c", "d")),
    }  # fmt: skip
    for name, values in example_arrays().items():
        dims = ("time_s",) if name == "time_s" else tuple(f"{name}_{axis}" for axis in range(values.ndim))
        found[f"example {name}"] = array(name, values[:20], dims, rows=7) if dims else array(name, values, ())
    return found


def content(encoded: Encoded) -> bytes:
    """All bytes, as many as were said."""
    whole = b"".join(encoded.pieces)
    assert encoded.size in (None, len(whole))
    return whole
