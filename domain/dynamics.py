"""The dynamics that a generator has learnt, without inputs: its step and Jacobian in NumPy, fixed points, eigenvalues.

Shapes: S states, G units, R rank, H hidden units. `models/generators` describes the steps; a test holds both to each other.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from domain.cancellation import cancellation_point
from domain.generators import RATE

Floats = NDArray[np.float64]
Complex = NDArray[np.complex128]
Parameters = Mapping[str, Floats]

MOST_UNITS = 1024
"""Units of a generator whose fixed points are searched for."""
_WORK = 4e9  # of starts · G³: some seconds of a core
_ITERATIONS = 60
_HALVINGS = 10  # of a Newton step that does not lower the speed
_TOLERANCE = (
    1e-9  # of the speed |F(g) - g|, relative to 1 + |start|: a state that runs away is no fixed point
)
_SAME = 1e-5  # distance of two solutions that are one fixed point, relative to 1 + |g|
_CHUNK = 1 << 22  # elements of Jacobians at a time


class Flow(NamedTuple):
    """A generator without inputs, or with inputs of 0.

    Attributes
    ----------
    following
        [S, G] → the states a bin later, [S, G].
    jacobian
        [S, G] → the derivatives of each unit a bin later by each unit now, [S, G, G].
    """

    following: Callable[[Floats], Floats]
    jacobian: Callable[[Floats], Floats]


def flow_of(kind: str, parameters: Parameters) -> Flow:
    """Return the step of a generator by its kind and its parameters, which have the names of `domain.generators`."""
    return _FLOWS[kind]({name: np.asarray(values, np.float64) for name, values in parameters.items()})


def _gru(parameters: Parameters) -> Flow:
    weight, candidate_bias = parameters["recurrent_weight"], parameters["candidate_bias"]
    of_r, of_z, of_n = np.split(weight, 3, axis=1)
    a_r, a_z, a_n = np.split(parameters["input_bias"], 3)

    def gates(g: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        r, z = _sigmoid(a_r + g @ of_r), _sigmoid(a_z + g @ of_z)
        c = g @ of_n + candidate_bias
        return r, z, c, np.tanh(a_n + r * c)

    def following(g: Floats) -> Floats:
        _, z, _, n = gates(g)
        return (1 - z) * n + z * g

    def jacobian(g: Floats) -> Floats:
        r, z, c, n = gates(g)
        slope = (1 - z) * (1 - n**2)
        found = ((g - n) * z * (1 - z))[:, :, None] * of_z.T
        found += (slope * r)[:, :, None] * of_n.T
        found += (slope * c * r * (1 - r))[:, :, None] * of_r.T
        return _with_diagonal(found, z)

    return Flow(following, jacobian)


def _node(parameters: Parameters) -> Flow:
    weight, bias = parameters["recurrent_weight"], parameters["hidden_bias"]
    output_weight, output_bias = (
        RATE * parameters["recurrent_output_weight"],
        RATE * parameters["output_bias"],
    )

    def following(g: Floats) -> Floats:
        moved: Floats = g + np.tanh(g @ weight + bias) @ output_weight + output_bias
        return moved

    def jacobian(g: Floats) -> Floats:
        slope = 1 - np.tanh(g @ weight + bias) ** 2
        return _with_diagonal(output_weight.T @ (slope[:, :, None] * weight.T), np.ones(g.shape[1]))

    return Flow(following, jacobian)


def _low_rank(parameters: Parameters) -> Flow:
    u, v = parameters["recurrent_write_weight"].T, parameters["recurrent_read_weight"]
    bias = RATE * parameters["input_bias"]

    def following(g: Floats) -> Floats:
        moved: Floats = (1 - RATE) * g + RATE * (np.tanh(g) @ v @ u.T) + bias
        return moved

    def jacobian(g: Floats) -> Floats:
        slope = 1 - np.tanh(g) ** 2
        return _with_diagonal(RATE * (u @ v.T) * slope[:, None, :], np.full(g.shape[1], 1 - RATE))

    return Flow(following, jacobian)


def _linear(parameters: Parameters) -> Flow:
    matrix, bias = linear_matrix(parameters), parameters["input_bias"]
    return Flow(lambda g: g @ matrix.T + bias, lambda g: np.broadcast_to(matrix, (len(g), *matrix.shape)))


_FLOWS: dict[str, Callable[[Parameters], Flow]] = {
    "gru": _gru,
    "node": _node,
    "linear": _linear,
    "low_rank": _low_rank,
}


def linear_matrix(parameters: Parameters) -> Floats:
    """Return A [G, G] of the generator `linear`."""
    units = len(parameters["input_bias"])
    blocks, shrinking = units // 2, np.exp(-np.exp(-parameters["log_time_constant"]))
    real, imaginary = shrinking * np.cos(parameters["angle"]), shrinking * np.sin(parameters["angle"])
    matrix = np.diag(np.concatenate((real[:blocks], real)))
    first, second = np.arange(blocks), np.arange(blocks) + blocks
    matrix[first, second], matrix[second, first] = -imaginary[:blocks], imaginary[:blocks]
    return matrix


def own_eigenvalues(kind: str, parameters: Parameters) -> Complex | None:
    """Return the eigenvalues of the whole dynamics, largest first; None for kinds that have them only at fixed points.

    Those of `low_rank` are the R eigenvalues of its linear part (1 - α) I + α U V' that its weights determine; the others are
    1 - α.
    """
    if kind == "linear":
        return _by_size(np.linalg.eigvals(linear_matrix(parameters)))
    if kind == "low_rank":
        small = parameters["recurrent_write_weight"] @ parameters["recurrent_read_weight"]  # U'V, [R, R]
        return _by_size(1 - RATE + RATE * np.linalg.eigvals(small))
    return None


def low_rank_vectors(parameters: Parameters) -> tuple[Floats, Floats]:
    """Return U and V [G, R] of the generator `low_rank`, with the same product U V' and in its own order.

    Many pairs have the same product. Here V has orthonormal columns, and those of U are orthogonal, the longest first.
    """
    q_u, r_u = np.linalg.qr(parameters["recurrent_write_weight"].T)
    q_v, r_v = np.linalg.qr(parameters["recurrent_read_weight"])
    left, lengths, right = np.linalg.svd(r_u @ r_v.T)
    return q_u @ left * lengths, q_v @ right.T


@dataclass(frozen=True)
class FixedPoint:
    """A state that stays where it is.

    Attributes
    ----------
    state
        [G].
    eigenvalues
        Of the Jacobian there, largest first, complex [G].
    starts
        Number of starts from which Newton's method came here.
    distance
        From the nearest start, divided by the root mean square distance of the starts from their mean.
    """

    state: Floats
    eigenvalues: Complex
    starts: int
    distance: float


def affordable_starts(units: int, wanted: int) -> int:
    """Return how many starts a search may have, so that it takes some seconds at most; 0 with too many units."""
    return 0 if units > MOST_UNITS else min(wanted, max(1, int(_WORK / units**3)))


def find_fixed_points(flow: Flow, starts: Floats) -> list[FixedPoint]:
    """Return the fixed points that Newton's method finds from some states, those of most starts first.

    Parameters
    ----------
    flow
        The generator.
    starts
        [S, G].
    """
    size = max(1, _CHUNK // starts.shape[1] ** 2)
    parts = [_newton(flow, starts[first : first + size]) for first in range(0, len(starts), size)]
    solutions = np.concatenate(parts) if parts else starts
    spread = math.sqrt(np.square(starts - starts.mean(0)).sum(1).mean()) or 1.0 if len(starts) else 1.0
    found: list[FixedPoint] = []
    while len(solutions):
        cancellation_point()
        state = solutions[0]
        near = np.linalg.norm(solutions - state, axis=1) <= _SAME * (1 + np.linalg.norm(state))
        eigenvalues = _by_size(np.linalg.eigvals(flow.jacobian(state[None])[0]))
        distance = float(np.linalg.norm(starts - state, axis=1).min()) / spread
        found.append(FixedPoint(state, eigenvalues, int(near.sum()), distance))
        solutions = solutions[~near]
    return sorted(found, key=lambda one: -one.starts)


def _newton(flow: Flow, states: Floats) -> Floats:
    """Return the states that Newton's method with halved steps reaches, of the starts from which it converges."""
    states, solved = states.copy(), np.zeros(len(states), bool)
    tolerance = _TOLERANCE * (1 + np.linalg.norm(states, axis=1))
    active = np.arange(len(states))
    for _ in range(_ITERATIONS):
        cancellation_point()
        here = states[active]
        velocity = flow.following(here) - here
        speed = np.linalg.norm(velocity, axis=1)
        done = speed <= tolerance[active]
        solved[active[done]] = True
        active, here, velocity, speed = (one[~done] for one in (active, here, velocity, speed))
        if not len(active):
            break
        slope = _with_diagonal(flow.jacobian(here), np.full(here.shape[1], -1 - 1e-12))
        step = _solve(slope, -velocity)
        share = np.ones(len(active))
        for _ in range(_HALVINGS):
            there = here + share[:, None] * step
            slower = np.linalg.norm(flow.following(there) - there, axis=1) < speed
            if slower.all():
                break
            share[~slower] /= 2
        states[active[slower]] = there[slower]
        active = active[slower]
    return states[solved]


def _solve(matrices: Floats, right: Floats) -> Floats:
    """Solve [S, G, G] for [S, G]; by least squares where a matrix is singular."""
    try:
        found = np.asarray(np.linalg.solve(matrices, right[:, :, None])[:, :, 0], np.float64)
    except np.linalg.LinAlgError:
        pairs = zip(matrices, right, strict=True)
        solved = [np.linalg.lstsq(matrix, one, rcond=None)[0] for matrix, one in pairs]
        found = np.asarray(solved, np.float64)
    return found


def _with_diagonal(matrices: Floats, diagonal: Floats) -> Floats:
    """Add to the diagonals of matrices [S, G, G] a vector [G], or [S, G]."""
    found = np.array(matrices)
    units = np.arange(found.shape[-1])
    found[:, units, units] += diagonal
    return found


def _by_size(eigenvalues: NDArray[Any]) -> Complex:
    """Return eigenvalues with the largest magnitude first."""
    found = np.asarray(eigenvalues, np.complex128)
    return found[np.lexsort((-found.imag, -np.abs(found)))]


def _sigmoid(values: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(0.5 * values))
    return found


def time_constant_s(eigenvalue: complex, bin_width_s: float) -> float | None:
    """Return -Δ / ln|λ| in seconds: how fast activity decays, or (below 0) grows. None if it does neither, or ends in a bin."""
    size = abs(eigenvalue)
    return None if size == 0 or abs(math.log(size)) < 1e-12 else -bin_width_s / math.log(size)


def frequency_hz(eigenvalue: complex, bin_width_s: float) -> float:
    """Return |arg λ| / (2π Δ): how fast activity rotates."""
    return abs(math.atan2(eigenvalue.imag, eigenvalue.real)) / (2 * math.pi * bin_width_s)
