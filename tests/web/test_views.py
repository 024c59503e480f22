"""Every view in every state: it shows its data without an error, fits into a narrow window, and axe finds no violation."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, ViewportSize, expect

from tests.web.browser import Watch, assert_accessible, open_view, wait_until_ready
from tests.web.overflow import overflows
from tests.web.service import SeededService
from tests.web.views import VIEWS, View

Service = Callable[[str], SeededService]
NARROW: ViewportSize = {"width": 420, "height": 800}
FOCUSED = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  element.dataset.tabbed = "yes";
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  return outlineStyle !== "none" && outlineWidth !== "0px" && element.getBoundingClientRect().width > 0;
}"""
MISSED = """() => {
  const all = document.querySelectorAll("a[href], button:enabled, input, select, textarea, summary, [tabindex='0']");
  const isMissed = (one) => one.tabIndex >= 0 && !one.dataset.tabbed && one.checkVisibility({ visibilityProperty: true });
  return [...all].filter(isMissed).map((one) => one.outerHTML);
}"""
OF_TEST_ALL = ("compare", "help", "search", "share", "use")
"""Modules that take long to draw, or that say little."""


def _marked(view: View) -> object:
    """`make test` shows each of these modules in one state; `make test-all` shows all."""
    is_quick = view.module not in OF_TEST_ALL and view == next(
        one for one in VIEWS if one.module == view.module
    )
    return pytest.param(view, id=view.name, marks=[] if is_quick else [pytest.mark.slow])


@pytest.mark.parametrize("view", [_marked(view) for view in VIEWS])
def test_view_shows_its_data_and_is_accessible(page: Page, seeded_service: Service, view: View) -> None:
    service = seeded_service(view.state)
    open_view(page, service.url, view.address(service.ids))
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    assert_accessible(page)
    page.set_viewport_size(NARROW)
    wait_until_ready(page)
    assert not overflows(page)


def test_a_wide_table_says_that_it_scrolls_and_scrolls_with_the_keyboard(
    page: Page, lab: SeededService
) -> None:
    page.set_viewport_size(NARROW)
    open_view(page, lab.url, f"/datasets/{lab.ids['dataset']}?tab=trials")
    table = page.get_by_role("region", name="Trials", exact=True)
    assert "linear-gradient" in table.evaluate("(table) => getComputedStyle(table).backgroundImage")
    table.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(table) => table.scrollLeft > 0", arg=table.element_handle())


def test_tab_goes_through_a_whole_view_and_shows_where_it_is(page: Page, lab: SeededService) -> None:
    open_view(page, lab.url, f"/models/{lab.ids['model']}")
    for _ in range(100):
        page.keyboard.press("Tab")
        if (is_seen := page.evaluate(FOCUSED)) is None:  # the end: nothing held the focus
            break
        assert is_seen, page.evaluate("() => document.activeElement.outerHTML")
    assert is_seen is None
    assert not page.evaluate(MISSED)


def test_page_follows_the_colours_of_the_system(page: Page, lab: SeededService) -> None:
    page.emulate_media(color_scheme="dark")
    open_view(page, lab.url, "/")
    assert_accessible(page)
    dark = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") != dark


def test_page_says_that_the_server_is_away_and_shows_its_data_when_it_is_back(
    page: Page, watch: Watch, lab: SeededService
) -> None:
    watch.allow("ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE")
    open_view(page, lab.url, "/")
    lab.api.stop()
    banner = page.get_by_role("alert").filter(has_text="does not answer")
    expect(banner).to_be_visible()
    expect(page.locator(".problem")).to_have_count(0)
    lab.api.start()
    expect(banner).to_have_count(0)
    expect(page.get_by_role("link", name="AutoLFADS on reaches")).to_be_visible()
