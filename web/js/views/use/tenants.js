// For the operator: what each tenant uses, its quotas, and pauses.

import { html, useState, Action, Ago, Dialog, Field, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { readAll, request, useLoaded } from "../../api.js";
import { amount, QuotaBars } from "./quotas.js";
import { QUOTAS } from "./words.js";

const quotaOf = (usage, name) => usage.quotas.find((quota) => quota.name === name);

function Use({ quota }) {
  if (!quota) return "–";
  return html`${amount(quota.used, quota.unit)} <div class="muted small">${quota.allowed === null ? "no limit" : html`of ${amount(quota.allowed, quota.unit)}`}</div>`;
}

const cell = (name, label) => ({ key: name, label, numeric: true, value: (usage) => quotaOf(usage, name)?.used, show: (usage) => html`<${Use} quota=${quotaOf(usage, name)} />` });

/** An own amount in the unit of the dialog; empty: that of the settings. */
const shown = (own, name) => (own[name] === undefined ? "" : String(own[name] / QUOTAS[name].factor));

function ChangeQuotas({ usage, onClose }) {
  const before = Object.fromEntries(Object.keys(QUOTAS).map((name) => [name, shown(usage.own_amounts, name)]));
  const [form, setForm] = useState(before);
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    const changed = Object.keys(form).filter((name) => form[name] !== before[name]);
    const json = Object.fromEntries(changed.map((name) => [name, form[name] === "" ? null : Math.round(Number(form[name]) * QUOTAS[name].factor)]));
    try { await request(`/v1/usage/tenants/${usage.tenant}`, { method: "PATCH", json }); onClose(); } catch (caught) { setError(caught); }
  };
  return html`<${Dialog} title=${`Quotas of ${usage.tenant}`} onClose=${onClose}>
    <p>Empty: the amount of the settings. 0: no limit. Changes apply at once.</p>
    <form onSubmit=${submit}><${Problem} error=${error} /><div class="small-fields">${Object.entries(QUOTAS).map(([name, { label, unit }]) => html`<${Field} key=${name} label=${label} unit=${unit}>
      ${(attributes) => html`<input type="number" min="0" step="any" value=${form[name]} placeholder="as the settings" onInput=${(event) => setForm({ ...form, [name]: event.target.value })} ...${attributes} />`}<//>`)}</div>
      <p class="buttons"><button class="primary">Set the quotas</button></p></form><//>`;
}

function Pause({ usage, onClose }) {
  const [reason, setReason] = useState("");
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    try { await request(`/v1/usage/tenants/${usage.tenant}:pause`, { method: "POST", json: { reason } }); onClose(); } catch (caught) { setError(caught); }
  };
  return html`<${Dialog} title=${`Pause ${usage.tenant}`} onClose=${onClose}>
    <p>No job, inference or reading of a recording of this tenant begins any more. What runs ends. Its members can still look at everything, and new jobs wait.</p>
    <form onSubmit=${submit}><${Problem} error=${error} />
      <${Field} label="Reason" help="Its members read it wherever their work waits.">${(attributes) => html`<input value=${reason} maxlength="200" placeholder="the disk is being replaced" onInput=${(event) => setReason(event.target.value)} ...${attributes} />`}<//>
      <p class="buttons"><button class="primary">Pause the tenant</button></p></form><//>`;
}

function columns(opened, open, reload) {
  return [
    { key: "tenant", label: "Tenant", show: (usage) => html`<button type="button" class="plain flush" aria-expanded=${opened === usage.tenant} onClick=${() => open(usage.tenant)}>${usage.tenant}</button>` },
    { key: "state", label: "State", value: (usage) => (usage.paused_at ? "paused" : "active"), show: (usage) => html`<${State} value=${usage.paused_at ? "paused" : "active"} />
      ${usage.paused_at && html`<div class="muted small roomy"><${Ago} time=${usage.paused_at} />${usage.pause_reason && html`: ${usage.pause_reason}`}</div>`}` },
    cell("stored_bytes", "Stored"), cell("open_jobs", "Unfinished jobs"), cell("device_seconds_per_day", "Device time today"), cell("device_seconds_per_month", "This month"),
    { key: "do", label: "Actions", unsorted: true, show: (usage) => html`<span class="buttons">
      <button type="button" aria-label=${`Quotas of ${usage.tenant}`} onClick=${() => open(usage.tenant, "quotas")}>Quotas…</button>
      ${usage.paused_at ? html`<${Action} aria-label=${`Resume ${usage.tenant}`} run=${async () => { await request(`/v1/usage/tenants/${usage.tenant}:resume`, { method: "POST" }); reload(); }}>Resume<//>`
    : html`<button type="button" aria-label=${`Pause ${usage.tenant}`} onClick=${() => open(usage.tenant, "pause")}>Pause…</button>`}</span>` },
  ];
}

export function Tenants() {
  const list = useLoaded((signal) => readAll("/v1/usage/tenants", { signal }), [], 15000);
  const [opened, setOpened] = useState({});
  useReady(list.data || list.error);
  const usage = list.data?.items.find((item) => item.tenant === opened.tenant);
  const open = (tenant, dialog = "") => setOpened(!dialog && opened.tenant === tenant ? {} : { tenant, dialog });
  const close = () => { setOpened({ tenant: opened.tenant }); list.reload(); };
  return html`<p>A tenant is a lab that shares this service: it owns data sets and jobs. A new one begins with its first key: <code>latentry keys create NAME --tenant smith</code>.</p>
    <${Problem} error=${list.error} retry=${list.reload} />
    ${!list.data && !list.error && html`<${Loading} what="tenants" />`}
    ${list.data && html`<${Table} caption="Tenants" columns=${columns(opened.tenant, open, list.reload)} rows=${list.data.items} rowKey=${(item) => item.tenant} />`}
    ${usage && html`<h2>Quotas of ${usage.tenant}</h2><${QuotaBars} quotas=${usage.quotas} own=${usage.own_amounts} />`}
    ${usage && opened.dialog === "quotas" && html`<${ChangeQuotas} usage=${usage} onClose=${close} />`}
    ${usage && opened.dialog === "pause" && html`<${Pause} usage=${usage} onClose=${close} />`}`;
}
