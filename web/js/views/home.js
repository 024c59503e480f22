// Home: data sets and jobs, newest first; what runs now, where, and how long still.

import { html, useEffect, useState, Empty, Link, Loading, Problem, Progress, Sparkline, State, Table, Tags, useReady, useTitle } from "../ui.js";
import { request, useDocument, useLoaded } from "../api.js";
import { setQuery } from "../router.js";
import { ago, duration, jobName, nameOf, number, plural, time, whereRuns } from "../format.js";
import { readAgain } from "./dataset/options.js";

const PAGE = 50;
const ACTIVE = ["queued", "running", "paused", "stopping", "inferring"];
const JOB_STATES = [...ACTIVE, "done", "failed", "cancelled"];
const DATASET_STATES = ["ingesting", "ready", "rejected", "failed", "deleting"];

const who = (item) => item.created_by?.name ?? "–";
const created = { key: "created_at", label: "Created", show: (item) => html`<time datetime=${item.created_at} title=${time(item.created_at)}>${ago(item.created_at)}</time>` };

const JOB_COLUMNS = [
  { key: "name", label: "Job", value: jobName, show: (job) => html`<${Link} to=${`/jobs/${job.id}`}>${jobName(job)}<//> <${Tags} tags=${job.tags} />` },
  { key: "dataset_name", label: "Data set", show: (job) => html`<${Link} to=${`/datasets/${job.dataset_id}`}>${job.dataset_name || "data set"}<//>` },
  { key: "state", label: "State", show: (job) => html`<${State} value=${job.state} />` },
  { key: "progress", label: "Progress", value: (job) => job.progress.fraction, show: (job) => html`<${Progress} fraction=${job.progress.fraction} label=${`Progress of ${jobName(job)}`} />` },
  { key: "curve", label: "SV loss", unsorted: true, show: (job) => html`<${Sparkline} points=${job.curve?.smoothed_sv_loss} label=${`Smoothed SV loss of the best model of ${jobName(job)}`} />` },
  { key: "bits", label: "Bits per spike", help: "Of the best model, on samples that were held out (sample validation). Higher is better.", numeric: true,
    value: (job) => job.progress.best_sv_bits_per_spike_valid, show: (job) => number(job.progress.best_sv_bits_per_spike_valid, 3) },
  { key: "by", label: "By", value: who, show: who },
  created,
];

const DATASET_COLUMNS = [
  { key: "name", label: "Data set", value: nameOf, show: (item) => html`<${Link} to=${`/datasets/${item.id}`}>${nameOf(item)}<//> <${Tags} tags=${item.tags} />
    ${item.derived_from && html`<div class="muted small">${readAgain(item)}</div>`}` },
  { key: "state", label: "State", show: (item) => html`<${State} value=${item.state} />` },
  { key: "trials", label: "Trials", numeric: true, show: (item) => number(item.trials) },
  { key: "bins", label: "Bins", numeric: true, value: (item) => item.bins, show: (item) => (item.bins ? `${item.bins} × ${number(1000 * item.bin_width_s)} ms` : "–") },
  { key: "neurons", label: "Neurons", numeric: true, show: (item) => number(item.neurons) },
  { key: "by", label: "By", value: who, show: who },
  created,
];

const devicesOf = (job) => (job.running_on?.length ? ` · on ${whereRuns(job.running_on)}` : "");

function Now({ jobs, caller }) {
  const readiness = useDocument("/readyz", { everyMs: 10000 });
  const { workers = [], warnings = [], slices_queued: queued = 0 } = readiness.data ?? readiness.error?.problem ?? {};
  const devices = Object.entries(workers.reduce((counts, { device }) => ({ ...counts, [device]: (counts[device] ?? 0) + 1 }), {}));
  return html`<section class="card now" aria-label="What runs now">
    <div class="row"><h2>Now</h2><span class="muted">${devices.length > 0
    ? devices.map(([device, count]) => `${plural(count, "worker")} on ${device}`).join(", ") : "no worker is running"}
      ${queued > 0 && ` · ${plural(queued, "piece")} of work waiting`}</span></div>
    ${readiness.data && devices.length === 0 && html`<p class="warning">No worker is running, so jobs wait. Start one with <code>latentry up</code>.</p>`}
    ${!caller?.share && warnings.map((warning) => html`<p class="warning">${warning}</p>`)}
    ${jobs?.length === 0 && html`<p class="muted">No job is running.</p>`}
    ${jobs?.map((job) => html`<div class="row" key=${job.id}><${Link} to=${`/jobs/${job.id}`}>${jobName(job)}<//>
      <${State} value=${job.state} /><${Progress} fraction=${job.progress.fraction} label=${`Progress of ${jobName(job)}`} />
      <span class="muted">${job.progress.waits_for ?? (job.state === "running" ? `${duration(job.progress.seconds_left)} left` : "")}${devicesOf(job)}</span></div>`)}
  </section>`;
}

/** A list of the server that grows on request, and that is read again every few seconds while something in it changes. */
function useList(path, query, everyMs) {
  const [pages, setPages] = useState(1);
  const key = JSON.stringify(query);
  useEffect(() => setPages(1), [key]);
  return { ...useLoaded(async (signal) => {
    const items = [];
    let token = "";
    for (let page = 0; page < pages; page += 1) {
      const part = await request(path, { query: { ...query, page_size: PAGE, page_token: token }, signal });
      items.push(...part.items);
      token = part.next_page_token;
      if (!token) break;
    }
    return { items, more: Boolean(token) };
  }, [path, query, pages], everyMs), showMore: () => setPages(pages + 1) };
}

function List({ title, list, columns, empty, isFiltered }) {
  const { data, error, reload, showMore } = list;
  return html`<section aria-label=${title}>
    <h2>${title}</h2>
    <${Problem} error=${error} retry=${reload} />
    ${data === null && !error && html`<${Loading} what=${title.toLowerCase()} />`}
    ${data?.items.length === 0 && (isFiltered ? html`<p class="muted">No ${title === "Jobs" ? "job" : "data set"} matches the filters. Change them, or clear them.</p>` : empty)}
    ${data?.items.length > 0 && html`<${Table} caption=${title} columns=${columns} rows=${data.items} />`}
    ${data?.more && html`<p><button type="button" onClick=${showMore}>Show more</button></p>`}
  </section>`;
}

function Filters({ query }) {
  const [text, setText] = useState(query.text ?? "");
  useEffect(() => {
    const timer = setTimeout(() => { if (text !== (query.text ?? "")) setQuery({ text }); }, 300);
    return () => clearTimeout(timer);
  }, [text]);
  const states = (label, name, values) => html`<label>${label} <select value=${query[name] ?? ""} onChange=${(event) => setQuery({ [name]: event.target.value })}>
    <option value="">any</option>${values.map((value) => html`<option>${value}</option>`)}</select></label>`;
  const isFiltered = Object.keys(query).length > 0;
  return html`<search class="row">
    <label>Filter <input type="search" value=${text} placeholder="name, notes, tag, file" onInput=${(event) => setText(event.target.value)} /></label>
    ${states("Jobs", "job_state", JOB_STATES)}${states("Data sets", "dataset_state", DATASET_STATES)}
    ${query.tag && html`<span>Tag <b>${query.tag}</b></span>`}
    ${query.created_by && html`<span>By <b>${query.created_by}</b></span>`}
    ${isFiltered && html`<button type="button" onClick=${() => { setText(""); setQuery({ text: "", job_state: "", dataset_state: "", tag: "", created_by: "" }); }}>Clear filters</button>`}
  </search>`;
}

export default function Home({ route, caller }) {
  useTitle("");
  const { text, tag, created_by, job_state: jobState, dataset_state: datasetState } = route.query;
  const common = { text, tag, created_by };
  const isFiltered = Object.keys(route.query).length > 0;
  const jobs = useList("/v1/jobs", { ...common, state: jobState, include: "curve" }, 5000);
  const datasets = useList("/v1/datasets", { ...common, state: datasetState }, 5000);
  const active = useDocument("/v1/jobs", { query: { state: ACTIVE, page_size: 20 }, everyMs: 5000 });
  useReady((jobs.data || jobs.error) && (datasets.data || datasets.error));
  const isNew = jobs.data?.items.length === 0 && datasets.data?.items.length === 0 && !isFiltered;
  if (isNew) {
    return html`<h1>Welcome to Latentry</h1><${Empty} title="There is no recording yet">
      <p>Add a recording of spikes: NWB, MATLAB, HDF5, NPZ, CSV and more. Then start a search, and look at single-trial latents.</p>
      <p><${Link} to="/add" class="button primary">Add a recording<//></p>
      <p>No recording at hand? The same page has a sample of reaches, and synthetic spikes with known rates.</p><//>`;
  }
  return html`<div class="row"><h1>Home</h1><span class="end buttons"><${Link} to="/add" class="button primary">Add a recording<//>
      <${Link} to="/search" class="button">Start a search<//></span></div>
    <${Now} jobs=${active.data?.items} caller=${caller} />
    <h2 class="hidden">Filters</h2><${Filters} query=${route.query} />
    <${List} title="Jobs" list=${jobs} columns=${JOB_COLUMNS} isFiltered=${isFiltered}
      empty=${html`<p class="muted">No job yet. <${Link} to="/search">Start a search<//> on a data set that is ready.</p>`} />
    <${List} title="Data sets" list=${datasets} columns=${DATASET_COLUMNS} isFiltered=${isFiltered}
      empty=${html`<p class="muted">No data set yet. <${Link} to="/add">Add a recording<//>.</p>`} />`;
}
