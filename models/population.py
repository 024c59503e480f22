"""A pack of models in training: one batched tensor program, one Adam, one epoch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from domain.architecture import Architecture
from domain.errors import require
from domain.parameter_shapes import parameter_shapes
from models.compiled import bfloat16_products
from models.config import Hyperparameters, TrainingOptions
from models.data import TrainingData, evenly
from models.data_checks import check_data
from models.evaluation import MaskedLosses, masked_outputs
from models.model_state import (
    PACKED,
    VECTORS,
    EpochScores,
    Snapshot,
    checked_state,
    fresh_state,
    named_parts,
)
from models.network import initial_parameters
from models.null_model import constant_output_losses
from models.objective import (
    PackHyperparameters,
    draw_noise,
    negative_log_likelihood,
    noise_generator,
    training_loss,
)

ADAM_DECAY = (0.9, 0.999)
ADAM_EPSILON = 1e-10  # gradients of a mean over samples are small: 1e-8 would damp the step of quiet neurons
EXPLOSION = (
    100.0  # a training loss above that of constant outputs by this many times its size will not come back
)


class Population:
    """A pack of M models in training, all at the same epoch.

    The weights of all models are one tensor [M, D]; so are Adam's moments and the best weights. All noise
    comes from (model seed, epoch, step) and the order of trials from (order seed, epoch), hence a model's
    numbers depend neither on its neighbours nor on stops and resumptions. Best weights are those at the
    lowest smoothed SV loss over all epochs: the ramp steers training, it does not enter the score.

    Parameters
    ----------
    architecture
        Of every model; its neurons, external inputs and observation must be the data's.
    hyperparameters
        One per model. On resumption they may differ from before.
    seeds
        One per model, for initial weights and noise.
    data
        Trials to train and evaluate on; its device is the population's.
    options
        Of the job.
    order_seed
        Order of the trials, shared by the models of a job.
    states
        None for a fresh start; else one `state` per model, all at one epoch.
    initial_values
        For a fresh start: parameters, by name, that begin at these values in every model instead of at random
        (see `models.stitching`).
    """

    epoch: int  # epochs completed
    _weights: Tensor  # [M, D]
    _best: Tensor  # [M, D]
    _first: Tensor  # [M, D], Adam's first moment
    _second: Tensor  # [M, D]
    _adam_steps: Tensor  # int64 [M]
    _best_epoch: Tensor  # int64 [M]
    _smoothed: Tensor  # float64 [M], infinite before the first epoch
    _best_smoothed: Tensor  # float64 [M]
    _best_sv: Tensor  # float64 [M], of the best epoch, NaN before there is one
    _best_validation_loss: Tensor  # float64 [M], likewise
    _alive: Tensor  # bool [M]
    _decay: Tensor  # float64 [M], what the learning rate has come down to, as a share
    _stalled_epochs: Tensor  # int64 [M], epochs since the smoothed score improved or the rate decayed

    def __init__(
        self,
        architecture: Architecture,
        hyperparameters: Sequence[Hyperparameters],
        seeds: Sequence[int],
        data: TrainingData,
        options: TrainingOptions,
        *,
        order_seed: int,
        states: Sequence[Mapping[str, Tensor]] | None = None,
        initial_values: Mapping[str, Tensor] | None = None,
    ) -> None:
        require(len(hyperparameters) > 0, "a population needs at least one model, got no hyperparameters")
        require(
            len(seeds) == len(hyperparameters) and (states is None or len(states) == len(hyperparameters)),
            f"expected one seed and one state for each of {len(hyperparameters)} hyperparameters, "
            f"got {len(seeds)} seeds" + ("" if states is None else f" and {len(states)} states"),
        )
        check_data(architecture, data)
        self.architecture, self.data, self.options = architecture, data, options
        self.hyperparameters, self.seeds, self.order_seed = list(hyperparameters), list(seeds), order_seed
        self._hyper = PackHyperparameters.of(hyperparameters, data.device)
        self._shapes = parameter_shapes(architecture)
        unknown = sorted(set(initial_values or ()) - set(self._shapes))
        require(
            not unknown,
            f"initial_values has parameters that this architecture does not have: {', '.join(unknown)}",
        )
        if states is None:
            states = [
                fresh_state(
                    initial_parameters(architecture, data.statistics, seed) | dict(initial_values or {})
                )
                for seed in seeds
            ]
        self._load(states)

    def train_epoch(self, on_step: Callable[[], None] | None = None) -> list[EpochScores]:
        """Train one epoch and evaluate.

        Parameters
        ----------
        on_step
            Called after every optimizer and evaluation step. It may raise. The population is then in the middle of an
            epoch: discard it, and continue from the last saved state.

        Returns
        -------
        list[EpochScores]
            One per model.
        """
        on_step = on_step or _nothing
        steps = []
        batches = list(self._training_batches())
        for step, trials in enumerate(batches):
            steps.append(self._train_step(trials, step, len(batches)))
            on_step()
        # A partial batch counts by its trials.
        sizes = torch.tensor([sum(map(len, trials)) for trials in batches], device=self.data.device).double()
        share = (sizes / sizes.sum())[:, None]
        train_loss, kl_ic, kl_u, norm = (
            (torch.stack(part) * share).sum(0) for part in zip(*steps, strict=True)
        )
        rates = self._learning_rates()
        sv_loss, validation_loss = self._evaluate(self.data.validation_trials, on_step)
        sv_loss_train, _ = self._evaluate(self._some_training_trials(), on_step)
        self.epoch += 1
        self._update_scores(sv_loss, validation_loss)
        columns = {
            "train_loss": train_loss,
            "sv_loss": sv_loss,
            "validation_loss": validation_loss,
            "sv_loss_train": sv_loss_train,
            "smoothed_sv_loss": self._smoothed,
            "kl_initial_condition": kl_ic,
            "kl_inputs": kl_u,
            "gradient_norm": norm,
            "learning_rate": rates,
            "alive": self._alive,
            "best_smoothed_sv_loss": self._best_smoothed,
            "best_epoch": self._best_epoch,
            "best_sv_loss": self._best_sv,
            "best_validation_loss": self._best_validation_loss,
        }
        # One copy from the device for all scores. float64 holds each of them exactly.
        values = torch.stack([column.double() for column in columns.values()], dim=1).tolist()
        return [self._epoch_scores(dict(zip(columns, of_model, strict=True))) for of_model in values]

    def _epoch_scores(self, values: dict[str, Any]) -> EpochScores:
        """Return the scores of one model, from numbers by name."""
        values["diverged"] = not values.pop("alive")
        values["best_epoch"] = int(values["best_epoch"])
        if self.data.sv_rate == 0:
            values["sv_loss_train"] = None
        return EpochScores(epoch=self.epoch, **values)

    def try_steps(self, steps: int, on_step: Callable[[], None]) -> None:
        """Train on the first batch of an epoch, `steps` times, to measure the time. Discard the population afterwards."""
        trials, *_ = self._training_batches()
        for step in range(steps):
            self._train_step(trials, step, steps)
            on_step()

    @property
    def alive(self) -> list[bool]:
        """Return false for models that diverged: their weights stay frozen, without effect on the other models."""
        return [bool(alive) for alive in self._alive.tolist()]

    def _training_batches(self) -> Iterator[list[Tensor]]:
        """Shuffle the training trials by (order seed, epoch); for each step, indices of every session."""
        random = noise_generator(torch.device("cpu"), self.order_seed, self.epoch)
        sizes = [len(trials) for trials in self.data.training_trials]
        # One copy to the device for all sessions.
        orders = torch.cat([torch.randperm(size, generator=random) for size in sizes]).to(self.data.device)
        pairs = zip(self.data.training_trials, torch.split(orders, sizes), strict=True)
        yield from evenly([trials[order] for trials, order in pairs], self.options.batch_size)

    def _some_training_trials(self) -> list[Tensor]:
        """Return evenly chosen training trials, no more of a session than it has validation trials."""
        pairs = zip(self.data.training_trials, self.data.validation_trials, strict=True)
        return [training[:: max(1, len(training) // len(valid))][: len(valid)] for training, valid in pairs]

    def _train_step(self, trials: Sequence[Tensor], step: int, steps: int) -> tuple[Tensor, ...]:
        """Update every model once; return reconstruction loss, both KLs and gradient norm, [M] each."""
        bins = self.options.window(self.epoch, self.data.bins, self.architecture)
        batch = self.data.batch(trials).first_bins(bins)
        noise = draw_noise(
            self.architecture,
            self.seeds,
            self.epoch,
            step,
            bins=bins,
            trials=batch.trials,
            device=self.data.device,
        )
        progress = self.epoch + step / steps
        ramp = min(1.0, progress / self.options.ramp_epochs) if self.options.ramp_epochs else 1.0
        weights = self._weights.detach().requires_grad_()
        with bfloat16_products(self.options.precision == "bfloat16"):
            loss = training_loss(
                self.architecture,
                self._named(weights),
                self._hyper,
                batch,
                noise,
                sv_rate=self.data.sv_rate,
                ramp=ramp,
            )
        # Models share no weight, so the gradient of the sum is each model's own.
        (gradient,) = torch.autograd.grad(loss.total.sum(), weights)
        norm = gradient.norm(dim=1)
        exploded = loss.reconstruction > self._highest_loss
        self._alive &= torch.isfinite(norm) & ~exploded  # a loss that is not finite has no finite gradient
        self._adam(gradient, norm)
        return (
            loss.reconstruction.detach(),
            loss.kl_initial_condition.detach(),
            loss.kl_inputs.detach(),
            norm,
        )

    @torch.no_grad()
    def _adam(self, gradient: Tensor, norm: Tensor) -> None:
        """Update the weights (Kingma & Ba 2015). Each model has its own rate and clipping; diverged models stay as they are."""
        alive = self._alive
        gradient *= (self.options.gradient_clip / norm).clamp(max=1.0)[:, None]
        gradient.masked_fill_(~alive[:, None], 0.0)
        first, second = ADAM_DECAY
        self._adam_steps += alive
        self._first.lerp_(gradient, 1 - first)  # m ← β₁ m + (1 - β₁) g
        self._second.mul_(second).addcmul_(gradient, gradient, value=1 - second)  # v ← β₂ v + (1 - β₂) g²
        steps = self._adam_steps.clamp(min=1).double()
        rate = self._learning_rates() / (1 - first**steps).float() * alive  # m̂ = m / (1 - β₁ᵗ)
        spread = torch.sqrt(self._second, out=gradient)  # √v̂ + ε; the gradient's memory is free by now
        spread.mul_((1 - second**steps).rsqrt().float()[:, None]).add_(ADAM_EPSILON)
        self._weights -= torch.div(self._first, spread, out=spread).mul_(rate[:, None])

    def _learning_rates(self) -> Tensor:
        """Return the learning rates after their decay, float32 [M]."""
        begun = self._hyper.learning_rate
        least = begun.clamp(max=self.options.min_learning_rate)
        return torch.maximum(begun * self._decay.float(), least)

    @torch.inference_mode()
    def _evaluate(self, trials: Sequence[Tensor], on_step: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Return the mean NLL at held-out samples and at read samples, float64 [M] each, from posterior means without dropout."""
        architecture, parameters, M = self.architecture, self._named(self._weights), len(self.seeds)
        losses = MaskedLosses(architecture, self.data, M)
        steps = masked_outputs(
            architecture, parameters, M, self.data, trials, least_trials=self.options.batch_size
        )
        for _, batch, outputs in steps:
            for session, (part, output) in enumerate(zip(batch.parts, outputs, strict=True)):
                losses.add(negative_log_likelihood(architecture, parameters, session, output, part), part)
            on_step()
        held_out, read = losses.means()
        return (held_out if self.data.sv_rate > 0 else read), read

    def _update_scores(self, sv_loss: Tensor, validation_loss: Tensor) -> None:
        """Smooth the scores, keep the weights of models at their best, decay the rates of models that stall."""
        past = self.options.score_smoothing
        smoothed = torch.where(self._smoothed.isinf(), sv_loss, past * self._smoothed + (1 - past) * sv_loss)
        self._smoothed = torch.where(self._alive & smoothed.isfinite(), smoothed, self._smoothed)
        better = self._alive & (self._smoothed < self._best_smoothed)
        self._best_smoothed = torch.where(better, self._smoothed, self._best_smoothed)
        self._best_epoch = torch.where(better, self.epoch, self._best_epoch)
        self._best_sv = torch.where(better, sv_loss, self._best_sv)
        self._best_validation_loss = torch.where(better, validation_loss, self._best_validation_loss)
        self._best = torch.where(better[:, None], self._weights, self._best)
        waits = better | (self.epoch <= self.options.settled_epoch)
        self._stalled_epochs = torch.where(waits, 0, self._stalled_epochs + 1)
        decays = self._stalled_epochs >= self.options.decay_patience
        self._decay = torch.where(decays, self._decay * self.options.decay_factor, self._decay)
        self._stalled_epochs = torch.where(decays, 0, self._stalled_epochs)

    def keep(self, indices: Sequence[int]) -> None:
        """Keep these models alone, in this order; the others take no more time or memory."""
        require(len(indices) > 0, "a population keeps at least one model, got no index")
        for index in indices:
            self._require_index(index)
        chosen = torch.tensor(list(indices), device=self.data.device)
        self.hyperparameters = [self.hyperparameters[index] for index in indices]
        self.seeds = [self.seeds[index] for index in indices]
        self._hyper = PackHyperparameters.of(self.hyperparameters, self.data.device)
        for name in ("_weights", "_best", "_first", "_second", *_VECTOR_ATTRIBUTES):
            setattr(self, name, getattr(self, name).index_select(0, chosen))

    def _require_index(self, index: int) -> None:
        require(0 <= index < len(self.seeds), f"index must lie in 0 … {len(self.seeds) - 1}, got {index}")

    def state(self, index: int) -> dict[str, Tensor]:
        """Return all that is needed to resume model `index`, alone or in another pack, bit for bit on the same machine.

        Another processor, compiler or number of threads rounds differently.

        Returns
        -------
        dict[str, Tensor]
            Contiguous CPU tensors that share no storage. For every parameter NAME float32 `weights.NAME`,
            `best.NAME`, `adam_first.NAME`, `adam_second.NAME`; int64 `epoch`, `adam_steps`, `best_epoch`,
            `stalled_epochs`, `alive` (0 or 1) and float64 `smoothed_sv_loss`, `best_smoothed_sv_loss`
            (infinite before the first epoch), `best_sv_loss`, `best_validation_loss` (NaN before it),
            `learning_rate_decay`, 0-d.
        """
        self._require_index(index)
        packed = {kind: values[index : index + 1] for kind, values in self._packed().items()}
        vectors = {name: vector[index : index + 1] for name, vector in self._vectors().items()}
        [state] = Snapshot(self._shapes, self.epoch, packed, vectors).states()
        return state

    def snapshot(self) -> Snapshot:
        """Return the states of all models, as copies on the device that later epochs do not change: this waits for nothing."""
        packed = {kind: values.clone() for kind, values in self._packed().items()}
        vectors = {name: vector.clone() for name, vector in self._vectors().items()}
        return Snapshot(self._shapes, self.epoch, packed, vectors)

    def _load(self, states: Sequence[Mapping[str, Tensor]]) -> None:
        states = [checked_state(state, self._shapes, index) for index, state in enumerate(states)]
        epochs = {int(state["epoch"]) for state in states}
        require(
            len(epochs) == 1,
            f"the models of a population must be at one epoch, got states at {sorted(epochs)}",
        )
        self.epoch = epochs.pop()
        device = self.data.device

        def packed(kind: str) -> Tensor:
            flat = [
                torch.cat([state[f"{kind}.{name}"].flatten() for name in self._shapes]) for state in states
            ]
            return torch.stack(flat).to(device, torch.float32)

        def vector(name: str) -> Tensor:
            return torch.stack([state[name] for state in states]).to(device, VECTORS[name])

        self._weights, self._best = packed("weights"), packed("best")
        self._first, self._second = packed("adam_first"), packed("adam_second")
        self._adam_steps, self._best_epoch = vector("adam_steps"), vector("best_epoch")
        self._smoothed, self._best_smoothed = vector("smoothed_sv_loss"), vector("best_smoothed_sv_loss")
        self._best_sv, self._best_validation_loss = vector("best_sv_loss"), vector("best_validation_loss")
        self._alive = vector("alive").bool()
        self._decay, self._stalled_epochs = vector("learning_rate_decay"), vector("stalled_epochs")
        constant = constant_output_losses(self.architecture, self.data).validation_loss
        self._highest_loss = constant + EXPLOSION * max(abs(constant), 0.01)

    def _packed(self) -> dict[str, Tensor]:
        return dict(zip(PACKED, (self._weights, self._best, self._first, self._second), strict=True))

    def _vectors(self) -> dict[str, Tensor]:
        vectors = [getattr(self, attribute) for attribute in _VECTOR_ATTRIBUTES]
        return {
            name: vector.to(dtype) for (name, dtype), vector in zip(VECTORS.items(), vectors, strict=True)
        }

    def _named(self, pack: Tensor) -> dict[str, Tensor]:
        """View [M, D] as the named parameters, [M, …] each."""
        return named_parts(pack, self._shapes)


_VECTOR_ATTRIBUTES = (
    "_adam_steps",
    "_best_epoch",
    "_alive",
    "_smoothed",
    "_best_smoothed",
    "_best_sv",
    "_best_validation_loss",
    "_decay",
    "_stalled_epochs",
)


def _nothing() -> None:
    """Do nothing: the default callback of a step."""
