"""The dynamics of generators: steps, Jacobians, fixed points and eigenvalues of systems whose answer is known."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from domain.dynamics import (
    MOST_UNITS,
    affordable_starts,
    find_fixed_points,
    flow_of,
    frequency_hz,
    low_rank_vectors,
    own_eigenvalues,
    time_constant_s,
)
from domain.generators import GENERATORS, GeneratorSizes, generator_shapes
from models.generators import generator_of

Parameters = dict[str, np.ndarray]


def draw(kind: str, units: int, seed: int = 0) -> Parameters:
    random = np.random.default_rng(seed)
    shapes = generator_shapes(kind, GeneratorSizes(units, 0, 6, 2))
    return {name: 0.8 * random.normal(size=shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("units", [1, 4, 5])
def test_step_and_jacobian_are_those_of_the_network(kind: str, units: int) -> None:
    parameters = draw(kind, units)
    step = generator_of(kind).step({name: torch.from_numpy(one)[None] for name, one in parameters.items()})
    states, flow = np.random.default_rng(1).normal(size=(3, units)), flow_of(kind, parameters)

    def following(state: torch.Tensor) -> torch.Tensor:
        return step(state[None, None], torch.zeros(1, 1, 0, dtype=torch.float64))[0, 0]

    for state, after, slope in zip(states, flow.following(states), flow.jacobian(states), strict=True):
        given = torch.from_numpy(state)
        np.testing.assert_allclose(after, following(given), rtol=1e-12, atol=1e-12)
        expected = torch.autograd.functional.jacobian(following, given)
        np.testing.assert_allclose(slope, expected, rtol=1e-10, atol=1e-12)


def test_a_linear_system_has_its_eigenvalues_and_one_fixed_point() -> None:
    bin_s, time_s, turns_hz = 0.01, np.array([0.05, 0.2]), np.array([3.0, 8.0])
    parameters = {
        "log_time_constant": np.log(time_s / bin_s),
        "angle": 2 * math.pi * turns_hz * bin_s,
        "input_bias": np.array([0.3, -0.2, 0.1, 0.5]),
    }
    found = own_eigenvalues("linear", parameters)
    assert found is not None
    assert [time_constant_s(one, bin_s) for one in found] == pytest.approx([0.2, 0.2, 0.05, 0.05])
    assert [frequency_hz(one, bin_s) for one in found] == pytest.approx([8.0, 8.0, 3.0, 3.0])
    [point] = find_fixed_points(flow_of("linear", parameters), np.random.default_rng(0).normal(size=(5, 4)))
    assert point.starts == 5
    np.testing.assert_allclose(point.eigenvalues, found, atol=1e-12)
    matrix = flow_of("linear", parameters).jacobian(np.zeros((1, 4)))[0]
    np.testing.assert_allclose(point.state, np.linalg.solve(np.eye(4) - matrix, parameters["input_bias"]))


def test_all_fixed_points_of_a_bistable_gru_are_found() -> None:
    """Two units without coupling, each bistable: 3 × 3 fixed points, at the roots of tanh(w g + b) - g."""
    weight, bias, z = 2.0, np.array([0.1, -0.05]), 0.5
    parameters = {
        "input_bias": np.concatenate((np.full(2, 50.0), np.zeros(2), bias)),  # r = 1, z = ½
        "recurrent_weight": np.hstack((np.zeros((2, 4)), weight * np.eye(2))),
        "candidate_bias": np.zeros(2),
    }
    roots = []
    for one in bias:
        grid = np.linspace(-2, 2, 401)
        values = np.tanh(weight * grid + one) - grid
        ends = np.flatnonzero(values[:-1] * values[1:] < 0)
        roots.append(
            [brentq(lambda g, b=one: np.tanh(weight * g + b) - g, grid[i], grid[i + 1]) for i in ends]
        )
    assert [len(one) for one in roots] == [3, 3]
    starts = np.random.default_rng(0).uniform(-1.2, 1.2, (200, 2))
    found = find_fixed_points(flow_of("gru", parameters), starts)
    assert len(found) == 9
    assert sum(one.starts for one in found) <= 200
    expected = sorted((a, b) for a in roots[0] for b in roots[1])
    ordered = sorted((one.state for one in found), key=lambda state: state.round(4).tolist())
    np.testing.assert_allclose(ordered, expected, atol=1e-7)
    for one in found:
        slopes = z + (1 - z) * weight * (1 - one.state**2)
        np.testing.assert_allclose(np.sort(one.eigenvalues.real), np.sort(slopes), atol=1e-7)


def test_a_flow_without_rest_has_no_fixed_point() -> None:
    """Where its hidden units saturate, a state moves at a constant speed; Newton's steps run away there."""
    parameters = draw("node", 4) | {"output_bias": np.full(4, 30.0)}
    assert find_fixed_points(flow_of("node", parameters), np.random.default_rng(0).normal(size=(20, 4))) == []


def test_low_rank_vectors_and_eigenvalues_are_those_of_the_product() -> None:
    parameters = draw("low_rank", 7)
    u, v = low_rank_vectors(parameters)
    product = parameters["recurrent_write_weight"].T @ parameters["recurrent_read_weight"].T
    np.testing.assert_allclose(u @ v.T, product, atol=1e-12)
    np.testing.assert_allclose(v.T @ v, np.eye(2), atol=1e-12)
    assert (u.T @ u)[0, 1] == pytest.approx(0, abs=1e-12)
    whole = np.linalg.eigvals(0.9 * np.eye(7) + 0.1 * product)
    found = own_eigenvalues("low_rank", parameters)
    assert found is not None
    for one in found:
        assert np.abs(whole - one).min() < 1e-9


def test_the_work_of_a_search_is_bounded() -> None:
    assert affordable_starts(10, 500) == 500
    assert 1 <= affordable_starts(MOST_UNITS, 500) < 10
    assert affordable_starts(MOST_UNITS + 1, 500) == 0
    assert own_eigenvalues("gru", {}) is None
    assert time_constant_s(1.0, 0.01) is None
    assert (time_constant_s(1.1, 0.01) or 0) < 0
