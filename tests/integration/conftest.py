"""A watched page in a browser, for tests that show the page of a whole service; which tests share a process."""

import pytest

from tests.web.pages import browser, context, page, watch

__all__ = ["browser", "context", "page", "watch"]


def pytest_itemcollected(item: pytest.Item) -> None:
    """Keep the tests of the common service in one process, so that it starts once, and those of each other file in one."""
    shares = "start_service" in getattr(item, "fixturenames", ())
    item.add_marker(pytest.mark.xdist_group("service" if shares else item.path.stem))
