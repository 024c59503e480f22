// PSTHs: the data against the model's rates, averaged by condition, for chosen neurons.

import { html, Empty, Field, Link, Loading, Problem, useMemo, useReady } from "../../ui.js";
import { request, useLoaded } from "../../api.js";
import { MOST_CATEGORIES, Plot, colourOf, dashOf, faded, timeTitle, useTheme } from "../../plot.js";
import { number } from "../../format.js";
import { setQuery } from "../../router.js";
import { Choice, Filter, useNarrow, whereOf } from "./controls.js";
import { useNeuronOrder } from "./neurons.js";
import { distinct, groupingsOf, named, spoken, useSession, useTrials } from "./owner.js";
import { stopWhereFew } from "./trajectorydata.js";
import { windowOf } from "./trajectories.js";

const MOST_NEURONS = 12;
const MOST_CONDITIONS = MOST_CATEGORIES;
const SMOOTHING = [["0", "none"], ["0.02", "20 ms"], ["0.03", "30 ms"], ["0.05", "50 ms"], ["0.07", "70 ms"], ["0.1", "100 ms"]];
const [ROW, TOP, BOTTOM] = [210, 28, 48];

export default function PsthTab({ owner, route }) {
  const { sessions, session } = useSession(owner, route.query);
  const trials = useTrials(owner, session);
  const order = useNeuronOrder(owner, session, route.query.order, "score");
  const groupings = useMemo(() => groupingsOf(owner, session), [owner, session]);
  const hasNone = trials.data && groupings.length === 0;
  useReady(hasNone || trials.error);
  if (trials.error) return html`<${Problem} error=${trials.error} retry=${trials.reload} />`;
  if (!trials.data || (!order.isKnown && !hasNone)) return html`<${Loading} what="the trials" />`;
  if (hasNone) {
    return html`<${Empty} title="The trials have no conditions"><p>A PSTH is a mean over trials of a condition. Upload the recording with metadata of trials that have a few values, such as the target or the stimulus.</p>
      <p><${Link} to="/add">Add a recording<//></p><//>`;
  }
  return html`<${Psths} owner=${owner} sessions=${sessions} session=${session} trials=${trials.data} order=${order} groupings=${groupings} query=${route.query} />`;
}

function Psths({ owner, sessions, session, trials, order, groupings, query }) {
  const by = groupings.includes(query.by) ? query.by : groupings[0];
  const align = trials.events[query.align] ? query.align : "";
  const window = windowOf(query.window, trials, align);
  const smooth = query.smooth ?? "0.05";
  const wished = (query.neurons ?? "").split(",").filter((text) => text.trim() !== "").map(Number).filter((label) => order.labels.includes(label));
  const neurons = (wished.length ? wished : order.first(6)).slice(0, MOST_NEURONS);
  const asked = { by, align, window: align ? window : null, smooth, neurons, split: query.split ?? "", where: whereOf(query) };
  const loaded = useLoaded((signal) => readPsths(owner, session, asked, signal), [owner.path, session ?? null, asked]);
  const isNarrow = useNarrow();
  const theme = useTheme();
  const figure = useMemo(() => loaded.data && figureOf(loaded.data, { by, neurons, order, align, width: trials.width, isNarrow }), [loaded.data, isNarrow, theme]);
  useReady(figure);
  return html`<${Problem} error=${order.error} /><${Controls} ...${{ owner, sessions, session, trials, order, groupings, query, by, align, window, smooth }} />
    <${Problem} error=${loaded.error} retry=${loaded.reload} />
    ${!loaded.data && !loaded.error && html`<${Loading} what="the averages over trials" />`}
    ${figure && html`<${Plot} title=${`Rates by ${spoken(by)}`} note=${["dashed with band: data, mean ± standard error", "solid: model", loaded.data.few].filter(Boolean).join(" · ")} traces=${figure.traces} layout=${figure.layout} height=${figure.height}
      path=${loaded.data.path} query=${loaded.data.query} />`}`;
}

/** Load means and standard errors of spikes and rates, in spikes/s. */
async function readPsths(owner, session, { by, align, window, smooth, neurons, split, where }, signal) {
  const shared = { average: by, ...(where ? { where } : {}), ...(align ? { align_to: align, window_s: window.join(":") } : {}) };
  const rates = owner.arrays[named("rates", session)];
  const spikes = owner.dataArrays[named("spikes", session)];
  const select = (item) => ({ [item.dims[2]]: neurons.join(",") });
  const path = `${owner.path}/arrays/${rates.name}`;
  const query = { ...shared, ...select(rates), ...(split ? { split } : {}) };
  // The data set may have no split, or another one, so the trials of a part are named.
  const some = split ? await request(`${owner.path}/arrays/${rates.dims[0]}`, { query: { split, format: "json" }, signal }) : null;
  const [model, data] = await Promise.all([
    request(path, { query: { ...query, format: "json" }, signal }),
    spikes && request(`${owner.dataPath}/arrays/${spikes.name}`, {
      query: { ...shared, ...select(spikes), ...(some ? { [spikes.dims[0]]: rangesOf(some.values) } : {}), ...(smooth === "0" ? {} : { smooth_s: smooth }), format: "json" }, signal,
    }),
  ]);
  const few = [model, data].map((one) => one && stopWhereFew(one, one.coordinates.trials.values));
  return { model, data, path, query, few: few[0] ?? few[1] };
}

/** Return numbers as ranges, which make short addresses: [0, 1, 2, 7] → "0:3,7". */
export function rangesOf(labels) {
  const parts = [];
  for (let at = 0; at < labels.length; at += 1) {
    const first = at;
    while (labels[at + 1] === labels[at] + 1) at += 1;
    parts.push(at > first ? `${labels[first]}:${labels[at] + 1}` : `${labels[at]}`);
  }
  return parts.join(",");
}

function conditionsOf(found) {
  const { values, attributes } = found.coordinates[found.dims[0]];
  const codes = attributes?.flag_values;
  const words = String(attributes?.flag_meanings ?? "").split(" ");
  return values.map((value) => (codes ? words[codes.indexOf(value)] ?? value : value));
}

function figureOf({ model, data }, { by, neurons, order, align, width, isNarrow }) {
  const columns = isNarrow ? 1 : neurons.length < 3 ? neurons.length : 3;
  const rows = Math.ceil(neurons.length / columns);
  const conditions = conditionsOf(model);
  const shown = conditions.map((_, index) => index);
  const visible = new Set(shown.length <= MOST_CONDITIONS ? shown : Array.from({ length: MOST_CONDITIONS }, (_, index) => Math.floor((index * shown.length) / MOST_CONDITIONS)));
  const layout = {
    grid: { rows, columns, pattern: "independent", ygap: 0.3, xgap: 0.12 }, annotations: [], shapes: [], showlegend: true,
    legend: isNarrow ? { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", title: { text: spoken(by), side: "top" } } : { orientation: "v", x: 1.01, y: 1, title: { text: spoken(by) }, ...(conditions.length > 12 ? { font: { size: 11 }, tracegroupgap: 0 } : {}) },
    margin: { l: 56, r: isNarrow ? 16 : 110, t: isNarrow ? TOP + 44 + 22 * Math.ceil(conditions.length / 6) : TOP, b: BOTTOM }, uirevision: neurons.join(","),
  };
  const traces = [];
  neurons.forEach((neuron, at) => {
    const number_ = at ? at + 1 : "";
    const axes = { xaxis: `x${number_}`, yaxis: `y${number_}` };
    const isLast = at + columns >= neurons.length;
    layout[`xaxis${number_}`] = { matches: at ? "x" : undefined, title: { text: isLast ? timeTitle(align ? spoken(align) : "") : "" }, zeroline: Boolean(align) };
    layout[`yaxis${number_}`] = { rangemode: "tozero", title: { text: at % columns === 0 ? "Rate (spikes/s)" : "" }, nticks: 5 };
    const score = order.information?.get(neuron);
    layout.annotations.push({ xref: `x${number_} domain`, yref: `y${number_} domain`, x: 0, y: 1, yanchor: "bottom", showarrow: false, text: `neuron ${neuron}${Number.isFinite(score) ? `: ${number(score, 2)} bits/s` : ""}`, font: { size: 13 } });
    conditions.forEach((condition, index) => {
      const context = { axes, colour: colourOf(index, conditions.length), dashes: { model: dashOf(index, conditions.length), data: dashOf(index, conditions.length, "dash", "dot") }, name: String(condition), isFirst: at === 0, visible: visible.has(index) ? true : "legendonly", neuron: at, by };
      if (data) traces.push(...dataTraces(data, condition, context, width));
      traces.push(rateTrace(model, index, context, width));
    });
  });
  return { traces, layout, height: layout.margin.t + BOTTOM + rows * ROW };
}

function centres(found, width) {
  return found.coordinates[found.dims[1]].values.map((start) => start + width / 2);
}

function rateTrace(model, index, { axes, colour, dashes, name, isFirst, visible, neuron, by }, width) {
  return {
    type: "scatter", mode: "lines", ...axes, x: centres(model, width), y: model.values[index].map((bin) => bin[neuron]), name, legendgroup: name, showlegend: isFirst, visible, meta: { neuron: model.coordinates[model.dims[2]].values[neuron], from: "model" },
    line: { color: colour, width: 2, dash: dashes.model }, hovertemplate: `${spoken(by)} ${name}, model<br>%{x:.3f} s<br>%{y:.3~g} spikes/s<extra></extra>`,
  };
}

function dataTraces(data, condition, { axes, colour, dashes, name, visible, neuron, by }, width) {
  const index = conditionsOf(data).indexOf(condition);
  if (index < 0) return [];
  const x = centres(data, width);
  const mean = data.values[index].map((bin) => (bin[neuron] === null ? null : bin[neuron] / width));
  const sem = data.beside.find(({ name: other }) => other.endsWith("_sem"))?.values[index].map((bin) => (bin[neuron] ?? 0) / width);
  const known = mean.map((value, bin) => (value === null ? -1 : bin)).filter((bin) => bin >= 0);
  const common = { type: "scatter", mode: "lines", ...axes, legendgroup: name, showlegend: false, visible };
  const band = sem && {
    ...common, x: [...known.map((bin) => x[bin]), ...known.toReversed().map((bin) => x[bin])], y: [...known.map((bin) => mean[bin] + sem[bin]), ...known.toReversed().map((bin) => mean[bin] - sem[bin])],
    fill: "toself", fillcolor: faded(colour, 0.16), line: { width: 0 }, hoverinfo: "skip",
  };
  const line = { ...common, x, y: mean, name, meta: { neuron: data.coordinates[data.dims[2]].values[neuron], from: "data", "standard error": sem ?? "" }, line: { color: colour, width: 1.2, dash: dashes.data }, hovertemplate: `${spoken(by)} ${name}, data<br>%{x:.3f} s<br>%{y:.3~g} spikes/s<extra></extra>` };
  return band ? [band, line] : [line];
}

function Controls({ owner, sessions, session, trials, order, groupings, query, by, align, window, smooth }) {
  const events = Object.keys(trials.events).map((name) => [name, spoken(name)]);
  return html`<div class="row trial-controls">
    ${sessions.length > 1 && html`<${Choice} label="Session" name="session" value=${session} options=${sessions.map((one) => [one, one + 1])} also=${{ neurons: null }} />`}
    <${Choice} label="Neurons in order" name="order" value=${order.kind} options=${order.kinds} help=${order.help} />
    <${Field} label="Chosen neurons" help=${`Numbers of neurons, separated by commas, at most ${MOST_NEURONS}. Empty: the first six in the order.`}>${(attributes) => html`<input value=${query.neurons ?? ""} placeholder=${order.first(6).join(", ")}
      onChange=${(event) => setQuery({ neurons: event.target.value || null })} ...${attributes} />`}<//>
    <${Choice} label="Averaged by" name="by" value=${by} options=${groupings.map((name) => [name, spoken(name)])} />
    ${events.length > 0 && html`<${Choice} label="Align to" name="align" value=${align} options=${[["", "start of the trial"], ...events]} also=${{ window: null }} />`}
    ${align && html`<${Field} label="Window" unit="s" help="From and to, in seconds around the event, such as -0.2:0.4.">${(attributes) => html`<input value=${window.join(":")} onChange=${(event) => setQuery({ window: event.target.value })} ...${attributes} />`}<//>`}
    <${Choice} label="Smoothing of the data" name="smooth" value=${smooth} options=${SMOOTHING} help="Standard deviation of the Gaussian that smooths the spikes. The rates of the model are not smoothed." />
    <${Choice} label="Part" name="split" value=${query.split ?? ""} options=${[["", "all trials"], ...distinct(trials.splits).map((one) => [one, { train: "training", valid: "validation" }[one] ?? one])]} />
    <${Filter} owner=${owner} session=${session} query=${query} />
  </div>`;
}
