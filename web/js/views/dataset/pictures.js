// Pictures of a data set: raster of example trials, mean rates by condition, rates of neurons, the session.

import { html, useEffect, useMemo, useState, Field, Loading, Problem } from "../../ui.js";
import { readArray, request, useLoaded } from "../../api.js";
import { MOST_CATEGORIES, Plot, colourOf, dashOf, faded, timeTitle, useTheme } from "../../plot.js";
import { setQuery } from "../../router.js";
import { stopWhereFew } from "../model/trajectorydata.js";
import { number, percent, plural } from "../../format.js";

const INK = [[0, "rgba(86,140,190,0)"], [0.001, "rgba(47,127,196,0.55)"], [1, "rgba(47,127,196,1)"]];
const UNOBSERVED = [[0, "rgba(213,94,0,0)"], [0.5, "rgba(213,94,0,0)"], [0.5, "rgba(213,94,0,0.45)"], [1, "rgba(213,94,0,0.45)"]];

const timesOf = (document, count) => Array.from({ length: count }, (_, bin) => document.time_zero_s + (bin + 0.5) * document.bin_width_s);

/** Return the neurons in the order of the raster, from the bottom row to the top. */
function orderOf(sort, { counts, neurons, bins, rates, means }) {
  const order = Array.from({ length: neurons }, (_, neuron) => neuron);
  if (sort === "file") return order.reverse();
  const key = sort === "rate"
    ? order.map((neuron) => rates?.[neuron] ?? sumOf(counts, neuron, neurons, bins))
    : order.map((neuron) => -peakOf((bin) => (means ? means.data[bin * neurons + neuron] : counts[bin * neurons + neuron]), means ? means.shape[0] : bins));
  return order.sort((a, b) => key[a] - key[b] || b - a);
}

function sumOf(counts, neuron, neurons, bins) {
  let sum = 0;
  for (let bin = 0; bin < bins; bin += 1) sum += counts[bin * neurons + neuron];
  return sum;
}

/** Return the bin at which a smoothed row is highest. */
function peakOf(at, bins) {
  const half = Math.max(1, Math.round(bins / 40));
  let [best, most] = [0, -1];
  for (let bin = 0; bin < bins; bin += 1) {
    let sum = 0;
    for (let near = Math.max(0, bin - half); near <= Math.min(bins - 1, bin + half); near += 1) sum += at(near) || 0;
    if (sum > most) [best, most] = [bin, sum];
  }
  return best;
}

/** The mean over conditions: bins × neurons. */
async function readMeans(dataset, by, signal) {
  const { shape: [conditions, bins, neurons], data } = await readArray(`/v1/datasets/${dataset.id}/arrays/spikes`, { average: by }, signal);
  const means = new Float32Array(bins * neurons);
  for (let index = 0; index < conditions * bins * neurons; index += 1) means[index % (bins * neurons)] += data[index] || 0;
  return { shape: [bins, neurons], data: means };
}

function useTrial(dataset, trial, sort, by) {
  return useLoaded(async (signal) => {
    const path = `/v1/datasets/${dataset.id}/arrays`;
    const [spikes, missing, means] = await Promise.all([
      readArray(`${path}/spikes`, { trial }, signal),
      dataset.report.arrays.includes("missing") ? readArray(`${path}/missing`, { trial }, signal) : null,
      sort === "peak" && by ? readMeans(dataset, by, signal) : null,
    ]);
    return { trial, counts: spikes.data, bins: spikes.shape[1], neurons: spikes.shape[2], missing: missing?.data ?? null, means };
  }, [dataset.id, trial, sort === "peak" ? by : ""]);
}

function rasterOf(dataset, { counts, bins, neurons, missing, means }, length, sort, neuron) {
  const order = orderOf(sort, { counts, neurons, bins, rates: dataset.report.rates_hz, means });
  const rows = (values) => order.map((one) => Array.from({ length: bins }, (_, bin) => Number(values[bin * neurons + one])));
  const z = rows(counts);
  const x = timesOf({ time_zero_s: dataset.report.time_zero_s, bin_width_s: dataset.bin_width_s }, bins);
  const y = order.map((_, row) => row);
  const gaps = { ygap: neurons > 80 ? 0 : 1 };
  const traces = [{ type: "heatmap", ...gaps, x, y, z, zmin: 0, zmax: Math.max(2, ...z.map((row) => Math.max(...row))), colorscale: INK, showscale: false,
    customdata: order.map((one) => Array(bins).fill(one)), meta: { quantity: "Spikes", rows: order.map((one) => `neuron ${one}`) }, hovertemplate: "neuron %{customdata}<br>%{x:.3f} s<br>%{z} spikes<extra></extra>" }];
  if (missing) traces.push({ type: "heatmap", ...gaps, x, y, z: rows(missing), zmin: 0, zmax: 1, colorscale: UNOBSERVED, showscale: false, hoverinfo: "skip" });
  const end = dataset.report.time_zero_s + length * dataset.bin_width_s;
  const row = order.indexOf(neuron);
  const shapes = [
    ...(length < bins ? [{ type: "rect", xref: "x", yref: "paper", x0: end, x1: dataset.report.time_zero_s + bins * dataset.bin_width_s, y0: 0, y1: 1, fillcolor: "rgba(127,127,127,0.25)", line: { width: 0 } }] : []),
    ...(row >= 0 ? [{ type: "rect", xref: "paper", yref: "y", x0: 0, x1: 1, y0: row - 0.5, y1: row + 0.5, line: { color: "#e69f00", width: 1.5 } }] : []),
    ...(dataset.report.time_zero_s < 0 ? [{ type: "line", xref: "x", yref: "paper", x0: 0, x1: 0, y0: 0, y1: 1, line: { color: "#7f7f7f", dash: "dash", width: 1 } }] : []),
  ];
  const step = Math.max(1, Math.ceil(order.length / 12));
  const ticks = y.filter((index) => index % step === 0);
  const layout = { xaxis: { title: { text: timeTitle() }, showgrid: false, zeroline: false, range: [dataset.report.time_zero_s, dataset.report.time_zero_s + bins * dataset.bin_width_s] }, shapes, uirevision: dataset.id,
    yaxis: { title: { text: sort === "file" ? "Neuron" : `Neuron, by ${sort}` }, tickvals: ticks, ticktext: ticks.map((index) => String(order[index])), showgrid: false } };
  return { traces, layout };
}

/** Spikes of one trial: a click on a row shows the mean rate of its neuron. */
export function Raster({ dataset, preview, trial: wanted, neuron, by, onShown }) {
  const examples = preview?.raster.trials.map((item) => item.trial) ?? [0];
  const trial = wanted ?? examples[0];
  const [sort, setSort] = useState("rate");
  const { data, error } = useTrial(dataset, trial, sort, by);
  const details = useLoaded((signal) => request(`/v1/datasets/${dataset.id}/trials`, { query: { where: `trial:eq:${trial}` }, signal }), [dataset.id, trial]);
  const about = details.data?.items[0];
  const shown = useMemo(() => data && rasterOf(dataset, data, about?.length_bins ?? data.bins, sort, neuron), [data, about, sort, neuron]);
  useEffect(() => { if (data || error) onShown(true); }, [data, error]);
  const show = (next) => setQuery({ trial: Math.min(dataset.trials - 1, Math.max(0, next)) });
  return html`<div class="card">
    <div class="row"><${Field} label="Trial">${(attributes) => html`<input type="number" min="0" max=${dataset.trials - 1} value=${trial} onChange=${(event) => show(Number(event.target.value))} ...${attributes} />`}<//>
      <${Field} label="Order of neurons">${(attributes) => html`<select value=${sort} onChange=${(event) => setSort(event.target.value)} ...${attributes}>
        <option value="rate">by mean rate</option><option value="peak">by time of the peak</option><option value="file">as in the data set</option></select>`}<//></div>
    <p class="buttons small">Examples: ${examples.map((one) => html`<button type="button" aria-pressed=${one === trial} onClick=${() => show(one)}>${one}</button>`)}
      <button type="button" aria-label="Previous trial" disabled=${trial === 0} onClick=${() => show(trial - 1)}>←</button>
      <button type="button" aria-label="Next trial" disabled=${trial >= dataset.trials - 1} onClick=${() => show(trial + 1)}>→</button></p>
    <${Problem} error=${error} />
    ${!shown && !error && html`<${Loading} what="spikes" />`}
    ${shown && html`<${Plot} title=${`Spikes of trial ${trial}`} traces=${shown.traces} layout=${shown.layout} height=${420}
      path=${`/v1/datasets/${dataset.id}/arrays/spikes`} query=${{ trial }} on=${{ plotly_click: ({ points }) => setQuery({ neuron: points[0].customdata }) }} />`}
    <p class="muted small">${about && Object.keys(about.details).length > 0 ? `${factsOf(about.details)}.` : ""} ${data?.missing?.some(Boolean) ? "Orange: not observed." : ""}
      ${about && data && about.length_bins < data.bins ? "Grey: after the end of the trial." : ""} Click a row to see the mean rate of its neuron.</p>
  </div>`;
}

function factsOf(details) {
  return Object.entries(details).slice(0, 6).map(([name, value]) => `${name}: ${typeof value === "number" ? number(value) : value}`).join(", ");
}

/** Return lines with bands of ± SEM. rows: [{ label, mean, sem }]; time in s */
export function meanTraces(rows, time) {
  return rows.flatMap(({ label, mean, sem }, index) => {
    const colour = rows.length === 1 ? "#0072b2" : colourOf(index, rows.length);
    const known = (values) => values.map((value) => (Number.isFinite(value) ? value : null));
    const line = { x: time, y: known(mean), mode: "lines", name: String(label), legendgroup: String(label), line: { color: colour, width: 2, dash: dashOf(index, rows.length) }, meta: { "standard error": known(sem) }, hovertemplate: `${label}: %{y:.2f} spikes/s at %{x:.3f} s<extra></extra>` };
    const bins = time.map((_, bin) => bin).filter((bin) => Number.isFinite(mean[bin]) && Number.isFinite(sem[bin]));
    if (!bins.length) return [line];
    const back = [...bins].reverse();
    const band = { x: [...bins, ...back].map((bin) => time[bin]), y: [...bins.map((bin) => mean[bin] + sem[bin]), ...back.map((bin) => mean[bin] - sem[bin])],
      mode: "lines", fill: "toself", fillcolor: faded(colour, 0.18), line: { width: 0 }, hoverinfo: "skip", showlegend: false, legendgroup: String(label) };
    return [band, line];
  });
}

/** Read the mean rate of one neuron by condition, in spikes per second: { rows, time, notShown }. */
async function readPsth(dataset, query, signal) {
  const document = await request(`/v1/datasets/${dataset.id}/arrays/spikes`, { query: { ...query, format: "json" }, signal });
  const width = document.attributes.bin_width_s ?? dataset.bin_width_s;
  const axis = document.coordinates[document.dims[0]];
  const meanings = axis?.attributes.flag_meanings?.split(" ");
  const labels = axis ? axis.values.map((value) => meanings?.[axis.attributes.flag_values.indexOf(value)] ?? value) : document.values.map((_, index) => index);
  const sem = document.beside.find((item) => item.name.endsWith("_sem"));
  const hertz = (rows) => rows.map(([value]) => (value === null ? NaN : value / width));
  const trials = document.coordinates.trials?.values;
  const few = trials && stopWhereFew(document, trials);
  const rows = document.values.map((row, index) => ({ label: `${labels[index]}${trials ? ` (${trials[index]} trials)` : ""}`, mean: hertz(row), sem: hertz(sem.values[index]) }));
  return { rows: rows.slice(0, MOST_CATEGORIES), notShown: Math.max(0, rows.length - MOST_CATEGORIES), few, time: document.coordinates.time_s.values.map((start) => start + width / 2) };
}

/** Read the mean rate of one neuron over all trials, for files without conditions. */
async function readMean(dataset, neuron, signal) {
  const path = `/v1/datasets/${dataset.id}/arrays`;
  const [spikes, lengths, missing] = await Promise.all([
    readArray(`${path}/spikes`, { neuron }, signal), readArray(`${path}/trial_length_bins`, {}, signal),
    dataset.report.arrays.includes("missing") ? readArray(`${path}/missing`, { neuron }, signal) : null]);
  const [trials, bins] = spikes.shape;
  const [mean, sem] = [[], []];
  for (let bin = 0; bin < bins; bin += 1) {
    let [count, sum, squares] = [0, 0, 0];
    for (let trial = 0; trial < trials; trial += 1) {
      const at = trial * bins + bin;
      if (bin >= Number(lengths.data[trial]) || missing?.data[at]) continue;
      const rate = spikes.data[at] / dataset.bin_width_s;
      count += 1;
      sum += rate;
      squares += rate * rate;
    }
    mean.push(count ? sum / count : NaN);
    sem.push(count > 1 ? Math.sqrt(Math.max(0, squares - (sum * sum) / count) / (count - 1) / count) : NaN);
  }
  return { rows: [{ label: `all ${trials} trials`, mean, sem }], notShown: 0, time: timesOf({ time_zero_s: dataset.report.time_zero_s, bin_width_s: dataset.bin_width_s }, bins) };
}

function fromPreview(psth, part) {
  const trials = (item) => (item.value === null ? `all ${item.trials} trials` : `${item.value} (${item.trials} trials)`);
  const columns = (rows) => rows.map((row) => row.map((value) => [value]));
  const [values, sem] = [columns(part.mean_hz), columns(part.sem_hz)];
  // The means of a large recording are over some of its trials.
  const few = stopWhereFew({ values, beside: [{ name: "mean_count", values: columns(psth.trials_per_bin) }, { name: "sem", values: sem }] }, psth.trials_per_bin.map((row) => Math.max(...row)));
  return { rows: psth.conditions.map((item, index) => ({ label: trials(item), mean: values[index].flat(), sem: sem[index].flat() })),
    notShown: psth.conditions_in_all - psth.conditions.length, few, time: psth.time_s.map((start) => start + psth.bin_width_s / 2) };
}

const MOST_CONDITIONS = 50;

/** Mean rates over trials by condition, of the population or of a neuron. */
export function Psth({ dataset, preview, neuron, by }) {
  const { psth } = preview;
  const names = Object.entries(dataset.report.trial_metadata).filter(([, { distinct }]) => distinct >= 2 && distinct <= MOST_CONDITIONS).map(([name]) => name);
  const width = Math.max(1, Math.round(psth.bin_width_s / dataset.bin_width_s)) * dataset.bin_width_s;
  const [smooth, setSmooth] = useState("");
  const named = (index) => `${index}${dataset.report.rates_hz[index] === undefined ? "" : ` (${number(dataset.report.rates_hz[index])} spikes/s)`}`;
  const query = { average: by, neuron, smooth_s: smooth, rebin_s: width > dataset.bin_width_s ? Number(width.toPrecision(9)) : null };
  const stored = by === (psth.by ?? null) && (smooth === "" || neuron === null || by === null) ? (neuron === null ? psth.population : psth.neurons.find((item) => item.neuron === neuron)) : null;
  const isStored = by === null && neuron === null; // an average needs conditions to average by
  const isAsked = !stored && neuron !== null;
  const read = useLoaded((signal) => (!isAsked ? Promise.resolve(null) : by === null ? readMean(dataset, neuron, signal) : readPsth(dataset, query, signal)), [dataset.id, query, isAsked]);
  const shown = stored ? fromPreview(psth, stored) : isAsked ? read.data : null;
  const theme = useTheme();
  const plot = useMemo(() => shown && { traces: meanTraces(shown.rows, shown.time),
    layout: { xaxis: { title: { text: timeTitle() } }, yaxis: { title: { text: "Rate (spikes/s)" }, rangemode: "tozero" }, showlegend: true, legend: { orientation: "h", y: -0.22, yanchor: "top", title: { text: by ?? "" } }, uirevision: `${neuron} ${by}` } }, [shown, stored, read.data, theme]);
  return html`<div class="card">
    <div class="row"><${Field} label="Neuron" help="Index from 0 in the data set. Strongly modulated neurons come first in the list.">${(attributes) => html`<select value=${neuron ?? ""} onChange=${(event) => setQuery({ neuron: event.target.value === "" ? null : event.target.value })} ...${attributes}>
        <option value="">all, as a population</option>
        <optgroup label="Strongly modulated">${psth.neurons.map((item) => html`<option value=${item.neuron}>${named(item.neuron)}</option>`)}</optgroup>
        <optgroup label="All">${Array.from({ length: dataset.neurons }, (_, index) => html`<option value=${index}>${named(index)}</option>`)}</optgroup></select>`}<//>
      ${names.length > 0 && neuron !== null && html`<${Field} label="By" help="The metadata whose values are the conditions.">${(attributes) => html`<select value=${by ?? ""} onChange=${(event) => setQuery({ by: event.target.value })} ...${attributes}>
        ${names.map((name) => html`<option value=${name}>${name}</option>`)}</select>`}<//>`}
      ${by !== null && neuron !== null && html`<${Field} label="Smoothing" help="Each trial is smoothed by a Gaussian with this standard deviation.">${(attributes) => html`<select value=${smooth} onChange=${(event) => setSmooth(event.target.value)} ...${attributes}>
        <option value="">none</option>${[0.02, 0.05, 0.1].map((width) => html`<option value=${width}>${1000 * width} ms</option>`)}</select>`}<//>`}</div>
    <${Problem} error=${read.error} />
    ${!plot && !read.error && html`<${Loading} what="mean rates" />`}
    ${plot && html`<${Plot} title=${neuron === null ? "Mean rate of the population" : `Mean rate of neuron ${neuron}`} note=${["± standard error over trials", shown.few].filter(Boolean).join(" · ")} traces=${plot.traces} layout=${plot.layout} height=${420}
      path=${`/v1/datasets/${dataset.id}/${isStored ? "preview" : "arrays/spikes"}`} query=${isStored ? {} : query} formats=${isStored ? ["json"] : ["npy"]} />`}
    ${shown?.notShown > 0 && html`<p class="muted small">${plural(shown.notShown, "more condition")} ${shown.notShown === 1 ? "is" : "are"} not drawn.</p>`}
  </div>`;
}

/** Return round numbers of a logarithmic axis. */
function ticksOf(low, high) {
  const decades = Array.from({ length: Math.ceil(Math.log10(high)) - Math.floor(Math.log10(low)) + 1 }, (_, index) => 10 ** (Math.floor(Math.log10(low)) + index));
  const factors = high / low < 1000 ? [1, 2, 5] : [1];
  return decades.flatMap((decade) => factors.map((factor) => Number((factor * decade).toPrecision(3)))).filter((tick) => tick >= low && tick <= high);
}

/** Histogram of the neurons' mean rates. */
export function Rates({ dataset, preview }) {
  const { edges_hz: edges, neurons, silent } = preview.rates;
  const plot = useMemo(() => ({
    traces: [{ type: "bar", x: neurons.map((_, index) => Math.sqrt(edges[index] * edges[index + 1])), y: neurons, width: neurons.map((_, index) => edges[index + 1] - edges[index]), marker: { color: "#0072b2" },
      customdata: neurons.map((_, index) => `${number(edges[index])} to ${number(edges[index + 1])}`), hovertemplate: "%{y} neurons of %{customdata} spikes/s<extra></extra>" }],
    layout: { xaxis: { type: "log", title: { text: "Mean rate (spikes/s)" }, tickvals: ticksOf(edges[0], edges.at(-1)), range: [edges[0], edges.at(-1)].map(Math.log10) }, yaxis: { title: { text: "Neurons" } }, bargap: 0.02 },
  }), [preview]);
  return html`<div class="card"><${Plot} title="Rates of the neurons" traces=${plot.traces} layout=${plot.layout} height=${260} path=${`/v1/datasets/${dataset.id}/preview`} formats=${["json"]} />
    <p class="muted small">${silent > 0 ? `${silent} neurons never fire and are not drawn. ` : ""}Median ${number(dataset.report.rate_quartiles_hz[2])} spikes/s, highest ${number(dataset.report.rate_quartiles_hz[4])} spikes/s.</p></div>`;
}

/** Rate of the population over the session: does the recording drift? */
export function Session({ dataset, preview }) {
  const { unit, at, rate_hz: rates } = preview.session;
  const { drift } = dataset.report;
  const plot = useMemo(() => ({
    traces: [{ x: at, y: rates, mode: at.length > 200 ? "lines" : "lines+markers", line: { color: "#0072b2", width: 1.5 }, marker: { size: 4 }, connectgaps: false, hovertemplate: `%{y:.2f} spikes/s at ${unit === "s" ? "%{x:.0f} s" : "trial %{x}"}<extra></extra>` }],
    layout: { xaxis: { title: { text: unit === "s" ? "Time in the session (s)" : "Trial" } }, yaxis: { title: { text: "Mean rate (spikes/s)" }, rangemode: "tozero" } },
  }), [preview]);
  return html`<div class="card"><${Plot} title="The session" note="mean over neurons" traces=${plot.traces} layout=${plot.layout} height=${260} path=${`/v1/datasets/${dataset.id}/preview`} formats=${["json"]} />
    <p class="muted small">${drift
    ? `From the first to the last third of the trials the mean rate goes from ${number(drift.first_third_hz)} to ${number(drift.last_third_hz)} spikes/s (${drift.population_ratio > 1 ? "+" : ""}${percent(drift.population_ratio - 1)}). Neurons lost: ${drift.lost.length}, appeared: ${drift.appeared.length}, with at least twice or half the rate: ${drift.changed.length}.`
    : "Below 30 trials the drift is not computed."}</p></div>`;
}
