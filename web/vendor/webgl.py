"""Write the functions that Plotly's WebGL plots compile: ``python web/vendor/webgl.py``. Needs playwright and Chromium.

The library regl, which draws `scattergl`, `parcoords` and `splom`, makes functions from text. The Content-Security-Policy of the
page forbids this. There are few such functions, and their text depends on nothing but the kinds of plots. So this program draws
each kind without the policy, and writes the functions into a module. `web/js/plot.js` gives them to regl. Run it again if
`tests/web` finds that a new version of Plotly draws nothing: it then makes other functions.
"""

import random
from importlib.resources import files
from pathlib import Path

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
PLOTS = """() => {
  const x = [...Array(50).keys()], y = x.map((one) => Math.sin(one / 9));
  const gl = (more) => ({ type: "scattergl", mode: "lines", x, y, ...more });
  const dimensions = [{ values: x }, { values: y, constraintrange: [0, 1] }];
  return [[gl()], [gl({ line: { dash: "dash", width: 3 } })], [gl({ mode: "markers" })], [gl({ mode: "lines+markers" })], [gl({ mode: "text", text: "a" })],
    [gl({ mode: "markers", marker: { color: x, size: x, symbol: x.map((one) => (one % 2 ? "line-ns-open" : "circle")) } })],
    [gl({ fill: "tozeroy" })], [gl({ error_y: { array: x } })], [gl({ line: { shape: "hv" } })], [gl(), gl({ xaxis: "x2", yaxis: "y2" })],
    [{ type: "parcoords", line: { color: y }, dimensions }], [{ type: "splom", dimensions }]];
}"""
DRAW = """async ([plots, order]) => {
  const made = [];
  globalThis.Function = new Proxy(Function, { apply(target, self, texts) { made.push(texts); return Reflect.apply(target, self, texts); } });
  for (const index of order) {
    const element = document.body.appendChild(document.createElement("div"));
    await Plotly.newPlot(element, plots[index], { dragmode: "select", xaxis2: { domain: [0.5, 1] }, yaxis2: { anchor: "x2" } });
    await new Promise((resolve) => { setTimeout(resolve, 200); });
    Plotly.purge(element);
  }
  return made;
}"""
HEADER = """// Written by webgl.py: the functions that regl (regl.LICENSE) makes for Plotly's WebGL plots. The name is a hash of the text.

/** Return a short name of the texts that `Function` gets. */
export function hash(texts) {
  let [a, b] = [0x811c9dc5, 0x1b873593];
  for (const text of texts) {
    for (let index = 0; index < text.length; index += 1) {
      const code = text.charCodeAt(index);
      a = Math.imul(a ^ code, 0x01000193);
      b = Math.imul(b ^ code, 0x5bd1e995);
    }
  }
  return `f${(a >>> 0).toString(36)}${(b >>> 0).toString(36)}`;
}

export const FUNCTIONS = {
"""


def compiled_functions() -> list[list[str]]:
    """Return the arguments of `Function` in all plots: names of parameters, and at last the text."""
    found: dict[str, list[str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        for seed in range(3):  # the order must not matter
            page = browser.new_page()
            page.add_script_tag(path=str(files("plotly") / "package_data" / "plotly.min.js"))
            plots = page.evaluate(PLOTS)
            order = random.Random(seed).sample(range(len(plots)), len(plots))
            found |= {"\n".join(texts): texts for texts in page.evaluate(DRAW, [plots, order])}
            page.close()
        browser.close()
    return [found[key] for key in sorted(found)]


def hash_of(texts: list[str]) -> str:
    """Return what `hash` in the module returns."""
    a, b = 0x811C9DC5, 0x1B873593
    for code in "".join(texts).encode("utf-16-le")[::2]:
        a, b = (a ^ code) * 0x01000193 % 2**32, (b ^ code) * 0x5BD1E995 % 2**32
    return f"f{_base36(a)}{_base36(b)}"


def _base36(number: int) -> str:
    digits = "0123456789abcdefghijklmnopqrstuvwxyz"
    return (_base36(number // 36) if number >= 36 else "") + digits[number % 36]


if __name__ == "__main__":
    functions = compiled_functions()
    lines = [f"{hash_of(texts)}({', '.join(texts[:-1])}) {{\n{texts[-1]}\n}},\n" for texts in functions]
    (HERE / "webgl.js").write_text(HEADER + "".join(lines) + "};\n")
