"""A slice of training: a pack from its checkpoints to the slice's end."""

import time

from models import EpochScores, Hyperparameters, Population, TrainingOptions
from store.array_store import delete_object
from store.database import database_now
from store.states import ModelState
from store.tables import Model
from worker.checkpoints import checkpoint_key, load_checkpoint, save_checkpoint
from worker.scheduler import end_model
from worker.slice_work import Progress, TrainingProcess, Work, finite


def train(process: TrainingProcess, work: Work) -> None:
    """Train a pack from its checkpoints to the slice's end, and report."""
    started = time.monotonic()
    training = work.specification.training
    states = [
        load_checkpoint(process.arrays, model.checkpoint_key) for model in work.models if model.checkpoint_key
    ]
    population = Population(
        work.architecture(),
        [Hyperparameters(**model.hyperparameters) for model in work.models],
        [model.seed for model in work.models],
        process.training_data(work),
        TrainingOptions(
            batch_size=training.batch_size,
            ramp_epochs=training.ramp_epochs,
            gradient_clip=training.gradient_clip,
            score_smoothing=training.score_smoothing,
            decay_factor=training.decay_factor,
            decay_patience=training.decay_patience,
            least_learning_rate=training.least_learning_rate,
        ),
        order_seed=work.specification.seed,
        states=states or None,
    )
    progress = Progress(process, work)
    deadline = started + _seconds_left(process, work)
    while population.epoch < work.piece.last_epoch and any(population.alive):
        progress.add(population.train_epoch(progress.beat))
        if time.monotonic() >= deadline or process.should_yield():
            break
    _report_training(process, work, population, progress)


def _seconds_left(process: TrainingProcess, work: Work) -> float:
    """Until this slice should end: its own length, or the job's wall clock if that is nearer."""
    limit = work.specification.budget.wall_seconds
    if limit is None or work.job.started_at is None:
        return process.settings.slice_seconds
    with process.database.read() as session:
        spent = (database_now(session) - work.job.started_at).total_seconds()
    return min(process.settings.slice_seconds, max(0.0, limit - spent))


def _report_training(
    process: TrainingProcess, work: Work, population: Population, progress: Progress
) -> None:
    """Save checkpoints, then say in one transaction that they are the true ones."""
    keys: dict[str, str] = {}
    for index, model in enumerate(work.models):
        if population.alive[index]:
            keys[model.id] = checkpoint_key(model.id, population.epoch, work.lease.token)
            save_checkpoint(process.arrays, keys[model.id], population.state(index))
            progress.beat()
    replaced: list[str] = []
    with process.final_report(work) as (session, _job, piece):
        progress.write(session)
        piece.epochs_trained = population.epoch
        for index, before in enumerate(work.models):
            model = session.get_one(Model, before.id)
            model.epochs_trained = population.epoch
            if not population.alive[index]:
                reason = f"its loss was no longer finite, or exploded, before epoch {population.epoch}"
                end_model(session, model, ModelState.DIVERGED, reason)
                continue
            if model.checkpoint_key:
                replaced.append(model.checkpoint_key)
            model.checkpoint_key = keys[model.id]
            if progress.latest:
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
