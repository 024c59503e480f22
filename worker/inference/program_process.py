"""The process that exports a model as a program: arguments on standard input, the answer on standard output, both MessagePack.

The answer has the form of `store.rpc`: ``{"answer": {"program": …}}``, or ``{"problem": {"code": …, "message": …}}``.
"""

import logging
import os
import sys
from importlib.util import find_spec
from typing import Any

import msgpack
from zarr.abc.store import Store

from store.array_store import get_array_store
from store.logs import configure

logger = logging.getLogger(__name__)

_ONNX_PACKAGES = ("onnx", "onnxscript")


def write_program(
    arrays: Store,
    *,
    checkpoint_key: str,
    architecture: dict[str, Any],
    session: int,
    bin_width_s: float,
    bins: int,
    kind: str,
) -> dict[str, Any]:
    """Export a model as a program for other runtimes.

    Parameters
    ----------
    arrays
        The array store.
    checkpoint_key, architecture
        Of the model. The architecture has every field.
    session
        The session whose neurons the program reads.
    bin_width_s, bins
        Of the data that the model was trained on.
    kind
        ``torch_export`` or ``onnx``.

    Returns
    -------
    dict
        An answer. Its ``program`` is the content of the file.
    """
    if kind == "onnx" and (missing := [name for name in _ONNX_PACKAGES if find_spec(name) is None]):
        return _problem("not_installed", f"{' and '.join(missing)} not installed")
    from models import Architecture
    from models.program import PosteriorMeans, onnx_program, torch_program
    from worker.context.checkpoints import best_weights, load_checkpoint

    try:
        best = best_weights(load_checkpoint(arrays, checkpoint_key))
    except FileNotFoundError as error:
        return _problem("no_weights", str(error))
    model = PosteriorMeans(
        Architecture.of_model(architecture, architecture["neurons"]), best, bin_width_s, session
    )
    write = torch_program if kind == "torch_export" else onnx_program
    return {"answer": {"program": write(model, bins)}}


def _problem(code: str, message: str) -> dict[str, Any]:
    return {"problem": {"code": code, "message": message}}


def main() -> None:
    """Answer one call."""
    configure("program")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that no library's output looks like an answer
    try:
        answer = write_program(get_array_store(), **msgpack.unpackb(sys.stdin.buffer.read()))
    except Exception as error:
        logger.exception("the export of a model failed")
        answer = _problem("internal", f"{type(error).__name__}: {error}")
    answers.write(msgpack.packb(answer))
    answers.close()


if __name__ == "__main__":
    main()
