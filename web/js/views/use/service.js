// For the operator: whether all parts of the service work, and what each tenant uses.

import { html, useState, Loading, Problem, State, Table, useReady } from "../../ui.js";
import { readAll, useDocument, useLoaded } from "../../api.js";
import { amount, QuotaBars } from "./quotas.js";

const TONE = { ok: "ready", warning: "warning", error: "failed" };
const CHECKS = [
  { key: "name", label: "Part" },
  { key: "status", label: "State", show: (check) => html`<${State} value=${TONE[check.status] ?? check.status} />` },
  { key: "message", label: "Found", show: (check) => html`${check.message}${check.hint && html`<div class="muted small">${check.hint}</div>`}` },
];
const quota = (usage, name) => usage.quotas.find((item) => item.name === name);
const cell = (name) => ({ key: name, numeric: true, value: (usage) => quota(usage, name)?.used, show: (usage) => amount(quota(usage, name)?.used, quota(usage, name)?.unit) });

function Tenants() {
  const list = useLoaded((signal) => readAll("/v1/usage/tenants", { signal }), []);
  const [shown, setShown] = useState(null);
  const columns = [
    { key: "tenant", label: "Tenant", show: (usage) => html`<button type="button" class="plain" aria-expanded=${shown === usage.tenant} onClick=${() => setShown(shown === usage.tenant ? null : usage.tenant)}>${usage.tenant}</button>` },
    { ...cell("stored_bytes"), label: "Stored" }, { ...cell("open_jobs"), label: "Open jobs" },
    { ...cell("device_seconds_per_day"), label: "Device time today" }, { ...cell("device_seconds_per_month"), label: "This month" },
  ];
  return html`<h2>Tenants</h2><${Problem} error=${list.error} retry=${list.reload} />
    ${list.data && html`<${Table} caption="Tenants" columns=${columns} rows=${list.data.items} rowKey=${(usage) => usage.tenant} />`}
    ${shown && html`<h3>Quotas of ${shown}</h3><${QuotaBars} quotas=${list.data.items.find((usage) => usage.tenant === shown)?.quotas ?? []} />`}`;
}

export function Service() {
  const checks = useDocument("/v1/checks");
  useReady(checks.data || checks.error);
  return html`<div class="row"><h2>Parts of the service</h2><button type="button" class="end" onClick=${checks.reload}>Check again</button></div>
    <${Problem} error=${checks.error} retry=${checks.reload} />
    ${!checks.data && !checks.error && html`<${Loading} what="checks; this takes some seconds" />`}
    ${checks.data && html`<${Table} caption="Checks" columns=${CHECKS} rows=${checks.data.checks} rowKey=${(check) => check.name} />`}
    <${Tenants} />`;
}
