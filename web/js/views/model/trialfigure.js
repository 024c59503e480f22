// The figure of one trial: panels under each other on one axis of time, with a line through all of them under the pointer.

import { CATEGORIES, SEQUENCE, colourOf, timeTitle } from "../../plot.js";
import { spoken } from "./owner.js";

const HEIGHTS = { spikes: 220, rates: 220, factors: 170, inputs: 110 };
const GAP = 14;
const [TOP, BOTTOM] = [40, 48];
const SPIKES = [[0, "rgba(47,143,216,0)"], [1, "#2f8fd8"]];
const VIRIDIS = SEQUENCE.map((colour, index) => [index / (SEQUENCE.length - 1), colour]);
const MOST_LINES = 40;

/**
 * Return {traces, layout, height} of a trial.
 *
 * sources: the panels; data: {key: {shape: [bins, components], data}}; index: position of the trial in `trials`;
 * scale: an object that keeps the range of colours from trial to trial; mode: "map", "own" or "lines"; neurons: chosen ones
 */
export function figureOf({ sources, data, trials, index, order, scale, mode, neurons, isNarrow }) {
  const times = trials.time.map((start) => start + trials.width / 2);
  const panels = sources.map((source) => ({ ...source, height: HEIGHTS[source.key] ?? 110 }));
  const inner = panels.reduce((sum, { height }) => sum + height + GAP, -GAP);
  const layout = {
    margin: { l: isNarrow ? 66 : 78, r: isNarrow ? 78 : 120, t: TOP, b: BOTTOM }, hovermode: "closest", hoverdistance: 30, spikedistance: -1, showlegend: true,
    uirevision: `${sources.map(({ key }) => key)}${mode}`, shapes: [], annotations: [],
  };
  const traces = [];
  let top = inner;
  panels.forEach((panel, at) => {
    const domain = [Math.max(0, (top - panel.height) / inner), top / inner];
    top -= panel.height + GAP;
    const number = at ? at + 1 : "";
    layout[`legend${number}`] = { x: 1.01, y: domain[1], yanchor: "top", bgcolor: "rgba(0,0,0,0)", font: { size: 11 } };
    const context = { panel, array: data[panel.key], times, order, scale, mode, neurons, axis: `y${number}`, legend: `legend${number}`, domain, spikes: data.spikes };
    const { traces: some, axis } = panelOf(context);
    layout[`yaxis${number}`] = { domain, zeroline: false, automargin: false, ...axis };
    traces.push(...some);
  });
  layout.xaxis = {
    title: { text: timeTitle() }, anchor: `y${panels.length > 1 ? panels.length : ""}`, range: trials.span, zeroline: false, automargin: false, // fixed margins: a new trial is drawn in one pass
    showspikes: true, spikemode: "across", spikesnap: "cursor", spikethickness: 1, spikedash: "solid", spikecolor: "#8a93a3",
  };
  addEvents(layout, trials, index);
  addEnd(layout, trials, index);
  return { traces, layout, height: inner + TOP + BOTTOM };
}

function panelOf(context) {
  const { panel, mode } = context;
  if (panel.key === "spikes") return mapPanel(context, { colorscale: SPIKES, unit: "spikes", showscale: false, top: 2 });
  if (panel.key === "rates") {
    if (mode === "lines") return chosenPanel(context);
    return mode === "own" ? ownPanel(context) : mapPanel(context, { colorscale: VIRIDIS, unit: "spikes/s", showscale: true });
  }
  return linesPanel(context);
}

/** Return rows of a matrix bins × neurons: one for each neuron, in the order. */
function rowsOf({ shape: [bins, neurons], data }, positions) {
  return positions.map((position) => {
    const row = new Float32Array(bins);
    for (let bin = 0; bin < bins; bin += 1) row[bin] = data[bin * neurons + position];
    return row;
  });
}

const names = new WeakMap();

/** Return the name of the neuron for each cell, for hovering: made once for an order. */
function namesOf(order, bins) {
  if (!names.has(order)) names.set(order, order.positions.map((position) => new Array(bins).fill(`neuron ${order.labels[position]}`)));
  return names.get(order);
}

function mapPanel({ panel, array, times, order, scale, axis, domain }, { colorscale, unit, showscale, top, rows = rowsOf(array, order.positions) }) {
  scale[panel.key] ??= top ?? highOf(array.data);
  const bar = { x: 1.015, xanchor: "left", y: (domain[0] + domain[1]) / 2, len: domain[1] - domain[0], thickness: 10, title: { text: unit, side: "right", font: { size: 11 } }, tickfont: { size: 11 } };
  return {
    traces: [{
      type: "heatmap", x: times, z: rows, customdata: namesOf(order, times.length), zmin: 0, zmax: scale[panel.key], meta: { quantity: `${panel.title} (${unit})`, rows: order.positions.map((position) => `neuron ${order.labels[position]}`) }, colorscale, showscale, colorbar: bar,
      xaxis: "x", yaxis: axis, name: panel.title, hovertemplate: `%{customdata}<br>%{x:.3f} s<br>%{z:.3~g} ${unit}<extra></extra>`,
    }],
    axis: { title: { text: `${panel.title}<br>neuron${order.kind === "given" ? "" : " (ordered)"}` }, autorange: "reversed", showgrid: false, showticklabels: order.kind === "given" },
  };
}

/** The heat map in parts of each neuron's own maximum in this trial. */
function ownPanel(context) {
  const rows = rowsOf(context.array, context.order.positions).map((row) => {
    const most = row.reduce((high, value) => (value > high ? value : high), 0) || 1;
    return row.map((value) => value / most);
  });
  return mapPanel({ ...context, scale: {} }, { colorscale: VIRIDIS, unit: "of its maximum", showscale: true, top: 1, rows });
}

/** Return a high value that few exceed, so that one neuron does not take all colours. */
function highOf(data) {
  const step = Math.max(1, Math.floor(data.length / 5000));
  const some = [];
  for (let at = 0; at < data.length; at += step) if (Number.isFinite(data[at])) some.push(data[at]);
  some.sort((a, b) => a - b);
  return some[Math.floor(0.99 * (some.length - 1))] || 1;
}

function lineOf(array, component) {
  const { shape: [bins, components], data } = array;
  return Array.from({ length: bins }, (_, bin) => { const value = data[bin * components + component]; return Number.isNaN(value) ? null : value; });
}

function linesPanel({ panel, array, times, axis, legend, domain }) {
  const count = Math.min(array.shape[1], MOST_LINES);
  const word = { factors: "factor", inputs: "input" }[panel.key];
  const isLegend = count <= 4;
  const traces = Array.from({ length: count }, (_, component) => ({
    type: "scatter", mode: "lines", x: times, y: lineOf(array, component), xaxis: "x", yaxis: axis, legend, showlegend: isLegend,
    name: word ? `${word} ${component}` : count === 2 ? ["x", "y"][component] : `component ${component}`, line: { width: 1.4, color: colourOf(component, count), dash: ["solid", "dash", "dot", "dashdot"][isLegend ? component : 0] },
    hovertemplate: `${word ?? spoken(panel.key)} ${component}<br>%{x:.3f} s<br>%{y:.4~g} ${panel.units ?? ""}<extra></extra>`,
  }));
  const unit = panel.isBehaviour ? panel.units || "unit of the file" : "a.u.";
  const title = domain[1] - domain[0] < 0.12 ? panel.title : `${panel.title}`;
  return { traces, axis: { title: { text: `${title}<br>(${unit})`, font: { size: 12 } }, nticks: 5 } };
}

/** Rates of chosen neurons as lines, with their spikes as ticks above, in rows of the same colours. */
function chosenPanel({ panel, array, times, order, axis, legend, neurons, spikes }) {
  const chosen = (neurons.length ? neurons : order.first(4)).filter((label) => order.labels.includes(label)).slice(0, 8);
  const lines = chosen.map((label) => lineOf(array, order.labels.indexOf(label)));
  const high = lines.flat().reduce((most, value) => Math.max(most, value ?? 0), 1);
  const traces = chosen.flatMap((label, row) => {
    const colour = CATEGORIES[row];
    const found = [{
      type: "scatter", mode: "lines", x: times, y: lines[row], xaxis: "x", yaxis: axis, legend, name: `neuron ${label}`, line: { color: colour, width: 1.8 },
      hovertemplate: `neuron ${label}<br>%{x:.3f} s<br>%{y:.3~g} spikes/s<extra></extra>`,
    }];
    if (spikes) {
      const counts = lineOf(spikes, order.labels.indexOf(label));
      const bins = counts.map((count, bin) => (count > 0 ? bin : -1)).filter((bin) => bin >= 0);
      found.push({
        type: "scatter", mode: "markers", x: bins.map((bin) => times[bin]), y: bins.map(() => high * (1.08 + 0.09 * row)), xaxis: "x", yaxis: axis, showlegend: false,
        marker: { symbol: "line-ns-open", size: 9, color: colour, line: { width: 1.5, color: colour } }, customdata: bins.map((bin) => counts[bin]),
        hovertemplate: `neuron ${label}<br>%{x:.3f} s<br>%{customdata} spikes<extra></extra>`,
      });
    }
    return found;
  });
  return { traces, axis: { title: { text: `${panel.title} (spikes/s)<br>ticks: spikes`, font: { size: 12 } }, rangemode: "tozero" } };
}

function addEvents(layout, trials, index) {
  const events = Object.entries(trials.events).map(([name, times]) => [name, times[index]])
    .filter(([, time]) => time !== null && time >= trials.span[0] && time <= trials.span[1]).sort((a, b) => a[1] - b[1]);
  events.forEach(([name, time], row) => {
    layout.shapes.push({ type: "line", xref: "x", yref: "paper", x0: time, x1: time, y0: 0, y1: 1, line: { color: CATEGORIES[5], width: 1.5, dash: "dash" } });
    layout.annotations.push({ xref: "x", yref: "paper", x: time, y: 1, yanchor: "bottom", yshift: row % 2 ? 16 : 0, text: spoken(name), showarrow: false, font: { size: 12 } });
  });
}

/** Shade the bins after the end of a shorter trial. */
function addEnd(layout, trials, index) {
  const length = trials.lengths?.[index];
  if (!length || length >= trials.time.length) return;
  const end = trials.time[length];
  layout.shapes.push({ type: "rect", xref: "x", yref: "paper", x0: end, x1: trials.span[1], y0: 0, y1: 1, fillcolor: "rgba(128,128,128,0.18)", line: { width: 0 } });
  layout.annotations.push({ xref: "x", yref: "paper", x: (end + trials.span[1]) / 2, y: 1, yanchor: "bottom", text: "after the trial's end", showarrow: false, font: { size: 11 } });
}
