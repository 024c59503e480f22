// The same trial of several models: the rate of one neuron, and factors rotated into the space of the first model.

import { html, Field, Loading, Problem, useMemo } from "../../ui.js";
import { readArray, useLoaded } from "../../api.js";
import { Plot, colourOf, timeTitle, useTheme } from "../../plot.js";
import { setQuery } from "../../router.js";
import { readColumn, sessionsOf, named, useTrials } from "../model/owner.js";

export function SameTrial({ models, query }) {
  const first = models[0].owner;
  const session = sessionsOf(first)[0];
  const trials = useTrials(first, session);
  if (trials.error) return html`<${Problem} error=${trials.error} />`;
  return trials.data ? html`<${Figures} models=${models} trials=${trials.data} session=${session} query=${query} />` : html`<${Loading} what="the trials" />`;
}

function Figures({ models, trials, session, query }) {
  const label = trials.labels.find((one) => String(one) === query.trial) ?? trials.labels[0];
  const neuronItem = models[0].owner.arrays[named("neuron", session)];
  const names = useLoaded(() => (neuronItem ? readColumn(models[0].owner.path, neuronItem) : Promise.resolve([0])), [models[0].owner.path]);
  const neuron = names.data?.find((one) => String(one) === query.neuron) ?? names.data?.[0];
  const ids = models.map(({ model }) => model.id);
  const rates = useLoaded((signal) => (neuron === undefined ? Promise.resolve(null) : readRates(models, session, label, neuron, signal)), [ids, label, neuron ?? null]);
  const factors = useLoaded((signal) => readFactors(models, label, signal), [ids, label]);
  const theme = useTheme();
  const rateFigure = useMemo(() => rates.data && rateFigureOf(models, trials, rates.data), [rates.data]);
  const factorFigure = useMemo(() => factors.data && factorFigureOf(models, trials, factors.data), [factors.data, theme]);
  const at = trials.labels.indexOf(label);
  return html`<div class="row trial-controls">
      <${Field} label="Trial">${(attributes) => html`<input type="range" min="0" max=${trials.labels.length - 1} value=${at} aria-valuetext=${`Trial ${label}`} onChange=${(event) => setQuery({ trial: trials.labels[event.target.value] })} ...${attributes} />`}<//>
      <span>Trial ${label}${trials.conditions ? `, ${trials.conditionName} ${trials.conditions[at]}` : ""}</span>
      <${Field} label="Neuron">${(attributes) => html`<select value=${neuron} onChange=${(event) => setQuery({ neuron: event.target.value })} ...${attributes}>${names.data?.map((one) => html`<option value=${one}>${one}</option>`)}</select>`}<//></div>
    <${Problem} error=${rates.error ?? factors.error} />
    ${rateFigure && html`<${Plot} title=${`Rates of neuron ${neuron} in trial ${label}`} note="ticks: spikes" traces=${rateFigure.traces} layout=${rateFigure.layout} height=${300} path=${rates.data.path} query=${rates.data.query} />`}
    ${factorFigure && html`<${Plot} title=${`Factors in trial ${label}, in the space of ${models[0].letter}`} note="one colour for each factor of that model" traces=${factorFigure.traces} layout=${factorFigure.layout} height=${factorFigure.height} path=${factors.data.path} query=${factors.data.query} />`}`;
}

async function readRates(models, session, label, neuron, signal) {
  const query = (item) => ({ [item.dims[0]]: label, [item.dims[2]]: neuron });
  const path = ({ owner }) => `${owner.path}/arrays/${named("rates", session)}`;
  const { owner } = models[0];
  const spikes = owner.dataArrays[named("spikes", session)];
  const rates = owner.arrays[named("rates", session)];
  const [counts, ...all] = await Promise.all([spikes ? readArray(`${owner.dataPath}/arrays/${spikes.name}`, query(spikes), signal) : null, ...models.map((one) => readArray(path(one), query(rates), signal))]);
  return { counts, all, path: path(models[0]), query: query(rates) };
}

async function readFactors(models, label, signal) {
  const query = (index) => ({ trial: label, ...(index ? { rotate_to: models[0].model.id } : {}) });
  const path = (one) => `${one.owner.path}/arrays/factors`;
  const all = await Promise.all(models.map((one, index) => readArray(path(one), query(index), signal)));
  return { all, path: path(models.at(-1)), query: query(1) };
}

const known = (values) => Array.from(values, (value) => (Number.isNaN(value) ? null : value));

function rateFigureOf(models, trials, { counts, all }) {
  const x = trials.time.map((start) => start + trials.width / 2);
  const traces = models.map(({ name, colour, dash }, index) => ({ type: "scatter", mode: "lines", x, y: known(all[index].data), name, line: { color: colour, dash, width: 2 }, hovertemplate: `${name}<br>%{x:.3f} s<br>%{y:.3~g} spikes/s<extra></extra>` }));
  if (counts) {
    const bins = Array.from(counts.data, (count, bin) => (count > 0 ? bin : -1)).filter((bin) => bin >= 0);
    const high = all.flatMap(({ data }) => known(data)).reduce((most, value) => Math.max(most, value ?? 0), 1);
    traces.push({ type: "scatter", mode: "markers", x: bins.map((bin) => x[bin]), y: bins.map(() => 1.1 * high), name: "spikes", marker: { symbol: "line-ns-open", size: 9, color: "#8a8a8a", line: { width: 1.5, color: "#8a8a8a" } }, customdata: bins.map((bin) => counts.data[bin]), hovertemplate: "%{customdata} spikes<br>%{x:.3f} s<extra></extra>" });
  }
  return { traces, layout: { xaxis: { title: { text: timeTitle() } }, yaxis: { title: { text: "Rate (spikes/s)" }, rangemode: "tozero" }, legend: { orientation: "h", y: -0.3 } } };
}

function factorFigureOf(models, trials, { all }) {
  const x = trials.time.map((start) => start + trials.width / 2);
  const layout = { grid: { rows: models.length, columns: 1, pattern: "independent", ygap: 0.2 }, showlegend: false, margin: { l: 64, r: 16, t: 12, b: 48 } };
  const traces = models.flatMap(({ letter }, index) => {
    const suffix = index ? index + 1 : "";
    layout[`xaxis${suffix}`] = { matches: index ? "x" : undefined, title: { text: index === models.length - 1 ? timeTitle() : "" }, showticklabels: index === models.length - 1 };
    layout[`yaxis${suffix}`] = { matches: index ? "y" : undefined, title: { text: `${letter}: factors (a.u.)` }, nticks: 5 };
    const [, bins, count] = all[index].shape;
    return Array.from({ length: count }, (_, factor) => ({
      type: "scatter", mode: "lines", x, y: known(Array.from({ length: bins }, (_unused, bin) => all[index].data[bin * count + factor])), xaxis: `x${suffix}`, yaxis: `y${suffix}`,
      name: `${letter}, factor ${factor}`, line: { color: colourOf(factor, count), width: 1.4 }, hovertemplate: `${letter}, factor ${factor}<br>%{x:.3f} s<br>%{y:.3~g}<extra></extra>`,
    }));
  });
  return { traces, layout, height: 60 + 170 * models.length };
}
