"""The page of a job: leaks are marked, models are sorted, hidden and compared, and what happens appears by itself."""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from store import events
from tests.web.browser import Watch, open_view
from tests.web.seeded_storage import Seeded
from tests.web.service import ApiProcess, SeededService


def models_in_plots(page: Page) -> set[int]:
    """Return the numbers of the models whose curves are drawn."""
    found: list[int | None] = page.evaluate(
        "() => document.querySelector('.plot-area').data.flatMap((trace) => trace.customdata)"
    )
    return {number for number in found if number is not None}


def cells(page: Page, column: int) -> list[str]:
    """Return the texts of a column of the table of models."""
    return page.locator(f"section[aria-label=Models] tbody td:nth-child({column})").all_inner_texts()


@pytest.mark.slow
def test_leaks_are_marked_and_explained(page: Page, lab: SeededService) -> None:
    job_id = lab.ids["job_leaking"]
    found: dict[str, Any] = httpx.get(f"{lab.url}/v1/jobs/{job_id}").json()["diagnostics"]
    open_view(page, lab.url, f"/jobs/{job_id}")
    note = page.get_by_role("note").filter(has_text="A model leaks if it passes single spikes")
    for number in found["leaking"] + found["leaking_later"]:
        expect(note).to_contain_text(re.compile(rf"\b{number}\b"))
    marks = page.locator(".state.bad", has_text="leaks")
    expect(marks).to_have_count(len(found["leaking"] + found["leaking_later"]))
    page.get_by_role("button", name="Hide leaking models").click()
    expect(page).to_have_url(re.compile("hide="))
    assert models_in_plots(page).isdisjoint(found["leaking"])
    page.get_by_role("link", name="Report").click()
    expect(page.get_by_text("Ordinary validation would have selected")).to_contain_text(
        f"model {found['best_by_validation_loss']}"
    )


def test_models_are_sorted_hidden_and_compared_and_the_address_keeps_it(
    page: Page, lab: SeededService
) -> None:
    open_view(page, lab.url, f"/jobs/{lab.ids['job_done']}")
    page.locator("th").get_by_role("button", name="SV loss").click()
    losses = [float(text) for text in cells(page, 5)]
    assert losses == sorted(losses)
    first, second = cells(page, 2)[:2]
    page.get_by_role("button", name=f"Hide model {first}", exact=True).click()
    page.get_by_label(f"Choose model {first}", exact=True).check()
    page.get_by_label(f"Choose model {second}", exact=True).check()
    page.reload()
    open_view(page, lab.url, page.url.partition("#")[2])
    assert [float(text) for text in cells(page, 5)] == losses
    assert models_in_plots(page) == set(range(len(losses))) - {int(first)}
    compare = page.get_by_role("link", name="Compare 2 models")
    expect(compare).to_have_attribute("href", re.compile(r"#/compare\?models=mod_\w+%2Cmod_\w+"))
    page.get_by_role("button", name="Logarithmic x axis").click()
    expect(page).to_have_url(re.compile("log=1"))
    assert page.evaluate("() => document.querySelector('.plot-area').layout.xaxis.type") == "log"


@pytest.mark.slow
def test_every_part_of_a_population_has_an_address(page: Page, lab: SeededService) -> None:
    address = f"/jobs/{lab.ids['job_done']}"
    open_view(page, lab.url, f"{address}?tab=decisions&kind=copy")
    expect(page.get_by_role("img", name="Lineage of model")).to_be_visible()
    expect(page.get_by_text("copies the weights of model").first).to_be_visible()
    open_view(page, lab.url, f"{address}?tab=hyperparameters")
    assert page.evaluate("() => document.querySelector('.plot-area').data[0].type") == "parcoords"
    expect(page.locator(".no-webgl")).to_have_count(0)
    expect(page.get_by_role("region", name="Importance of hyperparameters")).to_be_visible()
    open_view(page, lab.url, f"{address}?tab=events")
    expect(page.get_by_text("The job is done.")).to_be_visible()
    open_view(page, lab.url, f"{address}?tab=settings")
    expect(page.get_by_text("generation epochs")).to_be_visible()


def test_a_job_without_an_epoch_says_whether_one_comes(page: Page, lab: SeededService) -> None:
    job_id = lab.ids["job_running"]

    def untrained(route: Route) -> None:
        found = route.fetch().json()
        items = [{**one, "epochs_trained": 0} for one in found["items"]]
        route.fulfill(json={**found, "items": items})

    page.route(f"**/v1/jobs/{job_id}/models?*", untrained)
    open_view(page, lab.url, f"/jobs/{job_id}")
    expect(page.get_by_text("The first epoch is training; curves appear in seconds.")).to_be_visible()
    expect(page.get_by_text("The job ended before")).to_have_count(0)


def test_a_failed_job_says_what_to_do(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/jobs/{lab.ids['job_failed']}")
    expect(page.get_by_role("alert").filter(has_text="The job failed")).to_contain_text("lower learning rate")
    expect(page.get_by_role("button", name="Retry")).to_be_visible()


def test_a_running_job_changes_by_itself_and_is_controlled(
    page: Page, watch: Watch, own_lab: ApiProcess, tmp_path: Path
) -> None:
    folder = tmp_path / "lab"
    job_id = json.loads((folder / "ids.json").read_text())["job_running"]
    model = httpx.get(f"{own_lab.url}/v1/jobs/{job_id}/models").json()["items"][0]
    open_view(page, own_lab.url, f"/jobs/{job_id}")
    expect(page.get_by_role("cell", name="4321", exact=True)).to_have_count(0)
    with page.expect_response(re.compile("events/stream")):
        page.reload()  # the stream is open when the event comes
    point = {"model_id": model["id"], "number": model["number"], "epoch": 4321, "trained_by": model["number"]}
    losses = {
        "sv_loss": 0.6,
        "validation_loss": 0.6,
        "sv_bits_per_spike_valid": 0.4,
        "best_smoothed_sv_loss": 0.6,
    }
    seeded = Seeded.open(folder)
    with seeded.database.write() as session:
        events.record(session, job_id, "progress", slice_id="sli", models=[point | losses])
    seeded.database.close()
    expect(page.get_by_role("cell", name="4321", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("h1 + .state")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("h1 + .state")).to_have_text("queued")
    page.get_by_role("button", name="Name, notes, tags").click()
    page.get_by_label("Name", exact=True).fill("third look")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("third look")
