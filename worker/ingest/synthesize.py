"""Makes a synthetic recording with known rates as an NPZ file, which is then ingested like any upload.

``python -m worker.ingest.synthesize lorenz out.npz conditions=65 seed=0 …``
"""

import sys
from pathlib import Path

import numpy as np

from models import synthetic


def main(arguments: list[str]) -> None:
    """Write the file.

    Parameters
    ----------
    arguments
        Name of the system, path of the file, and ``name=value`` for each parameter of the system.
    """
    system, path, *pairs = arguments
    parameters = {name: _number(value) for name, value in (pair.split("=", 1) for pair in pairs)}
    recording = getattr(synthetic, system)(**parameters)
    np.savez(
        Path(path),
        spikes=recording.spikes,
        bin_width_s=recording.bin_width_s,
        true_rates_hz=recording.true_rates_hz,
        true_latents=recording.latents,
        condition=recording.condition,
        split=recording.is_validation.astype(np.int8),
    )


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


if __name__ == "__main__":
    main(sys.argv[1:])
