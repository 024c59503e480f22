// The traces of trajectories. All trajectories of a colour are one trace with gaps, so that hundreds of them turn smoothly.

import { MOST_CATEGORIES, colourOf, dashOf, sequence, timeTitle } from "../../plot.js";
import { distinct, spoken } from "./owner.js";

/** Return the scale of colours of values on the page's background. */
const scaleOf = (colours) => colours.map((colour, index) => [index / (colours.length - 1), colour]);
const TRAIL_BINS = 12;

/** Return the coordinate of a point. The third dimension of a plane is time. */
function pointOf(found, row, bin) {
  const [, bins, dims] = found.shape;
  const at = (row * bins + bin) * dims;
  return [found.data[at], dims > 1 ? found.data[at + 1] : 0, dims > 2 ? found.data[at + 2] : found.times[bin]];
}

/**
 * Return {kind, name, keyOf, keys, colours, valueOf, unit}: how trajectories are coloured.
 *
 * kind: "groups" (distinct colours) or "values" (a scale). valueOf: (row, bin) => number
 */
export function colouringOf(found, trials, colour, columns) {
  if (colour === "time") return { kind: "values", name: timeTitle().toLowerCase(), valueOf: (row, bin) => found.times[bin] };
  if (colour.startsWith("behaviour:")) return { kind: "values", name: spoken(colour.split(":")[1]), valueOf: (row, bin) => found.colours?.[row * found.shape[1] + bin] };
  const values = found.rows.map((row) => row.value ?? columns?.get(row.label) ?? null);
  const keys = distinct(values);
  const isNumeric = keys.every((key) => typeof key === "number");
  if (isNumeric && keys.length > MOST_CATEGORIES) return { kind: "values", name: spoken(colour), valueOf: (row) => values[row] };
  const known = keys.length ? keys : [null];
  return { kind: "groups", name: spoken(colour), keyOf: (row) => values[row], keys: known, colours: known.map((_, index) => colourOf(index, known.length)) };
}

function colourAt(colouring, range, row, bin) {
  if (colouring.kind === "groups") return colouring.colours[Math.max(0, colouring.keys.indexOf(colouring.keyOf(row)))];
  const part = (colouring.valueOf(row, bin) - range[0]) / (range[1] - range[0] || 1);
  const colours = range.colours;
  return colours[Math.round(Math.min(1, Math.max(0, part || 0)) * (colours.length - 1))];
}

/** Return the lowest and highest value of a colouring, without the most extreme hundredth at each end. */
function rangeOf(found, colouring) {
  if (colouring.kind === "groups") return [0, 1];
  const values = [];
  const step = Math.max(1, Math.floor((found.shape[0] * found.shape[1]) / 5000));
  for (let at = 0; at < found.shape[0] * found.shape[1]; at += step) values.push(colouring.valueOf(Math.floor(at / found.shape[1]), at % found.shape[1]));
  const known = values.filter(Number.isFinite).sort((a, b) => a - b);
  return known.length ? [known[Math.floor(0.01 * known.length)], known[Math.ceil(0.99 * (known.length - 1))]] : [0, 1];
}

const FINE = 0.002;
const MOST_SKIPPED = 20; // so that colours along a line stay right
const EVERY_BIN = -1; // a tolerance that leaves out no point

/** Return a length that the eye hardly sees: a part of the extent of all trajectories. */
function toleranceOf(found) {
  const low = [Infinity, Infinity, Infinity];
  const high = [-Infinity, -Infinity, -Infinity];
  const step = Math.max(1, Math.floor((found.shape[0] * found.shape[1]) / 5000));
  for (let at = 0; at < found.shape[0] * found.shape[1]; at += step) {
    pointOf(found, Math.floor(at / found.shape[1]), at % found.shape[1]).forEach((value, axis) => {
      if (value < low[axis]) low[axis] = value;
      if (value > high[axis]) high[axis] = value;
    });
  }
  return FINE * Math.max(...high.map((value, axis) => (value > low[axis] ? value - low[axis] : 0)));
}

/** Return the distance of a point from the straight line between two others. */
function offLine(point, from, to) {
  const [a, b] = [[0, 1, 2].map((axis) => to[axis] - from[axis]), [0, 1, 2].map((axis) => point[axis] - from[axis])];
  const along = Math.min(1, Math.max(0, (a[0] * b[0] + a[1] * b[1] + a[2] * b[2]) / (a[0] ** 2 + a[1] ** 2 + a[2] ** 2 || 1)));
  return Math.hypot(b[0] - along * a[0], b[1] - along * a[1], b[2] - along * a[2]);
}

/** Return the bins that a line needs: bins between them are nearer than `tolerance` to the straight line. */
function neededBins(points, tolerance) {
  const kept = [0];
  for (let at = 2, last = 0; at < points.length; at += 1) {
    const between = points.slice(last + 1, at);
    if (at - last <= MOST_SKIPPED && between.every((point) => offLine(point, points[last], points[at]) <= tolerance)) continue;
    last = at - 1;
    kept.push(last);
  }
  if (points.length > 1) kept.push(points.length - 1);
  return kept;
}

/**
 * Return lines {x, y, z, values, labels, times} of some trajectories with gaps between them, from bin `from(row)` up to `to(row)`. Points that the
 * eye does not miss are left out, so that a scene of many trajectories turns smoothly.
 */
function linesOf({ found, tolerance }, rows, from, to, valueOf) {
  const line = { x: [], y: [], z: [], values: [], labels: [], times: [] };
  for (const row of rows) {
    const bins = [];
    for (let bin = Math.max(0, from(row)); bin < Math.min(found.shape[1], to(row)); bin += 1) if (!Number.isNaN(pointOf(found, row, bin)[0])) bins.push(bin);
    const points = bins.map((bin) => pointOf(found, row, bin));
    for (const at of bins.length ? neededBins(points, tolerance) : []) {
      const [x, y, z] = points[at];
      line.x.push(x); line.y.push(y); line.z.push(z); line.values.push(valueOf(row, bins[at])); line.labels.push(found.rows[row].label); line.times.push(found.times[bins[at]]);
    }
    line.x.push(null); line.y.push(null); line.z.push(null); line.values.push(line.values.at(-1) ?? 0); line.labels.push(null); line.times.push(null);
  }
  return line;
}

/** Return the first bin of each trajectory that is after the event, or null where there is no event. */
function boundaries(found, epochs) {
  if (!epochs) return null;
  return found.rows.map((row) => {
    const time = epochs(row);
    if (time === null || time === undefined) return found.shape[1];
    const bin = found.times.findIndex((start) => start >= time - 1e-9);
    return bin < 0 ? found.shape[1] : bin;
  });
}

/**
 * Return {traces, layout, frame}: `frame(bin)` returns the changes of the last two traces (trails and heads) at a time.
 *
 * epochs: row => time of the event that divides the epochs, or null; axisTitles: of x, y, z
 */
export function figureOf({ found, colouring, epochs, eventName, axisTitles, isMoving, isNarrow }) {
  const rows = found.rows.map((_, row) => row);
  const range = Object.assign(rangeOf(found, colouring), { colours: sequence() });
  const limits = boundaries(found, epochs);
  const context = { found, colouring, range, rows, tolerance: found.shape[2] > 2 ? toleranceOf(found) : 0 };
  const traces = limits ? [...groupTraces(context, () => 0, (row) => limits[row] + 1, "before"), ...groupTraces(context, (row) => limits[row], () => Infinity, "after")]
    : groupTraces(context, () => 0, () => Infinity, "");
  if (isMoving) traces.push(...faintTraces(traces));
  if (!isMoving) traces.push(pointsTrace(found, rows, (row) => firstBin(found, row), { name: "start", symbol: "circle", size: 4, colour: (row, bin) => colourAt(colouring, range, row, bin) }));
  if (limits && !isMoving) traces.push(pointsTrace(found, rows.filter((row) => limits[row] < found.shape[1]), (row) => limits[row], { name: spoken(eventName), symbol: "diamond", size: 5, colour: (row, bin) => colourAt(colouring, range, row, bin) }));
  const frame = (bin) => frameOf(found, rows, bin, (row) => colourAt(colouring, range, row, bin));
  const first = isMoving ? frame(0) : { trail: {}, heads: {} };
  if (isMoving) {
    traces.push({ type: "scatter3d", mode: "lines", name: "trail", showlegend: false, hoverinfo: "skip", ...first.trail, line: { color: first.trail.colours, width: 7 } });
    traces.push({ type: "scatter3d", mode: "markers", name: "now", showlegend: false, hoverinfo: "skip", ...first.heads, marker: { size: 7, color: first.heads.colours, line: { width: 1, color: "#ffffff" } } });
  }
  const [x, y, z] = axisTitles.map((text) => ({ title: { text } }));
  const far = isNarrow ? 1.75 : 1; // so that the titles of the axes fit
  const layout = {
    margin: { l: 0, r: 0, t: 0, b: 0 }, uirevision: `${axisTitles} ${isNarrow}`,
    legend: { x: 0, y: 1, title: { text: colouring.kind === "groups" ? colouring.name : "", ...(isNarrow ? { side: "top" } : {}) }, itemsizing: "constant", ...(isNarrow ? { orientation: "h", y: 0.18, yanchor: "top" } : {}) },
    scene: {
      xaxis: x, yaxis: y, zaxis: z, aspectmode: found.shape[2] > 2 ? "data" : "cube", dragmode: "turntable", domain: { x: [0, 1], y: [isNarrow ? 0.2 : 0, 1] },
      camera: { eye: { x: 1.4 * far, y: 1.4 * far, z: 0.9 * far }, center: { x: 0, y: 0, z: -0.1 } },
    },
  };
  if (isNarrow) for (const trace of traces) if (trace.line?.colorbar) Object.assign(trace.line.colorbar, { orientation: "h", y: 0.1, yanchor: "top", len: 0.9, title: { text: colouring.name, side: "top" } });
  return { traces, layout, frame };
}

/** Make traces faint and thin while something moves along them. Return traces that keep their entries in the legend. */
function faintTraces(traces) {
  const entries = traces.filter(({ showlegend }) => showlegend).map(({ name, legendgroup, line }) => ({ type: "scatter3d", mode: "markers", name, legendgroup, x: [null], y: [null], z: [null], marker: { color: line.color, size: 8 } }));
  for (const trace of traces) Object.assign(trace, { opacity: 0.25, showlegend: false, line: { ...trace.line, width: 1 } });
  return entries;
}

function firstBin(found, row) {
  for (let bin = 0; bin < found.shape[1]; bin += 1) if (!Number.isNaN(pointOf(found, row, bin)[0])) return bin;
  return 0;
}

/** The columns of a table of points: their values, and their trials if they are of trials. */
const columnsOf = ({ labels, times, values }, name) => ({ ...(labels.some((label) => label !== undefined && label !== null) ? { trial: labels } : {}), "Time (s)": times, [name]: values });

/** Return a line as it is drawn; what hovering and clicks tell of each point; and all its points for the table. */
function drawnLine(context, rows, [from, to], valueOf, name) {
  const line = linesOf(context, rows, from, to, valueOf);
  const { x, y, z, values, labels } = line;
  const whole = () => {
    const all = linesOf({ ...context, tolerance: EVERY_BIN }, rows, from, to, valueOf);
    return { x: all.x, y: all.y, z: all.z, columns: columnsOf(all, name) };
  };
  return { trace: { x, y, z, customdata: values.map((value, at) => [value, labels[at]]), meta: { ...columnsOf(line, name), whole } }, values, labels };
}

const trialOf = (labels) => (labels.some((label) => label !== undefined && label !== null) ? "trial %{customdata[1]}, click to open it<br>" : "");

/** Return the traces of an epoch: one for each colour, or one with a scale. Movement is drawn thicker than preparation. */
function groupTraces(context, from, to, epoch) {
  const { found, colouring, range, rows } = context;
  const width = { before: 2, after: 8 }[epoch] ?? 4;
  const base = { type: "scatter3d", mode: "lines", connectgaps: false };
  if (colouring.kind === "values") {
    const { trace, values, labels } = drawnLine(context, rows, [from, to], colouring.valueOf, colouring.name);
    const isSecond = epoch === "after";
    return [{
      ...base, ...trace, name: epoch || "trajectories", showlegend: false, hovertemplate: `${trialOf(labels)}${colouring.name}: %{customdata[0]:.4~g}<extra></extra>`,
      line: { color: values, colorscale: scaleOf(sequence()), cmin: range[0], cmax: range[1], width, showscale: !isSecond, colorbar: { title: { text: colouring.name, side: "right" }, thickness: 12, len: 0.7 } },
    }];
  }
  return colouring.keys.map((key, index) => {
    const own = rows.filter((row) => colouring.keyOf(row) === key);
    const { trace, labels } = drawnLine(context, own, [from, to], (row, bin) => found.times[bin], "Time (s)");
    const name = key === null ? "all trials" : String(key);
    return {
      ...base, ...trace, name, legendgroup: name, showlegend: epoch !== "before", line: { color: colouring.colours[index], width, dash: dashOf(index, colouring.keys.length) },
      hovertemplate: `${trialOf(labels)}${key === null ? "" : `${colouring.name} ${name}<br>`}%{customdata[0]:.3f} s<extra></extra>`,
    };
  });
}

function pointsTrace(found, rows, binOf, { name, symbol, size, colour }) {
  const points = rows.map((row) => pointOf(found, row, binOf(row)));
  return {
    type: "scatter3d", mode: "markers", name, meta: { isMark: true }, x: points.map(([x]) => x), y: points.map(([, y]) => y), z: points.map(([, , z]) => z), customdata: rows.map((row) => [null, found.rows[row].label]),
    ...(found.rows[0].label === undefined ? { hoverinfo: "name" } : { hovertemplate: `trial %{customdata[1]}, click to open it<br>${name}<extra></extra>` }),
    marker: { symbol, size, color: rows.map((row) => colour(row, binOf(row))), line: { width: 1, color: "#808080" } },
  };
}

/** Return the trails and heads of all trajectories at a time. */
function frameOf(found, rows, bin, colour) {
  const heads = { x: [], y: [], z: [], colours: [] };
  const trail = { x: [], y: [], z: [], colours: [] };
  const add = (target, row, at) => {
    const [x, y, z] = pointOf(found, row, at);
    if (Number.isNaN(x)) return;
    target.x.push(x); target.y.push(y); target.z.push(z); target.colours.push(colour(row));
  };
  for (const row of rows) {
    add(heads, row, bin);
    for (let at = Math.max(0, bin - TRAIL_BINS); at <= bin; at += 1) add(trail, row, at);
    trail.x.push(null); trail.y.push(null); trail.z.push(null); trail.colours.push("#000000");
  }
  return { trail, heads };
}
