"""The whole corpus of hostile files: for the tests the cheap ones, for `tests.hostility.run` all."""

from itertools import chain

from tests.worker.ingest.hostile_archives import archive_corpus
from tests.worker.ingest.hostile_file import Canary, Corpus, HostileFile, betrays, make_canary
from tests.worker.ingest.hostile_hdf5 import hdf5_corpus
from tests.worker.ingest.hostile_matlab import matlab_corpus
from tests.worker.ingest.hostile_others import other_corpus
from tests.worker.ingest.hostile_tables import table_corpus

__all__ = ["Canary", "HostileFile", "betrays", "corpus", "make_canary"]


def corpus() -> Corpus:
    """Every hostile file, always in the same order."""
    return chain(hdf5_corpus(), archive_corpus(), matlab_corpus(), table_corpus(), other_corpus())
