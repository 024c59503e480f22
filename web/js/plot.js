// Plots by Plotly, which is loaded when the first plot is shown. Every plot offers its numbers, its picture, and the code that fetches them.

import { html, useEffect, useRef, useState, Dialog, Problem } from "./ui.js";
import { download, saveBlob } from "./api.js";
import { CodeLines } from "./code.js";
import { csvOf } from "./plot_table.js";

let loading = null;

/**
 * Plotly sets a few `style` attributes, for example of heat maps and colour bars. The Content-Security-Policy forbids the
 * attribute, but not the same change by the object model.
 */
function allowStyles() {
  const { setAttribute } = Element.prototype;
  Element.prototype.setAttribute = function set(name, value) {
    if (name === "style") this.style.cssText = value;
    else setAttribute.call(this, name, value);
  };
}

/** Load Plotly once. */
export function loadPlotly() {
  loading ??= new Promise((resolve, reject) => {
    allowStyles();
    const script = document.createElement("script");
    script.src = new URL("../vendor/plotly.min.js", import.meta.url).href;
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => { loading = null; reject(new Error("The file of the plots could not be loaded. Reload the page.")); };
    document.head.append(script);
  });
  return loading;
}

/** Colours that people with colour vision deficiency can tell apart (Okabe and Ito 2008). */
export const CATEGORIES = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c00", "#7f7f7f"];
const MORE_CATEGORIES = ["#7a4fc9", "#b0243f", "#8a5a2b", "#12b5b0"]; // drawn with other dashes, see `dashOf`
/** Most categories that have colours of their own. */
export const MOST_CATEGORIES = CATEGORIES.length + MORE_CATEGORIES.length;
/** For ordered values, from low to high: viridis. */
export const SEQUENCE = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const DARK_START = 4; // of SEQUENCE: from there colours have at least 3:1 on the dark cards

const isDark = () => getComputedStyle(document.documentElement).colorScheme === "dark";

/** Return the sequence on the page's background: in dark mode without its darkest colours, which lines would hide in. */
export function sequence() {
  return isDark() ? SEQUENCE.slice(DARK_START) : SEQUENCE;
}

/** Return the dash of category `index` of `count`: another one after the eighth, so that colour alone tells nothing apart. */
export function dashOf(index, count, usual = "solid", other = "dashdot") {
  return count <= MOST_CATEGORIES && index >= CATEGORIES.length ? other : usual;
}

/** Return a colour for category `index` of `count`: distinct colours for up to 12, a sequence for more. */
export function colourOf(index, count) {
  if (count <= MOST_CATEGORIES) return [...CATEGORIES, ...MORE_CATEGORIES][index];
  const scale = sequence();
  const at = (index / (count - 1)) * (scale.length - 1);
  const [low, high] = [scale[Math.floor(at)], scale[Math.ceil(at)]].map((colour) => [1, 3, 5].map((part) => parseInt(colour.slice(part, part + 2), 16)));
  return `#${low.map((value, part) => Math.round(value + (at % 1) * (high[part] - value)).toString(16).padStart(2, "0")).join("")}`;
}

/** The title of every axis of time: values of bins stand at their centres. (The API tells the starts of bins.) from: the event at 0 s */
export const timeTitle = (from = "") => `Time${from && ` from ${from}`} (s, centre of the bin)`;

/** Return a colour with an opacity, for bands around lines. */
export function faded(colour, opacity) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${red},${green},${blue},${opacity})`;
}

const ON_DARK = [["#0072b2", "#4a88e6"], ["rgba(0,114,178,", "rgba(74,136,230,"], ["#8a94a6", "#a3aec0"]];

/** Return a colour, or a list of them, on the page's background: the dark blue of the palette has little contrast on a dark one. */
export function onPage(colour) {
  if (!isDark()) return colour;
  if (Array.isArray(colour)) return colour.map(onPage);
  const found = typeof colour === "string" && ON_DARK.find(([dark]) => colour.startsWith(dark));
  return found ? colour.replace(...found) : colour;
}

function recoloured(traces) {
  return traces.map((trace) => {
    const changes = trace.fillcolor ? { fillcolor: onPage(trace.fillcolor) } : {};
    for (const part of ["line", "marker", "textfont"]) if (trace[part]?.color) changes[part] = { ...trace[part], color: onPage(trace[part].color) };
    return { ...trace, ...changes };
  });
}

function merged(base, changes) {
  const result = { ...base };
  for (const [key, value] of Object.entries(changes ?? {})) {
    const isPlain = value && typeof value === "object" && !Array.isArray(value);
    result[key] = isPlain ? merged(base?.[key] ?? {}, value) : value;
  }
  return result;
}

/** Return a layout in the colours of the page. Every axis of the layout gets them. */
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const [ink, muted, grid] = ["--ink", "--muted", "--line"].map((name) => style.getPropertyValue(name).trim());
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true, title: { font: { size: 13 } } };
  const result = merged({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: CATEGORIES, hovermode: "closest", dragmode: "zoom",
    font: { color: ink, family: "system-ui, sans-serif", size: 13 }, margin: { l: 56, r: 16, t: 16, b: 44 },
    hoverlabel: { bgcolor: style.getPropertyValue("--card").trim(), font: { color: ink } }, xaxis: {}, yaxis: {},
    legend: { bgcolor: "rgba(0,0,0,0)" }, modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: ink }, uirevision: "keep",
  }, layout);
  for (const key of Object.keys(result)) if (/^[xy]axis\d*$/.test(key)) result[key] = merged(axis, result[key]);
  for (const key of Object.keys(result)) {
    if (!/^scene\d*$/.test(key)) continue;
    for (const name of ["xaxis", "yaxis", "zaxis"]) {
      result[key][name] = merged({ gridcolor: grid, zerolinecolor: grid, showbackground: false, color: ink }, result[key][name]);
    }
  }
  return result;
}

/** Return a number that changes when the colours of the page change. Figures with `colourOf` are made anew then. */
export function useTheme() {
  const [theme, setTheme] = useState(0);
  useEffect(() => {
    const media = matchMedia("(prefers-color-scheme: dark)");
    const update = () => setTheme((number) => number + 1);
    media.addEventListener("change", update);
    addEventListener("themechange", update);
    return () => { media.removeEventListener("change", update); removeEventListener("themechange", update); };
  }, []);
  return theme;
}

/** Tab passes over the toolbar of a plot: its buttons need a pointer on the plot anyway. */
function skipToolbar(element) {
  for (const button of element.querySelectorAll(".modebar-btn")) button.tabIndex = -1;
}

/** Of Plotly. It offers to send a chart to a service in the internet; nothing leaves this one. */
const CONFIG = {
  displaylogo: false, responsive: true, displayModeBar: "hover", plotlyServerURL: "",
  modeBarButtonsToRemove: ["toImage", "lasso2d", "select2d", "sendChartToCloud", "sendDataToCloud"],
};

const AROUND = 130; // pixels: of a figure in space, the caption above and the words below, which fit into the window with it
const LOWEST = 300;

/**
 * A plot with its tools.
 *
 * title: what it shows; also the text for screen readers
 * traces, layout: Plotly's. New ones replace the old ones; zoom and camera stay while `layout.uirevision` is the same
 * path, query: the request whose response has the numbers, for the buttons and the code; formats: those the request offers.
 *   The CSV has the points of the plot, see `plot_table.js`; `meta` of a trace holds further columns.
 * height: pixels; on: { "plotly_click": handler, … }; plotRef: gets { element, Plotly } for animations
 */
export function Plot({ title, traces, layout, path, query, formats = ["npy"], height = 320, on, plotRef, note }) {
  const element = useRef(null);
  const [error, setError] = useState(null);
  const [isReady, setReady] = useState(false);
  const theme = useTheme();
  const isSpace = traces.some(({ type }) => type === "scatter3d");
  const high = isSpace ? Math.min(height, Math.max(LOWEST, innerHeight - AROUND)) : height;
  const handlers = useRef(on);
  handlers.current = on;
  useEffect(() => {
    let isGone = false;
    loadPlotly().then(async (Plotly) => {
      if (isGone) return;
      const { current } = element;
      const isFirst = !current.data;
      await Plotly.react(current, isDark() ? recoloured(traces) : traces, { ...themed(layout), height: high }, CONFIG);
      if (isFirst) {
        for (const name of Object.keys(handlers.current ?? {})) current.on(name, (event) => handlers.current[name]?.(event));
      }
      if (isFirst) current.on("plotly_afterplot", () => skipToolbar(current));
      skipToolbar(current);
      if (plotRef) plotRef.current = { element: current, Plotly };
      setReady(true);
    }).catch((caught) => { if (!isGone) setError(caught); });
    return () => { isGone = true; };
  }, [traces, layout, high, theme]);
  useEffect(() => (isSpace ? scrollByWheel(element.current) : undefined), [isSpace]);
  useEffect(() => {
    const { current } = element;
    return () => globalThis.Plotly?.purge(current);
  }, []);
  return html`<figure class="plot" data-plot-ready=${isReady}>
    <figcaption><span>${title}</span>${note && html` <span class="muted">${note}</span>`}<${PlotTools} title=${title} element=${element} path=${path} query=${query} formats=${formats} /></figcaption>
    <${Problem} error=${error} />
    <div ref=${element} role="group" aria-label=${title} class="plot-area" style=${{ height: `${high}px` }}></div>
    ${isSpace && html`<p class="muted small">Drag to turn. To zoom, turn the wheel with Ctrl held, or click into the figure first.</p>`}
  </figure>`;
}

/**
 * The wheel scrolls the page also over a figure in space. It zooms the figure with Ctrl, or after a click into it until the
 * pointer leaves it. Return a function that ends this.
 */
function scrollByWheel(element) {
  let isChosen = false;
  const choose = () => { isChosen = true; };
  const leave = () => { isChosen = false; };
  const turn = (event) => { if (!event.ctrlKey && !isChosen && event.target.closest?.(".gl-container, [id^=scene]")) event.stopPropagation(); };
  const listeners = [["pointerdown", choose], ["pointerleave", leave], ["wheel", turn]];
  for (const [name, listener] of listeners) element.addEventListener(name, listener, { capture: true, passive: true });
  return () => { for (const [name, listener] of listeners) element.removeEventListener(name, listener, { capture: true }); };
}

const fileName = (title) => title.replace(/\W+/g, "-").replace(/-$/, "").toLowerCase();

/** Return the content of a `data:` URL. The policy of the page does not let `fetch` read one. */
function blobOf(url) {
  const [, type, base64, text] = /^data:([^;,]*)(;base64)?[^,]*,([^]*)$/.exec(url);
  return new Blob([base64 ? Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)) : decodeURIComponent(text)], { type });
}

function PlotTools({ title, element, path, query, formats }) {
  const [shown, setShown] = useState("");
  const [error, setError] = useState(null);
  const close = () => setShown("");
  const run = (action) => async () => {
    try { setError(null); await action(); close(); } catch (caught) { setError(caught); }
  };
  const picture = (format) => run(async () => {
    const { current } = element;
    const url = await globalThis.Plotly.toImage(current, { format, scale: format === "png" ? 3 : 1, width: current.clientWidth, height: current.clientHeight });
    saveBlob(blobOf(url), `${fileName(title)}.${format}`);
  });
  const numbers = run(() => saveBlob(new Blob([csvOf(element.current)], { type: "text/csv" }), `${fileName(title)}.csv`));
  return html`<span class="plot-tools">
      <button type="button" class="plain" aria-label=${`Save or fetch: ${title}`} aria-haspopup="dialog" onClick=${() => setShown("tools")}>Save…</button></span>
    ${shown && html`<${Dialog} title=${title} onClose=${close}>
      <p class="buttons"><button type="button" onClick=${picture("svg")}>SVG</button> <button type="button" onClick=${picture("png")}>PNG</button>
        <button type="button" onClick=${numbers}>CSV</button>
        ${path && formats.map((format) => html` <button type="button" onClick=${run(() => download(path, { ...query, format }))}>${format}</button>`)}</p>
      <p class="muted small">The CSV has a row for each point, with its series.</p>
      <${Problem} error=${error} />
      ${path && html`<h3>The same numbers in a program</h3><${CodeLines} path=${path} query=${query} isArray=${formats.includes("npy")} />`}
    <//>`}`;
}
