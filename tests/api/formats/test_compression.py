"""Answers on their way: which are compressed and how, and what that does to tags and sizes."""

import gzip
import io
import zlib

import numpy as np
import pytest
import zstandard
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from api.arrays.formats import FORMATS
from api.arrays.responses import choose_coding, compressed
from tests.api.api_examples import Example, example_arrays

ARRAYS = example_arrays()


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("br", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("GZIP;q=0.5", "gzip"),
        ("zstd;q=0.2, gzip;q=0.8", "gzip"),
        ("zstd;q=0, gzip", "gzip"),
        ("gzip;q=0", None),
        ("*", "zstd"),
        ("*;q=0", None),
        ("*, zstd;q=0", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("gzip;q=2", None),
        ("é;;,", None),
    ],
)
def test_coding_by_accept_encoding(accept_encoding: str | None, expected: str | None) -> None:
    assert choose_coding(accept_encoding) == expected


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_what_is_compressed_comes_back(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert gzip.decompress(b"".join(compressed(iter(pieces), "gzip"))) == whole
    made = b"".join(compressed(iter(pieces), "zstd"))
    assert zstandard.ZstdDecompressor().decompressobj().decompress(made) == whole


def test_pieces_are_not_held_back() -> None:
    taken = []

    def pieces() -> object:
        for number in range(100):
            taken.append(number)
            yield np.random.default_rng(number).bytes(2**16)

    first = next(compressed(pieces(), "gzip"))  # type: ignore[arg-type]
    assert first
    assert len(taken) < 10


def url(example: Example, query: str) -> str:
    return f"/v1/models/{example.model_id}/arrays/{query}"


@pytest.mark.parametrize(
    ("query", "coding"),
    [
        ("rates?slice=0&format=json", "gzip"),
        ("rates?format=csv", "gzip"),
        ("rates?slice=0", None),  # the noise in floating-point numbers does not shrink
        ("rates?format=parquet", None),
        ("rates?format=npz", None),
        ("spikes", None),  # too small to gain
    ],
)
def test_what_pays_is_compressed(
    reader: TestClient, example: Example, query: str, coding: str | None
) -> None:
    plain = reader.get(url(example, query), headers={"Accept-Encoding": "identity"})
    packed = reader.get(url(example, query), headers={"Accept-Encoding": "gzip"})
    assert "Content-Encoding" not in plain.headers
    assert packed.headers.get("Content-Encoding") == coding
    assert packed.content == plain.content
    assert plain.headers["Vary"] == packed.headers["Vary"] == "Accept, Accept-Encoding"
    # A strong tag is of the very bytes that are sent.
    assert (plain.headers["ETag"] == packed.headers["ETag"]) == (coding is None)
    for answer, accepted in ((plain, "identity"), (packed, "gzip")):
        again = reader.get(
            url(example, query),
            headers={"Accept-Encoding": accepted, "If-None-Match": answer.headers["ETag"]},
        )
        assert again.status_code == 304


def test_the_bytes_on_the_wire_are_gzip(reader: TestClient, example: Example) -> None:
    with reader.stream(
        "GET", url(example, "rates?format=csv"), headers={"Accept-Encoding": "gzip"}
    ) as answer:
        raw = b"".join(answer.iter_raw())
    text = zlib.decompress(raw, 16 + zlib.MAX_WBITS)
    assert text.startswith(b'"trial","time_s","neuron_0"')
    assert len(raw) < len(text) / 2


@pytest.mark.parametrize("chosen", FORMATS, ids=lambda one: one.name)
def test_each_format_by_name_and_by_accept(reader: TestClient, example: Example, chosen: object) -> None:
    by_name = reader.get(url(example, f"factors?format={chosen.name}"))  # type: ignore[attr-defined]
    by_type = reader.get(url(example, "factors"), headers={"Accept": chosen.media_type})  # type: ignore[attr-defined]
    assert (by_name.status_code, by_type.status_code) == (200, 200)
    assert by_name.headers["ETag"] == by_type.headers["ETag"]
    assert by_name.headers["content-type"].split(";")[0] == chosen.media_type  # type: ignore[attr-defined]
    if chosen.is_reproducible:  # type: ignore[attr-defined]
        assert by_name.content == by_type.content


def test_an_array_of_every_kind_in_every_format(reader: TestClient, example: Example) -> None:
    for name in ARRAYS:
        for one in FORMATS:
            answer = reader.get(url(example, f"{name}?format={one.name}"))
            is_too_large = one.name == "json" and ARRAYS[name].size > 1000
            assert answer.status_code == (422 if is_too_large else 200), (name, one.name, answer.text[:300])
    values = np.load(io.BytesIO(reader.get(url(example, "rates?format=npz")).content))["rates"]
    np.testing.assert_array_equal(values, ARRAYS["rates"])
