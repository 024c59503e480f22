"""A slice of training: a pack from its checkpoints to the slice's end."""

import time
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session
from torch import Tensor

from domain.cost import step_bytes
from domain.sessions import neurons_per_trial
from domain.states import ModelState, SliceState
from models import EpochScores, Hyperparameters, Population, TrainingOptions
from models.model_state import fresh_state
from store.array_store import delete_object
from store.budget import spent
from store.lineage import OWN_LOSS
from store.tables import Job, Model, Slice
from store.versions import installed
from worker.maintenance.garbage_collection import still_read
from worker.scheduling.leases import LeaseLost
from worker.scheduling.model_rows import end_model, note_best_weights
from worker.training.checkpoints import checkpoint_key, load_checkpoint, save_checkpoint
from worker.training.context import Progress, TrainingProcess, Work, finite, lowest
from worker.training.micro_batching import MakePopulation, Pack, States, find_group_size
from worker.training.read_in_initial_values import read_in_initial_values


def train(process: TrainingProcess, work: Work) -> None:
    """Train a pack from its checkpoints to the slice's end, and report."""
    started = time.monotonic()
    make = _populations(process, work)
    progress = Progress(process, work)
    size = _group_size(process, work, make, progress)
    pack = Pack(make, len(work.models), _states(process, work), size)
    deadline = started + _seconds_left(process, work)
    stalled: list[int] = []
    while pack.epoch < work.piece.last_epoch and pack.alive:
        scores = pack.train_epoch(progress.beat)
        progress.add(scores)
        stalled += (of_epoch := [index for index in pack.alive if _is_stalled(work, scores[index])])
        pack.release(of_epoch)
        if time.monotonic() >= deadline or process.should_yield() or progress.should_end:
            break
    _report_training(process, work, pack, stalled, progress)


def _states(process: TrainingProcess, work: Work) -> list[dict[str, Tensor]] | None:
    """Where the models go on from; None if all begin. One of a warm start begins with the best weights of another model."""
    states = []
    for model in work.models:
        if model.checkpoint_key:
            states.append(load_checkpoint(process.arrays, model.checkpoint_key))
        elif model.start_key:
            other = load_checkpoint(process.arrays, model.start_key)
            best = {
                name.removeprefix("best."): part for name, part in other.items() if name.startswith("best.")
            }
            states.append(fresh_state(best))
    return states or None


def _is_stalled(work: Work, scores: EpochScores) -> bool:
    """Whether a model has not improved for as long as the budget allows, counted from the ramp's end."""
    patience = work.specification.budget.patience_epochs
    if patience is None or work.is_refit:
        return False
    return scores.epoch - max(scores.best_epoch, work.specification.training.ramp_epochs) >= patience


def _populations(process: TrainingProcess, work: Work) -> MakePopulation:
    """Makes populations of the slice's models."""
    training, data, architecture = (
        work.specification.training,
        process.training_data(work),
        work.architecture(),
    )
    of_the_data = {"sv_rate", "valid_fraction", "test_fraction", "evaluation_seed"}
    options = TrainingOptions(**training.model_dump(exclude=of_the_data))
    is_fresh = all(model.checkpoint_key is None and model.start_key is None for model in work.models)
    initial_values = read_in_initial_values(process, work) if is_fresh and architecture.read_in_dim else None

    def make(indices: Sequence[int], states: States | None) -> Population:
        return Population(
            architecture,
            [Hyperparameters(**work.models[index].hyperparameters) for index in indices],
            [work.models[index].seed for index in indices],
            data,
            options,
            order_seed=work.specification.seed,
            states=states,
            initial_values=initial_values,
        )

    return make


def _group_size(process: TrainingProcess, work: Work, make: MakePopulation, progress: Progress) -> int:
    """How many models train at once: found once for such models and data in this process, fewer after an attempt that died."""
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
    # Whoever died with this slice may have been killed for its memory: half as many each time.
    return max(1, process.group_sizes[key] >> work.piece.attempts)


def _seconds_left(process: TrainingProcess, work: Work) -> float:
    """Until this slice should end: its own length, or what is left of the job's time if that is less."""
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


def _report_training(
    process: TrainingProcess, work: Work, pack: Pack, stalled: Sequence[int], progress: Progress
) -> None:
    """Save checkpoints, then say in one transaction that they are the true ones."""
    keys: dict[int, str] = {}
    for index in [*pack.alive, *stalled]:
        epoch = progress.latest[index].epoch
        keys[index] = checkpoint_key(work.models[index].id, epoch, work.lease.token)
        save_checkpoint(process.arrays, keys[index], pack.state(index))
        progress.beat()
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
            scores = progress.latest[index]
            first_epoch = model.epochs_trained
            model.epochs_trained, model.is_alone = scores.epoch, False
            if index not in keys:
                reason = f"its loss was no longer finite, or exploded, in epoch {scores.epoch}"
                end_model(session, model, ModelState.DIVERGED, reason)
                continue
            model.checkpoint_key, model.start_key = keys[index], None
            own_loss = lowest([model.scores.get(OWN_LOSS), progress.lowest.get(index)])
            _write_scores(process, work, model, scores)
            note_best_weights(model, scores.best_epoch, first_epoch)
            if work.specification.strategy.kind == "pbt":
                model.scores = model.scores | {OWN_LOSS: own_loss}
            if index in stalled:
                patience = work.specification.budget.patience_epochs
                reason = f"its smoothed SV loss had not improved for {patience} epochs"
                end_model(session, model, ModelState.TRAINED, reason)
        session.flush()
        replaced.difference_update(still_read(session, replaced))

    try:
        process.final_report(work, write)
    except LeaseLost:
        for key in keys.values():  # nobody else knows of them
            delete_object(process.arrays, key)
        raise
    for key in replaced:
        delete_object(process.arrays, key)


def _write_scores(process: TrainingProcess, work: Work, model: Model, scores: EpochScores) -> None:
    model.smoothed_sv_loss = finite(scores.best_smoothed_sv_loss)
    model.latest_smoothed_sv_loss = finite(scores.smoothed_sv_loss)
    model.scores = {
        "best_epoch": scores.best_epoch or None,
        "sv_loss": finite(scores.best_sv_loss),
        "validation_loss": finite(scores.best_validation_loss),
        "sv_bits_per_spike_valid": process.sv_bits_per_spike(work, scores.best_sv_loss),
        "smoothed_sv_loss": model.smoothed_sv_loss,
        "last_sv_loss": finite(scores.sv_loss),
        "last_validation_loss": finite(scores.validation_loss),
        "last_train_loss": finite(scores.train_loss),
        "last_sv_loss_train": finite(scores.sv_loss_train),
    }
