// Find models to compare: the selected models of jobs, or any model of a job.

import { html, Empty, Field, Link, Loading, Problem, State, Table, useState } from "../../ui.js";
import { useDocument } from "../../api.js";
import { ago, jobName, number } from "../../format.js";

export function Picker({ ids, isOpen, onAdd }) {
  const [shown, setShown] = useState(isOpen);
  const [text, setText] = useState("");
  const [job, setJob] = useState(null);
  if (!shown && !isOpen) return html`<p><button type="button" onClick=${() => setShown(true)}>Add a model</button></p>`;
  return html`<section class="card"><div class="row"><h2>${ids.length ? "Add a model" : "Choose two to six models"}</h2>${!isOpen && html`<button type="button" class="plain end" onClick=${() => setShown(false)}>Close</button>`}</div>
    <${Field} label="Find jobs" help="Text in the name, the notes, the tags or the data set of a job.">${(attributes) => html`<input type="search" value=${text} onInput=${(event) => setText(event.target.value)} ...${attributes} />`}<//>
    <${Jobs} text=${text} ids=${ids} onAdd=${onAdd} onOpen=${setJob} />
    ${job && html`<h3>Models of ${jobName(job)}</h3><${Models} job=${job} ids=${ids} onAdd=${onAdd} />`}
  </section>`;
}

function AddButton({ id, ids, name, onAdd }) {
  return ids.includes(id) ? html`<span class="muted">chosen</span>` : html`<button type="button" aria-label=${`Add ${name}`} onClick=${() => onAdd(id)}>Add</button>`;
}

function Jobs({ text, ids, onAdd, onOpen }) {
  const found = useDocument("/v1/jobs", { query: { text, page_size: 20 } });
  const jobs = found.data?.items.filter((job) => job.selected_model_id);
  const running = found.data?.items.filter((job) => !job.selected_model_id && ["queued", "running", "paused", "stopping", "inferring"].includes(job.state)) ?? [];
  const columns = [
    { key: "name", label: "Job", value: jobName, show: (job) => html`<${Link} to=${`/jobs/${job.id}`}>${jobName(job)}<//>` },
    { key: "dataset_name", label: "Data set" },
    { key: "bits", label: "Bits per spike", numeric: true, value: (job) => job.progress.best_sv_bits_per_spike_valid, show: (job) => number(job.progress.best_sv_bits_per_spike_valid, 3) },
    { key: "created_at", label: "Started", show: (job) => ago(job.created_at) },
    { key: "add", label: "Selected model", unsorted: true, show: (job) => html`<${AddButton} id=${job.selected_model_id} ids=${[...ids, ...(ids.includes(job.id) ? [job.selected_model_id] : [])]} name=${`the selected model of ${jobName(job)}`} onAdd=${onAdd} />` },
    { key: "open", label: "Others", unsorted: true, show: (job) => html`<button type="button" class="plain" onClick=${() => onOpen(job)}>all models</button>` },
  ];
  return html`<${Problem} error=${found.error} retry=${found.reload} />
    ${!jobs && !found.error && html`<${Loading} what="jobs" />`}
    ${jobs?.length === 0 && html`<${Empty} title=${text ? "No job with a selected model fits" : "No job has selected a model yet"}><p>${text ? "Search for another text." : "A job selects a model when its search ends."}</p>${running.map((job) => html`<p><${Link} to=${`/jobs/${job.id}`}>${jobName(job)}<//> is ${job.state}. <button type="button" onClick=${() => onOpen(job)}>Its models so far</button></p>`)}
      ${!text && !running.length && html`<p><${Link} class="button primary" to="/search">Start a search<//></p>`}<//>`}
    ${jobs?.length > 0 && html`<${Table} caption="Jobs with a selected model" columns=${columns} rows=${jobs} />`}
    ${found.data?.next_page_token && html`<p class="muted">The newest 20 jobs that fit. Search for a text to find others.</p>`}`;
}

function Models({ job, ids, onAdd }) {
  const found = useDocument(`/v1/jobs/${job.id}/models`, { query: { page_size: 50 } });
  const columns = [
    { key: "number", label: "Model", numeric: true, show: (model) => html`<${Link} to=${`/models/${model.id}`}>${model.number}<//>` },
    { key: "state", label: "State", show: (model) => html`<${State} value=${model.state} />` },
    { key: "sv_loss", label: "SV loss (nats per sample)", numeric: true, value: (model) => model.scores.sv_loss, show: (model) => number(model.scores.sv_loss) },
    { key: "bits", label: "Bits per spike", numeric: true, value: (model) => model.scores.sv_bits_per_spike_valid, show: (model) => number(model.scores.sv_bits_per_spike_valid, 3) },
    { key: "latents", label: "Latents", value: (model) => (model.links.arrays ? "yes" : "no"), show: (model) => (model.links.arrays ? "yes" : "no") },
    { key: "add", label: "Add", unsorted: true, show: (model) => html`<${AddButton} id=${model.id} ids=${ids} name=${`model ${model.number}`} onAdd=${onAdd} />` },
  ];
  return html`<${Problem} error=${found.error} />${found.data ? html`<${Table} caption="Models of the job, best first" columns=${columns} rows=${found.data.items} />` : !found.error && html`<${Loading} what="the models" />`}`;
}
