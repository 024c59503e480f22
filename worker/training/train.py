"""A slice of training: train a pack from its checkpoints to the end of the slice, and report."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from torch import Tensor

from domain.conditions import Condition, condition_numbers, number_conditions
from domain.cost import step_bytes
from domain.scores.baselines import NO_CONDITION
from domain.sessions import neurons_per_trial
from domain.states import ModelState, SliceState
from models import (
    EpochScores,
    Hyperparameters,
    Population,
    TrainingOptions,
    principal_components_initial_values,
)
from models import Session as TrainingSession
from models.data import visible_and_held_out
from models.model_state import fresh_state
from store import metrics
from store.array_store import delete_object
from store.budget import spent
from store.lineage import OWN_LOSS
from store.tables import Job, Model, Slice
from store.versions import installed
from worker.context.checkpoints import best_weights, checkpoint_key, load_checkpoint, save_checkpoint
from worker.context.data import LoadedData, finite, read_conditions, read_sessions
from worker.context.process import TrainingProcess
from worker.context.reports import end_slice
from worker.context.slices import Work
from worker.scheduling.leases import LeaseLost
from worker.scheduling.model_rows import checkpoints_in_use, end_model, note_best_weights
from worker.training.micro_batching import MakePopulation, Pack, States, find_group_size
from worker.training.precision import precision_of
from worker.training.progress import Progress, lowest


def train(process: TrainingProcess, work: Work) -> None:
    """Train a pack from its checkpoints to the end of the slice, and report."""
    started = time.monotonic()
    data = process.data.load(work)
    make = _populations(process, work, data)
    progress = Progress(process, work, data)
    size = _group_size(process, work, make, progress)
    pack = Pack(make, len(work.models), _states(process, work), size)
    deadline = started + _seconds_left(process, work)
    stalled: list[int] = []
    while pack.epoch < work.piece.last_epoch and pack.alive:
        before = time.monotonic()
        scores = pack.train_epoch(progress.beat)
        metrics.model_epochs.labels(process.device).inc(len(scores))
        metrics.training_seconds.labels(process.device).inc(time.monotonic() - before)
        progress.add(scores)
        stalled += (of_epoch := [index for index in pack.alive if _is_stalled(work, scores[index])])
        pack.release(of_epoch)
        if time.monotonic() >= deadline or process.should_yield() or progress.should_end:
            break
    _report(process, work, progress, pack, stalled)


def _states(process: TrainingProcess, work: Work) -> list[dict[str, Tensor]] | None:
    """Return the states from which the models continue; None if all begin.

    A model of a warm start begins with the best weights of another model.
    """
    states = []
    for model in work.models:
        if model.checkpoint_key:
            states.append(load_checkpoint(process.arrays, model.checkpoint_key))
        elif model.start_key:
            states.append(fresh_state(best_weights(load_checkpoint(process.arrays, model.start_key))))
    return states or None


def _is_stalled(work: Work, scores: EpochScores) -> bool:
    """Return whether a model has not improved for as long as the budget allows, counted from the end of the ramp."""
    patience = work.specification.budget.patience_epochs
    if patience is None or work.is_refit:
        return False
    return scores.epoch - max(scores.best_epoch, work.specification.training.settled_epoch) >= patience


def _populations(process: TrainingProcess, work: Work, data: LoadedData) -> MakePopulation:
    """Return a function that makes populations of the slice's models."""
    training, architecture = work.specification.training, work.architecture()
    options = TrainingOptions.of(training, precision_of(process, work))
    is_fresh = all(model.checkpoint_key is None and model.start_key is None for model in work.models)
    initial_values = None
    if is_fresh and architecture.read_in_dim:
        names = read_conditions(process.database, work.dataset)
        initial_values = _read_in_initial_values(work, read_sessions(process.arrays, work), names)

    def make(indices: Sequence[int], states: States | None) -> Population:
        return Population(
            architecture,
            [Hyperparameters(**work.models[index].hyperparameters) for index in indices],
            [work.models[index].seed for index in indices],
            data.training,
            options,
            order_seed=work.specification.seed,
            states=states,
            initial_values=initial_values,
        )

    return make


def _read_in_initial_values(
    work: Work, sessions: Sequence[TrainingSession], names: Sequence[Condition]
) -> dict[str, Tensor]:
    """Return the first parameters of read-ins and read-outs by name, from principal-components regression.

    The regression uses averages over training trials: within each condition if all sessions share some, else over all trials.
    It uses as many bins from the beginning as all sessions have. Samples that sample validation holds out count as missing.

    Parameters
    ----------
    sessions
        Of the data set.
    names
        Condition of each trial of the data set.
    """
    training = work.specification.training
    bins = min(recorded.bins for recorded in work.sessions)
    numbers = condition_numbers(number_conditions(names), names)
    cut, conditions = [], []
    for number, (recorded, session) in enumerate(zip(work.sessions, sessions, strict=True)):
        enters, _ = visible_and_held_out(session, training.sv_rate, training.evaluation_seed, number)
        cut.append(
            TrainingSession(
                session.spikes[:, :bins],
                session.trial_length_bins.clip(max=bins),
                session.is_validation,
                missing=~enters[:, :bins],
                is_test=session.is_test,
                is_left_out=session.is_left_out,
            )
        )
        # Trials without a condition share none with another session.
        of_session = numbers[recorded.rows]
        conditions.append(np.where(of_session == NO_CONDITION, -1 - number, of_session))
    trained = zip(conditions, cut, strict=True)
    common = set.intersection(*(set(of[session.is_training].tolist()) for of, session in trained))
    return principal_components_initial_values(work.architecture(), cut, conditions if common else None)


def _group_size(process: TrainingProcess, work: Work, make: MakePopulation, progress: Progress) -> int:
    """Return how many models train at once.

    A process finds the number once for such models and data. Each attempt that died halves it, since memory may have run out.
    """
    dataset, models, batch_size = work.dataset, len(work.models), work.specification.training.batch_size
    trials = int((work.split() == "train").sum())
    key = (work.architecture(), dataset.bins, trials, batch_size, models)
    if key not in process.group_sizes:
        model_bytes = step_bytes(
            work.models[0].architecture,
            neurons_per_trial(dataset),
            dataset.bins or 0,
            min(batch_size, trials),
        )
        process.group_sizes[key] = find_group_size(make, models, process.device, model_bytes, progress.beat)
    return max(1, process.group_sizes[key] >> work.piece.attempts)


def _seconds_left(process: TrainingProcess, work: Work) -> float:
    """Return the length of this slice: that of the settings, or what is left of the job's time if that is less."""
    budget, length = work.specification.budget, process.settings.slice_seconds
    if work.is_refit or (budget.wall_seconds is None and budget.device_seconds is None):
        return length
    with process.database.read() as session:
        time_spent = spent(session, session.get_one(Job, work.job.id))
        under_way = select(func.count()).where(
            Slice.job_id == work.job.id, Slice.kind == "train", Slice.state == SliceState.LEASED
        )
        devices = max(1, session.execute(under_way).scalar_one())
    if budget.wall_seconds is not None:
        length = min(length, budget.wall_seconds - time_spent.wall_seconds)
    if budget.device_seconds is not None:
        length = min(length, (budget.device_seconds - time_spent.device_seconds) / devices)
    return max(0.0, length)


def _report(
    process: TrainingProcess, work: Work, progress: Progress, pack: Pack, stalled: Sequence[int]
) -> None:
    """Save checkpoints, then write in one transaction that they are the current ones."""
    keys = _save_checkpoints(process, work, progress, pack, stalled)
    replaced: set[str] = set()

    def write(session: Session, job: Job, piece: Slice) -> None:
        progress.write(session)
        if (versions := installed("latentry", "torch")) not in (known := job.trained_with or []):
            job.trained_with = [*known, versions]
        piece.epochs_trained = pack.epoch
        models = [session.get_one(Model, before.id) for before in work.models]
        replaced.clear()
        replaced.update(key for model in models for key in (model.checkpoint_key, model.start_key) if key)
        for index, model in enumerate(models):
            if index in keys:
                model.checkpoint_key, model.checkpoint_bytes = keys[index]
                model.start_key = None
                _write_scores(work, progress, model, index)
            else:
                reason = (
                    f"its loss was no longer finite, or exploded, in epoch {progress.latest[index].epoch}"
                )
                end_model(session, model, ModelState.DIVERGED, reason)
            if index in stalled:
                patience = work.specification.budget.patience_epochs
                reason = f"its smoothed SV loss had not improved for {patience} epochs"
                end_model(session, model, ModelState.TRAINED, reason)
            model.epochs_trained, model.is_alone = progress.latest[index].epoch, False
        session.flush()
        replaced.difference_update(checkpoints_in_use(session, replaced))

    try:
        end_slice(process, work, write)
    except LeaseLost:
        for key, _ in keys.values():  # no row refers to them
            delete_object(process.arrays, key)
        raise
    for key in replaced:
        delete_object(process.arrays, key)


def _save_checkpoints(
    process: TrainingProcess, work: Work, progress: Progress, pack: Pack, stalled: Sequence[int]
) -> Mapping[int, tuple[str, int]]:
    """Save the models that have not diverged; return the key and the size of each checkpoint by its place in the slice."""
    keys = {}
    for index in [*pack.alive, *stalled]:
        epoch = progress.latest[index].epoch
        key = checkpoint_key(work.models[index].id, epoch, work.lease.token)
        keys[index] = key, save_checkpoint(process.arrays, key, pack.state(index))
        progress.beat()
    return keys


def _write_scores(work: Work, progress: Progress, model: Model, index: int) -> None:
    """Write the scores of a slice into the row of a model, which still has those of the slice before."""
    scores = progress.latest[index]
    own_loss = lowest(model.scores.get(OWN_LOSS), progress.lowest.get(index))
    note_best_weights(model, scores.best_epoch, first_epoch=model.epochs_trained)
    model.smoothed_sv_loss = finite(scores.best_smoothed_sv_loss)
    model.latest_smoothed_sv_loss = finite(scores.smoothed_sv_loss)
    model.scores = {
        "best_epoch": scores.best_epoch or None,
        "sv_loss": finite(scores.best_sv_loss),
        "validation_loss": finite(scores.best_validation_loss),
        "sv_bits_per_spike_valid": progress.data.sv_bits_per_spike(scores.best_sv_loss),
        "smoothed_sv_loss": model.smoothed_sv_loss,
        "last_sv_loss": finite(scores.sv_loss),
        "last_validation_loss": finite(scores.validation_loss),
        "last_train_loss": finite(scores.train_loss),
        "last_sv_loss_train": finite(scores.sv_loss_train),
    }
    if work.specification.strategy.kind == "pbt":
        model.scores = model.scores | {OWN_LOSS: own_loss}
