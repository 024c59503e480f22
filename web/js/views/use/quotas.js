// Quotas as bars, and for how long data are kept.

import { html, Loading, Problem, Table, useReady } from "../../ui.js";
import { useDocument } from "../../api.js";
import { bytes, duration, number, time } from "../../format.js";

export function amount(value, unit) {
  if (value === null || value === undefined) return "no limit";
  if (unit === "bytes") return bytes(value);
  if (unit === "s") return duration(value);
  return `${number(value)} ${unit}`;
}

export function QuotaBars({ quotas }) {
  return html`<div class="grid">${quotas.map((quota) => html`<div class="card" key=${quota.name}><b>${quota.title}</b>
      ${quota.allowed > 0 && html`<div><progress class="full" max=${quota.allowed} value=${quota.used} aria-label=${quota.title}></progress></div>`}
      <div>${amount(quota.used, quota.unit)} <span class="muted">of ${amount(quota.allowed, quota.unit)}</span></div>
      ${quota.frees_at && html`<div class="muted small">counts anew from ${time(quota.frees_at)}</div>`}</div>`)}</div>`;
}

export function Quotas() {
  const usage = useDocument("/v1/usage", { everyMs: 15000 });
  useReady(usage.data || usage.error);
  return html`<${Problem} error=${usage.error} retry=${usage.reload} />
    ${usage.data ? html`<p class="muted">Tenant: ${usage.data.tenant}. Where a quota is reached, the service says so and when it frees.</p>
      ${usage.data.waits_for && html`<p class="warning">${usage.data.waits_for}</p>`}
      <${QuotaBars} quotas=${usage.data.quotas} />` : !usage.error && html`<${Loading} what="quotas" />`}`;
}

const KINDS = [
  { key: "kind", label: "Data", value: (item) => item.kind, show: (item) => item.kind.replaceAll("_", " ") },
  { key: "days", label: "Kept for", value: (item) => item.days, show: (item) => (item.days === null ? "ever" : `${number(item.days)} days`) },
  { key: "due", label: "Removed by the next sweep", numeric: true, show: (item) => (item.due ? `${number(item.due)} (${bytes(item.due_bytes)})` : "nothing") },
  { key: "setting", label: "Setting", show: (item) => html`<code>${item.setting}</code>` },
];

export function Retention() {
  const report = useDocument("/v1/retention");
  useReady(report.data || report.error);
  return html`<p>Old data that nobody needs are removed after some time. Data sets, selected models and their latents stay until you delete them.</p>
    <${Problem} error=${report.error} retry=${report.reload} />
    ${report.data && html`<${Table} caption="Retention" columns=${KINDS} rows=${report.data.items} rowKey=${(item) => `${item.tenant} ${item.kind}`} />`}`;
}
