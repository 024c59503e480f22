// What the model is: hyperparameters, architecture, lineage, learning curve, card, downloads, deletion.

import { html, Action, Link, Problem, Table, useMemo, useReady } from "../../ui.js";
import { download, useDocument } from "../../api.js";
import { CATEGORIES, Plot } from "../../plot.js";
import { number, time } from "../../format.js";
import { Methods } from "../methods.js";
import { DeleteButton } from "../deletion.js";
import { capital, nameOfValue } from "../job/words.js";
import { spoken } from "./owner.js";

/** Seeds in full, and small weights as powers of ten. */
export function shownNumber(value) {
  if (Number.isInteger(value)) return String(value);
  return Math.abs(value) < 1e-3 ? value.toExponential(2) : number(value);
}

const FORMATS = [["npz", "NumPy (npz)"], ["mat", "MATLAB (mat)"], ["hdf5", "HDF5"], ["nwb", "NWB"], ["zarr", "Zarr (zip)"]];

export default function AboutTab({ owner, caller, reload }) {
  const { model, inference, job } = owner;
  const curve = useDocument(model ? `/v1/models/${model.id}/learning_curve` : null);
  useReady(!curve.isLoading);
  return html`<div class="grid wide">
    ${model && html`<section class="card"><h2>Model</h2><${Facts} model=${model} job=${job} />
      <h3>Hyperparameters</h3><${Hyperparameters} model=${model} /></section>`}
    ${model && html`<section class="card"><h2>Architecture</h2><${Architecture} model=${model} /></section>`}
    ${inference && html`<section class="card"><h2>Computation</h2><${InferenceFacts} inference=${inference} /></section>`}
    <section class="card"><h2>Downloads</h2><${Downloads} owner=${owner} /></section>
    ${model && html`<section class="card whole-row"><h2>For a paper</h2>${model.scores.best_epoch ? html`<${Methods} modelId=${model.id} />`
      : html`<p class="muted">A model has a paragraph for the methods section when it has been trained.</p>`}</section>`}
    ${job && model && html`<section class="card whole-row"><h2>Lineage</h2><${Lineage} model=${model} job=${job} /></section>`}
  </div>
  <${Problem} error=${curve.error} />
  ${curve.data?.points.length > 0 && html`<h2>Learning curve</h2><${Curve} model=${model} curve=${curve.data} />`}
  ${!caller?.share && owner.arrays && html`<h2>Deletion</h2><${Deletion} owner=${owner} reload=${reload} />`}`;
}

function Facts({ model, job }) {
  const trained = job?.trained_with?.[0];
  return html`<dl class="facts">
    <dt>Number in its job</dt><dd>${model.number}</dd>
    <dt>Trained epochs</dt><dd>${model.epochs_trained}${model.scores.best_epoch ? `, the kept weights are of epoch ${model.scores.best_epoch}` : ""}</dd>
    ${model.end_reason && html`<dt>Why it ended</dt><dd>${model.end_reason}</dd>`}
    <dt>Seed</dt><dd>${model.seed}</dd>
    <dt>Ended</dt><dd>${time(model.ended_at)}</dd>
    ${trained && html`<dt>Trained with</dt><dd>Latentry ${trained.latentry}, torch ${trained.torch}</dd>`}
    <dt>Held-out samples</dt><dd><code>${model.scored_on}</code> <span class="muted">(compare losses only with equal ones)</span></dd>
  </dl>`;
}

function InferenceFacts({ inference }) {
  return html`<dl class="facts"><dt>Posterior draws</dt><dd>${inference.posterior_samples}</dd><dt>Arrays</dt><dd>${inference.arrays.map(spoken).join(", ")}</dd>
    <dt>Started</dt><dd>${time(inference.started_at)}</dd><dt>Ended</dt><dd>${time(inference.ended_at)}</dd>${inference.created_by && html`<dt>By</dt><dd>${inference.created_by.name}</dd>`}</dl>`;
}

function Hyperparameters({ model }) {
  const rows = Object.entries(model.hyperparameters).map(([name, value]) => ({ id: name, value }));
  return html`<dl class="facts">${rows.map(({ id, value }) => html`<dt title=${id}>${capital(nameOfValue(id))}</dt><dd>${shownNumber(value)}</dd>`)}</dl>`;
}

function Architecture({ model }) {
  const show = (value) => (Array.isArray(value) ? value.join(", ") || "none" : typeof value === "boolean" ? (value ? "yes" : "no") : String(value));
  return html`<dl class="facts">${Object.entries(model.architecture).map(([name, value]) => html`<dt>${spoken(name)}</dt><dd>${show(value)}</dd>`)}</dl>`;
}

function Downloads({ owner }) {
  const { model, path, arrays } = owner;
  const kept = model?.links.export;
  return html`${arrays ? html`<h3>All latents in one file</h3><p class="buttons">${FORMATS.map(([format, label]) => html`<${Action} run=${() => download(`${path}/download`, { format })}>${label}<//>`)}</p>` : html`<p class="muted">There are no latents to download.</p>`}
    ${model && html`<h3>The model</h3>${kept ? html`<p class="buttons"><${Action} run=${() => download(kept, {}, `model-${model.number}.zip`)}>Weights<//>
      <${Action} run=${() => download(kept, { program: "torch_export" }, `model-${model.number}.zip`)}>with a torch program<//>
      <${Action} run=${() => download(kept, { program: "onnx" }, `model-${model.number}.zip`)}>with an ONNX program<//>
      <${Action} run=${() => download(model.links.card, {}, `model-${model.number}-card.json`)}>Card<//></p>
      <p class="muted">Weights are in the format safetensors, with ten lines of Python that read them. A worker writes programs; that takes some seconds.</p>` : html`<p class="muted">The weights of this model are not kept.</p>`}`}`;
}

function Lineage({ model, job }) {
  const found = useDocument(`/v1/jobs/${job.id}/lineage`, { query: { model: model.number } });
  const columns = [
    { key: "model_number", label: "Model", numeric: true },
    { key: "from_epoch", label: "Epochs", value: (row) => row.from_epoch, show: (row) => `${row.from_epoch + 1} to ${row.to_epoch}` },
    { key: "reason", label: "Why", isText: true },
    { key: "changes", label: "Changes", unsorted: true, isText: true, show: (row) => Object.entries(row.changes ?? {}).map(([name, change]) => `${capital(nameOfValue(name))}: ${typeof change === "object" ? Object.values(change).map(shownNumber).join(" → ") : shownNumber(change)}`).join("; ") || "none" },
  ];
  return html`<${Problem} error=${found.error} />${found.data && html`<p>${found.data.segments.length === 1 ? "It trained alone: it copied no other model." : `Its weights passed through ${found.data.segments.length} segments.`} <${Link} to=${`/jobs/${job.id}`}>The job's lineage<//></p>
    <${Table} caption="Lineage" columns=${columns} rows=${found.data.segments.map((segment, index) => ({ ...segment, id: index }))} />`}`;
}

const CURVES = [["sv_loss", "SV loss", "solid", 0], ["smoothed_sv_loss", "smoothed SV loss", "dot", 0], ["validation_loss", "validation loss", "dash", 1], ["train_loss", "training loss", "dashdot", 7]];

function Curve({ model, curve }) {
  const figure = useMemo(() => {
    const x = curve.points.map(({ epoch }) => epoch);
    const traces = CURVES.map(([key, name, dash, colour]) => ({ type: "scatter", mode: "lines", x, y: curve.points.map((point) => point[key]), name, line: { color: CATEGORIES[colour], dash, width: 1.8 }, hovertemplate: `${name}<br>epoch %{x}<br>%{y:.5~g} nats per sample<extra></extra>` }));
    const best = model.scores.best_epoch;
    return {
      traces, layout: {
        xaxis: { title: { text: "Epoch" } }, yaxis: { title: { text: "Loss (nats per sample)" } }, legend: { orientation: "h", y: -0.25, yanchor: "top" },
        shapes: best ? [{ type: "line", xref: "x", yref: "paper", x0: best, x1: best, y0: 0, y1: 1, line: { color: CATEGORIES[5], dash: "dot", width: 1.5 } }] : [],
        annotations: best ? [{ xref: "x", yref: "paper", x: best, y: 1, yanchor: "bottom", text: "kept weights", showarrow: false }] : [], margin: { t: 28, b: 80 },
      },
    };
  }, [curve]);
  return html`<${Plot} title="Losses of every epoch" note=${curve.is_thinned ? "the curve is old: only some epochs are kept" : ""} traces=${figure.traces} layout=${figure.layout} path=${`/v1/models/${model.id}/learning_curve`} formats=${[]} />`;
}

function Deletion({ owner, reload }) {
  if (owner.inference) return html`<p>Deleting this computation deletes its latents. The model and the data set stay.</p><${DeleteButton} path=${owner.path} name="the latents of this computation" onDeleted=${reload} />`;
  return html`<p>Deleting the latents keeps weights, scores and learning curve. They can be computed again.</p><${DeleteButton} path=${`${owner.path}/latents`} name=${`the latents of model ${owner.model.number}`} onDeleted=${reload} />`;
}
