"""Form and sizes of the network: `ArchitectureSpecification` of a job, `Architecture` of one model.

The specification has the names, defaults, ranges and rules. An architecture is a specification in which nothing is left to
search, with the neurons and external inputs of a data set.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from domain.errors import require, require_valid, require_whole_number
from domain.generators import (
    GENERATORS,
    SIZE_FIELDS,
    GeneratorName,
    GeneratorSizes,
    generator_cost,
    size_fields,
)
from domain.search_space import (
    Document,
    MoreUnits,
    SeveralMoreUnits,
    SeveralUnits,
    Units,
    Value,
    check_choices,
)
from domain.sessions import largest_read_in, sessions_in

SeveralInputs = Annotated[list[Annotated[int, Field(ge=1, le=256)]], Field(min_length=1, max_length=20)]
SeveralGenerators = Annotated[
    list[GeneratorName], Field(min_length=1, max_length=20), AfterValidator(check_choices)
]
SEARCHABLE = (
    "generator",
    "encoder_units",
    "initial_condition_dim",
    "generator_units",
    "node_units",
    "node_hidden_units",
    "generator_rank",
    "factors",
    "controller_units",
    "controller_encoder_units",
    "inferred_inputs",
    "read_in_dim",
)
"""Fields that may be lists, which are then searched: the kind of generator, and sizes."""


class ArchitectureSpecification(Document):
    """Form and sizes of the network. A field that is a list is searched: every model draws one of its values."""

    encoder_units: Units | SeveralUnits = Field(
        64,
        description="Units of each of the two encoders (forward and backward in time) of the initial condition.",
    )
    initial_condition_dim: Units | SeveralUnits = Field(
        64, description="Dimension of the posterior of the generator's initial condition."
    )
    generator: GeneratorName | SeveralGenerators = Field(
        "gru",
        description="Kind of the generator, the recurrence of the latent dynamics. The guide describes each kind.",
    )
    generator_units: MoreUnits | SeveralMoreUnits = Field(
        100, description="Units of the generator. The generator `node` has `node_units` instead."
    )
    node_units: MoreUnits | SeveralMoreUnits = Field(
        10,
        description="Units of the generator `node`, which is made for few dimensions: 3 to 20. Not used with other generators.",
    )
    node_hidden_units: MoreUnits | SeveralMoreUnits = Field(
        128, description="Units of the hidden layer of the generator `node`. Not used with other generators."
    )
    generator_rank: Units | SeveralUnits = Field(
        3,
        description="Rank of the recurrent weights of the generator `low_rank`, often 1 to 10. Not used with other generators.",
    )
    factors: Units | SeveralUnits = Field(
        20, description="Number of factors, the linear layer between generator and rates."
    )
    controller_units: Annotated[int, Field(ge=0, le=1024)] | SeveralUnits = Field(
        0,
        description="Units of the controller, which infers an input to the generator in each bin. 0: no controller. Needs "
        "`inferred_inputs`.",
    )
    controller_encoder_units: Units | SeveralUnits = Field(
        64,
        description="Units of each of the controller's two encoders. Not used without a controller.",
    )
    inferred_inputs: Annotated[int, Field(ge=0, le=256)] | SeveralInputs = Field(
        0,
        description="Dimension of the inferred inputs, often 1 to 4. Needs `controller_units`.",
    )
    controller_lag_bins: int = Field(
        1,
        ge=0,
        le=10_000,
        description="In bin t the controller reads the forward encoder's state this many bins earlier and the backward encoder's "
        "state this many bins later. With 1 or more, it does not read the spikes of bin t.",
    )
    use_external_inputs: bool = Field(
        True,
        description="Whether controller and generator read the array `external_inputs` of the data set, if it has one.",
    )
    input_prior: Literal["autoregressive", "gaussian"] = Field(
        "autoregressive",
        description="Prior of the inferred inputs. `autoregressive`: smooth in time, with a time constant (at first 10 bins) and "
        "a variance (at first 0.1) for each input. `gaussian`: independent in each bin.",
    )
    learn_input_prior: bool = Field(
        True, description="Whether the variance and time constant of the input prior are learned."
    )
    learn_prior_variance: bool = Field(
        True, description="Whether the variance of the initial condition's prior is learned."
    )
    observation: Literal["poisson", "negative_binomial"] = Field(
        "poisson",
        description="Distribution of the spike counts given the rates. With `negative_binomial`, the variance may exceed the "
        "mean.",
    )
    read_in_dim: Units | SeveralUnits | None = Field(
        None,
        description="Size of the linear map of each session in front of the encoders. By default a single session has none. "
        "Several sessions have as many as factors, but at most all their neurons, and the bins of the shortest session.",
    )
    initial_condition_bins: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Number of first bins of a trial that determine the initial condition alone. The generator begins after "
        "them, so they have no rates. Without a controller the model reads no later bin, and all rates are predictions from the "
        "past. A controller reads later bins too, forward and backward in time. 0: all encoded bins determine the initial "
        "condition.",
    )
    encoded_bins: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Number of first bins that models read; later bins are only predicted (forward prediction). Rates in a read "
        "bin depend on all read bins, also on later ones. 0: all.",
    )
    held_out_neurons: Annotated[list[Annotated[int, Field(ge=0)]], Field(fail_fast=True)] = Field(
        default_factory=list,
        max_length=10_000,
        description="Indices (from 0) of neurons that models predict but do not read (co-smoothing).",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.controller_units != 0) != (self.inferred_inputs != 0):
            raise ValueError(
                f"controller_units is {self.controller_units} and inferred_inputs is {self.inferred_inputs}: expected "
                "both above 0 (inputs are inferred), or both 0 (no controller)"
            )
        if 0 < self.encoded_bins <= self.initial_condition_bins:
            raise ValueError(
                f"encoded_bins is {self.encoded_bins} and initial_condition_bins is {self.initial_condition_bins}: "
                "expected more encoded bins, or 0 for all"
            )
        neurons = sorted(self.held_out_neurons)
        for one, following in pairwise(neurons):
            if one == following:
                raise ValueError(f"held_out_neurons names {one} more than once")
        return self

    @property
    def has_controller(self) -> bool:
        """Whether inputs are inferred."""
        return self.controller_units != 0

    @property
    def generators(self) -> list[str]:
        """Kinds of generators that models may have."""
        return self.generator if isinstance(self.generator, list) else [self.generator]

    def searched(self) -> dict[str, list[float] | list[str]]:
        """Return the fields that are searched, with their choices: no sizes of a controller or generator that no model has."""
        unread = SIZE_FIELDS - size_fields(self.generators)
        unread |= set() if self.has_controller else {"controller_encoder_units"}
        return {
            name: value if name == "generator" else [float(choice) for choice in value]
            for name, value in self._lists().items()
            if name not in unread
        }

    def _lists(self) -> dict[str, list[Any]]:
        return {name: value for name in SEARCHABLE if isinstance(value := getattr(self, name), list)}

    def _choose(self, choose: Callable[[str, list[Any]], Any]) -> "ArchitectureSpecification":
        """Return the architecture with one value of each field, chosen by name from the lists."""
        return self.model_copy(update={name: choose(name, value) for name, value in self._lists().items()})

    def largest(self) -> "ArchitectureSpecification":
        """Return the architecture with the largest value of each searched field: what memory must suffice for."""
        return self._extreme(max)

    def smallest(self) -> "ArchitectureSpecification":
        """Return the architecture with the smallest value of each searched field."""
        return self._extreme(min)

    def _extreme(self, choose: Callable[..., Any]) -> "ArchitectureSpecification":
        """Return the architecture with one value of each field; that of the generator is chosen by its number of parameters."""
        sized = self._choose(lambda name, choices: choices if name == "generator" else choose(choices))

        def parameters(kind: str) -> int:
            return generator_cost(kind, sized.model_copy(update={"generator": kind}).generator_sizes())

        return sized.model_copy(update={"generator": choose(self.generators, key=parameters)})

    def generator_sizes(self, inputs: int = 1) -> GeneratorSizes:
        """Return the sizes of the generator of an architecture whose fields are chosen."""
        assert isinstance(self.generator, str)
        assert isinstance(self.node_hidden_units, int)
        assert isinstance(self.generator_rank, int)
        units = getattr(self, GENERATORS[self.generator].sizes["generator_units"])
        return GeneratorSizes(units, inputs, self.node_hidden_units, self.generator_rank)

    def of_model(self, chosen: Mapping[str, Value], report: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the architecture of a model's row.

        Parameters
        ----------
        chosen
            Its values of the searched fields, by name; other names are ignored.
        report
            Of the data set, which names its number of external inputs, and its sessions.
        """

        def choice(name: str, choices: list[Any]) -> Any:
            value = chosen.get(name, choices[0])
            return value if isinstance(value, str) else int(value)

        sized = self._choose(choice)
        assert isinstance(sized.generator, str)
        described = sized.model_dump(exclude={"use_external_inputs", "read_in_dim", *SIZE_FIELDS})
        sizes = GENERATORS[sized.generator].sizes
        described |= {name: getattr(sized, field) for name, field in sizes.items()}
        described["external_inputs"] = self.external_inputs(report)
        if (read_in_dim := sized._read_in_dim(report)) is not None:
            described["read_in_dim"] = read_in_dim
        return described

    def _read_in_dim(self, report: Mapping[str, Any] | None) -> int | None:
        """Return the read-in of one model, whose fields are chosen; None: it has no read-in."""
        assert not isinstance(self.read_in_dim, list)
        assert isinstance(self.factors, int)
        sessions = sessions_in(report)
        if self.read_in_dim is not None or not sessions:
            return self.read_in_dim
        return min(self.factors, largest_read_in(sessions))

    def external_inputs(self, report: Mapping[str, Any] | None) -> int:
        """Return the number of external inputs that models read, by the data set's report."""
        return int((report or {}).get("external_inputs", 0)) if self.use_external_inputs else 0


def with_architecture(
    hyperparameters: Mapping[str, Value], architecture: Mapping[str, Any], searched: Iterable[str]
) -> dict[str, Value]:
    """Return the hyperparameters of a model's row with those fields of its architecture that are searched.

    Sizes of other kinds of generators than the model's are left out.
    """
    found = dict(hyperparameters)
    sizes = GENERATORS[architecture.get("generator", _DEFAULTS["generator"])].sizes
    names = {field: name for name, field in sizes.items()}
    for field in searched:
        name = names.get(field, "") if field in SIZE_FIELDS else field
        if field in SEARCHABLE and name in architecture:
            value = architecture[name]
            found[field] = value if isinstance(value, str) else float(value)
    return found


def without_architecture(values: Mapping[str, Value]) -> dict[str, float]:
    """Return the hyperparameters among the values of a model: what is not part of its architecture."""
    return {name: float(value) for name, value in values.items() if name not in SEARCHABLE}


InputPrior = Literal["autoregressive", "gaussian"]
ObservationName = Literal["poisson", "negative_binomial", "zero_inflated_gamma", "gaussian"]


_DEFAULTS: dict[str, Any] = {
    name: field.default for name, field in ArchitectureSpecification.model_fields.items()
}


@dataclass(frozen=True)
class Architecture:
    """Form and sizes of one model's network; equal for all models of a pack.

    `ArchitectureSpecification` describes the fields that are not described here, and checks their ranges.

    Parameters
    ----------
    neurons
        N, columns of the spike counts; one number for each session where there are several.
    encoder_units, controller_encoder_units
        E and K.
    initial_condition_dim, generator_units, factors, controller_units, inferred_inputs
        I, G, F, C, U.
    external_inputs
        X, known inputs to controller and generator.
    observation
        How the data arise from the network's outputs, see `models.observation`.
    read_in_dim
        D, dimension of the per-session linear map in front of the encoders; 0 lets them read the neurons themselves, which
        needs a single session.
    initial_condition_bins
        W, length of a separate encoding window.
    """

    neurons: int | tuple[int, ...]
    _: KW_ONLY
    generator: str = _DEFAULTS["generator"]
    encoder_units: int = _DEFAULTS["encoder_units"]
    initial_condition_dim: int = _DEFAULTS["initial_condition_dim"]
    generator_units: int = _DEFAULTS["generator_units"]
    node_hidden_units: int = _DEFAULTS["node_hidden_units"]
    generator_rank: int = _DEFAULTS["generator_rank"]
    factors: int = _DEFAULTS["factors"]
    controller_units: int = _DEFAULTS["controller_units"]
    controller_encoder_units: int = _DEFAULTS["controller_encoder_units"]
    inferred_inputs: int = _DEFAULTS["inferred_inputs"]
    controller_lag_bins: int = _DEFAULTS["controller_lag_bins"]
    external_inputs: int = 0
    input_prior: InputPrior = _DEFAULTS["input_prior"]
    learn_input_prior: bool = _DEFAULTS["learn_input_prior"]
    learn_prior_variance: bool = _DEFAULTS["learn_prior_variance"]
    observation: ObservationName = _DEFAULTS["observation"]
    read_in_dim: int = 0
    initial_condition_bins: int = _DEFAULTS["initial_condition_bins"]
    encoded_bins: int = _DEFAULTS["encoded_bins"]
    held_out_neurons: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(len(self.session_neurons) > 0, "neurons must name at least one session, got ()")
        for neurons in self.session_neurons:
            require_whole_number("neurons", neurons, least=1)
        require_whole_number("external_inputs", self.external_inputs, least=0)
        require_whole_number("read_in_dim", self.read_in_dim, least=0)
        specified = {
            one.name: getattr(self, one.name) for one in fields(self) if one.name not in _OF_DATA
        } | {"held_out_neurons": list(self.held_out_neurons)}
        searched = [name for name in SEARCHABLE if isinstance(specified.get(name), list)]
        require(not searched, f"a model has one value of each size, got lists of {', '.join(searched)}")
        require_valid(ArchitectureSpecification, specified)
        require(
            self.read_in_dim > 0 or len(self.session_neurons) == 1,
            f"{len(self.session_neurons)} sessions need a read-in: give read_in_dim, e.g. the number of factors",
        )
        self._check_held_out_neurons()

    def _check_held_out_neurons(self) -> None:
        if not self.held_out_neurons:
            return
        require(len(self.session_neurons) == 1, "held_out_neurons need a single session")
        neurons = self.session_neurons[0]
        require(
            max(self.held_out_neurons) < neurons and len(self.held_out_neurons) < neurons,
            f"held_out_neurons must be columns in 0 … {neurons - 1}, and not all, got {self.held_out_neurons}",
        )

    @classmethod
    def of_model(cls, described: Mapping[str, Any], neurons: int | Sequence[int]) -> "Architecture":
        """Return the architecture of a model from its row and the neurons of each session."""
        sessions = [neurons] if isinstance(neurons, int) else list(neurons)
        held_out = tuple(described.get("held_out_neurons", ()))
        return cls(
            **{
                **described,
                "neurons": tuple(sessions) if len(sessions) > 1 else sessions[0],
                "held_out_neurons": held_out,
            }
        )

    @property
    def session_neurons(self) -> tuple[int, ...]:
        """N of each session."""
        return self.neurons if isinstance(self.neurons, tuple) else (self.neurons,)

    @property
    def has_controller(self) -> bool:
        """Whether inputs are inferred."""
        return self.controller_units > 0

    @property
    def generator_sizes(self) -> GeneratorSizes:
        """G, V = U + X, and the sizes that some kinds of generators have besides."""
        inputs = self.inferred_inputs + self.external_inputs
        return GeneratorSizes(self.generator_units, inputs, self.node_hidden_units, self.generator_rank)

    @property
    def fewest_bins(self) -> int:
        """Fewest bins of a trial: all that are read, and one at which the generator can begin."""
        return max(self.encoded_bins, self.initial_condition_bins + 1)

    def leaves_unread(self, bins: int) -> bool:
        """Return whether the model predicts samples that it never reads, of held-out neurons or of later bins."""
        return bool(self.held_out_neurons) or 0 < self.encoded_bins < bins


_OF_DATA = ("neurons", "external_inputs", "read_in_dim", "observation")
"""Fields that `ArchitectureSpecification` does not check: they depend on the data, and jobs allow only some of `observation`."""
