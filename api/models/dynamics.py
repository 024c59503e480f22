"""What the generator of a model has learnt: eigenvalues and fixed points, computed from its weights."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session
from zarr.abc.store import Store

from api.arrays.groups import ArrayGroup, StoredRows
from api.errors import WrongState
from api.models.service import find_trained
from api.models.weights import StoredWeights, find_weights
from domain.dynamics import (
    MOST_UNITS,
    FixedPoint,
    Flow,
    affordable_starts,
    find_fixed_points,
    flow_of,
    frequency_hz,
    low_rank_vectors,
    own_eigenvalues,
    time_constant_s,
)

VERSION = "1"
"""Raise it when the analysis computes something else, so that clients drop their copies."""
_MOST_TRIALS = 64
"""Trials whose states are starting points."""
_STARTS_SEED = 0
_RUN_BINS = 100
_GENERATOR, _PRIOR = "generator.", "prior."
_STATES = "generator_states"

Floats = NDArray[np.float64]


class DynamicsQuery(BaseModel):
    """Parameters of the analysis of a generator."""

    model_config = ConfigDict(extra="forbid")

    starts: int = Field(
        64,
        ge=0,
        le=512,
        description="States from which Newton's method searches for fixed points. Large generators have fewer, so that the "
        "search takes some seconds at most. 0: no fixed points.",
    )
    eigenvalues: int = Field(
        20,
        ge=1,
        le=2048,
        description="Number of eigenvalues to return at most, those of the largest magnitude.",
    )


class Eigenvalue(BaseModel):
    """An eigenvalue λ of a step of one bin."""

    real: float
    imag: float
    magnitude: float = Field(description="|λ|. Below 1 activity decays, above 1 it grows.")
    time_constant_ms: float | None = Field(
        description="-Δ / ln|λ| with the bin width Δ: activity falls to 1/e in this time. Negative if it grows by e in this "
        "time. null if it does neither, or ends within a bin."
    )
    frequency_hz: float = Field(description="|arg λ| / (2π Δ), the frequency of the rotation; 0 for none.")


class FixedPointDocument(BaseModel):
    """A state that stays where it is without inputs."""

    state: list[float] = Field(description="By unit of the generator.")
    is_stable: bool = Field(description="Whether all eigenvalues have a magnitude below 1.")
    unstable_dimensions: int = Field(description="Number of eigenvalues with a magnitude above 1.")
    starts: int = Field(description="Number of starts from which Newton's method came here.")
    distance: float = Field(
        description="From the nearest start, divided by the root mean square distance of the starts from their mean. Far above "
        "1: the model is never near this point."
    )
    eigenvalues: list[Eigenvalue] = Field(description="Of the Jacobian at this point, largest first.")


class DynamicsDocument(BaseModel):
    """What a generator has learnt, without inputs."""

    model_id: str
    generator: str
    units: int
    bin_width_s: float
    eigenvalues: list[Eigenvalue] | None = Field(
        description="Of the whole dynamics, largest first. `linear`: of A. `low_rank`: of the linear part 0.9 + 0.1 U V', as "
        "many as the rank; the others are 0.9. null for other kinds, whose eigenvalues differ from state to state."
    )
    u: list[list[float]] | None = Field(
        description="U of `low_rank`, units × rank; its columns are orthogonal, the longest first. null for other kinds."
    )
    v: list[list[float]] | None = Field(
        description="V of `low_rank`, units × rank; its columns are orthonormal. null for other kinds."
    )
    starts: int = Field(description="Number of states from which fixed points were searched for.")
    starts_from: Literal["generator_states", "prior"] | None = Field(
        description="Where they come from: `generator_states`, the latents of the model; `prior`, trajectories from its prior, "
        "if these latents are not stored. null without starts."
    )
    converged: int = Field(description="Number of starts from which Newton's method reached a fixed point.")
    fixed_points: list[FixedPointDocument] = Field(description="Those of most starts first.")
    note: str | None = Field(None, description="Why fixed points may be missing.")


@dataclass(frozen=True)
class StoredGenerator:
    """The weights of a model's generator, and where states of the model lie.

    Attributes
    ----------
    model_id, architecture, bin_width_s
        Of the model.
    weights
        Where its best weights lie.
    latents
        Its latents, if any.
    store
        The array store.
    """

    model_id: str
    architecture: dict[str, Any]
    bin_width_s: float
    weights: StoredWeights
    latents: ArrayGroup | None
    store: Store

    @property
    def cache_key(self) -> tuple[str, ...]:
        """Return what the analysis depends on, beside the query."""
        return VERSION, self.model_id, self.weights.key, self.latents.path if self.latents else ""

    def analyse(self, query: DynamicsQuery) -> DynamicsDocument:
        """Compute eigenvalues and fixed points."""
        stored = self.weights.values(_GENERATOR, _PRIOR)
        kind = str(self.architecture.get("generator", "gru"))
        own = {
            name.removeprefix(_GENERATOR): values
            for name, values in stored.items()
            if name.startswith(_GENERATOR)
        }
        flow, units = flow_of(kind, own), stored["generator.initial_bias"].size
        number = affordable_starts(units, query.starts)
        starts, source = self._starts(stored, flow, number) if number else (np.empty((0, units)), None)
        points = find_fixed_points(flow, starts)
        own_values = own_eigenvalues(kind, own)
        u, v = low_rank_vectors(own) if kind == "low_rank" else (None, None)
        return DynamicsDocument(
            model_id=self.model_id,
            generator=kind,
            units=units,
            bin_width_s=self.bin_width_s,
            eigenvalues=None if own_values is None else self._eigenvalues(own_values, query),
            u=None if u is None else u.tolist(),
            v=None if v is None else v.tolist(),
            starts=len(starts),
            starts_from=source,
            converged=sum(point.starts for point in points),
            fixed_points=[self._point(point, query) for point in points],
            note=_note(query, units, len(starts), len(points)),
        )

    def _starts(
        self, stored: dict[str, Floats], flow: Flow, number: int
    ) -> tuple[Floats, Literal["generator_states", "prior"]]:
        """Return states [number, G] that the model visits, and where they are from."""
        random = np.random.default_rng(_STARTS_SEED)
        if self.latents is not None:
            array = self.latents.opened(self.store).arrays.get(_STATES)
            if array is not None:
                rows = np.unique(np.linspace(0, array.shape[0] - 1, _MOST_TRIALS).astype(np.int64))
                whole = tuple(slice(0, size, 1) for size in array.shape[1:])
                blocks = [np.asarray(block, np.float64) for block in StoredRows(array, (rows, *whole))()]
                states = np.concatenate(blocks).reshape(-1, array.shape[-1])
                states = states[np.isfinite(states).all(1)]
                if len(states):
                    chosen = random.choice(len(states), min(number, len(states)), replace=False)
                    return states[chosen], "generator_states"
        deviation = np.sqrt(np.exp(stored["prior.log_variance"]))
        g0 = stored["prior.mean"] + deviation * random.normal(size=(number, len(deviation)))
        states = np.clip(g0 @ stored["generator.initial_weight"] + stored["generator.initial_bias"], -5, 5)
        kept, after = states.copy(), random.integers(0, _RUN_BINS, number)
        for bins in range(_RUN_BINS):
            kept[after == bins] = states[after == bins]
            states = flow.following(states)
        return kept, "prior"

    def _point(self, point: FixedPoint, query: DynamicsQuery) -> FixedPointDocument:
        growing = int((np.abs(point.eigenvalues) > 1).sum())
        return FixedPointDocument(
            state=point.state.tolist(),
            is_stable=bool((np.abs(point.eigenvalues) < 1).all()),
            unstable_dimensions=growing,
            starts=point.starts,
            distance=point.distance,
            eigenvalues=self._eigenvalues(point.eigenvalues, query),
        )

    def _eigenvalues(self, found: NDArray[np.complex128], query: DynamicsQuery) -> list[Eigenvalue]:
        values = [complex(one) for one in found[: query.eigenvalues]]
        times_s = [time_constant_s(one, self.bin_width_s) for one in values]
        return [
            Eigenvalue(
                real=one.real,
                imag=one.imag,
                magnitude=abs(one),
                time_constant_ms=None if time_s is None else 1000 * time_s,
                frequency_hz=frequency_hz(one, self.bin_width_s),
            )
            for one, time_s in zip(values, times_s, strict=True)
        ]


def _note(query: DynamicsQuery, units: int, starts: int, points: int) -> str | None:
    if not query.starts:
        return None
    if not starts:
        return (
            f"The generator has {units} units; fixed points are searched for with at most {MOST_UNITS} units."
        )
    fewer = (
        f"With {units} units, fixed points were searched for from {starts} states instead of {query.starts}. "
    )
    found = (
        ""
        if points
        else "Newton's method reached no fixed point: the dynamics may have none near these states."
    )
    return ((fewer if starts < query.starts else "") + found).strip() or None


def find_generator(session: Session, arrays: Store, tenant_id: str, model_id: str) -> StoredGenerator:
    """Return the generator of the tenant's model.

    Raises
    ------
    NotFound, WrongState
        If there is no such model, it is still training, or it has no weights.
    """
    model = find_trained(session, tenant_id, model_id)
    weights = find_weights(arrays, model.checkpoint_key, {})
    if weights is None:
        raise WrongState(f"the weights of the model {model_id} were dropped this moment", hint="try again")
    path = model.row.latents_path
    latents = None if path is None else ArrayGroup(path, model.dataset.id, f"the model {model_id}")
    width_s = model.dataset.bin_width_s
    assert width_s is not None  # a data set that models were trained on is ready
    return StoredGenerator(model_id, model.architecture, width_s, weights, latents, arrays)
