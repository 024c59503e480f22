"""A watched page in a browser, for tests that show the page of a whole service."""

from tests.web.pages import browser, context, page, watch

__all__ = ["browser", "context", "page", "watch"]
