// Workers: what each does now, and what waits. The operator sees all of it and can drain a worker; others see devices and counts.

import { html, useState, Action, Ago, Dialog, Empty, Link, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { request, useDocument } from "../../api.js";
import { duration, number, plural } from "../../format.js";

const DOES = { train: "trains", infer: "infers latents with", inference: "infers latents of another data set with" };
const QUEUES = {
  slices: "Slices of jobs: training, latents", inferences: "Inferences on other data sets", ingests: "Recordings to read",
  deletions: "Deletions", messages: "Messages to workers",
};

/** "rig-2:4711:1f2e" is process 4711 on rig-2. */
function WorkerName({ name }) {
  const [host, process] = name.split(":");
  return html`<span title=${name}>${host}${process && html` <span class="muted small nowrap">process ${process}</span>`}</span>`;
}

function Work({ work, tenant }) {
  const isOwn = work.tenant === tenant;
  const path = work.job_id ? `/jobs/${work.job_id}` : `/inferences/${work.id}`;
  const name = work.job_name || (work.job_id ? "a job" : "an inference");
  return html`<div class="roomy">${DOES[work.kind] ?? work.kind} ${plural(work.models, "model")} of ${isOwn ? html`<${Link} to=${path}>${name}<//>` : name}
    ${!isOwn && html` <span class="muted">(${work.tenant})</span>`} <span class="muted small">for ${work.since ? duration((Date.now() - new Date(work.since)) / 1000) : "some time"}</span></div>`;
}

const stateOf = (worker) => {
  if (worker.draining_since) return "draining";
  return worker.work.length > 0 ? "working" : "idle";
};

function columns(tenant, onDrain) {
  return [
    { key: "name", label: "Worker", show: (worker) => html`<${WorkerName} name=${worker.name} />` },
    { key: "device", label: "Device" },
    { key: "state", label: "State", value: stateOf, show: (worker) => html`<${State} value=${stateOf(worker)} />` },
    { key: "work", label: "Does now", value: (worker) => worker.work.length, show: (worker) => html`${worker.work.map((work) => html`<${Work} key=${work.id} work=${work} tenant=${tenant} />`)}
      ${worker.work.length === 0 && html`<span class="muted">nothing</span>`}` },
    { key: "started_at", label: "Started", show: (worker) => html`<span class="nowrap"><${Ago} time=${worker.started_at} /></span>` },
    { key: "seen_at", label: "Seen last", show: (worker) => html`<span class="nowrap"><${Ago} time=${worker.seen_at} /></span>` },
    { key: "drain", label: "Drain", unsorted: true, show: (worker) => (worker.draining_since ? html`<span class="muted small nowrap">asked <${Ago} time=${worker.draining_since} /></span>`
      : html`<button type="button" aria-label=${`Drain ${worker.name}`} onClick=${() => onDrain(worker)}>Drain…</button>`) },
  ];
}

const QUEUE_COLUMNS = [
  { key: "name", label: "Work", show: (queue) => QUEUES[queue.name] ?? queue.name },
  { key: "waiting", label: "Waiting", numeric: true, show: (queue) => number(queue.waiting) },
  { key: "waiting_since", label: "The oldest waits for", numeric: true, show: (queue) => (queue.waiting_since ? duration((Date.now() - new Date(queue.waiting_since)) / 1000) : "–") },
  { key: "running", label: "Running", numeric: true, show: (queue) => (queue.name === "messages" ? "–" : number(queue.running)) },
];

function Drain({ worker, onClose }) {
  const drain = async () => { await request(`/v1/workers/${encodeURIComponent(worker.name)}:drain`, { method: "POST" }); onClose(); };
  return html`<${Dialog} title="Drain this worker" onClose=${onClose}>
    <p><${WorkerName} name=${worker.name} />, ${worker.device}, finishes what it does, begins nothing more, and then ends. Its models continue on other workers.</p>
    <p class="muted">Do this before you update a driver or turn off the machine. It cannot be undone: start the worker again as you started it.</p>
    <p class="buttons"><${Action} class="primary" run=${drain}>Drain<//></p><//>`;
}

export function NoWorker() {
  return html`<${Empty} title="No worker is running"><p>Recordings can be added and jobs created, but nothing trains. Start the service with its workers:</p>
    <p><code>latentry up</code> on one machine, or <code>docker compose up -d worker</code> with Docker.</p><p>A worker appears here after some seconds.</p><//>`;
}

function ForOperator({ caller }) {
  const report = useDocument("/v1/workers", { everyMs: 5000 });
  const [drained, setDrained] = useState(null);
  useReady(report.data || report.error);
  const close = () => { setDrained(null); report.reload(); };
  return html`<h2>Workers</h2><${Problem} error=${report.error} retry=${report.reload} />
    ${!report.data && !report.error && html`<${Loading} what="workers" />`}
    ${report.data?.workers.length === 0 && html`<${NoWorker} />`}
    ${report.data?.workers.length > 0 && html`<${Table} caption="Workers" columns=${columns(caller.tenant, setDrained)} rows=${report.data.workers} rowKey=${(worker) => worker.name} />`}
    ${report.data && html`<h2>What waits</h2><${Table} caption="Queues" columns=${QUEUE_COLUMNS} rows=${report.data.queues} rowKey=${(queue) => queue.name} />`}
    ${drained && html`<${Drain} worker=${drained} onClose=${close} />`}`;
}

function ForMembers() {
  const report = useDocument("/readyz", { everyMs: 10000 });
  useReady(report.data || report.error);
  const devices = report.data?.workers.map((worker) => worker.device) ?? [];
  const kinds = [...new Set(devices)].map((device) => `${device} (${plural(devices.filter((other) => other === device).length, "worker")})`);
  return html`<h2>Workers</h2><${Problem} error=${report.error} retry=${report.reload} />
    ${report.data && (devices.length === 0 ? html`<${Empty} title="No worker is running"><p>Your jobs wait until the operator of the service starts one.</p><//>`
    : html`<dl class="facts"><dt>Devices</dt><dd>${kinds.join(", ")}</dd><dt>Slices that run</dt><dd>${number(report.data.slices_running)}</dd>
      <dt>Slices that wait</dt><dd>${number(report.data.slices_queued)}</dd></dl>`)}
    ${report.data?.warnings.map((warning) => html`<p class="warning">${warning}</p>`)}
    <p class="muted">A slice is a piece of training of some models, of about a minute. The operator of the service also sees which worker does what.</p>`;
}

export function Workers({ caller }) {
  if (!caller) return html`<${Loading} what="workers" />`;
  return caller.is_operator ? html`<${ForOperator} caller=${caller} />` : html`<${ForMembers} />`;
}
