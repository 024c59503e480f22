"""The kinds of generators: their names and the shapes of their parameters.

For each kind `models/generators/NAME.py` implements one step. Names have a meaning: `…weight` is a matrix [D, H], which costs
D · H multiply-accumulates per bin, and `recurrent_…` takes the L2 penalty.
"""

import math
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

Shape = tuple[int, ...]

# For G units that read V inputs per bin.
GENERATORS: dict[str, Callable[[int, int], dict[str, Shape]]] = {
    "gru": lambda G, V: {
        "input_weight": (V, 3 * G),
        "input_bias": (3 * G,),
        "recurrent_weight": (G, 3 * G),
        "candidate_bias": (G,),
    },
    "linear": lambda G, V: {
        "input_weight": (V, G),
        "input_bias": (G,),
        "log_time_constant": ((G + 1) // 2,),
        "angle": ((G + 1) // 2,),
    },
}
"""For each kind, the shapes of its parameters. A GRU's 3: reset gate, update gate, candidate."""


def _known(name: str) -> str:
    if name not in GENERATORS:
        raise ValueError(f"generator is {name!r}: expected one of {', '.join(GENERATORS)}")
    return name


GeneratorName = Annotated[
    str, AfterValidator(_known), WithJsonSchema({"type": "string", "enum": list(GENERATORS)})
]


def generator_shapes(kind: str, units: int, inputs: int) -> dict[str, Shape]:
    """Map name to shape for the parameters of a generator; parameters without an element are left out."""
    return {name: shape for name, shape in GENERATORS[kind](units, inputs).items() if all(shape)}


def costliest_first(kinds: Iterable[str]) -> list[str]:
    """Return kinds by the number of parameters that as many units take, the largest first."""
    return sorted(kinds, key=lambda kind: -sum(map(math.prod, generator_shapes(kind, 100, 1).values())))


def takes_l2(kind: str) -> bool:
    """Return whether the generator has weights that take the L2 penalty."""
    return bool(penalised(generator_shapes(kind, 1, 1)))


def penalised(names: Iterable[str]) -> list[str]:
    """Return those of a generator's parameters that take the L2 penalty."""
    return [name for name in names if name.startswith("recurrent_")]
