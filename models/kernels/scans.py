"""Start the kernels of `gru_programs` and `controlled_programs`: tensors made contiguous, outputs allocated.

Shapes as in `models.scan` and `models.controlled_scan`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from models.config import VARIANCE_FLOOR
from models.kernels import Kernels, padded

if TYPE_CHECKING:
    from models.controlled_scan import ControlledInputs, ControlledRun


def program(name: str) -> Any:
    """Return a program by its name. Triton is imported at the first use: torch for CPUs comes without it."""
    from models.kernels import controlled_programs, gru_programs

    return getattr(gru_programs if name.startswith("gru") else controlled_programs, name)


def launch(
    kernels: Kernels, name: str, sizes: tuple[int, int, int], *arguments: object, **constants: object
) -> None:
    """Start a kernel for P units, T bins and B trials, on the device of its first argument."""
    P, _, B = sizes
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    # Triton starts kernels on the current device.
    current = torch.cuda.device(first.device) if first.device.type == "cuda" else contextlib.nullcontext()
    with current:
        program(name)[(P, -(-B // kernels.rows))](
            *arguments, *sizes, ROWS=kernels.rows, OPERANDS=kernels.operands, PRECISION=kernels.precision,
            num_warps=kernels.warps, num_stages=1, **constants,
        )  # fmt: skip


def run(
    kernels: Kernels,
    projection: Tensor,
    start: Tensor,
    weight: Tensor,
    candidate_bias: Tensor,
    unseen: Tensor | None,
    *,
    both_ways: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the loop of a GRU from its projected inputs [P, T, B, 3H] on; return gates, candidates, states as `Steps` does."""
    P, T, B, _ = projection.shape
    H = start.shape[-1]
    projection = _row_by_row(projection)
    room = _room(start, T, keep=keep)
    launch(
        kernels, "gru_forward", (P, T, B), projection, *projection.stride()[:3], start.contiguous(), weight.contiguous(),
        candidate_bias.contiguous(), start if unseen is None else unseen.contiguous(), *room,
        H=H, HP=padded(H), KEEP=keep, UNSEEN=unseen is not None, BOTH_WAYS=both_ways, RESIDENT=kernels.resident,
    )  # fmt: skip
    return room


def run_back(
    kernels: Kernels,
    kept: tuple[Tensor, Tensor, Tensor],
    weight: Tensor,
    d_states: Tensor | None,
    d_h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the gradients at c = U h (r, z, n) and at the argument of n; `d_h` becomes that at the start, in place."""
    gates, candidates, states = kept
    P, T, B, H = candidates.shape
    d_gates, d_n = torch.empty_like(gates), torch.empty_like(candidates)
    given = states if d_states is None else _row_by_row(d_states)
    launch(
        kernels, "gru_backward", (P, T, B), *kept, weight.contiguous(), given, *given.stride()[:3], d_h, d_gates, d_n,
        H=H, HP=padded(H), D_STATES=d_states is not None, RESIDENT=kernels.resident,
    )  # fmt: skip
    return d_gates, d_n


def run_controlled(kernels: Kernels, given: ControlledInputs, *, keep: bool) -> tuple[Tensor, ...]:
    """Do what `models.controlled_scan._run_controlled` does: return the fields of a `ControlledRun`."""
    assert given.controller_projection is not None
    assert given.generator_projection is not None
    P, T, B, _ = given.controller_projection.shape
    start, projections = given.generator_initial_state, []
    for projection in (given.controller_projection, given.generator_projection):
        rows = _row_by_row(projection)  # an expanded bias stays so: it takes no memory
        projections += [rows, *rows.stride()[:3]]
    room = (
        *_room(given.controller_initial_state, T, keep=keep),
        *_room(start, T, keep=keep),
        *(start.new_empty(P, T, B, size) for size in _sizes(given)[2:]),
    )
    launch(
        kernels, "controlled_forward", (P, T, B), *projections, given.controller_initial_state.contiguous(),
        start.contiguous(), given.controller_weight.contiguous(), given.controller_bias.contiguous(),
        *_small_weights(given)[:3], given.generator_weight.contiguous(), given.generator_bias.contiguous(),
        *_small_weights(given)[3:], *_optional(given), *room, VARIANCE_FLOOR, KEEP=keep, **_constants(given),
    )  # fmt: skip
    return room


def run_controlled_back(
    kernels: Kernels,
    given: ControlledInputs,
    kept: ControlledRun,
    d_states: Tensor | None,
    d_inputs: Tensor | None,
    d_moments: Tensor,
) -> tuple[Tensor, ...]:
    """Compute the loop of the gradient.

    `d_moments` becomes the whole gradient at the moments, in place. Returns the gradients at c = U h and at the argument of n of
    the controller, the same of the generator, those at the factors, and at both starts.
    """
    P, T, B, _ = kept.moments.shape
    of_gates = [torch.empty_like(kept[place]) for place in (0, 1, 3, 4)]
    d_factors = torch.empty_like(kept.factors)
    starts = [torch.empty_like(kept[place][:, 0], memory_format=torch.contiguous_format) for place in (2, 5)]
    states = kept.generator_states if d_states is None else _row_by_row(d_states)
    factor_weight, moment_weight, _, input_weight, directions = _small_weights(given)
    launch(
        kernels, "controlled_backward", (P, T, B), *kept[:6], kept.moments, given.controller_weight.contiguous(),
        factor_weight, moment_weight, given.generator_weight.contiguous(), input_weight, directions, *_optional(given),
        states, *states.stride()[:3], kept.inputs if d_inputs is None else d_inputs.contiguous(), *of_gates, d_moments,
        d_factors, *starts, VARIANCE_FLOOR, D_STATES=d_states is not None, D_INPUTS=d_inputs is not None, **_constants(given),
    )  # fmt: skip
    return *of_gates, d_factors, *starts


def _sizes(given: ControlledInputs) -> tuple[int, int, int, int, int]:
    """Return C, G, F, 2U and U."""
    U = given.input_weight.shape[1]
    states = given.controller_initial_state.shape[-1], given.generator_initial_state.shape[-1]
    return *states, given.directions.shape[1], 2 * U, U


def _constants(given: ControlledInputs) -> dict[str, Any]:
    """Return what the code of the programs depends on."""
    C, G, F, _, U = _sizes(given)
    constants = {"C": C, "G": G, "F": F, "U": U} | {"CP": padded(C), "GP": padded(G), "FP": padded(F)}
    return constants | {
        "UP": padded(U), "MASKED": given.dropout_mask is not None, "NOISY": given.noise is not None,
    }  # fmt: skip


def _small_weights(given: ControlledInputs) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the weights between controller, inferred inputs, generator and factors."""
    return (
        given.factor_weight.contiguous(), given.moment_weight.contiguous(), given.moment_bias.contiguous(),
        given.input_weight.contiguous(), given.directions.contiguous(),
    )  # fmt: skip


def _optional(given: ControlledInputs) -> tuple[Tensor, Tensor]:
    """Return mask and noise; any tensor in the place of what is not there, which no program reads."""
    mask, noise = given.dropout_mask, given.noise
    return (
        given.directions if mask is None else mask.contiguous(),
        given.directions if noise is None else noise.contiguous(),
    )


def _room(start: Tensor, bins: int, *, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate gates, candidates (of one bin unless they are kept) and states."""
    P, B, H = start.shape
    kept = bins if keep else 1
    return (
        start.new_empty(P, kept, B, 3 * H),
        start.new_empty(P, kept, B, H),
        start.new_empty(P, bins + 1, B, H),
    )


def _row_by_row(x: Tensor) -> Tensor:
    """Return the tensor with a contiguous last axis."""
    return x if x.stride(-1) == 1 else x.contiguous()
