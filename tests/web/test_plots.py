"""The tools of plots: pictures and numbers that are saved, under the policy of the page, and nothing that leaves the service."""

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.web.browser import open_view
from tests.web.service import SeededService


@pytest.mark.slow
def test_pictures_are_saved_and_no_button_sends_a_plot_away(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/jobs/{lab.ids['job_done']}")
    for name, beginning in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        page.get_by_role("button", name=re.compile("^Save or fetch")).first.click()
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename.endswith(f".{name.lower()}")
        assert Path(download.value.path()).read_bytes().startswith(beginning)
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name=re.compile("^Save or fetch")).first).to_be_focused()
    offered = page.locator(".modebar-btn").evaluate_all("(all) => all.map((one) => one.dataset.title)")
    assert offered
    assert not [title for title in offered if re.search("cloud|plotly|edit", title, re.IGNORECASE)]


def saved_rows(page: Page, title: str) -> list[dict[str, str]]:
    """Return the rows of the CSV of a plot."""
    page.get_by_role("button", name=f"Save or fetch: {title}").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    return list(csv.DictReader(Path(download.value.path()).read_text().splitlines()))


def test_the_csv_of_a_plot_names_the_series_of_each_point(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=psth&neurons=6,34")
    rows = saved_rows(page, "Rates by condition")
    assert {row["series"] for row in rows} == {str(condition) for condition in range(8)}
    assert {(row["neuron"], row["from"]) for row in rows} == {
        (neuron, origin) for neuron in ("6", "34") for origin in ("data", "model")
    }
    assert len(rows) == 8 * 2 * 2 * 50
    assert {"Time (s, centre of the bin)", "Rate (spikes/s)", "standard error"} <= rows[0].keys()


@pytest.mark.slow
def test_the_csv_of_every_kind_of_plot_names_its_series(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}")
    rows = saved_rows(page, "Trial 0")
    spikes = [row for row in rows if row["quantity"] == "Spikes (spikes)"]
    assert {row["series"] for row in spikes} == {f"neuron {neuron}" for neuron in range(36)}
    assert {row["series"] for row in rows if row["quantity"].startswith("Hand")} == {"x", "y"}

    job = f"/jobs/{lab.ids['job_done']}"
    open_view(page, lab.url, job)
    rows = saved_rows(page, "SV loss and validation loss of the models")
    assert {row["model"] for row in rows} == {str(number) for number in range(12)}
    assert {row["loss"] for row in rows} == {"SV loss", "validation loss"}

    open_view(page, lab.url, f"{job}?tab=hyperparameters")
    rows = saved_rows(page, "Hyperparameters and scores of the models")
    assert len(rows) == 12
    assert all(0 < float(row["learning rate"]) < 0.1 for row in rows)  # not its logarithm


def test_help_opens_beside_its_row_and_escape_closes_it(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/search?dataset={lab.ids['dataset']}")
    button = page.get_by_role("button", name=re.compile("^Help: ")).first
    field = page.locator(".field", has=button).first
    before = field.bounding_box()
    button.click()
    expect(page.locator(".field-help")).to_be_visible()
    after = field.bounding_box()
    assert before is not None
    assert after is not None
    assert (after["width"], after["height"]) == (before["width"], before["height"])
    page.keyboard.press("Escape")
    expect(page.locator(".field-help")).to_have_count(0)


def test_the_csv_of_trajectories_has_every_bin_although_fewer_are_drawn(
    page: Page, lab: SeededService
) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}?tab=trajectories")
    rows = saved_rows(page, "")
    times = {row["Time (s)"] for row in rows}
    assert len(times) == 50
    assert len(rows) == 8 * 50
    assert all(len({row["series"] for row in rows if row["Time (s)"] == time}) == 8 for time in times)
