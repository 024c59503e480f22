"""The best weights of a model, read from its checkpoint block by block: the API has no torch.

A checkpoint is one safetensors file with the weights of the last epoch, those of the best epoch, and the optimizer's moments
(`models.model_state`). Only the tensors `best.…` are read, by ranges.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.store import RangeByteRequest, Store

from store.array_store import read_object

_BEST = "best."
_BLOCK_BYTES = 8 * 2**20


@dataclass(frozen=True)
class StoredWeights:
    """Where the best weights lie.

    Attributes
    ----------
    store, key
        Store and key of the checkpoint.
    epoch
        Epoch of the best weights.
    header
        Header of a safetensors file of these weights alone, with its length in front.
    places
        First byte and end of each tensor in the checkpoint, in the order of the file.
    """

    store: Store
    key: str
    epoch: int
    header: bytes
    places: list[tuple[int, int]]

    @property
    def size_bytes(self) -> int:
        """Return the size of the file."""
        return len(self.header) + sum(end - begin for begin, end in self.places)

    def blocks(self) -> Iterator[bytes]:
        """Yield the file."""
        yield self.header
        for begin, end in self.places:
            for start in range(begin, end, _BLOCK_BYTES):
                yield _read(self.store, self.key, start, min(start + _BLOCK_BYTES, end))

    def values(self, *prefixes: str) -> dict[str, NDArray[np.float64]]:
        """Read the tensors whose names begin with one of the prefixes."""
        described: dict[str, Any] = json.loads(self.header[8:])
        names = [name for name in described if name != "__metadata__"]
        found = {}
        for name, (begin, end) in zip(names, self.places, strict=True):
            if name.startswith(prefixes):
                flat = np.frombuffer(_read(self.store, self.key, begin, end), "<f4")
                found[name] = flat.reshape(described[name]["shape"]).astype(np.float64)
        return found


def find_weights(store: Store, key: str, metadata: dict[str, str]) -> StoredWeights | None:
    """Return the best weights in a checkpoint; None if it no longer exists.

    Parameters
    ----------
    store, key
        Store and key of the checkpoint.
    metadata
        Written into the header of the file, to identify it.
    """
    length = read_object(store, key, RangeByteRequest(0, 8))
    if length is None:
        return None
    start = 8 + int.from_bytes(length, "little")
    stored: dict[str, Any] = json.loads(_read(store, key, 8, start))
    kept = {name.removeprefix(_BEST): one for name, one in stored.items() if name.startswith(_BEST)}
    described: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    places, offset = [], 0
    for name in sorted(kept):
        begin, end = kept[name]["data_offsets"]
        described[name] = {**kept[name], "data_offsets": [offset, offset + end - begin]}
        places.append((start + begin, start + end))
        offset += end - begin
    text = json.dumps(described, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    epoch_begin, epoch_end = stored["best_epoch"]["data_offsets"]
    epoch = int.from_bytes(_read(store, key, start + epoch_begin, start + epoch_end), "little")
    return StoredWeights(store, key, epoch, len(text).to_bytes(8, "little") + text, places)


def _read(store: Store, key: str, begin: int, end: int) -> bytes:
    value = read_object(store, key, RangeByteRequest(begin, end))
    if value is None or len(value) != end - begin:
        raise FileNotFoundError(f"the checkpoint {key} ends before byte {end}, or is gone")
    return value
