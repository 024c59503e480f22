"""What a script can see of a bad layout: a page that scrolls sideways, texts that are cut off, and overlaps."""

from pathlib import Path

from playwright.sync_api import Page

_FIND = (Path(__file__).parent / "overflow.js").read_text(encoding="utf-8")


def overflows(page: Page) -> list[str]:
    """Return what overlaps, is cut off or makes the page scroll sideways."""
    return [str(one) for one in page.evaluate(_FIND)]
