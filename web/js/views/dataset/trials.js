// The trials of a data set with their metadata, and filters by them: the same `where` that all requests take.

import { html, useEffect, useMemo, useState, Copy, Loading, Problem, Table, useReady } from "../../ui.js";
import { readArray, request, useLoaded } from "../../api.js";
import { CodeLines } from "../../code.js";
import { setQuery } from "../../router.js";
import { number, percent } from "../../format.js";

const PAGE = 50;

/** Return a value as `where` takes it: text is quoted, so that "3" is not the number 3. */
const quoted = (value) => (typeof value === "string" ? JSON.stringify(value) : String(value));
const nameOf = (name) => (/^[^":]+$/.test(name) ? name : JSON.stringify(name));

/** Return the conditions of filters: { name: { values } or { min, max } } → ["condition:in:1,3", …]. */
export function conditionsOf(filters) {
  return Object.entries(filters).flatMap(([name, { values, min, max }]) => {
    const known = (value) => value !== undefined && value !== "" && value !== null;
    if (values?.length) return [`${nameOf(name)}:in:${values.map(quoted).join(",")}`];
    if (known(min) && known(max)) return [`${nameOf(name)}:between:${min},${max}`];
    if (known(min)) return [`${nameOf(name)}:ge:${min}`];
    return known(max) ? [`${nameOf(name)}:le:${max}`] : [];
  });
}

function filtersIn(query) {
  try { return JSON.parse(query.filters ?? "{}"); } catch { return {}; }
}

function setFilter(filters, name, filter) {
  const next = { ...filters, [name]: filter };
  if (!conditionsOf({ [name]: filter }).length) delete next[name];
  setQuery({ filters: Object.keys(next).length ? JSON.stringify(next) : null });
}

function Filter({ name, about, filter, onChange }) {
  if (about.values && about.distinct <= about.values.length) {
    const values = [...about.values].sort((a, b) => (typeof a.value === "number" && typeof b.value === "number" ? a.value - b.value : String(a.value).localeCompare(String(b.value))));
    const chosen = filter?.values ?? [];
    const toggle = (value) => onChange({ values: chosen.includes(value) ? chosen.filter((one) => one !== value) : [...chosen, value] });
    return html`<fieldset class="filter"><legend>${name}</legend><div class="buttons">${values.map(({ value, count }) => html`<button type="button" class="small"
      aria-pressed=${chosen.includes(value)} onClick=${() => toggle(value)}>${typeof value === "number" ? number(value) : String(value)} <span class="muted">(${count})</span></button>`)}</div></fieldset>`;
  }
  if (about.kind !== "number") return null;
  const set = (end) => (event) => onChange({ ...filter, [end]: event.target.value === "" ? undefined : Number(event.target.value) });
  return html`<fieldset class="filter"><legend>${name} <span class="muted">${number(about.min)} to ${number(about.max)}</span></legend>
    <div class="row"><input type="number" step="any" aria-label=${`${name}, least`} placeholder="from" value=${filter?.min ?? ""} onChange=${set("min")} />
      <input type="number" step="any" aria-label=${`${name}, most`} placeholder="to" value=${filter?.max ?? ""} onChange=${set("max")} /></div></fieldset>`;
}

/** Return the metadata that filters offer: those of the report, the length and the split. */
function filtersOf({ report }) {
  const { trial_length_bins: lengths, split } = report;
  return Object.entries({
    ...report.trial_metadata,
    ...(lengths?.ragged ? { length_bins: { kind: "number", min: lengths.min, max: lengths.max } } : {}),
    ...(split?.valid ? { split: { kind: "text", distinct: 2, values: ["train", "valid"].map((value) => ({ value, count: split[value] })) } } : {}),
  });
}

function columnsOf(dataset, details, onTrial) {
  const shown = (value) => (value === null || value === undefined ? html`<span class="muted">–</span>` : typeof value === "number" ? number(value) : String(value));
  const fraction = ({ kind, min, max }) => kind === "number" && !(Number.isInteger(min) && Number.isInteger(max));
  const digitsOf = ({ min, max }) => Math.max(0, 3 - Math.floor(Math.log10(Math.max(Math.abs(min), Math.abs(max), 1e-9))));
  const cell = (about) => (about && fraction(about) ? (value) => (typeof value === "number" ? number(value, Math.min(8, digitsOf(about))) : shown(value)) : shown);
  return [
    { key: "trial", label: "Trial", numeric: true, unsorted: true, show: ({ trial }) => html`<button type="button" class="plain" aria-label=${`Show the spikes of trial ${trial}`} onClick=${() => onTrial(trial)}>${trial}</button>` },
    { key: "length_bins", label: "Length (ms)", numeric: true, unsorted: true, show: (row) => number(1000 * row.length_bins * dataset.bin_width_s) },
    ...(dataset.report.split?.valid ? [{ key: "split", label: "Split", unsorted: true, show: (row) => shown(row.split) }] : []),
    ...details.map((name) => ({ key: name, label: name, unsorted: true, numeric: dataset.report.trial_metadata?.[name]?.kind === "number", show: (row) => cell(dataset.report.trial_metadata?.[name])(row.details[name]) })),
  ];
}

/** The table, a page at a time, with the number of trials that remain. */
export function Trials({ dataset, query }) {
  const filters = filtersIn(query);
  const where = conditionsOf(filters);
  const path = `/v1/datasets/${dataset.id}/trials`;
  const [tokens, setTokens] = useState([""]);
  const key = where.join("&");
  useEffect(() => setTokens([""]), [key]);
  const rest = useLoaded(async (signal) => (where.length ? (await readArray(`/v1/datasets/${dataset.id}/arrays/trial`, { where }, signal)).data.length : dataset.trials), [dataset.id, where]);
  const page = useLoaded((signal) => request(path, { query: { where, page_size: PAGE, page_token: tokens.at(-1) }, signal }), [path, where, tokens.at(-1)]);
  useReady(page.data && rest.data !== null);
  const names = Object.keys(dataset.report?.trial_metadata ?? page.data?.items[0]?.details ?? {});
  const columns = useMemo(() => columnsOf(dataset, names, (trial) => setQuery({ trial, tab: null })), [dataset, names.join()]);
  const start = PAGE * (tokens.length - 1);
  return html`<div class="filters">${filtersOf(dataset).map(([name, about]) => html`<${Filter} key=${name} name=${name} about=${about} filter=${filters[name]}
      onChange=${(filter) => setFilter(filters, name, filter)} />`)}</div>
    <p role="status"><b>${rest.data === null ? "…" : rest.data.toLocaleString("en")}</b> of ${dataset.trials.toLocaleString("en")} trials${where.length > 0 && rest.data !== null ? ` (${percent(rest.data / dataset.trials)})` : ""}
      ${where.length > 0 && html` with <code>${where.map((one) => `where=${one}`).join("&")}</code> <${Copy} text=${where.map((one) => `where=${one}`).join("&")} />
        <button type="button" onClick=${() => setQuery({ filters: null })}>All trials</button>`}</p>
    <${Problem} error=${page.error ?? rest.error} />
    ${!page.data && !page.error && html`<${Loading} what="trials" />`}
    ${page.data?.items.length === 0 && html`<p class="empty">No trial has all of these values. Take a filter back.</p>`}
    ${page.data?.items.length > 0 && html`<${Table} caption="Trials" columns=${columns} rows=${page.data.items} rowKey=${(row) => row.trial} />
      <p class="buttons"><button type="button" disabled=${tokens.length === 1} onClick=${() => setTokens(tokens.slice(0, -1))}>Previous</button>
        <span>${start + 1} to ${start + page.data.items.length}</span>
        <button type="button" disabled=${!page.data.next_page_token} onClick=${() => setTokens([...tokens, page.data.next_page_token])}>Next</button></p>`}
    <p class="muted small">Names and units of the values are those of the file.</p>
    <details><summary>The same in a program</summary><${CodeLines} path=${path} query=${where.length ? { where } : {}} /></details>`;
}
