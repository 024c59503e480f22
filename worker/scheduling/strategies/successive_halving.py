"""Successive halving: many models train for a few epochs, the better ones for more.

There is an asynchronous form (ASHA, Li et al. 2020; here it stops models instead of promoting them) and one with the brackets of
Hyperband (Li et al. 2018). Rungs are at `first_rung_epochs` times powers of `reduction_factor`. At a rung, models are compared by
their lowest smoothed SV loss so far.
"""

from collections.abc import Sequence
from itertools import groupby

from domain.job_specification import JobSpecification
from domain.strategies import AshaStrategy, HyperbandStrategy
from worker.scheduling.strategies.base import Begin, Continue, Decision, End, ModelRecord, Strategy
from worker.scheduling.strategies.samplers import Sampler

_NO_LOSS = float("inf")


class _Halving(Strategy):
    """The rungs, which both forms have."""

    reads_marks = True

    def __init__(
        self, specification: JobSpecification, wanted: AshaStrategy | HyperbandStrategy, sampler: Sampler
    ) -> None:
        super().__init__(specification)
        self.sampler, self.factor = sampler, wanted.reduction_factor
        self.takes_seconds = sampler.takes_seconds
        self.rungs = wanted.rungs(specification.budget.epochs, specification.training.settled_epoch)

    def next_rung(self, epoch: int) -> int:
        """Return the epoch of the next comparison, or of the end."""
        return min((rung for rung in self.rungs if rung > epoch), default=self.specification.budget.epochs)


class Asha(_Halving):
    """Compares each model with those that have reached its rung so far. No model waits for another."""

    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Begin the models that the sampler suggests; continue or end waiting models."""
        decisions: list[Decision] = []
        for record in history:
            if not record.is_waiting or record.epochs_trained >= self.specification.budget.epochs:
                continue
            epoch = record.epochs_trained
            if epoch not in self.rungs:  # its budget was raised
                decisions.append(Continue(record.number, self.next_rung(epoch), "its budget was raised"))
                continue
            losses = sorted(_loss_at(one, epoch) for one in history if _has_reached(one, epoch))
            kept = max(1, len(losses) // self.factor)
            place = losses.index(_loss_at(record, epoch)) + 1
            reason = (
                f"place {place} of the {len(losses)} that came to epoch {epoch} so far; {kept} of them go on"
            )
            decisions.append(
                Continue(record.number, self.next_rung(epoch), reason)
                if place <= kept
                else End(record.number, reason, is_given_up=True)
            )
        return decisions + [
            Begin(one.number, one.hyperparameters, one.seed, self.next_rung(0), one.reason)
            for one in self.sampler.suggest(history)
        ]


class Hyperband(_Halving):
    """Puts models into brackets. The models of a bracket wait for each other at every rung.

    The sizes of the brackets are chosen so that all take about the same time. A model's bracket depends on its number only, so a
    raised budget changes no existing bracket.
    """

    def __init__(self, specification: JobSpecification, wanted: HyperbandStrategy, sampler: Sampler) -> None:
        super().__init__(specification, wanted, sampler)
        sizes = wanted.bracket_sizes(len(self.rungs))
        self._turn = [bracket for bracket, size in enumerate(sizes) for _ in range(size)]
        sampler.round_of = self.bracket  # else bracket and round would wait for each other

    def bracket(self, number: int) -> tuple[int, int]:
        """Return the turn of a model, and its bracket in this turn. Bracket b skips the first b rungs."""
        return number // len(self._turn), self._turn[number % len(self._turn)]

    def first_target(self, number: int) -> int:
        """Return the epoch of a model's first comparison."""
        return [*self.rungs, self.specification.budget.epochs][self.bracket(number)[1]]

    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Begin the models that the sampler suggests; in each bracket that has reached a rung, continue the best models."""
        decisions: list[Decision] = []
        by_bracket = sorted(history, key=lambda record: (self.bracket(record.number), record.number))
        for bracket, members in groupby(by_bracket, key=lambda record: self.bracket(record.number)):
            if self._is_begun(bracket, {record.number for record in history}):
                decisions += self._halve([record for record in members if not record.is_final])
        return decisions + [
            Begin(one.number, one.hyperparameters, one.seed, self.first_target(one.number), one.reason)
            for one in self.sampler.suggest(history)
        ]

    def _is_begun(self, bracket: tuple[int, int], begun: set[int]) -> bool:
        numbers = range(self.specification.budget.models)
        return all(number in begun for number in numbers if self.bracket(number) == bracket)

    def _halve(self, members: Sequence[ModelRecord]) -> list[Decision]:
        """Decide about the models of a bracket once all have reached the rung."""
        if not members or not all(record.is_waiting for record in members):
            return []
        epoch = min(record.epochs_trained for record in members)
        members = [record for record in members if record.epochs_trained == epoch]
        if epoch >= self.specification.budget.epochs:
            return []
        target = self.next_rung(epoch)
        if epoch not in self.rungs:
            return [Continue(record.number, target, "its budget was raised") for record in members]
        ranked = sorted(members, key=lambda record: (_loss_at(record, epoch), record.number))
        kept = max(1, len(ranked) // self.factor)
        decisions: list[Decision] = []
        for place, record in enumerate(ranked, 1):
            reason = (
                f"place {place} of the {len(ranked)} of its bracket at epoch {epoch}; {kept} of them go on"
            )
            decisions.append(
                Continue(record.number, target, reason)
                if place <= kept
                else End(record.number, reason, is_given_up=True)
            )
        return decisions


def _loss_at(record: ModelRecord, epoch: int) -> float:
    """Return the lowest smoothed SV loss until a rung: as marked at the decision there, or the current one."""
    at_rung = [mark.lowest for mark in record.marks if mark.epoch == epoch]
    loss = at_rung[0] if at_rung else record.smoothed_sv_loss
    return _NO_LOSS if loss is None else loss


def _has_reached(record: ModelRecord, epoch: int) -> bool:
    marked = any(mark.epoch == epoch for mark in record.marks)
    return marked or (record.epochs_trained == epoch and record.is_waiting)
