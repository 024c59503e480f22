// Two to six models side by side: scores, hyperparameters, learning curves, one trial, and trajectories in one space.

import { html, Link, Loading, Problem, useMemo, useReady, useTitle } from "../ui.js";
import { request, useLoaded } from "../api.js";
import { CATEGORIES, onPage, useTheme } from "../plot.js";
import { jobName, nameOf } from "../format.js";
import { setQuery } from "../router.js";
import { ApplyButton } from "./model.js";
import { readOwner } from "./model/owner.js";
import { Picker } from "./compare/picker.js";
import { Comparability, Differences, Scores } from "./compare/tables.js";
import { Curves } from "./compare/curves.js";
import { SameTrial } from "./compare/trial.js";
import { Space } from "./compare/space.js";

export const MOST = 6;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];

/** Return a model to compare, or {id, error}. A job stands for the model that it selected. */
async function readEntry(id, signal, caller) {
  try {
    if (!id.startsWith("job_")) return { id, owner: await readOwner("models", id, signal, caller) };
    const job = await request(`/v1/jobs/${id}`, { signal });
    if (!job.selected_model_id) return { id, error: { problem: { title: `The job ${jobName(job)} has not selected a model`, detail: `It is ${job.state}.` } } };
    return { id, owner: await readOwner("models", job.selected_model_id, signal, caller) };
  } catch (error) {
    if (signal.aborted) throw error;
    return { id, error };
  }
}

/** Give each model a letter, a colour, and a name that tells it from the others. */
function labelled(entries) {
  return entries.filter(({ owner }) => owner).map(({ id, owner }, index) => {
    const { model } = owner;
    return { id, owner, model, index, letter: "ABCDEF"[index], colour: CATEGORIES[index], dash: DASHES[index], name: `${"ABCDEF"[index]}: model ${model.number} of ${owner.jobName || (owner.dataset ? nameOf(owner.dataset) : "a job")}` };
  });
}

export default function Compare({ route, caller }) {
  useTitle("Compare models");
  const ids = useMemo(() => [...new Set((route.query.models ?? "").split(",").filter(Boolean))].slice(0, MOST), [route.query.models]);
  const { data, error, reload } = useLoaded((signal) => Promise.all(ids.map((id) => readEntry(id, signal, caller))), [ids]);
  const models = useMemo(() => (data ? labelled(data) : []), [data]);
  const change = (next) => setQuery({ models: next.join(",") });
  useReady(data && models.length < 2);
  return html`<h1>Compare models</h1>
    <${Problem} error=${error} retry=${reload} />
    ${!data && !error && html`<${Loading} what="the models" />`}
    ${data?.filter((entry) => entry.error).map((entry) => html`<${Problem} error=${entry.error} /><p><button type="button" onClick=${() => change(ids.filter((id) => id !== entry.id))}>Leave it out</button></p>`)}
    ${data && html`<${Chosen} models=${models} onRemove=${(id) => change(ids.filter((one) => one !== id))} />
      ${ids.length < MOST && !caller?.share && html`<${Picker} ids=${[...ids, ...models.map(({ model }) => model.id)]} isOpen=${models.length < 2} onAdd=${(id) => change([...ids, id])} />`}
      ${models.length > 1 && html`<${Comparison} models=${models} query=${route.query} caller=${caller} reload=${reload} />`}`}`;
}

function Chosen({ models, onRemove }) {
  useTheme();
  return models.length > 0 && html`<ul class="compared">${models.map(({ id, owner, letter, colour, name }) => html`<li class="card">
    <svg width="14" height="14" aria-hidden="true"><rect width="14" height="14" rx="3" fill=${onPage(colour)} /></svg>
    <${Link} to=${`/models/${owner.model.id}`}>${name}<//> ${owner.model.is_selected ? html`<span class="muted">selected by its job</span>` : ""}
    <button type="button" class="plain" aria-label=${`Leave out ${letter}`} onClick=${() => onRemove(id)}>✕</button></li>`)}</ul>`;
}

function Comparison({ models, query, caller, reload }) {
  return html`<${Comparability} models=${models} />
    <h2>Scores</h2><${Scores} models=${models} />
    <h2>Learning curves</h2><${Curves} models=${models} />
    <h2>Hyperparameters</h2><${Differences} models=${models} query=${query} />
    <${Latents} ...${{ models, query, caller, reload }} />`;
}

/** Return whether latents can be computed: the model has ended, and not without weights. */
const hasWeights = ({ state }) => ["trained", "stopped"].includes(state);

/** What needs latents of the same data set. */
function Latents({ models, query, caller, reload }) {
  const without = models.filter(({ owner }) => !owner.arrays);
  const withLatents = models.filter(({ owner }) => owner.arrays);
  const shared = withLatents.filter(({ owner }) => owner.dataPath === withLatents[0].owner.dataPath);
  useReady(shared.length < 2);
  return html`${without.length > 0 && html`<div class="warning">${without.map(({ letter, owner }) => html`<${Link} to=${`/models/${owner.model.id}`}>Model ${letter}<//> `)}
      ${without.length === 1 ? "has" : "have"} no latents, so the plots below leave ${without.length === 1 ? "it" : "them"} out.
      ${!caller?.share && without.map(({ letter, model }) => (hasWeights(model) ? html`<${ApplyButton} key=${model.id} model=${model} reload=${reload} what=${`the latents of ${letter}`} />` : html`<p>Model ${letter} is ${model.state}: it has no weights to compute latents with.</p>`))}</div>`}
    ${shared.length < withLatents.length && html`<p class="warning">Trials and trajectories are compared for one data set: the plots below show ${shared.map(({ letter }) => letter).join(", ")}.</p>`}
    ${shared.length > 1 ? html`<h2>The same trial</h2><${SameTrial} models=${shared} query=${query} /><h2>Trajectories in one space</h2><${Space} models=${shared} query=${query} />`
    : html`<p class="muted">Trials and trajectories need two models with latents of the same data set.</p>`}`;
}
