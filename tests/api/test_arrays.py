"""Arrays: the slice grammar against NumPy's indexing, npy and JSON, entity tags, formats."""

import io
from typing import Any
from unittest.mock import patch

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from latentry import Client
from latentry.errors import LatentryError
from numpy.typing import NDArray

from api.arrays.formats import FORMATS
from api.arrays.grammar import parse_slice
from api.arrays.groups import ArrayGroup, ReadContext
from api.arrays.labelled import LabelledArray
from api.arrays.query import ArrayQuery, cache_key
from api.arrays.responses import Conditions, coding_of
from api.errors import Invalid, Problem
from api.http.http_cache import CACHE
from api.models.service import find_latents
from store.array_store import SqlArrayStore
from store.tables import DEFAULT_TENANT
from tests.api.api_examples import OTHER_TENANT, PROBLEM, Example, example_arrays

ARRAYS = example_arrays()


def url(example: Example, name: str) -> str:
    return f"/v1/models/{example.model_id}/arrays/{name}"


def load(content: bytes) -> NDArray[Any]:
    values: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return values


@st.composite
def sliced(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[str, tuple[int | slice, ...]]:
    """A slice as text and as NumPy takes it, both for some or all axes."""
    text, index = [], []
    for size in shape[: draw(st.integers(0, len(shape)))]:
        if size and draw(st.booleans()) and draw(st.booleans()):
            entry = draw(st.integers(-size, size - 1))
            text.append(str(entry))
            index.append(entry)
            continue
        bound = st.none() | st.integers(-size - 3, size + 3)
        start, stop, step = draw(bound), draw(bound), draw(st.none() | st.integers(1, size + 3))
        shown = [("" if part is None else str(part)) for part in (start, stop)]
        has_step = step is not None or draw(st.booleans())
        text.append(":".join([*shown, "" if step is None else str(step)] if has_step else shown))
        index.append(slice(start, stop, step))
    return draw(st.sampled_from([",", " , "])).join(text), tuple(index)


@pytest.mark.parametrize("name", list(ARRAYS))
def test_slices_are_numpy_s(reader: TestClient, example: Example, name: str) -> None:
    whole = ARRAYS[name]

    @given(sliced(whole.shape))
    @hypothesis_settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(case: tuple[str, tuple[int | slice, ...]]) -> None:
        text, index = case
        expected = np.asarray(whole[index])
        answer = reader.get(url(example, name), params={"slice": text})
        assert answer.status_code == 200, answer.text
        found = load(answer.content)
        np.testing.assert_array_equal(found, expected, strict=True)
        assert int(answer.headers["Content-Length"]) == len(answer.content)
        if expected.size <= 1000:
            document = reader.get(url(example, name), params={"slice": text, "format": "json"}).json()
            values = np.array(document["values"], dtype=object).reshape(expected.shape)
            finite = np.isfinite(expected.astype(float))
            assert values[finite].tolist() == expected[finite].tolist()
            assert all(value is None for value in values[~finite])
            assert (document["shape"], document["dtype"]) == (list(expected.shape), str(expected.dtype))
            assert len(document["dims"]) == expected.ndim

    check()


def test_whole_array_by_default(reader: TestClient, example: Example) -> None:
    for name, expected in ARRAYS.items():
        answer = reader.get(url(example, name))
        assert answer.headers["content-type"] == "application/octet-stream"
        assert f'filename="{name}.npy"' in answer.headers["content-disposition"]
        np.testing.assert_array_equal(load(answer.content), expected, strict=True)


def test_an_integer_drops_its_axis(reader: TestClient, example: Example) -> None:
    answer = reader.get(url(example, "rates") + "?slice=1,-3:,0&format=json").json()
    assert (answer["dims"], answer["shape"], answer["units"]) == (["time_s"], [3], "spikes/s")
    assert answer["values"] == ARRAYS["rates"][1, -3:, 0].tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0,0,0,0", "4 parts were given for an array of 3 axes of sizes [6, 5, 3]"),
        ("6", "index 6 is outside axis 0 of size 6"),
        (":,-6", "index -6 is outside axis 1 of size 5"),
        ("::0", "the step of axis 0 is 0; expected 1 or more"),
        ("::-1", "got '::-1'"),
        ("a", "expected an integer or start:stop:step for axis 0; got 'a'"),
        ("1,", "for axis 1; got ''"),
        ("1:2:3:4", "got '1:2:3:4'"),
        ("1.5", "got '1.5'"),
        ("...", "got '...'"),
        ("0:5]", "got '0:5]'"),
        ("٣", "got '٣'"),
        ("9" * 20, "got '9999"),
    ],
)
def test_bad_slice_is_refused(reader: TestClient, example: Example, text: str, says: str) -> None:
    answer = reader.get(url(example, "factors"), params={"slice": text})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    [field] = answer.json()["errors"]
    assert field["pointer"] == "slice"
    assert says in field["message"]
    assert "?slice=0:5,::2,3" in answer.json()["hint"]


def test_text_that_is_too_long_is_refused(reader: TestClient, example: Example) -> None:
    assert reader.get(url(example, "factors"), params={"slice": " " * 401}).status_code == 422


@given(st.text(alphabet="0123456789:,- +._a٣", max_size=12))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parts = parse_slice(text, (4, 3))
    except Invalid:
        return
    # Python reads the same numbers in it
    index = tuple(
        slice(*(int(number) if number.strip() else None for number in part.split(":")))
        if ":" in part
        else int(part)
        for part in (text.split(",") if text else [])
    )
    values = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(values[parts], values[index])


def test_json_is_capped(reader: TestClient, example: Example) -> None:
    answer = reader.get(url(example, "rates"), params={"format": "json", "slice": "0,:,:"})
    assert answer.status_code == 200  # 50 × 20: the very cap
    answer = reader.get(url(example, "rates"), params={"format": "json", "slice": "0:2,:,:"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, PROBLEM)
    assert "2000 elements; JSON answers at most 1000" in answer.json()["detail"]
    assert "format=npy" in answer.json()["hint"]


def test_what_is_not_finite_is_null(reader: TestClient, example: Example) -> None:
    answer = reader.get(url(example, "factors"), params={"format": "json", "slice": "0,0:2"})
    assert answer.json()["values"] == [[None] * 3, ARRAYS["factors"][0, 1].tolist()]


def test_what_never_changes_is_kept_for_ever(reader: TestClient, example: Example) -> None:
    dataset = f"/v1/datasets/{example.dataset_id}"
    for path in ("arrays/factors", "zarr/zarr.json", "download?format=npz"):
        assert reader.get(f"{dataset}/{path}").headers["Cache-Control"] == CACHE


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_what_one_has_is_not_sent_again(reader: TestClient, example: Example, accept: str) -> None:
    headers = {"Accept": accept}
    path = url(example, "factors") + "?slice=0:2"
    first = reader.get(path, headers=headers)
    tag = first.headers["ETag"]
    assert tag.startswith('"')  # strong
    assert first.headers["Cache-Control"] == "private, no-cache"  # latents of a model may be replaced
    assert first.headers["Vary"] == "Accept, Accept-Encoding"
    for condition in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = reader.get(path, headers=headers | {"If-None-Match": condition})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert reader.get(path, headers=headers | {"If-None-Match": '"other"'}).content == first.content


def test_what_one_has_is_told_without_looking_at_arrays(reader: TestClient, example: Example) -> None:
    path = url(example, "rates") + "?slice=0:2&smooth_s=0.05"
    tag = reader.get(path).headers["ETag"]
    with patch("api.arrays.routes.query_array", side_effect=AssertionError):
        again = reader.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.headers["ETag"]) == (304, tag)
        assert reader.get(path, headers={"If-None-Match": '"other"'}).status_code == 500  # it would be asked
    # whoever knows no tag gets no 304 of what is not there
    assert reader.get(url(example, "rate"), headers={"If-None-Match": "*"}).status_code == 404


def test_tags_differ_where_answers_do(reader: TestClient, example: Example) -> None:
    queries = [
        ("rates", ""),
        ("rates", "?slice=0:1"),
        ("rates", "?slice=:1"),
        ("rates", "?trial=0"),
        ("rates", "?trial=0:1"),
        ("rates", "?time_s=0:0.1"),
        ("rates", "?where=condition:eq:1"),
        ("rates", "?where=condition:eq:1&where=condition:eq:1"),
        ("rates", "?smooth_s=0.05&trial=0"),
        ("rates", "?rebin_s=0.04&trial=0"),
        ("rates", "?format=json&slice=0"),
        ("factors", "?slice=0"),
        ("factors", ""),
        ("factors", "?format=json"),
        ("spikes", ""),
    ]
    tags = []
    for name, query in queries:
        answer = reader.get(url(example, name) + query)
        assert answer.status_code == 200, answer.text
        tags.append(answer.headers["ETag"])
    # a compressed answer is another representation
    tags += [
        reader.get(
            url(example, "rates") + "?format=json&slice=1", headers={"Accept-Encoding": coding}
        ).headers["ETag"]
        for coding in ("identity", "gzip", "zstd")
    ]
    assert len(set(tags)) == len(tags)


def test_a_rotation_s_tag_hangs_on_its_reference(example: Example) -> None:
    group = ArrayGroup("groups/a", example.dataset_id, "the model")
    query = ArrayQuery(slice="0", rotate_to=example.other_model_id, rotation="cca")
    with example.database.read() as session:
        around = ReadContext(session, example.arrays, OTHER_TENANT, group, find_latents)
        assert cache_key("rates", query, around)[:2] == ("groups/a", "rates")
        assert cache_key("rates", query, around)[3:] == ("groups/a",)  # where the reference lies
        with pytest.raises(Problem):
            cache_key(
                "rates", query, ReadContext(session, example.arrays, DEFAULT_TENANT, group, find_latents)
            )


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?slice=0:2,::5",
        "?format=json&slice=0,0:5,0:4",
        "?where=condition:eq:1",
        "?time_s=0:0.1&rebin_s=0.04",
    ],
)
def test_head_tells_what_get_tells(example_url: str, example: Example, query: str) -> None:
    path = f"{example_url}{url(example, 'rates')}{query}"
    whole, head = httpx.get(path), httpx.head(path)
    assert (head.status_code, head.content) == (200, b"")
    told = (
        "ETag",
        "Content-Length",
        "Content-Type",
        "Cache-Control",
        "Accept-Ranges",
        "Vary",
        "Content-Disposition",
    )
    assert {name: head.headers.get(name) for name in told} == {name: whole.headers.get(name) for name in told}
    assert int(head.headers["Content-Length"]) == len(whole.content)
    again = httpx.head(path, headers={"If-None-Match": head.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert httpx.head(f"{example_url}{url(example, 'rate')}").status_code == 404


RANGED = [
    *((name, "") for name in ARRAYS),
    ("rates", "?slice=3::9,::7"),
    ("rates", "?slice=250"),
    ("rates", "?slice=0:0"),
    ("rates", "?slice=1:90&rebin_s=0.04"),
    ("rates", "?where=condition:eq:1&slice=:,3,::2"),
]


KINDS = st.sampled_from(["first and last", "first", "last"])


@pytest.mark.parametrize(("name", "query"), RANGED)
def test_ranges_are_those_of_the_whole(reader: TestClient, example: Example, name: str, query: str) -> None:
    path = url(example, name) + query
    first = reader.get(path)
    whole, size = first.content, len(first.content)
    assert first.headers["Accept-Ranges"] == "bytes"

    @given(st.integers(0, size - 1), st.integers(0, 70_000) | st.integers(0, size), KINDS)
    @hypothesis_settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    def check(start: int, count: int, kind: str) -> None:
        header, start, end = {
            "first and last": (f"bytes={start}-{start + count}", start, min(size, start + count + 1)),
            "first": (f"bytes={start}-", start, size),
            "last": (f"bytes=-{count + 1}", max(0, size - count - 1), size),
        }[kind]
        answer = reader.get(path, headers={"Range": header, "If-Range": first.headers["ETag"]})
        assert answer.status_code == 206, (header, answer.text)
        assert answer.content == whole[start:end], header
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert answer.headers["Content-Length"] == str(end - start)
        assert answer.headers["ETag"] == first.headers["ETag"]

    check()
    for header in (f"bytes={size}-", "bytes=-0"):
        answer = reader.get(path, headers={"Range": header})
        assert (answer.status_code, answer.headers["content-type"]) == (416, PROBLEM)
        assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_no_range_is_answered_whole(reader: TestClient, example: Example) -> None:
    path = url(example, "factors")
    whole = reader.get(path)
    some = {"Range": "bytes=0-9"}
    for headers in (
        some | {"If-Range": '"other"'},
        some | {"If-Range": f"W/{whole.headers['ETag']}"},
        some | {"If-Range": "Wed, 21 Oct 2026 07:28:00 GMT"},
        {"Range": "bytes=0-9,20-29"},
        {"Range": "rows=0-9"},
    ):
        answer = reader.get(path, headers=headers)
        assert (answer.status_code, answer.content) == (200, whole.content), headers
    answer = reader.get(path, params={"format": "json", "slice": "0"}, headers=some)
    assert (answer.status_code, "Accept-Ranges" in answer.headers) == (200, False)
    held = reader.get(path, headers=some | {"If-None-Match": whole.headers["ETag"]})
    assert held.status_code == 304


def test_a_range_is_of_the_bytes_as_they_are() -> None:
    counts = np.zeros(1000, np.uint16)
    array = LabelledArray("counts", ("bin",), (1000,), counts.dtype, "", "", (), {}, lambda: iter([counts]))
    assert coding_of(array, FORMATS[0], Conditions(None, "gzip")) == "gzip"
    assert coding_of(array, FORMATS[0], Conditions(None, "gzip", "bytes=0-9")) is None


def test_a_range_reads_only_the_chunks_that_it_has(reader: TestClient, example: Example) -> None:
    size = int(reader.head(url(example, "rates")).headers["Content-Length"])
    read: list[str] = []
    get = SqlArrayStore._values_of

    def noted(self: SqlArrayStore, keys: list[str]) -> Any:
        read.extend(keys)
        return get(self, keys)

    with patch.object(SqlArrayStore, "_values_of", noted):
        for header, chunks in (
            (f"bytes={size - 8}-", [2]),
            ("bytes=0-99", []),
            (f"bytes={size // 2}-{size // 2 + 9}", [1]),
        ):
            read.clear()
            assert reader.get(url(example, "rates"), headers={"Range": header}).status_code == 206
            assert read == [f"groups/a/rates/c/{chunk}/0/0" for chunk in chunks]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("application/json", "application/json"),
        ("application/octet-stream", "application/octet-stream"),
        ("application/x-npy", "application/octet-stream"),
        ("*/*", "application/octet-stream"),
        ("application/json, */*;q=0.1", "application/json"),
        ("application/json;q=0.2, application/octet-stream", "application/octet-stream"),
        ("application/octet-stream;q=0, application/json;q=0.5", "application/json"),
        ("text/html, application/*", "application/octet-stream"),
        ("text/html", None),
        ("application/json;q=0", None),
    ],
)
def test_format_by_accept(reader: TestClient, example: Example, accept: str, expected: str | None) -> None:
    answer = reader.get(url(example, "factors"), headers={"Accept": accept})
    if expected is None:
        assert (answer.status_code, answer.headers["content-type"]) == (406, PROBLEM)
        assert accept in answer.json()["detail"]
    else:
        assert (answer.status_code, answer.headers["content-type"]) == (200, expected)


def test_format_in_the_query_wins(reader: TestClient, example: Example) -> None:
    answer = reader.get(url(example, "factors") + "?format=npy", headers={"Accept": "application/json"})
    assert answer.headers["content-type"] == "application/octet-stream"
    answer = reader.get(url(example, "factors") + "?format=xlsx")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "format")


def test_list_tells_dims_units_and_types(reader: TestClient, example: Example) -> None:
    answer = reader.get(f"/v1/models/{example.model_id}/arrays").json()
    found = {array["name"]: array for array in answer["items"]}
    assert sorted(found) == sorted(ARRAYS)
    assert found["rates"] == {
        "name": "rates", "dims": ["trial", "time_s", "neuron"], "shape": [300, 50, 20], "dtype": "float64",
        "units": "spikes/s", "description": "the rates", "attributes": {"from": "example"},
        "coordinates": ["time_s"], "href": url(example, "rates"),
    }  # fmt: skip
    assert answer["zarr"] == f"/v1/models/{example.model_id}/zarr"


@pytest.mark.parametrize("name", ["rate", "%2e%2e", "%2e", "%00", "zarr.json", "c", "%FF", "x" * 1900])
def test_array_that_is_not_there(reader: TestClient, example: Example, name: str) -> None:
    answer = reader.get(url(example, name))
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert "it has bits_per_spike, factors, is_valid" in answer.json()["hint"]


def test_data_set_and_model_have_the_same_routes(reader: TestClient, example: Example) -> None:
    answer = reader.get(f"/v1/datasets/{example.dataset_id}/arrays/spikes?slice=0")
    np.testing.assert_array_equal(load(answer.content), ARRAYS["spikes"][0], strict=True)


def test_client_reads_arrays(example_url: str, example: Example) -> None:
    with Client(example_url) as client:
        found = client.read_model_array(example.model_id, "rates", "5:9,::10,-1")
        np.testing.assert_array_equal(found, ARRAYS["rates"][5:9, ::10, -1], strict=True)
        np.testing.assert_array_equal(
            client.read_dataset_array(example.dataset_id, "spikes"), ARRAYS["spikes"]
        )
        with pytest.raises(LatentryError, match="has no array 'rate'") as caught:
            client.read_model_array(example.model_id, "rate")
    assert caught.value.status == 404
