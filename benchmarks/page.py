"""How quick the page is in a browser: ``python -m benchmarks.page [--repeats 5] [--only home-large model-large] [--json]``.

Starts seeded services (real processes, without workers) and shows the views of `tests.web.views` in Chromium, each time with an
empty cache, in turns. Needs the extra `test` and Chromium. All figures are medians:

| figure | |
|---|---|
| `first_paint_ms` | from the start of the navigation to the first text or picture |
| `interactive_ms` | to the moment at which the view shows its data and takes input, which it marks by `data-ready` |
| `plots_ms` | to the moment at which all its plots are drawn; null without plots |
| `bytes`, `bytes_of_plotly` | transferred, with headers, as compressed: all but Plotly, and Plotly |
| `long_task_ms_max` | the longest time during which the page took no input, until 1 s after it was ready |
| `trial_change_ms` | of a model: from the key to the last plot of the next trial |
| `frames_per_second` | while a mouse turns the three-dimensional plot; `points` says how many it has, `renderer` who draws |
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from benchmarks import report
from tests.web.browser import CHROMIUM, NEEDED, chromium, wait_until_ready
from tests.web.seeded_storage import Seeded
from tests.web.seeding import seeded
from tests.web.service import api_process
from tests.web.views import VIEWS, View

_SETTLE_MS = 1000
_TURN_MS = 2000
_TRIALS_STEPPED = 10
_FIGURES = (
    "first_paint_ms", "interactive_ms", "plots_ms", "bytes", "bytes_of_plotly", "long_task_ms_max", "trial_change_ms",
    "frames_per_second", "points",
)  # fmt: skip

_OBSERVE = """
globalThis.measured = { longTask: 0, ready: null, plots: null, drawn: 0, frames: 0 };
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) measured.longTask = Math.max(measured.longTask, entry.duration);
}).observe({ type: "longtask", buffered: true });
new MutationObserver(() => {
  if (measured.ready === null && document.querySelector("main[data-ready=true]")) measured.ready = performance.now();
  const plots = [...document.querySelectorAll("figure.plot")];
  if (plots.length && plots.every((plot) => plot.dataset.plotReady === "true")) measured.plots ??= performance.now();
}).observe(document, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-ready", "data-plot-ready"] });
addEventListener("keydown", () => { measured.key = performance.now(); }, { capture: true });
"""
"""Runs in the page before its own scripts."""
_WATCH_PLOTS = """() => {
  measured.drawn = 0;
  const draw = () => { measured.drawn = performance.now(); };
  for (const plot of document.querySelectorAll(".js-plotly-plot")) plot.on("plotly_afterplot", draw);
}"""
_SCENE = """() => {
  const plot = [...document.querySelectorAll(".js-plotly-plot")].find((one) => one.querySelector(".gl-container canvas"));
  if (!plot) return null;
  plot.scrollIntoView({ block: "center" });
  const box = plot.querySelector(".gl-container canvas").getBoundingClientRect();
  const points = plot.data.reduce((sum, trace) => sum + (trace.x?.length ?? 0), 0);
  const gl = document.createElement("canvas").getContext("webgl");
  const named = gl?.getExtension("WEBGL_debug_renderer_info");
  const renderer = gl && (named ? gl.getParameter(named.UNMASKED_RENDERER_WEBGL) : gl.getParameter(gl.RENDERER));
  return { x: box.x + box.width / 2, y: box.y + box.height / 2, points, renderer };
}"""
_COUNT_FRAMES = (
    "() => { const count = () => { measured.frames += 1; requestAnimationFrame(count); }; count(); }"
)


def visit(browser: Browser, url: str, route: str) -> dict[str, Any]:
    """Show a view once, with an empty cache, and return its figures."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.add_init_script(_OBSERVE)
    page = context.new_page()
    transferred = _count_bytes(page)
    page.goto(f"{url}/#{route}")
    wait_until_ready(page)
    page.wait_for_timeout(_SETTLE_MS)  # work that comes later counts, too
    found = page.evaluate(
        "() => ({ ...measured, paint: performance.getEntriesByName('first-contentful-paint')[0]?.startTime })"
    )
    figures = {
        "first_paint_ms": found["paint"],
        "interactive_ms": found["ready"],
        "plots_ms": found["plots"],
        "bytes": sum(size for address, size in transferred.items() if "plotly.min.js" not in address),
        "bytes_of_plotly": sum(size for address, size in transferred.items() if "plotly.min.js" in address),
        "long_task_ms_max": found["longTask"],
    }
    if route.startswith("/models/"):
        figures |= {"trial_change_ms": _change_trial(page), **_turn(page)}
    context.close()
    return figures


def _count_bytes(page: Page) -> dict[str, int]:
    """Return the bytes of each address, which grow while the page loads."""
    session, transferred, addresses = page.context.new_cdp_session(page), dict[str, int](), dict[str, str]()

    def begin(event: dict[str, Any]) -> None:
        addresses[event["requestId"]] = event["request"]["url"]

    def end(event: dict[str, Any]) -> None:
        address = addresses.get(event["requestId"], "")
        transferred[address] = transferred.get(address, 0) + int(event["encodedDataLength"])

    session.on("Network.requestWillBeSent", begin)
    session.on("Network.loadingFinished", end)
    session.send("Network.enable")
    return transferred


def _change_trial(page: Page) -> float | None:
    """Return the median time from the key to the last plot of the next trial; None if the view draws nothing then."""
    page.evaluate(_WATCH_PLOTS)
    page.locator("main").focus()
    taken = []
    for _ in range(_TRIALS_STEPPED):
        page.evaluate("() => { measured.drawn = 0; }")
        page.keyboard.press("ArrowRight")
        page.wait_for_timeout(500)
        found = page.evaluate("() => measured")
        if found["drawn"]:
            taken.append(found["drawn"] - found["key"])
    return statistics.median(taken) if taken else None


def _turn(page: Page) -> dict[str, Any]:
    """Turn the first three-dimensional plot by the mouse; return nothing if the view has none."""
    scene = page.evaluate(_SCENE)
    if scene is None:
        return {}
    page.mouse.move(scene["x"], scene["y"])
    page.mouse.down()
    page.evaluate(_COUNT_FRAMES)
    before = page.evaluate("() => [measured.frames, performance.now()]")
    steps = _TURN_MS // 16
    for step in range(steps):
        page.mouse.move(scene["x"] + 150 * step / steps, scene["y"] + 40 * step / steps)
    after = page.evaluate("() => [measured.frames, performance.now()]")
    page.mouse.up()
    per_second = 1000 * (after[0] - before[0]) / (after[1] - before[1])
    return {"frames_per_second": per_second, "points": scene["points"], "renderer": scene["renderer"]}


def measure(
    browser: Browser, services: Mapping[str, tuple[str, dict[str, str]]], views: Sequence[View], repeats: int
) -> list[dict[str, Any]]:
    """Visit all views in turns, and return the medians of each. One visit before warms the service.

    Parameters
    ----------
    browser
        Chromium.
    services
        URL and ids of each state.
    views
        The views.
    repeats
        Number of visits of each view that count.
    """
    visits: dict[str, list[dict[str, Any]]] = {view.name: [] for view in views}
    for _ in range(repeats + 1):
        for view in views:
            url, ids = services[view.state]
            visits[view.name].append(visit(browser, url, view.address(ids)))
    return [{"view": name, **_medians(found[1:])} for name, found in visits.items()]


def _medians(visits: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in _FIGURES:
        known = [one[name] for one in visits if one.get(name) is not None]
        if known or name not in ("trial_change_ms", "frames_per_second", "points"):
            found[name] = round(statistics.median(known)) if known else None
    renderers = {one["renderer"] for one in visits if "renderer" in one}
    return found | ({"renderer": renderers.pop()} if renderers else {})


def processor() -> str:
    """Return the name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown processor"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        "unknown processor",
    )


def main() -> None:
    """Run the benchmark."""
    parser = report.parser(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="VIEW", help="names of views")
    arguments = parser.parse_args()
    if CHROMIUM is None:
        sys.exit(NEEDED)
    views = [view for view in VIEWS if arguments.only is None or view.name in arguments.only]
    with tempfile.TemporaryDirectory(prefix="latentry-page-") as folder, ExitStack() as running:
        services = {}
        for state in dict.fromkeys(view.state for view in views):
            data = seeded(Path(folder), state)
            services[state] = running.enter_context(api_process(data)).url, Seeded.ids_of(data)
        browser = running.enter_context(chromium())
        show(measure(browser, services, views, arguments.repeats), browser.version, as_json=arguments.json)


def show(rows: Sequence[Mapping[str, Any]], version: str, *, as_json: bool) -> None:
    """Print the rows as lines of JSON, or as a table for RESULTS.md."""
    machine = f"{report.machine()}, {processor()}, Chromium {version}"
    if as_json:
        for row in rows:
            print(json.dumps({**row, "machine": machine}), flush=True)
        return
    columns = [name for name in ("view", *_FIGURES) if any(name in row for row in rows)]
    table = [[name.replace("_", " ") for name in columns]]
    table += [["" if row.get(name) is None else row[name] for name in columns] for row in rows]
    renderers = {row["renderer"] for row in rows if "renderer" in row}
    print(f"{machine}; {', '.join(renderers) or 'no WebGL'}\n\n{report.markdown_table(table)}")


if __name__ == "__main__":
    main()
