"""Adding a recording in a browser, and the page of a data set: uploads that continue, choices that mend, pictures, filters."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from latentry.sample import reaches
from playwright.sync_api import Page, Route, expect
from pydantic import BaseModel
from scipy.io import savemat

from domain.dataset_options import DatasetOptions, changed_options
from store.settings import Settings
from tests.api.conftest import serve
from tests.app_copies import app_of
from tests.servers import broker
from tests.web.browser import Watch, open_view, wait_until_ready
from tests.web.seeded_storage import Seeded
from tests.web.service import SeededService
from worker.ingest.problems import RejectedFile
from worker.ingest.quality_control.checks import examine
from worker.ingest.read import read_recording
from worker.ingest.readers import ReadOptions
from worker.ingest.service import ingest_dataset

WEB = Path(__file__).resolve().parents[2] / "web"
RANDOM = np.random.default_rng(0)
COUNTS = RANDOM.poisson(0.3, (24, 30, 12)).astype(np.uint8)


def add(page: Page, url: str, path: Path) -> str:
    """Add a file, wait for its data set's page, and return the data set's id."""
    open_view(page, url, "/add")
    page.set_input_files("input[type=file]", path)
    return arrived(page)


def arrived(page: Page, but: str = "none") -> str:
    """Wait for the page of a data set other than `but`, and return the id."""
    expect(page).to_have_url(re.compile(f"#/datasets/(?!{but})dat_"))
    found = re.search(r"dat_\w+", page.url)
    assert found is not None
    return found[0]


@dataclass
class Service:
    """A service without workers that tests of this file change."""

    url: str
    stored: Seeded

    def ingest(self, dataset_id: str) -> None:
        """Read the file of a data set, as a worker does."""
        ingest_dataset(self.stored.database, self.stored.arrays, self.stored.settings, dataset_id, "test")

    def dataset(self, dataset_id: str) -> dict[str, Any]:
        """Return the document of a data set."""
        document: dict[str, Any] = httpx.get(f"{self.url}/v1/datasets/{dataset_id}").json()
        return document


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An empty service without workers."""
    folder = tmp_path_factory.mktemp("service")
    (folder / "broker").mkdir()
    with broker(folder / "broker") as started:
        stored = Seeded.open(folder)
        settings = Settings(data_dir=folder, redis_url=started.url)
        server = serve(app_of(settings, stored.database, stored.arrays))
        yield Service(next(server), stored)
        next(server, None)
        stored.database.close()


def test_an_upload_continues_after_a_lost_connection_and_after_a_reload(
    page: Page, watch: Watch, service: Service, tmp_path: Path
) -> None:
    watch.allow("ERR_CONNECTION_RESET")
    path = tmp_path / "recording.npz"
    path.write_bytes(RANDOM.bytes(2_500_000))
    offsets: list[int] = []

    def meet(route: Route) -> None:
        if route.request.method != "PATCH":
            route.continue_()
            return
        offsets.append(int(route.request.headers["upload-offset"]))
        if len(offsets) == 2:
            route.abort("connectionreset")
        elif len(offsets) != 3:  # the third never gets an answer
            route.continue_()

    page.route("**/v1/uploads/*", meet)
    open_view(page, service.url, "/add")
    page.set_input_files("input[type=file]", path)
    expect(page.get_by_text("nothing that arrived is lost")).to_be_visible()
    expect(page.locator(".upload .state", has_text="uploading")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Choose the same file again")).to_be_visible()
    page.set_input_files("input[type=file]", path)
    dataset_id = arrived(page)
    assert offsets[0] == 0
    assert offsets[1] > 0
    assert offsets[1:4] == [offsets[1]] * 3
    source = service.dataset(dataset_id)["source"]
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_rejected_file_becomes_a_data_set_by_a_choice_and_gets_a_name(
    page: Page, service: Service, tmp_path: Path
) -> None:
    path = tmp_path / "counts.npz"
    np.savez(path, spikes=COUNTS, target=np.arange(24) % 4)
    rejected = add(page, service.url, path)
    service.ingest(rejected)
    page.get_by_role("button", name="10 ms", exact=True).click()
    page.get_by_role("button", name="Read again").click()
    made = arrived(page, but=rejected)
    service.ingest(made)
    expect(page.locator(".numbers")).to_contain_text("10 ms")
    wait_until_ready(page)
    expect(page.get_by_role("link", name="Start a search").last).to_have_attribute(
        "href", f"#/search?dataset={made}"
    )
    page.get_by_role("button", name="Delete it…").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_role("button", name="Delete it…")).to_have_count(0)
    assert service.dataset(rejected)["state"] == "deleting"
    page.get_by_role("button", name="Name, notes, tags…").click()
    page.get_by_role("textbox", name="Name", exact=True).fill("the left arm")
    page.get_by_role("textbox", name="Tags").fill("pilot, monkey J")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("the left arm")
    assert service.dataset(made)["tags"] == ["pilot", "monkey J"]


def test_the_sample_is_that_of_the_command_line(page: Page, service: Service) -> None:
    open_view(page, service.url, "/add")
    page.get_by_role("button", name="Use the sample").click()
    source = service.dataset(arrived(page))["source"]
    assert source["sha256"] == hashlib.sha256((WEB / "sample.npz").read_bytes()).hexdigest()
    with np.load(WEB / "sample.npz") as sample:
        made = reaches()
        assert set(sample.files) == set(made)
        for name in sample.files:
            np.testing.assert_array_equal(sample[name], made[name])


def paths_of(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Return the paths of all options, such as `mapping.axes`."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        nested = re.search(r"(Mapping|\w+Options)\b", str(field.annotation))
        kind = (
            getattr(__import__("domain.dataset_options", fromlist=["x"]), nested[1], None) if nested else None
        )
        found |= paths_of(kind, f"{prefix}{name}.") if kind else {prefix + name}
    return found


def in_page(page: Page, expression: str, *arguments: Any) -> Any:
    """Evaluate an expression with the module of the options as `options`."""
    script = (
        "async (given) => { const main = document.querySelector('script[type=module]').src; "
        "const options = await import(new URL('views/dataset/options.js', main)); return "
        + expression
        + "; }"
    )
    return page.evaluate(script, list(arguments))


@pytest.mark.slow
def test_the_form_has_every_option(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, "/add")
    assert set(in_page(page, "[...options.FIELDS.keys()]")) == paths_of(DatasetOptions)


QUICK = ("no bin width", "two arrays of counts")
"""Files of `make test`; `make test-all` has all."""
FILES: dict[str, tuple[Mapping[str, Any], list[dict[str, Any]]]] = {
    "no bin width": ({"spikes": COUNTS}, [{"bin_width_s": 0.02}]),
    "two arrays of counts": (
        {"first": COUNTS, "second": COUNTS + 1, "bin_width_s": 0.01},
        [{"mapping": {"spikes": "second"}}, {"mapping": {"spikes": ["first", "second"]}}],
    ),
    "times in whole numbers": (
        {"spike_times": np.arange(4000), "neuron": np.arange(4000) % 9, "trial_start": np.arange(4) * 1e3},
        [{"time_unit": "ms"}, {"time_unit": "samples", "sampling_rate_hz": 30000}],
    ),
    "axes.mat": (
        {"spikes": COUNTS, "bin_width_s": 0.01},
        [{"mapping": {"axes": ["neuron", "bin", "trial"]}}],
    ),
    "a silent neuron": (
        {"spikes": COUNTS * (np.arange(12) > 0), "bin_width_s": 0.01},
        [{"neurons": {"minimum_rate_hz": 0.1}}],
    ),
    "few long trials": (
        {"spikes": RANDOM.poisson(0.1, (4, 3000, 5)).astype(np.uint8), "bin_width_s": 0.01},
        [{"chop": {"window_s": 1.0}}],
    ),
    "metadata of trials or neurons": (
        {"spikes": COUNTS[:12], "bin_width_s": 0.01, "depth_um": np.arange(12)},
        [{"mapping": {"neuron_metadata": ["depth_um"]}}],
    ),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FILES]
)
def test_problems_and_warnings_offer_options_that_the_service_takes(
    page: Page, lab: SeededService, tmp_path: Path, name: str
) -> None:
    arrays, expected = FILES[name]
    path = tmp_path / (name if name.endswith(".mat") else "file.npz")
    (savemat if name.endswith(".mat") else lambda file, of: np.savez(file, **of))(path, dict(arrays))
    dataset: dict[str, Any] = {"options": {}, "report": None}
    try:
        report = examine(read_recording(path, ReadOptions()))
        messages = [one.to_json() for one in report.warnings]
        dataset["report"] = report.to_json()
    except RejectedFile as error:
        messages = [one.to_json() for one in error.problems]
    open_view(page, lab.url, "/add")
    ask = "given[0].flatMap((one) => options.mendsOf(one, given[1])).map(({ changes }) => options.patchOf(changes))"
    patches = in_page(page, ask, messages, json.loads(json.dumps(dataset)))
    for patch in patches:
        DatasetOptions.model_validate(changed_options({}, patch))
    for wanted in expected:
        assert any(changed_options(patch, wanted) == patch for patch in patches), (messages, patches)


def test_hints_are_in_words_and_offer_only_names_of_the_file(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, "/add")
    guess = {
        "pointer": "/mapping/trials",
        "message": "The file has 2 tables of intervals that may be the trials, and none is called `trials`: `a` (9 rows) was "
        "used, because it has `go`. The others are `b` (5 rows).",
        "hint": 'If another one holds the trials, name it: {"mapping": {"trials": "b"}}.',
    }
    offered = in_page(page, "options.mendsOf(given[0], {options: {}}).map(({ label }) => label)", guess)
    assert sorted(offered) == ["Table of trials: a", "Table of trials: b"]
    said = in_page(page, "options.inWords(given[0])", guess["hint"] + " Or trials.overlap `drop` or `cut`.")
    assert said == (
        "If another one holds the trials, name it: “Table of trials: b”. Or “Trials that overlap” “leave out the later one” or "
        "“cut the earlier one”."
    )


@pytest.mark.slow
def test_filters_select_trials_and_show_the_same_conditions(page: Page, lab: SeededService) -> None:
    url, ids = lab.url, lab.ids
    path = f"{url}/v1/datasets/{ids['dataset']}"
    metadata = httpx.get(path).json()["report"]["trial_metadata"]
    name = next(name for name, about in metadata.items() if "values" in about and about["distinct"] <= 20)
    open_view(page, url, f"/datasets/{ids['dataset']}?tab=trials")
    group = page.get_by_role("group", name=name, exact=True)
    for index in (0, 1):
        group.get_by_role("button").nth(index).click()
    where = page.locator("main code").first
    expect(where).to_contain_text(f"where={name}:in:")
    conditions = [one.removeprefix("where=") for one in where.inner_text().split("&")]
    wait_until_ready(page)
    found = httpx.get(f"{path}/arrays/trial", params={"where": conditions, "format": "json"}).json()["values"]
    expect(page.get_by_role("status").filter(has_text="trials")).to_contain_text(f"{len(found)} of")
    first = page.locator("tbody tr").first.get_by_role("button")
    expect(first).to_have_text(str(found[0]))
    first.click()
    expect(page.get_by_role("figure").filter(has_text=f"Spikes of trial {found[0]}")).to_be_visible()


@pytest.mark.slow
def test_a_click_on_the_raster_shows_the_mean_rate_of_its_neuron(page: Page, lab: SeededService) -> None:
    url, ids = lab.url, lab.ids
    open_view(page, url, f"/datasets/{ids['dataset']}")
    page.get_by_label("Order of neurons").select_option("peak")
    wait_until_ready(page)
    page.get_by_label("Spikes of trial").locator(".nsewdrag").click()
    expect(page.get_by_role("figure").filter(has_text="Mean rate of neuron")).to_be_visible()
    assert re.search(r"neuron=\d+", page.url)
    wait_until_ready(page)
