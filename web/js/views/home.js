// Home: data sets and jobs, newest first.

import { html, Empty, Link, Loading, Problem, State, Table, useReady, useTitle } from "../ui.js";
import { useDocument } from "../api.js";
import { ago, nameOf, number } from "../format.js";

const JOBS = [
  { key: "name", label: "Job", value: nameOf, show: (job) => html`<${Link} to=${`/jobs/${job.id}`}>${nameOf(job)}<//>` },
  { key: "state", label: "State", show: (job) => html`<${State} value=${job.state} />` },
  { key: "bits", label: "Bits per spike", numeric: true, value: (job) => job.progress.best_sv_bits_per_spike_valid, show: (job) => number(job.progress.best_sv_bits_per_spike_valid) },
  { key: "created_at", label: "Started", show: (job) => ago(job.created_at) },
];

export default function Home() {
  const jobs = useDocument("/v1/jobs", { everyMs: 5000 });
  useTitle("");
  useReady(jobs.data);
  return html`<h1>Jobs</h1>
    <${Problem} error=${jobs.error} retry=${jobs.reload} />
    ${jobs.data === null && !jobs.error && html`<${Loading} what="jobs" />`}
    ${jobs.data?.items.length === 0 && html`<${Empty} title="No job yet"><p><${Link} to="/add" class="button primary">Add a recording<//></p><//>`}
    ${jobs.data?.items.length > 0 && html`<${Table} caption="Jobs" columns=${JOBS} rows=${jobs.data.items} />`}`;
}
