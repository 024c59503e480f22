// Start a search: the data set, the preset, and what shall differ from it. The server checks every change and says what it would take.

import { html, useCallback, useMemo, Empty, Field, Link, Loading, Problem, useReady, useTitle } from "../ui.js";
import { readAll, useLoaded } from "../api.js";
import { jobName, nameOf } from "../format.js";
import { setQuery } from "../router.js";
import { SearchField, Described } from "./search/fields.js";
import { useEdits, useMessages, usePreview, useTemplate, withAt } from "./search/form.js";
import { PresetCards } from "./search/presets.js";
import { Hyperparameter } from "./search/ranges.js";
import { fieldsOf, strategiesOf, useSchemas } from "./search/schema.js";
import { Summary } from "./search/summary.js";

const WITHOUT_PRESET = "none";

export default function SearchView({ route }) {
  const { dataset, from, preset } = route.query;
  const datasets = useLoaded((signal) => readAll("/v1/datasets", { query: { state: "ready" }, signal }), []);
  const template = useTemplate(from, dataset);
  useTitle("Start a search");
  const ready = datasets.data?.items;
  useReady(datasets.error || template.error || (ready && !dataset && !from));
  const datasetId = dataset ?? template.data?.datasetId ?? (ready?.length === 1 ? ready[0].id : undefined);
  if (datasets.error || template.error) return html`<h1>Start a search</h1><${Problem} error=${datasets.error ?? template.error} retry=${() => { datasets.reload(); template.reload(); }} />`;
  if (!ready || !template.data) return html`<h1>Start a search</h1><${Loading} what="data sets" />`;
  if (!ready.length) {
    return html`<h1>Start a search</h1><${Empty} title="No data set is ready"><p>A search needs a recording. Add one first; it is ready after some seconds.</p>
      <p><${Link} class="button primary" to="/add">Add a recording<//></p><//>`;
  }
  const chosen = preset === undefined ? template.data.preset ?? (from ? null : "quick") : preset === WITHOUT_PRESET ? null : preset;
  return html`<h1>Start a search</h1>
    <${DatasetChoice} datasets=${ready} value=${datasetId} />
    ${datasetId && html`<${Form} key=${`${from} ${datasetId}`} datasetId=${datasetId} preset=${chosen} template=${template.data.given} from=${template.data.from} />`}`;
}

function DatasetChoice({ datasets, value }) {
  const dataset = datasets.find((one) => one.id === value);
  return html`<div class="dataset-choice"><${Field} label="Data set">${(attributes) => html`<select value=${value ?? ""} onChange=${(event) => setQuery({ dataset: event.target.value })} ...${attributes}>
      ${!dataset && html`<option value="">Choose a data set…</option>`}${datasets.map((one) => html`<option value=${one.id}>${nameOf(one)}</option>`)}</select>`}<//>
    ${dataset && html`<p class="muted small">${[[dataset.trials, "trials"], [dataset.bins, "bins"], [dataset.neurons, "neurons"]].filter(([count]) => count).map(([count, noun]) => `${count.toLocaleString("en")} ${noun}`).join(" × ")}</p>`}</div>`;
}

function Form({ datasetId, preset, template, from }) {
  const [given, setGiven] = useEdits(`${from?.id ?? ""} ${datasetId}`, template);
  const schemas = useSchemas();
  const specification = useMemo(() => ({ dataset_id: datasetId, ...(preset ? { preset } : {}), ...given }), [datasetId, preset, given]);
  const state = usePreview(specification);
  const messages = useMessages(state.preview, state.error);
  const set = useCallback((path, value) => setGiven((old) => withAt(old, path, value)), []);
  const setPreset = (next) => setQuery({ preset: next ?? WITHOUT_PRESET });
  const effective = useMemo(() => state.preview && { ...state.preview.specification, ...overrides(state.preview.specification, given) }, [state.preview, given]);
  const search = { schemas, given, effective, messages, set, setGiven };
  useReady(schemas && (state.preview || state.error));
  const changes = Object.keys(given).length;
  return html`<h2>Preset</h2>
    <${PresetCards} datasetId=${datasetId} preset=${preset} current=${state.preview} onChange=${setPreset} />
    <div class="split search">
      <div>${!schemas || !effective ? (state.error ? html`<${Problem} error=${state.error} />` : html`<${Loading} what="the fields of a search" />`) : html`
        ${from && html`<p>This search begins with the settings of <${Link} to=${`/jobs/${from.id}`}>${jobName(from)}<//>. Changed fields are marked.</p>`}
        ${changes > 0 && html`<p class="buttons"><button type="button" onClick=${() => setGiven({})}>Reset all fields to the preset</button></p>`}
        <${Basics} search=${search} /><${Ranges} search=${search} /><${Advanced} search=${search} />`}</div>
      <div><${Summary} specification=${specification} state=${state} messages=${messages} /></div>
    </div>`;
}

/** Parts of the specification with what is given, before the server has checked it. */
function overrides(specification, given) {
  return Object.fromEntries(Object.entries(given).map(([name, value]) => {
    const isPart = value && typeof value === "object" && !Array.isArray(value) && specification[name] && typeof specification[name] === "object";
    return [name, isPart ? { ...specification[name], ...value } : value];
  }));
}

function Basics({ search }) {
  return html`<section class="card"><h2>Size of the search</h2><div class="grid fields">
    <${SearchField} search=${search} path=${["name"]} label="name" help="A name by which you find the job later." />
    <${SearchField} search=${search} path=${["budget", "models"]} />
    <${SearchField} search=${search} path=${["budget", "epochs"]} label="epochs of each model" />
    <${SearchField} search=${search} path=${["budget", "wall_seconds"]} label="time limit" unit="min" factor=${60} help="Training ends after this time, without pauses, and the best model so far is selected. Empty: no limit." />
    <${SearchField} search=${search} path=${["priority"]} />
    <${SearchField} search=${search} path=${["seed"]} />
  </div></section>`;
}

const OF_CONTROLLER = ["kl_weight_inputs", "l2_weight_controller"];

function Ranges({ search }) {
  const hasController = search.effective.architecture.controller_units !== 0;
  const names = Object.keys(search.effective.space).filter((name) => hasController || !OF_CONTROLLER.includes(name));
  return html`<section class="card"><h2>Hyperparameters</h2>
    <p class="muted small">Each model draws its values from these ranges. Move the handles, or type numbers.</p>
    <div class="grid wide fields">${names.map((name) => html`<${Hyperparameter} key=${name} search=${search} name=${name} />`)}</div></section>`;
}

function Advanced({ search }) {
  const { schemas, effective, messages, set } = search;
  const { kind } = effective.strategy;
  const part = (name, except = []) => fieldsOf(schemas, [name], kind).filter((field) => !except.includes(field))
    .map((field) => html`<${SearchField} key=${`${kind} ${field}`} search=${search} path=${[name, field]} />`);
  const strategies = strategiesOf(schemas);
  return html`<details class="card advanced"><summary><h2>Advanced: strategy, architecture, training, latents</h2></summary>
    <h3>Strategy</h3>
    <${Field} label="Strategy" help=${html`<${Described} text=${strategies.map(([name, text]) => `\`${name}\`: ${text}`).join(" ")} />`} error=${messages.errorsAt(["strategy", "kind"]).join(" ")}>
      ${(attributes) => html`<select value=${kind} onChange=${(event) => set(["strategy"], { kind: event.target.value })} ...${attributes}>
        ${strategies.map(([name, text]) => html`<option value=${name}>${name}: ${text.split(/[:,.(]/)[0]}</option>`)}</select>`}<//>
    <div class="grid fields">${part("strategy", ["kind"])}</div>
    <h3>Architecture</h3><div class="grid fields">${part("architecture")}</div>
    <h3>Training</h3><div class="grid fields">${part("training")}</div>
    <h3>Budget</h3><div class="grid fields">${part("budget", ["models", "epochs", "wall_seconds"])}</div>
    <${WarmStart} search=${search} part=${part} datasetId=${effective.dataset_id} />
    <h3>Latents</h3><div class="grid fields">${part("inference")}</div>
  </details>`;
}

/** Start from the best models of another job of the data set. */
function WarmStart({ search, part, datasetId }) {
  const { effective, given, messages, set } = search;
  const jobs = useLoaded((signal) => readAll("/v1/jobs", { query: { dataset_id: datasetId, state: "done" }, signal, most: 200 }), [datasetId]).data?.items ?? [];
  const jobId = effective.warm_start?.job_id ?? "";
  const choose = (event) => set(["warm_start"], event.target.value ? { ...given.warm_start, job_id: event.target.value } : undefined);
  return html`<h3>Warm start</h3><div class="grid fields">
    <${Field} label="Start from the best models of" help="The first models of this search start from the best models of another job." error=${messages.errorsAt(["warm_start"]).join(" ")}>
      ${(attributes) => html`<select value=${jobId} onChange=${choose} ...${attributes}><option value="">no other job</option>
        ${jobs.map((job) => html`<option value=${job.id}>${jobName(job)}</option>`)}${jobId && !jobs.some((job) => job.id === jobId) && html`<option value=${jobId}>another job</option>`}</select>`}<//>
    ${jobId && part("warm_start", ["job_id"])}</div>`;
}
