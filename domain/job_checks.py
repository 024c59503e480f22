"""What a job asks for and its data set does not allow. All of it is known before the job trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from domain import feasibility
from domain.cost import FEWEST_TRAINING_TRIALS, FEWEST_VALIDATION_TRIALS, Extent
from domain.feasibility import MOST_STEP_BYTES
from domain.field_problem import FieldProblem
from domain.job_specification import JobSpecification, Training, split_trials
from domain.search_space import LIMITS, Range
from domain.sessions import DescribedDataset, RecordedSession, largest_read_in, neurons_per_trial, sessions_of
from domain.split_groups import Split, SplitGroups
from domain.strategies import PbtStrategy


@dataclass(frozen=True)
class JobData:
    """A data set as one job sees it: with the job's split.

    Parameters
    ----------
    dataset
        A data set that is ready.
    groups
        The groups of its trials, and the bins of each trial.
    split
        The part of the job that each trial is in.
    is_given
        Whether the data set brings the split.
    has_own_test
        Whether the data set brings test trials.
    """

    dataset: DescribedDataset
    groups: SplitGroups
    split: Sequence[Split]
    is_given: bool
    has_own_test: bool

    @classmethod
    def of(
        cls,
        dataset: DescribedDataset,
        given: Sequence[str | None],
        groups: SplitGroups,
        training: Training,
    ) -> Self:
        """Split the trials of a data set for a job; `given` is the part that the data set brings for each trial."""
        split = split_trials(given, groups, training, sessions_of(dataset))
        return cls(dataset, groups, split, is_given="valid" in given, has_own_test="test" in given)

    @property
    def lengths(self) -> list[int]:
        """Return the number of bins of each trial."""
        lengths: list[int] = self.groups.bins.tolist()
        return lengths

    @property
    def bins(self) -> int:
        """Return the number of bins of the longest trial."""
        return self.dataset.bins or 0

    @property
    def sessions(self) -> list[RecordedSession]:
        """Return the sessions of the data set; more than one only in a combined data set."""
        return sessions_of(self.dataset)

    @property
    def training_trials(self) -> int:
        """Return the number of trials that models are trained on."""
        return self.split.count("train")

    @property
    def validation_trials(self) -> int:
        """Return the number of trials that models are evaluated on."""
        return self.split.count("valid")

    @property
    def test_trials(self) -> int:
        """Return the number of trials that neither train nor select a model."""
        return self.split.count("test")

    @property
    def extent(self) -> Extent:
        """Return how large the data set is for the job."""
        return Extent(
            neurons_per_trial(self.dataset),
            self.bins,
            self.training_trials,
            self.validation_trials,
            self.dataset.report,
        )


def problems_of(specification: JobSpecification, data: JobData) -> list[FieldProblem]:
    """Return every field of a specification that does not fit the data set, with the reason."""
    return [
        *_split_problems(data),
        *_session_problems(specification, data),
        *_held_out_problems(specification, data),
        *_window_problems(specification, data),
        *_memory_problems(specification, data),
        *_start_problems(specification),
        *_bounds_problems(specification),
    ]


def _split_problems(data: JobData) -> list[FieldProblem]:
    training, validation = data.training_trials, data.validation_trials
    if data.extent.has_enough_trials:
        return []
    fraction = "test_fraction" if data.test_trials > validation else "valid_fraction"
    change = (
        ", or another split: the file's own is used" if data.is_given else f", or change training.{fraction}"
    )
    return [
        FieldProblem(
            pointer="/dataset_id" if data.is_given else f"/training/{fraction}",
            code="too_few_trials",
            message=f"the data set {data.dataset.id} has {data.dataset.trials} trials, of which {training} would be for "
            f"training and {validation} for validation; expected at least {FEWEST_TRAINING_TRIALS} and "
            f"{FEWEST_VALIDATION_TRIALS}",
            hint=f"upload more trials, cut long ones into windows (derive a data set with chop){change}",
        )
    ]


def _session_problems(specification: JobSpecification, data: JobData) -> list[FieldProblem]:
    """Return problems of sessions: missing trials, and a read-in or held-out neurons that do not fit."""
    problems, sessions, architecture = [], data.sessions, specification.architecture
    for number, session in enumerate(sessions):
        missing = {"train", "valid"} - set(data.split[session.rows])
        if missing and len(sessions) > 1:
            problems.append(
                FieldProblem(
                    pointer="/dataset_id",
                    code="too_few_trials",
                    message=f"session {number}, the data set {session.dataset_id} of {session.trials} trials, would have no "
                    f"{' and no '.join(sorted(missing))} trial; every session needs both",
                    hint="combine sessions of more trials, or with another split",
                )
            )
    if architecture.held_out_neurons and len(sessions) > 1:
        problems.append(
            FieldProblem(
                pointer="/architecture/held_out_neurons",
                code="several_sessions",
                message=f"co-smoothing needs a data set of one session; this one has {len(sessions)}",
            )
        )
    largest, most = architecture.largest().read_in_dim, largest_read_in(sessions)
    if isinstance(largest, int) and largest > most:
        problems.append(
            FieldProblem(
                pointer="/architecture/read_in_dim",
                code="too_large",
                message=f"expected at most {most}, the smaller of the neurons of all sessions and the bins of the shortest "
                f"session: the averages of this data set have no more principal components; got {largest}",
            )
        )
    return problems


def _held_out_problems(specification: JobSpecification, data: JobData) -> list[FieldProblem]:
    held_out, neurons = specification.architecture.held_out_neurons, data.dataset.neurons or 0
    problems = [
        FieldProblem(
            pointer=f"/architecture/held_out_neurons/{position}",
            code="no_such_neuron",
            message=f"expected the index of one of the data set's {neurons} neurons, 0 … {neurons - 1}; got {neuron}",
            hint="neurons are counted from 0",
        )
        for position, neuron in enumerate(held_out)
        if neuron >= neurons
    ]
    if not problems and len(held_out) == neurons:
        problems.append(
            FieldProblem(
                pointer="/architecture/held_out_neurons",
                code="nothing_to_read",
                message=f"all {neurons} neurons are held out; expected at least one that models read",
            )
        )
    return problems


def _window_problems(specification: JobSpecification, data: JobData) -> list[FieldProblem]:
    architecture, bins = specification.architecture, data.bins
    encoded, first = architecture.encoded_bins or bins, architecture.initial_condition_bins

    def problem(name: str, code: str, message: str, hint: str | None = None) -> list[FieldProblem]:
        return [FieldProblem(pointer=f"/architecture/{name}", code=code, message=message, hint=hint)]

    if encoded > bins:
        return problem(
            "encoded_bins",
            "too_many_bins",
            f"expected at most the data set's {bins} bins; got {encoded}",
            "0 reads all bins",
        )
    if first >= encoded:
        return problem(
            "initial_condition_bins",
            "too_many_bins",
            f"expected fewer than the {encoded} bins that are read; got {first}",
        )
    if architecture.has_controller and architecture.controller_lag_bins >= encoded - first:
        return problem(
            "controller_lag_bins",
            "too_many_bins",
            f"expected fewer than the {encoded - first} bins that the controller's encoders read; got "
            f"{architecture.controller_lag_bins}",
            "1 is usual",
        )
    for part in ("train", "valid"):
        longest = max((n for n, of in zip(data.lengths, data.split, strict=True) if of == part), default=bins)
        if longest <= first:
            return problem(
                "initial_condition_bins",
                "too_many_bins",
                f"expected fewer bins than the longest {part} trial has, {longest}; got {first}",
            )
    return []


def _memory_problems(specification: JobSpecification, data: JobData) -> list[FieldProblem]:
    needed = feasibility.step_bytes(specification, data.extent)
    if needed <= MOST_STEP_BYTES:
        return []
    return [
        FieldProblem(
            pointer="/training/batch_size",
            code="too_large",
            message=f"a training step of one model would take about {needed / 1e9:.0f} GB; expected at most "
            f"{MOST_STEP_BYTES / 1e9:.0f} GB",
            hint="lower training.batch_size, or the units of the network, or use wider bins or shorter trials",
        )
    ]


def _start_problems(specification: JobSpecification) -> list[FieldProblem]:
    """Return problems of the values that a population begins with."""
    strategy = specification.strategy
    if not isinstance(strategy, PbtStrategy):
        return []
    problems = []
    for name, value in strategy.start.items():
        values = getattr(specification.space, name)
        if isinstance(values, Range):
            fits = values.low <= value <= values.high
            expected = f"a value within the range of space.{name}, {values.low:g} … {values.high:g}"
        elif isinstance(values, list):
            fits, expected = value in values, f"one of the list of space.{name}"
        else:
            fits, expected = value == values, f"{values:g}, to which space.{name} is fixed"
        if not fits:
            problems.append(
                FieldProblem(
                    pointer=f"/strategy/start/{name}",
                    code="outside_the_space",
                    message=f"expected {expected}; got {value:g}",
                    hint="the preset may have set this value; strategy.start: {} begins with drawn values",
                )
            )
    return problems


def _bounds_problems(specification: JobSpecification) -> list[FieldProblem]:
    """Return problems of bounds of perturbation that have no effect or do not fit the range."""
    strategy, space = specification.strategy, specification.searched_space()
    if not isinstance(strategy, PbtStrategy):
        return []
    problems = []
    for name, outer in strategy.bounds.items():
        values, limits, hint = space.get(name), LIMITS[name], None
        if not isinstance(values, Range):
            expected = "the name of a hyperparameter that this job draws from a range"
            ranges = [one for one, searched in space.items() if isinstance(searched, Range)]
            hint = f"drawn from ranges: {', '.join(ranges) or 'none'}"
        elif name not in strategy.unbounded:
            expected = "the name of a hyperparameter of strategy.unbounded: others never leave their range"
            hint = f"add {name} to strategy.unbounded, or leave it out of strategy.bounds"
        elif outer.low > values.low or outer.high < values.high:
            expected = f"bounds that contain the range of space.{name}, {values.low:g} … {values.high:g}"
        elif outer.low < limits.low or outer.high > limits.high:
            expected = f"bounds within {limits.low:g} … {limits.high:g}, the values that {name} may have"
        else:
            continue
        problems.append(
            FieldProblem(
                pointer=f"/strategy/bounds/{name}",
                code="bounds_do_not_fit",
                message=f"expected {expected}; got {name}: {outer.low:g} … {outer.high:g}",
                hint=hint,
            )
        )
    return problems
