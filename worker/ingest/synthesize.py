"""Make a synthetic recording with known rates as an NPZ file, which is then ingested like any upload.

``python -m worker.ingest.synthesize lorenz out.npz conditions=65 seed=0 …``

Beside the spikes and their true rates, the file has the states of the system as behaviour `true_latents`, and its
inputs, if any, as `true_inputs`. Both are for comparison; they are not `external_inputs` of a model.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from domain import synthetic
from store.disk_errors import is_disk_error
from worker.ingest.parse import DISK_ERROR, NOT_WRITTEN

SYSTEMS: dict[str, Callable[..., synthetic.SyntheticRecording]] = {
    "lorenz": synthetic.lorenz,
    "chaotic_rnn": synthetic.chaotic_rnn,
    "driven": synthetic.driven,
    "two_sessions": synthetic.lorenz_session,  # a data set is one session
}


def main(arguments: list[str]) -> None:
    """Write the file.

    Parameters
    ----------
    arguments
        Name of the system, path of the file, and ``name=value`` for each parameter of the system.
    """
    system, path, *pairs = arguments
    parameters = {name: _number(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    recording = SYSTEMS[system](**parameters)
    arrays: dict[str, Any] = {
        "spikes": recording.spikes,
        "bin_width_s": recording.bin_width_s,
        "true_rates_hz": recording.true_rates_hz,
        "true_latents": recording.latents,
        "condition": recording.condition,
        "split": recording.is_validation.astype(np.int8),
    }
    if recording.inputs is not None:
        arrays["true_inputs"] = recording.inputs
    try:
        np.savez(Path(path), **arrays)
    except OSError as error:
        sys.exit(DISK_ERROR if is_disk_error(error) else NOT_WRITTEN)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


if __name__ == "__main__":
    main(sys.argv[1:])
