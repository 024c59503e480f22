// Which hyperparameters matter: parallel coordinates of the models, and the importance of each hyperparameter.

import { html, useMemo, Empty, Loading, Problem, Table, useReady } from "../../ui.js";
import { useDocument } from "../../api.js";
import { setQuery } from "../../router.js";
import { Plot, sequence, useTheme } from "../../plot.js";
import { number, percent } from "../../format.js";
import { nameOfValue, short, valueOf } from "./words.js";

/** Break a name at the space nearest its middle, so that names stand side by side. */
function inTwoLines(name) {
  const spaces = [...name].flatMap((letter, at) => (letter === " " ? [at] : [])).sort((a, b) => Math.abs(a - name.length / 2) - Math.abs(b - name.length / 2));
  return spaces.length && name.length > 10 ? `${name.slice(0, spaces[0])}<br>${name.slice(spaces[0] + 1)}` : name;
}

export function Hyperparameters({ live, searched, shown, query }) {
  const { job } = live;
  const importance = useDocument(`/v1/jobs/${job.id}/importance`, { everyMs: live.job.ended_at ? 0 : 20000 });
  useReady(importance.data);
  if (!searched.length) return html`<${Empty} title="Nothing was searched"><p>All hyperparameters of this job are fixed. Give ranges or lists in a new search.</p><//>`;
  return html`<${Coordinates} models=${shown} searched=${searched} />
    <${Problem} error=${importance.error} />
    ${importance.data ? html`<${Importance} document=${importance.data} query=${query} />` : html`<${Loading} what="importances" />`}`;
}

/** Five ticks. Without them, Plotly writes the ends of an axis over its name. */
function ticksOf(low, high, show) {
  const tickvals = Array.from({ length: 5 }, (_, index) => low + (index * (high - low)) / 4);
  return { tickvals, ticktext: tickvals.map(show) };
}

/** Return an axis of the parallel coordinates: logarithmic values as powers of ten, names as numbers. */
function axisOf({ name, isLog }, models) {
  const values = models.map((model) => valueOf(model, name));
  const label = inTwoLines(nameOfValue(name));
  if (values.some((value) => typeof value === "string")) {
    const kinds = [...new Set(values)].sort();
    return { label, values: values.map((value) => kinds.indexOf(value)), tickvals: kinds.map((_, index) => index), ticktext: kinds, range: [-0.2, kinds.length - 0.8] };
  }
  const scaled = isLog ? values.map(Math.log10) : values;
  const [low, high] = [Math.min(...scaled), Math.max(...scaled)];
  const ticks = ticksOf(low, high, (tick) => short(isLog ? 10 ** tick : tick));
  return { label, values: scaled, raw: values, ...ticks, range: low < high ? [low, high] : [low - 1, low + 1] };
}

function Coordinates({ models, searched }) {
  const theme = useTheme();
  const known = useMemo(() => models.filter((model) => Number.isFinite(model.scores.sv_bits_per_spike_valid)), [models]);
  const [traces, layout] = useMemo(() => {
    const bits = known.map((model) => model.scores.sv_bits_per_spike_valid);
    // Most models are good and a few are far below them: the colours cover the upper nine tenths.
    const sorted = [...bits].sort((a, b) => a - b);
    const [cmin, cmax] = [sorted[Math.floor(0.1 * (sorted.length - 1))], sorted.at(-1)];
    const [low, high] = [sorted[0], cmax > sorted[0] ? cmax : sorted[0] + 1];
    const score = { label: "bits<br>per spike", values: bits, range: [low, high], ...ticksOf(low, high, (tick) => tick.toFixed(3)) };
    const colours = sequence();
    const colorscale = colours.map((colour, index) => [index / (colours.length - 1), colour]);
    return [[{ type: "parcoords", dimensions: [...searched.map((one) => axisOf(one, known)), score], labelside: "top",
      line: { color: bits, colorscale, cmin, cmax, showscale: true, colorbar: { title: { text: "SV bits<br>per spike" }, thickness: 12, tickformat: ".3~f" } } }],
    { margin: { l: 60, r: 40, t: 80, b: 24 } }];
  }, [known, searched, theme]);
  if (known.length < 2) return html`<${Empty} title="Fewer than two models have a score"><p>Parallel coordinates show here as soon as two models have one. A model that still trains may have none yet.</p><//>`;
  return html`<div class="card"><div class="scroll" tabindex="0" role="region" aria-label="Parallel coordinates"><div class="broad">
      <${Plot} title="Hyperparameters and scores of the models" note="each line is a model" traces=${traces} layout=${layout} height=${420} /></div></div>
    <p class="muted small">Drag along an axis to keep only the models in that range. Drag the name of an axis to move it. Hidden models are left out.</p></div>`;
}

const MEASURES = { lowest_smoothed_sv_loss: "SV loss (nats per sample)", place_in_generation: "place in generation (0: best)" };

function Importance({ document: { dimensions, measure, observations, note }, query }) {
  const isKnown = dimensions.some((one) => one.importance !== null);
  const bars = useMemo(() => {
    const reversed = [...dimensions].reverse();
    return [{ type: "bar", orientation: "h", y: reversed.map((one) => nameOfValue(one.name)), x: reversed.map((one) => one.importance), marker: { color: reversed.map((one) => (one.p_value !== null && one.p_value <= 0.05 ? "#0072b2" : "#8a94a6")) },
      hovertemplate: "%{y}: %{x:.0%}<extra></extra>" }];
  }, [dimensions]);
  const layout = useMemo(() => ({ xaxis: { title: { text: "importance (share)" }, tickformat: ".0%", rangemode: "tozero" }, yaxis: { ticksuffix: " " }, margin: { l: 150 } }), []);
  return html`<div class="grid wide">
    <div class="card"><h2>Importance of hyperparameters</h2>
      ${note && html`<p class="muted">${note}</p>`}
      ${isKnown && html`<${Plot} title="Importance" note=${`of ${observations} ${measure === "place_in_generation" ? "segments" : "models"}`} traces=${bars} layout=${layout} height=${90 + 28 * dimensions.length} />
      <${Table} caption="Importance of hyperparameters" columns=${COLUMNS} rows=${dimensions} rowKey=${(row) => row.name} />
      <p class="muted small">The importance is a share of the difference between good and other models. Blue: p ≤ 0.05. Ignore the others: their differences may be chance.</p>`}</div>
    <${Marginal} dimensions=${dimensions} measure=${measure} wanted=${query.along} />
  </div>`;
}

const COLUMNS = [
  { key: "name", label: "Hyperparameter", show: (row) => nameOfValue(row.name) },
  { key: "importance", label: "Importance", numeric: true, show: (row) => percent(row.importance) },
  { key: "p_value", label: "p value", help: "The probability of such a difference by chance.", numeric: true, show: (row) => number(row.p_value, 3) },
  { key: "best", label: "Best part of its range", unsorted: true, show: bestPart },
];

function bestPart({ marginals, p_value: p }) {
  if (p === null || p > 0.05) return html`<span class="muted">no clear one</span>`;
  const known = marginals.filter((part) => part.observations > 1 && part.median !== null).sort((a, b) => a.median - b.median);
  return known.length ? nameOfPart(known[0]) : "–";
}

function nameOfPart({ low, high }) {
  return low === high ? short(low) : `${short(low)} … ${short(high)}`;
}

function Marginal({ dimensions, measure, wanted }) {
  const chosen = dimensions.find((one) => one.name === wanted) ?? dimensions[0];
  const traces = useMemo(() => {
    const x = chosen.marginals.map(nameOfPart);
    const text = chosen.marginals.map((part) => `${part.observations} ${measure === "place_in_generation" ? "segments" : "models"}`);
    const trace = (name, key, color, symbol) => ({ type: "scatter", mode: "lines+markers", name, x, y: chosen.marginals.map((part) => part[key]), text, line: { color }, marker: { size: 9, symbol }, connectgaps: true, hovertemplate: `${name} %{y:.4f} of %{text}<extra></extra>` });
    return [trace("median", "median", "#0072b2", "circle"), trace("lowest", "lowest", "#e69f00", "diamond")];
  }, [chosen, measure]);
  const layout = useMemo(() => ({ xaxis: { title: { text: nameOfValue(chosen.name), standoff: 10 }, type: "category", tickangle: -90, automargin: true }, yaxis: { title: { text: MEASURES[measure] } }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { b: 90, t: 36 } }), [chosen.name, measure]);
  const hasValues = chosen.marginals.some(({ median }) => median !== null);
  return html`<div class="card"><h2>Along one hyperparameter</h2>
    <label>Hyperparameter <select value=${chosen.name} onChange=${(event) => setQuery({ along: event.target.value })}>${dimensions.map((one) => html`<option value=${one.name}>${nameOfValue(one.name)}</option>`)}</select></label>
    ${!hasValues && html`<p class="muted">No model has a result yet.</p>`}
    ${hasValues && html`<${Plot} title=${`${measure === "place_in_generation" ? "Places" : "Lowest smoothed SV losses"} along ${nameOfValue(chosen.name)}`} traces=${traces} layout=${layout} height=${380} />`}</div>`;
}
