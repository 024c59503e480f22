"""The kinds of generators: their names, their sizes, and the shapes of their parameters.

For each kind `models/generators/NAME.py` implements one step. Names of parameters have a meaning: `…weight` is a matrix [D, H],
which costs D · H multiply-accumulates per bin, and `recurrent_…` takes the L2 penalty.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, WithJsonSchema

Shape = tuple[int, ...]
RATE = 0.1
"""α of `node` and `low_rank`, per bin: a state moves by this share of F(g) in a bin."""


class GeneratorSizes(NamedTuple):
    """The sizes that the shapes of a generator depend on.

    Attributes
    ----------
    units, inputs
        G, and V inputs per bin.
    hidden_units
        H, units of the hidden layer of `node`.
    rank
        R, rank of the recurrent weights of `low_rank`.
    """

    units: int
    inputs: int
    hidden_units: int = 128
    rank: int = 3


class Kind(NamedTuple):
    """A kind of generator.

    Attributes
    ----------
    shapes
        Gives the shapes of the parameters.
    sizes
        Maps each size in the architecture of a model to the field of the job specification that has its values. A field that no
        kind of a job names is neither searched nor used.
    """

    shapes: Callable[[GeneratorSizes], dict[str, Shape]]
    sizes: Mapping[str, str] = {"generator_units": "generator_units"}


GENERATORS: dict[str, Kind] = {
    "gru": Kind(  # 3: reset gate, update gate, candidate
        lambda of: {
            "input_weight": (of.inputs, 3 * of.units),
            "input_bias": (3 * of.units,),
            "recurrent_weight": (of.units, 3 * of.units),
            "candidate_bias": (of.units,),
        }
    ),
    "node": Kind(
        lambda of: {
            "input_weight": (of.inputs, of.hidden_units),
            "hidden_bias": (of.hidden_units,),
            "recurrent_weight": (of.units, of.hidden_units),
            "recurrent_output_weight": (of.hidden_units, of.units),
            "output_bias": (of.units,),
        },
        {"generator_units": "node_units", "node_hidden_units": "node_hidden_units"},
    ),
    "linear": Kind(
        lambda of: {
            "input_weight": (of.inputs, of.units),
            "input_bias": (of.units,),
            "log_time_constant": ((of.units + 1) // 2,),
            "angle": ((of.units + 1) // 2,),
        }
    ),
    "low_rank": Kind(
        lambda of: {
            "input_weight": (of.inputs, of.units),
            "input_bias": (of.units,),
            "recurrent_read_weight": (of.units, of.rank),  # V
            "recurrent_write_weight": (of.rank, of.units),  # U'
        },
        {"generator_units": "generator_units", "generator_rank": "generator_rank"},
    ),
}
"""The kinds by name."""


def _known(name: str) -> str:
    if name not in GENERATORS:
        raise ValueError(f"generator is {name!r}: expected one of {', '.join(GENERATORS)}")
    return name


GeneratorName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": list(GENERATORS)})
]


def generator_shapes(kind: str, sizes: GeneratorSizes) -> dict[str, Shape]:
    """Map name to shape for the parameters of a generator; parameters without an element are left out."""
    return {name: shape for name, shape in GENERATORS[kind].shapes(sizes).items() if all(shape)}


def generator_cost(kind: str, sizes: GeneratorSizes) -> int:
    """Return the number of parameters of a generator."""
    return sum(map(math.prod, generator_shapes(kind, sizes).values()))


def size_fields(kinds: Iterable[str]) -> set[str]:
    """Return the fields of the job specification that have the sizes of these kinds."""
    return {field for kind in kinds for field in GENERATORS[kind].sizes.values()}


SIZE_FIELDS = size_fields(GENERATORS)
"""All fields of the job specification with sizes of generators."""


def takes_l2(kind: str) -> bool:
    """Return whether the generator has weights that take the L2 penalty."""
    return bool(penalised(generator_shapes(kind, GeneratorSizes(1, 1))))


def penalised(names: Iterable[str]) -> list[str]:
    """Return those of a generator's parameters that take the L2 penalty."""
    return [name for name in names if name.startswith("recurrent_")]
