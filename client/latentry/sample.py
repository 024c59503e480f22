"""A small data set for a first try: reaches of a hand, and neurons that encode them."""

from pathlib import Path
from typing import Any

import numpy as np

TRIALS, BINS, NEURONS, DIRECTIONS = 120, 50, 36, 8
BIN_WIDTH_S = 0.02


def write_sample(path: Path, seed: int = 0) -> None:
    """Write the data set of `reaches` as an NPZ file."""
    with path.open("wb") as file:  # given a name, NumPy would add its own ending
        np.savez_compressed(file, **reaches(seed))


def reaches(seed: int = 0) -> dict[str, Any]:
    """Return reaches to eight targets, and spikes of neurons that are tuned to the movement.

    A hand rests, hears a go cue, and moves to the target with a bell-shaped speed. Each neuron prefers a direction of the
    movement 60 ms later, follows the speed to some degree, and has its own base rate.

    Parameters
    ----------
    seed
        The same seed gives the same arrays.

    Returns
    -------
    Arrays by name, trials first. Counts: ``spikes`` (trials × bins × neurons), ``bin_width_s``. Behaviour: ``hand_position``
    (cm) and ``hand_velocity`` (cm/s), trials × bins × 2. One value for each trial: ``condition`` (0 to 7), ``direction``
    (degrees), ``go_cue`` and ``move_onset`` (seconds from the trial's begin), ``reaction_time`` (seconds), ``outcome``.
    """
    random = np.random.default_rng(seed)
    condition = random.permutation(np.arange(TRIALS) % DIRECTIONS)
    angle = 2 * np.pi * condition / DIRECTIONS
    go_cue = random.uniform(0.2, 0.3, TRIALS)
    reaction_time = random.uniform(0.15, 0.25, TRIALS)
    duration_s = random.uniform(0.3, 0.4, TRIALS)
    centre_s = go_cue + reaction_time + duration_s / 2
    width_s = (duration_s / 5)[:, None]

    def velocity_at(time_s: np.ndarray[Any, Any]) -> Any:
        """Return the velocity of every trial in cm/s, trials × times × 2: a Gaussian speed that covers 10 cm."""
        speed = np.exp(-0.5 * ((time_s - centre_s[:, None]) / width_s) ** 2)
        speed *= 10 / (width_s * np.sqrt(2 * np.pi))
        velocity: np.ndarray[Any, Any] = (
            speed[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)[:, None]
        )
        return velocity

    time_s = (np.arange(BINS) + 0.5) * BIN_WIDTH_S
    velocity, coming = velocity_at(time_s), velocity_at(time_s + 0.06)
    tuning = random.normal(0, 0.03, (2, NEURONS))
    with_speed = random.normal(0, 0.01, NEURONS)
    speed = np.linalg.norm(coming, axis=-1, keepdims=True)
    rate_hz = random.uniform(5, 20, NEURONS) * np.exp(np.clip(coming @ tuning + speed * with_speed, -3, 2))
    return {
        "spikes": random.poisson(rate_hz * BIN_WIDTH_S).astype(np.uint8),
        "bin_width_s": np.array(BIN_WIDTH_S),
        "hand_position": (np.cumsum(velocity, axis=1) * BIN_WIDTH_S).astype(np.float32),
        "hand_velocity": velocity.astype(np.float32),
        "condition": condition,
        "direction": condition * (360 / DIRECTIONS),
        "go_cue": go_cue,
        "move_onset": go_cue + reaction_time,
        "reaction_time": reaction_time,
        "outcome": np.where(random.random(TRIALS) < 0.9, "success", "failure"),
    }
