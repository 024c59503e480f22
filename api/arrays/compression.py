"""Compression of answers on their way, as `Accept-Encoding` allows: zstd where it is accepted, else gzip."""

import re
import zlib
from collections.abc import Iterator

import zstandard

_LEVEL = 1
"""Of both: higher ones take several times as long for a tenth less; docs/formats.md has the figures."""
_GZIP = 16 + zlib.MAX_WBITS
LEAST_BYTES = 1024
"""What is smaller is one packet either way."""

_ITEM = re.compile(r"\s*([\w*-]+)\s*(?:;\s*q=([01](?:\.[0-9]{0,3})?)\s*)?")


def choose_coding(accept_encoding: str | None) -> str | None:
    """`zstd`, `gzip`, or None for bytes as they are: what a client prefers, and zstd of what it likes as well."""
    accepted = {}
    for item in (accept_encoding or "").lower().split(","):
        if match := _ITEM.fullmatch(item):
            accepted[match[1]] = float(match[2] or 1)
    weights = {coding: accepted.get(coding, accepted.get("*", 0.0)) for coding in ("zstd", "gzip")}
    best = max(weights, key=lambda coding: weights[coding])
    return best if weights[best] > 0 and weights[best] >= accepted.get("identity", 0.0) else None


def compressed(pieces: Iterator[bytes], coding: str) -> Iterator[bytes]:
    """The same bytes, compressed as they come."""
    made = zstandard.ZstdCompressor(_LEVEL).compressobj() if coding == "zstd" else zlib.compressobj(
        _LEVEL, wbits=_GZIP
    )  # fmt: skip
    for piece in pieces:
        if part := made.compress(piece):
            yield part
    yield made.flush()
