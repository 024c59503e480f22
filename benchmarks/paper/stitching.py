"""Do two sessions together tell more than each alone? As in Pandarinath et al. 2018, figure 4 ("dynamic stitching").

``python -m benchmarks.paper.stitching [--quick] [--json]``

One Lorenz system, recorded in two sessions with different neurons and different trials of the same conditions; each has few
neurons and few trials. The same draws of hyperparameters and the same number of optimizer steps three times: each session
alone; both in one model, with read-ins and read-outs that begin by principal-components regression; both in one model
from random ones. Each time the model with the lowest smoothed SV loss is selected; R² of its rates to the true ones is
over the validation trials of each session.
"""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.paper.harness import (
    Result,
    Task,
    Trained,
    draw_models,
    full_session,
    loguniform,
    main,
    train_all,
)
from domain.scores import r2_true_rates
from domain.synthetic import SyntheticRecording, two_sessions
from models import (
    Architecture,
    Hyperparameters,
    TrainingOptions,
    principal_components_initial_values,
)

BATCH = 32
WAYS = ("alone", "stitched", "stitched, random start")


def draw(random: np.random.Generator) -> Hyperparameters:
    """Ranges as published, narrower where a short training needs it."""
    return Hyperparameters(
        learning_rate=loguniform(random, 2e-3, 6e-3),
        dropout=float(random.uniform(0.0, 0.4)),
        cd_rate=float(random.uniform(0.2, 0.6)),
        kl_weight_initial_condition=loguniform(random, 1e-5, 1e-3),
        l2_weight_generator=loguniform(random, 1e-4, 1e-1),
    )


def experiment(*, quick: bool, processes: int, seed: int) -> Result:
    """Train three times and compare."""
    number, steps, repetitions = (3, 700, 1) if quick else (4, 1500, 3)
    scores: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    for repetition in range(repetitions):
        recordings = two_sessions(
            conditions=20,
            trials_per_condition=10,
            neurons=(16, 16),
            mean_count_per_bin=0.2,
            seed=seed + repetition,
        )
        tasks = make_tasks(recordings, draw_models(number, draw, seed + repetition), steps)
        first, second, stitched, random_start = train_all(tasks, processes)
        scores["alone"].append([_score(first, 0, recordings[0]), _score(second, 0, recordings[1])])
        for way, trained in zip(WAYS[1:], (stitched, random_start), strict=True):
            scores[way].append([_score(trained, session, recordings[session]) for session in range(2)])
    means = {way: np.mean(found, axis=0) for way, found in scores.items()}
    rows: list[list[Any]] = [["", "R², first session", "R², second session"]]
    rows += [[way, float(mean[0]), float(mean[1])] for way, mean in means.items()]
    summary: dict[str, Any] = {
        name: [round(float(r2), 3) for r2 in means[way]]
        for name, way in zip(("alone_r2", "stitched_r2", "stitched_random_start_r2"), WAYS, strict=True)
    }
    return Result(
        summary | {"repetitions": repetitions, "models": 4 * number * repetitions}, rows, _figure(scores)
    )


def make_tasks(
    recordings: tuple[SyntheticRecording, SyntheticRecording], drawn: list[Hyperparameters], steps: int
) -> list[Task]:
    """Each session alone, both, and both from a random start; all with the same number of optimizer steps."""
    sessions = [full_session(made.spikes, made.is_validation) for made in recordings]
    sizes: dict[str, Any] = {
        "encoder_units": 48,
        "initial_condition_dim": 24,
        "generator_units": 64,
        "factors": 8,
    }
    seeds = list(range(len(drawn)))

    def task(chosen: list[int], *, by_components: bool) -> Task:
        # Both sessions have twice the trials: batches of the same trials of each, and as many steps.
        epochs = round(steps / -(-int((~sessions[0].is_validation).sum()) // BATCH))
        together = [sessions[session] for session in chosen]
        neurons = tuple(session.spikes.shape[2] for session in together)
        architecture = Architecture(neurons=neurons, read_in_dim=8, **sizes)
        conditions = [recordings[session].condition for session in chosen]
        initial_values = (
            principal_components_initial_values(architecture, together, conditions) if by_components else None
        )
        options = TrainingOptions(batch_size=BATCH * len(chosen), ramp_epochs=epochs // 4)
        return Task(together, architecture, drawn, options, epochs, seeds, initial_values=initial_values)

    return [
        task([0], by_components=True),
        task([1], by_components=True),
        task([0, 1], by_components=True),
        task([0, 1], by_components=False),
    ]


def _score(trained: Trained, session: int, recording: SyntheticRecording) -> float:
    """R² of the model that SV selects, validation trials of a session."""
    valid = recording.is_validation
    truth = recording.true_rates_hz[valid] * recording.bin_width_s
    return r2_true_rates(trained.latents[trained.selected][session].rates[valid], truth)


def _figure(scores: dict[str, list[list[float]]]) -> Figure:
    figure = Figure(figsize=(6, 4))
    panel = figure.subplots()
    for place, found in enumerate(scores.values()):
        for session, colour in enumerate(("tab:blue", "tab:orange")):
            values = [pair[session] for pair in found]
            at = place + (session - 0.5) * 0.3
            panel.bar(at, float(np.mean(values)), 0.28, color=colour, alpha=0.6)
            panel.scatter([at] * len(values), values, s=14, color="black", zorder=3)
    panel.set_xticks(range(len(scores)), list(scores))
    panel.set_ylabel("R² to the true rates, validation trials")
    panel.set_title("blue: first session, orange: second; points: repetitions", fontsize=9)
    panel.set_ylim(0, 1)
    return figure


if __name__ == "__main__":
    main("stitching", __doc__ or "", experiment)
