"""The tools of plots: pictures that are saved, under the policy of the page, and nothing that leaves the service."""

import re
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.web.browser import open_view
from tests.web.service import SeededService


def test_pictures_are_saved_and_no_button_sends_a_plot_away(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/jobs/{lab.ids['job_done']}")
    for name, beginning in (("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        page.get_by_role("button", name=re.compile("^Save or fetch")).first.click()
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.suggested_filename.endswith(f".{name.lower()}")
        assert Path(download.value.path()).read_bytes().startswith(beginning)
        expect(page.get_by_role("dialog")).to_have_count(0)
    offered = page.locator(".modebar-btn").evaluate_all("(all) => all.map((one) => one.dataset.title)")
    assert offered
    assert not [title for title in offered if re.search("cloud|plotly|edit", title, re.IGNORECASE)]


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
