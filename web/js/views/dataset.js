// A data set: what was understood, with choices where it was guessed, pictures, trials, and what was made of it.

import { html, useEffect, useState, Action, Dialog, Empty, Link, Loading, Problem, State, Table, Tabs, useReady, useTitle } from "../ui.js";
import { download, ifMay, request, urlOf, useDocument, useLoaded } from "../api.js";
import { CodeLines } from "../code.js";
import { go } from "../router.js";
import { ago, bytes, jobName, nameOf, number, plural } from "../format.js";
import { DeleteButton } from "./deletion.js";
import { ShareButton } from "./use/shares.js";
import { Labels } from "./labels.js";
import { DraftBar, Guesses, Messages, OptionsForm, useDraft } from "./dataset/reading.js";
import { Numbers, Understood } from "./dataset/summary.js";
import { Psth, Raster, Rates, Session } from "./dataset/pictures.js";
import { readAgain } from "./dataset/options.js";
import { Trials } from "./dataset/trials.js";

const TABS = [["", "What was understood"], ["trials", "Trials"], ["options", "All options"], ["related", "Jobs and related data sets"]];
const LARGE_BYTES = 500e6;

function Download({ dataset }) {
  const [isOpen, setOpen] = useState(false);
  const path = `/v1/datasets/${dataset.id}/download`;
  const formats = [["npz", "NPZ (NumPy)"], ["mat", "MAT (MATLAB)"], ["hdf5", "HDF5"], ["nwb", "NWB"], ["zarr", "Zarr, as a ZIP"]];
  return html`<button type="button" aria-haspopup="dialog" onClick=${() => setOpen(true)}>Download…</button>
    ${isOpen && html`<${Dialog} title="Download the data set" onClose=${() => setOpen(false)}>
      <p>All arrays in one file: spikes, time, metadata of trials and neurons, behaviour. It takes up to ${bytes(dataset.stored_bytes)} in the service.</p>
      ${dataset.stored_bytes > LARGE_BYTES && html`<p class="warning">The browser keeps the file in memory until it is whole. Fetch a large file by a program.</p>`}
      <p class="buttons">${formats.map(([format, label]) => html`<${Action} run=${() => download(path, { format })}>${label}<//> `)}</p>
      <h3>By a program</h3><${CodeLines} code=${{ curl: [`curl --fail-with-body -OJ '${urlOf(path, { format: "npz" })}'`], "Command line": [`latentry datasets download ${dataset.id} ${(dataset.name || "spikes").replace(/\W+/g, "_")}.npz`] }} />
    <//>`}`;
}

function Header({ dataset, caller, tab, onChanged }) {
  const isShared = Boolean(caller?.share);
  const isWhole = !isShared || caller.share.kind === "dataset"; // a link to a job or a model shows some arrays of its data set only
  const path = `/v1/datasets/${dataset.id}`;
  return html`<div class="row"><h1>${nameOf(dataset)}</h1> <${State} value=${dataset.state} />
      <span class="end buttons">
        ${dataset.state === "ready" && !isShared && html`<${Link} to="/search" query=${{ dataset: dataset.id }} class="button primary">Start a search<//>`}
        ${dataset.state === "ready" && isWhole && html`<${Download} dataset=${dataset} />`}
        ${dataset.state === "ready" && !isShared && html`<${ShareButton} kind="dataset" id=${dataset.id} name=${nameOf(dataset)} tab=${tab} />`}
        ${!isShared && dataset.state !== "deleting" && html`<${DeleteButton} path=${path} query=${{ cascade: true }} name=${nameOf(dataset)} onDeleted=${() => go("/")} />`}</span></div>
    <p class="muted">Data set, added ${ago(dataset.created_at)}${dataset.created_by?.name ? ` by ${dataset.created_by.name}` : ""}${dataset.stored_bytes ? `, ${bytes(dataset.stored_bytes)}` : ""}
      ${dataset.derived_from && html` · ${readAgain(dataset)}`}${dataset.derived_from && !isShared && html` · <${Link} to=${`/datasets/${dataset.derived_from}`}>as it was read before<//>`}</p>
    <${Labels} path=${path} item=${dataset} onChanged=${onChanged} canChange=${!isShared && dataset.state !== "deleting"} />`;
}

function Ingesting({ dataset }) {
  return html`<div class="card"><p class="row"><progress aria-label="The file is being read"></progress> <b role="status">The service reads the file.</b></p>
    <p class="muted">It recognises the format, assigns each variable its role, counts spikes in bins and checks them. This takes seconds for most files and
      some minutes for gigabytes. You can leave this page.</p>
    ${Date.now() - new Date(dataset.created_at) > 60000 && html`<p class="warning">It waits longer than usual. Other files may come first; or no worker runs: <${Link} to="/use" query=${{ tab: "service" }}>see the workers<//>.</p>`}</div>`;
}

/** A rejected file, or one that the service could not read. */
function Refused({ dataset, caller, reading, reload }) {
  const isFault = dataset.state === "failed";
  return html`<h2>${isFault ? "The service could not read the file" : "The file cannot be used as it is"}</h2>
    <p>${isFault ? "The fault is not in the file. When it is repaired, read the file again." : "These are the reasons. If an option mends one, choose it; the file need not be uploaded again. Otherwise correct the file and add it again."}</p>
    <${Messages} dataset=${dataset} messages=${dataset.problems ?? []} isBad isFixed=${caller?.share || isFault} ...${reading} />
    ${isFault && !caller?.share && html`<p><${Action} class="primary" run=${async () => { await request(`/v1/datasets/${dataset.id}:retry`, { method: "POST" }); reload(); }} ...${ifMay()}>Read it again<//></p>`}
    ${!caller?.share && !isFault && dataset.source.kind === "upload" && html`<h2>Options for reading the file</h2><${OptionsForm} dataset=${dataset} ...${reading} />`}`;
}

/** After a correction: the data set that it replaces can go. */
function Replaced({ id, dataset }) {
  const before = useLoaded((signal) => request(`/v1/datasets/${id}`, { signal }).catch(() => null), [id]);
  if (!before.data || before.data.state === "deleting" || dataset.state !== "ready") return null;
  return html`<p class="row"><span>The file was read again. The data set that you corrected is still there.</span>
    <${Link} to=${`/datasets/${id}`}>Look at it<//> <${DeleteButton} path=${`/v1/datasets/${id}`} name=${`${nameOf(before.data)} (as it was read before)`} label="Delete it…" onDeleted=${before.reload} /></p>`;
}

function Overview({ dataset, route, caller, reading, canChange }) {
  const { report } = dataset;
  const isCombined = Boolean(report.sessions);
  const hasPictures = !isCombined && (!caller?.share || caller.share.kind === "dataset");
  const preview = useLoaded((signal) => (!hasPictures ? Promise.resolve(null) : request(`/v1/datasets/${dataset.id}/preview`, { signal })), [dataset.id, hasPictures]);
  const { trial, neuron: wanted, by: chosen } = route.query;
  const neuron = wanted === undefined || !(Number(wanted) < dataset.neurons) ? null : Number(wanted);
  const by = (neuron !== null && chosen) || preview.data?.psth.by || null;
  const [hasRaster, setHasRaster] = useState(false);
  useReady((preview.data && hasRaster) || !hasPictures || preview.error);
  const isFixed = !canChange || Boolean(caller?.share);
  return html`<${Numbers} dataset=${dataset} />
    <div class="grid wide"><div><section class="card"><h2>What was understood</h2><${Understood} dataset=${dataset} /></section>
        <h2>${report.warnings.length ? plural(report.warnings.length, "warning") : "No warnings"}</h2>
        <${Messages} dataset=${dataset} messages=${report.warnings} isFixed=${isFixed} ...${reading} /></div>
      ${!isCombined && html`<section class="card"><${Guesses} dataset=${dataset} isFixed=${isFixed} ...${reading} /></section>`}</div>
    ${isCombined && html`<h2>Sessions</h2><ul>${report.sessions.map((session) => html`<li>${caller?.share ? session.name || "a session" : html`<${Link} to=${`/datasets/${session.dataset_id}`}>${session.name || session.dataset_id}<//>`}: ${number(session.trials)} trials, ${number(session.neurons)} neurons</li>`)}</ul>
      <p class="muted">The pictures are on the page of each session.</p>`}
    <${Problem} error=${preview.error} retry=${preview.reload} />
    ${hasPictures && html`<h2>Pictures</h2>${preview.data ? html`<div class="grid wide"><${Raster} dataset=${dataset} preview=${preview.data} trial=${trial === undefined ? undefined : Number(trial)} neuron=${neuron} by=${by} onShown=${setHasRaster} />
      <${Psth} dataset=${dataset} preview=${preview.data} neuron=${neuron} by=${by} /><${Rates} dataset=${dataset} preview=${preview.data} /><${Session} dataset=${dataset} preview=${preview.data} /></div>`
    : !preview.error && html`<${Loading} what="pictures" />`}`}`;
}

function Options({ dataset, reading, canChange }) {
  useReady(true);
  if (!canChange) return html`<p>${dataset.source.kind === "upload" ? "The uploaded file was removed because of its age, so it cannot be read again." : "This data set was not read from a file. It has no options of reading."}</p>`;
  return html`<p>The file is kept, so it can be read again with other options, without another upload. An option that you leave empty has its default.</p>
    <${OptionsForm} dataset=${dataset} ...${reading} />`;
}

const JOBS = [
  { key: "name", label: "Job", value: jobName, show: (job) => html`<${Link} to=${`/jobs/${job.id}`}>${jobName(job)}<//>` },
  { key: "state", label: "State", show: (job) => html`<${State} value=${job.state} />` },
  { key: "created_at", label: "Started", show: (job) => ago(job.created_at) },
];
const DATASETS = [
  { key: "name", label: "Data set", value: nameOf, show: (one) => html`<${Link} to=${`/datasets/${one.id}`}>${nameOf(one)}<//>` },
  { key: "state", label: "State", show: (one) => html`<${State} value=${one.state} />` },
  { key: "size", label: "Trials × bins × neurons", unsorted: true, show: (one) => [one.trials, one.bins, one.neurons].map((value) => value ?? "–").join(" × ") },
  { key: "bin_width_s", label: "Bin width (ms)", numeric: true, show: (one) => number(one.bin_width_s && 1000 * one.bin_width_s) },
];

function Related({ dataset }) {
  const jobs = useDocument("/v1/jobs", { query: { dataset_id: dataset.id } });
  const derived = useDocument("/v1/datasets", { query: { derived_from: dataset.id } });
  const combined = useDocument("/v1/datasets", { query: { session_id: dataset.id } });
  useReady(jobs.data && derived.data && combined.data);
  const list = (title, { data, error }, columns, none) => html`<h2>${title}</h2><${Problem} error=${error} />
    ${!data && !error && html`<${Loading} what=${title.toLowerCase()} />`}
    ${data && (data.items.length ? html`<${Table} caption=${title} columns=${columns} rows=${data.items} />${data.next_page_token && html`<p class="muted">The newest 50 are shown.</p>`}` : html`<p class="muted">${none}</p>`)}`;
  return html`${list("Jobs", jobs, JOBS, "No search has been started on this data set.")}
    ${list("Read from the same file with other options", derived, DATASETS, "None.")}
    ${list("Combined with other sessions", combined, DATASETS, "None.")}`;
}

export default function DatasetView({ route, caller }) {
  const [, id] = route.parts;
  const [everyMs, setEveryMs] = useState(1500);
  const { data: dataset, error, reload } = useDocument(`/v1/datasets/${id}`, { everyMs });
  const { draft, change, clear } = useDraft();
  const [focus, setFocus] = useState(null);
  const state = dataset?.state;
  useEffect(() => { if (state) setEveryMs(["ingesting", "deleting"].includes(state) ? 1500 : 0); }, [state]);
  useTitle(dataset ? nameOf(dataset) : "Data set");
  const isReady = state === "ready";
  if (error && !dataset) {
    return html`<${Shown} /><h1>Data set</h1>${error.status === 404 ? html`<${Empty} title="This data set does not exist"><p>It was deleted, or it belongs to another group.</p><p><${Link} to="/" class="button">Go to Home<//></p><//>` : html`<${Problem} error=${error} retry=${reload} />`}`;
  }
  if (!dataset) return html`<${Loading} what="the data set" />`;
  const tabs = caller?.share ? TABS.slice(0, 2) : TABS; // a shared link shows this data set alone
  const tab = tabs.some(([key]) => key === route.query.tab) ? route.query.tab : "";
  const canChange = dataset.source.kind === "upload" && !dataset.original_removed_at;
  const onPath = (path) => { if (isReady) go(`/datasets/${id}`, { ...route.query, tab: "options" }); setFocus({ path }); };
  const reading = { draft, change, focus, onPath };
  const before = route.query.instead_of;
  return html`<${Header} dataset=${dataset} caller=${caller} tab=${tabs.find(([key]) => key === tab)[1]} onChanged=${reload} />
    ${route.query.known && html`<p role="note">This file was added before, with the same options. This is the data set that it made then.</p>`}
    ${before && !caller?.share && html`<${Replaced} id=${before} dataset=${dataset} />`}
    ${state === "ingesting" && html`<${Ingesting} dataset=${dataset} />`}
    ${state === "deleting" && html`<p role="status">The service deletes this data set. <${Link} to="/">Go to Home<//></p>`}
    ${["rejected", "failed"].includes(state) && html`<${Refused} dataset=${dataset} caller=${caller} reading=${reading} reload=${reload} />`}
    ${!isReady && html`<${Shown} />`}
    ${isReady && html`<${Tabs} tabs=${tabs} current=${tab} to=${`/datasets/${id}`} query=${{ trial: route.query.trial, neuron: route.query.neuron }} />
      ${tab === "" && html`<${Overview} dataset=${dataset} route=${route} caller=${caller} reading=${reading} canChange=${canChange} />`}
      ${tab === "trials" && html`<${Trials} dataset=${dataset} query=${route.query} />`}
      ${tab === "options" && html`<${Options} dataset=${dataset} reading=${reading} canChange=${canChange} />`}
      ${tab === "related" && html`<${Related} dataset=${dataset} />`}`}
    ${!caller?.share && html`<${DraftBar} dataset=${dataset} draft=${draft} clear=${clear} />`}`;
}

/** Tell that all is shown; the parts of a data set that is ready tell it themselves. */
function Shown() {
  useReady(true);
  return null;
}
