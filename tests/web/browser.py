"""A browser for the page: Debian's Chromium by Playwright, which watches for everything that must not happen."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
NEEDED = "needs Chromium: apt-get install chromium"
PATIENCE_MS = 60_000
"""How long a browser waits for what a test expects. It is long, since it only matters where the state never comes."""
_ABORTED = "net::ERR_ABORTED"  # by the page itself, when it needs the response no more
_TURNS = 50
_PLOTS_FIT = """() => [...document.querySelectorAll(".plot-area")].every((area) => {
  const drawn = area.querySelector(".main-svg");
  return !drawn || Math.abs(drawn.getBoundingClientRect().width - area.clientWidth) < 2;
})"""
_AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


@dataclass
class Watch:
    """What went wrong on a page: errors of its scripts and its console, failed requests, requests to other hosts.

    A test that provokes an error calls `allow`.
    """

    problems: list[str] = field(default_factory=list)
    allowed: list[re.Pattern[str]] = field(default_factory=list)

    def allow(self, pattern: str) -> None:
        """Let problems pass that contain this regular expression."""
        self.allowed.append(re.compile(pattern))

    def unexpected(self) -> list[str]:
        """Return the problems that no test allowed."""
        return [one for one in self.problems if not any(allowed.search(one) for allowed in self.allowed)]

    def of(self, page: Page) -> None:
        """Watch a page from now on."""
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        page.on("request", self._on_request)
        page.on("requestfailed", self._on_failure)
        page.on("response", self._on_response)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"console {message.type}: {message.text}")

    def _on_request(self, request: Request) -> None:
        host = urlsplit(request.url).hostname
        if host not in (None, "", "127.0.0.1"):
            self.problems.append(f"request to another host: {request.url}")

    def _on_failure(self, request: Request) -> None:
        if request.failure != _ABORTED:
            self.problems.append(f"failed request: {request.method} {request.url}: {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self.problems.append(f"status {response.status}: {response.request.method} {response.url}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run Chromium."""
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]  # WebGL without a graphics card
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def open_view(page: Page, url: str, route: str) -> None:
    """Open a view of the page, and wait until it shows its data.

    Parameters
    ----------
    url
        Of the service.
    route
        The part after `#`, such as `/jobs/job_1`.
    """
    page.goto(f"{url}/#{route}")
    wait_until_ready(page)


def wait_until_ready(page: Page) -> None:
    """Wait until the view and all its plots show their data."""
    expect(page.locator("main[data-ready=true]")).to_be_attached()
    expect(page.locator("figure.plot[data-plot-ready=false]")).to_have_count(0)
    for _ in range(_TURNS):  # Plotly fits its plots into a window of another size only after a moment
        if page.evaluate(_PLOTS_FIT):
            return
        page.wait_for_timeout(100)


def assert_accessible(page: Page) -> None:
    """Assert that axe finds no violation of WCAG 2 A and AA in what the page shows now."""
    violations = accessibility_violations(page)
    assert not violations, "\n".join(violations)


def accessibility_violations(page: Page) -> list[str]:
    """Return what axe finds: the rule, what to do, and the elements."""
    if not page.evaluate("() => 'axe' in globalThis"):
        page.evaluate(_axe_source())
    found: list[dict[str, Any]] = page.evaluate(
        "(tags) => axe.run(document, { runOnly: tags, resultTypes: ['violations'] }).then((found) => found.violations)",
        _AXE_TAGS,
    )
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: "
        + "; ".join(f"{node['target']} {node['html'][:160]}" for node in one["nodes"][:5])
        for one in found
    ]


def _axe_source() -> str:
    assert find_spec("axe_playwright_python"), "axe-playwright-python of the extra `test` is not installed"
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
