"""A slice of training: a pack from its checkpoints to the slice's end."""

import time
from collections.abc import Sequence

from models import EpochScores, Hyperparameters, Population, TrainingOptions
from store.array_store import delete_object
from store.database import database_now
from store.states import ModelState
from store.tables import Model
from worker.checkpoints import checkpoint_key, load_checkpoint, save_checkpoint
from worker.packing import MakePopulation, Pack, States, find_group_size
from worker.scheduler import end_model
from worker.slice_work import Progress, TrainingProcess, Work, finite


def train(process: TrainingProcess, work: Work) -> None:
    """Train a pack from its checkpoints to the slice's end, and report."""
    started = time.monotonic()
    make = _populations(process, work)
    progress = Progress(process, work)
    size = _group_size(process, work, make, progress)
    states = [
        load_checkpoint(process.arrays, model.checkpoint_key) for model in work.models if model.checkpoint_key
    ]
    pack = Pack(make, len(work.models), states or None, size)
    deadline = started + _seconds_left(process, work)
    while pack.epoch < work.piece.last_epoch and pack.alive:
        progress.add(pack.train_epoch(progress.beat))
        if time.monotonic() >= deadline or process.should_yield():
            break
    _report_training(process, work, pack, progress)


def _populations(process: TrainingProcess, work: Work) -> MakePopulation:
    """Makes populations of the slice's models."""
    training, data, architecture = (
        work.specification.training,
        process.training_data(work),
        work.architecture(),
    )
    options = TrainingOptions(
        batch_size=training.batch_size,
        ramp_epochs=training.ramp_epochs,
        gradient_clip=training.gradient_clip,
        score_smoothing=training.score_smoothing,
        decay_factor=training.decay_factor,
        decay_patience=training.decay_patience,
        least_learning_rate=training.least_learning_rate,
    )

    def make(indices: Sequence[int], states: States | None) -> Population:
        return Population(
            architecture,
            [Hyperparameters(**work.models[index].hyperparameters) for index in indices],
            [work.models[index].seed for index in indices],
            data,
            options,
            order_seed=work.specification.seed,
            states=states,
        )

    return make


def _group_size(process: TrainingProcess, work: Work, make: MakePopulation, progress: Progress) -> int:
    """How many models train at once: found once for such models and data in this process, fewer after an attempt that died."""
    dataset, models, batch_size = work.dataset, len(work.models), work.specification.training.batch_size
    trials = int((work.split() == "train").sum())
    key = (work.architecture(), dataset.bins, trials, batch_size, models)
    if key not in process.group_sizes:
        model_bytes = work.specification.step_bytes(dataset.neurons or 0, dataset.bins or 0, trials)
        process.group_sizes[key] = find_group_size(make, models, process.device, model_bytes, progress.beat)
    # Whoever died with this slice may have been killed for its memory: half as many each time.
    return max(1, process.group_sizes[key] >> (work.piece.attempts - 1))


def _seconds_left(process: TrainingProcess, work: Work) -> float:
    """Until this slice should end: its own length, or the job's wall clock if that is nearer."""
    limit = work.specification.budget.wall_seconds
    if limit is None or work.job.started_at is None:
        return process.settings.slice_seconds
    with process.database.read() as session:
        spent = (database_now(session) - work.job.started_at).total_seconds()
    return min(process.settings.slice_seconds, max(0.0, limit - spent))


def _report_training(process: TrainingProcess, work: Work, pack: Pack, progress: Progress) -> None:
    """Save checkpoints, then say in one transaction that they are the true ones."""
    keys: dict[str, str] = {}
    alive = set(pack.alive)
    for index in alive:
        model = work.models[index]
        keys[model.id] = checkpoint_key(model.id, pack.epoch, work.lease.token)
        save_checkpoint(process.arrays, keys[model.id], pack.state(index))
        progress.beat()
    replaced: list[str] = []
    with process.final_report(work) as (session, _job, piece):
        progress.write(session)
        piece.epochs_trained = pack.epoch
        for index, before in enumerate(work.models):
            model = session.get_one(Model, before.id)
            if index not in alive:
                model.epochs_trained = progress.latest[index].epoch
                reason = f"its loss was no longer finite, or exploded, in epoch {model.epochs_trained}"
                end_model(session, model, ModelState.DIVERGED, reason)
                continue
            model.epochs_trained = pack.epoch
            if model.checkpoint_key:
                replaced.append(model.checkpoint_key)
            model.checkpoint_key = keys[model.id]
            if index in progress.latest:
                _write_scores(model, progress.latest[index])
    for key in replaced:
        delete_object(process.arrays, key)


def _write_scores(model: Model, scores: EpochScores) -> None:
    model.smoothed_sv_loss = finite(scores.best_smoothed_sv_loss)
    model.scores = {
        "sv_loss": finite(scores.sv_loss),
        "smoothed_sv_loss": model.smoothed_sv_loss,
        "ordinary_loss": finite(scores.ordinary_loss),
        "train_loss": finite(scores.train_loss),
        "sv_loss_train": finite(scores.sv_loss_train),
    }
