// What was understood of a file, in plain words.

import { html } from "../../ui.js";
import { duration, number, percent } from "../../format.js";

const FORMATS = {
  npz: "NumPy arrays (NPZ)", lfads_hdf5: "LFADS HDF5", nlb_hdf5: "Neural Latents Benchmark HDF5", hdf5: "HDF5", nwb: "NWB", matlab: "MATLAB", csv: "a CSV table",
  parquet: "a Parquet table", phy: "a Phy or Kilosort folder", neo: "an acquisition system's file", sessions: "several sessions", synthetic: "synthetic spikes",
};
const SYSTEMS = { lorenz: "a Lorenz attractor", chaotic_rnn: "a chaotic network", driven: "a network with inputs", two_sessions: "two sessions of one system" };

const milliseconds = (seconds) => (seconds < 1 ? `${number(1000 * seconds)} ms` : `${number(seconds)} s`);

/** Return what the report says about the conditions, for a sentence. */
function conditionsIn(report) {
  if (!report.conditions) return "none found; rates are averaged over all trials";
  const about = report.trial_metadata[report.conditions];
  const values = about?.values && about.distinct <= 12 ? `: ${about.values.map(({ value }) => value).sort((a, b) => (a > b ? 1 : -1)).join(", ")}` : "";
  return `the ${about?.distinct ?? ""} values of ${report.conditions}${values}`;
}

function lengthIn(report) {
  const { min, median, max, ragged } = report.trial_length_bins;
  const width = report.bin_width_s;
  if (!ragged) return `${milliseconds(max * width)}, all of the same length`;
  return `${milliseconds(min * width)} to ${milliseconds(max * width)}, median ${milliseconds(median * width)}`;
}

function zeroIn(seconds, event) {
  if (seconds === 0) return event ?? "the start of the trial";
  const when = seconds < 0 ? `${milliseconds(-seconds)} after the first bin begins` : `${milliseconds(seconds)} before the first bin begins`;
  return event ? `${event}, ${when}` : when;
}

/** Return [label, text] of what was understood; only what the report has. */
export function factsOf({ report, source, options }) {
  const from = source.kind === "upload" ? FORMATS[report.format] ?? report.format : `${SYSTEMS[source.system] ?? FORMATS[report.format] ?? report.format}`;
  const facts = [["Recording", source.filename ? `${source.filename}, read as ${from}` : from]];
  if (report.trial_length_bins) facts.push(["Length of trials", lengthIn(report)]);
  if (report.time_zero_s !== undefined) facts.push(["Time 0", zeroIn(report.time_zero_s, options?.trials?.align_to)]);
  if (report.trial_metadata) {
    const others = Object.keys(report.trial_metadata).filter((name) => name !== report.conditions);
    facts.push(["Conditions", conditionsIn(report)], ["Other values of trials", others.join(", ") || "none"]);
  }
  if (Object.keys(report.neuron_metadata ?? {}).length) facts.push(["Values of neurons", Object.keys(report.neuron_metadata).join(", ")]);
  const behaviour = Object.entries(report.behaviour ?? {}).map(([name, shape]) => (shape.length > 2 ? `${name} (${shape[2]} values in each bin)` : name));
  if (report.behaviour) facts.push(["Behaviour", behaviour.join(", ") || "none"]);
  if (report.external_inputs) facts.push(["Known inputs", `${report.external_inputs} in each bin`]);
  if (report.has_true_rates) facts.push(["True rates", "known, so that models can be compared with them"]);
  if (report.missing_fraction > 0) facts.push(["Not observed", `${percent(report.missing_fraction)} of the samples; no model is trained or scored on them`]);
  if (report.padding_fraction > 0) facts.push(["Padding", `${percent(report.padding_fraction)} of all bins lie after the end of their trial`]);
  if (report.chopped) facts.push(["Windows", `${report.chopped.windows} windows of ${number(report.chopped.window_s)} s that overlap by ${number(report.chopped.overlap_s)} s`]);
  return facts;
}

/** The numbers of a data set. */
export function Numbers({ dataset }) {
  const { report } = dataset;
  const shown = [
    [dataset.trials?.toLocaleString("en"), "trials"], [dataset.bins, "bins in each"], [milliseconds(dataset.bin_width_s), "bin width"], [dataset.neurons?.toLocaleString("en"), "neurons"],
    ...(report.duration_s ? [[duration(report.duration_s), "recorded in trials"]] : []),
    ...(report.total_spikes ? [[report.total_spikes.toLocaleString("en"), "spikes"], [number(report.mean_rate_hz), "spikes/s, mean of neurons"]] : []),
  ];
  return html`<div class="numbers">${shown.map(([value, label]) => html`<div><b>${value ?? "–"}</b> <span class="muted">${label}</span></div>`)}</div>`;
}

/** The facts, and how each variable was found. */
export function Understood({ dataset }) {
  const { report } = dataset;
  return html`<dl class="facts">${factsOf(dataset).map(([label, text]) => html`<dt>${label}</dt><dd>${text}</dd>`)}</dl>
    ${(report.notes?.length > 0 || report.understood?.length > 0) && html`<details><summary>How the file was read</summary>
      <ul>${(report.understood ?? []).map((item) => html`<li><code>${item.variable}</code>${item.shape.length ? ` (${item.shape.join(" × ")})` : ""}: ${item.what.replaceAll("_", " ")}, ${item.how}</li>`)}
        ${(report.notes ?? []).map((note) => html`<li>${note}</li>`)}</ul></details>`}`;
}
