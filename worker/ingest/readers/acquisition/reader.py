"""Files of acquisition systems: spikes by channel and unit, and events; no continuous signals. See docs/file-formats.md."""

from pathlib import Path

from worker.ingest.readers.acquisition import blackrock_nev, neo_rawio, neuroexplorer_nex, plexon_plx
from worker.ingest.readers.acquisition.neuralynx_zip import read_neuralynx, recognises_neuralynx
from worker.ingest.readers.acquisition.sorted_units import refuse_mapping_of_arrays
from worker.ingest.readers.base import ReadOptions
from worker.ingest.spike_trains import SpikeTrains

_READ = {
    "Blackrock NEV": blackrock_nev.read_nev,
    "Plexon PLX": plexon_plx.read_plx,
    "NeuroExplorer NEX": neuroexplorer_nex.read_nex,
    "Spike2 SMR": neo_rawio.read_smr,
    "Neuralynx": read_neuralynx,
}


class NeoReader:
    """Reads files of acquisition systems."""

    format = "neo"

    def recognises(self, path: Path) -> bool:
        """Return whether the file begins as one of these formats does, or is a ZIP archive with spikes of Neuralynx."""
        return _system(path) is not None

    def read(self, path: Path, options: ReadOptions) -> SpikeTrains:
        """Read `path`."""
        system = _system(path)
        if system is None:
            raise ValueError("its first bytes are those of no known acquisition system")
        refuse_mapping_of_arrays(options, system)
        trains = _READ[system](path, options)
        trains.notes.insert(0, f"The file was read as {system}.")
        return trains


def _system(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(16)
    if start[:8] in blackrock_nev.MAGICS:
        return "Blackrock NEV"
    if start[:4] == plexon_plx.MAGIC:
        return "Plexon PLX"
    if start[:4] == neuroexplorer_nex.MAGIC:
        return "NeuroExplorer NEX"
    if start[2:12] == neo_rawio.SMR_MAGIC:
        return "Spike2 SMR"
    return "Neuralynx" if start[:2] == b"PK" and recognises_neuralynx(path) else None
