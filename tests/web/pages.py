"""Fixtures of a watched page in a browser, also for tests of whole services in `tests/integration`."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.web.browser import CHROMIUM, NEEDED, PATIENCE_MS, Watch, chromium

__all__ = ["browser", "context", "page", "watch"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, or a skipped test that says how to install it.

    For one module, because Playwright's event loop runs in this thread: other tests of the process could not run their own.
    """
    if CHROMIUM is None:
        pytest.skip(NEEDED)
    with chromium() as started:
        yield started


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser that knows nothing of other tests."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


@pytest.fixture
def watch(context: BrowserContext) -> Iterator[Watch]:
    """What went wrong on the pages of a test. Any problem that the test does not allow fails it."""
    watch = Watch()
    context.on("page", watch.of)
    yield watch
    assert not watch.unexpected(), "\n".join(watch.unexpected())


@pytest.fixture
def page(context: BrowserContext, watch: Watch) -> Page:
    """A watched page."""
    return context.new_page()
