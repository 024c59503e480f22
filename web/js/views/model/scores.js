// Scores beside those of simple predictors, in words, and the scores of single neurons.

import { html, Empty, Link, Loading, Problem, Table, useMemo, useReady, useState } from "../../ui.js";
import { useLoaded } from "../../api.js";
import { CATEGORIES, Plot } from "../../plot.js";
import { number } from "../../format.js";
import { withLabels } from "../job/words.js";
import { readNeuronScores } from "./neurons.js";
import { named, sessionsOf } from "./owner.js";

export const PREDICTORS = { mean: "each neuron's mean over training trials", psth: "the mean by bin (PSTH)", smoothed_spikes: "the neuron's own smoothed spikes" };
const PARTS = { test: "test trials", valid: "validation trials" };
const ABOUT = {
  sv_bits_per_spike: ["Held-out samples", "bits per spike", "The model does not read these samples. This is the score to report, best on test trials."],
  co_smoothing_bits_per_spike: ["Held-out neurons", "bits per spike", "Neurons that the model does not read, in encoded bins."],
  forward_prediction_bits_per_spike: ["Forward prediction", "bits per spike", "Bins after those that the model reads."],
  r2_true_rates: ["True rates", "R²", "Against the true rates of synthetic data, mean over neurons."],
  psth_r2: ["PSTH", "R²", "Rates averaged by condition against the mean spikes, smoothed by 70 ms."],
  reconstruction_bits_per_spike: ["Reconstruction", "bits per spike", "All samples, also those that the model reads. A leaking model scores best, so do not judge models by it."],
};

/** Return {kind, part, label, unit, help} of the name of a score, or null for losses and epochs. */
export function scoreOf(name) {
  const [, kind, part] = /^(.*?)(?:_(valid|test))?$/.exec(name);
  if (!ABOUT[kind]) return null;
  const [label, unit, help] = ABOUT[kind];
  return { name, kind, part, unit, help, label: `${label}${part ? `, ${PARTS[part]}` : ""}` };
}

/** Return the names of scores in a sensible order: held-out samples first, test trials first. */
export function orderedScores(names) {
  const kinds = Object.keys(ABOUT);
  return names.map(scoreOf).filter(Boolean).sort((a, b) => kinds.indexOf(a.kind) - kinds.indexOf(b.kind) || String(a.part).localeCompare(String(b.part)));
}

export default function ScoresTab({ owner }) {
  const { document, job, model } = owner;
  const scores = orderedScores(Object.keys(document.scores ?? {})).filter(({ name }) => document.scores[name] !== null);
  const hasRates = owner.arrays && sessionsOf(owner).every((session) => owner.arrays[named("rates", session)]);
  useReady(!hasRates); // otherwise the plot of the neurons says so
  if (scores.length === 0 && !document.scores?.sv_loss) {
    return html`<${Empty} title="There are no scores yet"><p>${owner.inference ? "No trial of this data set can be scored: some of them may have trained the model." : "A model has scores after its first epochs."}</p><//>`;
  }
  return html`<${InWords} owner=${owner} scores=${scores} />
    ${scores.length > 0 && html`<h2>Scores beside simple predictors</h2><${ScoreTable} document=${document} scores=${scores} /><${ScoreBars} owner=${owner} scores=${scores} />`}
    ${!owner.inference && html`<${Losses} model=${model} job=${job} />`}
    ${hasRates && html`<${Neurons} owner=${owner} />`}`;
}

/** Say what is better than what, and by how much. */
function InWords({ owner, scores }) {
  const { document, job, model } = owner;
  const main = scores.find(({ kind }) => kind === "sv_bits_per_spike");
  const others = main && Object.entries(document.baselines?.[main.name] ?? {}).filter(([, value]) => value !== null);
  const known = model?.is_selected ? job?.diagnostics?.baselines ?? [] : [];
  return html`<h2>In words</h2>
    ${main ? html`<p>The model predicts spikes that it did not read with <b>${number(document.scores[main.name], 3)} bits per spike</b> (${PARTS[main.part]}).
      ${main.part === "valid" && " Validation trials also selected the model, so this score is optimistic."} Zero is the score of constant rates: each neuron's mean on the scored samples themselves. Its mean over training trials differs a little, so that predictor may score below zero.</p>`
    : html`<p>There is no score of held-out samples here.</p>`}
    ${others?.length > 0 && html`<ul>${others.map(([name, value]) => html`<li>${sentence(document.scores[main.name], name, value, known.find((item) => item.score === main.name && item.baseline === name))}</li>`)}</ul>`}
    ${job?.diagnostics?.warning && model?.is_selected && html`<div class="warning"><strong>About this search.</strong> ${withLabels(job.diagnostics.warning)}</div>`}
    ${document.scores.psth_r2_valid < document.baselines?.psth_r2_valid?.psth && html`<p class="muted">The simple PSTH is made from the same mean spikes that it is compared with in “PSTH”, so it scores high there.</p>`}`;
}

function sentence(score, name, value, tested) {
  const difference = score - value;
  const error = tested ? ` ± ${number(tested.standard_error, 3)}` : "";
  const verdict = tested ? { above: "better than", below: "worse than", about_as_good: "about as good as" }[tested.verdict] : difference > 0 ? "better than" : "worse than";
  const words = verdict === "about as good as" ? "The difference is within its sampling error." : verdict === "worse than" ? "Use this predictor instead, or search more models." : "";
  return html`It is <b>${verdict}</b> ${PREDICTORS[name] ?? name}, which reaches ${number(value, 3)}: the difference is ${difference > 0 ? "+" : ""}${number(difference, 3)}${error} bits per spike. ${words}`;
}

function ScoreTable({ document, scores }) {
  const columns = [
    { key: "label", label: "Score", show: (row) => html`${row.label}<br /><span class="muted small">${row.help}</span>` },
    { key: "unit", label: "Unit", show: ({ unit }) => html`<span class="nowrap">${unit}</span>` },
    { key: "model", label: "Model", numeric: true, value: (row) => document.scores[row.name], show: (row) => html`<b>${number(document.scores[row.name], 3)}</b>` },
    ...Object.entries(PREDICTORS).map(([name, label]) => ({ key: name, label, numeric: true, value: (row) => document.baselines?.[row.name]?.[name], show: (row) => number(document.baselines?.[row.name]?.[name], 3) })),
  ];
  return html`<${Table} caption="Scores beside simple predictors" columns=${columns} rows=${scores} rowKey=${(row) => row.name} />`;
}

function ScoreBars({ owner, scores }) {
  const { document } = owner;
  const shown = scores.filter(({ unit }) => unit === "bits per spike");
  const figure = useMemo(() => {
    const labels = shown.map(({ label }) => label.replace(", ", "<br>"));
    const bars = [["model", "model", (name) => document.scores[name]], ...Object.entries(PREDICTORS).map(([key, label]) => [key, label, (name) => document.baselines?.[name]?.[key] ?? null])];
    const traces = bars.map(([, label, valueOf], index) => ({
      type: "bar", name: label, x: labels, y: shown.map(({ name }) => valueOf(name)), marker: { color: CATEGORIES[index], pattern: { shape: ["", "/", ".", "x"][index], fillmode: "overlay", fgcolor: "rgba(255,255,255,0.7)" } },
      hovertemplate: `${label}<br>%{y:.3f} bits per spike<extra></extra>`,
    }));
    return { traces, layout: { barmode: "group", yaxis: { title: { text: "Bits per spike" } }, legend: { orientation: "h", y: -0.25 }, margin: { b: 90 } } };
  }, [document]);
  return shown.length > 0 && html`<${Plot} title="Bits per spike" note="higher is better; 0 is no better than constant rates" traces=${figure.traces} layout=${figure.layout} height=${360} path=${owner.path} formats=${[]} />`;
}

function Losses({ model, job }) {
  const { scores } = model;
  if (!Number.isFinite(scores?.sv_loss)) return null;
  const found = job?.diagnostics?.models?.find((item) => item.number === model.number);
  const isLeaking = job?.diagnostics?.leaking?.includes(model.number);
  const leaksLater = job?.diagnostics?.leaking_later?.includes(model.number);
  return html`<h2>Losses</h2>
    <dl class="facts"><dt>SV loss</dt><dd>${number(scores.sv_loss)} nats per sample, at epoch ${scores.best_epoch}. Trust this loss.</dd>
      <dt>Validation loss</dt><dd>${number(scores.validation_loss)} nats per sample. It misleads if a model leaks.</dd>
      ${found && html`<dt>Lost share of the gain</dt><dd>${number(found.lost_share, 2)} <span class="muted">(near 0: the model infers rates; 1: it loses the whole gain on samples that it does not read)</span></dd>`}</dl>
    ${isLeaking && html`<div class="warning"><strong>This model leaks.</strong> It passes single spikes from input to output, so its rates are worse than its validation loss says. <${Link} to="/help">What to do against leaks<//></div>`}
    ${!isLeaking && leaksLater && html`<div class="warning"><strong>This model leaked later in its training.</strong> The kept weights, of epoch ${scores.best_epoch}, are from before.</div>`}
    ${found && !isLeaking && !leaksLater && html`<p>No leak was found.</p>`}`;
}

/** 0.01, 0.02, 0.05, 0.1 …: Plotly writes 5 for 0.05 on a logarithmic axis. */
const TICKS = [0.001, 0.01, 0.1, 1, 10, 100].flatMap((power) => [1, 2, 5].map((step) => Number((step * power).toPrecision(1))));
const LOG_TICKS = { tickmode: "array", tickvals: TICKS, ticktext: TICKS.map(String) };

/** Bits per spike of each neuron against its rate: rare spikes are hard to predict. */
function Neurons({ owner }) {
  const session = sessionsOf(owner)[0];
  const [shown, setShown] = useState(session);
  const found = useLoaded((signal) => readNeuronScores(owner, shown, signal), [owner.path, shown ?? null]);
  const figure = useMemo(() => {
    const known = (found.data ?? []).filter(({ bits }) => Number.isFinite(bits));
    return {
      count: known.length, silent: (found.data?.length ?? 0) - known.length,
      traces: [{
        type: "scatter", mode: "markers", x: known.map(({ rate_hz: rate }) => rate), y: known.map(({ bits }) => bits), marker: { color: CATEGORIES[0], size: 8, opacity: 0.85 }, text: known.map(({ neuron }) => `neuron ${neuron}`),
        hovertemplate: "%{text}<br>%{x:.3~g} spikes/s<br>%{y:.3f} bits per spike<extra></extra>",
      }],
      layout: { xaxis: { title: { text: "Mean rate (spikes/s)" }, type: "log", ...LOG_TICKS }, yaxis: { title: { text: "Bits per spike" } }, showlegend: false },
    };
  }, [found.data]);
  useReady(found.data || found.error);
  return html`<h2>Neurons</h2>
    ${session !== null && html`<p><label>Session <select value=${shown} onChange=${(event) => setShown(Number(event.target.value))}>${sessionsOf(owner).map((one) => html`<option value=${one}>${one + 1}</option>`)}</select></label></p>`}
    <${Problem} error=${found.error} retry=${found.reload} />${!found.data && !found.error && html`<${Loading} what="the scores of the neurons" />`}
    ${found.data && html`<${Plot} title=${`Reconstruction of ${figure.count} neurons`} note=${`0 is no better than the neuron's mean · compare neurons by it, not models${figure.silent ? ` · ${figure.silent} without spikes are left out` : ""}`} traces=${figure.traces} layout=${figure.layout} height=${360}
      path=${`${owner.path}/neurons`} query=${{ array: named("rates", shown) }} formats=${[]} />`}`;
}
