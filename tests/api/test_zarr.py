"""The Zarr group over HTTP: objects, ranges, tricks with paths, and xarray as users call it."""

import threading
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr
from fastapi.testclient import TestClient

from api.arrays.responses import Conditions, parse_range
from api.arrays.zarr_routes import zarr_object
from api.errors import NotFound, RangeNotSatisfiable
from api.http.http_cache import CACHE
from store.array_store import open_array_store, read_object, write_object
from store.database import Database
from tests.api.api_examples import PROBLEM, Example, call, example_arrays, write_arrays

ARRAYS = example_arrays()


def url(example: Example, key: str) -> str:
    return f"/v1/models/{example.model_id}/zarr/{key}"


CHUNK = "rates/c/0/0/0"


def test_objects_are_those_of_the_store(reader: TestClient, example: Example) -> None:
    for key, media_type in (("zarr.json", "application/json"), (CHUNK, "application/octet-stream")):
        stored = read_object(example.arrays, f"groups/a/{key}")
        answer = reader.get(url(example, key))
        assert (answer.status_code, answer.content) == (200, stored)
        assert answer.headers["content-type"] == media_type
        assert answer.headers["Accept-Ranges"] == "bytes"
        head = reader.head(url(example, key))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == str(len(stored or b""))
        assert head.headers["ETag"] == answer.headers["ETag"]
        again = reader.get(url(example, key), headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_ranges(reader: TestClient, example: Example) -> None:
    whole = reader.get(url(example, CHUNK)).content
    size = len(whole)
    assert size > 1000
    cases = {
        "bytes=0-0": (0, 1),
        "bytes=10-99": (10, 100),
        "bytes=10-": (10, size),
        "bytes=-7": (size - 7, size),
        f"bytes=-{size + 5}": (0, size),
        f"bytes=5-{size + 500}": (5, size),
        f"bytes={size - 1}-": (size - 1, size),
    }
    for header, (start, end) in cases.items():
        answer = reader.get(url(example, CHUNK), headers={"Range": header})
        assert (answer.status_code, answer.content) == (206, whole[start:end]), header
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert answer.headers["Content-Length"] == str(end - start)
    for header in (f"bytes={size}-", f"bytes={size + 5}-{size + 9}", "bytes=-0"):
        answer = reader.get(url(example, CHUNK), headers={"Range": header})
        assert (answer.status_code, answer.headers["content-type"]) == (416, PROBLEM)
        assert answer.headers["Content-Range"] == f"bytes */{size}"
    # what can't be read as one range is answered whole, as HTTP has it
    for header in (
        "bytes=5-2",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-1,4-5",
        "rows=0-1",
        "bytes=" + "9" * 5000 + "-",
        "",
    ):
        answer = reader.get(url(example, CHUNK), headers={"Range": header})
        assert (answer.status_code, answer.content) == (200, whole), header


def test_a_range_holds_of_what_one_has_only(reader: TestClient, example: Example) -> None:
    whole = reader.get(url(example, CHUNK))
    some = {"Range": "bytes=0-9"}
    held = reader.get(url(example, CHUNK), headers=some | {"If-Range": whole.headers["ETag"]})
    assert (held.status_code, held.content) == (206, whole.content[:10])
    for other in ('"other"', f"W/{whole.headers['ETag']}", "Wed, 21 Oct 2026 07:28:00 GMT"):
        answer = reader.get(url(example, CHUNK), headers=some | {"If-Range": other})
        assert (answer.status_code, answer.content) == (200, whole.content)


def test_ranges_of_every_size() -> None:
    for size in range(1, 6):
        content = bytes(range(size))
        for first in range(7):
            for last in range(first, 7):
                if first >= size:
                    with pytest.raises(RangeNotSatisfiable):
                        parse_range(f"bytes={first}-{last}", size)
                    continue
                found = parse_range(f"bytes={first}-{last}", size)
                assert found is not None
                assert content[found.start : found.end] == content[first : last + 1]


TRICKS = [
    "",
    "/",
    "nothing",
    "rates",
    "rates/",
    "rates//zarr.json",
    "/zarr.json",
    "./zarr.json",
    "../a/zarr.json",
    "../b/zarr.json",
    "rates/../zarr.json",
    "rates/../../b/zarr.json",
    "..",
    "../../groups/b/zarr.json",
    "rates\\zarr.json",
    "zarr.json\x00",
    "\x00",
    ".hidden",
    "x" * 300,
    "x/" * 2000,
]


@pytest.mark.parametrize("key", TRICKS)
def test_keys_outside_the_group_are_not_found(example: Example, key: str) -> None:
    # As a server hands it on, with every %2F and %2E decoded.
    answer = call(example.app, "GET", url(example, key), [], {})
    assert (answer.status, answer.headers["content-type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    "key", ["..%2Fb%2Fzarr.json", "%2e%2e/b/zarr.json", "rates%2F..%2Fzarr.json", "%2Fetc%2Fpasswd"]
)
def test_encoded_tricks_are_not_found(reader: TestClient, example: Example, key: str) -> None:
    assert reader.get(url(example, key)).status_code == 404


@pytest.mark.parametrize("key", TRICKS)
def test_keys_outside_the_group_of_files_are_not_found(
    tmp_path: Path, sqlite_database: Database, key: str
) -> None:
    store = open_array_store(f"file://{tmp_path}/arrays", sqlite_database)
    for group in ("a", "b"):
        write_object(store, f"groups/{group}/zarr.json", b"{}")
        write_object(store, f"groups/{group}/rates/zarr.json", b"{}")
    write_object(store, "groups/a/.hidden", b"x")
    assert zarr_object(store, "groups/a/rates/zarr.json", CACHE, Conditions(None, None)).body == b"{}"
    with pytest.raises(NotFound):
        zarr_object(store, f"groups/a/{key}", CACHE, Conditions(None, None))


@pytest.mark.parametrize("owner", ["models/{0.model_id}", "datasets/{0.dataset_id}"])
def test_xarray_opens_the_url(example_url: str, example: Example, owner: str) -> None:
    with xarray.open_zarr(f"{example_url}/v1/{owner.format(example)}/zarr") as found:
        assert sorted(map(str, found.variables)) == sorted(ARRAYS)
        for name, expected in ARRAYS.items():
            np.testing.assert_array_equal(found[name].values, expected)
        rates = found["rates"]
        assert rates.dims == ("trial", "time_s", "neuron")
        assert rates.attrs["units"] == "spikes/s"
        # time_s is a coordinate: a window in seconds
        window = rates.sel(time_s=slice(0.1, 0.2)).isel(trial=slice(60, 200, 7))
        np.testing.assert_array_equal(window.values, ARRAYS["rates"][60:200:7, 5:11])
        np.testing.assert_allclose(window.time_s.values, np.arange(5, 11) * 0.02)


def test_zarr_opens_the_url(example_url: str, example: Example) -> None:
    group = zarr.open_group(f"{example_url}/v1/models/{example.model_id}/zarr", mode="r")
    np.testing.assert_array_equal(group["factors"][1:3], ARRAYS["factors"][1:3])


def test_many_readers_at_once(reader: TestClient, example: Example) -> None:
    wrong: list[str] = []

    def read(trial: int) -> None:
        answer = reader.get(f"/v1/models/{example.model_id}/arrays/rates?slice={trial},:,0&format=json")
        if answer.status_code != 200 or answer.json()["values"] != ARRAYS["rates"][trial, :, 0].tolist():
            wrong.append(answer.text)

    threads = [threading.Thread(target=read, args=(trial,)) for trial in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_files_serve_as_rows_do(tmp_path: Path, sqlite_database: Database, example: Example) -> None:
    store = open_array_store(f"file://{tmp_path}/arrays", sqlite_database)
    write_arrays(store, "groups/a")
    for key in ("zarr.json", "rates/zarr.json", CHUNK):
        answer = zarr_object(store, f"groups/a/{key}", CACHE, Conditions(None, None, "bytes=3-9"))
        stored = read_object(example.arrays, f"groups/a/{key}") or b""
        assert (answer.status_code, answer.body) == (206, stored[3:10])
