"""Synthetic systems as files: what the API takes is what the systems take, and the files are read whole."""

import inspect
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import BaseModel

from api.datasets.schemas import SyntheticSystem
from worker.ingest import synthesize
from worker.ingest.quality_control.checks import examine
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.recording import SPLIT_VALID, Recording

SCHEMAS: dict[str, type[BaseModel]] = {
    get_args(schema.model_fields["system"].annotation)[0]: schema for schema in get_args(SyntheticSystem)
}
FEW = {"conditions": 4, "trials_per_condition": 5, "bins": 30, "neurons": 12, "seed": 3}


def synthesized(path: Path, system: str, **parameters: Any) -> Recording:
    """A recording from the file that the program writes."""
    synthesize.main([system, str(path), *(f"{name}={value}" for name, value in parameters.items())])
    return read_recording(path, ReadOptions(format="npz", bin_width_s=None))


def test_every_system_is_offered() -> None:
    assert set(SCHEMAS) == set(synthesize.SYSTEMS)


@pytest.mark.parametrize("system", SCHEMAS)
def test_a_system_and_its_request_have_the_same_parameters_and_defaults(system: str) -> None:
    offered = SCHEMAS[system](system=system).model_dump(exclude={"system", "name", "notes", "tags"})
    taken = inspect.signature(synthesize.SYSTEMS[system]).parameters
    assert offered == {name: parameter.default for name, parameter in taken.items()}


@pytest.mark.parametrize("system", SCHEMAS)
def test_its_file_is_read_without_a_warning(system: str, tmp_path: Path) -> None:
    made = synthesize.SYSTEMS[system](**FEW)
    recording = synthesized(tmp_path / "made.npz", system, **FEW, bin_width_s=0.01)
    report = examine(recording)
    assert report.warnings == []
    assert report.bin_width_s == 0.01
    assert np.array_equal(recording.spikes, made.spikes)
    assert recording.true_rates_hz is not None
    assert np.array_equal(recording.true_rates_hz, made.true_rates_hz)
    assert np.array_equal(recording.behaviour["true_latents"], made.latents)
    assert np.array_equal(recording.split == SPLIT_VALID, made.is_validation)
    assert recording.trial_metadata["condition"] == made.condition.tolist()
    # A model that were given the inputs would have none to infer.
    assert recording.external_inputs is None


def test_true_inputs_of_a_driven_system_are_kept(tmp_path: Path) -> None:
    made = synthesize.SYSTEMS["driven"](**FEW, inputs=2, pulse=12.5)
    recording = synthesized(tmp_path / "made.npz", "driven", **FEW, inputs=2, pulse=12.5)
    assert recording.behaviour["true_inputs"].shape == (20, 30, 2)
    assert made.inputs is not None
    assert np.array_equal(recording.behaviour["true_inputs"], made.inputs)
    assert np.abs(recording.behaviour["true_inputs"]).max() == 12.5
    assert "true_inputs" not in synthesized(tmp_path / "other.npz", "chaotic_rnn", **FEW).behaviour


def test_both_sessions_have_the_latents_of_their_conditions(tmp_path: Path) -> None:
    sizes = {**FEW, "neurons": 12}, {**FEW, "neurons": 7}
    first, second = (
        synthesized(tmp_path / f"{session}.npz", "two_sessions", session=session, **sizes[session])
        for session in range(2)
    )
    assert (first.spikes.shape[2], second.spikes.shape[2]) == (12, 7)
    assert first.trial_metadata == second.trial_metadata
    assert np.array_equal(first.behaviour["true_latents"], second.behaviour["true_latents"])
