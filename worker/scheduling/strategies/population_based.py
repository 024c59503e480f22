"""Population-based training (Jaderberg et al. 2017) as AutoLFADS does it (Keshtkaran et al. 2022).

All models train for one generation. Then each model is compared with another. A loser copies the winner's weights and continues
with the winner's hyperparameters, perturbed. No model copies before the ramps of KL and L2 end, since losses are not comparable
before. The search ends when the best loss no longer improves.
"""

from collections.abc import Sequence

import numpy as np

from domain.architecture import SEARCHABLE
from domain.job_specification import JobSpecification
from domain.search_space import LIMITS, Range, Value
from domain.strategies import PbtStrategy
from worker.scheduling.strategies.base import Begin, Continue, Copy, Decision, End, ModelRecord, Strategy
from worker.scheduling.strategies.samplers.random import RandomSampler, draw

_TRUNCATED_SHARE = 0.25
_NO_LOSS = float("inf")


class PopulationBasedTraining(Strategy):
    """One population. A generation ends when all models have trained it, so the order in which they finish does not matter."""

    reads_marks = True

    def __init__(self, specification: JobSpecification, wanted: PbtStrategy) -> None:
        super().__init__(specification)
        self.wanted = wanted
        self.burn_in_epochs = wanted.first_copy_epoch(specification.training.settled_epoch)

    def decide(self, history: Sequence[ModelRecord]) -> list[Decision]:
        """Begin the population; when all models have trained a generation, begin the next one or end the search."""
        if new := RandomSampler(self.specification).suggest(history):
            target = self._end_of_generation(0)
            return [
                Begin(one.number, one.hyperparameters | self._start(), one.seed, target, one.reason)
                for one in new
            ]
        population = [record for record in history if not record.is_final]
        if not population or not all(record.is_waiting for record in population):
            return []
        # Models that were added later first catch up.
        epoch = min(record.epochs_trained for record in population)
        behind = [record for record in population if record.epochs_trained == epoch]
        if epoch >= self.specification.budget.epochs:
            return []
        target = self._end_of_generation(epoch)
        if len(behind) < len(population):
            return [Continue(record.number, target, "catches up with the population") for record in behind]
        if (reason := self._reason_to_end(history, epoch)) is not None:
            return [End(record.number, reason, is_given_up=False) for record in population]
        return [self._next(record, population, epoch, target) for record in population]

    def _end_of_generation(self, epoch: int) -> int:
        length = self.wanted.generation_epochs
        return min((epoch // length + 1) * length, self.specification.budget.epochs)

    def _start(self) -> dict[str, float]:
        space = self.specification.searched_space()
        return {name: value for name, value in self.wanted.start.items() if name in space}

    def _reason_to_end(self, history: Sequence[ModelRecord], epoch: int) -> str | None:
        """Return why the search ends: the last generations since the burn-in, or since a resumption, improved too little."""
        patience, length = self.wanted.patience_generations, self.wanted.generation_epochs
        taken_up = [mark.epoch for record in history for mark in record.marks if mark.kind == "end"]
        before = epoch - patience * length
        if before < max([self.burn_in_epochs, *taken_up]):
            return None
        then = min(
            (
                mark.lowest
                for record in history
                for mark in record.marks
                if mark.epoch <= before and mark.lowest is not None
            ),
            default=_NO_LOSS,
        )
        now = min(
            (record.smoothed_sv_loss for record in history if record.smoothed_sv_loss is not None),
            default=_NO_LOSS,
        )
        if not np.isfinite(then) or then - now >= self.wanted.min_delta * abs(then):
            return None
        return (
            f"the best smoothed SV loss went from {then:.6g} to {now:.6g} in {patience} generations, less than "
            f"{self.wanted.min_delta:g} of it"
        )

    def _next(
        self, record: ModelRecord, population: Sequence[ModelRecord], epoch: int, target: int
    ) -> Decision:
        if epoch < self.burn_in_epochs:
            return Continue(
                record.number, target, f"burn-in: no model copies another before epoch {self.burn_in_epochs}"
            )
        if len(population) == 1:
            return Continue(record.number, target, "no other model is left to compare it with")
        random = np.random.default_rng([self.specification.seed, epoch, record.number, 0x9B7])
        better, why = self._compare(record, population, random)
        if better is None:
            return Continue(record.number, target, why)
        return Copy(record.number, better.number, self._explore(better, random), target, why)

    def _compare(
        self, record: ModelRecord, population: Sequence[ModelRecord], random: np.random.Generator
    ) -> tuple[ModelRecord | None, str]:
        """Return the model to copy, or None, and the reason."""
        if self.wanted.exploit == "binary_tournament":
            others = [one for one in population if one.number != record.number]
            other = others[random.integers(len(others))]
            against = f"its smoothed SV loss {_shown(record)} against {_shown(other)} of model {other.number}"
            # A model without a loss loses; a tie changes nothing.
            return (other, f"lost: {against}") if _loss(other) < _loss(record) else (None, f"won: {against}")
        ranked = sorted(population, key=lambda one: (_loss(one), one.number))
        cut = max(1, int(_TRUNCATED_SHARE * len(ranked)))
        place = ranked.index(record) + 1
        ranks = f"place {place} of {len(ranked)} by smoothed SV loss ({_shown(record)})"
        if place <= len(ranked) - cut:
            return None, ranks
        best = ranked[: min(cut, len(ranked) - cut)]
        return best[random.integers(len(best))], ranks

    def _explore(self, parent: ModelRecord, random: np.random.Generator) -> dict[str, Value]:
        """Return the parent's hyperparameters, perturbed. The sizes of the network stay, since they are those of its weights."""
        changed = dict(parent.hyperparameters)
        perturbation = {str(name): most for name, most in self.wanted.perturbation.items()}
        for name, values in self.specification.searched_space().items():
            if name in SEARCHABLE or isinstance(values, float):
                continue
            if self.wanted.explore == "resample" or isinstance(values, list):
                changed[name] = draw(values, random)
                continue
            most = perturbation.get(name, 0.0)
            value = float(changed[name]) * random.uniform(1 - most, 1 + most)
            changed[name] = _clipped(value, self._outer_range(name, values))
        return changed

    def _outer_range(self, name: str, values: Range) -> Range:
        """Return the limits of perturbation: the range, or for an unbounded hyperparameter its bounds or its limits."""
        if name not in self.wanted.unbounded:
            return values
        bounds = {str(bounded): outer for bounded, outer in self.wanted.bounds.items()}
        return bounds.get(name, Range(low=LIMITS[name].low, high=LIMITS[name].high))


def _loss(record: ModelRecord) -> float:
    return _NO_LOSS if record.latest_sv_loss is None else record.latest_sv_loss


def _shown(record: ModelRecord) -> str:
    return "none" if record.latest_sv_loss is None else f"{record.latest_sv_loss:.6g}"


def _clipped(value: float, values: Range) -> float:
    return min(max(value, values.low), values.high)
