"""What every reader keeps, whatever its format, over one valid file of each of its variants."""

import contextlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from domain.dataset_options import FileFormat
from tests.worker.ingest.ingest_examples import ExampleFile
from tests.worker.ingest.reader_examples import EXAMPLE_FILES
from worker.ingest import rows
from worker.ingest.problems import RejectedFile
from worker.ingest.quality_control.checks import examine
from worker.ingest.read import read_recording
from worker.ingest.readers import READERS, ReadOptions
from worker.ingest.recording import Recording


def test_every_format_has_a_reader_and_an_example() -> None:
    assert set(get_args(FileFormat)) == set(READERS) == {example.format for example in EXAMPLE_FILES}


@pytest.mark.parametrize(
    "example",
    EXAMPLE_FILES,
    ids=[f"{number}-{example.format}" for number, example in enumerate(EXAMPLE_FILES)],
)
class TestEveryReader:
    """The contract."""

    @staticmethod
    def read(example: ExampleFile, path: Path, **changes: object) -> Recording:
        return read_recording(path, ReadOptions(**{**example.options, **changes}))

    def test_gives_the_counts_and_says_how_it_understood(self, example: ExampleFile, tmp_path: Path) -> None:
        found = self.read(example, example.write(tmp_path / "file"))
        np.testing.assert_array_equal(np.asarray(found.spikes), example.expected)
        assert found.source_format == example.format
        assert found.understood or found.notes
        assert all(problem.code and problem.message and problem.hint for problem in found.warnings)
        trials, bins, neurons = found.spikes.shape
        assert found.trial_length_bins.shape == found.split.shape == (trials,)
        assert all(len(values) == trials for values in found.trial_metadata.values())
        assert all(len(values) == neurons for values in found.neuron_metadata.values())
        assert all(array.shape[:2] == (trials, bins) for array in found.per_bin().values())

    def test_large_arrays_on_disk_give_the_same(
        self, example: ExampleFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(rows, "IN_MEMORY_BYTES", 64)
        monkeypatch.setattr(rows, "BLOCK_BYTES", 1000)
        found = self.read(example, example.write(tmp_path / "file"))
        np.testing.assert_array_equal(np.asarray(found.spikes), example.expected)

    def test_survives_saving_and_loading(self, example: ExampleFile, tmp_path: Path) -> None:
        found = self.read(example, example.write(tmp_path / "file"))
        total = examine(found).total_spikes
        found.save(tmp_path / "saved")
        loaded = Recording.load(tmp_path / "saved")
        np.testing.assert_array_equal(np.asarray(loaded.spikes), example.expected)
        assert examine(loaded).total_spikes == total == int(example.expected.sum())
        assert loaded.trial_metadata == found.trial_metadata
        assert loaded.neuron_metadata == found.neuron_metadata
        assert loaded.time_zero_s == found.time_zero_s

    def test_recognises_by_content_and_not_by_name(self, example: ExampleFile, tmp_path: Path) -> None:
        path = example.write(tmp_path / "file").rename(tmp_path / "odd.name")
        assert next(name for name, reader in READERS.items() if reader.recognises(path)) == example.format
        for name, content in {"text": b"nothing\nof note\n", "empty": b"", "byte": b"\x89"}.items():
            (tmp_path / name).write_bytes(content)
            assert not READERS[example.format].recognises(tmp_path / name)

    @pytest.mark.parametrize("role", ["spikes", "spike_times", "trials", "neuron", "behaviour"])
    def test_a_mapping_to_nothing_is_told(self, example: ExampleFile, role: str, tmp_path: Path) -> None:
        name: object = ["no such thing"] if role == "behaviour" else "no such thing"
        mapping = {**example.options.get("mapping", {}), role: name}
        path = example.write(tmp_path / "file")
        try:
            found = self.read(example, path, mapping=mapping)
        except RejectedFile as rejected:
            problem = rejected.problems[0]
            assert "no such thing" in problem.message
            assert problem.hint
            assert problem.pointer == f"/mapping/{role}"
        else:  # of no meaning for this format, and then it is told that it was not used
            assert any(
                problem.pointer == f"/mapping/{role}" or "no such thing" in problem.message
                for problem in found.warnings
            )

    @pytest.mark.parametrize(
        "share", [0.4, 0.99, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.05, 0.8))]
    )
    def test_a_truncated_file_is_refused_or_read(
        self, example: ExampleFile, share: float, tmp_path: Path
    ) -> None:
        path = example.write(tmp_path / "file")
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with contextlib.suppress(RejectedFile):
            assert isinstance(self.read(example, path), Recording)

    def test_refuses_more_bytes_than_allowed(self, example: ExampleFile, tmp_path: Path) -> None:
        with pytest.raises(RejectedFile) as caught:
            self.read(example, example.write(tmp_path / "file"), max_expanded_bytes=100)
        assert caught.value.problems[0].code == "file_too_large_expanded"
