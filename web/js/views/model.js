// A model's latents (or those of an inference): one trial, trajectories, PSTHs, scores, decoding, and what the model is.

import { html, useEffect, Action, Empty, Link, Loading, Problem, Progress, State, Tabs, useReady, useTitle } from "../ui.js";
import { ifMay, request, useDocument } from "../api.js";
import { nameOf, number } from "../format.js";
import { go } from "../router.js";
import { useOwner } from "./model/owner.js";
import TrialTab from "./model/trial.js";
import TrajectoriesTab from "./model/trajectories.js";
import PsthTab from "./model/psth.js";
import ScoresTab from "./model/scores.js";
import DecodingTab from "./model/decoding.js";
import AboutTab from "./model/about.js";
import { ShareButton } from "./use/shares.js";

const TABS = {
  trial: ["Trial", TrialTab, true],
  trajectories: ["Trajectories", TrajectoriesTab, true],
  psth: ["PSTH", PsthTab, true],
  scores: ["Scores", ScoresTab, false],
  decoding: ["Decoding", DecodingTab, true],
  about: ["About", AboutTab, false],
};

export default function ModelView({ route, caller }) {
  const [kind, id] = route.parts;
  const { data: owner, error, reload } = useOwner(kind, id, caller);
  const tab = TABS[route.query.tab] ? route.query.tab : Object.keys(TABS)[0];
  const [, Tab, needsLatents] = TABS[tab];
  const title = owner ? titleOf(owner) : "Model";
  const isWithout = owner && needsLatents && !owner.arrays;
  useTitle(title);
  useReady(isWithout || error); // the tabs say when they show their data
  return html`<div class="row"><h1>${title}</h1>
      ${owner?.model && kind === "models" && !caller?.share && html`<span class="end"><${ShareButton} kind="model" id=${id} name=${title} tab=${TABS[tab][0]} /></span>`}</div>
    <${Problem} error=${error} retry=${reload} />
    ${!owner && !error && html`<${Loading} what="the model" />`}
    ${owner && html`<${Summary} owner=${owner} caller=${caller} />
      <${Tabs} to=${route.path} current=${tab} tabs=${Object.entries(TABS).map(([key, [label]]) => [key, label])} />
      ${isWithout ? html`<${NoLatents} owner=${owner} caller=${caller} reload=${reload} />`
    : html`<${Tab} key=${owner.path} owner=${owner} route=${route} caller=${caller} reload=${reload} />`}`}`;
}

function titleOf({ model, inference, jobName, dataset }) {
  const name = model ? `Model ${model.number}` : "A model";
  if (inference) return `${name} on ${dataset ? nameOf(dataset) : "another recording"}`;
  return jobName || dataset ? `${name} of ${jobName || nameOf(dataset)}` : name;
}

function Summary({ owner, caller }) {
  const { model, inference, job, jobName, dataset } = owner;
  const bits = owner.document.scores?.sv_bits_per_spike_test ?? owner.document.scores?.sv_bits_per_spike_valid;
  const isTest = Number.isFinite(owner.document.scores?.sv_bits_per_spike_test);
  return html`<p class="row"><${State} value=${owner.document.state} />
    ${!inference && (model.is_selected ? html`<span>Selected by sample validation</span>` : html`<span class="muted">Not selected</span>`)}
    ${Number.isFinite(bits) && html`<span><b>${number(bits, 3)}</b> bits per spike <span class="muted">(held-out samples, ${isTest ? "test" : "validation"} trials)</span></span>`}
    ${inference && model && html`<${Link} to=${`/models/${model.id}`}>The model on its own data<//>`}
    ${job && html`<${Link} to=${`/jobs/${job.id}`}>Job ${jobName}<//>`}
    ${job && !inference && !caller?.share && html`<${Link} to="/compare" query=${{ models: model.id }}>Compare with other models<//>`}
    ${dataset && html`${caller?.share ? html`<span>${nameOf(dataset)}</span>` : html`<${Link} to=${`/datasets/${dataset.id}`}>${nameOf(dataset)}<//>`}
      <span class="muted">${dataset.trials} trials × ${dataset.bins} bins of ${number(1000 * dataset.bin_width_s)} ms × ${dataset.neurons} neurons</span>`}
  </p>`;
}

/** Why there are no latents, and what to do. */
function NoLatents({ owner, caller, reload }) {
  const { model, inference, job } = owner;
  if (inference) return html`<${UnfinishedInference} inference=${inference} caller=${caller} reload=${reload} />`;
  if (["queued", "training"].includes(model.state)) {
    return html`<${Empty} title="This model is still training"><p>A job computes latents when it has selected a model.</p><${ToJob} job=${job} /><//>`;
  }
  if (["diverged", "failed", "cancelled"].includes(model.state)) {
    return html`<${Empty} title=${`This model ${model.state === "diverged" ? "diverged" : `was ${model.state}`}`}>
      <p>${model.end_reason ? `The reason: ${model.end_reason}.` : ""} It has no weights to compute latents with. Look at another model of the job.</p><${ToJob} job=${job} /><//>`;
  }
  if (job && !["done", "failed", "cancelled"].includes(job.state)) {
    return html`<${Empty} title="The job has not selected a model yet"><p>It is ${job.state}. It computes the latents of the model that it selects.</p><${ToJob} job=${job} /><//>`;
  }
  return html`<${Empty} title=${model.is_selected ? "The latents of this model were deleted" : "This model has no latents"}>
    <p>${model.is_selected ? "Its weights are kept, so a worker can compute them again." : "A job computes the latents of the model that it selects. A worker can compute those of this model, too."}</p>
    ${!caller?.share && html`<${ApplyButton} model=${model} reload=${reload} />`}
    ${!model.is_selected && job?.selected_model_id && html`<p><${Link} to=${`/models/${job.selected_model_id}`}>Look at the selected model<//></p>`}
    <${ToJob} job=${job} /><//>`;
}

function ToJob({ job }) {
  return job && html`<p><${Link} to=${`/jobs/${job.id}`}>Look at the job<//>${job.progress?.fraction < 1 && html` <${Progress} fraction=${job.progress.fraction} label="Progress of the job" />`}</p>`;
}

/** Let a worker compute the latents of a model, and say how far it is. what: of the label */
export function ApplyButton({ model, reload, what = "the latents" }) {
  const found = useDocument("/v1/inferences", { query: { model_id: model.id, page_size: 5 }, everyMs: 3000 });
  const running = found.data?.items.find((item) => ["queued", "running"].includes(item.state));
  const failed = found.data?.items.find((item) => item.state === "failed");
  const done = found.data?.items.filter((item) => item.state === "done").length ?? 0;
  useEffect(() => { if (done) reload(); }, [done]);
  if (running) {
    return html`<p>${running.state === "queued" ? "The computation waits for a worker." : "A worker computes the latents."} <${Progress} fraction=${running.progress.fraction} label="Trials done" /></p>`;
  }
  const apply = async () => {
    await request(`/v1/models/${model.id}:apply`, { method: "POST", json: {} });
    found.reload();
  };
  return html`${failed && html`<p class="problem">The last computation failed: ${failed.error?.message ?? "the reason is unknown"}.</p>`}
    <p><${Action} class="primary" run=${apply} ...${ifMay()}>Compute ${what}<//></p>`;
}

function UnfinishedInference({ inference, caller, reload }) {
  const isRunning = ["queued", "running"].includes(inference.state);
  const cancel = async () => { await request(`/v1/inferences/${inference.id}:cancel`, { method: "POST" }); reload(); };
  return html`<${Empty} title=${`This computation is ${inference.state}`}>
    ${isRunning && html`<p><${Progress} fraction=${inference.progress.fraction} label="Trials done" /> · ${inference.progress.trials_done} of ${inference.progress.trials} trials. The page shows the latents when they are ready.</p>`}
    ${inference.error && html`<p>${inference.error.message}</p>`}
    ${isRunning && !caller?.share && html`<p><${Action} run=${cancel} ...${ifMay()}>Cancel<//></p>`}
    <p><button type="button" onClick=${() => go(`/models/${inference.model_id}`)}>Go to the model</button></p><//>`;
}
