"""Starting a search in a browser: presets with their time, fields that are checked while one edits, and the same job again."""

import json
import re

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.web.browser import Watch, open_view
from tests.web.service import ApiProcess, SeededService


def field(page: Page, path: str) -> Locator:
    """Return a field of the search with its messages."""
    return page.locator(f"[data-field='{path}']")


def specification(page: Page) -> dict[str, object]:
    """Return the JSON that the page shows beside the fields."""
    code = page.locator("details", has=page.get_by_text("The same search in a program"))
    if code.get_attribute("open") is None:
        code.locator("summary").click()
    found: dict[str, object] = json.loads(code.locator("pre").inner_text())
    return found


@pytest.mark.slow
def test_fields_are_checked_while_one_edits(page: Page, watch: Watch, lab: SeededService) -> None:
    watch.allow("status 422: POST .*validate_only")
    open_view(page, lab.url, f"/search?dataset={lab.ids['dataset']}")
    expect(page.get_by_text(re.compile(r"^about .*\d"))).to_have_count(3)
    start = page.get_by_role("button", name="Start the search")
    models = page.get_by_label("Models", exact=True)
    models.fill("0")
    expect(field(page, "budget.models").get_by_text("greater than or equal to 1")).to_be_visible()
    expect(start).to_be_disabled()
    models.fill("3")
    expect(start).to_be_enabled()
    page.get_by_label("Epochs of each model", exact=True).fill("4")
    expect(field(page, "budget.epochs").get_by_text("give more epochs").first).to_be_visible()
    expect(page.get_by_text(re.compile("“Epochs of each model” is"))).to_have_count(
        2
    )  # beside the field, and in the summary
    expect(page.get_by_text(re.compile(r"budget\.|training\."))).to_have_count(0)
    assert specification(page)["budget"] == {"models": 3, "epochs": 4}
    field(page, "budget.epochs").get_by_role("button", name="Reset").click()
    assert specification(page)["budget"] == {"models": 3}


def test_ranges_move_with_the_keyboard_and_become_values_or_lists(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/search?dataset={lab.ids['dataset']}")
    rate = field(page, "space.cd_rate")
    low = rate.get_by_role("slider", name="lowest value")
    low.press("ArrowRight")
    changed = specification(page)["space"]
    assert isinstance(changed, dict)
    assert 0.2 < changed["cd_rate"]["low"] < 0.22
    assert changed["cd_rate"]["high"] == 0.6
    rate.get_by_role("combobox").select_option("fixed")
    rate.get_by_role("textbox").fill("0.35")
    assert specification(page)["space"] == {"cd_rate": 0.35}
    rate.get_by_role("combobox").select_option("list")
    rate.get_by_role("textbox").fill("0.2, 0.4")
    assert specification(page)["space"] == {"cd_rate": [0.2, 0.4]}
    page.get_by_text("Advanced: strategy").click()
    page.get_by_label("Factors", exact=True).fill("8, 16")
    page.get_by_label("Strategy", exact=True).select_option("tpe")
    expect(page.get_by_label("Startup models", exact=True)).to_have_value("10")
    found = specification(page)
    assert (found["architecture"], found["strategy"]) == ({"factors": [8, 16]}, {"kind": "tpe"})


def test_a_job_is_started_again_with_changes(page: Page, own_lab: ApiProcess) -> None:
    jobs = httpx.get(f"{own_lab.url}/v1/jobs").json()["items"]
    leaking = next(job for job in jobs if job["name"] == "random, little dropout")
    open_view(page, own_lab.url, f"/jobs/{leaking['id']}")
    page.get_by_role("link", name="Again, with changes").click()
    expect(page.get_by_text("begins with the settings")).to_be_visible()
    given = specification(page)
    assert given["preset"] == "paper-2019"
    assert given["space"] == {"cd_rate": {"low": 0, "high": 0.6, "scale": "uniform"}}
    assert given["budget"] == {"models": 16, "epochs": 200}
    page.get_by_label("Name", exact=True).fill("more dropout")
    field(page, "space.cd_rate").get_by_label("lowest value").first.fill("0.2")
    page.get_by_role("button", name="Start the search").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("more dropout")
    expect(page).to_have_url(re.compile("#/jobs/job_"))
    begun = httpx.get(f"{own_lab.url}/v1/jobs/{page.url.rpartition('/')[2]}").json()["specification"]
    assert begun["space"]["cd_rate"] == {"low": 0.2, "high": 0.6, "scale": "uniform"}
    rest = {"name", "space"}
    assert {key: value for key, value in begun.items() if key not in rest} == {
        key: value for key, value in leaking["specification"].items() if key not in rest
    }


@pytest.mark.slow
def test_a_search_without_a_data_set_says_what_to_do(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, "/search")
    expect(page.get_by_label("Data set", exact=True)).to_be_visible()
    expect(page.get_by_role("option", name="Chewie, centre-out reaches, M1")).to_be_attached()


def test_edits_stay_when_the_page_is_loaded_again(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/search?dataset={lab.ids['dataset']}")
    page.get_by_label("Models", exact=True).fill("3")
    page.reload()
    expect(page.get_by_label("Models", exact=True)).to_have_value("3")
    page.get_by_role("button", name="Reset all fields to the preset").click()
    page.reload()
    expect(page.get_by_label("Models", exact=True)).not_to_have_value("3")
