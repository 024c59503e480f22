"""Spike counts of a few trials, from a small file of this machine."""

import io
import json
from pathlib import Path

from latentry.commands.exits import UsageProblem


def read_spikes(path: Path) -> bytes:
    """Read spike counts of shape bins × neurons or trials × bins × neurons from npy, npz (array `spikes`) or JSON.

    Returns
    -------
    bytes
        The counts as `numpy.save` writes them.

    Raises
    ------
    UsageProblem
        If the file holds no array of whole numbers.
    """
    import numpy as np

    try:
        if path.suffix == ".json":
            loaded = json.loads(path.read_text("utf-8"))
            loaded = loaded.get("spikes", loaded) if isinstance(loaded, dict) else loaded
        else:
            loaded = np.load(path, allow_pickle=False)
            if isinstance(loaded, np.lib.npyio.NpzFile):
                loaded = loaded["spikes"]
        spikes = np.asarray(loaded)
        if spikes.dtype.kind == "f" and (spikes == np.floor(spikes)).all():
            spikes = spikes.astype(np.int64)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UsageProblem(
            f"{path} can't be read: {error}", "expected npy, npz with `spikes`, or JSON"
        ) from error
    if spikes.ndim not in (2, 3) or spikes.dtype.kind not in "iub":
        shape = " × ".join(str(size) for size in spikes.shape)
        raise UsageProblem(
            f"{path}: expected whole counts of trials × bins × neurons, got {spikes.dtype} of {shape or 'no axis'}"
        )
    written = io.BytesIO()
    np.save(written, spikes, allow_pickle=False)
    return written.getvalue()
