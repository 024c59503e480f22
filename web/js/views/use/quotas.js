// Quotas as bars, and for how long data are kept.

import { html, useMemo, Loading, Problem, Table, useReady } from "../../ui.js";
import { useDocument } from "../../api.js";
import { binaryBytes, bytes, duration, number, plural, time } from "../../format.js";
import { OLD_DATA } from "./words.js";

export function amount(value, unit) {
  if (value === null || value === undefined) return "no limit";
  if (unit === "bytes") return binaryBytes(value);
  if (unit === "s") return duration(value);
  const [one, many] = NOUNS[unit] ?? [unit, unit];
  return `${number(value)} ${value === 1 ? one : many}`;
}

const NOUNS = {
  jobs: ["job", "jobs"], shares: ["link", "links"], epochs: ["epoch", "epochs"], requests: ["request", "requests"], streams: ["stream", "streams"],
  analyses: ["analysis", "analyses"],
};

/** own: the amounts that the operator set for the tenant, for its mark. */
export function QuotaBars({ quotas, own = {} }) {
  return html`<div class="grid">${quotas.map((quota) => html`<div class="card" key=${quota.name}><b>${quota.title}</b>
      ${quota.name in own && html` <span class="muted small">set for this tenant</span>`}
      ${quota.name !== "job_model_epochs" && quota.allowed > 0 && html`<div><progress class="full" max=${quota.allowed} value=${quota.used} aria-label=${quota.title}></progress></div>`}
      <div>${quotaWords(quota)}</div>
      ${quota.frees_at && html`<div class="muted small">counts anew from ${time(quota.frees_at)}</div>`}</div>`)}</div>`;
}

/** What is used of what is allowed, with units. */
function quotaWords({ name, used, allowed, unit }) {
  if (name === "job_model_epochs") return allowed === null ? "no limit" : `at most ${amount(allowed, unit)} in one job`;
  if (allowed === null) return html`${amount(used, unit)}<span class="muted">, no limit</span>`;
  return html`${amount(used, unit)} <span class="muted">of ${amount(allowed, unit)}</span>`;
}

export function Quotas() {
  const usage = useDocument("/v1/usage", { everyMs: 15000 });
  useReady(usage.data || usage.error);
  return html`<${Problem} error=${usage.error} retry=${usage.reload} />
    ${usage.data ? html`<p class="muted">Tenant: ${usage.data.tenant}. Where a quota is reached, the service says so and when it frees.</p>
      ${usage.data.waits_for && html`<p class="warning">${usage.data.waits_for}</p>`}
      <${QuotaBars} quotas=${usage.data.quotas} />` : !usage.error && html`<${Loading} what="quotas" />`}`;
}

const what = (item) => OLD_DATA[item.kind]?.[0] ?? item.kind.replaceAll("_", " ");
const TENANT = { key: "tenant", label: "Tenant" };
const COLUMNS = [
  { key: "kind", label: "Data", value: what, show: what },
  { key: "days", label: "Kept", value: (item) => item.days ?? Infinity, show: (item) => html`<span class="nowrap">${item.days === null ? "for ever" : plural(item.days, "day")}</span>
    ${item.is_own && html`<div class="muted small">set for ${item.tenant}</div>`}` },
  { key: "due", label: "Removed next", numeric: true, show: (item) => (item.due ? html`${plural(item.due, OLD_DATA[item.kind]?.[1] ?? "item")}<div class="muted small">${bytes(item.due_bytes)}</div>` : "nothing") },
];
const SETTING = { key: "setting", label: "Setting", show: (item) => html`<code>${item.setting}</code>` };

export function Retention({ caller }) {
  const report = useDocument("/v1/retention");
  useReady(report.data || report.error);
  const hasMany = new Set(report.data?.items.map((item) => item.tenant)).size > 1;
  const columns = useMemo(() => [...(hasMany ? [TENANT] : []), ...COLUMNS, ...(caller?.is_operator ? [SETTING] : [])], [hasMany, caller?.is_operator]);
  return html`<p>Old data that nobody needs are removed after some time. Data sets, selected models and their latents stay until you delete them.</p>
    <${Problem} error=${report.error} retry=${report.reload} />
    ${report.data && html`<${Table} caption="Retention" columns=${columns} rows=${report.data.items} rowKey=${(item) => `${item.tenant} ${item.kind}`} />`}`;
}
