// What the search found, in plain words: the selected model, its baselines, the budget that was spent.

import { html, Copy, Empty, Link, Table, useReady } from "../../ui.js";
import { duration, number, percent } from "../../format.js";
import { Methods } from "../methods.js";
import { isFinal } from "./live.js";
import { describe, nameOfPreset, nameOfValue, short, withLabels } from "./words.js";

const BASELINES = { mean: "mean of each neuron", psth: "mean by bin (PSTH)", smoothed_spikes: "smoothed spikes" };
const VERDICTS = { above: ["good", "better"], about_as_good: ["wait", "about as good"], below: ["bad", "worse"] };
const TRIALS = { sv_bits_per_spike_valid: "validation", sv_bits_per_spike_test: "test" };

export function Report({ live, searched }) {
  const { job, models } = live;
  const { diagnostics } = job;
  const selected = models.find((model) => model.is_selected);
  useReady(true);
  return html`<div class="grid wide">
    <div class="card"><h2>Selected model</h2>
      ${selected ? html`<${Selected} job=${job} model=${selected} searched=${searched} />` : html`<${Empty} title="No model is selected yet"><p>${job.state === "failed" || job.state === "cancelled"
    ? "The job ended before it selected one." : "The job selects the model with the lowest smoothed SV loss when training ends. Stop the job to select the best model so far."}</p><//>`}</div>
    <${Budget} job=${job} />
    ${diagnostics && html`<div class="card"><h2>Diagnostics</h2><${Diagnostics} diagnostics=${diagnostics} models=${models} /></div>`}
    ${diagnostics?.baselines.length > 0 && html`<div class="card"><h2>Compared with simple predictors</h2><${Baselines} baselines=${diagnostics.baselines} model=${selected} /></div>`}
    ${selected && isFinal(job) && html`<div class="card whole-row"><h2>Methods of a paper</h2><${Methods} modelId=${job.final_model_id ?? selected.id} /></div>`}
  </div>`;
}

function Selected({ job, model, searched }) {
  const { scores } = model;
  const ended = job.final_model_id && job.final_model_id !== model.id;
  return html`<p>The search selected <strong><${Link} to=${`/models/${model.id}`}>model ${model.number}<//></strong>: it has the lowest smoothed SV loss
      (${number(scores.smoothed_sv_loss)} nats per sample, averaged over this and earlier epochs), at epoch ${scores.best_epoch} of ${model.epochs_trained}. Its SV loss of that epoch alone is ${number(scores.sv_loss)}.</p>
    <p>It predicts held-out samples of validation trials with <strong>${number(scores.sv_bits_per_spike_valid, 3)} bits per spike</strong> (0 = constant rates).</p>
    ${ended && html`<p>Its latents come from a <${Link} to=${`/models/${job.final_model_id}`}>refit<//> on training and validation trials.</p>`}
    <p class="muted">${describe(model, searched)}.</p>
    <p class="buttons"><${Link} class="button primary" to=${`/models/${job.final_model_id ?? model.id}`}>Look at its latents<//></p>`;
}

function Diagnostics({ diagnostics, models }) {
  const { selected, best_by_validation_loss: other, rank_correlation: correlation, warning, note } = diagnostics;
  const link = (wanted) => html`<${Link} to=${`/models/${models.find((model) => model.number === wanted)?.id}`}>model ${wanted}<//>`;
  return html`
    ${warning ? html`<div class="warning"><strong>Before you use the latents</strong>${sentences(warning).map((text) => html`<p>${withLabels(text)}</p>`)}</div>`
    : html`<p><span class="state good">no warning</span> No check found a reason against using the latents.</p>`}
    ${note && html`<p>Leaks are not judged: ${note}</p>`}
    ${other !== null && (other === selected ? html`<p>Ordinary validation would have selected the same model.</p>`
    : html`<p>Ordinary validation would have selected ${link(other)} instead.</p>`)}
    ${correlation !== null && html`<p>The ranks of the models by SV loss and by validation loss have a correlation of ${number(correlation, 2)} ${correlation > 0.7 ? "(near 1: both losses agree)." : "(far from 1: the validation loss misleads in this search)."}</p>`}
    ${diagnostics.is_best_epoch_in_ramp && html`<p>The best epoch lies within the ramp, when the penalties have not reached their full weights.</p>`}`;
}

/** Parts of a warning of several sentences: its paragraphs begin where the subject changes. */
function sentences(text) {
  return text.split(/(?<=[.)]) (?=To prevent|The selected model predicts|Its SV loss|Its best epoch|\d+ of \d+ models)/);
}

const COLUMNS = [
  { key: "baseline", label: "Simple predictor", show: (row) => html`${BASELINES[row.baseline] ?? row.baseline}<br /><span class="muted small">${TRIALS[row.score] ?? row.score} trials</span>` },
  { key: "model", label: "Model", numeric: true, show: (row) => number(row.model, 3) },
  { key: "predictor", label: "Predictor", numeric: true, show: (row) => number(row.predictor, 3) },
  { key: "difference", label: "Difference", numeric: true, show: (row) => `${row.difference > 0 ? "+" : ""}${number(row.difference, 3)}${row.standard_error === null ? "" : ` ± ${number(row.standard_error, 3)}`}` },
  { key: "verdict", label: "The model is", show: (row) => html`<span class=${`state ${VERDICTS[row.verdict][0]}`}>${VERDICTS[row.verdict][1]}</span>` },
];

function Baselines({ baselines, model }) {
  const rows = baselines.map((row) => ({ ...row, model: model?.scores[row.score], predictor: model?.baselines[row.score]?.[row.baseline] }));
  return html`<${Table} caption="Comparison with simple predictors" columns=${COLUMNS} rows=${rows} rowKey=${(row) => `${row.score} ${row.baseline}`} />
    <p class="muted small">Scores are in bits per spike. Means are over training trials. 0 is the score of constant rates: each neuron’s mean on the scored samples. Its mean over training trials differs a little, so that predictor may score below 0. ± is the standard error over trials. “About as good” means that the difference is within two standard errors.</p>`;
}

function Bar({ label, used, limit, show }) {
  return html`<dt>${label}</dt><dd>${limit ? html`<progress max="1" value=${Math.min(1, used / limit)} aria-label=${label}></progress> ${show(used)} of ${show(limit)} (${percent(used / limit)})`
    : html`${show(used)} <span class="muted">no limit</span>`}</dd>`;
}

function Budget({ job }) {
  const { progress, specification: { budget } } = job;
  const count = (value) => value.toLocaleString("en");
  return html`<div class="card"><h2>Budget</h2><dl class="facts budget">
      <${Bar} label=${job.state === "cancelled" ? "models ended or cancelled" : "models ended"} used=${progress.models_ended} limit=${progress.models} show=${count} />
      <${Bar} label="epochs of all models" used=${progress.epochs_trained} limit=${progress.epochs_budget} show=${count} />
      <${Bar} label="time without pauses" used=${progress.seconds_elapsed ?? 0} limit=${budget.wall_seconds} show=${duration} />
      <${Bar} label="device time" used=${progress.device_seconds} limit=${budget.device_seconds} show=${duration} />
    </dl>
    <p class="muted small">The job ends at the first limit it reaches.${budget.patience_epochs ? ` A model ends early if its smoothed SV loss does not improve for ${budget.patience_epochs} epochs.` : ""}</p></div>`;
}

/** The whole specification, and the same job as a request. */
export function Settings({ live: { job } }) {
  useReady(true);
  const text = JSON.stringify(job.specification, null, 2);
  return html`<div class="row"><h2>Settings</h2><span class="end"><${Copy} text=${text} label="Copy as JSON" /></span></div>
    <div class="columns">${Object.entries(job.specification).filter(([, part]) => part && typeof part === "object" && !Array.isArray(part)).map(([name, part]) => html`<div class="card"><h3>${SECTIONS[name] ?? name.replaceAll("_", " ")}</h3>
      <dl class="facts">${Object.entries(part).map(([key, value]) => html`<dt>${nameOfValue(key)}</dt><dd>${shown(value, ABSENT[key])}</dd>`)}</dl></div>`)}
      <div class="card"><h3>Search</h3><dl class="facts"><dt>preset</dt><dd>${nameOfPreset(job.specification.preset)}</dd><dt>seed</dt><dd>${job.specification.seed}</dd><dt>priority</dt><dd>${job.specification.priority}</dd>
        <dt>trained with</dt><dd>${job.trained_with.map((versions) => Object.entries(versions).map(([key, value]) => `${key} ${value}`).join(", ")).join("; ") || "–"}</dd>
        <dt>scored on</dt><dd>${job.scored_on} <span class="muted">(jobs with the same value can be compared)</span></dd></dl></div></div>`;
}

const SECTIONS = { strategy: "Strategy", architecture: "Architecture", space: "Hyperparameters", training: "Training", budget: "Budget", inference: "Latents", warm_start: "Warm start" };
const ABSENT = { wall_seconds: "no limit", device_seconds: "no limit", patience_epochs: "no limit", read_in_dim: "none", burn_in_epochs: "none" };

function shown(value, absent = "–") {
  if (value === null) return absent;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : short(value);
  if (typeof value === "string") return nameOfValue(value);
  if (Array.isArray(value)) return value.map((one) => shown(one)).join(", ") || "none";
  if ("low" in value) return `${short(value.low)} … ${short(value.high)} (${value.scale})`;
  return Object.entries(value).map(([key, item]) => `${nameOfValue(key)} ${shown(item)}`).join(", ") || "none";
}
