"""What the operator sees and steers on the page, and the words of the tabs that show what the service records."""

import re
from collections.abc import Callable

import httpx
from playwright.sync_api import Page, expect

from tests.web.browser import assert_accessible, open_view
from tests.web.service import ApiProcess, SeededService

INTERNAL = re.compile(r"\b[a-z]+[._][a-z_]+\b")
"""Names such as `dataset.created` and `thinned_curves`."""


def test_operator_sets_quotas_pauses_a_tenant_and_drains_a_worker(page: Page, own_lab: ApiProcess) -> None:
    open_view(page, own_lab.url, "/use?tab=tenants")
    smith = page.get_by_role("row").filter(has_text="smith")
    expect(smith).to_contain_text("the disk is being replaced")
    page.get_by_role("button", name="Quotas of default").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Stored data").fill("2.5")
    dialog.get_by_label("Unfinished jobs").fill("0")
    assert_accessible(page)
    dialog.get_by_role("button", name="Set the quotas").click()
    expect(page.get_by_role("row").filter(has_text="default")).to_contain_text("of 2.5 GiB")
    own = httpx.get(f"{own_lab.url}/v1/usage").json()["own_amounts"]
    assert own == {"stored_bytes": 2.5 * 2**30, "open_jobs": 0}
    page.get_by_role("button", name="Pause default").click()
    dialog.get_by_label("Reason", exact=True).fill("moving the machine")
    dialog.get_by_role("button", name="Pause the tenant").click()
    expect(page.get_by_role("row").filter(has_text="default")).to_contain_text("moving the machine")
    page.reload()
    expect(page.get_by_role("note")).to_contain_text("(moving the machine)")
    page.get_by_role("button", name="Resume default").click()
    expect(page.get_by_role("button", name="Pause default")).to_be_visible()

    open_view(page, own_lab.url, "/use?tab=workers")
    worker = page.get_by_role("row").filter(has_text="gpu-node-1")
    expect(worker).to_contain_text(re.compile("trains \\d+ models? of"))
    worker.get_by_role("button", name="Drain").click()
    expect(dialog).to_contain_text("begins nothing more")
    assert_accessible(page)
    dialog.get_by_role("button", name="Drain").click()
    expect(worker).to_contain_text("draining")
    (found,) = httpx.get(f"{own_lab.url}/v1/workers").json()["workers"]
    assert found["draining_since"]
    worker.get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("quick look 3")


def test_no_worker_says_how_to_start_one(page: Page, seeded_service: Callable[[str], SeededService]) -> None:
    open_view(page, seeded_service("empty").url, "/use?tab=workers")
    expect(page.get_by_role("heading", name="No worker is running")).to_be_visible()
    expect(page.locator("main")).to_contain_text("latentry up")
    expect(page.get_by_role("row").filter(has_text="Recordings to read")).to_contain_text("0")
    assert_accessible(page)


def test_tabs_say_words_of_the_field(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, "/use?tab=audit")
    table = page.get_by_role("table", name="Changes")
    expect(table).to_contain_text("AutoLFADS on reaches")
    expect(table).to_contain_text("Stored data: 1,863 GiB; Unfinished jobs: no limit")
    assert not INTERNAL.findall(table.inner_text())
    open_view(page, lab.url, "/use?tab=retention")
    table = page.get_by_role("table", name="Retention")
    expect(table).to_contain_text("Weights of models that were not selected")
    assert not INTERNAL.findall(table.inner_text())
    page.get_by_role("button", name="Use a key").click()
    expect(page.get_by_role("dialog")).to_contain_text("You can already use this service")
    assert_accessible(page)
