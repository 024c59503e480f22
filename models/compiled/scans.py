"""The scans of `models.scan` and `models.controlled_scan` in C: tensors made contiguous, outputs allocated, pointers passed.

Shapes as there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import CDLL
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.config import VARIANCE_FLOOR

if TYPE_CHECKING:
    from models.controlled_scan import ControlledInputs, ControlledRun

_Pointer, _Long, _Int, _Float = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float


class _Gru(ctypes.Structure):
    """`Gru` of controlled_scan.c."""

    _fields_ = (
        ("projection", _Pointer),
        *[(f"projection_{axis}", _Long) for axis in ("unit", "bin", "trial")],
        *[(name, _Pointer) for name in ("weight", "bias", "input_weight", "gates", "candidates", "states")],
        *[(f"d_{name}", _Pointer) for name in ("projection", "weight", "bias", "input_weight", "state")],
    )


class _Controlled(ctypes.Structure):
    """`Controlled` of controlled_scan.c."""

    _fields_ = (
        ("controller", _Gru),
        ("generator", _Gru),
        *[
            (name, _Pointer)
            for name in ("moment_weight", "moment_bias", "directions", "dropout_mask", "noise")
        ],
        *[(name, _Pointer) for name in ("factors", "moments", "inputs", "d_states", "d_inputs")],
        *[(f"d_{name}", _Pointer) for name in ("moments", "moment_weight", "moment_bias", "directions")],
        ("floor", _Float),
        *[(name, _Int) for name in ("P", "T", "B", "C", "U", "G", "F", "keep")],
    )


def run(
    library: CDLL,
    x: Tensor,
    start: Tensor,
    parameters: Sequence[Tensor],
    unseen: Tensor | None,
    *,
    both_ways: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Do what `models.scan._run` does: return gates, candidates and states."""
    x, parameters = _row_by_row(x), [values.contiguous() for values in parameters]
    M, T, B, D = x.shape
    P, H = parameters[3].shape
    _require((1 + both_ways) * M == P, "so many units for each model and way:", (1 + both_ways) * M, P)
    for given, shape in zip(parameters[:3], ((P, D, 3 * H), (P, 3 * H), (P, H, 3 * H)), strict=True):
        _require_shape(given, shape)
    _require_shape(start, (P, B, H))
    _require_shape(unseen, (T, B))
    gates, candidates, states = _room(start, T, 3 * H, keep=keep)
    unseen = None if unseen is None else unseen.contiguous()
    sizes = 1 + both_ways, P, T, B, D, H, int(keep)
    kept = gates, candidates, states
    _call(library, "gru_forward", x, *x.stride()[:3], unseen, *parameters, *kept, *sizes)
    return kept


def run_back(
    library: CDLL,
    x: Tensor,
    parameters: Sequence[Tensor],
    kept: tuple[Tensor, Tensor, Tensor],
    d_h: Tensor,
    *,
    d_states: Tensor | None,
    both_ways: bool,
    wants_d_x: bool,
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """Do what `models.scan._run_back` does; `d_h` must be contiguous."""
    x, parameters = _row_by_row(x), [values.contiguous() for values in parameters]
    input_weight, _, weight, _ = parameters
    M, T, B, D = x.shape
    P, H = d_h.shape[0], d_h.shape[-1]
    _require_shape(d_states, (P, T, B, H))
    _require_shape(d_h, (P, B, H))
    d_states = None if d_states is None else d_states.contiguous()
    d_x = x.new_zeros(M, T, B, D) if wants_d_x else None
    d_parameters = tuple(torch.empty_like(values) for values in parameters)
    sizes = 1 + both_ways, len(weight), T, B, D, weight.shape[1]
    given = (x, *x.stride()[:3], input_weight, weight, *kept, d_states)
    _call(library, "gru_backward", *given, d_h, d_x, *d_parameters, *sizes)
    return d_x, d_parameters


def run_controlled(library: CDLL, given: ControlledInputs, *, keep: bool) -> tuple[Tensor, ...]:
    """Do what `models.controlled_scan._run_controlled` does: return the fields of a `ControlledRun`."""
    assert given.controller_projection is not None
    assert given.generator_projection is not None
    P, T, B, C3 = given.controller_projection.shape
    U, F = given.input_weight.shape[1], given.directions.shape[1]
    controller = _room(given.controller_initial_state, T, C3, keep=keep)
    generator = _room(given.generator_initial_state, T, given.generator_projection.shape[-1], keep=keep)
    of_inputs = tuple(given.directions.new_empty(P, T, B, size) for size in (F, 2 * U, U))
    passed, held = _Passed(given, (*controller, *generator, *of_inputs), T, keep=keep), []
    for gru, projection in (
        (passed.arguments.controller, given.controller_projection),
        (passed.arguments.generator, given.generator_projection),
    ):
        rows = _row_by_row(projection)  # expanded biases stay so: they take no memory
        gru.projection = rows.data_ptr()
        gru.projection_unit, gru.projection_bin, gru.projection_trial = rows.stride()[:3]
        held.append(rows)
    passed.call(library, "controlled_forward")
    return *controller, *generator, *of_inputs


def run_controlled_back(
    library: CDLL, given: ControlledInputs, kept: ControlledRun, gradients: Sequence[Tensor | None]
) -> tuple[Tensor, ...]:
    """Do what `models.controlled_scan._run_controlled_back` does."""
    for gradient, output in zip(
        gradients, (kept.generator_states[:, 1:], kept.moments, kept.inputs), strict=True
    ):
        _require_shape(gradient, output.shape)
    d_states, d_moments, d_inputs = (None if d is None else d.contiguous() for d in gradients)
    passed = _Passed(given, kept, kept.moments.shape[1], keep=True)
    arguments, made = passed.arguments, []
    d_of_inputs = torch.zeros_like(kept.moments) if d_moments is None else d_moments.clone()
    arguments.d_states, arguments.d_inputs = passed.pointer(d_states), passed.pointer(d_inputs)
    arguments.d_moments = passed.pointer(d_of_inputs)
    for gru, gates, states, weights in (
        (arguments.controller, kept.controller_gates, kept.controller_states,
         (given.controller_weight, given.controller_bias, given.factor_weight)),
        (arguments.generator, kept.generator_gates, kept.generator_states,
         (given.generator_weight, given.generator_bias, given.input_weight)),
    ):  # fmt: skip
        d_projection, d_start = torch.empty_like(gates), torch.zeros_like(states[:, 0]).contiguous()
        d_weights = [weight.new_empty(weight.shape) for weight in weights]
        gru.d_projection, gru.d_state = passed.pointer(d_projection), passed.pointer(d_start)
        gru.d_weight, gru.d_bias, gru.d_input_weight = map(passed.pointer, d_weights)
        made.append((d_projection, d_start, *d_weights))
    others = [w.new_empty(w.shape) for w in (given.moment_weight, given.moment_bias, given.directions)]
    arguments.d_moment_weight, arguments.d_moment_bias, arguments.d_directions = map(passed.pointer, others)
    passed.call(library, "controlled_backward")
    (*controller, d_factor_weight), (*generator, d_input_weight) = made
    d_moment_weight, d_moment_bias, d_directions = others
    return (
        *controller, d_factor_weight, d_moment_weight, d_moment_bias, *generator, d_input_weight, d_directions,
    )  # fmt: skip


class _Passed:
    """The argument of a controlled scan, with the tensors that its pointers refer to."""

    def __init__(self, given: ControlledInputs, kept: Sequence[Tensor], bins: int, *, keep: bool) -> None:
        self._held: list[Tensor] = []
        _check_controlled(given, bins)
        self.arguments = arguments = _Controlled(floor=VARIANCE_FLOOR, T=bins, keep=int(keep))
        arguments.P, arguments.B, arguments.C = given.controller_initial_state.shape
        arguments.G, arguments.F = given.generator_initial_state.shape[-1], given.directions.shape[1]
        arguments.U = given.input_weight.shape[1]
        for gru, weights, states in (
            (arguments.controller, (given.controller_weight, given.controller_bias, given.factor_weight), kept[:3]),
            (arguments.generator, (given.generator_weight, given.generator_bias, given.input_weight), kept[3:6]),
        ):  # fmt: skip
            gru.weight, gru.bias, gru.input_weight = map(self.pointer, weights)
            gru.gates, gru.candidates, gru.states = map(self.pointer, states)
        for name in ("moment_weight", "moment_bias", "directions", "dropout_mask", "noise"):
            setattr(arguments, name, self.pointer(getattr(given, name)))
        arguments.factors, arguments.moments, arguments.inputs = map(self.pointer, kept[6:])

    def pointer(self, tensor: Tensor | None) -> int | None:
        """Return the address of a tensor, or of a contiguous copy."""
        if tensor is None:
            return None
        self._held.append(tensor.contiguous())
        return self._held[-1].data_ptr()

    def call(self, library: CDLL, name: str) -> None:
        """Call a function of the library."""
        _call(library, name, ctypes.byref(self.arguments))


def _check_controlled(given: ControlledInputs, T: int) -> None:
    """Check all shapes, since C would read past the end of a tensor."""
    P, B, C = given.controller_initial_state.shape
    G, U, F = given.generator_initial_state.shape[-1], given.input_weight.shape[1], given.directions.shape[1]
    shapes: dict[str, tuple[int, ...]] = {
        "controller_projection": (P, T, B, 3 * C),
        "controller_weight": (P, C, 3 * C),
        "controller_bias": (P, C),
        "factor_weight": (P, F, 3 * C),
        "moment_weight": (P, C, 2 * U),
        "moment_bias": (P, 2 * U),
        "generator_projection": (P, T, B, 3 * G),
        "generator_initial_state": (P, B, G),
        "generator_weight": (P, G, 3 * G),
        "generator_bias": (P, G),
        "input_weight": (P, U, 3 * G),
        "directions": (P, F, G),
        "dropout_mask": (P, T, B, G),
        "noise": (P, T, B, U),
    }
    for name, shape in shapes.items():
        _require_shape(getattr(given, name), shape)


def _require_shape(tensor: Tensor | None, shape: Sequence[int]) -> None:
    if tensor is not None:
        _require(tensor.shape == torch.Size(shape), "the shape", tuple(shape), tuple(tensor.shape))


def _require(condition: bool, what: str, expected: object, came: object) -> None:
    if not condition:
        raise ValueError(f"compiled scan: expected {what} {expected}, got {came}")


def _call(library: CDLL, name: str, *arguments: object) -> None:
    """Call a function of the library; tensors pass as pointers, None as no pointer."""
    passed = [value.data_ptr() if isinstance(value, Tensor) else value for value in arguments]
    if getattr(library, name)(*passed):
        raise MemoryError("out of memory in the compiled scan")


def _room(start: Tensor, bins: int, gates: int, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate gates, candidates (of one bin unless they are kept) and states, with the first states filled in."""
    P, B, H = start.shape
    kept = bins if keep else 1
    states = start.new_empty(P, bins + 1, B, H)
    states[:, 0] = start
    return start.new_empty(P, kept, B, gates), start.new_empty(P, kept, B, H), states


def _row_by_row(x: Tensor) -> Tensor:
    """Return the tensor with a contiguous last axis."""
    return x if x.stride(-1) == 1 or x.shape[-1] < 2 else x.contiguous()
