// The head of a job: what it is, how far it is, and what one can do with it.

import { html, useState, Action, Ago, Dialog, Field, Help, Link, Problem, Progress, State } from "../../ui.js";
import { ifMay, request } from "../../api.js";
import { go } from "../../router.js";
import { duration, jobName, number, plural, whereRuns } from "../../format.js";
import { DeleteButton } from "../deletion.js";
import { Labels } from "../labels.js";
import { ShareButton } from "../use/shares.js";
import { isFinal } from "./live.js";
import { nameOfPreset, withLabels } from "./words.js";

const SV_SCORE = "Of the model whose smoothed SV loss is the lowest now. The score can fall when another model takes its place. Sample validation: how much better than constant rates the model predicts spikes of validation trials that it did not read. Higher is better, and 0 is no better than constant rates.";

/** Verbs by the states that allow them (docs/searches.md), with what they do. */
const VERBS = [
  ["pause", "Pause", ["queued", "running"], "Running slices finish their epoch and save it. The time does not count."],
  ["resume", "Resume", ["paused"], "The job continues."],
  ["stop", "Stop", ["queued", "running", "paused"], "Training ends. The best model so far is selected, and its latents are computed."],
  ["retry", "Retry", ["failed", "cancelled"], "Models that failed or were cancelled continue from their last checkpoint."],
  ["cancel", "Cancel", ["queued", "running", "paused", "stopping", "inferring"], "Training ends at once. Learning curves and scores stay, but there are no latents."],
];
const EXTENDABLE = ["queued", "running", "paused", "done"];

export function JobHeader({ live, caller, tab }) {
  const { job } = live;
  const { progress } = job;
  const isRunning = !isFinal(job);
  return html`<div class="row"><h1>${jobName(job)}</h1><${State} value=${job.state} />
      ${job.state === "done" && job.selected_model_id && html`<span class="end"><${Link} class="button primary" to=${`/models/${job.selected_model_id}`}>Look at its latents<//></span>`}</div>
    <div class="numbers job-numbers">
      <div>Progress<b><${Progress} fraction=${job.state === "done" ? 1 : progress.fraction} label="progress of the job" /></b></div>
      ${isRunning && html`<div>Time left<b>${job.state === "paused" ? "paused" : duration(progress.seconds_left)}</b></div>`}
      <div>${job.state === "cancelled" ? "Models ended or cancelled" : "Models ended"}<b>${progress.models_ended} of ${progress.models}</b></div>
      <div>SV score of the best model${isRunning && " now"} <${Help} label="SV score of the best model" text=${SV_SCORE} /><b>${number(progress.best_sv_bits_per_spike_valid, 3)} <span class="small muted">bits per spike</span></b></div>
      <div>Device time<b>${duration(progress.device_seconds)}</b></div>
    </div>
    <p class="muted job-facts">Data set ${caller?.share ? job.dataset_name : html`<${Link} to=${`/datasets/${job.dataset_id}`}>${job.dataset_name}<//>`} · preset ${nameOfPreset(job.specification.preset)} ·
      ${job.started_at ? " begun" : " not begun yet, asked for"} <${Ago} time=${job.started_at ?? job.created_at} />${job.created_by?.name && ` by ${job.created_by.name}`}
      ${isRunning && job.running_on?.length > 0 && ` · runs on ${whereRuns(job.running_on)}`}${job.ended_at && html` · ended <${Ago} time=${job.ended_at} />`}</p>
    <${Labels} path=${`/v1/jobs/${job.id}`} item=${job} onChanged=${live.reload} canChange=${!caller?.share && job.state !== "deleting"} />
    ${!caller?.share && html`<${Actions} live=${live} tab=${tab} />`}
    <${News} job=${job} />`;
}

function Actions({ live, tab }) {
  const { job, reload } = live;
  const [dialog, setDialog] = useState("");
  const close = () => setDialog("");
  const send = (verb) => async () => { await request(`/v1/jobs/${job.id}:${verb}`, { method: "POST" }); reload(); };
  if (job.state === "deleting") return html`<p role="status">The job is being deleted.</p>`;
  return html`<div class="buttons job-actions">
      ${VERBS.filter(([, , states]) => states.includes(job.state)).map(([verb, label, , help]) => (verb === "cancel"
    ? html`<button type="button" key=${verb} title=${help} onClick=${() => setDialog("cancel")} ...${ifMay()}>${label}…</button>`
    : html`<${Action} key=${verb} title=${help} run=${send(verb)} ...${ifMay()}>${label}<//>`))}
      ${EXTENDABLE.includes(job.state) && html`<button type="button" onClick=${() => setDialog("extend")} ...${ifMay()}>Extend…</button>`}
      <${Link} class="button" to="/search" query=${{ dataset: job.dataset_id, from: job.id }}>Again, with changes<//>
      <${ShareButton} kind="job" id=${job.id} name=${jobName(job)} tab=${tab} />
      <${DeleteButton} path=${`/v1/jobs/${job.id}`} name=${jobName(job)} onDeleted=${() => go("/")} />
    </div>
    ${dialog === "extend" && html`<${ExtendDialog} job=${job} onClose=${close} onDone=${reload} />`}
    ${dialog === "cancel" && html`<${Dialog} title=${`Cancel ${jobName(job)}?`} onClose=${close}>
      <p>${VERBS.find(([verb]) => verb === "cancel")[3]} To keep the best model so far, stop the job instead.</p>
      <p class="buttons"><${Action} class="danger" run=${async () => { await send("cancel")(); close(); }}>Cancel the job<//>
        <button type="button" onClick=${close}>Keep it</button></p><//>`}`;
}

/** What one must know now: why it waits, why it failed, what is unusual about its settings. */
function News({ job }) {
  const { error, progress, warnings } = job;
  return html`
    ${progress.waits_for && html`<p class="warning" role="status"><strong>It waits.</strong> ${progress.waits_for}</p>`}
    ${error && html`<div class="problem" role="alert"><strong>The job failed.</strong> <p>${withLabels(error.message)}</p>
      <p class="muted">${error.hint ?? WHAT_TO_DO[error.code] ?? "Retry continues from the last checkpoints. If it fails again, the operator finds more in the logs of the workers."}</p></div>`}
    ${warnings.length > 0 && html`<details class="warning" open=${!isFinal(job)}><summary>${plural(warnings.length, "warning")} about the settings of this job</summary>
      <ul>${warnings.map((text) => html`<li>${withLabels(text)}</li>`)}</ul></details>`}`;
}

const WHAT_TO_DO = {
  no_model_to_select: "“Models” shows why each model ended. If losses were no longer finite, start the search again with a lower learning rate. Otherwise retry.",
};

function useForm(first) {
  const [values, setValues] = useState(first);
  const bind = (name) => ({ value: values[name], onInput: (event) => setValues({ ...values, [name]: event.target.value }) });
  return [values, bind];
}

function FormDialog({ title, label, onClose, submit, children }) {
  const [state, setState] = useState({});
  const send = async (event) => {
    event.preventDefault();
    setState({ isBusy: true });
    try { await submit(); onClose(); } catch (error) { setState({ error }); }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}><form onSubmit=${send}>${children}
    <${Problem} error=${state.error} /><p class="buttons"><button class="primary" disabled=${state.isBusy}>${label}</button></p></form><//>`;
}

function ExtendDialog({ job, onClose, onDone }) {
  const { budget, priority } = job.specification;
  const [{ priority: wanted, ...values }, bind] = useForm({ models: 0, epochs: 0, wall_seconds: 0, device_seconds: 0, priority });
  const submit = async () => {
    const json = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, Number(value)]).filter(([, value]) => value > 0));
    if (Object.keys(json).length) await request(`/v1/jobs/${job.id}:extend`, { method: "POST", json });
    if (Number(wanted) !== priority) await request(`/v1/jobs/${job.id}`, { method: "PATCH", json: { priority: Number(wanted) } });
    onDone();
  };
  const field = (name, label, now, unit) => now !== null && html`<${Field} label=${label} unit=${unit} help=${`So far ${now}.`}>
    ${(attributes) => html`<input type="number" min="0" ...${bind(name)} ...${attributes} />`}<//>`;
  return html`<${FormDialog} title="Extend the job" label="Extend" onClose=${onClose} submit=${submit}>
    <p>New models start, and finished models continue. A job that is done selects again.</p>
    <div class="grid">${field("models", "Further models", budget.models)} ${field("epochs", "Further epochs of each model", budget.epochs)}
      ${field("wall_seconds", "Further time", budget.wall_seconds, "s")} ${field("device_seconds", "Further device time", budget.device_seconds, "s")}
      <${Field} label="Priority" help="Among your own jobs, those with a higher priority train first: −10 to 10.">${(attributes) => html`<input type="number" min="-10" max="10" ...${bind("priority")} ...${attributes} />`}<//></div>
  <//>`;
}
