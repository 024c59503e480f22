"""Arrays: the slice grammar against NumPy's indexing, npy and JSON, entity tags, formats."""

import io
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from latentry.client import Client
from latentry.errors import LatentryError
from numpy.typing import NDArray

from api.arrays.slices import parse_slice
from api.errors import Invalid
from tests.api.api_examples import PROBLEM, Example, example_arrays

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


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_what_one_has_is_not_sent_again(reader: TestClient, example: Example, accept: str) -> None:
    headers = {"Accept": accept}
    path = url(example, "factors") + "?slice=0:2"
    first = reader.get(path, headers=headers)
    tag = first.headers["ETag"]
    assert tag.startswith('"')  # strong
    assert "immutable" in first.headers["Cache-Control"]
    assert first.headers["Vary"] == "Accept"
    for condition in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = reader.get(path, headers=headers | {"If-None-Match": condition})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
    assert reader.get(path, headers=headers | {"If-None-Match": '"other"'}).content == first.content


def test_tags_differ_where_answers_do(reader: TestClient, example: Example) -> None:
    queries = ["", "?slice=0", "?slice=0:1", "?format=json"]
    tags = [reader.get(url(example, "factors") + query).headers["ETag"] for query in queries]
    tags.append(reader.get(url(example, "spikes")).headers["ETag"])
    assert len(set(tags)) == len(tags)


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
    answer = reader.get(url(example, "factors") + "?format=csv")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "format")


def test_list_tells_dims_units_and_types(reader: TestClient, example: Example) -> None:
    answer = reader.get(f"/v1/models/{example.model_id}/arrays").json()
    found = {array["name"]: array for array in answer["items"]}
    assert sorted(found) == sorted(ARRAYS)
    assert found["rates"] == {
        "name": "rates", "dims": ["trial", "time_s", "neuron"], "shape": [300, 50, 20], "dtype": "float64",
        "units": "spikes/s", "description": "the rates", "attributes": {"from": "example"},
        "href": url(example, "rates"),
    }  # fmt: skip
    assert answer["zarr"] == f"/v1/models/{example.model_id}/zarr"


@pytest.mark.parametrize("name", ["rate", "%2e%2e", "%2e", "%00", "zarr.json", "c", "%FF", "x" * 3000])
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
