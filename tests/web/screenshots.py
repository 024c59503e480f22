"""Pictures of every view: ``python -m tests.web.screenshots FOLDER [--only job model-large]``, or ``make screenshots``.

Starts seeded services, shows each view of `tests.web.views` in a wide and a narrow window, light and dark, and writes
NAME-WIDTH-COLOURS.png. Prints what a script can see of a bad layout; look at the pictures all the same. The exit code is 1 if a
view shows an error.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, ViewportSize

from tests.web.browser import CHROMIUM, NEEDED, Watch, chromium, open_view, wait_until_ready
from tests.web.overflow import overflows
from tests.web.seeding import Seeded, seeded
from tests.web.service import api_process
from tests.web.views import VIEWS, View

WIDTHS = (1280, 420)
COLOURS = ("light", "dark")


def photograph(browser: Browser, folder: Path, views: Iterable[View], seeds: Path) -> Iterator[str]:
    """Write the pictures of views, and yield what is wrong with them.

    Parameters
    ----------
    browser
        Chromium.
    folder
        Where the pictures go.
    views
        The views.
    seeds
        Folder of the seeded states.
    """
    wanted = list(views)
    for state in dict.fromkeys(view.state for view in wanted):
        data = seeded(seeds, state)
        with api_process(data) as api:
            ids = Seeded.ids_of(data)
            for view in wanted:
                if view.state == state:
                    yield from _photograph_view(browser, folder, view, api.url, view.address(ids))


def _photograph_view(browser: Browser, folder: Path, view: View, url: str, route: str) -> Iterator[str]:
    context = browser.new_context(reduced_motion="reduce")
    watch, page = Watch(), context.new_page()
    page.set_default_timeout(30_000)
    watch.of(page)
    try:
        for width in WIDTHS:
            page.set_viewport_size(ViewportSize(width=width, height=800))
            open_view(page, url, route)
            yield from (f"{view.name}, {width} px: {one}" for one in overflows(page))
            for colours in COLOURS:
                _colour(page, colours)
                page.screenshot(path=folder / f"{view.name}-{width}-{colours}.png", full_page=True)
    except AssertionError as error:
        page.screenshot(path=folder / f"{view.name}-error.png", full_page=True)
        yield f"{view.name}: ERROR: the view does not show its data: {str(error).splitlines()[0]}"
    yield from (f"{view.name}: ERROR: {one}" for one in watch.unexpected())
    context.close()


def _colour(page: Page, colours: str) -> None:
    page.emulate_media(color_scheme="dark" if colours == "dark" else "light")
    wait_until_ready(page)  # plots are drawn again


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("build/screenshots"))
    parser.add_argument("--only", nargs="+", metavar="VIEW", help="names of views, or of their modules")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(NEEDED)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    wanted = arguments.only
    views = [view for view in VIEWS if wanted is None or {view.name, view.module} & set(wanted)]
    has_errors = False
    with tempfile.TemporaryDirectory(prefix="latentry-screenshots-") as seeds, chromium() as browser:
        for problem in photograph(browser, arguments.folder, views, Path(seeds)):
            print(problem, flush=True)
            has_errors |= ": ERROR: " in problem
    print(f"{len(views)} views, see {arguments.folder}")
    sys.exit(int(has_errors))


if __name__ == "__main__":
    main()
