// SV loss and validation loss of all models. Many models are one trace with gaps, so that 300 of them stay smooth.

import { html, useEffect, useMemo, useState, Help, Link } from "../../ui.js";
import { setQuery } from "../../router.js";
import { Plot, CATEGORIES } from "../../plot.js";
import { describe } from "./words.js";

const MOST_POINTS = 60000; // of a panel
const MOST_SVG_POINTS = 30000; // of a panel; more are drawn by WebGL, which is slower for fewer where there is no graphics card
const MOST_NAMED = 8; // models with a colour and a name each
const LEAKING = "#d55e00";
const SELECTED = "#0072b2";
const SV_LOSS = "Sample validation: the loss on samples that the model does not read, in nats per sample. Lower is better, and it rises where a model leaks. The validation loss is of samples that the model reads, so it misses leaks.";
const OTHER = "#8a94a6";
const CURVES_QUERY = { points: 200 };

/** Return the indices of at most `most` points, evenly spaced, the last included. */
function thinned(length, most) {
  if (length <= most) return Array.from({ length }, (_, index) => index);
  return Array.from({ length: most }, (_, index) => Math.round((index * (length - 1)) / (most - 1)));
}

/** Return lists of a trace in which the curves of several models follow each other, with a gap after each. */
function joined(models, curves, key, { pace, texts, most }) {
  const [x, y, text, customdata] = [[], [], [], []];
  for (const model of models) {
    const curve = curves.get(model.number);
    for (const index of thinned(curve.epoch.length, most)) {
      x.push(curve.epoch[index] * pace);
      y.push(curve[key][index]);
      text.push(texts.get(model.number));
      customdata.push(model.number);
    }
    x.push(null); y.push(null); text.push(""); customdata.push(null);
  }
  return { x, y, text, customdata };
}

/** Name the model and the loss of each point, for the table of the plot. */
const withModels = (lists, loss) => ({ ...lists, meta: { model: lists.customdata, loss } });

/** Groups of models that look alike: [{ name, models, colour, width, dash, rank }], the most important last. */
function groupsOf(models, leaks, { selected, title, focus }) {
  const isNamed = models.length <= MOST_NAMED;
  const of = (model) => {
    if (model.number === focus) return "focus";
    if (model.number === selected) return "selected";
    return leaks.has(model.number) ? "leaking" : "other";
  };
  const label = { focus: `model ${focus}${focus === selected ? ` (${title})` : ""}`, selected: `model ${selected} (${title})`, leaking: "leaking models", other: "other models" };
  const look = { focus: { colour: "ink", width: 3 }, selected: { colour: SELECTED, width: 3 }, leaking: { colour: LEAKING, width: 1.4, dash: "dash" }, other: { colour: OTHER, width: 1 } };
  if (isNamed) {
    return models.map((model, index) => ({ ...look[of(model)], name: `model ${model.number}${{ focus: leaks.has(model.number) ? " (leaks)" : "", selected: ` (${title})`, leaking: " (leaks)", other: "" }[of(model)]}`,
      models: [model], ...(of(model) === "focus" ? {} : { colour: CATEGORIES[index] }) }));
  }
  return ["other", "leaking", "selected", "focus"].map((kind) => ({ ...look[kind], name: label[kind], models: models.filter((model) => of(model) === kind) })).filter((group) => group.models.length);
}

function tracesOf(groups, curves, { isOne, pace, unit, texts, count }) {
  const most = Math.max(50, Math.floor(MOST_POINTS / Math.max(1, count)));
  const points = groups.reduce((sum, group) => sum + group.models.reduce((all, model) => all + Math.min(most, curves.get(model.number).epoch.length), 0), 0);
  const type = points > MOST_SVG_POINTS ? "scattergl" : "scatter";
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  return groups.flatMap((group) => [["sv", "SV loss"], ["validation", "validation loss"]].map(([key, label], panel) => ({
    type, mode: "lines", name: group.name, legendgroup: group.name, showlegend: panel === 0, ...withModels(joined(group.models, curves, key, { pace, texts, most }), label),
    line: { color: group.colour === "ink" ? ink : group.colour, width: group.width, dash: isOne ? ["solid", "dot"][panel] : group.dash ?? "solid" },
    opacity: group.name === "other models" ? 0.7 : 1,
    xaxis: isOne || panel === 0 ? "x" : "x2", yaxis: isOne || panel === 0 ? "y" : "y2",
    hovertemplate: `%{text}<br>${label} %{y:.4f} nats per sample at ${unit === "s" ? "%{x:.0f} s" : "epoch %{x}"}<extra></extra>`,
  })));
}

/** The range of losses without the few large ones at the begin, and of models whose loss is no longer finite. */
function rangeOf(models, curves) {
  const values = models.flatMap((model) => ["sv", "validation"].flatMap((key) => curves.get(model.number)[key].filter(Number.isFinite)));
  if (values.length < 2) return undefined;
  values.sort((a, b) => a - b);
  const [low, high] = [values[0], values[Math.floor(0.985 * (values.length - 1))]];
  const margin = 0.04 * (high - low) || 0.01;
  return [low - margin, high + margin];
}

function layoutOf({ isOne, isLog, range, xTitle, isNarrow }) {
  const x = { title: { text: xTitle }, type: isLog ? "log" : "linear", rangemode: isLog ? "normal" : "tozero" };
  const y = { title: { text: "loss (nats per sample)" }, range };
  const legend = { orientation: "h", y: -0.18, yanchor: "top", x: 0, ...(isNarrow ? { y: isOne ? -0.18 : -0.1 } : {}) };
  const title = (text, xPosition, yPosition) => ({ text, x: xPosition, y: yPosition, xref: "paper", yref: "paper", xanchor: "left", yanchor: "bottom", showarrow: false });
  const margin = { l: 64, r: 16, t: 34, b: 80 };
  if (isOne) return { xaxis: x, yaxis: y, legend, margin, annotations: [title("solid: SV loss (held-out samples) · dotted: validation loss (samples that the model reads)", 0, 1)] };
  const [first, second] = isNarrow ? [{ x: [0, 1], y: [0.56, 1] }, { x: [0, 1], y: [0, 0.44] }] : [{ x: [0, 0.48], y: [0, 1] }, { x: [0.53, 1], y: [0, 1] }];
  return {
    xaxis: { ...x, domain: first.x, ...(isNarrow ? { title: { text: "" } } : {}) }, yaxis: { ...y, domain: first.y },
    xaxis2: { ...x, domain: second.x, anchor: "y2", matches: "x" }, yaxis2: { ...y, domain: second.y, anchor: "x2", matches: "y", ...(isNarrow ? {} : { title: { text: "" } }) },
    legend, margin,
    annotations: [title("SV loss (held-out samples)", first.x[0], first.y[1]), title("validation loss (samples it reads)", second.x[0], second.y[1])],
  };
}

/** Return whether the window is too narrow for two plots side by side. */
function useNarrow() {
  const media = useMemo(() => matchMedia("(max-width: 900px)"), []);
  const [isNarrow, setNarrow] = useState(media.matches);
  useEffect(() => {
    const update = () => setNarrow(media.matches);
    media.addEventListener("change", update);
    return () => media.removeEventListener("change", update);
  }, []);
  return isNarrow;
}

/**
 * The plot with its choices.
 *
 * models: those that are shown; curves: Map of `useCurves`; leaks: Map of `leaksOf`; query: of the address (log, x, plot, focus)
 */
export function Curves({ job, models, curves, leaks, searched, query }) {
  const isNarrow = useNarrow();
  const isLog = query.log === "1";
  const isOne = query.plot === "one";
  const unit = query.x === "s" ? "s" : "epoch";
  const { device_seconds: seconds, epochs_trained: epochs } = job.progress;
  const pace = unit === "s" && epochs > 0 ? seconds / epochs : 1;
  const focus = query.focus === undefined ? null : Number(query.focus);
  const shown = useMemo(() => models.filter((model) => curves.get(model.number)?.epoch.length), [models, curves]);
  const best = models.find((model) => model.is_selected) ?? models.find((model) => model.id === job.progress.best_model_id);
  const selected = best?.number ?? null;
  const title = best?.is_selected ? "selected" : job.ended_at ? "best" : "best so far";
  const traces = useMemo(() => {
    const texts = new Map(shown.map((model) => [model.number, `model ${model.number}${leaks.has(model.number) ? " (leaks)" : ""}<br>${describe(model, searched, "<br>")}`]));
    return tracesOf(groupsOf(shown, leaks, { selected, title, focus }), curves, { isOne, pace, unit, texts, count: shown.length });
  }, [shown, leaks, selected, title, focus, isOne, pace, unit, searched]);
  const range = useMemo(() => rangeOf(shown, curves), [shown]);
  const layout = useMemo(() => layoutOf({ isOne, isLog, range, isNarrow, xTitle: unit === "s" ? "device time (s), at the mean pace of the job" : "epoch" }),
    [isOne, isLog, String(range), isNarrow, unit]);
  const focused = shown.find((model) => model.number === focus);
  const choice = (label, name, value, isOn) => html`<button type="button" aria-pressed=${isOn} onClick=${() => setQuery({ [name]: isOn ? null : value })}>${label}</button>`;
  return html`<div class="card">
    <div class="buttons">${choice("Logarithmic x axis", "log", "1", isLog)} ${choice("Device time", "x", "s", unit === "s")} ${choice("Both losses in one plot", "plot", "one", isOne)} <span class="muted">What is the SV loss? <${Help} label="SV loss" text=${SV_LOSS} /></span></div>
    <${Plot} title="SV loss and validation loss of the models" path=${`/v1/jobs/${job.id}/curves`} query=${CURVES_QUERY} formats=${[]} traces=${traces} layout=${layout}
      height=${isNarrow && !isOne ? 620 : 400} on=${{ plotly_click: ({ points }) => setQuery({ focus: points[0].customdata }) }} />
    ${focused ? html`<p><strong><${Link} to=${`/models/${focused.id}`}>Model ${focused.number}<//></strong>: ${describe(focused, searched)}
        <button type="button" class="plain" onClick=${() => setQuery({ focus: null })}>Clear</button></p>`
    : html`<p class="muted small">Point at a curve to see its model. Click it to highlight the model in both plots.</p>`}
  </div>`;
}
