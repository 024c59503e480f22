"""One small valid file of every variant of every format that is read, from the tests of each."""

import importlib
from functools import partial
from pathlib import Path

from tests.worker.ingest.ingest_examples import (
    ExampleFile,
    example_recording,
    write_hdf5,
    write_lfads_hdf5,
    write_npz,
)


def _collected() -> list[ExampleFile]:
    recording = example_recording()
    found = [
        ExampleFile("npz", partial(write_npz, recording=recording), recording.spikes),
        ExampleFile("hdf5", partial(write_hdf5, recording=recording), recording.spikes),
        ExampleFile("lfads_hdf5", partial(write_lfads_hdf5, recording=recording), recording.spikes),
    ]
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if "\nEXAMPLE_FILES" in path.read_text():
            found += importlib.import_module(f"tests.worker.ingest.{path.stem}").EXAMPLE_FILES
    return found


EXAMPLE_FILES: list[ExampleFile] = _collected()
