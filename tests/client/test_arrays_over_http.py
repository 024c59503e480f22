"""Arrays of a real server: NumPy's indexing and xarray's own reading over HTTP are the references."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest
import xarray as xr
from fastapi import FastAPI
from latentry import AsyncClient, Client, LatentryError
from latentry.asynchronous.arrays import AsyncArrays
from latentry.errors import NotFound
from latentry.synchronous.models import Model

from tests.api.api_examples import Example, example_arrays
from tests.api.conftest import serve

ARRAYS = example_arrays()
RATES = ARRAYS["rates"]


@pytest.fixture(scope="module")
def client(example_url: str) -> Iterator[Client]:
    with Client(example_url) as client:
        yield client


@pytest.fixture
def model(client: Client, example: Example) -> Model:
    return client.get_model(example.model_id)


@pytest.mark.parametrize(
    "index",
    [
        np.s_[0:5, ::2], np.s_[-1], np.s_[::-7, 3, ..., ::-2], np.s_[..., 5], np.s_[10:2], np.s_[7, 8, 9], np.s_[...],
        np.s_[290:1000, :, -1],
    ],
    ids=str,
)  # fmt: skip
def test_a_part_is_what_numpy_takes(model: Model, index: Any) -> None:
    np.testing.assert_array_equal(model.rates[index], RATES[index], strict=True)


def test_only_the_part_is_fetched(example: Example, example_url: str) -> None:
    sizes: list[int] = []

    class Counting(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = super().handle_request(request)
            sizes.append(len(answer.read()))
            return answer

    with Client(example_url, transport=Counting()) as client:
        rates = client.get_model(example.model_id).rates
        assert rates.shape == (300, 50, 20)
        sizes.clear()
        rates[0:5, ::25]
    assert sizes == [128 + 5 * 2 * 20 * 8]


def test_numpy_reads_it_whole(model: Model) -> None:
    np.testing.assert_array_equal(np.asarray(model.factors), ARRAYS["factors"], strict=True)
    assert np.asarray(model.factors, np.float64).dtype == np.float64
    assert float(np.mean(model.rates)) == pytest.approx(float(RATES.mean()))
    first, second, *_ = model.factors
    np.testing.assert_array_equal([first, second], ARRAYS["factors"][:2])


def test_what_an_array_is(model: Model) -> None:
    rates = model.rates
    assert (rates.name, rates.dims, rates.shape) == ("rates", ("trial", "time_s", "neuron"), (300, 50, 20))
    assert (rates.dtype, rates.units) == ("float64", "spikes/s")
    assert rates.coords["time_s"].units == "s"
    np.testing.assert_array_equal(rates.coords["time_s"].values, ARRAYS["time_s"])
    assert sorted(model.arrays.names()) == sorted(ARRAYS)
    with pytest.raises(NotFound, match="has no array 'rate'") as caught:
        model.arrays["rate"].shape  # noqa: B018
    assert "bits_per_spike, factors" in caught.value.hint


def test_selected_by_label_it_is_what_xarray_selects(model: Model) -> None:
    whole = model.rates.to_xarray()
    selected = model.rates.sel(time_s=slice(0.1, 0.4), neuron=[3, 5])
    expected = whole.sel(time_s=slice(0.1, 0.399)).isel(neuron=[3, 5])  # xarray's slices include their ends
    assert selected.shape == expected.shape == (300, 15, 2)
    np.testing.assert_array_equal(selected[...], expected)
    np.testing.assert_array_equal(np.asarray(selected), expected)
    np.testing.assert_array_equal(selected.coords["time_s"].values, expected.time_s)
    np.testing.assert_array_equal(selected[-1, ::-1, 0], expected[-1, ::-1, 0])
    again = selected.query(smooth_s=0.02).sel(neuron=[3])
    assert "smooth_s" in repr(again)
    assert again.shape == (300, 15, 1)


def test_what_does_not_fit_is_told_by_the_service(model: Model) -> None:
    with pytest.raises(LatentryError, match="smooth_s"):
        model.rates.query(smooth_s=-1.0).read()


@pytest.mark.parametrize(
    ("spelt", "meant"), [("averge", "average"), ("smooth", "smooth_s"), ("aligned_to", "align_to")]
)
def test_a_parameter_that_is_spelt_wrongly_is_no_condition(model: Model, spelt: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"did you mean {meant}"):
        model.factors.query(**{spelt: "condition"})


def test_arrays_are_gone_through_by_name(model: Model) -> None:
    assert sorted(model.arrays) == sorted(model.arrays.names()) == sorted(ARRAYS)
    assert "rates" in model.arrays
    assert "rate" not in model.arrays
    with pytest.raises(TypeError, match="taken by name"):
        model.arrays[0]  # type: ignore[index]
    with pytest.raises(TypeError, match="taken by name"):
        list(AsyncArrays(AsyncClient("http://127.0.0.1:1"), "/v1/models/mod_1"))  # type: ignore[arg-type, call-overload]


def test_the_ending_of_a_file_tells_its_format(model: Model, tmp_path: Path) -> None:
    part = model.rates.sel(trial=0, neuron=[0, 1])
    assert part.download(tmp_path / "a.csv").read_text().startswith('"trial"')
    assert part.download(tmp_path / "a.npz", "json").read_text().startswith("{")
    assert part.download(tmp_path / "a.dat").read_bytes().startswith(b"\x93NUMPY")
    assert h5py.is_hdf5(model.download(tmp_path / "all.h5", arrays=["rates"]))
    assert model.download(tmp_path, arrays=["rates"]).suffix == ".npz"


def test_a_model_is_named_by_itself(model: Model) -> None:
    np.testing.assert_allclose(model.factors.query(rotate_to=model)[1], model.factors[1], atol=1e-5)


def test_xarray_reads_the_same(model: Model) -> None:
    opened = model.open_zarr()
    assert isinstance(opened, xr.Dataset)
    ours, stock = model.rates.to_xarray(), opened.rates.load()
    xr.testing.assert_equal(ours, stock)
    assert ours.attrs["units"] == stock.attrs["units"] == "spikes/s"
    assert ours.time_s.attrs["units"] == "s"
    xr.testing.assert_identical(model.to_xarray(), opened.load())
    table = model.factors.to_pandas()
    assert len(table) == ARRAYS["factors"].size
    np.testing.assert_array_equal(table["factors"], ARRAYS["factors"].ravel())


def test_the_key_goes_with_what_xarray_asks(example: Example) -> None:
    asked: list[tuple[str, str]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            asked.append((scope["path"], headers.pop(b"authorization", b"").decode()))
            scope["headers"] = list(headers.items())  # the service knows no such key
        await example.app(scope, receive, send)

    app_as_any: Any = app
    for url in serve(app_as_any):
        with Client(url, key="lat_secret") as client:
            client.dataset_of({"id": example.dataset_id}).open_zarr(chunks=None).spikes.load()
    assert any(path.endswith("/zarr/zarr.json") for path, _ in asked)
    assert {key for _, key in asked} == {"Bearer lat_secret"}


def test_the_asynchronous_client_reads_the_same(example: Example) -> None:
    async def read(app: FastAPI) -> None:
        transport = httpx.ASGITransport(app)
        async with AsyncClient("http://service", transport=transport) as client:
            job = await client.get_job(example.job_id)
            model = await job.selected_model
            assert model is not None
            assert [one.id async for one in job.models] == [model.id]
            np.testing.assert_array_equal(await model.rates[0:5, ::-2], RATES[0:5, ::-2])
            assert await model.rates.shape == RATES.shape
            assert len([trial async for trial in model.factors]) == 6
            parts = await asyncio.gather(*(model.rates[trial] for trial in range(10)))
            np.testing.assert_array_equal(parts, RATES[:10])
            np.testing.assert_array_equal(await model.factors.to_xarray(), ARRAYS["factors"])
            assert "<svg" in await model.html()
            assert "Model" in model._repr_html_()
            assert [event["kind"] async for event in job.events()] == ["job.state"]
            assert (await job.wait()).state == "done"
            with pytest.raises(TypeError, match=r"await array.read\(\)"):
                np.asarray(model.rates)
            with pytest.raises(NotFound):
                await client.get_model("mod_000000000000000000000000")

    asyncio.run(read(example.app))
