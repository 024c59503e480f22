"""Hostile files of no format in particular, lying headers of recording systems, and hostile options of the request."""

import pickle
import struct
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np

from domain.dataset_options import FileFormat
from tests.worker.ingest.hostile_archives import archive, npz_members, phy_members, pickled
from tests.worker.ingest.hostile_file import Canary, Corpus, HostileFile
from tests.worker.ingest.hostile_hdf5 import lfads, matlab73, nlb, nwb, plain
from tests.worker.ingest.hostile_tables import LONG, TIMES, written

GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "one_byte": b"\x00",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "random": np.random.default_rng(1).bytes(4096),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "xml_entities": b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
    "html": b"<html><body onload=alert(1)><meta http-equiv=refresh content=0></body></html>",
    "elf": b"\x7fELF\x02\x01\x01" + bytes(200),
    "script": b"#!/bin/sh\ntouch /tmp/sprung\n",
    "pickle": pickle.dumps({"spikes": [1, 2, 3]}),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(60),
    "json": b'{"__proto__": {"admin": true}, "spikes": [[[1, 2]]]}',
    "npy": b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (3,), }".ljust(128)
    + b"\x80\x04.",
    "zip_end_alone": b"PK\x05\x06" + bytes(18),
    "hdf5_signature_alone": b"\x89HDF\r\n\x1a\n",
    "hdf5_signature_late": bytes(512) + b"\x89HDF\r\n\x1a\n" + b"\xff" * 300,
    "parquet_magic": b"PAR1" * 20,
    "two_formats": b"neuron,time_s\n1,0.5\n" + b"\x89HDF\r\n\x1a\nPK\x03\x04PAR1",
}
MAGICS: dict[str, bytes] = {
    "blackrock": b"NEURALEV", "blackrock_3": b"BREVENTS", "blackrock_continuous": b"NEURALCD", "plexon": b"PLEX",
    "neuroexplorer": b"NEX1", "neuroexplorer_5": b"NEX5", "neuralynx": b"######## Neuralynx Data File Header",
    "spike2": b"\x06\x00(C) CED 87", "axon": b"ABF2", "axon_1": b"ABF ", "elan": b"V3\n", "micromed": b"* MICROMED",
    "alphaomega": b"ALAP", "intan": struct.pack("<I", 0xC6912702), "intan_stim": struct.pack("<I", 0xD69127AC),
    "edf": b"0       ", "brainvision": b"Brain Vision Data Exchange Header File Version 1.0\n", "winedr": b"VER=6.4\n",
    "tdt": b"\x00TSQ", "openephys": b"header.format = 'Open Ephys Data Format';", "plexon2": b"PL2\x00",
    "igor": b"\x00\x05", "nestio": b"# NEST\n",
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "mapping_path": {"mapping": {"spikes": "../../etc/passwd", "spike_times": "/etc/passwd", "trials": "file:///etc/passwd"}},
    "mapping_pattern": {"mapping": {"spikes": "(a+)+$", "neuron": ".*", "time": "[", "trials": "\\"}},
    "mapping_long": {"mapping": {"spikes": "/" * 300, "behaviour": ["x" * 300] * 500}},
    "mapping_control": {"mapping": {"spikes": "\u202e\n\x1b[31m<script>", "trial": "__proto__", "neuron": "__class__"}},
    "mapping_to_itself": {"mapping": {"spikes": "spikes", "behaviour": ["spikes"], "split": "spikes", "bin_width": "spikes"}},
    "mapping_root": {"mapping": {"spikes": "/", "trials": ".", "spike_times": ".."}},
    "axes_backward": {"mapping": {"axes": ["neuron", "bin", "trial"]}},
    "axes_two": {"mapping": {"axes": ["bin", "neuron"]}},
    "bin_width_tiny": {"bin_width_s": 1e-6},
    "bin_width_giant": {"bin_width_s": 1e6},
    "rebin_giant": {"rebin_s": 1e6},
    "rebin_tiny": {"rebin_s": 1e-6},
    "rebin_far": {"rebin_s": 0.01 * 2**26},
    "window_giant": {"trials": {"window_s": [-1e308, 1e308]}},
    "window_far": {"trials": {"window_s": [1e307, 1e308]}},
    "window_wide": {"trials": {"window_s": [-1e6, 1e6]}},
    "window_tiny": {"trials": {"window_s": [0.0, 5e-324]}},
    "align_to_path": {"trials": {"align_to": "../../etc/passwd"}},
    "where_pattern": {"trials": {"where": {"(a+)+$": "aaaa", "outcome": ["x" * 1000] * 1000}}},
    "where_range": {"trials": {"where": {"outcome": {"min": -1e308, "max": 1e308}, "start_time": {"min": 1e300}}}},
    "where_types": {"trials": {"where": {"outcome": [1, "1", True, 1.0, 10**30]}}, "neurons": {"where": {"id": 2**70}}},
    "rate_giant": {"neurons": {"minimum_rate_hz": 1e308}},
    "chop_tiny": {"chop": {"window_s": 1e-6, "overlap_s": 0.0}},
    "chop_giant": {"chop": {"window_s": 1e6, "overlap_s": 4e5}},
    "chop_one_bin": {"chop": {"window_s": 0.01, "overlap_s": 0.005}, "bin_width_s": 0.01},
    "chop_tiny_bins": {"chop": {"window_s": 1e-5, "overlap_s": 0.0}, "bin_width_s": 1e-5},
    "rate_of_samples_tiny": {"time_unit": "samples", "sampling_rate_hz": 5e-324},
    "rate_of_samples_giant": {"time_unit": "samples", "sampling_rate_hz": 1e9},
    "microseconds": {"time_unit": "us"},
    "split_condition": {"split": {"kind": "condition", "condition": "../../etc/passwd"}},
    "split_time": {"split": {"kind": "time", "valid_fraction": 1e-300, "test_fraction": 0.999999}},
    "split_all": {"split": {"kind": "trial", "valid_fraction": 0.9999999999999999}},
    "expanded_none": {"max_expanded_bytes": 0},
    "expanded_negative": {"max_expanded_bytes": -1},
}  # fmt: skip


def valid_files() -> dict[str, Any]:
    """A valid file of each kind, by format, to be asked for with hostile options."""
    return {
        "npz": partial(archive, npz_members()),
        "phy": partial(archive, phy_members()),
        "lfads_hdf5": lambda path, _: lfads(path),
        "hdf5": lambda path, _: plain(path),
        "nwb": lambda path, _: nwb(path),
        "matlab": lambda path, _: matlab73(path),
        "nlb_hdf5": lambda path, _: nlb(path),
        "csv": partial(written, TIMES),
    }


def bare_pickle(path: Path, canary: Canary) -> None:
    """A pickle that makes the trap file when it is loaded."""
    pickled("spikes.npy", dict, path, canary)
    path.write_bytes(path.read_bytes()[30:])


def lying(magic: bytes, filler: bytes, path: Path, _: Canary) -> None:
    """A recording system's magic, and nothing true after it."""
    path.write_bytes((magic + filler * 20_000)[:20_000])


def other_corpus() -> Corpus:
    """Garbage under every format, lying headers, options."""
    formats: tuple[str, ...] = get_args(FileFormat)
    for name, content in GARBAGE.items():
        yield HostileFile(f"garbage:{name}", "none", partial(written, content))
        for one in formats:
            yield HostileFile(
                f"garbage:{name}:as_{one}", one, partial(written, content), options={"format": one}
            )
    valid = valid_files()
    for name, make in valid.items():
        for one in formats:
            if one != name:
                yield HostileFile(f"{name}:as_{one}", one, make, options={"format": one})
    for name, magic in MAGICS.items():
        for filler in (b"\x00", b"\xff", b"\x01\x00\x00\x7f", b"9", np.random.default_rng(2).bytes(1000)):
            yield HostileFile(
                f"neo:{name}:{filler[:4].hex()}",
                "neo",
                partial(lying, magic, filler),
                options={"format": "neo"},
            )
    for title, options in OPTIONS.items():
        for name, make in valid.items():
            yield HostileFile(f"options:{title}:{name}", name, make, options=options)
        counts = partial(written, LONG)
        yield HostileFile(f"options:{title}:csv_counts", "csv", counts, options={"format": "csv", **options})
    for one in formats:
        yield HostileFile(f"pickle:as_{one}", one, bare_pickle, options={"format": one})
