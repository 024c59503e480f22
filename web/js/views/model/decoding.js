// Decoding of behaviour: how well it is predicted, and the true traces against the predicted ones.

import { html, Empty, Link, Loading, Problem, Table, useMemo, useReady, useState } from "../../ui.js";
import { readArray, request, useLoaded } from "../../api.js";
import { CATEGORIES, Plot, colourOf, timeTitle, useTheme } from "../../plot.js";
import { number } from "../../format.js";
import { setQuery } from "../../router.js";
import { Choice, useNarrow } from "./controls.js";
import { capital } from "./trialdata.js";
import { behavioursOf, distinct, named, spoken, useConstants, useSession, useTrials } from "./owner.js";

const [TRACES, PATHS] = [4, 24];
const LAGS = [0, 1, 2, 3, 4, 5, 6, 8, 10];
const HELD_OUT = [["folds", "each fold of all trials"], ["valid", "validation trials"], ["test", "test trials"]];

export default function DecodingTab({ owner, route }) {
  const { session } = useSession(owner, route.query);
  const trials = useTrials(owner, session);
  const constants = useConstants(owner, session, trials.data);
  const [varied, constant] = [false, true].map((isOne) => behavioursOf(owner, session).filter((name) => Boolean(constants?.has(name)) === isOne).map((name) => named(name, session)));
  const behaviours = [...varied, ...constant]; // what cannot be decoded is not offered first
  useReady(behaviours.length === 0 || trials.error);
  if (behaviours.length === 0) {
    return html`<${Empty} title="This data set has no behaviour"><p>Decoding needs an array of trials × bins × components, such as the position of the hand. Upload the recording with it.</p><p><${Link} to="/add">Add a recording<//></p><//>`;
  }
  if (trials.error) return html`<${Problem} error=${trials.error} retry=${trials.reload} />`;
  if (!trials.data || !constants) return html`<${Loading} what="the trials" />`;
  return html`<${Decoding} owner=${owner} session=${session} trials=${trials.data} behaviours=${behaviours} constant=${constant} query=${route.query} />`;
}

function Decoding({ owner, session, trials, behaviours, constant, query }) {
  const behaviour = behaviours.includes(query.behaviour) ? query.behaviour : behaviours.find((name) => /vel/i.test(name) && !constant.includes(name)) ?? behaviours[0];
  const arrays = ["rates", "factors", "generator_states", "inputs"].map((name) => (owner.arrays[name] ? name : named(name, session))).filter((name) => owner.arrays[name]);
  const array = arrays.includes(query.array) ? query.array : "";
  const parts = HELD_OUT.filter(([name]) => name === "folds" || trials.splits?.includes(name));
  const heldOut = parts.some(([name]) => name === query.held_out) ? query.held_out : "folds";
  const asked = { behaviour, lag_s: query.lag ?? "0", held_out: heldOut, ...(array ? { array } : {}), ...(query.baseline ? { baseline: true } : {}) };
  const scores = useLoaded((signal) => request(`${owner.path}/decoding`, { query: asked, signal }), [owner.path, asked]);
  const lags = LAGS.map((bins) => [String(Number((bins * trials.width).toFixed(6))), `${number(1000 * bins * trials.width)} ms`]);
  return html`<div class="row trial-controls">
      <${Choice} label="Behaviour" name="behaviour" value=${behaviour} options=${behaviours.map((name) => [name, `${spoken(name)}${constant.includes(name) ? " (constant)" : ""}`])} />
      <${Choice} label="Decoded from" name="array" value=${array} options=${[["", "chosen by the service"], ...arrays.map((name) => [name, spoken(name)])]} help="By default rates, because a few factors can decode worse. With more than 500 neurons, factors." />
      <${Choice} label="Lag" name="lag" value=${query.lag ?? "0"} options=${lags} help="Behaviour follows neurons of motor cortex by about 50 to 150 ms." />
      <${Choice} label="Scored on" name="held_out" value=${heldOut} options=${parts} help="Trials that the decoder was not fitted on. Test trials also trained no model." />
    </div>
    <${Problem} error=${scores.error} retry=${scores.reload} />
    ${!scores.data && !scores.error && html`<p class="loading" role="status">Fitting decoders. This takes some seconds, and ends when you leave.</p>`}
    ${scores.data?.r2 === null && html`<${Undefined} found=${scores.data} />`}
    ${scores.data && scores.data.r2 !== null && html`<${Result} found=${scores.data} /><${Traces} owner=${owner} trials=${trials} asked=${predictionOf(asked)} />`}`;
}

const LONG = /^Smoothed spikes were not decoded: it takes/;

/** Predictions do not depend on the comparison. */
function predictionOf({ baseline: _, ...asked }) {
  return asked;
}

/** R² divides by the variance of the behaviour. */
function Undefined({ found }) {
  useReady(true);
  return html`<p role="note">${capital(spoken(found.behaviour))} is constant, so there is no R². ${found.notes?.join(" ")}</p>`;
}

function Result({ found }) {
  const baseline = found.baselines?.[0];
  const rows = found.r2_of_components.map((r2, index) => ({ id: index, r2, baseline: baseline?.r2_of_components[index] }));
  const count = rows.length;
  const columns = [
    { key: "id", label: "Component", show: (row) => (count === 2 ? "xy"[row.id] : row.id) },
    { key: "r2", label: "R² from latents", numeric: true, show: (row) => html`<b>${number(row.r2, 3)}</b>` },
    { key: "baseline", label: "R² from smoothed spikes", numeric: true, show: (row) => number(row.baseline, 3) },
  ];
  return html`<p>From ${spoken(found.array)}, <b>R² is ${number(found.r2, 3)}</b> for ${spoken(found.behaviour)}, on ${found.tested.trials} trials that the decoder was not fitted on.
    ${baseline ? ` Spikes smoothed by ${number(1000 * baseline.width_s)} ms reach ${number(baseline.r2, 3)}.` : ""}</p>
    ${found.notes?.map((note) => (LONG.test(note) ? html`<p>Spikes were not decoded for comparison, because that takes long. <button type="button" onClick=${() => setQuery({ baseline: 1 })}>Compare with smoothed spikes</button></p>` : html`<p class="warning">${note}</p>`))}
    <${Table} caption="R² of each component" columns=${columns} rows=${rows} />`;
}

/** Load predictions, and the positions of their trials. */
async function readPredictions(owner, trials, asked, signal) {
  const path = `${owner.path}/decoding/predictions`;
  const predicted = await readArray(path, asked, signal);
  const all = trials.labels.map((_, index) => index);
  const rows = predicted.shape[0] === all.length ? all : all.filter((index) => trials.splits?.[index] === asked.held_out);
  if (rows.length !== predicted.shape[0]) {
    const found = await request(path, { query: { ...asked, format: "json" }, signal });
    const labels = found.coordinates[found.dims[0]].values;
    return { path, predicted, rows: labels.map((label) => trials.labels.indexOf(label)) };
  }
  return { path, predicted, rows };
}

function Traces({ owner, trials, asked }) {
  const [page, setPage] = useState(0);
  const isNarrow = useNarrow();
  const theme = useTheme();
  const loaded = useLoaded((signal) => readPredictions(owner, trials, asked, signal), [owner.path, asked]);
  const found = loaded.data;
  const item = owner.dataArrays[asked.behaviour];
  const wished = found ? chosenRows(found.rows, page) : null;
  const truth = useLoaded((signal) => (wished ? readArray(`${owner.dataPath}/arrays/${item.name}`, { [item.dims[0]]: [...wished.all].sort((a, b) => a - b).map((at) => trials.labels[found.rows[at]]).join(",") }, signal) : Promise.resolve(null)),
    [owner.path, asked.behaviour, wished?.all ?? null]);
  const figures = useMemo(() => found && truth.data && wished && figuresOf({ found, truth: truth.data, wished, trials, owner, asked, isNarrow }), [found, truth.data, isNarrow, theme]);
  useReady(figures);
  return html`<${Problem} error=${loaded.error ?? truth.error} retry=${loaded.reload} />
    ${!figures && !(loaded.error ?? truth.error) && html`<p class="loading" role="status">Predicting the trials. This takes some seconds.</p>`}
    ${figures && html`<div class="row"><button type="button" disabled=${page === 0} onClick=${() => setPage(page - 1)}>Previous trials</button>
      <button type="button" disabled=${(page + 1) * TRACES >= found.rows.length} onClick=${() => setPage(page + 1)}>Next trials</button></div>
      <${Plot} title="True and predicted traces" note="grey: true · blue, dashed: predicted" traces=${figures.lines.traces} layout=${figures.lines.layout} height=${figures.lines.height} path=${found.path} query=${asked} />
      ${figures.plane && html`<div class="plane"><${Plot} title=${`The plane of ${spoken(asked.behaviour)}, ${wished.paths.length} trials`} note="solid: true · dashed: predicted" traces=${figures.plane.traces} layout=${figures.plane.layout} height=${460} path=${found.path} query=${asked} /></div>`}`}`;
}

/** Return rows of the predictions: some for the traces, and evenly spaced ones for the paths. */
function chosenRows(rows, page) {
  const traces = rows.map((_, at) => at).slice(page * TRACES, (page + 1) * TRACES);
  const count = Math.min(PATHS, rows.length);
  const paths = Array.from({ length: count }, (_, index) => Math.floor((index * rows.length) / count));
  return { traces, paths, all: [...new Set([...traces, ...paths])] };
}

function column({ shape: [, bins, components], data }, row, component) {
  return Array.from({ length: bins }, (_, bin) => { const value = data[(row * bins + bin) * components + component]; return Number.isFinite(value) ? value : null; });
}

function figuresOf({ found, truth, wished, trials, owner, asked, isNarrow }) {
  const sorted = [...wished.all].sort((a, b) => a - b);
  const trueRow = new Map(sorted.map((at, index) => [at, index]));
  const components = truth.shape[2];
  const unit = owner.dataArrays[asked.behaviour].units || "unit of the file";
  const context = { isNarrow, found, truth, trueRow, trials, wished, components, unit, name: spoken(asked.behaviour) };
  return { lines: linesFigure(context), plane: components === 2 ? planeFigure(context) : null };
}

function linesFigure({ isNarrow, found, truth, trueRow, trials, wished, components, unit, name }) {
  const columns = isNarrow ? 1 : wished.traces.length;
  const rows = isNarrow ? components * wished.traces.length : components;
  const times = trials.time.map((start) => start + trials.width / 2);
  const layout = { grid: { rows, columns, pattern: "independent", xgap: 0.08, ygap: 0.25 }, annotations: [], margin: { l: 64, r: 16, t: 28, b: 48 }, legend: { orientation: "h", y: -0.2 }, showlegend: false };
  const traces = [];
  for (let component = 0; component < components; component += 1) {
    const quantity = `${components === 2 ? "xy"[component] : component} (${unit})`;
    wished.traces.forEach((at, place) => {
      const number_ = component * wished.traces.length + place + 1;
      const suffix = number_ > 1 ? number_ : "";
      const axes = { xaxis: `x${suffix}`, yaxis: `y${suffix}` };
      layout[`xaxis${suffix}`] = { title: { text: (columns === 1 ? number_ === rows : component === components - 1) ? timeTitle() : "" } };
      layout[`yaxis${suffix}`] = { title: { text: place === 0 || columns === 1 ? quantity : "", standoff: 10 }, ...(place && columns > 1 ? { matches: `y${component * wished.traces.length + 1 > 1 ? component * wished.traces.length + 1 : ""}` } : {}) };
      if (component === 0 || columns === 1) layout.annotations.push({ xref: `x${suffix} domain`, yref: `y${suffix} domain`, x: 0, y: 1, yanchor: "bottom", showarrow: false, text: `trial ${trials.labels[found.rows[at]]}` });
      traces.push({ type: "scatter", mode: "lines", ...axes, x: times, y: column(truth, trueRow.get(at), component), name: "true", meta: { trial: trials.labels[found.rows[at]], quantity }, line: { color: "#8a8a8a", width: 3 }, hovertemplate: `true ${name}<br>%{x:.3f} s<br>%{y:.4~g}<extra></extra>` });
      traces.push({ type: "scatter", mode: "lines", ...axes, x: times, y: column(found.predicted, at, component), name: "predicted", meta: { trial: trials.labels[found.rows[at]], quantity }, line: { color: "#2f8fd8", width: 2, dash: "dash" }, hovertemplate: `predicted ${name}<br>%{x:.3f} s<br>%{y:.4~g}<extra></extra>` });
    });
  }
  return { traces, layout, height: 76 + 190 * rows };
}

function planeFigure({ isNarrow, found, truth, trueRow, trials, wished, unit }) {
  const keys = distinct(trials.conditions);
  const groups = keys.length ? keys : [null];
  const traces = groups.flatMap((key, index) => {
    const own = wished.paths.filter((at) => key === null || trials.conditions[found.rows[at]] === key);
    const colour = keys.length ? colourOf(index, groups.length) : CATEGORIES[0];
    const path = (array, rowOf) => [0, 1].map((component) => own.flatMap((at) => [...column(array, rowOf(at), component), null]));
    const [x, y] = path(truth, (at) => trueRow.get(at));
    const [px, py] = path(found.predicted, (at) => at);
    const name = key === null ? "trials" : `${spoken(trials.conditionName ?? "")} ${key}`;
    const common = { type: "scatter", mode: "lines", legendgroup: name, name, hoverinfo: "name" };
    return [{ ...common, x, y, meta: { from: "true" }, line: { color: colour, width: 2 } }, { ...common, x: px, y: py, showlegend: false, meta: { from: "predicted" }, line: { color: colour, width: 1.5, dash: "dash" } }];
  });
  return { traces, layout: { xaxis: { title: { text: `x (${unit})` }, constrain: "domain" }, yaxis: { title: { text: `y (${unit})`, standoff: 10 }, scaleanchor: "x", constrain: "domain" }, legend: isNarrow ? { orientation: "h", y: -0.22, yanchor: "top" } : { x: 1.01, y: 1 } } };
}
